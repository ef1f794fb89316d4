"""Promises of the installer: only a verified model serves, and there is always one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes.kills import KillPoints, killed
from fakes.releases import (
    FAMILY,
    GATEWAY,
    HARDWARE,
    FileSwitch,
    ReleaseWorld,
    served,
    toy_task,
)

from fedge.delivery import installer, slots
from fedge.delivery.client import ReleaseClient
from fedge.delivery.installer import Installer, InstallStatus
from fedge.delivery.journal import InstallJournal
from fedge.delivery.keys import load_signer
from fedge.delivery.names import rollout_target
from fedge.delivery.slots import read_slot
from fedge.delivery.store import ContentStore
from fedge.delivery.switch import ProbeReport, Slot
from fedge.errors import OutboundError, UntrustedReleaseError
from fedge.records import ReleaseManifest, RolloutTable
from fedge.statefile import StateFile


class FolderSource:
    """Offers one release straight from its candidate folder."""

    def __init__(self, folder: Path, manifest: ReleaseManifest | None) -> None:
        self.folder, self.manifest, self.fetched = folder, manifest, 0

    def offered(self, gateway: str) -> ReleaseManifest | None:
        return self.manifest

    def fetch(self, manifest: ReleaseManifest, store: ContentStore, names: Sequence[str]) -> None:
        self.fetched += 1
        for name in names:
            if not store.has(manifest.files[name].sha256):
                store.add([(self.folder / name).read_bytes()], manifest.files[name])


@dataclass
class Gateway:
    """One gateway's folder, clock and switch; `installer` opens its state afresh."""

    folder: Path
    source: object
    now: float = 1_000.0
    trial_s: float = 60.0
    task_version: int = 1
    switch: FileSwitch = field(init=False)
    state: StateFile | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.switch = FileSwitch(self.folder, self.folder / "slots")

    def installer(self) -> Installer:
        if self.state is not None:
            self.state.close()
        self.state = StateFile(self.folder / "state.sqlite")
        return Installer(
            self.state,
            self.source,  # type: ignore[arg-type]
            ContentStore(self.folder / "store"),
            self.folder / "slots",
            self.switch,
            gateway=GATEWAY,
            task="toy",
            task_version=self.task_version,
            hardware=HARDWARE,
            clock=lambda: self.now,
            trial_s=self.trial_s,
        )

    def install(self) -> InstallStatus:
        """Step, wait out the probation, step."""
        self.installer().step()
        self.now += self.trial_s
        return self.installer().step()

    def serving(self) -> int:
        """The counter of the whole, verified release in the active slot; 0 for none."""
        active = self.switch.active()
        return 0 if active is None else read_slot(self.folder / "slots", active)[0].counter


@pytest.fixture
def gateway(world: ReleaseWorld, client: ReleaseClient, tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "gateway", client)


def assign(world: ReleaseWorld, counter: int) -> None:
    """What only the online key holder can do: point the table elsewhere."""
    repository, online = world.repository, load_signer(world.keys.online)
    published = repository.published()
    table = RolloutTable(family=FAMILY, default=counter, assigned={})
    repository.add_target(rollout_target(FAMILY), table.to_bytes())
    repository.commit(
        online, published, {"rollout": repository.next_rollout(online, published, [table])}
    )


def test_nothing_to_install(gateway: Gateway) -> None:
    """A gateway without a release waits and says so."""
    status = gateway.installer().step()

    assert (status.state, status.release, status.slot, status.variant) == (
        "idle",
        0,
        "none",
        "none",
    )


def test_first_release_goes_to_slot_a_then_they_alternate(
    world: ReleaseWorld, gateway: Gateway
) -> None:
    """Each release is tried beside the serving one and committed after its probation."""
    seen = []
    for counter in (1, 2, 3):
        manifest = world.release(counter)
        status = gateway.install()
        seen.append((status.state, status.release, status.slot, status.variant))
        assert status.sha256 == manifest.content_sha256

    assert seen == [
        ("committed", 1, "A", "int8"),
        ("committed", 2, "B", "int8"),
        ("committed", 3, "A", "int8"),
    ]
    assert gateway.switch.trials == ["A", "B", "A"]
    assert gateway.serving() == 3


def test_slot_holds_what_this_hardware_needs(world: ReleaseWorld, gateway: Gateway) -> None:
    """The worker finds the task, its variant's model and nothing of another variant."""
    world.release(1)
    gateway.install()

    names = {path.name for path in (gateway.folder / "slots" / "A").iterdir()}
    assert names == {
        *("task.json", "reference.json", "golden.npz", "weights.npz", "model.int8.onnx"),
        *("release.json", "variant.txt"),
    }
    assert (gateway.folder / "slots" / "A" / "variant.txt").read_text() == "int8"


def test_probation_lasts_its_time(world: ReleaseWorld, gateway: Gateway) -> None:
    """A release serves on probation before it is committed, also if the clock is set back."""
    world.release(1)
    assert gateway.installer().step().state == "probation"
    gateway.now -= 500
    assert gateway.installer().step().state == "probation"
    gateway.now += 59
    status = gateway.installer().step()
    assert (status.state, status.release) == ("probation", 1)
    gateway.now += 1
    assert gateway.installer().step().state == "committed"


