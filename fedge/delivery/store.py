"""Files addressed by their SHA-256: whole, verified and durable, or absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from fedge.durable import make_folder, sync_folder
from fedge.errors import StateError, TamperedFileError
from fedge.records import ReleaseFile, sha256_hex


class ContentStore:
    """A folder of files named by their hash. One process writes it.

    Args:
        folder: made if missing; leftovers of broken downloads in it are removed.

    Raises:
        StateError: the folder cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            make_folder(folder)
            for leftover in folder.glob("*.part"):
                leftover.unlink()
        except OSError as error:
            raise StateError(f"cannot use the content store {folder}: {error}") from error

    def has(self, sha256: str) -> bool:
        """Whether a verified file is here (its bytes are hashed again by `read`)."""
        return self._path(sha256).is_file()

    def add(self, chunks: Iterable[bytes], file: ReleaseFile) -> None:
        """Take in a file piece by piece; nothing is kept unless length and hash fit.

        Raises:
            TamperedFileError: the bytes are not those that `file` describes.
            StateError: the disk refused (full, read-only).
        """
        part = self.folder / f"{file.sha256}.part"
        try:
            try:
                self._write(part, chunks, file)
                part.replace(self._path(file.sha256))
            finally:
                part.unlink(missing_ok=True)
            sync_folder(self.folder)
        except OSError as error:
            raise StateError(f"cannot store a file in {self.folder}: {error}") from error

    def read(self, sha256: str) -> bytes:
        """The bytes of a file, hashed again: a bad disk is not believed.

        Raises:
            TamperedFileError: the file is absent or damaged; a damaged one is removed, so that
                it is downloaded again.
        """
        path = self._path(sha256)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TamperedFileError(f"stored file {sha256} cannot be read: {error}") from error
        if sha256_hex(data) != sha256:
            path.unlink(missing_ok=True)
            raise TamperedFileError(f"stored file {sha256} is damaged on this disk")
        return data

    def keep_only(self, wanted: Collection[str]) -> None:
        """Remove every file that is not named in `wanted`.

        Raises:
            StateError: the disk refused.
        """
        try:
            for path in self.folder.iterdir():
                if path.name not in wanted:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"cannot clean the content store {self.folder}: {error}") from error

    def _path(self, sha256: str) -> Path:
        return self.folder / sha256

    @staticmethod
    def _write(part: Path, chunks: Iterable[bytes], file: ReleaseFile) -> None:
        digest, length = hashlib.sha256(), 0
        with part.open("wb") as out:
            for chunk in chunks:
                length += len(chunk)
                if length > file.length:
                    raise TamperedFileError(f"more than the {file.length} bytes that were signed")
                digest.update(chunk)
                out.write(chunk)
            if length != file.length or digest.hexdigest() != file.sha256:
                raise TamperedFileError(f"the bytes are not those signed as {file.sha256}")
            out.flush()
            os.fsync(out.fileno())
