"""The figures of a run, derived from what it left on disk.

Whoever doubts one can derive it again: `summarise` reads the plan, the centre's
stored reports and runs, the gateways' ledgers and block stores, the releases and
`evaluations.parquet`; only what no file can tell (times, served and failed requests)
is handed in.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fedge.data.blocks import BlockStore
from fedge.delivery.journal import InstallJournal
from fedge.demo import evaluation
from fedge.demo.facts import CohortRun, RunFolder, cohort_run
from fedge.demo.plan import PlayPlan
from fedge.drift.fleet.episodes import Episode
from fedge.errors import RunFailedError
from fedge.learning.chosen import NOT_RECORDED, carried_choice
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import read_policy
from fedge.records import BlockSpending, PrivacyPolicy, ReleaseManifest, RunResult
from fedge.serving.record_ids import id_prefix
from fedge.statefile import StateFile


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """What only the play itself knows.

    Attributes:
        setup_s: seconds that setting up the environment took; None if it was there.
        wall_s: seconds from the start of the demo until now.
    """

    setup_s: float | None
    wall_s: float
    rows_served: int
    failed_requests: int


def summarise(folder: RunFolder, played: Played) -> dict[str, Any]:
    """Everything that `summary.json` holds.

    Raises:
        RunFailedError: the loop did not close: no release came of it, or what the gateways
            trained on is not what the public rule says.
    """
    plan, run = folder.plan(), cohort_run(folder.plan(), folder)
    table = pq.read_table(folder.evaluations)
    write_training(folder, run)
    assessment = folder.assess()
    committed = {name: _status(folder, name) for name in folder.gateways}
    policy = read_policy(folder.settings.policy)
    episodes = assessment.episodes
    return {
        "seed": plan.seed,
        "gateways": plan.gateways,
        "faulty": plan.faulty,
        "fault": plan.fault,
        "setup_s": played.setup_s,
        "wall_s": played.wall_s,
        "rows_served": played.rows_served,
        "failed_requests": played.failed_requests,
        "drift": drift_figures(plan, folder, episodes),
        "accuracy": (accuracies := accuracy_figures(plan, run, table, committed)),
        "recovered_share": share(accuracies, "nonprivate"),
        "restored_share": share(accuracies, "before"),
        "privacy": privacy_figures(folder, policy),
        "release": release_figures(folder, run, table),
        "loop_s": loop_seconds(plan, folder, run),
        "gateways_committed": sum(committed[member.name] == run.release for member in run.members),
        "update_bytes": max(_result(folder, run).update_bytes),
        "full_model_bytes": evaluation.read_candidate(folder.candidate(run.run_id))
        .float_.stat()
        .st_size,
    }


def drift_figures(
    plan: PlayPlan, folder: RunFolder, episodes: tuple[Episode, ...]
) -> dict[str, Any]:
    """When drift began and was noticed, in each gateway's own window numbers."""
    by_gateway: dict[str, dict[str, int | None]] = {}
    false_alarms = 0
    for number, (name, fingerprint) in enumerate(folder.gateways.items()):
        own = [episode for episode in episodes if episode.gateway == fingerprint]
        onset = plan.onset_window(number)
        true = [e for e in own if onset is not None and _is_true(e, onset)]
        false_alarms += len(own) - len(true)
        by_gateway[name] = {
            "onset_window": onset,
            "detected_window": true[0].opened_window if true else None,
            "episodes": len(own),
        }
    hit = [name for name, figures in by_gateway.items() if figures["onset_window"] is not None]
    first = min(hit, key=lambda name: plan.onset_rows[int(name[1:])] or 0)
    return {
        "onset_window": by_gateway[first]["onset_window"],
        "detected_window": by_gateway[first]["detected_window"],
        "by_gateway": by_gateway,
        "false_alarms": false_alarms,
        "episodes": len(episodes),
    }


def _is_true(episode: Episode, onset: int) -> bool:
    """Opened on the first release, on reports that reach the fault."""
    return episode.release == 1 and episode.opened_window >= onset


def accuracy_figures(
    plan: PlayPlan, run: CohortRun, table: pa.Table, committed: dict[str, int]
) -> dict[str, float | None]:
    """Unweighted means over the drifted gateways, on their fixed evaluation sets.

    Args:
        committed: counter of the release that each gateway serves now.
    """
    drifted = [member.name for member in run.members]

    def mean(condition: str, model: str) -> float | None:
        return evaluation.accuracy(table, drifted, condition, model)

    own = mean(evaluation.FAULT, evaluation.NONPRIVATE + "input")
    yardsticks = [own, mean(evaluation.FAULT, evaluation.NONPRIVATE + "head")]
    figures = {
        "before": mean(evaluation.CLEAN, evaluation.FIRST),
        "stale": mean(evaluation.FAULT, evaluation.FIRST),
        "after": mean(evaluation.FAULT, evaluation.COMMITTED),
        "nonprivate": own,
        "nonprivate_best": max((y for y in yardsticks if y is not None), default=None),
    }
    undrifted = [f"g{n}" for n in range(plan.gateways) if f"g{n}" not in drifted]
    if undrifted:
        moved = any(committed[name] == run.release for name in undrifted)
        now = evaluation.COMMITTED if moved else evaluation.FIRST
        figures |= {
            "undrifted_before": evaluation.accuracy(
                table, undrifted, evaluation.CLEAN, evaluation.FIRST
            ),
            "undrifted_after": evaluation.accuracy(table, undrifted, evaluation.CLEAN, now),
        }
    return figures


