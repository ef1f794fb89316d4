"""kill -9 of worker, agent or both, at any moment: ring and journal give the same counts.

What was being noised at a kill is a gap that the ledger tells; all else arrives.
"""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes.exact_noise import ExactNoise
from tests_clients import ALL_PURPOSES, TASK, WINDOW, Gateway, push_all

from fedge.identity import Envelope
from fedge.privacy.entries import Lost, WindowReserved, read_entry
from fedge.privacy.ledger import FEATURES, LABELS
from fedge.profiles.counts import count_window, join
from fedge.profiles.streams import stream_values
from fedge.profiles.wire import decode_report
from fedge.records import LabelReport, WindowReport
from fedge.serving.marks import Marks
from fedge.serving.ring_file import RowLayout
from fedge.serving.ring_opening import open_writer
from fedge.serving.scores import Scores

ROWS, KILLS = 1200, 12
WATERMARK = 2
"""Windows, as the fixture sets it."""


def content(slot: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, logits and features of the row in a slot: the same, whoever serves it."""
    drawn = np.random.default_rng(slot).normal(size=(1, 5)).astype(np.float32)
    return drawn[:, :2], drawn[:, 2:4], drawn[:, 4:]


def serve(gateway: Gateway) -> None:
    """What a worker does, until all rows are served; it goes on where a killed one stopped."""
    writer = open_writer(gateway.writer_path, RowLayout.of(TASK), 4096)
    marks = Marks(ALL_PURPOSES)
    while writer.next_slot < ROWS:
        rows = [content(writer.next_slot + n) for n in range(1 + writer.next_slot % 3)]
        inputs, logits, features = (np.concatenate(column) for column in zip(*rows, strict=True))
        first = writer.append(
            lambda slot, now: slot // 200, 1, 1000.0, marks, inputs, logits, features
        )
        # A kill in between loses these labels; nothing makes them more.
        writer.append_labels(np.array([first]), np.array([0], dtype=np.int32))
        time.sleep(0.0005)


def watch(gateway: Gateway) -> None:
    """What an agent does, for ever."""
    agent = gateway.start()
    while True:
        agent.watch_once()


def started(work: Callable[[Gateway], None], gateway: Gateway) -> int:
    """`work` in a process of its own."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(gateway)
            code = 0
        except BaseException:  # noqa: BLE001  a child must never return into pytest
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def killed(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    # A worker may have finished before.
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("window_s", [0.0, 0.05])
def test_every_row_is_counted_once(make_gateway: Callable[..., Gateway], window_s: float) -> None:
    """A window's exact counts are those of its slots' rows, told gaps apart; all rows are kept."""
    gateway = make_gateway(noise=ExactNoise(), window_s=window_s, block_windows=10, label_rho=0.005)
    gateway.close()
    moments = random.Random(7)
    worker, agent = started(serve, gateway), started(watch, gateway)
    for _ in range(KILLS):
        time.sleep(moments.uniform(0.02, 0.12))
        whom = moments.choice(["worker", "agent", "both"])
        if whom != "agent":
            killed(worker)
            worker = started(serve, gateway)
        if whom != "worker":
            killed(agent)
            agent = started(watch, gateway)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 0
    killed(agent)

    last = gateway.start()
    while last.watch_once():
        pass
    push_all(last)
    found, gaps = reports(gateway), lost(gateway)
    windows = {r.window for r in found}
    assert sorted([*windows, *gaps[FEATURES]]) == list(range(last.watcher.windows))
    assert last.watcher.withheld == len(gaps[FEATURES]) <= KILLS
    assert found[-1].first_slot + found[-1].slots >= ROWS - 2 * WINDOW
    neighbours = [(a, b) for a, b in pairwise(found) if b.window == a.window + 1]
    assert all(a.first_slot + a.slots == b.first_slot for a, b in neighbours)
    assert all(r.dropped == 0 and r.slots <= WINDOW for r in found)
    for report in found:
        assert exact(report) == recounted(gateway, report).tolist()
    told = pairs(gateway)
    assert len(gaps[LABELS]) <= KILLS
    # A window without a report has no pair either.
    due = set(range(last.watcher.windows - WATERMARK)) - set(gaps[FEATURES])
    assert sorted([*(pair.window for pair in told), *gaps[LABELS]]) == sorted(due)
    for pair in told:
        right, wrong = labelled(gateway, pair.window)
        assert pair.right <= right and pair.wrong <= wrong
        # By time windows also close while a worker is kept from telling its label.
        assert window_s or (pair.right, pair.wrong) == (right, wrong)
    assert sum(pair.right + pair.wrong for pair in told) > ROWS / 4
    slots = kept(gateway)
    assert slots == list(range(len(slots))) and len(slots) >= ROWS - WINDOW
    last.ledger.check_chain()


def reports(gateway: Gateway) -> list[WindowReport]:
    envelopes = [Envelope.from_bytes(data) for data in gateway.centre.taken]
    found = [decode_report(e.payload) for e in envelopes if e.header.kind == "report"]
    return sorted(found, key=lambda report: report.window)


def pairs(gateway: Gateway) -> list[LabelReport]:
    envelopes = [Envelope.from_bytes(data) for data in gateway.centre.taken]
    found = [LabelReport.from_bytes(e.payload) for e in envelopes if e.header.kind == "labels"]
    return sorted(found, key=lambda pair: pair.window)


def lost(gateway: Gateway) -> dict[str, list[int]]:
    """Windows whose draw the ledger notes as lost, by purpose."""
    assert gateway.agent is not None
    entries = [read_entry(data) for data in gateway.agent.ledger.entries()]
    window = {e.reservation: e.window for e in entries if isinstance(e, WindowReserved)}
    gaps = [e for e in entries if isinstance(e, Lost)]
    return {
        purpose: [window[gap.reservation] for gap in gaps if gap.key == purpose]
        for purpose in (FEATURES, LABELS)
    }


def labelled(gateway: Gateway, window: int) -> tuple[int, int]:
    """Right and wrong answers among the labelled rows of a window, of rows as they were served."""
    assert gateway.agent is not None
    kept = gateway.agent.store.labelled(window, window, ROWS)
    right = sum(int(content(slot)[1].argmax()) == 0 for slot in kept.slots.tolist())
    return right, len(kept) - right


def exact(report: WindowReport) -> list[int]:
    return [count for feature in report.features for count in feature.counts]


def recounted(gateway: Gateway, report: WindowReport) -> np.ndarray:
    """The exact counts of the rows that were served in the slots of a window."""
    assert gateway.agent is not None
    installed = gateway.agent.installed.get(1)
    assert installed is not None
    rows = [content(slot) for slot in range(report.first_slot, report.first_slot + report.slots)]
    logits = np.concatenate([np.empty((0, 2), np.float32), *(row[1] for row in rows)])
    features = np.concatenate([np.empty((0, 1), np.float32), *(row[2] for row in rows)])
    scores = Scores.from_outputs(logits, features)
    values = stream_values(
        installed.task, scores.features, scores.predictions, scores.confidence, scores.ood
    )
    return join(count_window(installed.reference, values))


def kept(gateway: Gateway) -> list[int]:
    """Slots of all rows in the block store, by window."""
    assert gateway.agent is not None
    names = gateway.agent.state.rows("SELECT part FROM block_windows ORDER BY window")
    folder = gateway.settings.state_dir / "blocks"
    return [s for (name,) in names for s in pq.read_table(folder / name)["slot"].to_pylist()]
