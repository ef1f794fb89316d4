"""Files that are whole or absent, also after power loss.

The order is always the same: write a temporary file, fsync it, rename or link it,
fsync the folder. A reader never sees half a file. Standard library alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path


def write_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Put `data` at `path` in one step; on disk when it returns. The folder must exist.

    Args:
        mode: of the file, less the process's umask. The file never had a wider one.

    Raises:
        OSError: `path` names a folder, or the disk refused; what was there before is untouched.
    """
    part = _part_of(path)
    try:
        _write(part, data, mode)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Put `data` at `path` in one step, where nothing is yet; on disk when it returns.

    Of two processes that try at once one succeeds.

    Args:
        mode: as for `write_file`.

    Raises:
        FileExistsError: something is at `path`; it stays as it is.
        OSError: the disk refused; nothing is at `path`.
    """
    part = _part_of(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # they share the name of the temporary file
        try:
            _write(part, data, mode)
            os.link(part, path)  # a rename would replace what came there meanwhile
        finally:
            part.unlink(missing_ok=True)
        os.fsync(folder)
    finally:
        os.close(folder)


def _part_of(path: Path) -> Path:
    if path.name in ("", ".."):  # the folder one is in, the root, the one above: never a file
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return path.with_name(f".{path.name}.part")


def _write(part: Path, data: bytes, mode: int) -> None:
    # What an earlier process left behind may have another mode.
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Create a folder and its parents; their entries are on disk when it returns."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the entries of a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