def share(accuracies: dict[str, float | None], target: str) -> float | None:
    """(after - stale) / (target - stale); None where nothing was to be won, or is unknown."""
    after, stale, goal = accuracies["after"], accuracies["stale"], accuracies[target]
    if after is None or stale is None or goal is None or goal - stale <= 0:
        return None
    return (after - stale) / (goal - stale)


def privacy_figures(folder: RunFolder, policy: PrivacyPolicy) -> dict[str, float]:
    """What the worst block of any gateway was charged, at the policy's order."""
    worst = max(
        spending.epsilon for name in folder.gateways for spending in spendings(folder, name)
    )
    return {"epsilon_max": worst, "delta": policy.delta, "budget": policy.epsilon}


def spendings(folder: RunFolder, gateway: str) -> tuple[BlockSpending, ...]:
    """The blocks of a gateway's ledger, after its chain was replayed."""
    state = StateFile(folder.state_dir(gateway) / "state.sqlite")
    try:
        policy = read_policy(folder.state_dir(gateway) / "policy.toml")
        ledger = Ledger(state, policy, clock=time.time)
        ledger.check_chain()
        return ledger.spendings()
    finally:
        state.close()


def release_figures(folder: RunFolder, run: CohortRun, table: pa.Table) -> dict[str, Any]:
    """The release that the run led to, and what chose its adapter."""
    candidate = folder.candidate(run.run_id)
    manifest = ReleaseManifest.from_bytes((candidate / "release.json").read_bytes())
    choice = carried_choice(candidate, _result(folder, run).spec)
    drifted = [member.name for member in run.members]
    as_float = evaluation.accuracy(table, drifted, evaluation.FAULT, evaluation.COMMITTED_FLOAT)
    as_int8 = evaluation.accuracy(table, drifted, evaluation.FAULT, evaluation.COMMITTED_INT8)
    return {
        "counter": manifest.counter,
        "sha256": manifest.content_sha256,
        "variant": next(iter(manifest.variants.values())),
        "int8_accuracy_drop": (None if as_float is None or as_int8 is None else as_float - as_int8),
        "int8_time_ratio": manifest.measures.get("int8_time_ratio"),
        "adapter": run.adapter,
        "adapter_choice": NOT_RECORDED if choice is None else choice.describe(),
        "adapter_choice_sha256": None if choice is None else choice.content_sha256,
    }


def loop_seconds(plan: PlayPlan, folder: RunFolder, run: CohortRun) -> float:
    """Seconds from the window of the first faulty request to the last gateway's new release.

    From the stored reports: when the first onset's window opened, and when the first window on
    the release opened at the gateway that took it up last.
    """
    with folder.facts() as facts:
        reports = facts.reports()
    began, taken_up = [], []
    for member in run.members:
        own = {report.window: report for report in reports[member.fingerprint]}
        onset = plan.onset_window(member.number)
        if onset is not None and onset in own:
            began.append(own[onset].opened_at)
        taken_up.append(min(r.opened_at for r in own.values() if r.release == run.release))
    return max(taken_up) - min(began)


def write_training(folder: RunFolder, run: CohortRun) -> None:
    """Write `training.parquet`: ids of the records that each gateway's own store gives a run.

    Raises:
        RunFailedError: they are not those that the public rule says, on which the yardstick
            was trained.
    """
    with folder.facts() as facts:
        spec = next(r.spec for r in facts.runs() if r.spec.run_id == run.run_id)
    windows = {p.gateway: (p.first_window, p.last_window) for p in spec.participants}
    names, ids = [], []
    for member in run.members:
        state = StateFile(folder.state_dir(member.name) / "state.sqlite")
        try:
            store = BlockStore(folder.state_dir(member.name) / "blocks", state)
            records = store.labelled(*windows[member.fingerprint], spec.plan.divisor)
        finally:
            state.close()
        if tuple(records.slots.tolist()) != member.slots:
            raise RunFailedError(f"{member.name} trained on other records than the rule says")
        prefix = id_prefix(member.fingerprint)
        for block, slot in zip(records.blocks, records.slots, strict=True):
            names.append(member.name)
            ids.append(f"{prefix}-{block}-{slot}")
    pq.write_table(pa.table({"gateway": names, "record": ids}), folder.training)


def _result(folder: RunFolder, run: CohortRun) -> RunResult:
    path = folder.settings.objects_dir / "runs" / run.run_id / "result.json"
    return RunResult.from_bytes(path.read_bytes())


def _status(folder: RunFolder, gateway: str) -> int:
    """Counter of the release that a gateway has committed, from its own journal."""
    state = StateFile(folder.state_dir(gateway) / "state.sqlite")
    try:
        journal = InstallJournal(state)
        running = journal.running()
        return running.manifest.counter if running and journal.install().state == "committed" else 0
    finally:
        state.close()


def read_summary(path: Path) -> dict[str, Any]:
    """A run's `summary.json`."""
    return dict(json.loads(path.read_text()))
