"""As of when a bundle speaks: a ledger that was cut off at an older confirmed head shows it.

Nobody can prove offline that nothing was charged since. What can be seen is seen: how old the
last confirmation is, what the exporter itself knew of, and clocks that cannot be right.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.forger import STANDING, Forger
from fakes.honest_bundle import (
    BEGAN,
    CENTRE,
    MADE_AT,
    OTHER,
    OWN,
    REVIEWER,
    policy_of,
    write_honest,
)

from fedge.privacy.approval import approve
from fedge.privacy.heads import sign_head, witness_head
from fedge.privacy.merkle import tree_hash
from fedge.records import BlockLength, SignedHead, canonical
from fedge.review.verifier import Finding, Verdict, verify_bundle

KEYS: dict[str, Any] = {
    "witness_key": CENTRE.public_key.hex(),
    "reviewer_keys": [REVIEWER.public_key.hex()],
    "gateway_keys": [OWN.public_key.hex(), OTHER.public_key.hex()],
}
DAY = 86_400.0


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_honest(tmp_path_factory.mktemp("honest"))


def judged(folder: Path, data: bytes) -> Verdict:
    path = folder / "forged.zip"
    path.write_bytes(data)
    return verify_bundle(path, **KEYS)


def kinds(verdict: Verdict) -> set[str]:
    return {finding.kind for finding in verdict.findings}


def only(verdict: Verdict, kind: str) -> Finding:
    (found,) = [one for one in verdict.findings if one.kind == kind]
    return found


def cut_off(forger: Forger, gateway: str, *, told: bool) -> int:
    """All that came after a gateway's first confirmed head is gone; answers what is left.

    Args:
        told: the exporter's own words still say how much it knew.
    """
    folder = f"gateways/{gateway}"
    size = int(forger.read(f"{folder}/witnessed.jsonl")[0]["head"]["size"])
    entries = forger.read(f"{folder}/entries.jsonl")[:size]
    known = {e["artefact_sha256"] for e in entries if e["kind"] == "settled"}
    forger.write(f"{folder}/entries.jsonl", entries)
    for name in ("heads", "witnessed"):
        forger.change(f"{folder}/{name}.jsonl", lambda found: found.__delitem__(slice(1, None)))
    artefacts = forger.read(f"{folder}/artefacts.jsonl")
    kept = [one for one in artefacts if one["payload_sha256"] in known]
    forger.write(f"{folder}/artefacts.jsonl", kept)
    if not told:
        forger.know(gateway, entries=size, announced=size, witnessed=size)
    return size


def younger(honest: Path, *, told: bool) -> Forger:
    """Both ledgers as they were before the run, of which nothing is left."""
    forger = Forger(honest)
    for who in (OWN, OTHER):
        cut_off(forger, who.fingerprint, told=told)
    del forger.files["runs.jsonl"]
    forger.change("releases.jsonl", lambda found: found.pop())
    return forger


# --- as of when ---------------------------------------------------------------------------


def test_a_verdict_says_as_of_when_it_holds(honest: Path) -> None:
    """For each gateway its last confirmed head, in all the earliest of these; to programs, too."""
    facts = verify_bundle(honest, **KEYS).facts

    assert facts is not None
    each = [one.as_of for one in facts.gateways]
    assert each == [one.witnessed_at for one in facts.gateways]
    assert facts.as_of == min(one for one in each if one is not None) > BEGAN
    assert json.loads(json.dumps(verify_bundle(honest).to_json()))["facts"]["as_of"] == facts.as_of


def test_without_a_witness_the_last_head_counts_and_without_heads_nothing(
    honest: Path, tmp_path: Path
) -> None:
    """A time that nobody signed is no time."""
    forger = Forger(honest)
    del forger.files[forger.own("witnessed")]
    forger.know(OWN.fingerprint, witnessed=0)
    signed = judged(tmp_path, forger.data()).facts
    forger = Forger(honest)
    del forger.files[forger.own("witnessed")], forger.files[forger.own("heads")]
    forger.know(OWN.fingerprint, witnessed=0)
    unsigned = judged(tmp_path, forger.data()).facts

    assert signed is not None and unsigned is not None
    assert signed.as_of == max(h["at"] for h in Forger(honest).read(forger.own("heads")))
    assert unsigned.as_of is None


def test_a_ledger_cut_off_at_an_older_head_is_of_that_head(honest: Path, tmp_path: Path) -> None:
    """All of it fits together, so that it is proven: as of before the run, and no later."""
    facts = verify_bundle(honest, **KEYS).facts
    verdict = judged(tmp_path, younger(honest, told=False).data())

    assert verdict.proven and facts is not None and verdict.facts is not None
    assert (verdict.facts.as_of or 0.0) < (facts.as_of or 0.0)


@pytest.mark.parametrize(("days", "stale"), [(2.9, False), (3.1, True), (90, True)])
def test_a_bundle_much_younger_than_its_ledgers_is_unproven(
    honest: Path, tmp_path: Path, days: float, stale: bool
) -> None:
    """Both dates are named: what was charged in between is not in it."""
    verdict = judged(tmp_path, younger(honest, told=False).data(made_at=MADE_AT + days * DAY))

    assert verdict.accepted and verdict.proven != stale
    found = [one for one in verdict.findings if one.kind == "stale"]
    assert {one.gateway for one in found} == (
        {OWN.fingerprint, OTHER.fingerprint} if stale else set()
    )
    assert all(one.unproven and "2023-11-14 22:13" in one.what for one in found)
    assert days != 90 or "2024-02-12" in found[0].what


def test_a_gateway_with_long_blocks_may_be_silent_for_longer(honest: Path, tmp_path: Path) -> None:
    """Three of its blocks, and no longer than a month."""
    forger = Forger(honest)

    def of_five_days(entries: list[dict[str, Any]]) -> None:
        length = BlockLength(kind="seconds", value=int(5 * DAY))
        policy = policy_of(2.0, block=length)
        approval = approve(policy, REVIEWER, reviewer="R", reason="days", at=1.0)
        values = json.loads(policy.to_bytes())
        last = [one for one in entries if one["kind"] == "policy"][-1]
        last.update(policy=values, approval=json.loads(approval.to_bytes()))
        [one for one in entries if one["kind"] == "opened"][-1]["policy"] = values

    forger.change_entries(of_five_days)
    verdict = judged(tmp_path, forger.data(made_at=MADE_AT + 14 * DAY))

    assert verdict.accepted
    assert [one.gateway for one in verdict.findings] == [OTHER.fingerprint]


# --- what the exporter knows --------------------------------------------------------------


def test_the_exporters_own_words_tell_what_was_cut_off(honest: Path, tmp_path: Path) -> None:
    """The coordinator knows of more entries than it put in."""
    forger = Forger(honest)
    before, size = len(forger.entries), cut_off(forger, OWN.fingerprint, told=True)

    verdict = judged(tmp_path, forger.data())

    found = only(verdict, "lagging")
    assert not verdict.proven and found.unproven and found.gateway == OWN.fingerprint
    assert f"{before - size} entries more than the {size}" in found.what


@pytest.mark.parametrize(
    ("name", "later", "unproven"),
    [
        ("announced", 10_000.0, True),
        ("announced", 60.0, False),
        ("announced", None, True),
        ("beyond_gap", 60.0, True),
    ],
)
def test_entries_that_are_elsewhere_are_counted(
    honest: Path, tmp_path: Path, name: str, later: float | None, unproven: bool
) -> None:
    """Announced by the gateway, or behind a gap; what it announced just now may be on its way."""
    forger = Forger(honest)
    at = max(head["at"] for head in forger.read(forger.own("heads")))
    known = {name: len(forger.entries) + 1, "status_at": None if later is None else at + later}
    forger.know(OWN.fingerprint, **known)

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted and verdict.proven != unproven
    assert "1 entry more" in only(verdict, "lagging").what


@pytest.mark.parametrize("signed_again", [False, True])
def test_an_old_head_that_is_confirmed_anew_stays_old(
    honest: Path, tmp_path: Path, signed_again: bool
) -> None:
    """The coordinator's key alone does not make a ledger younger; the gateway's own signature over
    as many entries, made later, does."""
    later = 90 * DAY
    forger = younger(honest, told=False)
    for who in (OWN, OTHER):
        forger.identity, forger.folder = who, f"gateways/{who.fingerprint}"
        lines = forger.files[forger.own("entries")].splitlines()
        old = SignedHead.from_bytes(canonical(forger.read(forger.own("heads"))[0]))
        again = sign_head(who, old.size, tree_hash(lines).hex(), BEGAN + later)
        kept = [old, again] if signed_again else [old]
        forger.write(forger.own("heads"), [json.loads(one.to_bytes()) for one in kept])
        confirmed = witness_head(CENTRE, old, BEGAN + later)
        forger.write(forger.own("witnessed"), [json.loads(confirmed.to_bytes())])

    verdict = judged(tmp_path, forger.data(made_at=MADE_AT + later))

    assert verdict.accepted and verdict.facts is not None
    assert verdict.proven == signed_again
    assert kinds(verdict) == (set() if signed_again else {"stale"})
    assert ((verdict.facts.as_of or 0.0) > BEGAN + later - DAY) == signed_again


def test_a_gateway_whose_ledger_was_left_out_is_lagging(honest: Path, tmp_path: Path) -> None:
    """Also where nobody named it by its key."""
    forger = Forger(honest)
    index = json.loads(forger.files["bundle.json"])
    gateways = [one for one in index["gateways"] if one["gateway"] != OTHER.fingerprint]
    forger.files = {k: v for k, v in forger.files.items() if OTHER.fingerprint not in k}

    verdict = judged(tmp_path, forger.data(gateways=gateways))

    assert not verdict.proven
    assert only(verdict, "lagging").gateway == OTHER.fingerprint


def standing(change: Callable[[list[Any]], object]) -> Callable[[Forger], None]:
    def forge(forger: Forger) -> None:
        value = json.loads(forger.files[STANDING])
        change(value["gateways"])
        forger.files[STANDING] = canonical(value)

    return forge


WORDS: dict[str, tuple[Callable[[Forger], None], str]] = {
    "fewer entries than there are": (standing(lambda g: g[0].update(entries=3)), "standing"),
    "fewer confirmed ones": (standing(lambda g: g[0].update(witnessed=3)), "standing"),
    "a gateway twice": (standing(lambda g: g.append(g[0])), "standing"),
    "a gateway left out": (standing(lambda g: g.pop()), "standing"),
    "no number of entries": (standing(lambda g: g[0].update(entries=-1)), "form"),
    "a fraction of an entry": (standing(lambda g: g[0].update(announced=1.5)), "form"),
    "more than all numbers": (standing(lambda g: g[0].update(announced=10**400)), "form"),
    "no gateway": (standing(lambda g: g.append({})), "form"),
    "a word for a gateway": (standing(lambda g: g.append("x")), "form"),
    "no list": (lambda forger: forger.files.update({STANDING: b'{"gateways":5}'}), "form"),
}


@pytest.mark.parametrize("name", WORDS)
def test_words_that_contradict_the_bundle_are_refused(
    honest: Path, tmp_path: Path, name: str
) -> None:
    change, kind = WORDS[name]
    forger = Forger(honest)
    change(forger)

    verdict = judged(tmp_path, forger.data())

    assert [one.kind for one in verdict.deviations] == [kind]
    assert verdict.deviations[0].file == STANDING


# --- clocks -------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [10**400, 1e300, -1.0, 7.3e9, True, "now", None])
def test_a_bundle_is_made_at_a_time(honest: Path, tmp_path: Path, at: object) -> None:
    """Between 1970 and 2200; whatever it says, it gets an answer."""
    verdict = judged(tmp_path, Forger(honest).data(made_at=at))

    assert [(one.kind, one.file) for one in verdict.deviations] == [("form", "bundle.json")]


def test_an_export_before_the_last_confirmation_is_odd(honest: Path, tmp_path: Path) -> None:
    """Somebody's clock is wrong; clocks differ by a little all the time."""
    odd = judged(tmp_path, Forger(honest).data(made_at=BEGAN - DAY))
    even = judged(tmp_path, Forger(honest).data(made_at=BEGAN - 60.0))

    assert odd.accepted and kinds(odd) == {"odd-clock"}
    assert even.proven and kinds(even) == set()


