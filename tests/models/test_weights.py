"""Weights on disk: plain numbers, the same bytes for the same numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedge.errors import NonFiniteValueError, TaskError
from fedge.models.weights import (
    adapter_dimension,
    adapter_names,
    read_dimensions,
    read_weights,
    weights_to_bytes,
)

WEIGHTS = {
    "head.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "head.bias": np.array([0.5, -0.5], dtype=np.float32),
}


def test_round_trip(tmp_path: Path) -> None:
    """Reading gives back what was written."""
    path = tmp_path / "weights.npz"
    path.write_bytes(weights_to_bytes(WEIGHTS))

    read = read_weights(path)

    assert read.keys() == WEIGHTS.keys()
    assert all(np.array_equal(read[name], WEIGHTS[name]) for name in WEIGHTS)
    assert all(value.dtype == np.float32 for value in read.values())


def test_bytes_depend_on_the_numbers_alone() -> None:
    """A hash of the file means something: no order and no time is in it."""
    backwards = dict(reversed(WEIGHTS.items()))

    assert weights_to_bytes(WEIGHTS) == weights_to_bytes(backwards)


def test_nan_is_never_written() -> None:
    """Weights that are not finite are refused by name."""
    with pytest.raises(NonFiniteValueError, match=r"head\.bias"):
        weights_to_bytes({**WEIGHTS, "head.bias": np.array([np.nan], dtype=np.float32)})


def test_nan_is_never_read(tmp_path: Path) -> None:
    """A file with a NaN in it is refused."""
    np.savez(tmp_path / "w.npz", **{"head.bias": np.array([np.inf], dtype=np.float32)})

    with pytest.raises(NonFiniteValueError):
        read_weights(tmp_path / "w.npz")


def test_dimensions_are_those_of_the_weights(tmp_path: Path) -> None:
    """Read from the shapes alone, also where a value is no number; kinds without a part lack."""
    weights = {
        **WEIGHTS,
        "input_adapter.shift": np.float32(np.nan),
        "trunk.0.weight": np.zeros((5, 1, 3, 3), np.float32),
        "trunk.0.bias": np.zeros(5, np.float32),
        "trunk.10.weight": np.zeros((7, 20), np.float32),
    }
    np.savez_compressed(tmp_path / "w.npz", **weights)

    found = read_dimensions(tmp_path / "w.npz")

    assert found == {"input": 1, "head": 8, "conv": 50, "lora-b": 28, "lora": 108}
    assert found == {kind: adapter_dimension(weights, kind) for kind in found}
    (tmp_path / "head.npz").write_bytes(weights_to_bytes(WEIGHTS))
    assert read_dimensions(tmp_path / "head.npz") == {"head": 8}


@pytest.mark.parametrize("end", [0, 1, 60, 130, 200, -1])
def test_dimensions_of_half_a_file(tmp_path: Path, end: int) -> None:
    path = tmp_path / "w.npz"
    path.write_bytes(weights_to_bytes(WEIGHTS)[:end])
    with pytest.raises(TaskError, match="cannot read"):
        read_dimensions(path)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array that would run code when it is read is refused; the code does not run."""
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "w.npz", trap=np.array([_Trap()], dtype=object))

    with pytest.raises(TaskError):
        read_weights(tmp_path / "w.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("data", [b"", b"PK", b"not an archive"])
def test_broken_files_are_refused(tmp_path: Path, data: bytes) -> None:
    """Truncated and foreign bytes are refused with the file's name."""
    path = tmp_path / "w.npz"
    path.write_bytes(data)

    with pytest.raises(TaskError, match=r"w\.npz"):
        read_weights(path)


def test_other_numbers_are_refused(tmp_path: Path) -> None:
    """Weights are float32 and nothing else."""
    np.savez(tmp_path / "w.npz", **{"head.bias": np.zeros(2)})

    with pytest.raises(TaskError, match="float64"):
        read_weights(tmp_path / "w.npz")


def test_a_missing_adapter_is_named() -> None:
    """A model without an input adapter says so."""
    with pytest.raises(TaskError, match="input"):
        adapter_names(WEIGHTS, "input")
