"""Named columns of raw values, as they came from a file or a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from fedge.drift.tables import spelling


@dataclass(frozen=True, slots=True)
class RawTable:
    """Columns as they came.

    Attributes:
        names: may hold duplicates.
        arrays: numpy arrays of numbers, or Arrow arrays of anything, all of one length.
        place: how errors call the source.
        decimal_comma: whether `1,5` may be a number.
    """

    names: tuple[str, ...]
    arrays: tuple[NDArray[Any] | pa.Array, ...]
    place: str
    decimal_comma: bool = False

    @property
    def rows(self) -> int:
        return len(self.arrays[0]) if self.arrays else 0


def one_piece(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of the chunks of a column."""
    if isinstance(array, pa.ChunkedArray):
        if array.num_chunks == 1:
            return array.chunk(0)
        array = array.unify_dictionaries() if pa.types.is_dictionary(array.type) else array
        # 32-bit offsets may not span all chunks of a long text column.
        wide = spelling.is_text(array.type)
        array = array.cast(pa.large_string()) if wide else array
        return array.combine_chunks()
    return array
