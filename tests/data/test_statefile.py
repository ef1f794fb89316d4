"""The state file under damage and a refusing disk: an error that says what to do."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from fedge.errors import StateError
from fedge.statefile import StateFile


def filled(path: Path, rows: int = 400) -> None:
    state = StateFile(path)
    state.ensure("CREATE TABLE facts (one INTEGER PRIMARY KEY, text TEXT)")
    with state.transaction() as db:
        db.executemany("INSERT INTO facts VALUES (?, ?)", [(n, "x" * 100) for n in range(rows)])
    state.close()


@pytest.mark.parametrize("damage", ["cut", "zeroed", "other", "scattered"])
def test_a_damaged_file_is_refused_at_the_start(tmp_path: Path, damage: str) -> None:
    """Not at some later read; and a budget is never begun anew in its place."""
    path = tmp_path / "state.sqlite"
    filled(path)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "zeroed":
        data[4096:16384] = bytes(12288)
    elif damage == "other":
        data = bytearray(b"no database at all " * 500)
    else:
        rng = random.Random(1)
        for _ in range(2000):
            data[rng.randrange(4096, len(data))] = rng.randrange(256)
    path.write_bytes(data)
    before = path.read_bytes()

    with pytest.raises(StateError, match="restore the file from a backup"):
        StateFile(path)

    assert path.read_bytes() == before


def test_damage_found_later_says_the_same(tmp_path: Path) -> None:
    """The file broke under a running agent."""
    path = tmp_path / "state.sqlite"
    filled(path, 40_000)  # more than SQLite keeps in memory
    state = StateFile(path)
    state.checkpoint()
    try:
        with path.open("r+b") as file:
            file.seek(8192)
            file.write(os.urandom(path.stat().st_size - 8192))
        with pytest.raises(StateError, match="damaged"):
            state.rows("SELECT SUM(LENGTH(text)) FROM facts")
    finally:
        state.close()


def test_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    """The transaction is undone; with room again the next one works."""
    state = StateFile(tmp_path / "state.sqlite")
    state.ensure("CREATE TABLE facts (text TEXT)")
    ((pages,),) = state.rows("PRAGMA page_count")
    state.rows(f"PRAGMA max_page_count = {pages + 2}")
    try:
        with pytest.raises(StateError, match="full"), state.transaction() as db:
            db.execute("INSERT INTO facts VALUES (?)", ("x" * 100_000,))
        assert state.rows("SELECT COUNT(*) FROM facts") == [(0,)]
        state.rows("PRAGMA max_page_count = 100000")
        with state.transaction() as db:
            db.execute("INSERT INTO facts VALUES (?)", ("x" * 100_000,))
        assert state.rows("SELECT COUNT(*) FROM facts") == [(1,)]
    finally:
        state.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """An error of ours, not of the operating system."""
    with pytest.raises(StateError):
        StateFile(tmp_path / "missing" / "state.sqlite")


class TestScrubbing:
    def test_only_what_asked_is_written_anew(self, tmp_path: Path) -> None:
        """Scrubbing is dear: without a deletion it empties the log and is done."""
        path = tmp_path / "state.sqlite"
        filled(path)
        state = StateFile(path)
        try:
            inode, size = path.stat().st_ino, path.stat().st_size
            with state.transaction() as db:
                db.execute("DELETE FROM facts WHERE one > 3")
            state.scrub()
            assert path.stat().st_size == size

            state.scrub_later()
            state.scrub()

            assert path.stat().st_size < size
            assert path.stat().st_ino == inode
            assert path.with_name("state.sqlite-wal").stat().st_size == 0
        finally:
            state.close()

    def test_asking_outlives_the_process(self, tmp_path: Path) -> None:
        """Whoever scrubs next makes it good."""
        path = tmp_path / "state.sqlite"
        filled(path)
        state = StateFile(path)
        size = path.stat().st_size
        with state.transaction() as db:
            db.execute("DELETE FROM facts")
            state.scrub_later()
        state.close()

        again = StateFile(path)
        again.scrub()
        again.close()

        assert path.stat().st_size < size

    def test_a_part_of_a_transaction_cannot_scrub(self, tmp_path: Path) -> None:
        """It would write half of it."""
        state = StateFile(tmp_path / "state.sqlite")
        try:
            with pytest.raises(RuntimeError), state.transaction():
                state.scrub()
        finally:
            state.close()
