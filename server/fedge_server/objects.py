"""Named bytes that are written once: specifications, adapters, candidates, assessments.

A local folder. A reader never sees half an object, and one that `put` returned
from is on the disk. Names are paths with `/`; what they mean is the caller's business.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from fedge.durable import make_folder, sync_folder
from fedge.errors import MissingObjectError, ObjectConflictError, SettingError, StateError

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")
MAX_PARTS = 8


class ObjectStore:
    """Objects as files under `folder`, which is made where it is missing.

    Every method raises SettingError for a name that is no relative path of plain parts, and
    StateError where the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, once. Again with the same bytes changes nothing.

        Raises:
            ObjectConflictError: other bytes are stored there; they stay.
        """
        path = self._path(name)
        with _disk(name), self._written(path, data) as part:
            try:
                # Unlike a rename, a link never replaces what another writer put there first.
                os.link(part, path)
            except FileExistsError as error:
                if path.read_bytes() != data:
                    raise ObjectConflictError(name) from error
            # Also after a lost race: the winner may not have come to its own fsync yet.
            sync_folder(path.parent)

    def replace(self, name: str, data: bytes) -> None:
        """Store `data` under `name` in place of what is there: only for names like `latest`."""
        path = self._path(name)
        with _disk(name), self._written(path, data) as part:
            part.rename(path)
            sync_folder(path.parent)

    def get(self, name: str) -> bytes:
        """The bytes stored under `name`.

        Raises:
            MissingObjectError: nothing is stored there.
        """
        with _disk(name):
            try:
                return self._path(name).read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise MissingObjectError(name) from error

    def exists(self, name: str) -> bool:
        """Whether something is stored under `name`."""
        return self._path(name).is_file()

    def list(self, prefix: str = "") -> tuple[str, ...]:
        """Names under the folder `prefix` (all, where it is empty), sorted."""
        start = self._path(prefix) if prefix else self.folder
        files = (path.relative_to(self.folder) for path in start.rglob("*") if path.is_file())
        return tuple(sorted(str(path) for path in files if not path.name.startswith(".")))

    def _path(self, name: str) -> Path:
        parts = name.split("/")
        if len(parts) > MAX_PARTS or not all(_PART.fullmatch(part) for part in parts):
            raise SettingError(f"{name!r} is no object name: letters, digits, `_.-`, parts by `/`")
        return self.folder.joinpath(*parts)

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes) -> Iterator[Path]:
        """A hidden file beside `path` that holds `data` durably, gone afterwards."""
        make_folder(path.parent)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield part
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"object {name} cannot be read or written: {error}") from error
