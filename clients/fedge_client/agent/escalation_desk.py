"""The agent's part in escalation: a block's entry in the ledger before its first record leaves.

The worker sends on records of granted blocks alone. A block is granted here only after
the ledger holds, on disk, that its escalated records are excluded from the guarantee.
How many there are, and whether there are any, the ledger does not say: that would depend
on what the records hold.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedge.privacy.ledger import Ledger
from fedge.serving.grants import write_grants


class EscalationDesk:
    """Grants blocks of one served model. Made where escalation is on.

    Args:
        ledger: of this model.
        path: `escalation.json` in this model's state folder.
        allowed: whether the schema of the task that is served lets records be escalated.

    What an earlier process granted stays granted until `cover` or `revoke` is called first.
    """

    def __init__(self, ledger: Ledger, path: Path, allowed: Callable[[], bool]) -> None:
        self._ledger, self._path, self._allowed = ledger, path, allowed
        self._granted: frozenset[int] | None = None

    def cover(self, block: int) -> None:
        """Grant the present block and the next one; the one before stays, for its last requests.

        The next one too, because the worker may come to it before the agent does. Where the task
        does not allow escalation nothing is granted, and nothing excluded from the guarantee.
        Cheap where nothing changed. Not for use within a transaction: the entries must be on disk
        first.

        Raises:
            OSError: the disk refused; no block is granted that the ledger does not name.
        """
        if not self._allowed():
            self.revoke()
            return
        wanted = {block, block + 1}
        if self._granted is not None and wanted <= self._granted:
            return
        for each in sorted(wanted):
            self._ledger.exclude(each, "escalation")
        kept = {block - 1} & (self._granted or frozenset())
        self._grant(frozenset(wanted | kept))

    def revoke(self) -> None:
        """Grant nothing from now on.

        Raises:
            OSError: the disk refused; what was granted before still is.
        """
        if self._granted != frozenset():
            self._grant(frozenset())

    def _grant(self, blocks: frozenset[int]) -> None:
        write_grants(self._path, blocks)
        self._granted = blocks
