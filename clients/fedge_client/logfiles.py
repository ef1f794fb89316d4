"""The log files of a gateway's processes: bounded, whoever writes them and however long.

A process gets its log as its standard output and may run for months, so the file is not
moved away under it: its tail is copied to `<name>.log.1` and the file emptied. Every writer
appends, and so goes on at the new end; lines that it writes between the two steps are
lost. Standard library alone.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

MAX_LOG_BYTES = 8 * 2**20


DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def open_log(path: Path) -> BinaryIO:
    """The file to append to; its folder is made where it is missing.

    A disk that refuses must not keep a process from starting: then it is the standard error.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        if error.errno not in DISK_REFUSES:
            raise
        log.error("no log is kept for now: %s", error)
        return os.fdopen(os.dup(2), "wb")


def rotate(folder: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
    """Empty every log in `folder` that outgrew `max_bytes`, after keeping its tail."""
    for path in folder.glob("*.log"):
        try:
            if path.stat().st_size > max_bytes:
                _keep_tail(path, max_bytes)
                os.truncate(path, 0)
        except OSError as error:
            log.warning("cannot rotate %s: %s", path, error)


def _keep_tail(path: Path, max_bytes: int) -> None:
    kept = path.with_suffix(".log.1")
    try:
        kept.unlink(missing_ok=True)  # first: the disk may be full
        with path.open("rb") as source, kept.open("wb") as target:
            size = os.fstat(source.fileno()).st_size
            offset = max(0, size - max_bytes)
            while offset < size:
                sent = os.sendfile(target.fileno(), source.fileno(), offset, size - offset)
                if sent == 0:
                    return
                offset += sent
    except OSError as error:
        # A log must never be what fills a disk: it is emptied all the same.
        log.warning("the tail of %s is lost: %s", path, error)
