"""Dynamic batching: who shares a run with whom shows in nothing but time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.gateways import TASK, fill_slot, make_gateway, toy_inputs, toy_logits
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import InferenceError, RequestError, SettingError
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving.batching import Batcher
from fedge.serving.engine import DirectEngine, Served
from fedge.serving.marks import Marks
from fedge.serving.release import ServedRelease, load_release
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout
from fedge.serving.ring_reader import RingReader

ALL = Marks(INFERENCE | MONITORING | TRAINING)
WATCHED = Marks(INFERENCE | MONITORING, b"s" * 16)
HUGE = np.full((1, 2, 3), 3e38, np.float32)
"""A row whose logits overflow."""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> ServedRelease:
    folder = tmp_path_factory.mktemp("gateway")
    gateway = make_gateway(folder)
    return load_release(fill_slot(gateway.state_dir, "A", 1), gateway)


class CountedEngine(DirectEngine):
    """A real engine that notes the rows of each run."""

    def __init__(self, release: ServedRelease, ring: RingWriter | None = None) -> None:
        super().__init__(release, ring, lambda slot, now: slot // 5, lambda: 7.0)
        self.runs: list[int] = []
        outputs = self.outputs

        def counted(inputs: Any) -> Any:
            self.runs.append(len(inputs))
            return outputs(inputs)

        self.outputs = counted


def rows_of(number: int, rows: int) -> Any:
    return toy_inputs(rows, seed=number)


async def together(batcher: Batcher, *requests: tuple[Any, Marks]) -> list[Any]:
    """Ask for all at once; answers or errors in the order of the requests."""
    asked = (batcher.infer(inputs, marks) for inputs, marks in requests)
    return await asyncio.gather(*asked, return_exceptions=True)


def test_concurrent_requests_share_a_run(release: ServedRelease) -> None:
    """Each gets its own rows' logits, and consecutive slots in the order of arrival."""
    engine = CountedEngine(release)
    batcher = Batcher(engine, max_rows=8, max_delay_ms=50)
    requests = [(rows_of(n, rows), ALL) for n, rows in enumerate((1, 2, 1, 4))]
    answers = asyncio.run(together(batcher, *requests))
    assert engine.runs == [8]
    assert [answer.first_slot for answer in answers] == [0, 1, 3, 4]
    for (inputs, _), answer in zip(requests, answers, strict=True):
        assert np.allclose(answer.logits, toy_logits(1, inputs), atol=1e-4)
        last = answer.first_slot + len(inputs)
        assert answer.blocks == [slot // 5 for slot in range(answer.first_slot, last)]
        assert len(answer.features) == len(answer.scores.predictions) == len(inputs)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12), most=st.integers(1, 10))
def test_runs_never_exceed_the_most_and_keep_order(
    release: ServedRelease, sizes: list[int], most: int
) -> None:
    """Whatever arrives together: runs stay within `max_rows` unless one request is larger."""
    engine = CountedEngine(release)
    requests = [(rows_of(n, size), ALL) for n, size in enumerate(sizes)]
    answers = asyncio.run(together(Batcher(engine, max_rows=most, max_delay_ms=0), *requests))
    assert [a.first_slot for a in answers] == [sum(sizes[:n]) for n in range(len(sizes))]
    assert sum(engine.runs) == sum(sizes)
    assert all(rows <= most or rows in sizes for rows in engine.runs)
    for (inputs, _), answer in zip(requests, answers, strict=True):
        assert np.allclose(answer.logits, toy_logits(1, inputs), atol=1e-4)


def test_a_bad_request_fails_alone(release: ServedRelease) -> None:
    """A row without a finite answer is refused to its caller, and no neighbour notices."""
    engine = CountedEngine(release)
    batcher = Batcher(engine, max_rows=8, max_delay_ms=50)
    good, bad, other = asyncio.run(
        together(batcher, (rows_of(1, 2), ALL), (HUGE, ALL), (rows_of(2, 5), ALL))
    )
    assert isinstance(bad, RequestError) and bad.status == 422
    assert isinstance(good, Served) and isinstance(other, Served)
    assert (good.first_slot, other.first_slot) == (0, 3)