def test_tampered_model_is_refused_and_healed(world: ReleaseWorld, gateway: Gateway) -> None:
    """The old model serves on, the reason is visible, and honest bytes are accepted later."""
    world.release(1)
    gateway.install()
    world.release(2)
    path = world.served_file(2, "model.int8.onnx")
    honest = path.read_bytes()
    path.write_bytes(b"evil" + honest[4:])

    status = gateway.install()

    assert (status.state, status.release) == ("committed", 1)
    assert (status.refused_release, status.refused_reason) == (2, "tampered-file")
    assert gateway.serving() == 1
    path.write_bytes(honest)
    assert gateway.install().release == 1, "asked again at once"
    gateway.now += installer.RETRY_S
    status = gateway.install()
    assert (status.release, status.refused_release, status.refused_reason) == (2, 0, "")


def test_older_release_is_refused(world: ReleaseWorld, gateway: Gateway) -> None:
    """A table that assigns less than the floor is refused, and recorded with both numbers."""
    world.release(1)
    world.release(2)
    gateway.install()
    assign(world, 1)

    status = gateway.install()

    assert (status.release, status.refused_release) == (2, 1)
    assert status.refused_reason == "older-than-floor"
    assert status.refused_detail == "offered release 1, the floor is 2"
    assert gateway.serving() == 2


def test_unsigned_release_is_refused(world: ReleaseWorld, gateway: Gateway) -> None:
    """A table that names a release nobody signed is recorded as untrusted; later ones work."""
    world.release(1)
    gateway.install()
    assign(world, 5)

    status = gateway.install()

    assert (status.release, status.refused_release) == (1, 0)
    assert status.refused_reason == UntrustedReleaseError.reason
    assign(world, 1)
    assert gateway.installer().step().refused_reason == ""


def test_expired_metadata_blocks_installs_not_the_model(
    tmp_path: Path, world: ReleaseWorld
) -> None:
    """With stale metadata the running model serves on and nothing new is begun or gone on with."""
    world.release(1)
    gateway = Gateway(tmp_path / "gateway", None)
    stale = ReleaseWorld(tmp_path / "stale", clock=lambda: 1_700_000_000.0)
    stale.release(1)
    with served(world.releases_dir) as url, served(stale.releases_dir) as stale_url:
        fresh_root, stale_root = (w.repository.trusted_root() for w in (world, stale))
        gateway.source = ReleaseClient(tmp_path / "tuf1", fresh_root, url, FAMILY)
        gateway.install()
        gateway.source = ReleaseClient(tmp_path / "tuf2", stale_root, stale_url, FAMILY)

        status = gateway.install()

    assert (status.state, status.release) == ("committed", 1)
    assert status.refused_reason == "expired-metadata"
    assert gateway.serving() == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"hardware": "arm64"}, "wrong-hardware"),
        ({"task": toy_task(name="other")}, "wrong-task"),
        ({"task": toy_task(version=2), "task_version": 2}, "wrong-task"),
        ({"task_version": 2}, "wrong-task"),
    ],
)
def test_release_for_another_gateway_is_refused(
    world: ReleaseWorld, gateway: Gateway, options: dict[str, object], reason: str
) -> None:
    """A release for other hardware, another task or another version never reaches a slot."""
    world.release(1)
    gateway.install()
    world.release(2, **options)

    status = gateway.install()

    assert (status.release, status.refused_release, status.refused_reason) == (1, 2, reason)
    assert not (gateway.folder / "slots" / "B").exists()


def test_failed_trial_steps_back_and_is_not_repeated(world: ReleaseWorld, gateway: Gateway) -> None:
    """A model that fails its golden vectors never serves, is tried once, and a newer one passes."""
    world.release(1)
    gateway.install()
    world.release(2)
    gateway.switch.bad = {2}

    status = gateway.install()
    gateway.install()

    assert (status.state, status.release) == ("stepped-back", 1)
    assert (status.refused_release, status.refused_reason) == (2, "trial-failed")
    assert gateway.switch.trials == ["A", "B"]
    world.release(3)
    status = gateway.install()
    assert (status.state, status.release, status.refused_release) == ("committed", 3, 0)


def test_failed_first_release_leaves_nothing(world: ReleaseWorld, gateway: Gateway) -> None:
    """With nothing to step back to, nothing serves, and the next release starts again at A."""
    world.release(1)
    gateway.switch.bad = {1}
    status = gateway.install()
    assert (status.state, status.release, status.refused_release) == ("stepped-back", 0, 1)

    world.release(2)

    assert gateway.install().slot == "A"


