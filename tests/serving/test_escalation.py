"""Escalation: what is sent upstream, when, how often, and what the caller gets instead."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fakes.gateways import TASK, infer_body, make_gateway, toy_inputs, toy_logits
from fakes.served_apps import gateway_of, listening, make_app, make_served
from fakes.upstreams import (
    FakeServer,
    Play,
    Request,
    answer,
    hang,
    json_answer,
    large_model,
    plays,
    rows_of,
    run,
    toy_outputs,
    wanted_of,
)
from fakes.workers import WorkerProcess

from fedge.config import EscalationSettings, GatewaySettings
from fedge.errors import SettingError, StateError
from fedge.privacy.entries import read_entry
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import read_policy
from fedge.records.purposes import ESCALATION, INFERENCE, MONITORING
from fedge.serving.engine import Marks, Served
from fedge.serving.escalation import EscalationOutcome, Escalator, Hardness
from fedge.serving.escalation_budget import EscalationBudget
from fedge.serving.escalation_counts import counts_path, read_counts
from fedge.serving.grants import GRANTS_FILE, GrantedBlocks, write_grants
from fedge.serving.scores import Scores
from fedge.serving.upstream import Endpoint, HttpClient
from fedge.statefile import StateFile
from fedge_client.agent.escalation_desk import EscalationDesk

ALL = ("logits", "class", "label", "confidence")
MAY = Marks(INFERENCE | MONITORING | ESCALATION)
SOON_S = 20.0


class Clock:
    """A clock that stands where it is put."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def served(inputs: npt.NDArray[np.float32], block: int = 3) -> Served:
    """What the local model, release 1, says about these rows."""
    logits = toy_logits(1, inputs)
    features = np.zeros((len(inputs), 2), np.float32)
    return Served(100, [block] * len(inputs), logits, features)


class Gateway:
    """An escalator with its files, in front of an upstream server that plays as it is told."""

    def __init__(self, folder: Path, server: FakeServer, **changes: Any) -> None:
        self.server, self.clock, self.monotonic = server, Clock(), Clock(5.0)
        wanted = {"model": "large", "confidence_below": 1.0, "deadline_s": SOON_S, **changes}
        self.settings = with_escalation(folder, url=server.url, **wanted)
        if not (folder / "state" / GRANTS_FILE).exists():
            write_grants(folder / "state" / GRANTS_FILE, [3, 4])
        self.escalator = self.restart()

    def restart(self) -> Escalator:
        escalator = Escalator.open(
            self.settings,
            TASK,
            counts=counts_path(self.settings.runtime_dir, "toy", "A"),
            clock=self.clock,
            monotonic=self.monotonic,
        )
        assert escalator is not None
        return escalator

    async def ask(
        self, seed: int = 0, wanted: tuple[str, ...] = ALL, marks: Marks = MAY, rows: int = 2
    ) -> EscalationOutcome:
        inputs = toy_inputs(rows, seed)
        return await self.escalator.escalate(inputs, served(inputs), marks, wanted)


def with_escalation(folder: Path, **values: Any) -> GatewaySettings:
    """The settings of a gateway in this folder, which is made if it is not there."""
    exists = (folder / "gateway.toml").exists()
    settings = GatewaySettings.load(folder / "gateway.toml") if exists else make_gateway(folder)
    return settings.model_copy(update={"escalation": EscalationSettings(**values)})


@asynccontextmanager
async def gateway(folder: Path, play: Play, **changes: Any) -> AsyncIterator[Gateway]:
    async with FakeServer(play) as server:
        made = Gateway(folder, server, **changes)
        yield made
        made.escalator.close()


def right(outcome: EscalationOutcome, seed: int = 0, rows: int = 2) -> bool:
    """Whether the outcome is the larger model's answer."""
    expected = toy_outputs(2, toy_inputs(rows, seed))
    assert outcome.outputs is not None, outcome
    for name, values in outcome.outputs.items():
        assert type(values) is type(expected[name])
        assert np.array_equal(values, expected[name]), name
    return (outcome.considered, outcome.reason) == (True, "")


# --- an answer that replaces the local one


def as_json(request: Request) -> bytes:
    known = toy_outputs(2, rows_of(request))
    return json_answer({name: known[name] for name in wanted_of(request)})


def chunked(request: Request) -> bytes:
    whole = as_json(request)
    body = whole.partition(b"\r\n\r\n")[2]
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


