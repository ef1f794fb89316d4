"""Records grow too old or too many: what goes, when, and what a wrong clock may not do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fedge.config import RetentionSettings
from fedge.data.blocks import BlockStore
from fedge.errors import StateError
from fedge.privacy.entries import Erased, read_entry
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength
from fedge.statefile import StateFile
from fedge_client.agent.housekeeping import CONFIRM_S, INTERVAL_S, Housekeeper

DAY = 86400.0
START = 1_700_000_000.0


class NothingToFinish:
    def finish(self) -> int:
        return 0


class House:
    """A block store, its keeper, and two clocks that a test moves."""

    def __init__(self, home: Path, *, max_bytes: int = 2**30) -> None:
        self.home, self.max_bytes = home, max_bytes
        self.wall, self.steady = START, 50.0
        self.reserved: tuple[int, ...] = ()
        self.ended = 0
        self.windows = 0
        self.open()

    def open(self) -> None:
        self.state = StateFile(self.home / "state.sqlite")
        policy = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=9))
        self.ledger = Ledger(self.state, policy, clock=lambda: self.wall)
        self.store = BlockStore(self.home / "blocks", self.state, lambda: self.wall)
        self.keeper = Housekeeper(
            state=self.state,
            store=self.store,
            ledger=self.ledger,
            retention=RetentionSettings(max_age_s=30 * DAY, max_bytes=self.max_bytes),
            reserved=lambda: self.reserved,
            end_training=self.end_training,
            eraser=NothingToFinish(),
            clock=lambda: self.wall,
            steady=lambda: self.steady,
        )

    def end_training(self) -> None:
        self.ended, self.reserved = self.ended + 1, ()

    def restart(self) -> None:
        """A reboot: the steady clock begins anew."""
        self.state.close()
        self.steady = 1.0
        self.open()

    def pass_time(self, seconds: float, *, wall: bool = True) -> None:
        """Let time go by in housekeeping steps of up to half a day."""
        left = seconds
        while left > 0:
            step = min(left, DAY / 2)
            self.steady += step
            self.wall += step * wall
            left -= step
            self.keeper.step()

    def put(self, rows: int = 2) -> None:
        """A window of a block of its own, arrived just now."""
        slots = np.arange(rows, dtype=np.int64) + 100_000 * self.windows
        values = np.random.default_rng(self.windows).normal(size=(rows, 4)).astype(np.float32)
        self.store.write_window(
            self.windows, self.windows, slots, values, values, slots, arrived=self.wall
        )
        self.windows += 1

    @property
    def kept(self) -> list[int]:
        return list(self.store.blocks_of(0, 999))

    def notes(self) -> list[tuple[str, int]]:
        entries = map(read_entry, self.ledger.entries())
        return [(e.reason, e.records) for e in entries if isinstance(e, Erased)]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.state.close()


def test_a_block_lives_as_long_as_it_may(house: House) -> None:
    """To the step, and the ledger says that a block went, not how many records it held."""
    house.put()
    house.pass_time(10 * DAY)
    house.put()
    house.pass_time(20 * DAY)
    assert house.kept == [0, 1]

    house.pass_time(INTERVAL_S)

    assert house.kept == [1]
    assert house.notes() == [("retention", 0)]
    house.ledger.check_chain()
    house.pass_time(11 * DAY)
    assert house.kept == []
    assert not any((house.home / "blocks").iterdir())


def test_files_that_a_disk_did_not_let_go_go_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row names them any more, and no restart is waited for."""
    house.put()
    with monkeypatch.context() as read_only:

        def refuse(paths: Iterable[Path]) -> None:
            if list(paths):
                raise StateError("read-only file system")

        read_only.setattr("fedge.data.removal.remove_files", refuse)
        with pytest.raises(StateError):
            house.pass_time(31 * DAY)
    assert house.kept == [] and any((house.home / "blocks").glob("*/*"))

    house.keeper.step()

    assert not any((house.home / "blocks").iterdir())
    assert house.notes() == [("retention", 0)]


