"""Small fakes that the flow tests, and the flow processes they start, share.

`FileFacts` keeps runs in one JSON file a run, so that several processes see the same facts.
The flows at the end wear the names of the real ones and take the real steps over fakes: a
`plan.json` in the folder says what the drift rules find and how long training takes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedge.drift.fleet.interventions import Intervention
from fedge.errors import OutboundError
from fedge.records import LabelReport, Participant, RunSpec, TrainingPlan, WindowReport
from fedge_flows.alerts import Alert
from fedge_flows.progress import CREATED, TRAINED, TRAINING, Announcer, Claims
from fedge_flows.steps import Desk, advance

PLAN = TrainingPlan(
    adapter="input",
    rounds=2,
    steps=20,
    clip=0.5,
    learning_rate=2.4,
    divisor=300,
    grid_bits=14,
    sigma2=10,
    evaluation_sigma2=100,
    dimension=26,
)


def run_spec(run_id: str = "run-1", episodes: tuple[str, ...] = ("a-1-3",)) -> RunSpec:
    """A small valid run."""
    who = Participant(gateway="a" * 32, public_key="b" * 64, first_window=3, last_window=5)
    return RunSpec(
        run_id=run_id,
        task="digits",
        base_release=1,
        base_sha256="c" * 64,
        plan=PLAN,
        participants=(who,),
        episodes=episodes,
    )


@dataclass(frozen=True)
class FakeRun:
    spec: RunSpec
    state: str
    created_at: float
    release: int | None


@dataclass(frozen=True)
class FakeGateway:
    fingerprint: str
    public_key: str


class FileFacts:
    """Runs in files; gateways and reports as given."""

    def __init__(self, folder: Path, gateways: Sequence[FakeGateway] = ()) -> None:
        self.folder, self._gateways = folder, gateways
        folder.mkdir(parents=True, exist_ok=True)

    def gateways(self) -> Sequence[FakeGateway]:
        return self._gateways

    def reports(self) -> Mapping[str, Sequence[WindowReport]]:
        return {}

    def labels(self) -> Mapping[str, Sequence[LabelReport]]:
        return {}

    def heard(self) -> Mapping[str, float]:
        return {}

    def runs(self) -> list[FakeRun]:
        rows = [json.loads(p.read_text()) for p in sorted(self.folder.glob("*.run"))]
        return [
            FakeRun(RunSpec.from_bytes(r["spec"]), r["state"], r["created_at"], r["release"])
            for r in rows
        ]

    def create_run(self, spec: RunSpec) -> bool:
        if self._file(spec.run_id).exists():
            return False
        self._write(spec, CREATED, None)
        return True

    def set_run_state(self, run_id: str, state: str, detail: str = "") -> None:
        run = next(r for r in self.runs() if r.spec.run_id == run_id)
        self._write(run.spec, state, run.release)
        with (self.folder / "history").open("a") as file:
            file.write(f"{run_id} {state} {detail}".rstrip() + "\n")

    def record_release(self, run_id: str, counter: int) -> None:
        run = next(r for r in self.runs() if r.spec.run_id == run_id)
        self._write(run.spec, run.state, counter)

    def history(self) -> list[str]:
        file = self.folder / "history"
        return file.read_text().splitlines() if file.exists() else []

    def _file(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.run"

    def _write(self, spec: RunSpec, state: str, release: int | None) -> None:
        row = {"spec": spec.to_bytes().decode(), "state": state, "created_at": 0.0}
        scratch = self._file(spec.run_id).with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(row | {"release": release}))
        scratch.rename(self._file(spec.run_id))


class MemoryObjects:
    """Put-once objects in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> None:
        self.stored.setdefault(name, data)

    def get(self, name: str) -> bytes:
        return self.stored[name]

    def exists(self, name: str) -> bool:
        return name in self.stored


class MemoryBus:
    """Remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.alerts: list[Alert] = []
        self.away = False

    def emit(self, event: str, run_id: str) -> None:
        self.sent.append((event, run_id))

    def send(self, alert: Alert) -> None:
        if self.away:
            raise OutboundError("away")
        self.alerts.append(alert)


class MemoryInterventions:
    """The log of interventions in memory."""

    def __init__(self) -> None:
        self.stored: list[Intervention] = []
        self._told: set[tuple[str, str]] = set()

    def all(self) -> list[Intervention]:
        return list(self.stored)

    def unannounced(self) -> list[Intervention]:
        return [one for one in self.stored if (one.episode, one.action) not in self._told]

    def record(self, one: Intervention) -> bool:
        if any((o.episode, o.action) == (one.episode, one.action) for o in self.stored):
            return False
        self.stored.append(one)
        return True

    def announced(self, one: Intervention) -> None:
        self._told.add((one.episode, one.action))


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


# --- flows for a real Prefect server ---------------------------------------------------

FOLDER = "FEDGE_TEST_FLOWS"


def note(text: str) -> None:
    """One line, with time and process, in the folder's log."""
    with (Path(os.environ[FOLDER]) / "log").open("a") as file:
        file.write(f"{time.time():.3f} {os.getpid()} {text}\n")


def desk(folder: Path) -> Desk:
    """The real step machinery over file facts and the real Prefect bus."""
    from fedge_flows.bus import PrefectBus

    claims = Claims(folder / "claims")
    announcer = Announcer(PrefectBus(), folder / "sent", claims, time.time)
    return Desk(facts=FileFacts(folder / "facts"), claims=claims, announcer=announcer)


def train_slowly(folder: Path, run_id: str) -> str:
    """Stands for the rounds: waits for the file `go`, then leaves a result once."""
    (folder / "trainer.pid").write_text(str(os.getpid()))
    note(f"training {run_id}")
    while not (folder / "go").exists():
        time.sleep(0.05)
    with (folder / "results").open("a") as file:
        file.write(f"{run_id}\n")
    return TRAINED


def prefect_flows() -> tuple[object, object, object]:
    from prefect import flow

    folder = Path(os.environ.get(FOLDER, "/nonexistent"))

    @flow(name="monitor")
    def monitor_flow() -> None:
        note("monitor")
        here = desk(folder)
        if (folder / "frozen").exists():
            here.facts.create_run(run_spec())
        for run in here.facts.runs():
            if event := here.announcer.remind(run):
                note(f"sent {event}")

    @flow(name="retrain")
    def retrain_flow(run_id: str) -> str:
        note(f"retrain {run_id}")
        state = advance(
            desk(folder),
            run_id,
            due=(CREATED, TRAINING),
            working=TRAINING,
            work=lambda run: train_slowly(folder, run.spec.run_id),
        )
        note(f"retrained {state}")
        return state

    @flow(name="told")
    def told_flow(episode: str) -> None:
        note(f"told {episode}")

    return monitor_flow, retrain_flow, told_flow


if os.environ.get(FOLDER):
    monitor_flow, retrain_flow, told_flow = prefect_flows()
