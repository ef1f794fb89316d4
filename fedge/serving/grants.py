"""Which data blocks may be escalated: granted by the agent, read by the worker.

The agent writes a block here after its ledger says that the block's escalated records
are excluded from the guarantee; the worker sends on rows of these blocks alone. A file
that is missing or damaged grants nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from fedge.durable import write_file

GRANTS_FILE = "escalation.json"
"""In the state folder of a served model."""

VERSION = 1


def write_grants(path: Path, blocks: Iterable[int]) -> None:
    """Replace what is granted; on disk when it returns.

    Raises:
        OSError: the disk refused; what was granted before still is.
    """
    write_file(path, json.dumps({"version": VERSION, "blocks": sorted(set(blocks))}).encode())


class GrantedBlocks:
    """The worker's view of the file: read again when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._blocks: frozenset[int] = frozenset()

    def cover(self, blocks: Iterable[int]) -> bool:
        """Whether every one of these blocks is granted."""
        try:
            found = self._path.stat()
        except OSError:
            return False
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            self._blocks, self._seen = self._read(), seen
        return self._blocks.issuperset(blocks)

    def _read(self) -> frozenset[int]:
        try:
            value = json.loads(self._path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return frozenset()
        if not (isinstance(value, dict) and value.get("version") == VERSION):
            return frozenset()
        blocks = value.get("blocks")
        if not (isinstance(blocks, list) and all(type(block) is int for block in blocks)):
            return frozenset()
        return frozenset(blocks)
