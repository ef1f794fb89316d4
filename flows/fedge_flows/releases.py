"""Finding what a published release was made of, among the candidates kept at the centre."""

from __future__ import annotations

from pathlib import Path

from fedge.delivery.candidate import read_manifest
from fedge.delivery.repository import ReleaseRepository
from fedge.errors import CandidateError, StateError
from fedge.records import ReleaseManifest


class ReleaseShelf:
    """Published releases and the candidate folders they came from.

    Args:
        releases_dir: the release repository: what is published, and what each is.
        objects_dir: holds `candidates/<name>/`.
    """

    def __init__(self, releases_dir: Path, objects_dir: Path, family: str) -> None:
        self._releases_dir, self._family = releases_dir, family
        self._candidates = objects_dir / "candidates"

    def sha256(self, counter: int) -> str:
        """Hash of a published release's manifest.

        Raises:
            StateError: no such release was published.
        """
        published = ReleaseRepository(self._releases_dir).published().releases(self._family)
        if counter not in published:
            raise StateError(f"release {counter} of {self._family} was never published")
        return published[counter]

    def next_counter(self) -> int:
        """The counter that the next release must have."""
        published = ReleaseRepository(self._releases_dir).published().releases(self._family)
        return max(published, default=0) + 1

    def folder(self, counter: int) -> Path:
        """The candidate folder that became release `counter`.

        Raises:
            StateError: it is gone, or the release was never published.
        """
        sha256 = self.sha256(counter)
        for folder, manifest in self._manifests():
            if manifest.content_sha256 == sha256:
                return folder
        raise StateError(f"no candidate folder holds release {counter} of {self._family}")

    def references(self) -> list[bytes]:
        """Every `reference.json` that a report may name."""
        return [path.read_bytes() for path in sorted(self._candidates.glob("*/reference.json"))]

    def _manifests(self) -> list[tuple[Path, ReleaseManifest]]:
        found = []
        for folder in sorted(self._candidates.glob("*")):
            try:
                found.append((folder, read_manifest(folder)))
            except CandidateError:
                continue  # staged by nobody yet
        return found
