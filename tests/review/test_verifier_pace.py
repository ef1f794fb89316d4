"""Blocks of so many seconds come no faster than the clock, and excuses for short ones are few.

A new block is a new budget. Whoever opens them faster than the approved policy gives them away
spends several budgets on the same records; whoever has a slow life, or a clock that leaps, does
not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fakes.forger import Entry, Forger
from fakes.honest_bundle import BEGAN, CENTRE, OWN, REVIEWER, Site, policy_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge.privacy.heads import sign_head, witness_head
from fedge.privacy.merkle import leaf_hash, tree_hash
from fedge.records import BlockLength, PrivacyPolicy, Quota, canonical
from fedge.review.bundle import write_bundle
from fedge.review.source import BundleSource
from fedge.review.verifier import Verdict, verify_bundle
from fedge.serving.record_ids import block_numbering
from fedge.statefile import StateFile

KEYS: dict[str, Any] = {
    "witness_key": CENTRE.public_key.hex(),
    "reviewer_keys": [REVIEWER.public_key.hex()],
    "gateway_keys": [OWN.public_key.hex()],
}
DAY = 86_400.0


@dataclass
class Clock:
    """What a gateway's clock shows; each look at it takes a second."""

    at: float = BEGAN

    def __next__(self) -> float:
        self.at += 1.0
        return self.at


def of_seconds(seconds: float) -> PrivacyPolicy:
    return policy_of(3.0, block=BlockLength(kind="seconds", value=int(seconds)))


def begun(folder: Path, policy: PrivacyPolicy) -> tuple[Site, Clock]:
    """A gateway whose ledger was just created."""
    one, clock = Site(OWN, StateFile(folder / "state.sqlite"), policy), Clock()
    one._ticks = clock  # type: ignore[assignment]
    return one, clock


def written(one: Site) -> Path:
    """The coordinator's bundle of it, under a head that was signed and confirmed just now."""
    entries, at = one.ledger.entries(), next(one._ticks)
    head = sign_head(OWN, len(entries), tree_hash(entries).hex(), at)
    confirmed = (witness_head(CENTRE, head, at),)
    ledger = replace(one.exported(), heads=(head,), witnessed=confirmed)
    source = BundleSource(
        made_by="coordinator",
        simulated=False,
        witness_key=CENTRE.public_key.hex(),
        gateways=(ledger,),
    )
    path = one.state.path.with_name("bundle.zip")
    write_bundle(path, source, CENTRE, at)
    one.state.close()
    return path


def judged(path: Path) -> Verdict:
    verdict = verify_bundle(path, **KEYS)
    assert verdict.accepted, verdict.deviations
    return verdict


def found(verdict: Verdict) -> list[tuple[str, bool]]:
    return [(one.kind, one.unproven) for one in verdict.findings]


# --- blocks of seconds --------------------------------------------------------------------


