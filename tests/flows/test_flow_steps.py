"""What each step of the loop promises, whatever runs it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from flow_fakes import (
    PLAN,
    Clock,
    FileFacts,
    MemoryBus,
    MemoryObjects,
    run_spec,
)

from fedge.config import KeySettings
from fedge.errors import GateFailedError, OutboundError, RunFailedError, SettingError
from fedge.records import RunResult
from fedge_flows.ports import RunRow
from fedge_flows.progress import (
    CANDIDATE_SIGNED,
    COHORT_FROZEN,
    CREATED,
    FAILED,
    PUBLISHED,
    REFUSED,
    RESEND_S,
    RUN_TRAINED,
    SIGNED,
    TRAINED,
    TRAINING,
    Announcer,
    Claims,
)
from fedge_flows.publish import online_key
from fedge_flows.recompile import recompile
from fedge_flows.retrain import Patience, retrain
from fedge_flows.steps import BUSY, UNKNOWN, Desk, advance


class Bench:
    """A desk over fakes, with one created run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bus, self.clock = folder, MemoryBus(), Clock()
        self.facts = FileFacts(folder / "facts")
        self.facts.create_run(run_spec())
        self.claims = Claims(folder / "claims")
        self.announcer = Announcer(self.bus, folder / "sent", self.claims, self.clock)
        self.desk = Desk(facts=self.facts, claims=self.claims, announcer=self.announcer)

    @property
    def run(self) -> RunRow:
        return self.facts.runs()[0]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


class TestAdvance:
    def test_moves_the_run_and_says_what_is_next(self, bench: Bench) -> None:
        """A finished step is stored, then announced."""
        state = advance(bench.desk, "run-1", due=(CREATED,), work=lambda run: TRAINED)

        assert (state, bench.run.state) == (TRAINED, TRAINED)
        assert bench.bus.sent == [(RUN_TRAINED, "run-1")]

    def test_done_once(self, bench: Bench) -> None:
        """A second event for a step that is done works no more and sends nothing."""
        calls: list[str] = []

        def work(run: RunRow) -> str:
            calls.append(run.spec.run_id)
            return TRAINED

        for _ in range(2):
            assert advance(bench.desk, "run-1", due=(CREATED,), work=work) == TRAINED
        assert calls == ["run-1"]
        assert len(bench.bus.sent) == 1

    def test_second_worker_keeps_out(self, bench: Bench) -> None:
        """While one works on a run, another is told so and does nothing."""
        with bench.claims.claim("run-1") as mine:
            assert mine
            assert advance(bench.desk, "run-1", due=(CREATED,), work=pytest.fail) == BUSY
        assert bench.run.state == CREATED

    def test_unknown_run(self, bench: Bench) -> None:
        """An event about a run that is not stored changes nothing."""
        assert advance(bench.desk, "run-9", due=(CREATED,), work=pytest.fail) == UNKNOWN

    @pytest.mark.parametrize(
        ("error", "state"), [(RunFailedError("no result"), FAILED), (GateFailedError("x"), REFUSED)]
    )
    def test_final_refusal_is_stored(self, bench: Bench, error: Exception, state: str) -> None:
        """A step that failed for good says why in the stored run, and nothing follows."""

        def work(run: RunRow) -> str:
            raise error

        assert advance(bench.desk, "run-1", due=(CREATED,), work=work) == state
        assert bench.facts.history() == [f"run-1 {state} {error}"]
        assert bench.bus.sent == []

    def test_passing_trouble_leaves_the_step_due(self, bench: Bench) -> None:
        """A server that is away fails the flow, and the step stays to be taken again."""

        def work(run: RunRow) -> str:
            raise OutboundError("away")

        with pytest.raises(OutboundError):
            advance(bench.desk, "run-1", due=(CREATED, TRAINING), working=TRAINING, work=work)
        assert bench.run.state == TRAINING
        assert bench.announcer.remind(bench.run) == COHORT_FROZEN

    def test_killed_worker_holds_no_claim(self, bench: Bench) -> None:
        """kill -9 in the middle of a step: the next call takes the step from the start."""
        fork = multiprocessing.get_context("fork")

        def hang(run: RunRow) -> str:
            (bench.folder / "inside").touch()
            time.sleep(60)
            return TRAINED

        worker = fork.Process(
            target=advance,
            args=(bench.desk, "run-1"),
            kwargs={"due": (CREATED, TRAINING), "working": TRAINING, "work": hang},
        )
        worker.start()
        deadline = time.monotonic() + 20
        while not (bench.folder / "inside").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert bench.claims.taken("run-1")
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join(10)

        assert bench.run.state == TRAINING
        done = advance(
            bench.desk, "run-1", due=(CREATED, TRAINING), working=TRAINING, work=lambda r: TRAINED
        )
        assert done == TRAINED


