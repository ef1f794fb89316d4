"""Local sketches of a window: quantiles for plots on the gateway, never for release.

A KLL sketch keeps real values, and a small window's sketch is the window. It
stays on the gateway, belongs to its block and dies with it; what leaves is
counted on frozen bins (`fedge.profiles.counts`).
"""

from __future__ import annotations

import json
import struct
from typing import Self

import datasketches
import numpy as np
from numpy.typing import NDArray

from fedge.errors import RecordError, SettingError
from fedge.profiles.counts import Stream
from fedge.records import NumericStream, Reference, canonical

_MAGIC = b"fkll1"


class KllProfile:
    """One KLL sketch per numeric stream; missing values are counted apart.

    Args:
        names: the numeric streams' names, in column order of `update`.
        k: accuracy; rank error is about 1.3 % at 200.
    """

    def __init__(self, names: tuple[str, ...], *, k: int = 200) -> None:
        if not names or not 8 <= k <= 65535:
            raise SettingError(f"need at least one stream and 8 <= k <= 65535, got {k=}")
        self.names, self.k = names, k
        self.missing = dict.fromkeys(names, 0)
        self._sketches = {name: datasketches.kll_floats_sketch(k) for name in names}

    @classmethod
    def of(cls, reference: Reference, *, k: int = 200) -> Self:
        """A profile for the numeric streams of a reference; feed it with `numeric_columns`."""
        return cls(tuple(s.name for s in reference.streams if isinstance(s, NumericStream)), k=k)

    def update(self, values: NDArray[np.float64]) -> None:
        """Take in rows: float64[n, len(names)]; NaN and infinity count as missing."""
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise RuntimeError(f"values have shape {values.shape}, need {len(self.names)} columns")
        for column, name in enumerate(self.names):
            finite = values[np.isfinite(values[:, column]), column].astype(np.float32)
            self.missing[name] += len(values) - len(finite)
            if len(finite):
                self._sketches[name].update(finite)

    def count(self, name: str) -> int:
        """Values seen of one stream, missing ones not included."""
        return int(self._sketches[name].n)

    def quantiles(self, name: str, ranks: tuple[float, ...]) -> tuple[float, ...] | None:
        """Approximate quantiles of one stream; None while it has no value."""
        sketch = self._sketches[name]
        return None if sketch.is_empty() else tuple(float(sketch.get_quantile(r)) for r in ranks)

    def merge(self, other: KllProfile) -> None:
        """Add another profile's rows to this one.

        Raises:
            RecordError: it describes other streams. Nothing changed.
        """
        if other.names != self.names:
            raise RecordError(f"profiles of {other.names} and {self.names} do not merge")
        for name in self.names:
            self._sketches[name].merge(other._sketches[name])
            self.missing[name] += other.missing[name]

    def to_bytes(self) -> bytes:
        """For a local file beside its block; never for the wire."""
        bodies = [self._sketches[name].serialize() for name in self.names]
        head = canonical(
            {
                "k": self.k,
                "streams": [
                    [name, self.missing[name], len(body)]
                    for name, body in zip(self.names, bodies, strict=True)
                ],
            }
        )
        return b"".join([_MAGIC, struct.pack("<I", len(head)), head, *bodies])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            RecordError: the bytes are no profile.
        """
        try:
            if data[: len(_MAGIC)] != _MAGIC:
                raise ValueError("wrong magic")
            start = len(_MAGIC) + 4
            (length,) = struct.unpack_from("<I", data, len(_MAGIC))
            head = json.loads(data[start : start + length])
            profile = cls(tuple(name for name, _, _ in head["streams"]), k=head["k"])
            position = start + length
            for name, missing, size in head["streams"]:
                body = data[position : position + size]
                position += size
                profile._sketches[name] = datasketches.kll_floats_sketch.deserialize(body)
                profile.missing[name] = int(missing)
            if position != len(data):
                raise ValueError(f"{len(data)} bytes, {position} expected")
        except (ValueError, KeyError, TypeError, IndexError, RuntimeError, struct.error) as error:
            raise RecordError(f"not a KLL profile: {error}") from error
        return profile


def numeric_columns(
    streams: tuple[Stream, ...], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The numeric columns of float64[n, S] stream values, in order."""
    return values[:, [isinstance(stream, NumericStream) for stream in streams]]
