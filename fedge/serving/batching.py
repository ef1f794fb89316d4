"""Dynamic batching: requests that are there at the same time run through the model as one.

Each request keeps its own rows, slots, marks and errors; who shares a run with whom
is visible in nothing but the time it takes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from fedge.errors import FedgeError, SettingError
from fedge.serving.engine import DirectEngine, Inputs, Served, all_finite, not_finite
from fedge.serving.marks import Marks


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request whose answer somebody awaits."""

    inputs: Inputs
    marks: Marks
    answer: asyncio.Future[Served]

    def refuse(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Batcher:
    """Gathers requests until a run is full or the first of them has waited long enough.

    Args:
        engine: runs them.
        max_rows: rows of one run at most; a request with more runs on its own.
        max_delay_ms: how long a request waits for others; 0 gathers what the event loop finds
            ready in one round.

    Requests run in the order of their arrival, and slots are given out in that order. A request
    whose caller gave up before its run is left out, and gets no slot.
    """

    def __init__(self, engine: DirectEngine, *, max_rows: int, max_delay_ms: float) -> None:
        if max_rows < 1 or not max_delay_ms >= 0:
            raise SettingError(f"need {max_rows=} >= 1 and {max_delay_ms=} >= 0")
        self._engine = engine
        self._max_rows, self._max_delay_s = max_rows, max_delay_ms / 1000
        self._waiting: list[_Waiting] = []
        self._rows = 0
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None

    async def infer(self, inputs: Inputs, marks: Marks) -> Served:
        """As `Engine.infer`."""
        loop = asyncio.get_running_loop()
        request = _Waiting(inputs, marks, loop.create_future())
        if self._rows + len(inputs) > self._max_rows:
            self.flush()
        self._waiting.append(request)
        self._rows += len(inputs)
        if self._rows >= self._max_rows:
            self.flush()
        elif self._timer is None and self._max_delay_s:
            self._timer = loop.call_later(self._max_delay_s, self.flush)
        elif self._timer is None:
            self._timer = loop.call_soon(self.flush)
        return await request.answer

    def drain(self) -> None:
        """Run what waits now, and let nothing wait for others from here on."""
        self._max_delay_s = 0.0
        self.flush()

    def flush(self) -> None:
        """Run what waits now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting, self._rows = self._waiting, [], 0
        wanted = [request for request in waiting if not request.answer.done()]
        if len(wanted) == 1:
            self._run_alone(wanted[0])
        elif wanted:
            self._run(wanted)

    def _run(self, requests: list[_Waiting]) -> None:
        try:
            logits, features = self._engine.outputs(np.concatenate([r.inputs for r in requests]))
        except (FedgeError, ValueError):
            # One of them, or all together, cannot be run: each finds out for itself.
            for request in requests:
                self._run_alone(request)
            return
        start = 0
        for marks, group in groupby(requests, key=lambda request: request.marks):
            members = list(group)
            end = start + sum(len(member.inputs) for member in members)
            rows = np.concatenate([member.inputs for member in members])
            try:
                served = self._engine.observe(rows, marks, logits[start:end], features[start:end])
            except Exception as error:  # noqa: BLE001  # it is its callers' to hear of, all of them
                for member in members:
                    member.refuse(error)
            else:
                self._hand_out(served, members)
            start = end

    def _run_alone(self, request: _Waiting) -> None:
        try:
            served = self._engine.serve(request.inputs, request.marks)
        except Exception as error:  # noqa: BLE001  # as above
            request.refuse(error)
        else:
            request.answer.set_result(served)

    @staticmethod
    def _hand_out(served: Served, members: list[_Waiting]) -> None:
        """Give each request its part of what was served to all."""
        start = 0
        for member in members:
            end = start + len(member.inputs)
            logits = served.logits[start:end]
            if all_finite(logits):
                part = Served(
                    served.first_slot + start,
                    served.blocks[start:end],
                    logits,
                    served.features[start:end],
                )
                member.answer.set_result(part)
            else:
                member.refuse(not_finite())
            start = end
