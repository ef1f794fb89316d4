"""Model weights as plain numbers: `weights.npz` without pickle, and the adapters in them.

Reading and merging need no torch, so flows can plan a run, and anyone can check
what an adapter changed, without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
import numpy.typing as npt

from fedge.errors import NonFiniteValueError, TaskError
from fedge.records import AdapterKind
from fedge.tasks.code import Weights as Weights  # re-exported: who handles weights needs its name

Vector = npt.NDArray[np.float32]

LORA_RANK = 4
_PREFIXES: dict[AdapterKind, str] = {"input": "input_adapter.", "head": "head."}
_FACTORS = ("down", "up")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def weights_to_bytes(weights: Weights) -> bytes:
    """An `.npz` whose bytes depend on the weights alone.

    Raises:
        NonFiniteValueError: a weight is NaN or infinite.
    """
    return arrays_to_bytes({name: _finite(name, value) for name, value in weights.items()})


def arrays_to_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Any arrays as an `.npz` with sorted names and no times in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            file = io.BytesIO()
            np.save(file, arrays[name], allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), file.getvalue())
    return buffer.getvalue()


def read_weights(path: Path) -> Weights:
    """Read `weights.npz`.

    Raises:
        TaskError: it cannot be read, or holds something else than float32 arrays.
        NonFiniteValueError: a weight is NaN or infinite.
    """
    weights = {}
    for name, value in read_arrays(path).items():
        if value.dtype != np.float32:
            raise TaskError(f"{path}: {name} is {value.dtype}, not float32")
        weights[name] = _finite(name, value)
    return weights


def read_arrays(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Read an `.npz`; nothing in it is ever executed.

    Raises:
        TaskError: it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TaskError(f"cannot read {path}: {error}") from error


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an adapter's vector.

    Attributes:
        layer: name of the module whose answer it changes.
        part: of that layer's own weights, or `down` and `up`, the two factors of a low rank.
        shape: of the piece.
    """

    layer: str
    part: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def adapter_pieces(weights: Weights, kind: AdapterKind) -> tuple[Piece, ...]:
    """What an adapter's vector consists of, in its order.

    `input` and `head` are changes of those parts of the model themselves. `lora-b` and `lora`
    (Hu et al., "LoRA", 2021) add a product of two thin matrices to every linear layer of the
    trunk; `conv` adds a change to the kernel and bias of the trunk's first convolution.

    Raises:
        TaskError: the model has no such adapter.
    """
    if kind in _PREFIXES:
        names = [name for name in sorted(weights) if name.startswith(_PREFIXES[kind])]
        pieces = [Piece(*_split(name), weights[name].shape) for name in names]
    elif kind == "conv":
        pieces = _convolution_pieces(weights)
    else:
        pieces = _low_rank_pieces(weights, both=kind == "lora")
    if not pieces:
        raise TaskError(f"the model has no {kind} adapter")
    return tuple(pieces)


def adapter_names(weights: Weights, kind: AdapterKind) -> tuple[str, ...]:
    """Names of the weights that an adapter changes, sorted.

    Raises:
        TaskError: the model has no such adapter.
    """
    pieces = adapter_pieces(weights, kind)
    names = (f"{p.layer}.{'weight' if p.part in _FACTORS else p.part}" for p in pieces)
    return tuple(sorted(set(names)))


def adapter_dimension(weights: Weights, kind: AdapterKind) -> int:
    """Length of an adapter's vector."""
    return sum(piece.size for piece in adapter_pieces(weights, kind))


