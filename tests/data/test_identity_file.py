"""A gateway's key is at its path whole or not at all, and never a second one."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from fakes.kills import KillPoints, killed

from fedge import durable
from fedge.errors import SettingError
from fedge.identity import Identity


def test_a_key_is_written_once_for_its_owner_alone(tmp_path: Path) -> None:
    """Whoever asks again is refused, and the first key stays."""
    path = tmp_path / "identity.pem"
    made = Identity.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(SettingError, match="never replaced"):
        Identity.create(path)
    assert Identity.load(path).fingerprint == made.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["identity.pem"]


def test_of_many_that_make_a_key_one_does(tmp_path: Path) -> None:
    """The others are told; none comes away with a key that is not on the disk."""
    made: list[str] = []
    refused: list[SettingError] = []

    def make() -> None:
        try:
            made.append(Identity.create(tmp_path / "identity.pem").fingerprint)
        except SettingError as error:
            refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [Identity.load(tmp_path / "identity.pem").fingerprint]
    assert len(refused) == 7


def test_a_kill_leaves_a_whole_key_or_none(tmp_path: Path) -> None:
    """At every step; where there is none, the next try makes one."""
    outcomes: list[bool] = []
    while True:
        folder = tmp_path / str(len(outcomes))
        folder.mkdir()
        path = folder / "identity.pem"

        def child(points: KillPoints, path: Path = path) -> None:
            for owner, name in ((os, "open"), (os, "fsync"), (os, "link"), (Path, "unlink")):
                points.wrap(owner, name)
            Identity.create(path)

        finished = not killed(child, len(outcomes))
        outcomes.append(path.exists())
        if path.exists():
            Identity.load(path)
        else:
            Identity.create(path)
            assert [p.name for p in folder.iterdir()] == ["identity.pem"]
        assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in folder.iterdir())
        if finished:
            break
    assert len(outcomes) > 6 and outcomes == sorted(outcomes) and not outcomes[0]


def test_a_full_disk_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written whole is not there."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("fedge.durable.os.fsync", full)
        with pytest.raises(SettingError, match="No space"):
            Identity.create(tmp_path / "identity.pem")
    assert list(tmp_path.iterdir()) == []


def test_the_entry_of_the_folder_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power failure right afterwards must not take the key that was admitted."""
    synced: list[int] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(durable.os, "fsync", noted)
    Identity.create(tmp_path / "identity.pem")
    assert synced == [(tmp_path / "identity.pem").stat().st_ino, tmp_path.stat().st_ino]
