"""Which windows lie in which block, and which blocks a run was charged to: as gateways do it.

A charge to the wrong block, blocks cut too short, or numbers that come back would give the same
records a second budget. Whatever happens to an honest gateway is none of these.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.forger import Entry, Forger
from fakes.honest_bundle import (
    BEGAN,
    BLOCK,
    CENTRE,
    MADE_AT,
    OTHER,
    OWN,
    PLAN,
    REVIEWER,
    RUN,
    STRANGER,
    Site,
    policy_of,
    site,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge.privacy.approval import approve
from fedge.profiles.windows import WindowCutter
from fedge.records import BlockLength, Participant, Quota, RunSpec
from fedge.review.bundle import write_bundle
from fedge.review.source import BundleSource, RunFact
from fedge.review.verifier import Verdict, verify_bundle
from fedge.serving.record_ids import block_numbering

KEYS: dict[str, Any] = {
    "witness_key": CENTRE.public_key.hex(),
    "reviewer_keys": [REVIEWER.public_key.hex()],
    "gateway_keys": [OWN.public_key.hex()],
}
Entries = list[Entry]
WINDOW_SLOTS = 4
CHEAP = PLAN.model_copy(update={"sigma2": 10**6 * PLAN.sigma2, "evaluation_sigma2": 10**6})


def spec_of(run_id: str, first: int, last: int) -> RunSpec:
    member = Participant(
        gateway=OWN.fingerprint,
        public_key=OWN.public_key.hex(),
        first_window=first,
        last_window=last,
    )
    changes = {"run_id": run_id, "plan": CHEAP, "participants": (member,)}
    return RUN.model_copy(update=changes)


def reserve(one: Site, spec: RunSpec, blocks: list[int]) -> RunFact:
    one.ledger.reserve_run(
        spec.run_id,
        blocks,
        spec.plan.events,
        purposes=("training", "evaluation"),
        task=spec.task,
        base_release=spec.base_release,
        base_sha256=spec.base_sha256,
    )
    return RunFact(spec=spec)


def written(one: Site, runs: list[RunFact]) -> Path:
    one.mark()
    source = BundleSource(
        made_by="coordinator",
        simulated=False,
        witness_key=CENTRE.public_key.hex(),
        gateways=(one.exported(),),
        runs=tuple(runs),
        evidence={"standing": {"gateways": [one.standing()]}},
    )
    path = one.state.path.with_name("bundle.zip")
    write_bundle(path, source, CENTRE, MADE_AT)
    return path


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine windows in three blocks, and a run that read all but the outer ones."""
    one = site(tmp_path_factory.mktemp("ledger"), OWN)
    for window in range(9):
        one.window(window, window // BLOCK.value)
    path = written(one, [reserve(one, spec_of("run-1", 1, 7), [0, 1, 2])])
    one.state.close()
    return path


def judged(folder: Path, data: bytes) -> Verdict:
    path = folder / "forged.zip"
    path.write_bytes(data)
    return verify_bundle(path, **KEYS)


def test_the_untouched_bundle_is_proven(honest: Path) -> None:
    verdict = verify_bundle(honest, **KEYS)

    assert verdict.proven and verdict.findings == ()


# --- what a run read ----------------------------------------------------------------------


def charged(*blocks: int) -> Callable[[Forger], None]:
    """The run was charged to other blocks; everybody signs that."""

    def change(forger: Forger) -> None:
        forger.change_entries(
            lambda entries: next(one for one in entries if one["kind"] == "run").update(
                blocks=list(blocks)
            )
        )

    return change


def planned(**fields: Any) -> Callable[[Forger], None]:
    """The plan asked for something else."""

    def change(forger: Forger) -> None:
        forger.change("runs.jsonl", lambda runs: runs[0]["spec"]["participants"][0].update(fields))

    return change


def too_soon(forger: Forger) -> None:
    """The run stands before the last window that it reads."""

    def change(entries: Entries) -> None:
        run = next(one for one in entries if one["kind"] == "run")
        entries.remove(run)
        place = next(n for n, one in enumerate(entries) if one.get("window") == 7)
        entries.insert(place, run)

    forger.change_entries(change)


def twice(forger: Forger) -> None:
    forger.change(
        "runs.jsonl",
        lambda runs: runs[0]["spec"]["participants"].append(runs[0]["spec"]["participants"][0]),
    )


def both(*changes: Callable[[Forger], None]) -> Callable[[Forger], None]:
    def change(forger: Forger) -> None:
        for one in changes:
            one(forger)

    return change


READ: dict[str, tuple[Callable[[Forger], None], str]] = {
    "a block left out": (charged(0, 2), "blocks"),
    "the last blocks left out": (charged(0), "blocks"),
    "another block instead": (both(charged(0), planned(first_window=3, last_window=5)), "blocks"),
    "a block too much": (planned(first_window=3, last_window=7), "blocks"),
    "windows that never were": (planned(first_window=500, last_window=600), "blocks"),
    "windows that were still open": (too_soon, "blocks"),
    "windows in the wrong order": (planned(first_window=7, last_window=1), "run"),
    "a gateway twice": (twice, "run"),
    "another's key": (planned(public_key=STRANGER.public_key.hex()), "run"),
    "another's key and name": (planned(public_key=OTHER.public_key.hex()), "run"),
}


@pytest.mark.parametrize("name", READ)
def test_a_run_is_charged_to_the_blocks_that_it_read(
    honest: Path, tmp_path: Path, name: str
) -> None:
    """Chained, signed and confirmed again: plan and ledger do not belong together."""
    change, kind = READ[name]
    forger = Forger(honest)
    change(forger)

    verdict = judged(tmp_path, forger.data())

    assert [one.kind for one in verdict.deviations] == [kind]
    assert verdict.deviations[0].gateway == OWN.fingerprint
    assert kind != "blocks" or verdict.deviations[0].entry == forger.find("run")


@pytest.mark.parametrize("reason", ["retention", "quota", "erasure", "consent"])
@pytest.mark.parametrize("before", [True, False])
def test_windows_that_were_removed_need_no_charge(
    honest: Path, tmp_path: Path, reason: str, before: bool
) -> None:
    """Retention and quota remove windows, and an entry says so; an erasure removes rows only."""
    forger = Forger(honest)
    charged(1, 2)(forger)

    def note(entries: Entries) -> None:
        place = forger.find("run") if before else len(entries)
        base = {key: entries[-1][key] for key in ("at", "simulated", "schema_version")}
        entries.insert(place, base | {"kind": "erased", "records": 0, "reason": reason})
        if reason == "erasure":
            entries[place]["records"] = 1

    def three_windows(forger: Forger) -> None:
        planned(first_window=0)(forger)

    three_windows(forger)
    forger.change_entries(note)
    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted == (before and reason in ("retention", "quota"))
    assert not verdict.proven
    if verdict.accepted:
        (finding,) = verdict.findings
        assert (finding.kind, finding.entry) == ("uncharged-block", forger.find("run"))
        assert "block 0" in finding.what


def test_a_window_or_two_may_have_been_damaged(honest: Path, tmp_path: Path) -> None:
    """No entry says so; the bound does not follow, and nobody is accused."""
    forger = Forger(honest)
    charged(1, 2)(forger)  # of block 0, two windows are in the range

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted and not verdict.proven
    assert [one.kind for one in verdict.findings] == ["uncharged-block"]


def test_windows_after_the_last_one_known_are_noted(honest: Path, tmp_path: Path) -> None:
    """Nothing of them was read; why they were planned is for somebody to say."""
    forger = Forger(honest)
    planned(last_window=99)(forger)

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted and not verdict.proven
    assert [one.kind for one in verdict.findings] == ["unknown-windows"]


def under(policy: Any) -> Callable[[Forger], None]:
    """All of the ledger is under another policy, which the reviewer signed."""
    approval = approve(policy, REVIEWER, reviewer="R", reason="another", at=1.0)
    values = json.loads(policy.to_bytes())

    def change(entries: Entries) -> None:
        for entry in entries:
            if entry["kind"] in ("policy", "opened"):
                entry["policy"] = values
            if entry["kind"] == "policy":
                entry["approval"] = json.loads(approval.to_bytes())

    return lambda forger: forger.change_entries(change)


@pytest.mark.parametrize("fell", [True, False])
def test_windows_that_a_quota_withheld_may_have_been_read(
    honest: Path, tmp_path: Path, fell: bool
) -> None:
    """They are kept by the gateway and in no entry: what is unknown is no manipulation. A quota
    that holds every window, as it does until a block's cap falls, withholds none."""
    quota = policy_of(3.0, quotas=(Quota(purpose="features", share=0.1),))
    forger = Forger(honest)
    both(under(quota), charged(2), planned(first_window=9, last_window=12))(forger)
    lower = policy_of(2.0)
    approval = approve(lower, REVIEWER, reviewer="R", reason="lower", at=2.0)

    def adopt(entries: Entries) -> None:
        values = {"policy": lower.to_bytes(), "approval": approval.to_bytes()}
        entries.append(entries[1] | {name: json.loads(data) for name, data in values.items()})

    if fell:
        forger.change_entries(adopt)
    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted == fell
    assert fell or [one.kind for one in verdict.deviations] == ["blocks"]


# --- how blocks are cut -------------------------------------------------------------------


def moved(*pairs: tuple[int, int]) -> Callable[[Entries], None]:
    """Windows lie in other blocks."""
    where = dict(pairs)

    def change(entries: Entries) -> None:
        for entry in entries:
            if entry["kind"] == "window":
                entry["block"] = where.get(entry["window"], entry["block"])

    return change


def reopened(entries: Entries) -> None:
    """All blocks are open from the beginning."""
    opened = [one for one in entries if one["kind"] == "opened"]
    for one in opened:
        entries.remove(one)
    entries[2:2] = opened


def interleaved(entries: Entries) -> None:
    reopened(entries)
    moved((1, 1), (3, 0))(entries)


def turned(entries: Entries) -> None:
    """Blocks come back: the second is opened as a fourth, the third as the second."""
    for entry in entries:
        if "block" in entry:
            entry["block"] = {1: 3, 2: 1}.get(entry["block"], entry["block"])


def exchanged(entries: Entries) -> None:
    """A window is reserved before an earlier one."""
    for entry in entries:
        if entry["kind"] == "window" and entry["window"] in (1, 2):
            entry["window"] = 3 - entry["window"]


ORDER: dict[str, tuple[Callable[[Entries], None], str]] = {
    "interleaved blocks": (interleaved, "window"),
    "blocks that come back": (turned, "opened"),
    "windows out of order": (exchanged, "window"),
}


@pytest.mark.parametrize("name", ORDER)
def test_numbers_only_rise(honest: Path, tmp_path: Path, name: str) -> None:
    change, place = ORDER[name]
    forger = Forger(honest)
    forger.change_entries(change)

    verdict = judged(tmp_path, forger.data())

    first = verdict.deviations[0]
    assert (first.kind, forger.entries[first.entry or 0]["kind"]) == ("order", place)


def test_blocks_shorter_than_approved_are_noted(honest: Path, tmp_path: Path) -> None:
    """A policy of a thousand windows a block, and a new one every three."""
    forger = Forger(honest)
    under(policy_of(3.0, block=BlockLength(kind="windows", value=1000)))(forger)

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted and not verdict.proven
    (finding,) = verdict.findings
    assert finding.kind == "short-block"
    assert finding.what.startswith("2 blocks") and "block 0, after 3" in finding.what


def test_one_short_block_is_noted_and_no_more(tmp_path: Path) -> None:
    """It may follow a window that was dropped whole."""
    one = site(tmp_path, OWN)
    for window, block in enumerate([0, 0, 0, 0, 1, 1, 2, 2, 2, 3]):
        one.window(window, block)

    verdict = verify_bundle(written(one, []), **KEYS)

    assert verdict.proven
    (finding,) = verdict.findings
    assert finding.kind == "short-block" and "block 1, after 2" in finding.what


def test_the_number_of_a_day_may_lag_behind_the_clock(honest: Path, tmp_path: Path) -> None:
    """Where no record came; how fast they follow one another is another question."""
    length = BlockLength(kind="seconds", value=86_400)
    assert int(BEGAN // length.value) > 2
    forger = Forger(honest)
    under(policy_of(3.0, block=length))(forger)

    verdict = judged(tmp_path, forger.data())

    assert verdict.proven and "early-block" not in {one.kind for one in verdict.findings}


# --- honest gateways ----------------------------------------------------------------------


@dataclass
class Gateway:
    """A ledger beside the agent's own rules: numbering, cutting, keeping, choosing blocks."""

    one: Site
    slot: int = 0
    closed: int = 0
    damaged: int = 0
    dropped: bool = False
    removed: bool = False
    stored: dict[int, int] = field(default_factory=dict)
    runs: list[RunFact] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cutter = WindowCutter(WINDOW_SLOTS)
        self.block_of = block_numbering(BLOCK, WINDOW_SLOTS)

    def rows(self, count: int, release: int) -> None:
        slots = np.arange(self.slot, self.slot + count, dtype=np.int64)
        blocks = np.array([self.block_of(int(slot), 0.0) for slot in slots], dtype=np.int64)
        releases = np.full(count, release, dtype=np.int64)
        self.slot += count
        for span, _ in self.cutter.feed(slots, blocks, releases, next_slot=self.slot):
            self.one.window(span.window, span.block)
            self.stored[span.window] = span.block
            self.closed = span.window + 1

    def drop(self, count: int) -> None:
        """The ring was full."""
        self.slot += count
        self.dropped = True

    def run(self, first: int, windows: int) -> None:
        first %= self.closed + 1
        last = min(first + windows, self.closed - 1)
        blocks = sorted({b for w, b in self.stored.items() if first <= w <= last})
        if blocks:
            spec = spec_of(f"run-{len(self.runs)}", first, last)
            self.runs.append(reserve(self.one, spec, blocks))

    def evict(self, count: int) -> None:
        for window in sorted(self.stored)[:count]:
            del self.stored[window]
        self.one.ledger.note_erasure("quota")
        self.removed = True

    def damage(self, window: int) -> None:
        if self.damaged < 2 and self.stored.pop(window, None) is not None:
            self.damaged += 1


steps = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), st.integers(1, 30), st.integers(1, 2)),
        st.tuples(st.just("rows"), st.integers(1, 30), st.just(1)),
        st.tuples(st.just("drop"), st.integers(1, 15)),
        st.tuples(st.just("run"), st.integers(0, 12), st.integers(0, 12)),
        st.tuples(st.just("evict"), st.integers(1, 3)),
        st.tuples(st.just("damage"), st.integers(0, 12)),
    ),
    max_size=10,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lived=steps)
def test_whatever_a_gateway_goes_through_it_is_not_accused(
    tmp_path_factory: pytest.TempPathFactory, lived: list[tuple[Any, ...]]
) -> None:
    """Windows cut early by another release, dropped rows, removed and damaged windows: never a
    deviation, and unproven only where something is gone."""
    gateway = Gateway(site(tmp_path_factory.mktemp("ledger"), OWN))
    gateway.rows(20, release=1)
    for name, *values in lived:
        getattr(gateway, name)(*values)

    verdict = verify_bundle(written(gateway.one, gateway.runs), **KEYS)
    gateway.one.state.close()

    assert verdict.deviations == ()
    possible = {"uncharged-block"} if gateway.removed or gateway.damaged else set()
    possible |= {"short-block"} if gateway.dropped else set()
    assert {one.kind for one in verdict.findings} <= possible
