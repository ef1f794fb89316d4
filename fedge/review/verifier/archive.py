"""Takes a bundle's zip apart, byte by byte.

A general zip reader believes lengths, offsets, names and a directory that may disagree with
one another. A bundle has one form only: members without compression, in the order of their
names, at a fixed time, and after them the directory. So every byte is compared with what it
must be; nothing is unpacked, and the files can hold no more than the bundle itself.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from fedge.review.verifier.limits import MAX_BYTES, MAX_FILES
from fedge.review.verifier.verdict import Deviation, Rejected, UnreadableBundleError

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION, _UNIX, _DATE = 20, 3, (1 << 5) | 1  # 1980-01-01, the earliest that a zip can hold
_ATTRIBUTES = 0o644 << 16
_NAME = re.compile(
    r"bundle\.json|bundle\.sig|runs\.jsonl|releases\.jsonl"
    r"|gateways/[0-9a-f]{32}/(entries|heads|witnessed|artefacts)\.jsonl"
    r"|evidence/[a-z0-9][a-z0-9\-]{0,63}\.json"
)


def read_archive(path: Path) -> tuple[str, dict[str, bytes]]:
    """The bundle's SHA-256, and its files by name.

    Raises:
        UnreadableBundleError: there is no such file, or it is too large.
        Rejected: it is not a whole bundle in the one form.
    """
    try:
        with path.open("rb") as file:
            source = _Source(file, path)
            return _files(source), source.files
    except OSError as error:
        raise UnreadableBundleError(f"cannot read {path}: {error}") from error


class _Source:
    """A file that is read once, from its beginning, and no further than a bundle may reach."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._digest = hashlib.sha256()
        self.total = 0
        self.files: dict[str, bytes] = {}

    def take(self, size: int) -> bytes:
        """The next `size` bytes; fewer where it ends."""
        data = self._file.read(min(size, MAX_BYTES + 1 - self.total))
        self.total += len(data)
        if self.total > MAX_BYTES:
            raise UnreadableBundleError(f"{self._path} is larger than {MAX_BYTES} bytes")
        self._digest.update(data)
        return data

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _files(source: _Source) -> str:
    """Read all members and what must follow them; answers the hash of it all."""
    directory, last, offset = bytearray(), "", 0
    while (mark := source.take(4)) == b"PK\x03\x04":
        name, content = _member(source, mark)
        if name <= last:
            raise _broken(f"the file {name} stands twice or out of order")
        if len(source.files) == MAX_FILES:
            raise _broken(f"more than {MAX_FILES} files")
        source.files[name], last = content, name
        directory += _directory_entry(name, content, offset)
        offset = source.total
    files = len(source.files)
    end = _END.pack(b"PK\x05\x06", 0, 0, files, files, len(directory), offset & 0xFFFFFFFF, 0)
    rest = bytes(directory) + end
    if not files or mark + source.take(len(rest)) != rest:
        raise _broken("it is truncated, or is no zip of the form that fedge writes")
    return source.sha256


def _member(source: _Source, mark: bytes) -> tuple[str, bytes]:
    head = mark + source.take(_LOCAL.size - len(mark))
    if len(head) < _LOCAL.size:
        raise _broken("it is truncated")
    *_, size, name_length, _ = _LOCAL.unpack(head)
    name = source.take(name_length).decode("ascii", "replace")
    if not _NAME.fullmatch(name):
        raise _broken(f"a file is named {name[:80]!r}, which no bundle holds")
    content = source.take(size)
    if len(content) != size or head != _LOCAL.pack(b"PK\x03\x04", *_common(name, content)):
        raise _broken(f"the file {name} is truncated, compressed, or not as it was written")
    return name, content


def _common(name: str, content: bytes) -> tuple[int, ...]:
    crc, size = zlib.crc32(content), len(content)
    return _VERSION, 0, 0, 0, _DATE, crc, size, size, len(name), 0


def _directory_entry(name: str, content: bytes, offset: int) -> bytes:
    crc, size = zlib.crc32(content), len(content)
    head = _CENTRAL.pack(
        b"PK\x01\x02",
        *(_VERSION, _UNIX, _VERSION, 0),
        *(0, 0, 0, _DATE),
        *(crc, size, size),
        *(len(name), 0, 0, 0, 0),
        *(_ATTRIBUTES, offset),
    )
    return head + name.encode("ascii")


def _broken(what: str) -> Rejected:
    return Rejected(Deviation(kind="archive", what=f"the bundle is not whole: {what}"))
