"""Reading the releases that lie in the two slots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedge.delivery.installer import InstallStatus
from fedge.records import Reference, ReleaseManifest, TaskSchema
from fedge.tasks.schema import read_task
from fedge_client.agent.training import Serving


@dataclass(frozen=True, slots=True)
class Installed:
    """What windows of one release are counted with."""

    counter: int
    task: TaskSchema
    reference: Reference
    reference_sha256: str


class InstalledReleases:
    """Task and reference of the releases in the slots, by counter.

    What was read once is kept: windows of a release are still counted after its slot was
    given to the next one.
    """

    def __init__(self, slots_dir: Path) -> None:
        self._slots_dir = slots_dir
        self._known: dict[int, Installed] = {}

    def get(self, counter: int) -> Installed | None:
        """The release with this counter, or None where neither slot holds it."""
        if counter not in self._known:
            for slot in ("A", "B"):
                self._read(self._slots_dir / slot)
        return self._known.get(counter)

    def serving(self, status: InstallStatus) -> Serving | None:
        """The committed release and where its files lie."""
        if status.slot == "none":
            return None
        return Serving(status.release, status.sha256, self._slots_dir / status.slot)

    def _read(self, folder: Path) -> None:
        manifest_file = folder / "release.json"
        if not manifest_file.exists():
            return
        manifest = ReleaseManifest.from_bytes(manifest_file.read_bytes())
        reference = Reference.from_bytes((folder / "reference.json").read_bytes())
        self._known[manifest.counter] = Installed(
            counter=manifest.counter,
            task=read_task(folder / "task.json"),
            reference=reference,
            reference_sha256=manifest.files["reference.json"].sha256,
        )