def making(make: Callable[[Request], bytes]) -> Play:
    async def play(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(make(request))
        await writer.drain()

    return play


@pytest.mark.parametrize("play", [large_model(), making(as_json), making(chunked)])
@pytest.mark.parametrize("wanted", [ALL, ("label",), ("confidence", "logits"), ("class",)])
def test_the_larger_models_answer_is_given(
    tmp_path: Path, play: Play, wanted: tuple[str, ...]
) -> None:
    """Binary, JSON or chunked: exactly the wanted outputs, in their order and types."""

    async def story() -> None:
        async with gateway(tmp_path, play) as made:
            outcome = await made.ask(wanted=wanted)
            assert right(outcome)
            assert tuple(outcome.outputs or ()) == wanted
            assert made.escalator.counts["escalated"] == 1

    run(story())


def test_rows_travel_as_a_binary_tensor_and_nothing_else_does(tmp_path: Path) -> None:
    """The rows exactly, the wanted outputs, the token; no slot, block or gateway."""
    (tmp_path / "token").write_text("open-sesame\n")

    async def story() -> None:
        async with gateway(tmp_path, large_model(), token_file=tmp_path / "token") as made:
            assert right(await made.ask(rows=5), rows=5)
            (request,) = made.server.requests
            assert request.line == "POST /v2/models/large/infer HTTP/1.1"
            assert request.headers["authorization"] == "Bearer open-sesame"
            length = int(request.headers["inference-header-content-length"])
            assert request.body[length:] == toy_inputs(5).tobytes()
            head = json.loads(request.body[:length])
            assert head.keys() == {"inputs", "outputs"}
            assert [tuple(sorted(each)) for each in head["inputs"]] == [
                ("datatype", "name", "parameters", "shape")
            ]
            assert set(request.headers) == {
                "host", "content-length", "content-type", "authorization",
                "inference-header-content-length",
            }  # fmt: skip

    run(story())


def test_another_fedge_server_is_an_upstream_server(tmp_path: Path) -> None:
    """The app of another gateway understands what is sent, and its answer is taken."""

    async def story() -> None:
        upstream = make_app(make_served(tmp_path / "centre", "large", counter=2))
        async with listening(upstream) as port, gateway(tmp_path / "edge", hang) as made:
            settings = with_escalation(
                tmp_path / "edge",
                url=f"http://127.0.0.1:{port}",
                model="large",
                confidence_below=1.0,
            )
            escalator = Escalator.open(settings, TASK)
            assert escalator is not None
            inputs = toy_inputs(4)
            outcome = await escalator.escalate(inputs, served(inputs), MAY, ALL)
            assert outcome.outputs is not None
            logits = outcome.outputs["logits"]
            assert np.allclose(np.asarray(logits), toy_logits(2, inputs), atol=1e-4)
            assert made.server.connections == 0
            escalator.close()

    run(story())


# --- every failure leaves the local answer


def spoiled(name: str, value: Any) -> Play:
    def spoil(outputs: dict[str, Any]) -> None:
        outputs[name] = value

    return large_model(spoil=spoil)


def changed(change: Callable[[dict[str, Any]], Any]) -> Play:
    return large_model(change=change)


LOGITS = np.ones((2, 3), np.float32)
FAILURES: dict[str, Play] = {
    "500": plays(answer(b'{"error": "no"}', 500)),
    "404": plays(answer(b'{"error": "no"}', 404)),
    "429": plays(answer(b"{}", 429, headers="Retry-After: 1\r\n")),
    "an output too many": spoiled("heatmap", LOGITS),
    "a redirect": plays(answer(b"", 302, headers="Location: http://127.0.0.1:1/\r\n")),
    "no HTTP": plays(b"garbage\r\n\r\n"),
    "closed at once": plays(b"", then_close=True),
    "closed mid-answer": plays(answer(b"x" * 99)[:60], then_close=True),
    "no JSON": plays(answer(b"garbage")),
    "JSON of another kind": plays(answer(b"[1]")),
    "no outputs": plays(answer(b'{"outputs": 3}')),
    "deep JSON": plays(answer(b'{"outputs":' + b"[" * 100_000)),
    "JSON with NaN": plays(answer(b'{"outputs": [{"name": "logits", "data": [NaN]}]}')),
    "packed": plays(answer(b"{}", headers="Content-Encoding: gzip\r\n")),
    "wrong header length": plays(
        answer(b"{}", headers="Inference-Header-Content-Length: 99\r\n")
    ),
    "NaN": spoiled("logits", LOGITS * np.float32("nan")),
    "infinity": spoiled("logits", LOGITS * np.float32("inf")),
    "NaN confidence": spoiled("confidence", np.array([0.5, np.nan], np.float32)),
    "confidence over 1": spoiled("confidence", np.array([0.5, 1.5], np.float32)),
    "negative confidence": spoiled("confidence", np.array([0.5, -0.5], np.float32)),
    "no such class": spoiled("class", np.array([0, 3])),
    "negative class": spoiled("class", np.array([0, -1])),
    "no such label": spoiled("label", ["red", "pink"]),
    "contradiction": spoiled("class", np.array([2, 2])),
    "too few rows": spoiled("logits", LOGITS[:1]),
    "too many classes": spoiled("logits", np.ones((2, 4), np.float32)),
    "another shape": spoiled("logits", LOGITS.ravel()),
    "an output missing": large_model(spoil=lambda outputs: outputs.pop("class")),
    "another datatype": changed(lambda h: h["outputs"][0].update(datatype="FP64")),
    "another name": changed(lambda h: h["outputs"][0].update(name="scores")),
    "an output twice": changed(lambda h: h["outputs"].append(h["outputs"][0])),
    "a size too small": changed(lambda h: h["outputs"][0]["parameters"].update(binary_data_size=4)),
    "a size too large": changed(
        lambda h: h["outputs"][-1]["parameters"].update(binary_data_size=9999)
    ),
    "a negative size": changed(
        lambda h: h["outputs"][0]["parameters"].update(binary_data_size=-24)
    ),
    "a size that is true": changed(
        lambda h: h["outputs"][0]["parameters"].update(binary_data_size=True)
    ),
    "both forms": changed(lambda h: h["outputs"][0].update(data=[1.0] * 6)),
    "bytes left over": large_model(tail=b"1234"),
    "parameters of another kind": changed(lambda h: h["outputs"][0].update(parameters=[1])),
    "bools for numbers": changed(
        lambda h: h["outputs"][0].update(parameters={}, data=[True] * 6)
    ),
}  # fmt: skip


def test_every_failure_leaves_the_local_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the upstream server does, the outcome is `failed`, and the log says why."""

    async def story() -> None:
        for name, play in FAILURES.items():
            async with gateway(tmp_path, play) as made:
                caplog.clear()
                outcome = await made.ask(marks=MAY)
                assert outcome == EscalationOutcome(True, None, "failed"), name
                assert len(made.server.requests) == 1, name
                assert "escalation failed: " in caplog.text, name
                assert made.escalator.counts["failed"] == 1

    run(story())


def test_an_absent_server_leaves_the_local_answer(tmp_path: Path) -> None:
    """Nobody listens there."""

    async def story() -> None:
        async with gateway(tmp_path, hang) as made:
            pass
        assert (await made.ask()).reason == "failed"

    run(story())


def test_a_caller_waits_no_longer_than_the_deadline(tmp_path: Path) -> None:
    """A silent server: the outcome is `deadline`, and the server is left."""

    async def story() -> None:
        async with gateway(tmp_path, hang, deadline_s=0.05) as made:
            asking = asyncio.wait_for(made.ask(), SOON_S)
            assert await asking == EscalationOutcome(True, None, "deadline")
            await asyncio.wait_for(made.server.gone.wait(), SOON_S)

    run(story())


def test_a_cancelled_caller_ends_the_upstream_request(tmp_path: Path) -> None:
    """Nothing goes on for a caller that is gone, and it is no fault of the server."""

    async def story() -> None:
        async with gateway(tmp_path, hang) as made:
            for asked in range(1, 7):
                made.server.gone.clear()
                asking = asyncio.ensure_future(made.ask())
                while len(made.server.requests) < asked:
                    await asyncio.sleep(0.001)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                await asyncio.wait_for(made.server.gone.wait(), SOON_S)
            assert sum(made.escalator.counts.values()) == 0
            made.server.play = large_model()
            assert right(await made.ask())

    run(story())


def test_our_own_mistakes_stay_here_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error is an outcome, and the log does not repeat what a row held."""

    async def story() -> None:
        async with gateway(tmp_path, large_model()) as made:
            rows = np.array([["canary-value"] * 6]).reshape(1, 2, 3)
            local = served(toy_inputs(1))
            outcome = await made.escalator.escalate(rows, local, MAY, ALL)
            assert outcome.reason == "failed"
            assert (await made.ask(wanted=("logits", "heatmap"))).reason == "failed"
            assert made.server.connections == 0

    run(story())
    assert "ValueError" in caplog.text
    assert "canary" not in caplog.text


def test_a_broken_server_is_left_alone_for_a_while(tmp_path: Path) -> None:
    """After five failures in a row nothing is sent, nor spent, until a trial is due."""

    async def story() -> None:
        async with gateway(tmp_path, FAILURES["500"], per_minute=7) as made:
            for _ in range(20):
                assert (await made.ask()).reason == "failed"
            assert len(made.server.requests) == 5
            made.server.play = large_model()
            made.monotonic.now += 31
            assert right(await made.ask())
            assert right(await made.ask())
            assert (await made.ask()).reason == "budget"

    run(story())


# --- who is not asked about


@pytest.mark.parametrize("purposes", [INFERENCE, INFERENCE | MONITORING, 0, 7])
def test_a_record_without_the_purpose_is_never_sent(tmp_path: Path, purposes: int) -> None:
    """Not a byte, not even a connection; and the answer is not marked."""

    async def story() -> None:
        async with gateway(tmp_path, large_model()) as made:
            assert await made.ask(marks=Marks(purposes)) == EscalationOutcome(False)
            assert made.server.connections == 0
            assert sum(made.escalator.counts.values()) == 0

    run(story())


def test_nothing_is_sent_for_a_block_without_grant(tmp_path: Path) -> None:
    """One row of another block keeps the whole request here; grants are seen as they change."""

    async def story() -> None:
        async with gateway(tmp_path, large_model()) as made:
            path = made.settings.state_dir / GRANTS_FILE
            inputs = toy_inputs(2)
            for blocks, reason in (([3, 4], ""), ([4, 5], "not-granted"), ([5, 5], "not-granted")):
                local = served(inputs)
                local.blocks = blocks
                assert (await made.escalator.escalate(inputs, local, MAY, ALL)).reason == reason
            write_grants(path, [5])
            local.blocks = [5, 5]
            assert right(await made.escalator.escalate(inputs, local, MAY, ALL))
            for damaged in (
                b"", b"[5]", b'{"version": 2, "blocks": [5]}', b'{"version": 1, "blocks": 5}',
                b'{"version": 1, "blocks": ["5"]}', b'{"version": 1, "blocks": [true, 5]}',
                b"\xff", b"[" * 100_000,
            ):  # fmt: skip
                path.write_bytes(damaged)
                outcome = await made.escalator.escalate(inputs, local, MAY, ALL)
                assert outcome.reason == "not-granted", damaged
            path.unlink()
            assert (await made.ask()).reason == "not-granted"
            assert len(made.server.requests) == 2

    run(story())


def test_an_easy_request_stays_here(tmp_path: Path) -> None:
    """Where the local model is sure of every row, nobody else is asked and nothing is marked."""

    async def story() -> None:
        async with gateway(tmp_path, large_model(), confidence_below=0.01) as made:
            assert await made.ask() == EscalationOutcome(False)
            assert made.server.connections == 0

    run(story())


def scores(logits: list[list[float]]) -> Scores:
    rows = np.array(logits, np.float32)
    return Scores.from_outputs(rows, np.zeros((len(rows), 1), np.float32))


SURE, UNSURE, UNKNOWN, STRANGE = [9.0, 0, 0], [0.1, 0, 0], [np.nan, 0, 0], [-50.0, -70, -70]


@pytest.mark.parametrize(
    ("hardness", "rows", "hard"),
    [
        (Hardness(0.9, None), [SURE, SURE], False),
        (Hardness(0.9, None), [SURE, UNSURE], True),
        (Hardness(0.9, None), [SURE, STRANGE], False),
        (Hardness(0.0, None), [UNSURE, STRANGE], False),
        (Hardness(0.0, 0.0), [SURE, STRANGE], True),
        (Hardness(0.0, 0.0), [SURE, UNSURE], False),
        (Hardness(0.0, None), [SURE, UNKNOWN], True),
        (Hardness(0.0, 1e9), [UNKNOWN], True),
    ],
)
def test_hard_rows(hardness: Hardness, rows: list[list[float]], hard: bool) -> None:
    """One row of low confidence, of a high OOD score or of unknown confidence suffices."""
    assert hardness.any(scores(rows)) is hard


# --- the budget


def test_the_budget_is_kept_exactly_under_concurrency(tmp_path: Path) -> None:
    """Of many requests at once so many are sent as the budget holds, and the others marked."""

    async def story() -> None:
        async with gateway(tmp_path, large_model(), per_minute=7) as made:
            outcomes = await asyncio.gather(*(made.ask(seed) for seed in range(50)))
            assert sum(o.outputs is not None for o in outcomes) == 7
            assert {o.reason for o in outcomes if o.outputs is None} == {"budget"}
            assert len(made.server.requests) == 7
            counted = read_counts(counts_path(made.settings.runtime_dir, "toy", "A"))
            assert counted == made.escalator.counts
            assert {k: v for k, v in counted.items() if v} == {"escalated": 7, "budget": 43}
            made.clock.now += 59.9
            assert (await made.ask()).reason == "budget"
            made.clock.now += 0.2
            assert right(await made.ask())

    run(story())


def test_failures_spend_the_budget(tmp_path: Path) -> None:
    """What was sent was spent, whatever came back; and it is never sent twice."""

    async def story() -> None:
        async with gateway(tmp_path, FAILURES["closed at once"], per_day=2) as made:
            reasons = [(await made.ask()).reason for _ in range(4)]
            assert reasons == ["failed", "failed", "budget", "budget"]
            assert len(made.server.requests) == 2

    run(story())


def test_a_restart_does_not_refill(tmp_path: Path) -> None:
    """The next worker goes on where the last one ended."""

    async def story() -> None:
        async with gateway(tmp_path, large_model(), per_day=3) as made:
            for _ in range(3):
                assert right(await made.ask())
                made.escalator = made.restart()
            made.clock.now += 86_399
            assert (await made.ask()).reason == "budget"
            made.clock.now += 2
            assert right(await made.ask())

    run(story())


def budget(path: Path, clock: Callable[[], float], **limits: int) -> EscalationBudget:
    return EscalationBudget(path, **{"per_minute": 3, "per_day": 5, **limits}, clock=clock)


def spend(some: EscalationBudget, tries: int = 20) -> int:
    return sum(some.take() for _ in range(tries))


def test_any_minute_and_any_day(tmp_path: Path) -> None:
    """The limits hold for every stretch of time, not only for those of a calendar."""
    clock = Clock()
    some = budget(tmp_path / "b", clock)
    moments: list[float] = []
    for _ in range(20_000):
        clock.now += 11
        left = some.left()
        assert some.take() is left
        if left:
            moments.append(clock.now)
    for limit, span_s in ((3, 60), (5, 86_400)):
        pairs = zip(moments, moments[limit:], strict=False)
        assert all(after - first >= span_s for first, after in pairs)
    assert len(moments) == 15


def test_a_clock_that_goes_back_does_not_refill(tmp_path: Path) -> None:
    """Time stands still at the jump and then goes on: nothing is refilled or blocked for long."""
    clock = Clock()
    some = budget(tmp_path / "b", clock)
    assert spend(some) == 3
    clock.now += 61
    assert spend(some) == 2
    clock.now -= 500_000
    assert (spend(some), spend(budget(tmp_path / "b", clock))) == (0, 0)
    clock.now += 86_400 - 61 - 1
    assert spend(some) == 0
    clock.now += 1
    assert spend(budget(tmp_path / "b", clock)) == 3


def test_several_workers_share_one_budget(tmp_path: Path) -> None:
    """During a swap two workers spend at once; together they get what one would."""
    taken: list[int] = []

    def work() -> None:
        taken.append(spend(budget(tmp_path / "b", Clock(), per_minute=90, per_day=70), 50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 70


KILLED = """
import os, signal, sys, time
from pathlib import Path
from fedge.serving.escalation_budget import EscalationBudget
some = EscalationBudget(Path(sys.argv[1]), per_minute=9, per_day=9, clock=lambda: 1e9)
assert [some.take() for _ in range(4)] == [True] * 4
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_has_spent_what_it_spent(tmp_path: Path) -> None:
    """kill -9 gives nothing back."""
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "b")], check=False)
    assert process.returncode == -9
    assert spend(budget(tmp_path / "b", Clock(), per_minute=9, per_day=9)) == 5


def test_other_limits_keep_what_was_spent(tmp_path: Path) -> None:
    """A changed setting holds from the next start on, and what was spent stays spent."""
    clock, path = Clock(), tmp_path / "b"
    assert spend(budget(path, clock, per_minute=4, per_day=4)) == 4
    assert spend(budget(path, clock, per_minute=4, per_day=100)) == 0
    clock.now += 60
    assert spend(budget(path, clock, per_minute=50, per_day=10)) == 6
    assert spend(budget(path, clock, per_minute=1, per_day=2)) == 0
    clock.now += 86_400
    assert spend(budget(path, clock, per_minute=1, per_day=2)) == 1


@pytest.mark.parametrize("limits", [{"per_minute": 0}, {"per_day": 0}])
def test_no_budget_is_no_escalation(tmp_path: Path, limits: dict[str, int]) -> None:
    """Zero means never."""
    some = budget(tmp_path / "b", Clock(), **limits)
    assert (some.left(), spend(some)) == (False, 0)


@pytest.mark.parametrize("damage", ["head", "moments", "short", "other"])
def test_a_damaged_file_counts_as_spent(tmp_path: Path, damage: str) -> None:
    """What was spent is not known, so nothing is left, until a day is over."""
    clock, path = Clock(), tmp_path / "b"
    assert spend(budget(path, clock)) == 3
    data = bytearray(path.read_bytes())
    if damage == "head":
        data[20] ^= 1
    elif damage == "moments":
        data = data[:-1]
    path.write_bytes({"short": b"x", "other": b"\x00" * 999}.get(damage, bytes(data)))
    clock.now += 61
    assert spend(budget(path, clock)) == 0
    clock.now += 86_400
    assert spend(budget(path, clock)) == 3


def test_a_budget_that_cannot_be_kept_keeps_requests_here(tmp_path: Path) -> None:
    """Where nothing can be written, nothing is sent."""

    async def story() -> None:
        async with gateway(tmp_path, large_model()) as made:
            path = made.settings.state_dir / "escalation.budget"
            path.unlink()  # made before the first request
            path.mkdir()
            made.escalator = made.restart()
            assert (await made.ask()).reason == "budget"
            assert made.server.connections == 0

    run(story())


def test_counts_that_are_none_are_not_read(tmp_path: Path) -> None:
    """An absent or foreign file is an error, never zero escalations."""
    for data in (None, b"", b"x" * 48):
        if data is not None:
            (tmp_path / "counts").write_bytes(data)
        with pytest.raises(StateError):
            read_counts(tmp_path / "counts")


# --- settings


def test_off_by_default(tmp_path: Path) -> None:
    """Without an address there is no escalator, and no file of one."""
    settings = make_gateway(tmp_path)
    assert Escalator.open(settings, TASK) is None
    assert not list(settings.state_dir.glob("escalation*"))


@pytest.mark.parametrize(
    "values",
    [
        {"url": "http://host"},
        {"url": "host", "model": "large"},
        {"url": "http://host", "model": "large", "token_file": "absent"},
        {"url": "http://host", "model": "large", "token_file": "two lines"},
        {"url": "https://host", "model": "large", "ca_file": "two lines"},
    ],
)
def test_wrong_settings_are_named_at_the_start(tmp_path: Path, values: dict[str, str]) -> None:
    """A worker with such settings does not come up."""
    (tmp_path / "two lines").write_text("a\nb\n")
    files = {k: tmp_path / v for k, v in values.items() if k.endswith("_file")}
    with pytest.raises(SettingError):
        Escalator.open(with_escalation(tmp_path, **{**values, **files}), TASK)


def test_each_model_has_an_upstream_of_its_own(tmp_path: Path) -> None:
    """A further model escalates by its own settings only, with files named beside the first's."""
    (tmp_path / "gateway.toml").write_text(
        """
        state_dir = "state"
        runtime_dir = "run"
        [escalation]
        url = "http://first"
        model = "large"
        [[models]]
        family = "quiet"
        task = "toy"
        [[models]]
        family = "loud"
        task = "toy"
        [models.escalation]
        url = "http://third"
        model = "larger"
        token_file = "token"
        """
    )
    settings = GatewaySettings.load(tmp_path / "gateway.toml")
    assert [each.escalation.url for each in settings.served] == ["http://first", "", "http://third"]
    assert settings.for_model("loud").escalation.token_file == tmp_path / "token"


# --- the agent's side, and both together


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    settings = make_gateway(tmp_path)
    state = StateFile(settings.state_dir / "state.sqlite")
    return Ledger(state, read_policy(settings.state_dir / "policy.toml"), clock=lambda: 5.0)


def excluded(ledger: Ledger) -> list[int]:
    """Blocks that the ledger says escalated records are excluded of."""
    entries = [read_entry(entry) for entry in ledger.entries()]
    return [e.block for e in entries if e.kind == "excluded" and e.what == "escalation"]


def always() -> bool:
    return True


def test_a_block_is_granted_once_the_ledger_names_it(tmp_path: Path, ledger: Ledger) -> None:
    """The present and the next block; the one before stays for its last requests."""
    path = tmp_path / GRANTS_FILE
    desk, granted = EscalationDesk(ledger, path, always), GrantedBlocks(path)
    assert not granted.cover([7])
    for block, named, then in ((7, [7, 8], 6), (7, [7, 8], 6), (8, [7, 8, 9], 6), (20, None, 9)):
        desk.cover(block)
        assert granted.cover([block, block + 1])
        assert not granted.cover([then]) and not granted.cover([block + 2])
        assert named is None or excluded(ledger) == named
    desk.cover(19)
    assert excluded(ledger) == [7, 8, 9, 20, 21, 19]
    desk.revoke()
    assert not granted.cover([20])
    ledger.check_chain()


def test_a_restarted_agent_grants_anew(tmp_path: Path, ledger: Ledger) -> None:
    """No entry is written twice, and what an earlier process granted goes."""
    path = tmp_path / GRANTS_FILE
    EscalationDesk(ledger, path, always).cover(7)
    EscalationDesk(ledger, path, always).cover(7)
    assert excluded(ledger) == [7, 8]
    EscalationDesk(ledger, path, always).cover(30)
    assert not GrantedBlocks(path).cover([7])
    EscalationDesk(ledger, path, always).revoke()
    assert not GrantedBlocks(path).cover([30])


def test_nothing_is_excluded_that_may_not_leave(tmp_path: Path, ledger: Ledger) -> None:
    """A task without the purpose has no entry, and loses the grants of the one before it."""
    path, allowed = tmp_path / GRANTS_FILE, [False]
    desk, granted = EscalationDesk(ledger, path, lambda: allowed[0]), GrantedBlocks(path)
    write_grants(path, [3])
    desk.cover(3)
    assert not granted.cover([3]) and excluded(ledger) == []
    allowed[0] = True
    desk.cover(3)
    assert granted.cover([3, 4]) and excluded(ledger) == [3, 4]
    allowed[0] = False
    desk.cover(4)
    assert not granted.cover([4]) and excluded(ledger) == [3, 4]


def test_no_grant_without_its_entry(tmp_path: Path) -> None:
    """A ledger that cannot be written grants nothing; a file that cannot be, loses no entry."""
    settings = make_gateway(tmp_path)
    state = StateFile(settings.state_dir / "state.sqlite")
    policy = read_policy(settings.state_dir / "policy.toml")
    ledger = Ledger(state, policy, clock=lambda: 5.0)
    with pytest.raises(OSError, match="absent"):
        EscalationDesk(ledger, tmp_path / "absent" / GRANTS_FILE, always).cover(7)
    assert excluded(ledger) == [7, 8]
    state.close()
    with pytest.raises(Exception, match="closed"):
        EscalationDesk(ledger, tmp_path / GRANTS_FILE, always).cover(9)
    assert not (tmp_path / GRANTS_FILE).exists()


MAY_ESCALATE = TASK.model_copy(update={"purposes": (*TASK.purposes, "escalation")})


def marked(inputs: npt.NDArray[np.float32], **parameters: str) -> bytes:
    return json.dumps({**json.loads(infer_body(inputs)), "parameters": parameters}).encode()


def test_a_callers_request_goes_all_the_way(tmp_path: Path) -> None:
    """Over real sockets: not before the agent's grant; then the larger model's numbers under the
    local record ids and release, marked; and nothing of a request that forbids it."""
    settings = make_served(tmp_path, task=MAY_ESCALATE)
    state = StateFile(settings.state_dir / "state.sqlite")
    policy = read_policy(settings.state_dir / "policy.toml")
    ledger = Ledger(state, policy, clock=lambda: 5.0)
    desk = EscalationDesk(ledger, settings.state_dir / GRANTS_FILE, always)
    inputs = toy_inputs(3, seed=5)

    async def story() -> None:
        async with FakeServer(large_model()) as upstream:
            wanted = EscalationSettings(url=upstream.url, model="large", confidence_below=1.0)
            served_here = settings.model_copy(update={"escalation": wanted})
            escalator = Escalator.open(served_here, MAY_ESCALATE)
            async with listening(make_app(served_here, escalator=escalator)) as port:
                client = HttpClient(Endpoint.parse(f"http://127.0.0.1:{port}"))

                async def infer(**parameters: str) -> Any:
                    got = await client.request(
                        "POST",
                        "/v2/models/toy/infer",
                        body=marked(inputs, **parameters),
                        timeout_s=SOON_S,
                    )
                    assert got.status == 200, got.body
                    return json.loads(got.body)

                early = await infer()
                assert early["parameters"]["fedge_escalated"] is False
                assert early["parameters"]["fedge_escalation"] == "not-granted"
                assert upstream.connections == 0
                desk.cover(0)
                forbidden = await infer(fedge_purposes="inference,monitoring,training")
                assert not {"fedge_escalated", "fedge_escalation"} & forbidden["parameters"].keys()
                assert upstream.connections == 0

                got = await infer()
                assert got["parameters"]["fedge_escalated"] is True
                assert "fedge_escalation" not in got["parameters"]
                values = {each["name"]: each["data"] for each in got["outputs"]}
                expected = toy_outputs(2, inputs)
                assert np.allclose(values["logits"], expected["logits"].ravel(), rtol=1e-6)
                assert values["class"] == expected["class"].tolist()
                assert values["label"] == expected["label"]
                assert (got["model_name"], got["model_version"]) == ("toy", "1")
                ids = got["parameters"]["fedge_record_ids"]
                assert ids == [f"{gateway_of(settings)}-0-{slot}" for slot in (6, 7, 8)]
                assert len(upstream.requests) == 1

                upstream.play = plays(answer(b"{}", 500))
                local = await infer()
                assert local["parameters"]["fedge_escalation"] == "failed"
                logits = np.array(local["outputs"][0]["data"]).reshape(3, 3)
                assert np.allclose(logits, toy_logits(1, inputs), atol=1e-4)
                client.close()
            assert escalator is not None
            escalator.close()

    run(story())
    assert excluded(ledger) == [0, 1]


def test_real_workers_keep_one_budget(tmp_path: Path) -> None:
    """A worker process escalates; killed with -9, its successor goes on with what is left."""
    settings = make_served(tmp_path, task=MAY_ESCALATE)
    write_grants(settings.state_dir / GRANTS_FILE, [0])
    inputs = toy_inputs(1)

    async def story() -> None:
        async with FakeServer(large_model()) as upstream:
            config = tmp_path / "gateway.toml"
            section = f"""
                [escalation]
                url = "{upstream.url}"
                model = "large"
                confidence_below = 1.0
                per_day = 3
                deadline_s = {SOON_S}
            """
            config.write_text(config.read_text() + section)
            bound = socket.create_server(("127.0.0.1", 0))
            reasons = []
            for slot in ("A", "A"):
                worker = WorkerProcess(config, slot, bound)
                await asyncio.to_thread(worker.serve)
                client = HttpClient(Endpoint.parse(f"http://127.0.0.1:{worker.port}"))
                for _ in range(2):
                    got = await client.request(
                        "POST",
                        "/v2/models/toy/infer",
                        body=infer_body(inputs),
                        timeout_s=SOON_S,
                    )
                    parameters = json.loads(got.body)["parameters"]
                    reasons.append(parameters.get("fedge_escalation", "escalated"))
                    assert parameters["fedge_escalated"] is (reasons[-1] == "escalated")
                client.close()
                await asyncio.to_thread(worker.kill)
                worker.close()
            bound.close()
            assert reasons == ["escalated"] * 3 + ["budget"]
            assert len(upstream.requests) == 3

    run(story())
