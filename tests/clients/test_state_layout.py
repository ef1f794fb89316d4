"""A state directory of an earlier build is taken up; one of a later build is left alone."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from fedge.errors import StateError
from fedge.serving.ring_reader import RingReader
from fedge_client.state_layout import LAYOUT, bring_up_to_date, nobody_runs, read_layout

GOLDEN = Path(__file__).parent.parent / "golden"
NEXT_SLOT, WAITING = 47, 7
"""What the gateway of `layout-1.tar.gz` had given out, and what its agent had not yet closed."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A state directory as the first layout left it, after some windows of traffic."""
    with tarfile.open(GOLDEN / "layout-1.tar.gz") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "state"


def test_a_new_directory_gets_this_builds_layout(tmp_path: Path) -> None:
    assert bring_up_to_date(tmp_path) == []
    assert read_layout(tmp_path) == LAYOUT


def test_an_old_ring_gives_way_and_no_slot_is_given_out_twice(old: Path) -> None:
    done = bring_up_to_date(old)

    assert f"{WAITING} waiting rows were dropped" in done[0]
    ring = RingReader(old / "ring.bin")
    assert ring.next_slot == NEXT_SLOT
    ring.close()


def test_the_old_rings_records_are_gone_from_the_disk(old: Path) -> None:
    row = (old / "ring.bin").read_bytes()[4096 + 48 : 4096 + 72]

    bring_up_to_date(old)

    assert any(row)
    assert not [path for path in old.glob("ring*") if row in path.read_bytes()]


def test_twice_is_the_same_as_once(old: Path) -> None:
    bring_up_to_date(old)
    before = (old / "ring.bin").read_bytes()

    assert bring_up_to_date(old) == []
    assert (old / "ring.bin").read_bytes() == before


def test_a_migration_that_was_cut_off_goes_on(old: Path) -> None:
    """The ring was replaced, the number not yet written."""
    bring_up_to_date(old)
    (old / "layout.json").unlink()

    bring_up_to_date(old)

    assert read_layout(old) == LAYOUT
    ring = RingReader(old / "ring.bin")
    assert ring.next_slot == NEXT_SLOT
    ring.close()


def test_a_newer_layout_is_refused_and_untouched(old: Path) -> None:
    (old / "layout.json").write_text(json.dumps({"layout": LAYOUT + 1}))
    before = (old / "ring.bin").read_bytes()

    with pytest.raises(StateError, match="newer"):
        bring_up_to_date(old)

    assert (old / "ring.bin").read_bytes() == before


@pytest.mark.parametrize("content", ["", "{}", "[2]", '{"layout": "2"}', '{"layout": 0}'])
def test_a_damaged_layout_file_is_an_error_not_a_new_directory(old: Path, content: str) -> None:
    (old / "layout.json").write_text(content)

    with pytest.raises(StateError, match=r"layout\.json"):
        bring_up_to_date(old)


@pytest.mark.parametrize("content", [b"", b"x" * 5000])
def test_a_damaged_ring_is_named(old: Path, content: bytes) -> None:
    (old / "ring.bin").write_bytes(content)

    with pytest.raises(StateError, match=r"ring\.bin"):
        bring_up_to_date(old)


def test_nothing_is_migrated_under_a_running_supervisor(old: Path) -> None:
    with nobody_runs(old), pytest.raises(StateError, match="another supervisor"), nobody_runs(old):
        pass
