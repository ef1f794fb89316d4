"""Promises of the publishing side: two signatures, one visible step, never twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes.kills import KillPoints, killed
from fakes.releases import FAMILY, GATEWAY, OTHER_GATEWAY, ReleaseWorld
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets

from fedge.delivery.candidate import (
    check_candidate,
    countersign,
    is_countersigned,
    publish,
    stage,
)
from fedge.delivery.extension import DELEGATION
from fedge.delivery.keys import KeyFiles, create_key, load_public, load_signer, public_file
from fedge.delivery.repository import ReleaseRepository
from fedge.errors import CandidateError, SettingError, StateError


def test_release_becomes_visible_for_all(world: ReleaseWorld) -> None:
    """A twice-signed candidate becomes the default of every gateway."""
    assert world.repository.rollout_table(FAMILY) is None

    manifest = world.release(1)

    assert world.repository.published().releases(FAMILY) == {1: manifest.content_sha256}
    table = world.repository.rollout_table(FAMILY)
    assert table is not None and table.counter_for(GATEWAY) == 1
    assert world.repository.next_counter(FAMILY) == 2


def test_cohort_receives_its_own_release(world: ReleaseWorld) -> None:
    """A release for some gateways leaves the others where they are, until one is for all."""
    world.release(1)
    world.release(2, gateways=[GATEWAY])
    table = world.repository.rollout_table(FAMILY)
    assert table is not None
    assert (table.counter_for(GATEWAY), table.counter_for(OTHER_GATEWAY)) == (2, 1)

    world.release(3)

    table = world.repository.rollout_table(FAMILY)
    assert table is not None
    assert (table.counter_for(GATEWAY), table.counter_for(OTHER_GATEWAY)) == (3, 3)


def test_first_release_is_for_all(world: ReleaseWorld) -> None:
    """A family whose other gateways would have nothing to run is not started."""
    folder = world.signed_candidate(1)

    with pytest.raises(CandidateError, match="every gateway"):
        publish(world.releases_dir, folder, world.keys.online, gateways=[GATEWAY])


@pytest.mark.parametrize("signature", ["builder", "evaluator", "stranger"])
def test_one_signature_of_two_publishes_nothing(world: ReleaseWorld, signature: str) -> None:
    """Neither key alone, nor the builder with a stranger, makes a release."""
    folder, manifest = world.candidate(1)
    stage(world.releases_dir, folder, manifest, world.keys.builder)
    metadata = Metadata[Targets].from_file(str(folder / DELEGATION))
    if signature == "evaluator":
        metadata.sign(load_signer(world.keys.evaluator), append=False)
    if signature == "stranger":
        create_key(world.folder / "stranger.pem")
        metadata.sign(load_signer(world.folder / "stranger.pem"), append=True)
    metadata.to_file(str(folder / DELEGATION))
    before = sorted(p.name for p in world.releases_dir.rglob("*"))

    with pytest.raises(CandidateError, match="1 of 2"):
        publish(world.releases_dir, folder, world.keys.online, gateways=None)

    assert world.repository.published().releases(FAMILY) == {}
    assert sorted(p.name for p in world.releases_dir.rglob("*") if p.name != ".lock") == before


def test_same_key_twice_is_one_signature(world: ReleaseWorld) -> None:
    """A threshold of two means two keys, however often one of them signs."""
    folder, manifest = world.candidate(1)
    stage(world.releases_dir, folder, manifest, world.keys.builder)

    countersign(world.releases_dir, folder, world.keys.builder)

    assert not is_countersigned(world.releases_dir, folder)


def test_metadata_may_only_add_the_release(world: ReleaseWorld) -> None:
    """The evaluator does not sign metadata that also changes an older release."""
    world.release(1)
    folder, manifest = world.candidate(2)
    stage(world.releases_dir, folder, manifest, world.keys.builder)
    metadata = Metadata[Targets].from_file(str(folder / DELEGATION))
    path = f"{FAMILY}/1/model.int8.onnx"
    metadata.signed.targets[path] = TargetFile.from_data(path, b"evil", ["sha256"])
    metadata.sign(load_signer(world.keys.builder))
    metadata.to_file(str(folder / DELEGATION))

    with pytest.raises(CandidateError, match="more than adding"):
        countersign(world.releases_dir, folder, world.keys.evaluator)
    assert not is_countersigned(world.releases_dir, folder)


def test_metadata_may_not_delegate_further(world: ReleaseWorld) -> None:
    """A builder cannot smuggle in a key of its own for the family's path."""
    folder, manifest = world.candidate(1)
    stage(world.releases_dir, folder, manifest, world.keys.builder)
    metadata = Metadata[Targets].from_file(str(folder / DELEGATION))
    key = load_public(world.keys.builder)
    role = DelegatedRole("mine", [key.keyid], 1, False, paths=[f"{FAMILY}/*/*"])
    metadata.signed.delegations = Delegations({key.keyid: key}, {"mine": role})
    metadata.sign(load_signer(world.keys.builder))
    metadata.to_file(str(folder / DELEGATION))

    with pytest.raises(CandidateError, match="more than adding"):
        check_candidate(world.releases_dir, folder)


