"""One retraining run: its rounds on Flower, under one run id until there is a result.

The gateways answer a repeated message with the update they stored, so that a retry
costs no privacy. What the rounds leave behind is read from the object store; Flower's
own view of a run only says whether to go on waiting.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from dataclasses import dataclass

import numpy as np

from fedge.errors import OutboundError, RunFailedError
from fedge.records import RunResult, RunSpec
from fedge_flows.ports import Clock, Objects, Rounds, Sleep

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long to wait for the rounds.

    Attributes:
        attempt_s: for one attempt, from submitting to its end.
        poll_s: between two looks.
        attempts: submissions of one run at most, over all processes that work on it.
    """

    attempt_s: float
    poll_s: float = 1.0
    attempts: int = MAX_ATTEMPTS


def retrain(
    spec: RunSpec,
    *,
    objects: Objects,
    rounds: Rounds,
    patience: Patience,
    clock: Clock,
    sleep: Sleep,
) -> RunResult:
    """Bring the run to its result, going on from whatever an earlier process left.

    Raises:
        RunFailedError: every attempt ended without a result; final.
        OutboundError: Flower could not be reached; run again later.
    """
    folder = f"runs/{spec.run_id}"
    _put_once(objects, f"{folder}/spec.json", spec.to_bytes())
    _put_once(objects, f"{folder}/initial.npy", initial_vector(spec))
    for attempt in range(patience.attempts):
        if (result := _result(objects, folder)) is not None:
            return result
        flower_run = _submission(
            objects, rounds, spec.run_id, attempt, patience=patience, clock=clock, sleep=sleep
        )
        outcome = _wait(objects, folder, rounds, flower_run, patience, clock, sleep)
        log.info("run %s attempt %d: %s", spec.run_id, attempt + 1, outcome)
    if (result := _result(objects, folder)) is not None:
        return result
    raise RunFailedError(f"run {spec.run_id}: {patience.attempts} attempts left no result")


def initial_vector(spec: RunSpec) -> bytes:
    """Where training starts, as a `.npy` file: every adapter of ours starts at zero change."""
    file = io.BytesIO()
    np.save(file, np.zeros(spec.plan.dimension, dtype="<f4"), allow_pickle=False)
    return file.getvalue()


def _put_once(objects: Objects, name: str, data: bytes) -> None:
    if not objects.exists(name):
        objects.put(name, data)


def _result(objects: Objects, folder: str) -> RunResult | None:
    name = f"{folder}/result.json"
    return RunResult.from_bytes(objects.get(name)) if objects.exists(name) else None


def _submission(
    objects: Objects,
    rounds: Rounds,
    run_id: str,
    attempt: int,
    *,
    patience: Patience,
    clock: Clock,
    sleep: Sleep,
) -> int:
    """Flower's id of this attempt: the stored one, or a new one as soon as Flower is there."""
    name = f"runs/{run_id}/attempts/{attempt}.json"
    if objects.exists(name):
        return int(json.loads(objects.get(name))["flower_run"])
    deadline = clock() + patience.attempt_s
    while True:
        try:
            flower_run = rounds.submit(run_id)
        except OutboundError as error:
            # A SuperLink that is away uses up time, not attempts.
            if clock() >= deadline:
                raise
            log.warning("run %s: %s", run_id, error)
            sleep(patience.poll_s)
            continue
        objects.put(name, json.dumps({"flower_run": flower_run}).encode())
        return flower_run


def _wait(
    objects: Objects,
    folder: str,
    rounds: Rounds,
    flower_run: int,
    patience: Patience,
    clock: Clock,
    sleep: Sleep,
) -> str:
    """Wait for a result or the attempt's end; says how it ended."""
    deadline = clock() + patience.attempt_s
    while clock() < deadline:
        if objects.exists(f"{folder}/result.json"):
            return "completed"
        try:
            status = rounds.status(flower_run)
        except OutboundError:
            status = "running"  # not known to have ended: a SuperLink may be restarting
        if status != "running":
            return status
        sleep(patience.poll_s)
    # Two attempts at once would ask the gateways twice and write the same files.
    with contextlib.suppress(OutboundError):
        rounds.stop(flower_run)
    return "timed out"
