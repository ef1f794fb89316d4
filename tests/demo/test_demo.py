"""The demo closes the loop with real processes, and its figures can be counted again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from fedge.data.blocks import BlockStore
from fedge.delivery.candidate import read_manifest
from fedge.demo import evaluation
from fedge.demo.facts import RunFolder, cohort_run
from fedge.demo.guard import marked_processes
from fedge.demo.streams import evaluation_set, stream_of
from fedge.demo.summary import spendings
from fedge.identity import Identity
from fedge.learning.chosen import carried_choice, shipped_choice
from fedge.privacy.rdp import conversion
from fedge.records import CHOICE_FILE
from fedge.review.verifier import verify_bundle
from fedge.serving.scoring import Model
from fedge.statefile import StateFile
from fedge.tasks.camera import fault_named
from fedge.tasks.digits import SCHEMA

COMMAND = [sys.executable, "-m", "fedge.cli.main", "demo"]
OPTIONS = ["--gateways", "2", "--faulty", "1", "--quick", "--seed", "4", "--json"]
TIMEOUT_S = 600


def marks_of(folder: Path) -> set[str]:
    """Marks of the demo runs whose processes are alive and work in `folder`."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(folder).encode() in command:
                found |= {
                    e.split(b"=", 1)[1].decode()
                    for e in environment
                    if e.startswith(b"FEDGE_RUN_MARK=")
                }
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """A short run of two gateways, one of which drifts."""
    runs = tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [*COMMAND, *OPTIONS, "--runs", str(runs)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = RunFolder((runs / "latest").resolve())
    assert json.loads(done.stdout) == json.loads(folder.summary.read_text())
    yield folder


@pytest.fixture(scope="module")
def summary(finished: RunFolder) -> dict[str, Any]:
    return dict(json.loads(finished.summary.read_text()))


pytestmark = [pytest.mark.slow, pytest.mark.timeout(TIMEOUT_S + 60)]


def test_the_loop_closed(summary: dict[str, Any]) -> None:
    """No request failed, the fault was seen once, and the cohort alone took the release."""
    assert summary["failed_requests"] == 0 and summary["rows_served"] > 0
    assert summary["drift"]["false_alarms"] == 0 and summary["drift"]["episodes"] == 1
    assert summary["release"]["counter"] == 2 and summary["gateways_committed"] == 1
    delay = summary["drift"]["detected_window"] - summary["drift"]["onset_window"]
    assert 0 <= delay <= 2
    assert summary["update_bytes"] * 20 <= summary["full_model_bytes"]
    accuracy = summary["accuracy"]
    assert accuracy["undrifted_before"] - accuracy["undrifted_after"] <= 0.01


def test_the_release_carries_the_study_that_chose_its_adapter(
    finished: RunFolder, summary: dict[str, Any]
) -> None:
    """The shipped one: signed with the release, followed by the run, named by the report."""
    run = cohort_run(finished.plan(), finished)
    with finished.facts() as facts:
        (spec,) = (r.spec for r in facts.runs() if r.spec.run_id == run.run_id)
    candidate = finished.candidate(run.run_id)
    choice = carried_choice(candidate, spec)

    assert choice is not None and choice.to_bytes() == shipped_choice("digits")
    assert choice.chosen.differs(spec.plan) == ""
    assert read_manifest(candidate).files[CHOICE_FILE].sha256 == spec.choice_sha256
    assert summary["release"]["adapter_choice_sha256"] == choice.content_sha256
    page = (finished.path / "compliance.html").read_text()
    assert f"study {choice.content_sha256[:16]}" in page


def test_accuracies_are_counted_from_the_evaluations(
    finished: RunFolder, summary: dict[str, Any]
) -> None:
    """Every accuracy and share in the summary follows from the rows of evaluations.parquet."""
    rows = pq.read_table(finished.evaluations).to_pandas()
    rows["right"] = rows["label"] == rows["prediction"]
    (drifted,) = rows[rows["condition"] == "fault"]["gateway"].unique()

    def share(condition: str, model: str, gateway: str = drifted) -> float:
        chosen = rows[
            (rows["gateway"] == gateway)
            & (rows["condition"] == condition)
            & (rows["model"] == model)
        ]
        assert len(chosen) == 5 * 397
        return float(chosen["right"].mean())

    accuracy = summary["accuracy"]
    before, stale = share("clean", "first"), share("fault", "first")
    after, goal = share("fault", "committed"), share("fault", "nonprivate-input")
    best = max(goal, share("fault", "nonprivate-head"))
    found = [before, stale, after, goal, best]
    told = ["before", "stale", "after", "nonprivate", "nonprivate_best"]
    assert found == pytest.approx([accuracy[name] for name in told])
    assert summary["recovered_share"] == pytest.approx((after - stale) / (goal - stale))
    assert summary["restored_share"] == pytest.approx((after - stale) / (before - stale))
    drop = share("fault", "committed-float") - share("fault", "committed-int8")
    assert summary["release"]["int8_accuracy_drop"] == pytest.approx(drop)


def test_a_reviewer_can_verify_the_ledgers(finished: RunFolder, summary: dict[str, Any]) -> None:
    """The bundle holds real ledgers, countersigned; its worst block is the summary's."""
    verdict = verify_bundle(finished.path / "ledger-bundle.zip")
    assert verdict.accepted and verdict.facts is not None, verdict.deviations[:1]
    found = {one.name: one for one in verdict.facts.gateways}

    assert set(found) == set(finished.gateways)
    assert all(one.witnessed_size > 0 for one in found.values())
    worst = max(block.epsilon for one in found.values() for block in one.blocks)
    assert worst == pytest.approx(summary["privacy"]["epsilon_max"], abs=1e-9)
    page = (finished.path / "compliance.html").read_text()
    assert "REJECTED" not in page and "What privacy costs in accuracy" in page
    assert "Not measured" not in page


def test_predictions_come_from_the_published_models(finished: RunFolder) -> None:
    """Playing the evaluation set again through the release's file gives the same predictions."""
    plan, run = finished.plan(), cohort_run(finished.plan(), finished)
    (member,) = run.members
    candidate = finished.candidate(run.run_id)
    manifest = read_manifest(candidate)
    (variant,) = set(manifest.variants.values())
    inputs, _ = evaluation_set(plan, member.number, fault_named(plan.fault))
    predicted = np.concatenate(
        [
            Model.load(candidate / f"model.{variant}.onnx", SCHEMA).run(part).predictions
            for part in np.array_split(inputs, 3)
        ]
    )

    rows = pq.read_table(finished.evaluations).to_pandas()
    told = rows[(rows["model"] == evaluation.COMMITTED) & (rows["gateway"] == member.name)]
    told = told[told["condition"] == "fault"]
    assert set(told["release_sha256"]) == {manifest.content_sha256}
    assert np.array_equal(told["prediction"].to_numpy(), predicted)


def test_epsilon_is_what_the_ledgers_say(finished: RunFolder, summary: dict[str, Any]) -> None:
    """The worst block, its whole telemetry share included, converted at the policy's order."""
    policy_alpha, delta = 8, 1e-5
    totals = [
        spending.telemetry_nano + spending.training_nano
        for name in finished.gateways
        for spending in spendings(finished, name)
    ]

    epsilon = max(totals) / 1e9 + conversion(policy_alpha, delta)

    assert summary["privacy"]["epsilon_max"] == pytest.approx(epsilon, abs=1e-6)
    assert epsilon <= summary["privacy"]["budget"] == 3.0
    assert summary["privacy"]["delta"] == delta


def test_training_records_are_the_streams_rows(finished: RunFolder) -> None:
    """training.parquet names records of the gateway's own store; they are rows of its stream."""
    plan, run = finished.plan(), cohort_run(finished.plan(), finished)
    (member,) = run.members
    told = pq.read_table(finished.training).to_pydict()["record"]
    slots = [int(record.rsplit("-", 1)[1]) for record in told]
    assert len(slots) == plan.records and all(slot % plan.label_every == 0 for slot in slots)
    identity = Identity.load(finished.state_dir(member.name) / "identity.pem")
    assert all(record.startswith(identity.fingerprint[:8]) for record in told)

    state = StateFile(finished.state_dir(member.name) / "state.sqlite")
    try:
        store = BlockStore(finished.state_dir(member.name) / "blocks", state)
        window = store.window_of(slots[0]), store.window_of(slots[-1])
        assert window[0] is not None and window[1] is not None
        kept = store.labelled(window[0], window[1], 10_000)
    finally:
        state.close()
    place = kept.slots.tolist().index(slots[0])
    row = stream_of(plan, member.number).rows(slots[0], 1)
    assert np.array_equal(kept.inputs[place], row.inputs.ravel())
    assert kept.labels[place] == row.labels[0]


def test_replaying_the_reports_gives_the_same_episodes(
    finished: RunFolder, summary: dict[str, Any]
) -> None:
    """Facts are stored, verdicts derived: the same reports tell the same story again."""
    again, once_more = finished.assess(), finished.assess()

    assert again == once_more
    assert [e.state for e in again.episodes] == ["closed"]
    (name,) = [n for n, f in finished.gateways.items() if f == again.episodes[0].gateway]
    told = summary["drift"]["by_gateway"][name]["detected_window"]
    assert again.episodes[0].opened_window == told


def test_the_report_is_self_contained(finished: RunFolder) -> None:
    """The page loads nothing and shows its plots."""
    page = finished.report.read_text()

    assert page.count("<svg") == 4
    assert "src=" not in page and "@import" not in page


def test_nothing_is_left_running(finished: RunFolder) -> None:
    """After a run no process of it lives."""
    assert marks_of(finished.path) == set()


@pytest.mark.parametrize(("number", "phase"), [(signal.SIGINT, 8.0), (signal.SIGKILL, 25.0)])
def test_an_interrupted_demo_leaves_no_process_but_its_logs(
    tmp_path: Path, number: signal.Signals, phase: float
) -> None:
    """Ctrl-C while starting, or kill -9 while serving: everything ends, the logs stay."""
    run = subprocess.Popen(
        [*COMMAND, "--gateways", "2", "--quick", "--runs", str(tmp_path)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + phase
    while time.monotonic() < deadline:
        assert run.poll() is None, "it must be interrupted, not end"
        time.sleep(0.1)
    marks = marks_of(tmp_path)
    assert len(marks) == 1
    assert marked_processes(next(iter(marks)))

    os.kill(run.pid, number)
    code = run.wait(timeout=60)

    deadline = time.monotonic() + 60
    while marked_processes(next(iter(marks))):
        assert time.monotonic() < deadline, "processes stayed"
        time.sleep(0.2)
    assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
    (folder,) = [p for p in tmp_path.iterdir() if p.is_dir() and not p.is_symlink()]
    assert list((folder / "logs").glob("*.log"))
    assert not (tmp_path / "latest").exists()