def test_changed_file_is_not_signed_or_published(world: ReleaseWorld) -> None:
    """A file that changed after staging stops evaluator and publisher alike."""
    folder = world.signed_candidate(1)
    (folder / "model.int8.onnx").write_bytes(b"other")

    with pytest.raises(CandidateError, match=r"model\.int8\.onnx"):
        check_candidate(world.releases_dir, folder)
    with pytest.raises(CandidateError, match=r"model\.int8\.onnx"):
        publish(world.releases_dir, folder, world.keys.online, gateways=None)
    assert world.repository.published().releases(FAMILY) == {}


@pytest.mark.parametrize("counter", [1, 3])
def test_counter_must_be_the_next(world: ReleaseWorld, counter: int) -> None:
    """No number is used twice and none is left out."""
    world.release(1)
    folder, manifest = world.candidate(counter, salt="-again")

    with pytest.raises(CandidateError, match="must be 2"):
        stage(world.releases_dir, folder, manifest, world.keys.builder)


def test_overtaken_candidate_is_refused(world: ReleaseWorld) -> None:
    """Of two candidates for the same number only the first is published."""
    first, second = world.signed_candidate(1), world.signed_candidate(1, salt="-late")
    publish(world.releases_dir, first, world.keys.online, gateways=None)

    with pytest.raises(CandidateError):
        publish(world.releases_dir, second, world.keys.online, gateways=None)


def test_everything_twice_is_once(world: ReleaseWorld) -> None:
    """Staging, countersigning and publishing again change nothing, not even after a newer one."""
    folder, manifest = world.candidate(1)
    for _ in range(2):
        stage(world.releases_dir, folder, manifest, world.keys.builder)
        countersign(world.releases_dir, folder, world.keys.evaluator)
    stage(world.releases_dir, folder, manifest, world.keys.builder)
    assert is_countersigned(world.releases_dir, folder), "staging again dropped a signature"
    first = publish(world.releases_dir, folder, world.keys.online, gateways=None)
    world.release(2)
    before = (world.releases_dir / "metadata" / "timestamp.json").read_bytes()

    again = publish(world.releases_dir, folder, world.keys.online, gateways=None)
    stage(world.releases_dir, folder, manifest, world.keys.builder)

    assert (first.published, again.published) == (True, False)
    assert (world.releases_dir / "metadata" / "timestamp.json").read_bytes() == before
    table = world.repository.rollout_table(FAMILY)
    assert table is not None and table.default == 2


def test_wrong_online_key_changes_nothing(world: ReleaseWorld) -> None:
    """A key that gateways would not accept is found before anything is written."""
    folder = world.signed_candidate(1)
    before = sorted(world.releases_dir.rglob("*.json"))

    with pytest.raises(SettingError, match="online key"):
        publish(world.releases_dir, folder, world.keys.builder, gateways=None)
    with pytest.raises(SettingError, match="online key"):
        world.repository.renew(world.keys.builder)

    assert sorted(world.releases_dir.rglob("*.json")) == before


