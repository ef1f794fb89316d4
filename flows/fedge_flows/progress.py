"""How far a run is, and which event makes it go on.

A run's state only moves forward, each flow moves it by one step, and the step
is derived from the stored state alone. So a lost event, a flow that was killed and a
server that was restarted all look alike: `monitor` finds a run that nobody works
on, and says again what is due.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

from fedge_flows.ports import Bus, Clock, RunRow

CREATED, TRAINING, TRAINED = "created", "training", "trained"
SIGNED, PUBLISHED = "signed", "published"
FAILED, REFUSED = "failed", "refused"
STATES = (CREATED, TRAINING, TRAINED, SIGNED, PUBLISHED, FAILED, REFUSED)

COHORT_FROZEN = "fedge.cohort.frozen"
RUN_TRAINED = "fedge.run.trained"
CANDIDATE_SIGNED = "fedge.candidate.signed"
DUE = {
    CREATED: COHORT_FROZEN,
    TRAINING: COHORT_FROZEN,
    TRAINED: RUN_TRAINED,
    SIGNED: CANDIDATE_SIGNED,
}

RESEND_S = 30.0
"""A due event is not sent again sooner: a flow needs some seconds from event to claim."""


class Claims:
    """Who works on what, as kernel file locks: a killed process holds no claim.

    Args:
        folder: shared by all flow processes; on one host (a fleet of Prefect workers on
            several hosts needs a limit of one on the work pool besides).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """True for the one process that may work on `name`; False if another does already."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    def taken(self, name: str) -> bool:
        """Whether some process works on `name` now."""
        with self.claim(name) as mine:
            return not mine


class Announcer:
    """Sends the event that a run's state calls for, and remembers when it last did.

    Args:
        folder: one small file per run; losing it costs a repeated event, nothing else.
    """

    def __init__(self, bus: Bus, folder: Path, claims: Claims, clock: Clock) -> None:
        self._bus, self._folder, self._claims, self._clock = bus, folder, claims, clock

    def announce(self, run_id: str, state: str) -> str | None:
        """Send what `state` calls for, now. Answers the event, None if nothing is due."""
        event = DUE.get(state)
        if event is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._bus.emit(event, run_id)
            memory = json.dumps({"event": event, "at": self._clock()})
            (self._folder / f"{run_id}.json").write_text(memory)
        return event

    def remind(self, run: RunRow) -> str | None:
        """Send a due event again if nobody works on the run and it was not sent just now."""
        run_id, event = run.spec.run_id, DUE.get(run.state)
        if event is None or self._claims.taken(run_id):
            return None
        last_event, last_at = self._last(run_id)
        if last_event == event and 0 <= self._clock() - last_at < RESEND_S:
            return None
        return self.announce(run_id, run.state)

    def _last(self, run_id: str) -> tuple[str, float]:
        try:
            memory = json.loads((self._folder / f"{run_id}.json").read_text())
            return str(memory["event"]), float(memory["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", 0.0