def read_dimensions(path: Path) -> dict[AdapterKind, int]:
    """Length of the vector of each adapter that the model of a `weights.npz` has.

    Reads the shapes alone: whoever decides on a plan needs no weight in memory.

    Raises:
        TaskError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            shapes = {
                name.removesuffix(".npy"): _read_shape(archive.open(name))
                for name in archive.namelist()
            }
        # Without a value behind them, however large they are.
        weights = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise TaskError(f"cannot read {path}: {error}") from error
    dimensions: dict[AdapterKind, int] = {}
    for kind in get_args(AdapterKind):
        with contextlib.suppress(TaskError):  # the model has none
            dimensions[kind] = adapter_dimension(weights, kind)
    return dimensions


def _read_shape(file: IO[bytes]) -> tuple[int, ...]:
    with file:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"an array of version {version}")
        shape, _, kind = readers[version](file)
    if kind != np.float32:
        raise ValueError(f"an array of {kind}, not float32")
    return tuple(shape)


def cut(change: Vector, pieces: Sequence[Piece]) -> list[Vector]:
    """`change` as one array for each piece, in their shapes."""
    ends = np.cumsum([piece.size for piece in pieces])[:-1]
    parts = np.split(change, ends)
    return [part.reshape(piece.shape) for part, piece in zip(parts, pieces, strict=True)]


def merge_vector(weights: Weights, kind: AdapterKind, change: Vector) -> Weights:
    """`weights` with `change` added to one adapter; zero changes nothing.

    Args:
        change: float32 [adapter_dimension].

    Raises:
        TaskError: `change` has another length.
        NonFiniteValueError: it is not finite.
    """
    pieces = adapter_pieces(weights, kind)
    dimension = sum(piece.size for piece in pieces)
    if change.shape != (dimension,):
        raise TaskError(f"an {kind} adapter of shape {change.shape}, the model's has {dimension}")
    _finite(f"the {kind} adapter", change)
    merged, downs = dict(weights), {}
    for piece, values in zip(pieces, cut(change, pieces), strict=True):
        if piece.part == "down":
            downs[piece.layer] = values
            continue
        name = f"{piece.layer}.{'weight' if piece.part == 'up' else piece.part}"
        if piece.part == "up":
            down = fixed_down(piece.layer, weights[name].shape[1]).astype(np.float64)
            product = values.astype(np.float64) @ (down + downs.get(piece.layer, 0.0))
            values = product.astype(np.float32)
        merged[name] = _finite(name, (merged[name] + values).astype(np.float32))
    return merged


def fixed_down(layer: str, columns: int) -> npt.NDArray[np.float32]:
    """The inner factor that a low-rank adapter of `layer` starts from, float32 [rank, columns].

    Random signs over sqrt(columns), drawn by SHAKE-256 from the layer's name and width: public,
    and the same for whoever trains and whoever merges, on every machine.
    """
    seed = f"fedge low rank 1\n{layer}\n{LORA_RANK}\n{columns}".encode()
    count = LORA_RANK * columns
    digest = hashlib.shake_256(seed).digest(-(-count // 8))
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))[:count]
    signs = np.where(bits == 1, 1.0, -1.0).reshape(LORA_RANK, columns)
    return (signs / math.sqrt(columns)).astype(np.float32)


def _low_rank_pieces(weights: Weights, *, both: bool) -> list[Piece]:
    pieces = []
    for layer, (rows, columns) in _trunk_layers(weights, dimensions=2):
        if both:
            pieces.append(Piece(layer, "down", (LORA_RANK, columns)))
        pieces.append(Piece(layer, "up", (rows, LORA_RANK)))
    return pieces


def _convolution_pieces(weights: Weights) -> list[Piece]:
    layers = _trunk_layers(weights, dimensions=4)[:1]
    return [
        Piece(layer, part, weights[f"{layer}.{part}"].shape)
        for layer, _ in layers
        for part in ("bias", "weight")
        if f"{layer}.{part}" in weights
    ]


def _trunk_layers(weights: Weights, *, dimensions: int) -> list[tuple[str, tuple[int, ...]]]:
    """Layers of the trunk whose weight has so many dimensions, in the order of their numbers."""
    names = [n for n in weights if n.startswith("trunk.") and n.endswith(".weight")]
    found = [n for n in sorted(names, key=_in_order) if weights[n].ndim == dimensions]
    return [(name.removesuffix(".weight"), weights[name].shape) for name in found]


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sorts `trunk.2` before `trunk.10`."""
    return [(int(part) if part.isdigit() else -1, part) for part in name.split(".")]


def _split(name: str) -> tuple[str, str]:
    layer, _, part = name.rpartition(".")
    return layer, part


def _finite(name: str, value: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    array = np.asarray(value, dtype=np.float32)
    if not np.isfinite(array).all():
        raise NonFiniteValueError(f"{name} holds NaN or infinity")
    return array