def test_publish_killed_at_each_step_ends_the_same(world: ReleaseWorld, tmp_path: Path) -> None:
    """Killed anywhere and run again, exactly one release is visible, whole, with its table."""
    world.release(1)
    folder = world.signed_candidate(2)
    fresh = tmp_path / "fresh"
    shutil.copytree(world.releases_dir, fresh)

    def publish_and_die(points: KillPoints) -> None:
        points.wrap(Path, "replace")
        publish(world.releases_dir, folder, world.keys.online, gateways=None)

    kill_at, seen_before, seen_after = 0, 0, 0
    while True:
        shutil.rmtree(world.releases_dir)
        shutil.copytree(fresh, world.releases_dir)
        died = killed(publish_and_die, kill_at)
        visible = set(world.repository.published().releases(FAMILY))
        table = world.repository.rollout_table(FAMILY)
        assert table is not None and {table.default} == {max(visible)}
        seen_before, seen_after = seen_before + (visible == {1}), seen_after + (visible == {1, 2})

        publish(world.releases_dir, folder, world.keys.online, gateways=None)

        published = world.repository.published()
        assert set(published.releases(FAMILY)) == {1, 2}
        assert published.snapshot.signed.version == 3
        assert published.timestamp.signed.version == 3
        assert published.families[FAMILY].signed.version == 2
        if not died:
            break
        kill_at += 1
    assert kill_at > 20 and seen_before > 10 and seen_after > 1


def test_renew_changes_only_dates(tmp_path: Path) -> None:
    """Fresh dates are signed with the online key alone; releases and table stay."""
    now = [1_700_000_000.0]
    world = ReleaseWorld(tmp_path, clock=lambda: now[0])
    world.release(1)
    before = world.repository.published()
    now[0] += 3 * 86400

    world.repository.renew(world.keys.online)

    after = world.repository.published()
    assert (after.timestamp.signed.expires - before.timestamp.signed.expires).days == 3
    assert after.releases(FAMILY) == before.releases(FAMILY)
    assert after.rollout.signed.targets == before.rollout.signed.targets


def test_roles_need_three_keys(tmp_path: Path) -> None:
    """One key in two roles would undo the threshold, so no repository is made."""
    keys = KeyFiles.create(offline=tmp_path / "off", online=tmp_path / "on")
    same = KeyFiles(
        root=keys.root,
        targets=keys.targets,
        builder=keys.builder,
        evaluator=public_file(keys.builder),
        online=keys.online,
    )

    with pytest.raises(SettingError, match="three different keys"):
        ReleaseRepository.create(tmp_path / "rel", same, [FAMILY])


def test_public_halves_are_enough(tmp_path: Path) -> None:
    """The ceremony that makes a repository never sees the builder's or evaluator's secret."""
    keys = KeyFiles.create(offline=tmp_path / "off", online=tmp_path / "on")
    public = KeyFiles(
        root=keys.root,
        targets=keys.targets,
        builder=public_file(keys.builder),
        evaluator=public_file(keys.evaluator),
        online=keys.online,
    )

    repository = ReleaseRepository.create(tmp_path / "rel", public, [FAMILY])

    assert repository.next_counter(FAMILY) == 1


def test_setup_is_refused_over_what_exists(world: ReleaseWorld, tmp_path: Path) -> None:
    """Neither keys nor a repository are ever overwritten, nor taken from a wrong place."""
    with pytest.raises(SettingError):
        KeyFiles.create(offline=world.folder / "offline", online=world.folder / "keys")
    with pytest.raises(SettingError, match="already holds"):
        ReleaseRepository.create(world.releases_dir, world.keys, [FAMILY])
    with pytest.raises(SettingError, match="no release repository"):
        ReleaseRepository(tmp_path)


@pytest.mark.parametrize("family", ["rollout", "targets", "A", "a/b", "", "..", "a\n"])
def test_family_names_are_checked(world: ReleaseWorld, tmp_path: Path, family: str) -> None:
    """A family becomes a role and a folder, so its name cannot be anything."""
    with pytest.raises(SettingError, match="family"):
        ReleaseRepository.create(tmp_path / "rel", world.keys, [family])


def test_damaged_repository_is_named(world: ReleaseWorld) -> None:
    """A publisher that cannot read its own past does not go on."""
    world.release(1)
    (world.releases_dir / "metadata" / "2.snapshot.json").write_bytes(b"{}")

    with pytest.raises(StateError, match="damaged"):
        world.repository.published()
