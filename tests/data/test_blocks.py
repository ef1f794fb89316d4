"""The block store: a gateway's own rows on its own disk."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.data.blocks import BlockStore
from fedge.errors import StateError, TaskError
from fedge.statefile import StateFile

WIDTH, FEATURES = 6, 3


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def put(
    store: BlockStore, window: int, slots: np.ndarray, *, block: int = 0, shade: int = 0
) -> np.ndarray:
    """Write a window whose inputs tell their slot; answers the inputs."""
    inputs = (slots[:, None, None] * 10 + np.arange(WIDTH).reshape(2, 3) + shade).astype(np.float32)
    features = np.full((len(slots), FEATURES), np.nan, dtype=np.float32)
    store.write_window(block, window, slots, inputs, features, (slots % 4).astype(np.int32))
    return inputs.reshape(len(slots), WIDTH)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_labelled_rows_come_back_as_they_were(store: BlockStore) -> None:
    """Exact inputs, predictions and blocks, in slot order, unlabelled rows left out."""
    first = put(store, 0, ints(0, 1, 2, 3))
    second = put(store, 1, ints(4, 5, 6, 7), block=1)
    assert store.add_labels(ints(6, 1, 3), ints(2, 0, 1)) == 3

    records = store.labelled(0, 1, 100)

    assert records.slots.tolist() == [1, 3, 6]
    assert records.labels.tolist() == [0, 1, 2]
    assert records.blocks.tolist() == [0, 0, 1]
    assert records.predictions.tolist() == [1, 3, 2]
    assert records.inputs.dtype == np.float32
    assert (records.inputs == np.stack([first[1], first[3], second[2]])).all()


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 8), min_size=1, max_size=6),
    gaps=st.lists(st.integers(1, 3), min_size=48, max_size=48),
    labelled=st.sets(st.integers(0, 100), max_size=40),
    window_range=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    limit=st.integers(0, 30),
)
def test_it_answers_like_a_table_in_memory(
    lengths: list[int],
    gaps: list[int],
    labelled: set[int],
    window_range: tuple[int, int],
    limit: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """For any windows, dropped slots, labels and limit: the same rows as a plain list."""
    home = tmp_path_factory.mktemp("store")
    state = StateFile(home / "state.sqlite")
    try:
        store = BlockStore(home / "blocks", state)
        slots = (np.cumsum(gaps) - 1).astype(np.int64)
        ends = np.cumsum(lengths)
        pieces = [slots[end - n : end] for n, end in zip(lengths, ends, strict=True)]
        for window, piece in enumerate(pieces):
            put(store, window, piece, block=window // 2)
        known = {int(slot) for piece in pieces for slot in piece} & labelled
        asked = np.array(sorted(labelled), dtype=np.int64)

        assert store.add_labels(asked, asked % 4) == len(known)
        records = store.labelled(*window_range, limit)

        inside = [
            int(slot)
            for window, piece in enumerate(pieces)
            for slot in piece
            if window_range[0] <= window <= window_range[1] and int(slot) in known
        ][:limit]
        assert records.slots.tolist() == inside
        assert records.labels.tolist() == [slot % 4 for slot in inside]
        assert records.inputs[:, 0].tolist() == [slot * 10 for slot in inside]
        assert records.inputs.shape == (len(inside), WIDTH)
    finally:
        state.close()


class TestLabels:
    def test_an_unknown_slot_is_refused(self, store: BlockStore) -> None:
        """Slots before, between, after and dropped inside windows have no record to join."""
        put(store, 0, ints(5, 6, 8))
        put(store, 1, ints(12, 13))

        assert store.add_labels(ints(4, 7, 9, 11, 14, -1, 10**15), np.zeros(7, np.int64)) == 0
        assert len(store.labelled(0, 1, 100)) == 0

    def test_a_label_that_is_none_is_refused(self, store: BlockStore) -> None:
        """A negative class index marks an unknown label; it is not trained on."""
        put(store, 0, ints(0, 1))

        assert store.add_labels(ints(0, 1), ints(-1, 2)) == 1
        assert store.labelled(0, 0, 9).slots.tolist() == [1]

    def test_a_record_keeps_its_first_label(self, store: BlockStore) -> None:
        """The same feedback again changes nothing, and neither does a change of mind."""
        put(store, 0, ints(0, 1))
        store.add_labels(ints(1), ints(3))

        assert store.add_labels(ints(1), ints(3)) == 1
        assert store.add_labels(ints(1), ints(0)) == 1
        assert store.labelled(0, 0, 9).labels.tolist() == [3]

    def test_uneven_arrays_are_refused(self, store: BlockStore) -> None:
        """Each slot has its label."""
        with pytest.raises(TaskError):
            store.add_labels(ints(1, 2), ints(1))

    def test_no_labels_are_no_records(self, store: BlockStore) -> None:
        """Empty arrays of the right width, so that planned noise can still be drawn."""
        assert store.labelled(0, 5, 10).inputs.shape == (0, 0)
        put(store, 0, ints(0, 1))

        records = store.labelled(0, 5, 10)

        assert records.inputs.shape == (0, WIDTH)
        assert records.slots.dtype == np.int64
        assert records.inputs.dtype == np.float32


class TestWriting:
    def test_writing_again_changes_nothing(self, store: BlockStore, folder: Path) -> None:
        """After a crash the same rows give the same window, and labels stay."""
        put(store, 0, ints(0, 1, 2))
        store.add_labels(ints(1), ints(3))
        before = files(folder)

        put(store, 0, ints(0, 1, 2))

        assert files(folder) == before
        assert len(store.labelled(0, 0, 9)) == 1

    def test_the_newest_window_may_be_cut_again(
        self, store: BlockStore, folder: Path, state: StateFile
    ) -> None:
        """It was never made final: new rows replace the old, whose labels go with them."""
        put(store, 0, ints(0, 1))
        put(store, 1, ints(2, 3, 4))
        store.add_labels(ints(1, 3), ints(3, 3))

        inputs = put(store, 1, ints(2, 3), block=1, shade=100)
        store.add_labels(ints(2), ints(0))

        records = store.labelled(0, 1, 9)
        assert records.slots.tolist() == [1, 2]
        assert (records.inputs[1] == inputs[0]).all()
        assert store.blocks_of(0, 1) == (0, 1)
        BlockStore(folder, state)
        assert len(files(folder)) == 2

    def test_an_older_window_is_final(self, store: BlockStore) -> None:
        """Nobody rewrites history, and no window takes another's slots."""
        put(store, 0, ints(0, 1))
        put(store, 1, ints(2, 3))

        with pytest.raises(StateError):
            put(store, 0, ints(0, 1), shade=1)
        with pytest.raises(StateError):
            put(store, 2, ints(3, 4))

    def test_an_empty_window_is_kept(self, store: BlockStore) -> None:
        """A window in which every observation was dropped still belongs to its block."""
        put(store, 0, ints(0, 1))
        put(store, 1, ints(), block=1)
        put(store, 2, ints(9), block=2)

        assert store.blocks_of(0, 2) == (0, 1, 2)
        assert store.window_of(5) is None

    def test_it_joins_the_callers_transaction(self, store: BlockStore, state: StateFile) -> None:
        """If what it belongs to fails, the window was not written."""
        with pytest.raises(ZeroDivisionError), state.transaction():
            put(store, 0, ints(0, 1))
            raise ZeroDivisionError

        assert store.window_of(0) is None
        put(store, 0, ints(0, 1))
        assert store.window_of(0) == 0

    def test_only_the_owner_may_read(self, store: BlockStore, folder: Path) -> None:
        """Rows are readable by the gateway's own user alone."""
        put(store, 0, ints(0, 1))

        for path in (folder, *folder.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0

    @pytest.mark.parametrize(
        "wrong",
        [
            {"slots": ints(1, 0)},
            {"slots": ints(1, 1)},
            {"slots": np.array([0.0, 1.0])},
            {"inputs": np.zeros((3, WIDTH), np.float32)},
            {"inputs": np.zeros((2, WIDTH), np.complex64)},
            {"inputs": np.array([["a"], ["b"]])},
            {"inputs": np.zeros(2, np.float32)},
            {"features": np.zeros((1, FEATURES), np.float32)},
            {"features": np.zeros((2, FEATURES), np.float64)},
            {"predictions": np.zeros(3, np.int32)},
            {"predictions": np.zeros(2, np.float32)},
            {"subjects": np.zeros((2, 15), np.uint8)},
            {"subjects": np.zeros((1, 16), np.uint8)},
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(
        self, store: BlockStore, folder: Path, wrong: dict[str, np.ndarray]
    ) -> None:
        """Nothing is written of rows that are not rows."""
        arrays = {
            "slots": ints(0, 1),
            "inputs": np.zeros((2, WIDTH), np.float32),
            "features": np.zeros((2, FEATURES), np.float32),
            "predictions": np.zeros(2, np.int32),
        }

        with pytest.raises(TaskError):
            store.write_window(0, 0, **(arrays | wrong))
        assert files(folder) == []


class TestTypes:
    @pytest.mark.parametrize("dtype", ["?", "u1", "u8", "i1", "i8", "f2", "f4", "f8"])
    def test_inputs_keep_their_type(self, store: BlockStore, dtype: str) -> None:
        """Rows come back as they were served, whatever the model takes."""
        inputs = np.arange(12).reshape(3, 2, 2).astype(dtype)
        rest = (np.ones((3, 1), np.float32), np.zeros(3, np.int64))
        store.write_window(0, 0, ints(0, 1, 2), inputs, *rest)
        store.add_labels(ints(0, 2), ints(0, 1))

        records = store.labelled(0, 0, 9)

        assert records.inputs.dtype == np.dtype(dtype)
        assert (records.inputs == inputs[[0, 2]].reshape(2, 4)).all()

    def test_inputs_without_a_fixed_size_are_not_kept(self, store: BlockStore) -> None:
        """Features, prediction and label are, all the same."""
        rest = (np.ones((2, 1), np.float32), np.array([1, 0]))
        store.write_window(0, 0, ints(0, 1), np.empty((2, 0), np.uint8), *rest)
        store.add_labels(ints(0, 1), ints(0, 1))

        records = store.labelled(0, 0, 9)

        assert records.inputs.shape == (2, 0)
        assert records.predictions.tolist() == [1, 0]


class TestOlderVersion:
    def test_its_windows_are_taken_over(self, tmp_path: Path) -> None:
        """Parts without subjects, and a table without types, sizes and arrival times."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        inputs = np.arange(6, dtype=np.float32)
        table = pa.table(
            {
                "slot": pa.array([0, 1]),
                "input": pa.FixedSizeListArray.from_arrays(pa.array(inputs), 3),
                "feature": pa.FixedSizeListArray.from_arrays(pa.array(inputs), 3),
                "prediction": pa.array([0, 1]),
            }
        )
        (tmp_path / "blocks" / "0").mkdir(parents=True)
        pq.write_table(table, tmp_path / "blocks" / "0" / "old.parquet")
        state = StateFile(tmp_path / "state.sqlite")
        state.ensure(
            "CREATE TABLE block_windows (window INTEGER PRIMARY KEY,"
            " block INTEGER NOT NULL, first_slot INTEGER, last_slot INTEGER,"
            " rows INTEGER NOT NULL, width INTEGER NOT NULL, part TEXT NOT NULL)",
            "INSERT INTO block_windows VALUES (0, 0, 0, 1, 2, 3, '0/old.parquet')",
        )
        try:
            store = BlockStore(tmp_path / "blocks", state)
            store.add_labels(ints(0, 1), ints(1, 1))

            assert store.labelled(0, 0, 9).inputs.tolist() == inputs.reshape(2, 3).tolist()
            assert store.bytes_on_disk == (tmp_path / "blocks/0/old.parquet").stat().st_size
            assert store.erase(slots=ints(0)).records == 1
            assert store.labelled(0, 0, 9).slots.tolist() == [1]
            assert store.expire(2**40).windows == (0,)
        finally:
            state.close()


class TestWindows:
    def test_a_slot_has_its_window(self, store: BlockStore) -> None:
        """From the first to the last row, and none outside."""
        put(store, 3, ints(10, 11, 14))
        put(store, 4, ints(20, 21))

        assert [store.window_of(s) for s in (9, 10, 12, 14, 15, 20, 21, 22)] == [
            None,
            3,
            3,
            3,
            None,
            4,
            4,
            None,
        ]

    def test_blocks_of_windows_that_are_not_kept(self, store: BlockStore) -> None:
        """Nothing is known of them."""
        assert store.blocks_of(0, 100) == ()


class TestFiles:
    @pytest.mark.parametrize("damage", [b"", b"PAR1 not a file", None])
    def test_a_damaged_part_costs_its_window_only(
        self, store: BlockStore, folder: Path, damage: bytes | None
    ) -> None:
        """It is put apart and counted, its labels go, and training reads on with the others."""
        put(store, 0, ints(0, 1))
        put(store, 1, ints(2, 3))
        store.add_labels(ints(0, 2), ints(1, 1))
        (part,) = (folder / "0").glob("000000000000-*")
        if damage is None:
            part.unlink()
        else:
            part.write_bytes(damage)

        assert store.labelled(0, 1, 9).slots.tolist() == [2]

        assert store.damaged == 1
        assert store.window_of(0) is None
        assert store.add_labels(ints(0), ints(1)) == 0
        assert store.labelled(0, 1, 9).slots.tolist() == [2]
        assert len(files(folder / "quarantine")) == (0 if damage is None else 1)

    def test_damage_inside_a_part_is_found(self, store: BlockStore, folder: Path) -> None:
        """No flipped bit of a page is trained on."""
        put(store, 0, ints(0, 1, 2))
        store.add_labels(ints(0), ints(1))
        (part,) = files(folder)
        data = part.read_bytes()
        at = data.index(np.float32(25).tobytes())
        part.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])

        assert len(store.labelled(0, 0, 9)) == 0
        assert store.damaged == 1

    def test_a_part_that_was_cut_short_is_known_at_the_start(
        self, store: BlockStore, folder: Path, state: StateFile
    ) -> None:
        """Sizes are compared before anything relies on a part; its file stays apart."""
        put(store, 0, ints(0, 1))
        put(store, 1, ints(2, 3))
        (part,) = (folder / "0").glob("000000000000-*")
        part.write_bytes(part.read_bytes()[:-1])

        again = BlockStore(folder, state)

        assert (again.damaged, again.window_of(0), again.window_of(2)) == (1, None, 1)
        assert len(files(folder / "quarantine")) == 1
        BlockStore(folder, state)
        assert len(files(folder / "quarantine")) == 1

    def test_a_label_for_a_damaged_part_is_refused(self, store: BlockStore, folder: Path) -> None:
        """Feedback does not fail because of it."""
        put(store, 0, ints(0, 2))
        files(folder)[0].write_bytes(b"")

        assert store.add_labels(ints(0), ints(1)) == 0
        assert store.damaged == 1

    def test_a_kill_leaves_whole_windows_only(self, tmp_path: Path) -> None:
        """Killed after a file was written and before it was named: the next start removes it."""
        code = (
            "import os, signal, sys\nfrom pathlib import Path\nimport numpy as np\n"
            "from fedge.data.blocks import BlockStore\nfrom fedge.statefile import StateFile\n"
            "home = Path(sys.argv[1])\nstate = StateFile(home / 'state.sqlite')\n"
            "store = BlockStore(home / 'blocks', state)\n"
            "def put(window, slots):\n"
            "    slots = np.array(slots)\n    rows = np.ones((len(slots), 4), np.float32)\n"
            "    store.write_window(0, window, slots, rows, rows, slots)\n"
            "put(0, [0, 1])\n"
            "with state.transaction():\n"
            "    put(1, [2, 3])\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
        assert killed.returncode == -signal.SIGKILL
        (tmp_path / "blocks" / "0" / "half.tmp").write_bytes(b"half")
        assert len(files(tmp_path / "blocks")) == 3

        state = StateFile(tmp_path / "state.sqlite")
        try:
            store = BlockStore(tmp_path / "blocks", state)

            assert len(files(tmp_path / "blocks")) == 1
            assert (store.window_of(0), store.window_of(2)) == (0, None)
            put(store, 1, ints(2, 3))
            assert store.window_of(2) == 1
        finally:
            state.close()
