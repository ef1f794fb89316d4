"""The streams that a demo plays and the sets that it evaluates on, from real glyphs.

Any piece of a stream can be made again from the seed alone, in any order: rows are
drawn in chunks, each from a random source of its own. Whoever holds these streams
may compute a non-private yardstick; a gateway never can.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedge.demo.plan import PlayPlan
from fedge.demo.player import Rows
from fedge.tasks.camera import HEALTHY, Fault, capture, fault_named
from fedge.tasks.digits import Glyphs, gateway_share, glyphs

CHUNK_ROWS = 256


class Stream:
    """One gateway's endless stream of captures of its own share of the private glyphs."""

    def __init__(self, plan: PlayPlan, gateway: int) -> None:
        self._plan, self._gateway = plan, gateway
        self._glyphs = gateway_share(gateway, plan.gateways)
        self._fault = fault_named(plan.fault)
        self._chunk = lru_cache(maxsize=4)(self._draw)

    def rows(self, first: int, count: int) -> Rows:
        """Rows `first` to `first + count` of the stream."""
        pieces = []
        last = first + count
        for chunk in range(first // CHUNK_ROWS, -(-last // CHUNK_ROWS)):
            start = chunk * CHUNK_ROWS
            rows = self._chunk(chunk)
            piece = slice(max(first - start, 0), min(last - start, CHUNK_ROWS))
            pieces.append(Rows(rows.inputs[piece], rows.labels[piece]))
        return Rows(
            np.concatenate([piece.inputs for piece in pieces]),
            np.concatenate([piece.labels for piece in pieces]),
        )

    def _draw(self, chunk: int) -> Rows:
        rng = self._plan.rng("stream", self._gateway, chunk)
        chosen = rng.integers(0, len(self._glyphs.labels), size=CHUNK_ROWS)
        onset = self._plan.onset_rows[self._gateway]
        faulty = np.zeros(CHUNK_ROWS, dtype=bool)
        if onset is not None:
            faulty = np.arange(CHUNK_ROWS) + chunk * CHUNK_ROWS >= onset
        images = np.empty((CHUNK_ROWS, *self._glyphs.images.shape[1:]), dtype=np.float32)
        for mask, fault in ((~faulty, HEALTHY), (faulty, self._fault)):
            images[mask] = capture(self._glyphs.images[chosen[mask]], rng, fault)
        return Rows(images[:, None], self._glyphs.labels[chosen])


EVALUATION_CAPTURES = 5


def evaluation_set(
    plan: PlayPlan, gateway: int, fault: Fault
) -> tuple[npt.NDArray[np.float32], Glyphs]:
    """Every test glyph captured five times, fixed by the seed: inputs glyph by glyph, and glyphs.

    The same random source serves the clean and the faulty set, so that both hold the same
    captures but for the fault.
    """
    test = glyphs("test")
    repeated = np.repeat(test.images, EVALUATION_CAPTURES, axis=0)
    return capture(repeated, plan.rng("evaluation", gateway), fault)[:, None], test