def test_worker_that_dies_on_probation_steps_back(world: ReleaseWorld, gateway: Gateway) -> None:
    """The supervisor's own step back during probation ends the install; the floor stays."""
    world.release(1)
    gateway.install()
    world.release(2)
    gateway.switch.dying = {2}

    status = gateway.install()

    assert (status.state, status.release, status.refused_release) == ("stepped-back", 1, 2)
    assert gateway.serving() == 1


def test_fallback_after_commit_is_noticed(world: ReleaseWorld, gateway: Gateway) -> None:
    """A release that fails weeks later is refused from then on, and older ones still are."""
    world.release(1)
    gateway.install()
    world.release(2)
    gateway.install()
    gateway.switch.dying = {2}

    status = gateway.install()

    assert (status.state, status.release, status.slot) == ("stepped-back", 1, "A")
    assert (status.refused_release, status.refused_reason) == (2, "trial-failed")
    assert gateway.serving() == 1
    world.release(3)
    assert gateway.install().release == 3


def test_newer_offer_replaces_a_waiting_one(tmp_path: Path, world: ReleaseWorld) -> None:
    """An install that could not go on does not block the release that came after it."""
    first, second = world.candidate(1), world.candidate(2)
    source = FolderSource(*first)
    gateway = Gateway(tmp_path / "gateway", source)

    def cut_off(*_: object) -> None:
        raise OutboundError("cut off")

    source.fetch = cut_off  # type: ignore[assignment, method-assign]
    with pytest.raises(OutboundError):
        gateway.installer().step()
    assert gateway.installer().status().state == "offered"
    gateway.source = FolderSource(*second)

    assert gateway.install().release == 2


def test_damaged_slot_is_not_tried(world: ReleaseWorld, gateway: Gateway) -> None:
    """Bytes that rot between staging and trial are found before the model runs."""
    world.release(1)
    gateway.install()
    world.release(2)
    model = gateway.folder / "slots" / "B" / "model.int8.onnx"
    discard = gateway.switch.discard

    def discard_and_rot(slot: Slot) -> None:
        discard(slot)
        if model.exists():
            model.write_bytes(b"rot")

    gateway.switch.discard = discard_and_rot  # type: ignore[method-assign]

    status = gateway.install()

    assert (status.release, status.refused_reason) == (1, "tampered-file")
    assert gateway.switch.trials == ["A"]


def test_model_that_takes_the_machine_down_is_given_up(world: ReleaseWorld, tmp_path: Path) -> None:
    """A trial that is never survived is counted on disk beforehand, so it ends."""
    gateway = Gateway(tmp_path / "gateway", FolderSource(*world.candidate(1)))
    gateway.install()
    gateway.source = FolderSource(*world.candidate(2))

    def crash(points: KillPoints) -> None:
        def die(slot: Slot) -> ProbeReport:
            points.moment()
            raise AssertionError("unreachable")

        gateway.switch.trial = die  # type: ignore[method-assign]
        gateway.installer().step()

    assert gateway.state is not None
    gateway.state.close()
    gateway.state = None
    crashes = 0
    while crashes <= installer.TRIES and killed(crash, 0):
        crashes += 1

    status = gateway.installer().step()
    assert crashes == installer.TRIES
    assert (status.state, status.release, status.refused_release) == ("stepped-back", 1, 2)
    assert gateway.serving() == 1


@pytest.mark.parametrize("before", [0, 2], ids=["first-install", "update"])
def test_killed_anywhere_a_verified_model_serves(
    world: ReleaseWorld, tmp_path: Path, before: int
) -> None:
    """SIGKILL at each step: what served serves on whole, and the install ends all the same."""
    template, target = tmp_path / "template", before + 1
    gateway = Gateway(template, FolderSource(*world.candidate(1)))
    for counter in range(1, before + 1):
        gateway.source = FolderSource(*world.candidate(counter))
        gateway.install()
    gateway.installer()
    assert gateway.state is not None
    gateway.state.close()
    source = FolderSource(*world.candidate(target))
    states, kill_at = set(), 0
    while True:
        folder = tmp_path / f"kill-{kill_at}"
        shutil.copytree(template, folder)
        gateway = Gateway(folder, source, trial_s=0.0)

        died = killed(_installs(gateway), kill_at)

        assert gateway.serving() in {before, target}
        if (fallback := gateway.switch.fallback()) is not None:
            read_slot(folder / "slots", fallback)
        states.add(gateway.installer().status().state)
        status = gateway.installer().step()
        assert (status.state, status.release) == ("committed", target)
        assert gateway.serving() == target
        shutil.rmtree(folder)
        if not died:
            break
        kill_at += 1
    assert states >= {"offered", "downloaded", "staged", "trial", "probation", "committed"}


def _installs(gateway: Gateway) -> Callable[[KillPoints], None]:
    def work(points: KillPoints) -> None:
        for method in ("discard", "trial", "takeover"):
            points.wrap(gateway.switch, method)
        points.wrap(Path, "rename")
        points.wrap(slots, "sync_folder")
        points.wrap(InstallJournal, "write")
        points.wrap(InstallJournal, "commit")
        points.wrap(ContentStore, "add")
        gateway.installer().step()

    return work
