"""From the rows of a request to what is answered about them, and to the ring.

An engine runs the model, gives each row its arrival slot and hands the rows over
to the monitor. It knows no protocol. `DirectEngine` does it for each request on
its own; `fedge.serving.batching` for several at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fedge.errors import RequestError
from fedge.serving.marks import NOBODY as NOBODY
from fedge.serving.marks import Marks as Marks
from fedge.serving.record_ids import BlockOf
from fedge.serving.ring import RingWriter
from fedge.serving.scores import Floats, Scores

if TYPE_CHECKING:  # whoever only names an engine needs no ONNX Runtime
    from fedge.serving.release import ServedRelease

Inputs = npt.NDArray[Any]

SMALL = 16
"""So few numbers are faster looked at one by one than by numpy."""


@dataclass(slots=True)  # not frozen: one is made per request, and that would triple its price
class Served:
    """What was served to the rows of one request; not to be changed.

    Attributes:
        first_slot: arrival slot of the first row; the others follow without a gap.
        blocks: the data block of each row.
        logits, features: float32, rows x classes and rows x monitored features.
    """

    first_slot: int
    blocks: list[int]
    logits: Floats
    features: Floats

    @property
    def scores(self) -> Scores:
        """Prediction, confidence and OOD score, derived anew each time."""
        return Scores.from_outputs(self.logits, self.features)


class Engine(Protocol):
    """Serves the rows of one request."""

    async def infer(self, inputs: Inputs, marks: Marks) -> Served:
        """Run the model on n rows and let them be observed.

        Args:
            inputs: n x the task's input shape, of the task's datatype, n >= 1.

        Raises:
            RequestError: the model's logits are not finite for this input (422). Its rows are
                observed all the same, as unknown.
            InferenceError: the model could not be run. No slot was given out.
        """
        ...


class DirectEngine:
    """Runs each request on its own, at once.

    Args:
        ring: where rows go; None observes nothing: slots are then counted in memory.
        block_of: which block a slot belongs to.
        clock: seconds since the epoch.
        unobserved: the first slot where nothing is observed.
    """

    def __init__(
        self,
        release: ServedRelease,
        ring: RingWriter | None,
        block_of: BlockOf,
        clock: Callable[[], float],
        *,
        unobserved: int = 0,
    ) -> None:
        self.outputs = release.model.outputs
        self._counter = release.manifest.counter
        self.watch(ring)
        self._block_of, self._clock = block_of, clock
        self._next_slot = unobserved

    def watch(self, ring: RingWriter | None) -> None:
        """Hand rows to another ring from now on."""
        self._append = self._count if ring is None else ring.append

    async def infer(self, inputs: Inputs, marks: Marks) -> Served:
        return self.serve(inputs, marks)

    def serve(self, inputs: Inputs, marks: Marks) -> Served:
        """`infer` for callers without an event loop."""
        logits, features = self.outputs(inputs)
        if len(logits) > 1:
            served = self.observe(inputs, marks, logits, features)
        else:  # the same, without the price of a call and a loop
            now, block_of = self._clock(), self._block_of
            first = self._append(block_of, self._counter, now, marks, inputs, logits, features)
            served = Served(first, [block_of(first, now)], logits, features)
        if not all_finite(logits):
            # It was served a slot and is observed as unknown; the caller gets no number for it.
            raise not_finite()
        return served

    def observe(self, inputs: Inputs, marks: Marks, logits: Floats, features: Floats) -> Served:
        """Give rows that were scored their slots and hand them to the monitor.

        Args:
            inputs, logits, features: of the same n rows, in C order.
        """
        now, block_of = self._clock(), self._block_of
        first = self._append(block_of, self._counter, now, marks, inputs, logits, features)
        blocks = [block_of(slot, now) for slot in range(first, first + len(logits))]
        return Served(first, blocks, logits, features)

    def _count(
        self,
        block_of: BlockOf,
        release: int,
        now: float,
        marks: Marks,
        inputs: Inputs,
        logits: Floats,
        features: Floats,
    ) -> int:
        """Stands in for a ring's `append` where nothing is observed."""
        first = self._next_slot
        self._next_slot = first + len(logits)
        return first


def all_finite(logits: Floats) -> bool:
    """Whether every logit is a finite number."""
    if len(logits) == 1 and logits.size <= SMALL:
        # Finite float32 numbers cannot add up to infinity in Python's floats.
        return math.isfinite(sum(logits.tolist()[0]))
    return bool(np.count_nonzero(np.isfinite(logits)) == logits.size)


def not_finite() -> RequestError:
    """The refusal of an input that the model has no finite answer for."""
    return RequestError(422, "inputs[0].data", "gives logits that are not finite")