class TestReminders:
    @pytest.mark.parametrize(
        ("state", "event"),
        [
            (CREATED, COHORT_FROZEN),
            (TRAINING, COHORT_FROZEN),
            (TRAINED, RUN_TRAINED),
            (SIGNED, CANDIDATE_SIGNED),
            (PUBLISHED, None),
            (FAILED, None),
            (REFUSED, None),
        ],
    )
    def test_event_follows_from_the_stored_state(
        self, bench: Bench, state: str, event: str | None
    ) -> None:
        """Every unfinished state calls for one event; a finished run for none."""
        bench.facts.set_run_state("run-1", state)

        assert bench.announcer.remind(bench.run) == event

    def test_not_repeated_at_once_but_later(self, bench: Bench) -> None:
        """An event is not sent again while its flow starts; a lost one is sent again later."""
        sent = []
        for _ in range(4):
            sent.append(bench.announcer.remind(bench.run))
            bench.clock.sleep(RESEND_S / 2)

        assert sent == [COHORT_FROZEN, None, COHORT_FROZEN, None]

    def test_silent_while_someone_works(self, bench: Bench) -> None:
        """No event about a run that a living process works on, however long it takes."""
        bench.clock.sleep(10 * RESEND_S)
        with bench.claims.claim("run-1"):
            assert bench.announcer.remind(bench.run) is None

    def test_damaged_memory_repeats_an_event(self, bench: Bench) -> None:
        """A torn memory file costs one repeated event, never a lost one."""
        bench.announcer.remind(bench.run)
        (bench.folder / "sent" / "run-1.json").write_text('{"event": ')

        assert bench.announcer.remind(bench.run) == COHORT_FROZEN


class FakeRounds:
    """Flower as a script: one word per submission says how it goes."""

    def __init__(self, objects: MemoryObjects, *script: str) -> None:
        self.objects, self.script, self.submitted = objects, list(script), 0
        self.stopped: list[int] = []

    def submit(self, run_id: str) -> int:
        if self.script and self.script[0] == "away":
            self.script.pop(0)
            raise OutboundError("no SuperLink")
        self.submitted += 1
        return self.submitted

    def status(self, flower_run: int) -> str:
        word = self.script[flower_run - 1]
        if word == "good":
            self.objects.put("runs/run-1/result.json", result().to_bytes())
            return "completed"
        return word

    def stop(self, flower_run: int) -> None:
        self.stopped.append(flower_run)


def result() -> RunResult:
    return RunResult(
        spec=run_spec(), adapter_sha256="d" * 64, update_bytes=(), contributors=(), counts=()
    )


class TestRetrain:
    def train(self, objects: MemoryObjects, rounds: FakeRounds, attempts: int = 3) -> RunResult:
        clock = Clock()
        patience = Patience(attempt_s=30.0, attempts=attempts)
        return retrain(
            run_spec(),
            objects=objects,
            rounds=rounds,
            patience=patience,
            clock=clock,
            sleep=clock.sleep,
        )

    def test_leaves_spec_and_start_for_the_rounds(self) -> None:
        """The rounds find the specification and a zero adapter in the object store."""
        objects = MemoryObjects()
        assert self.train(objects, FakeRounds(objects, "good")) == result()

        initial = objects.stored["runs/run-1/initial.npy"]
        assert initial.endswith(np.zeros(PLAN.dimension, "<f4").tobytes())
        assert objects.stored["runs/run-1/spec.json"] == run_spec().to_bytes()

    def test_result_is_never_trained_again(self) -> None:
        """A run that has its result submits nothing."""
        objects = MemoryObjects()
        objects.put("runs/run-1/result.json", result().to_bytes())
        rounds = FakeRounds(objects)

        assert self.train(objects, rounds) == result()
        assert rounds.submitted == 0

    @pytest.mark.parametrize("trouble", ["failed", "unknown", "running"])
    def test_failed_attempt_is_repeated(self, trouble: str) -> None:
        """A failed, lost or hanging Flower run is followed by another under the same run id.

        A hanging one is stopped first.
        """
        objects = MemoryObjects()
        rounds = FakeRounds(objects, trouble, "good")

        assert self.train(objects, rounds) == result()
        assert rounds.submitted == 2
        assert rounds.stopped == ([1] if trouble == "running" else [])

    def test_missing_superlink_costs_no_attempt(self) -> None:
        """A SuperLink that is away uses up time, not attempts."""
        objects = MemoryObjects()
        rounds = FakeRounds(objects, *["away"] * 5, "good")

        assert self.train(objects, rounds, attempts=1) == result()

    def test_gives_up_after_the_last_attempt(self) -> None:
        """Attempts are counted in the store, over all processes that ever worked on the run."""
        objects = MemoryObjects()
        with pytest.raises(RunFailedError):
            self.train(objects, FakeRounds(objects, "failed", "failed"), attempts=2)

        again = FakeRounds(objects, "failed", "failed", "good")
        with pytest.raises(RunFailedError):
            self.train(objects, again, attempts=2)
        assert again.submitted == 0

    def test_killed_process_waits_for_what_it_had_submitted(self) -> None:
        """A process that goes on after a kill asks about the stored Flower run first."""
        objects = MemoryObjects()
        objects.put("runs/run-1/attempts/0.json", json.dumps({"flower_run": 1}).encode())
        rounds = FakeRounds(objects, "good")

        assert self.train(objects, rounds) == result()
        assert rounds.submitted == 0


