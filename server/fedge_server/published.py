"""Published releases as the centre holds them: where each comes from, what chose its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedge.config import ServerSettings
from fedge.delivery.candidate import read_manifest
from fedge.delivery.extension import read_file
from fedge.delivery.repository import ReleaseRepository
from fedge.errors import CandidateError, RecordError, SettingError
from fedge.learning.chosen import NOT_RECORDED, choice_from, chosen_training
from fedge.privacy.policy import read_policy
from fedge.records import CHOICE_FILE, Record, ReleaseManifest


class ReleaseLine(Record):
    """One published release.

    Attributes:
        cohort: gateways that it was made for; 0 means all.
        measured: figures in its manifest, by name.
        choice: what chose its adapter, in words.
        study: the choice's summary; None where none is recorded.
    """

    family: str
    counter: int
    manifest_sha256: str
    run_id: str
    parent: int
    cohort: int
    privacy_epsilon: float
    measured: dict[str, float]
    choice: str
    study: dict[str, Any] | None

    def describe(self) -> str:
        """Two lines for people."""
        made = f"from {self.parent} by {self.run_id}" if self.parent else "from public data alone"
        cohort = f"{self.cohort} gateway{'' if self.cohort == 1 else 's'}"
        whom = f"for {cohort if self.cohort else 'every gateway'}"
        return (
            f"{self.family} {self.counter} {made}, {whom}, epsilon {self.privacy_epsilon:.3f}, "
            f"manifest {self.manifest_sha256[:16]}\n  adapter: {self.choice}"
        )


def published_folders(settings: ServerSettings) -> list[tuple[Path, ReleaseManifest]]:
    """Candidate folders of published releases that are still there, by counter."""
    published = ReleaseRepository(settings.releases_dir).published().releases(settings.family)
    known = set(published.values())
    found = []
    for folder in sorted((settings.objects_dir / "candidates").glob("*")):
        try:
            manifest = read_manifest(folder)
        except CandidateError:
            continue  # staged by nobody yet
        if manifest.content_sha256 in known:
            found.append((folder, manifest))
    return sorted(found, key=lambda one: one[1].counter)


def releases(settings: ServerSettings) -> tuple[ReleaseLine, ...]:
    """Every published release whose candidate folder is still there, by counter.

    Raises:
        StateError: the release repository is damaged.
        CandidateError: a choice that a release carries is not the one that was signed.
    """
    return tuple(_line(folder, manifest) for folder, manifest in published_folders(settings))


def _line(folder: Path, manifest: ReleaseManifest) -> ReleaseLine:
    said, study = _choice(folder, manifest)
    return ReleaseLine(
        family=manifest.family,
        counter=manifest.counter,
        manifest_sha256=manifest.content_sha256,
        run_id=manifest.run_id,
        parent=manifest.parent,
        cohort=len(manifest.cohort),
        privacy_epsilon=manifest.privacy_epsilon,
        measured=manifest.measures,
        choice=said,
        study=study,
    )


def _choice(folder: Path, manifest: ReleaseManifest) -> tuple[str, dict[str, Any] | None]:
    if CHOICE_FILE not in manifest.files:
        return (NOT_RECORDED if manifest.parent else "none was trained"), None
    data = read_file(folder, CHOICE_FILE, manifest.files[CHOICE_FILE])
    try:
        choice = choice_from(data)
    except RecordError as error:
        raise CandidateError(f"{CHOICE_FILE} of release {manifest.counter}: {error}") from error
    return choice.describe(), choice.summary()


def choice_troubles(settings: ServerSettings) -> tuple[str, ...]:
    """Why the choice that the settings name does not apply, in words; empty where it does."""
    if settings.training.choice is None:
        return ()
    try:
        chosen_training(settings.training, read_policy(settings.policy), settings.task)
    except SettingError as error:
        return (str(error),)
    return ()
