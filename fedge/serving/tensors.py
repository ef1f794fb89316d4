"""Tensors on the wire: the protocol's datatypes as JSON values and as bytes.

Strict both ways: a value that the datatype cannot hold exactly as the protocol means it (a
number out of range, a NaN, a bool where a number belongs) is refused, never bent. Numbers are
little-endian and in row-major order. Requests and HTTP belong to others.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeGuard, get_args

import numpy as np
import numpy.typing as npt

from fedge.errors import RequestError
from fedge.records.task import Datatype
from fedge.serving.ring_file import VALUE_TYPES

DTYPES: Mapping[Datatype, np.dtype[Any]] = {
    name: np.dtype(VALUE_TYPES.get(name, "O")) for name in get_args(Datatype)
}
"""The array that holds a datatype's elements; those of BYTES are `str`."""

_STANDARD_SIZE = {"l": "q", "L": "Q"}
"""Where numpy's letter for a type means another one to `struct`."""
_LENGTH = struct.Struct("<I")
"""What precedes each element of BYTES."""


def _letter(datatype: Datatype) -> str:
    """What `struct` calls a number of this type."""
    letter = DTYPES[datatype].char
    return _STANDARD_SIZE.get(letter, letter)


FEW_VALUES = 256
"""Up to so many, Python's sum is faster than numpy's look at each value."""


class TensorFormat:
    """Reads tensors of one datatype.

    Args:
        datatype: of the protocol.
        where: path of the tensor in the request, such as `inputs[0]`, for refusals.

    JSON takes FP16 too, as numbers; the protocol itself knows it as binary only. Elements of
    BYTES must be UTF-8 text, because ONNX Runtime's Python side feeds strings as text.
    """

    def __init__(self, datatype: Datatype, where: str) -> None:
        self.datatype, self.dtype = datatype, DTYPES[datatype]
        self._data = f"{where}.data"
        self._letter = _letter(datatype)
        self._floating = datatype.startswith("FP")
        if self._floating:
            self._types, self._kind = {float, int}, "numbers"
        elif datatype == "BOOL":
            self._types, self._kind = {bool}, "true and false"
        elif datatype == "BYTES":
            self._types, self._kind = {str}, "strings"
        else:
            self._types, self._kind = {int}, "integers"

    def from_json(self, data: object, shape: list[int]) -> npt.NDArray[Any]:
        """The elements of `data`, given flat or nested in row-major order.

        Raises:
            RequestError: their number, nesting, type or range is wrong (400).
        """
        count = math.prod(shape)
        flat = self._flattened(data, shape) if _is_nested(data) else data
        if not isinstance(flat, list) or len(flat) != count:
            raise RequestError(400, self._data, f"must hold {count} values for shape {shape}")
        if not self._types.issuperset(map(type, flat)):
            raise RequestError(400, self._data, f"must hold {self._kind} only")
        if self.datatype == "BYTES":
            return _texts(flat).reshape(shape)
        try:
            # Faster than numpy's conversion, and strict: what does not fit is an error.
            packed = struct.pack(f"<{count}{self._letter}", *flat)
        except (struct.error, OverflowError) as error:
            raise RequestError(400, self._data, f"holds a value beyond {self.datatype}") from error
        return self._finite(np.frombuffer(packed, self.dtype)).reshape(shape)

    def from_bytes(
        self, buffer: bytes, offset: int, size: int, shape: list[int]
    ) -> npt.NDArray[Any]:
        """The elements in `size` bytes of `buffer` from `offset` on.

        Returns:
            a read-only view of the buffer; for BYTES an array of its own.

        Raises:
            RequestError: the bytes do not hold such a tensor (400).
        """
        count = math.prod(shape)
        if self.datatype == "BYTES":
            return _texts(self._elements(buffer[offset : offset + size], count)).reshape(shape)
        if size != count * self.dtype.itemsize:
            wanted = f"{count * self.dtype.itemsize} bytes for shape {shape}"
            raise RequestError(400, self._data, f"has {size} bytes, not the {wanted}")
        if self.datatype == "BOOL":
            return self._bools(np.frombuffer(buffer, np.uint8, count, offset)).reshape(shape)
        return self._finite(np.frombuffer(buffer, self.dtype, count, offset)).reshape(shape)

    def _finite(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not self._floating or (values.size <= FEW_VALUES and _surely_finite(values)):
            return values
        if not np.isfinite(values).all():
            raise RequestError(400, self._data, f"must be finite in {self.datatype}")
        return values

    def _bools(self, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        if values.max(initial=0) > 1:
            raise RequestError(400, self._data, "must hold a byte of 0 or 1 per BOOL")
        return values.view(np.bool_)

    def _elements(self, data: bytes, count: int) -> list[str]:
        texts: list[str] = []
        at, end = 0, len(data)
        while at < end and len(texts) < count:
            begin = at + _LENGTH.size
            if begin > end or (at := begin + _LENGTH.unpack_from(data, at)[0]) > end:
                raise RequestError(400, self._data, "ends within an element")
            try:
                texts.append(data[begin:at].decode())
            except UnicodeDecodeError as error:
                raise RequestError(400, self._data, "must hold UTF-8 text") from error
        if at != end or len(texts) != count:
            raise RequestError(400, self._data, f"must hold {count} elements and nothing else")
        return texts

    def _flattened(self, data: list[Any], shape: list[int]) -> list[Any]:
        """Take nested lists apart level by level; each must have its extent everywhere."""
        level = [data]
        for extent in shape:
            if not all(type(inner) is list and len(inner) == extent for inner in level):
                raise RequestError(400, self._data, f"is not nested as {shape}")
            level = list(chain.from_iterable(level))
        return level


@lru_cache(maxsize=1024)  # most are class labels
def bytes_element(text: str) -> bytes:
    """One element of a BYTES tensor as binary data.

    >>> bytes_element("red")
    b'\\x03\\x00\\x00\\x00red'
    """
    encoded = text.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def to_bytes(values: npt.NDArray[Any] | Sequence[object], datatype: Datatype) -> bytes:
    """Elements as binary data; those of BYTES are `str`."""
    if datatype == "BYTES":
        return b"".join([bytes_element(str(value)) for value in _listed(values)])
    if type(values) is list:
        # A few Python numbers: numpy would take three times as long.
        return struct.pack(f"<{len(values)}{_letter(datatype)}", *values)
    return np.asarray(values, DTYPES[datatype]).tobytes()


def _surely_finite(values: npt.NDArray[Any]) -> bool:
    """Whether one cheap sum shows it, in which NaN and infinity stay; False where it overflows."""
    return math.isfinite(sum(values.tolist()))


def _listed(values: npt.NDArray[Any] | Sequence[object]) -> Iterable[object]:
    return values.ravel().tolist() if isinstance(values, np.ndarray) else values


def _texts(values: list[str]) -> npt.NDArray[Any]:
    texts = np.empty(len(values), object)
    texts[:] = values
    return texts


def _is_nested(data: object) -> TypeGuard[list[Any]]:
    return isinstance(data, list) and bool(data) and isinstance(data[0], list)
