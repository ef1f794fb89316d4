"""The lock between a ring's writers, which costs next to nothing while there is only one.

Writers of one ring exclude each other by `flock`, taken for each append. The only one
there is goes without: it *owns* the ring, and marks its appends by the word `BUSY`
instead of two system calls. A newcomer sets the word `SHARED` before its first append,
waits until no append of the owner is under way, and from then on all of them take the
lock, until one of them finds itself alone again. A newcomer needs no answer from an
owner, which may be idle, stopped or dead: it waits for a running append only, as it
would for the lock itself.

Who writes, and who owns, the kernel knows (locks on two bytes of the file, given back
by the death of their holder):

- byte 0 is locked, shared, by every writer as long as it has the ring open;
- byte 1 is locked by the owner.

Only who has byte 0 to itself may clear `SHARED`, and who comes sets it after it locked
byte 0: while there are two, it is set.

An owner stores `BUSY` and then loads `SHARED`; a newcomer stores `SHARED` and then loads
`BUSY`. One of them must see the other's store, though a processor may hold a store back
for some nanoseconds. It is the newcomer, who is rare, that waits until there can be none.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from fedge.serving.ring_file import BUSY, SHARED, RingFile

WRITERS, OWNER = 0, 1
"""Bytes of the file that are locked."""

SETTLE_S = 0.001
"""Ten thousand times what a processor holds a store back for, and more."""

CLAIM_EVERY = 256
"""Appends under the lock between two looks whether there still is another writer."""

_REQUEST = struct.Struct("@hhqqi")
"""`struct flock`: type, whence, start, length, process (0 for locks of an open file)."""


class RingLock:
    """A writer's part in the lock. Not for use by several threads at once.

    It has an open file of its own, as the kernel's locks belong to that: two writers in one
    process exclude each other, too.

    Attributes:
        alone: this writer owns the ring. An append may then set `BUSY`, look at `SHARED`, and
            clear `BUSY` afterwards, in place of `take` and `drop`; where `SHARED` is set, or
            stores are not ordered, it must call them all the same.
    """

    def __init__(self, ring: RingFile) -> None:
        self._words, self._fence = ring.words, ring.fence
        self._file = _opened_anew(ring.handle)
        self._handle = self._file.fileno()
        self.alone = self._joined = False
        self._taken = 0
        _locks.add(self)
        self._join()

    def take(self) -> None:
        """Keep other writers out; the kernel lets them in when the holder dies."""
        if not self._joined:
            self._join()
        if self.alone:
            self._words[BUSY] = 1
            self._fence()
            if not self._words[SHARED]:
                return
            self._words[BUSY] = 0
            self.alone = False
            self._lock(OWNER, fcntl.F_UNLCK)
        fcntl.flock(self._handle, fcntl.LOCK_EX)

    def drop(self) -> None:
        """Let other writers in again."""
        if self.alone:
            self._fence()
            self._words[BUSY] = 0
            return
        self._taken += 1
        if self._taken % CLAIM_EVERY == 0:
            self._claim()
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    @contextmanager
    def held(self) -> Iterator[None]:
        """`take`, and `drop` at the end."""
        self.take()
        try:
            yield
        finally:
            self.drop()

    def close(self) -> None:
        """Write no more: others may own the ring."""
        _locks.discard(self)
        self._handle, self.alone = -1, False
        self._file.close()

    def _join(self) -> None:
        """Become one of the writers; the owner, if there is no other."""
        self._joined = True
        if self._lock(WRITERS, fcntl.F_WRLCK):
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            self._claim()
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            return
        self._lock(WRITERS, fcntl.F_RDLCK, command=fcntl.F_OFD_SETLKW)
        self._words[SHARED] = 1
        self._fence()
        time.sleep(SETTLE_S)
        # An owner that was killed within an append leaves the word, but not the byte.
        while self._words[BUSY] and not self._lock(OWNER, fcntl.F_WRLCK):
            time.sleep(SETTLE_S)
        self._lock(OWNER, fcntl.F_UNLCK)

    def _claim(self) -> None:
        """Own the ring from now on, if there is no other writer. Needs the lock."""
        if not self._lock(WRITERS, fcntl.F_WRLCK):
            return
        # Now nobody can join.
        if self._lock(OWNER, fcntl.F_WRLCK):
            self._words[BUSY] = 0
            self._words[SHARED] = 0
            self._fence()
            self.alone = True
        self._lock(WRITERS, fcntl.F_RDLCK)

    def _lock(self, byte: int, kind: int, *, command: int = fcntl.F_OFD_SETLK) -> bool:
        """Lock a byte of the file (`F_WRLCK`, `F_RDLCK`) or let go of it; False: another has it."""
        try:
            request = _REQUEST.pack(kind, os.SEEK_SET, byte, 1, 0)
            fcntl.fcntl(self._handle, command, request)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _part(self) -> None:
        """In a forked child: what its parent holds is its parent's alone."""
        inherited, self._handle = self._handle, -1
        self.alone = self._joined = False
        with _opened_anew(inherited) as own:
            os.dup2(own.fileno(), inherited, inheritable=False)
        self._handle = inherited


def _opened_anew(handle: int) -> FileIO:
    """An open file of its own of what a handle leads to, whatever lies at its path by now."""
    return Path(f"/proc/self/fd/{handle}").open("r+b", buffering=0)


_locks: weakref.WeakSet[RingLock] = weakref.WeakSet()


def _part_all() -> None:
    for lock in list(_locks):
        lock._part()


os.register_at_fork(after_in_child=_part_all)
