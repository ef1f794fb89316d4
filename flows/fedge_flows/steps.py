"""One step of one run, taken by one process at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from fedge.errors import (
    CandidateError,
    GateFailedError,
    NonFiniteValueError,
    RunFailedError,
    TaskError,
)
from fedge_flows.ports import Facts, RunRow
from fedge_flows.progress import FAILED, REFUSED, Announcer, Claims

log = logging.getLogger(__name__)

_FINAL = (RunFailedError, CandidateError, TaskError, NonFiniteValueError)
"""Errors that come again however often the step is taken."""

BUSY, UNKNOWN = "busy", "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Desk:
    """What every step needs: the stored runs, who works on them, and how to say what is next."""

    facts: Facts
    claims: Claims
    announcer: Announcer


def advance(
    desk: Desk,
    run_id: str,
    *,
    due: Collection[str],
    working: str | None = None,
    work: Callable[[RunRow], str],
) -> str:
    """Take the step that a run in one of the states `due` needs, and announce the next one.

    A second call while the first still works, or after it is done, changes nothing. A process
    killed inside leaves the run in `due` or `working`, and the next call starts over.

    Args:
        working: state to show while `work` runs; must be one of `due`.
        work: does the step and answers the next state. A final refusal is stored with its
            reason; any other error leaves the state as it is, so that the step is due again.

    Returns:
        the run's state afterwards, `busy` if another process works on it, `unknown` if there
        is no such run.
    """
    with desk.claims.claim(run_id) as mine:
        if not mine:
            return BUSY
        run = find_run(desk.facts, run_id)
        if run is None:
            return UNKNOWN
        if run.state not in due:
            return run.state
        if working is not None and run.state != working:
            desk.facts.set_run_state(run_id, working, "")
        state, detail = _outcome(run, work)
        desk.facts.set_run_state(run_id, state, detail)
        desk.announcer.announce(run_id, state)
        return state


def _outcome(run: RunRow, work: Callable[[RunRow], str]) -> tuple[str, str]:
    try:
        return work(run), ""
    except GateFailedError as error:
        log.warning("run %s: %s", run.spec.run_id, error)
        return REFUSED, str(error)
    except _FINAL as error:
        log.warning("run %s: %s", run.spec.run_id, error)
        return FAILED, str(error)


def find_run(facts: Facts, run_id: str) -> RunRow | None:
    """The stored run, if there is one."""
    return next((run for run in facts.runs() if run.spec.run_id == run_id), None)
