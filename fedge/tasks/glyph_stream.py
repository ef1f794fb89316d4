"""Streams of any length made of real glyphs: the same seed gives the same rows.

Any piece can be made again, in any order: rows are drawn in chunks, each from a
random source of its own. Plain numpy; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedge.tasks.camera import HEALTHY, Fault, capture
from fedge.tasks.digits import Glyphs

CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True)
class Rows:
    """A piece of a stream: model inputs (float32, n x shape) and true class indices (int64, n)."""

    inputs: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


class GlyphStream:
    """One camera's endless stream of captures, of glyphs drawn at random.

    Args:
        glyphs: what is before the camera.
        seed: numbers that name the stream.
        fault: what the camera suffers from row `onset_row` on; None: it stays healthy.
    """

    def __init__(
        self,
        glyphs: Glyphs,
        seed: Sequence[int],
        *,
        fault: Fault = HEALTHY,
        onset_row: int | None = None,
    ) -> None:
        self._glyphs, self._seed = glyphs, tuple(seed)
        self._fault, self._onset_row = fault, onset_row
        self._chunk = lru_cache(maxsize=4)(self._draw)

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` to `first + count`, however they are asked for."""
        pieces = []
        last = first + count
        for chunk in range(first // CHUNK_ROWS, -(-last // CHUNK_ROWS)):
            start = chunk * CHUNK_ROWS
            drawn = self._chunk(chunk)
            piece = slice(max(first - start, 0), min(last - start, CHUNK_ROWS))
            pieces.append(Rows(drawn.inputs[piece], drawn.labels[piece]))
        return Rows(
            np.concatenate([piece.inputs for piece in pieces]),
            np.concatenate([piece.labels for piece in pieces]),
        )

    def _draw(self, chunk: int) -> Rows:
        rng = np.random.default_rng([*self._seed, chunk])
        chosen = rng.integers(0, len(self._glyphs), size=CHUNK_ROWS)
        faulty = np.zeros(CHUNK_ROWS, dtype=bool)
        if self._onset_row is not None:
            faulty = np.arange(CHUNK_ROWS) + chunk * CHUNK_ROWS >= self._onset_row
        images = np.empty((CHUNK_ROWS, *self._glyphs.images.shape[1:]), dtype=np.float32)
        for mask, fault in ((~faulty, HEALTHY), (faulty, self._fault)):
            images[mask] = capture(self._glyphs.images[chosen[mask]], rng, fault)
        return Rows(images[:, None], self._glyphs.labels[chosen])
