"""Takes a bundle's zip apart, byte by byte.

A general zip reader believes lengths, offsets, names and a directory that may disagree with
one another. A bundle has one form only: members without compression, in the order of their
names, at a fixed time, and after them the directory. So every byte is compared with what it
must be; nothing is unpacked, and the files can hold no more than the bundle itself.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

from fedge.review.verifier.verdict import Deviation, Rejected, UnreadableBundleError

MAX_BYTES = 2**30
MAX_FILES = 100_000

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


def read_archive(path: Path) -> tuple[bytes, dict[str, bytes]]:
    """The bundle's bytes, and its files by name.

    Raises:
        UnreadableBundleError: there is no such file, or it is too large.
        Rejected: it is not a whole bundle in the one form.
    """
    data = _read(path)
    files: dict[str, bytes] = {}
    directory, offset, last = bytearray(), 0, ""
    while data[offset : offset + 4] == b"PK\x03\x04":
        name, content, after = _member(data, offset)
        if name <= last:
            raise _broken(f"the file {name} stands twice or out of order")
        if len(files) == MAX_FILES:
            raise _broken(f"more than {MAX_FILES} files")
        files[name], last = content, name
        directory += _directory_entry(name, content, offset)
        offset = after
    end = _END.pack(
        b"PK\x05\x06", 0, 0, len(files), len(files), len(directory), offset & 0xFFFFFFFF, 0
    )
    if not files or data[offset:] != bytes(directory) + end:
        raise _broken("it is truncated, or is no zip of the form that fedge writes")
    return data, files


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableBundleError(f"cannot read {path}: {error}") from error
    if len(data) > MAX_BYTES:
        raise UnreadableBundleError(f"{path} is larger than {MAX_BYTES} bytes")
    return data


def _member(data: bytes, offset: int) -> tuple[str, bytes, int]:
    if len(data) < offset + _LOCAL.size:
        raise _broken("it is truncated")
    *_, size, name_length, _ = _LOCAL.unpack_from(data, offset)
    start = offset + _LOCAL.size + name_length
    raw, content = data[offset + _LOCAL.size : start], data[start : start + size]
    name = raw.decode("ascii", "replace")
    if not _NAME.fullmatch(name):
        raise _broken(f"a file is named {name[:80]!r}, which no bundle holds")
    header = _LOCAL.pack(b"PK\x03\x04", *_common(name, content))
    if len(content) != size or data[offset : offset + _LOCAL.size] != header:
        raise _broken(f"the file {name} is truncated, compressed, or not as it was written")
    return name, content, start + size


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