def test_a_run_that_reads_what_grew_too_old_ends(house: House) -> None:
    """Its trainer's copies go with the files; a run that reads another block goes on."""
    house.put()
    house.pass_time(20 * DAY)
    house.put()
    house.reserved = (1,)
    house.pass_time(11 * DAY)
    assert (house.kept, house.ended) == ([1], 0)

    house.pass_time(20 * DAY)
    assert (house.kept, house.ended) == ([], 1)


def test_the_quota_spares_what_a_run_reads(tmp_path: Path) -> None:
    """The oldest other window goes first; the ledger says that one went."""
    house = House(tmp_path, max_bytes=2**20)
    try:
        house.reserved = (0,)
        for _ in range(4):
            house.put(12_000)
        assert house.store.bytes_on_disk > 2**20

        house.keeper.step()

        assert house.kept == [0, 3]
        assert house.store.bytes_on_disk <= 2**20
        assert house.store.evicted == 2
        assert house.notes() == [("quota", 0)]
    finally:
        house.state.close()


class TestClocks:
    def test_a_date_far_ahead_deletes_nothing(self, house: House) -> None:
        """It is corrected within the hour: no record was touched, and none lives longer."""
        house.put()
        house.pass_time(DAY)
        house.wall += 1000 * DAY
        house.keeper.step()
        house.put()  # stamped by the wrong clock
        house.pass_time(CONFIRM_S / 2)
        assert house.kept == [0, 1]
        house.wall -= 1000 * DAY

        house.pass_time(29 * DAY + INTERVAL_S)
        assert house.kept == [1]
        house.pass_time(2 * DAY)
        assert house.kept == []

    def test_a_jump_that_stands_is_believed(self, house: House) -> None:
        """After an outage of weeks, records go an hour late; new ones are not taken along."""
        house.put()
        house.pass_time(DAY)
        house.wall += 40 * DAY
        house.restart()
        house.keeper.step()
        house.put()
        assert house.kept == [0, 1]

        house.pass_time(CONFIRM_S - 1)
        assert house.kept == [0, 1]
        house.pass_time(2)
        assert house.kept == [1]
        house.pass_time(29 * DAY)
        assert house.kept == [1]

    def test_a_clock_that_falls_back_keeps_nothing_for_ever(self, house: House) -> None:
        """Records that seem to come from the future grow old from when that stood."""
        house.put()
        house.keeper.step()
        house.wall -= 1000 * DAY
        house.pass_time(DAY)
        house.put()
        assert house.kept == [0, 1]

        house.pass_time(31 * DAY)

        assert house.kept == []

    def test_a_clock_that_leaps_about_deletes_nothing(self, house: House) -> None:
        """Each leap has to stand for itself."""
        house.put()
        for leap in (100, 300, -50, 700):
            house.wall = START + leap * DAY
            house.pass_time(CONFIRM_S * 0.9)

        assert house.kept == [0]

    def test_small_corrections_are_followed(self, house: House) -> None:
        """An NTP step is no jump."""
        house.put()
        house.pass_time(29 * DAY)
        house.wall += DAY / 2
        house.keeper.step()
        house.wall += DAY / 2 + 1
        house.keeper.step()

        assert house.kept == []


def test_nothing_deleted_is_left_in_the_state_file(house: House) -> None:
    """Labels of a deleted block included; the log is empty after each step."""
    label = 0x5ECA11ED
    for _ in range(3):
        house.put(200)
        slots = np.arange(200, dtype=np.int64) + 100_000 * (house.windows - 1)
        house.store.add_labels(slots, np.full(200, label + house.windows, dtype=np.int64))
    house.keeper.step()
    path = house.home / "state.sqlite"
    assert label.to_bytes(4, "big")[:3] in path.read_bytes()

    house.pass_time(31 * DAY)

    assert label.to_bytes(4, "big")[:3] not in path.read_bytes()
    assert path.with_name("state.sqlite-wal").stat().st_size == 0
