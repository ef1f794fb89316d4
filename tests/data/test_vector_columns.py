"""Columns of vectors: the same numbers back, also from files of an earlier version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedge.data.parts import Rows, decode_part, encode_part, vectors


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("dtype", ["|b1", "|u1", "<i8", "<f2", "<f4", "<f8"])
def test_vectors_come_back_in_their_own_type(tmp_path: Path, dtype: str, rows: int) -> None:
    """Whatever element type a model takes, and however many rows a window has."""
    inputs = np.arange(rows * 6).reshape(rows, 2, 3).astype(dtype)
    features = np.linspace(-1, 1, rows * 4, dtype=np.float32).reshape(rows, 4)
    nobody = np.zeros((rows, 16), np.uint8)
    noted = np.arange(rows, dtype=np.uint8)
    slots = np.arange(rows)
    given = Rows(slots, inputs, features, slots, nobody, noted)
    (tmp_path / "part").write_bytes(encode_part(given))
    found = decode_part(tmp_path / "part", rows, dtype)
    assert found.inputs.dtype == np.dtype(dtype) and found.features.dtype == np.float32
    assert np.array_equal(found.inputs, inputs.reshape(rows, 6))
    assert np.array_equal(found.features, features)
    assert np.array_equal(found.purposes, noted)


def test_lists_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """A gateway that was updated still trains on what it kept before."""
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 4)
    pq.write_table(pa.table({"feature": lists}), tmp_path / "part")
    assert np.array_equal(vectors(pq.read_table(tmp_path / "part"), "feature"), numbers)