@pytest.mark.parametrize("first", [100, int(BEGAN // DAY) - 60])
def test_days_that_last_minutes_are_another_policy(tmp_path: Path, first: int) -> None:
    """Their numbers may lie years back: what counts is how many there are, in how much time."""
    one, clock = begun(tmp_path, of_seconds(DAY))
    for window in range(12):
        one.window(window, first + window)
        clock.at += 60.0

    verdict = judged(written(one))

    assert set(found(verdict)) == {("short-block", True)} and not verdict.proven
    assert verdict.findings[0].what.startswith("9 blocks opened sooner")


@pytest.mark.parametrize("ahead", [False, True])
def test_entries_dated_beyond_their_head_are_no_time(tmp_path: Path, ahead: bool) -> None:
    """A block for each of two hundred days to come; also where the head is dated like them, which
    the witness's own clock contradicts."""
    one, clock = begun(tmp_path, of_seconds(DAY))
    first = int(BEGAN // DAY)
    for window in range(200):
        one.window(window, first + window)
        clock.at += DAY
    forger = Forger(written(one))
    lines = forger.files[forger.own("entries")].splitlines()
    signed_at = clock.at if ahead else BEGAN + 100.0
    head = sign_head(OWN, len(lines), tree_hash(lines).hex(), signed_at)
    forger.write(forger.own("heads"), [json.loads(head.to_bytes())])
    witnessed = witness_head(CENTRE, head, BEGAN + 101.0)
    forger.write(forger.own("witnessed"), [json.loads(witnessed.to_bytes())])
    path = tmp_path / "forged.zip"
    path.write_bytes(forger.data(made_at=BEGAN + 102.0))

    verdict = judged(path)

    assert not verdict.proven
    assert found(verdict) == [("odd-clock", True) if ahead else ("short-block", True)]


@pytest.mark.parametrize("days", [30, 60])
def test_a_clock_that_leaps_gives_a_month_and_no_more(tmp_path: Path, days: int) -> None:
    """A ledger that says it began in 1970 does not save up budgets for fifty years."""
    one, clock = begun(tmp_path, of_seconds(DAY))
    clock.at = BEGAN + 10_000 * DAY
    for window in range(days):
        one.window(window, 100 + window)

    verdict = judged(written(one))

    assert verdict.proven == (days == 30)
    assert ("short-block", True) in found(verdict) or verdict.proven


def test_one_day_ahead_of_its_time_is_a_clock_two_are_a_habit(tmp_path: Path) -> None:
    """A window that was closed once the clock had been put right opens a block of the future."""
    for blocks in (1, 2):
        (tmp_path / str(blocks)).mkdir()
        one, _ = begun(tmp_path / str(blocks), of_seconds(DAY))
        for number in range(blocks):
            one.window(number, int(BEGAN // DAY) + 400 + number)

        assert found(judged(written(one))) == [("early-block", blocks == 2)]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    length=st.sampled_from([3600.0, 40_000.0, DAY, 100 * DAY]),
    life=st.lists(
        st.tuples(
            st.sampled_from(["serve", "serve", "serve", "down", "idle", "correct", "shorten"]),
            st.floats(0.01, 3.0),
        ),
        max_size=12,
    ),
)
def test_whatever_the_clock_does_to_a_gateway_it_stays_proven(
    tmp_path_factory: pytest.TempPathFactory, length: float, life: list[tuple[str, float]]
) -> None:
    """Rows that wait while the agent is down, weeks without any, corrected clocks and policies
    with shorter blocks: the watcher's rules, and never a word against the bound."""
    one, clock = begun(tmp_path_factory.mktemp("ledger"), of_seconds(length))
    block_of, newest, windows, waiting = _numbering(length), 0, 0, list[int]()
    for what, much in life:
        clock.at += length * much * {"idle": 5.0, "down": 0.1}.get(what, 1.0)
        if what == "correct":
            clock.at -= min(DAY, length * much) / 2
        if what == "shorten":
            length *= 0.5
            block_of = _numbering(length)
            one.adopt(of_seconds(length))
        newest = max(newest, block_of(0, clock.at))
        waiting.append(newest)
        if what != "down":
            for block in waiting:
                one.window(windows, block)
                windows += 1
            waiting.clear()

    verdict = judged(written(one))

    assert {kind for kind, _ in found(verdict)} <= {"odd-clock"}


def _numbering(length: float) -> Callable[[int, float], int]:
    return block_numbering(BlockLength(kind="seconds", value=int(length)), 4)


# --- blocks of windows --------------------------------------------------------------------


def short_ones(folder: Path, blocks: int, policies: tuple[PrivacyPolicy, ...]) -> Path:
    """Blocks of one window each; the policies take turns."""
    one, _ = begun(folder, policies[0])
    for block in range(blocks):
        if len(policies) > 1:
            one.adopt(policies[block % len(policies)])
        one.window(block, block)
    return written(one)


def test_numbers_that_are_left_out_are_no_windows(tmp_path: Path) -> None:
    """Blocks of one window each, with numbers as if each had three."""
    one, _ = begun(tmp_path, policy_of(3.0))
    for block in range(12):
        one.window(3 * block, block)

    assert found(judged(written(one))) == [("short-block", True)]


def recoveries(entries: list[Entry]) -> None:
    """After each block the ledger says that its state was lost."""
    places = [n for n, one in enumerate(entries) if one["kind"] == "opened"][1:]
    for place in reversed(places):
        base = {key: entries[place][key] for key in ("at", "simulated", "schema_version")}
        lost = {
            "kind": "recovered",
            "through_block": entries[place]["block"] - 1,
            "witnessed_size": 1,
            "witnessed_root": leaf_hash(canonical(entries[0])).hex(),
            "reason": "wiped",
        }
        entries.insert(place, base | lost)


@pytest.mark.parametrize(("blocks", "unproven"), [(4, False), (12, True)])
def test_a_state_is_not_lost_after_every_window(
    tmp_path: Path, blocks: int, unproven: bool
) -> None:
    """Each loss excuses a short block, and there are few in an honest life."""
    policy = policy_of(3.0)
    forger = Forger(short_ones(tmp_path, blocks, (policy,)))
    forger.change_entries(recoveries)
    path = tmp_path / "forged.zip"
    path.write_bytes(forger.data())

    verdict = judged(path)

    assert (("short-block", True) in found(verdict)) == unproven
    assert verdict.proven != unproven


def test_lengths_do_not_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two approved policies, and a change from one to the other at every window, by a gateway that
    was made to take them."""
    monkeypatch.setattr("fedge.privacy.ledger.check_goes_on", lambda *_, **__: None)
    lengths = (BlockLength(kind="windows", value=3), BlockLength(kind="windows", value=4))
    policies = tuple(policy_of(3.0, block=length) for length in lengths)

    verdict = judged(short_ones(tmp_path, 12, policies))

    assert found(verdict) == [("short-block", True)]


@pytest.mark.parametrize(("share", "lower"), [(1.0, False), (0.9, True), (None, False)])
def test_a_quota_excuses_only_where_it_can_withhold(
    tmp_path: Path, share: float | None, lower: bool
) -> None:
    """One that leaves room for every window hides no short block; none that does hides many."""
    quotas = () if share is None else (Quota(purpose="features", share=share),)
    verdict = judged(short_ones(tmp_path, 12, (policy_of(3.0, quotas=quotas),)))

    assert found(verdict) == [("short-block", True)]
    assert json.dumps(verdict.to_json())