@pytest.mark.parametrize(("ahead", "odd"), [(2 * DAY, True), (DAY / 2, False)])
def test_a_head_signed_long_after_it_was_confirmed_is_odd(
    honest: Path, tmp_path: Path, ahead: float, odd: bool
) -> None:
    """Its gateway's clock was ahead: noted, and no reason against the bound."""
    forger = Forger(honest)
    lines = forger.files[forger.own("entries")].splitlines()
    head = sign_head(OWN, len(lines), tree_hash(lines).hex(), BEGAN + ahead)
    forger.write(forger.own("heads"), [json.loads(head.to_bytes())])
    witnessed = witness_head(CENTRE, head, BEGAN)
    forger.write(forger.own("witnessed"), [json.loads(witnessed.to_bytes())])

    verdict = judged(tmp_path, forger.data())

    assert verdict.proven
    assert kinds(verdict) == ({"odd-clock"} if odd else set())


@pytest.mark.parametrize("at", [1e300, -5.0])
def test_a_witness_beyond_the_calendar_is_odd(honest: Path, tmp_path: Path, at: float) -> None:
    forger = Forger(honest)
    last = SignedHead.from_bytes(canonical(forger.read(forger.own("heads"))[-1]))
    confirmed = witness_head(CENTRE, last, at)
    forger.write(forger.own("witnessed"), [json.loads(confirmed.to_bytes())])

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted and "odd-clock" in kinds(verdict)
    assert all(len(one.what) < 200 for one in verdict.findings)