def test_a_request_that_cannot_be_run_fails_alone(release: ServedRelease) -> None:
    """Where a shared run fails, each request finds out for itself."""
    engine = CountedEngine(release)
    batcher = Batcher(engine, max_rows=8, max_delay_ms=0)
    wrong = np.zeros((1, 2, 4), np.float32)
    good, bad, other = asyncio.run(
        together(batcher, (rows_of(1, 1), ALL), (wrong, ALL), (rows_of(2, 1), ALL))
    )
    assert isinstance(bad, InferenceError)
    assert isinstance(good, Served) and isinstance(other, Served)
    assert np.allclose(other.logits, toy_logits(1, rows_of(2, 1)), atol=1e-4)


def test_marks_stay_with_their_rows(release: ServedRelease, tmp_path: Path) -> None:
    """In the ring each row has the purposes and the subject of its own request."""
    ring = RingWriter(tmp_path / "ring.bin", RowLayout.of(TASK), 64)
    batcher = Batcher(CountedEngine(release, ring), max_rows=6, max_delay_ms=50)
    asyncio.run(
        together(batcher, (rows_of(1, 2), ALL), (rows_of(2, 1), WATCHED), (rows_of(3, 3), ALL))
    )
    rows, _ = RingReader(tmp_path / "ring.bin").read(0, 10)
    assert rows["slot"].tolist() == list(range(6))
    assert rows["purposes"].tolist() == [7, 7, 3, 7, 7, 7]
    assert [bool(subject.any()) for subject in rows["subject"]] == [False, False, True] + [
        False
    ] * 3
    assert np.array_equal(rows["inputs"][3:], rows_of(3, 3).reshape(3, 6))


def test_a_lone_request_waits_no_longer_than_told(release: ServedRelease) -> None:
    """Nobody else comes: the delay ends, and the request runs by itself."""
    engine = CountedEngine(release)
    answer = asyncio.run(Batcher(engine, max_rows=99, max_delay_ms=1).infer(rows_of(1, 1), ALL))
    assert answer.first_slot == 0 and engine.runs == [1]


def test_who_gave_up_is_left_out(release: ServedRelease) -> None:
    """A caller that went away before the run costs no slot and no time."""

    async def play() -> Served:
        batcher = Batcher(engine, max_rows=99, max_delay_ms=20)
        gone = asyncio.ensure_future(batcher.infer(rows_of(1, 3), ALL))
        stays = asyncio.ensure_future(batcher.infer(rows_of(2, 1), ALL))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        return await stays

    engine = CountedEngine(release)
    assert asyncio.run(play()).first_slot == 0 and engine.runs == [1]


def test_draining_answers_everybody_at_once(release: ServedRelease) -> None:
    """What waits is run, and nothing waits for others afterwards."""

    async def play() -> tuple[Served, Served]:
        batcher = Batcher(engine, max_rows=99, max_delay_ms=1e9)
        waiting = asyncio.ensure_future(batcher.infer(rows_of(1, 1), ALL))
        await asyncio.sleep(0)
        batcher.drain()
        first = await waiting
        return first, await batcher.infer(rows_of(2, 1), ALL)

    engine = CountedEngine(release)
    first, late = asyncio.run(play())
    assert (first.first_slot, late.first_slot) == (0, 1)


@pytest.mark.parametrize(
    "wrong", [{"max_rows": 0, "max_delay_ms": 1}, {"max_rows": 1, "max_delay_ms": float("nan")}]
)
def test_wrong_settings_are_refused(release: ServedRelease, wrong: dict[str, Any]) -> None:
    """A batcher that could never run, or wait for ever, is not made."""
    with pytest.raises(SettingError):
        Batcher(CountedEngine(release), **wrong)
