"""Who a record is about, as a pseudonym that only this gateway can compute.

A caller names the subject of a request in its own words; what is kept is a keyed hash of
them, 16 bytes. Erasing by subject needs nothing more, and the words themselves are in no
file. The key never leaves the state directory: without it a pseudonym cannot be tried
against a list of names.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from pathlib import Path

from fedge.durable import write_file
from fedge.errors import StateError

PSEUDONYM_BYTES, KEY_BYTES = 16, 32
MAX_SUBJECT_CHARS = 256

NO_SUBJECT = bytes(PSEUDONYM_BYTES)
"""The pseudonym of a record that is about nobody in particular."""


class SubjectKey:
    """The key under which one gateway's subjects have their pseudonyms.

    >>> key = SubjectKey(b"k" * 32)
    >>> key.pseudonym("patient 17") == key.pseudonym("patient 17") != key.pseudonym("patient 18")
    True
    >>> len(key.pseudonym("patient 17"))
    16
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise StateError(f"a subject key has {KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    @classmethod
    def open(cls, state_dir: Path) -> SubjectKey:
        """The key in `state_dir/subject.key`, made by whoever needs it first.

        Raises:
            StateError: it cannot be read or made, or is damaged.
        """
        path = state_dir / "subject.key"
        try:
            if not path.exists():
                _make(path)
            key = path.read_bytes()
        except OSError as error:
            raise StateError(f"cannot open the subject key {path}: {error}") from error
        if len(key) != KEY_BYTES:
            raise StateError(
                f"{path} is damaged ({len(key)} bytes): restore it from a backup; a new key "
                "would no longer find the records of any subject"
            )
        return cls(key)

    def pseudonym(self, text: str) -> bytes:
        """The 16 bytes that stand for `text`; the same text gives the same bytes, never zeros."""
        # Lone surrogates, which JSON can carry, are text as well.
        words = text.encode("utf-8", "surrogatepass")
        made = hashlib.blake2b(words, key=self._key, digest_size=PSEUDONYM_BYTES, person=b"subject")
        return made.digest() if made.digest() != NO_SUBJECT else b"\x01" + NO_SUBJECT[1:]


def _make(path: Path) -> None:
    """Make the key file once, whole: of two processes that try, the first one's key stays."""
    # Not by linking a file of each process's own: a kill would leave a copy of the key behind.
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not path.exists():
            write_file(path, secrets.token_bytes(KEY_BYTES), mode=0o600)
    finally:
        os.close(folder)