def backwards(entries: list[dict[str, Any]]) -> None:
    for number, entry in enumerate(entries):
        entry["at"] = BEGAN + 3600.0 - 10.0 * number


def corrected(entries: list[dict[str, Any]]) -> None:
    for entry in entries[5:]:
        entry["at"] -= 30.0


def beyond(entries: list[dict[str, Any]]) -> None:
    for entry in entries[3:]:
        entry["at"] = 1e300


def before_time(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        entry["at"] = -1e12


@pytest.mark.parametrize(
    ("change", "noted"), [(backwards, 1), (corrected, 0), (beyond, 1), (before_time, 1)]
)
def test_times_of_entries_that_cannot_be_are_noted_once(
    honest: Path, tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], noted: int
) -> None:
    """A gateway's clock may be wrong; a correction by seconds is no news."""
    forger = Forger(honest)
    forger.change_entries(change)

    verdict = judged(tmp_path, forger.data())

    assert verdict.proven
    assert sum(one.kind == "odd-clock" for one in verdict.findings) == noted


# --- approvals ----------------------------------------------------------------------------


def with_policies(*policies: tuple[float, float]) -> Callable[[list[dict[str, Any]]], None]:
    """These policies come after those that are there: epsilon, and when each was approved."""

    def change(entries: list[dict[str, Any]]) -> None:
        for epsilon, at in policies:
            policy = policy_of(epsilon)
            approval = approve(policy, REVIEWER, reviewer="R", reason="next", at=at)
            entry = next(one for one in entries if one["kind"] == "policy")
            values = json.loads(policy.to_bytes()), json.loads(approval.to_bytes())
            at_last = {"at": entries[-1]["at"]}
            entries.append({**entry, "policy": values[0], "approval": values[1], **at_last})

    return change


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ([(4.0, 10.0)], []),
        ([(4.0, 10.0), (3.0, 20.0), (4.0, 10.0)], [("older-approval", True)]),
        ([(4.0, 10.0), (3.0, 5.0)], [("older-approval", False)]),
        ([(4.0, BEGAN + 2 * DAY)], [("odd-approval-date", False)]),
        ([(4.0, 1e300)], [("odd-approval-date", False)]),
        ([(4.0, -1e300)], [("older-approval", True), ("odd-approval-date", False)]),
    ],
)
def test_an_approval_that_comes_back_is_shown(
    honest: Path,
    tmp_path: Path,
    policies: list[tuple[float, float]],
    expected: list[tuple[str, bool]],
) -> None:
    """An approval does not expire: where an older one lets epsilon rise again, a person must say
    whether that was meant."""
    forger = Forger(honest)
    forger.change_entries(with_policies(*policies))

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted
    assert {(one.kind, one.unproven) for one in verdict.findings} == set(expected)
    assert verdict.proven != any(unproven for _, unproven in expected)
