"""A run's objects: what the rounds read and what they leave.

`runs/<run id>/` holds `spec.json` and `initial.npy` (put there before the run is submitted),
`round-<n>.json` for every finished round and, under `replies/`, what each message brought in,
then `adapter.npy` and, last, `result.json`; a failed attempt leaves `failed.json`. All but the
last are written once: of two attempts that overlap, the first to finish a round wins and the
other ends.
"""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from pydantic import TypeAdapter, ValidationError

from fedge.errors import FedgeError, RunFailedError
from fedge.identity import Artefact
from fedge.learning.aggregation import Vector
from fedge.records import RunId, RunResult, RunSpec, canonical
from fedge_server.objects import ObjectStore
from fedge_server.replies import keep_replies
from fedge_server.round_logic import RoundOutcome

_RUN_ID: TypeAdapter[str] = TypeAdapter(RunId)


class RunFiles:
    """The objects of one run; also the journal of its rounds.

    Raises:
        RunFailedError: `run_id` is none; it arrives through Flower and becomes a path.
    """

    def __init__(self, objects: ObjectStore, run_id: str) -> None:
        try:
            self.run_id = _RUN_ID.validate_python(run_id, strict=True)
        except ValidationError as error:
            raise RunFailedError(f"{run_id!r} is no run id") from error
        self._objects = objects

    def spec(self) -> RunSpec:
        """The run's specification.

        Raises:
            RunFailedError: it is missing, unreadable, or another run's.
        """
        try:
            spec = RunSpec.from_bytes(self._objects.get(self._name("spec.json")))
        except FedgeError as error:
            raise RunFailedError(f"run {self.run_id} has no readable spec.json: {error}") from error
        if spec.run_id != self.run_id:
            raise RunFailedError(f"spec.json of run {self.run_id} is run {spec.run_id}'s")
        return spec

    def initial(self) -> Vector:
        """The adapter to start from, float32 [dimension].

        Raises:
            RunFailedError: it is missing or no `.npy` file of float32.
        """
        try:
            data = self._objects.get(self._name("initial.npy"))
            values = np.load(io.BytesIO(data), allow_pickle=False)
        except (FedgeError, ValueError, EOFError) as error:
            raise RunFailedError(f"run {self.run_id} has no readable initial.npy") from error
        if values.dtype != np.dtype("<f4"):
            raise RunFailedError(f"initial.npy holds {values.dtype}, not float32")
        return np.asarray(values, dtype=np.float32)

    def load(self, number: int) -> RoundOutcome | None:
        name = self._name(f"round-{number}.json")
        if not self._objects.exists(name):
            return None
        return RoundOutcome.from_bytes(self._objects.get(name))

    def save(self, outcome: RoundOutcome) -> None:
        self._objects.put(self._name(f"round-{outcome.round}.json"), outcome.to_bytes())

    def keep_replies(self, name: str, replies: Iterable[Artefact]) -> None:
        """Keep what one message brought in; see `replies.keep_replies`."""
        keep_replies(self._objects, self.run_id, name, replies)

    def finished(self) -> bool:
        """Whether there is a result; then nothing is left to do."""
        return self._objects.exists(self._name("result.json"))

    def finish(self, result: RunResult, adapter: Vector) -> None:
        """Leave the adapter, then the result that names it."""
        file = io.BytesIO()
        np.save(file, adapter.astype("<f4"), allow_pickle=False)
        self._objects.put(self._name("adapter.npy"), file.getvalue())
        self._objects.put(self._name("result.json"), result.to_bytes())

    def fail(self, reason: str) -> None:
        """Leave why this attempt ended; the latest reason stays."""
        content = canonical({"run_id": self.run_id, "reason": reason})
        self._objects.replace(self._name("failed.json"), content)

    def _name(self, file: str) -> str:
        return f"runs/{self.run_id}/{file}"