class Workshop:
    """Fake builder and evaluator around the real `recompile`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock, self.calls = folder, Clock(), list[str]()
        self.verdict, self.die_in = "sign", ""

    def make(self) -> Path:
        return recompile(
            "run-1",
            objects_dir=self.folder,
            build=self._build,
            gate=lambda folder: self._note("gate"),
            stage=lambda folder: self._note("stage"),
            countersigned=self._evaluate,
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self.die_in == call:
            raise KeyboardInterrupt

    def _build(self, folder: Path) -> None:
        assert list(folder.iterdir()) == []
        (folder / "model").write_text("half")
        self._note("build")
        (folder / "model").write_text("whole")

    def _evaluate(self, folder: Path) -> bool:
        assert (folder / "ready.json").exists()
        if self.verdict == "refuse":
            (folder / "refused.json").write_text(json.dumps({"reason": "no gain"}))
        return self.verdict == "sign"


class TestRecompile:
    def test_twice_builds_once(self, tmp_path: Path) -> None:
        """A candidate that is there is not built or staged again."""
        workshop = Workshop(tmp_path)

        assert workshop.make() == workshop.make() == tmp_path / "candidates" / "run-1"
        assert workshop.calls == ["build", "gate", "stage"]

    @pytest.mark.parametrize("call", ["build", "gate", "stage"])
    def test_killed_anywhere_ends_the_same(self, tmp_path: Path, call: str) -> None:
        """Cut off in any step and run again, a whole candidate comes out."""
        workshop = Workshop(tmp_path)
        workshop.die_in = call
        with pytest.raises(KeyboardInterrupt):
            workshop.make()
        assert not (tmp_path / "candidates" / "run-1" / "ready.json").exists()

        workshop.die_in = ""
        assert (workshop.make() / "model").read_text() == "whole"

    def test_evaluator_can_refuse(self, tmp_path: Path) -> None:
        """The evaluator's refusal is final and carries its reason."""
        workshop = Workshop(tmp_path)
        workshop.verdict = "refuse"

        with pytest.raises(GateFailedError, match="no gain"):
            workshop.make()

    def test_silent_evaluator_is_waited_for_later(self, tmp_path: Path) -> None:
        """No word in time is no verdict: the step stays due, the candidate stays as it is."""
        workshop = Workshop(tmp_path)
        workshop.verdict = "silent"
        with pytest.raises(OutboundError):
            workshop.make()

        workshop.verdict = "sign"
        workshop.make()
        assert workshop.calls == ["build", "gate", "stage"]


class TestPublishingKeys:
    def test_a_publisher_knows_the_online_key_alone(self, tmp_path: Path) -> None:
        """Publishing refuses to start where its settings name a signing key."""
        assert online_key(KeySettings(online=tmp_path)) == tmp_path
        for keys in (
            KeySettings(),
            KeySettings(online=tmp_path, builder=tmp_path),
            KeySettings(online=tmp_path, evaluator=tmp_path),
        ):
            with pytest.raises(SettingError):
                online_key(keys)
