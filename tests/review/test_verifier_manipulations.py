"""Whoever changes a bundle is found out, also with the gateway's, or with everybody's, own keys.

`rewritten` forgeries hold the gateway's key: they chain all entries again and sign new heads,
and only what the coordinator confirmed stands against them. `colluding` ones hold the
coordinator's key, too: only the rules themselves are left.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.forger import STANDING, Entry, Forger, unzipped, zipped
from fakes.honest_bundle import (
    CENTRE,
    OTHER,
    OWN,
    PLAN,
    REVIEWER,
    STRANGER,
    policy_of,
    write_honest,
)

from fedge.privacy.approval import approve
from fedge.privacy.heads import sign_head
from fedge.privacy.merkle import leaf_hash
from fedge.records import SignedHead, canonical, sha256_hex
from fedge.review.verifier import Verdict, verify_bundle

KEYS: dict[str, Any] = {
    "witness_key": CENTRE.public_key.hex(),
    "reviewer_keys": [REVIEWER.public_key.hex()],
    "gateway_keys": [OWN.public_key.hex(), OTHER.public_key.hex()],
}
Change = Callable[[Forger], object]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_honest(tmp_path_factory.mktemp("honest"))


def judged(folder: Path, data: bytes, **keys: Any) -> Verdict:
    path = folder / "forged.zip"
    path.write_bytes(data)
    return verify_bundle(path, **(KEYS | keys))


def first(verdict: Verdict) -> tuple[str, str | None, int | None]:
    assert not verdict.accepted and not verdict.proven
    deviation = verdict.deviations[0]
    assert str(deviation)
    return deviation.kind, deviation.gateway, deviation.entry


def test_the_untouched_bundle_is_accepted(honest: Path) -> None:
    """With all keys known, nothing at all stands against it."""
    verdict = verify_bundle(honest, **KEYS)

    assert (verdict.deviations, verdict.findings) == ((), ())
    assert verdict.accepted and verdict.proven


def test_taken_apart_and_put_together_it_is_the_same_file(honest: Path) -> None:
    """So what the forgeries below change is what is found."""
    assert Forger(honest).data() == honest.read_bytes()


# --- with everybody's keys ----------------------------------------------------------------


def entry_change(kind: str, number: int = 0, /, **fields: Any) -> Callable[[list[Entry]], None]:
    def change(entries: list[Entry]) -> None:
        [one for one in entries if one["kind"] == kind][number].update(fields)

    return change


def events_change(kind: str, /, **fields: Any) -> Callable[[list[Entry]], None]:
    def change(entries: list[Entry]) -> None:
        next(one for one in entries if one["kind"] == kind)["events"][0].update(fields)

    return change


def settled_change(**fields: Any) -> Callable[[list[Entry]], None]:
    def change(entries: list[Entry]) -> None:
        next(one for one in entries if one["kind"] == "settled")["event"].update(fields)

    return change


def copied(kind: str, number: int = 0, /, **fields: Any) -> Callable[[list[Entry]], None]:
    """The entry once more at the end."""

    def change(entries: list[Entry]) -> None:
        entry = [one for one in entries if one["kind"] == kind][number]
        entries.append(json.loads(json.dumps(entry)) | fields)

    return change


def removed(kind: str, number: int = 0) -> Callable[[list[Entry]], None]:
    def change(entries: list[Entry]) -> None:
        entries.remove([one for one in entries if one["kind"] == kind][number])

    return change


def cheaper(entries: list[Entry]) -> None:
    """The run claims a fourth of its price, and so does all that was settled under it."""
    run = next(one for one in entries if one["kind"] == "run")
    sigma2 = run["events"][0]["sigma2"]
    run["events"][0]["sigma2"] = 4 * sigma2
    for entry in entries:
        if entry["kind"] == "settled" and entry["event"]["sigma2"] == sigma2:
            entry["event"]["sigma2"] = 4 * sigma2


def more_runs(entries: list[Entry]) -> None:
    """A second run like the first: together more than the block's cap, which fell meanwhile."""
    copied("run", reservation=99, run_id="run-2")(entries)


def raised(entries: list[Entry]) -> None:
    """A third policy with a large epsilon, then the run that the old block cannot carry."""
    policy = policy_of(20.0)
    approval = approve(policy, REVIEWER, reviewer="R", reason="more", at=2.0)
    values: Any = {
        "policy": json.loads(policy.to_bytes()),
        "approval": json.loads(approval.to_bytes()),
    }
    copied("policy", **values)(entries)
    more_runs(entries)


def crowded_window(entries: list[Entry]) -> None:
    copied("window", reservation=99, purpose="again")(entries)


def other_policy(entries: list[Entry]) -> None:
    entry_change("opened", 1, policy=json.loads(policy_of(3.0).to_bytes()))(entries)


def self_approved(entries: list[Entry]) -> None:
    """The owner of the gateway signs a policy in the place of the reviewer."""
    policy = policy_of(9.0)
    approval = approve(policy, STRANGER, reviewer="R. Reader", reason="a test", at=1.0)
    values = json.loads(policy.to_bytes())
    entry_change("policy", 0, policy=values, approval=json.loads(approval.to_bytes()))(entries)
    entry_change("opened", 0, policy=values)(entries)


def forged_approval(entries: list[Entry]) -> None:
    next(one for one in entries if one["kind"] == "policy")["approval"]["signature"] = "ab" * 64


def larger_epsilon(entries: list[Entry]) -> None:
    for entry in entries:
        if entry["kind"] in ("policy", "opened"):
            entry["policy"]["epsilon"] = 9.0


def recovered(entries: list[Entry], **fields: Any) -> None:
    base = {key: entries[-1][key] for key in ("at", "simulated", "schema_version")}
    values = {
        "kind": "recovered",
        "through_block": 1,
        "witnessed_size": 1,
        "witnessed_root": leaf_hash(canonical(entries[0])).hex(),
        "reason": "restored",
    }
    entries.append(base | values | fields)


def spent_after_recovery(entries: list[Entry]) -> None:
    recovered(entries)
    copied("window", -1, reservation=99, purpose="again")(entries)


def settled_after_recovery(entries: list[Entry]) -> None:
    last = entries.pop()
    assert last["kind"] == "settled"
    recovered(entries)
    entries.append(last)


def lost(entries: list[Entry], before: bool, **fields: Any) -> None:
    """The first settlement is called lost, before it is settled or after."""
    place = next(n for n, one in enumerate(entries) if one["kind"] == "settled")
    gap = {k: v for k, v in entries[place].items() if k not in ("artefact_sha256", "noise")}
    entries.insert(place + (not before), json.loads(json.dumps(gap | {"kind": "lost"} | fields)))


def opened_after_recovery(entries: list[Entry]) -> None:
    recovered(entries, through_block=7)
    copied("opened", 1, block=5)(entries)


def refunded(entries: list[Entry]) -> None:
    """An erasure is followed by a run for which there is no room."""
    copied("erased")(entries)
    more_runs(entries)


def subject_mode(entries: list[Entry], max_records: int = 10) -> None:
    """Ten records of a person count, and the window is noised as for one."""
    policy = policy_of(3.0, unit="subject", max_records=max_records)
    approval = approve(policy, REVIEWER, reviewer="R", reason="subjects", at=1.0)
    values = json.loads(policy.to_bytes())
    entry_change("policy", 0, policy=values, approval=json.loads(approval.to_bytes()))(entries)
    entry_change("opened", 0, policy=values)(entries)


def subject_windows(entries: list[Entry]) -> None:
    """Three records of a person count, windows are noised for three, the evaluation for one."""
    subject_mode(entries, max_records=3)
    for entry in entries:
        events = entry.get("events", []) if entry["kind"] == "window" else []
        for event in [*events, entry.get("event", {})]:
            if event.get("dimension") == 2:
                event.update(sensitivity2=9, sigma2=9 * event["sigma2"])


NEVER: dict[str, tuple[Callable[[list[Entry]], None], str, str]] = {
    "a halved sigma where it was settled": (settled_change(sigma2=125), "unreserved", "settled"),
    "a settlement twice": (copied("settled", 3), "settled-twice", "settled"),
    "a settlement of another key twice": (copied("settled", 3, key="x"), "unreserved", "settled"),
    "a settlement without reservation": (
        copied("settled", 0, reservation=77, key="x"),
        "unreserved",
        "settled",
    ),
    "noise of a simulation": (entry_change("settled", 0, noise="seeded"), "noise", "settled"),
    "floating-point noise as exact": (
        settled_change(kind="poisson-gaussian", rate_ppm=1000),
        "noise",
        "settled",
    ),
    "an overdrawn block": (more_runs, "overdrawn", "run"),
    "an overdrawn window": (crowded_window, "overdrawn", "window"),
    "a budget raised for an open block": (raised, "overdrawn", "run"),
    "an erasure that refunds": (refunded, "overdrawn", "run"),
    "a smaller sigma than the block can pay": (
        events_change("run", sigma2=2**20),
        "overdrawn",
        "run",
    ),
    "a removed policy": (removed("policy"), "policy", "opened"),
    "a block under another policy": (other_policy, "policy", "opened"),
    "a changed epsilon": (larger_epsilon, "approval", "policy"),
    "a forged approval": (forged_approval, "approval", "policy"),
    "an approval by somebody else": (self_approved, "approval", "policy"),
    "a removed approval": (entry_change("policy", 0, approval=None), "approval", "policy"),
    "a policy adopted again": (copied("policy", 1), "policy", "policy"),
    "a block opened again": (copied("opened", 0), "reopened", "opened"),
    "a block never opened": (removed("opened"), "unopened", "window"),
    "a window in two blocks": (
        entry_change("window", -1, window=0, purpose="again"),
        "window",
        "window",
    ),
    "a reservation number twice": (
        copied("window", -1, window=9),
        "reserved-twice",
        "window",
    ),
    "a window reserved twice": (copied("window", -1, reservation=99), "reserved-twice", "window"),
    "a lost draw that is drawn again": (lambda e: lost(e, True), "lost", "settled"),
    "a lost draw under another name": (lambda e: lost(e, True, key="x"), "unreserved", "settled"),
    "a release called lost": (lambda e: lost(e, False), "settled-twice", "lost"),
    "a loss that was not reserved": (
        lambda e: lost(e, True, reservation=77),
        "unreserved",
        "lost",
    ),
    "a loss that gives back": (lambda e: lost(e, True, refund_nano=1), "form", "lost"),
    "spending after a recovery": (spent_after_recovery, "recovered", "window"),
    "settling after a recovery": (settled_after_recovery, "recovered", "settled"),
    "opening after a recovery": (opened_after_recovery, "recovered", "opened"),
    "a recovery that leaves a block": (
        lambda entries: recovered(entries, through_block=0),
        "recovered",
        "recovered",
    ),
    "a recovery from no ledger": (
        lambda entries: recovered(entries, witnessed_size=0, witnessed_root=sha256_hex(b"")),
        "recovered",
        "recovered",
    ),
    "a recovery from another ledger": (
        lambda entries: recovered(entries, witnessed_size=2, witnessed_root="ab" * 32),
        "recovered",
        "recovered",
    ),
    "a field that refunds": (entry_change("erased", 0, refund_nano=10**9), "form", "erased"),
    "a command to the terminal": (entry_change("run", 0, run_id="\x1b[2Jfine"), "form", "run"),
    "an unknown kind of entry": (entry_change("erased", 0, kind="refund"), "form", "refund"),
    "an unknown event": (events_change("window", kind="laplace"), "form", "window"),
    "a negative sigma": (events_change("window", sigma2=-5), "form", "window"),
    "a sigma of zero": (events_change("window", sigma2=0), "form", "window"),
    "a fractional sigma": (events_change("window", sigma2=250.0), "form", "window"),
    "a huge count": (events_change("window", count=10**30), "form", "window"),
    "a boolean count": (events_change("window", count=True), "form", "window"),
    "a huge sensitivity": (events_change("window", sensitivity2=10**300), "overdrawn", "window"),
    "an endless sensitivity": (events_change("window", sensitivity2=10**4200), "form", "window"),
    "a sampled event beyond price": (
        events_change("run", kind="poisson-gaussian", rate_ppm=5, sensitivity2=10**300, sigma2=1),
        "unknown-event",
        "run",
    ),
    "less sensitivity than a subject has": (subject_mode, "sensitivity", "window"),
    "an evaluation for less than a subject has": (subject_windows, "sensitivity", "run"),
    "a delta of one": (
        lambda entries: entries[1]["policy"].update(delta=1.0),
        "form",
        "policy",
    ),
    "an order of one": (lambda entries: entries[1]["policy"].update(alpha=1), "form", "policy"),
    "an earlier version": (entry_change("erased", 0, schema_version=1), "form", "erased"),
    "a second beginning": (copied("created"), "chain", "created"),
    "another gateway's ledger": (
        entry_change("created", 0, gateway=OTHER.fingerprint, public_key=OTHER.public_key.hex()),
        "owner",
        "created",
    ),
    "a simulation among real entries": (
        entry_change("erased", 0, simulated=True),
        "simulated",
        "erased",
    ),
    "a ledger that is simulated": (
        lambda entries: [one.update(simulated=True) for one in entries] and None,
        "simulated",
        "created",
    ),
}


@pytest.mark.parametrize("name", NEVER)
def test_colluding_keys_do_not_help(honest: Path, tmp_path: Path, name: str) -> None:
    """Chained, signed and confirmed again: the rule that was broken is named, and where."""
    change, kind, place = NEVER[name]
    forger = Forger(honest)
    forger.change_entries(change)
    entries = forger.entries

    found, gateway, entry = first(judged(tmp_path, forger.data()))

    assert (found, gateway) == (kind, OWN.fingerprint)
    assert entry is not None and entries[entry]["kind"] == place


def a_run_for(nano: int, alpha: int) -> Callable[[list[Entry]], None]:
    """One more run about block 0 that costs just so much."""

    def change(entries: list[Entry]) -> None:
        event = {
            "kind": "discrete-gaussian",
            "sensitivity2": nano,
            "sigma2": alpha * 10**9 // 2,
            "count": 1,
            "dimension": 1,
        }
        fields: dict[str, Any] = {"events": [event], "purposes": ["training"]}
        copied("run", reservation=99, run_id="run-2", **fields)(entries)

    return change


@pytest.mark.parametrize(("more", "accepted"), [(0, True), (1, False)])
def test_not_one_nano_too_much(honest: Path, tmp_path: Path, more: int, accepted: bool) -> None:
    """All that is left may be taken; monitoring's share is none of it."""
    facts = verify_bundle(honest, **KEYS).facts
    assert facts is not None
    own = next(one for one in facts.gateways if one.gateway == OWN.fingerprint)
    block = own.blocks[0]
    forger = Forger(honest)
    forger.change_entries(a_run_for(block.remaining_nano + more, block.alpha))

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted == accepted
    assert accepted or first(verdict)[0] == "overdrawn"


# --- with the gateway's own key -----------------------------------------------------------

REWRITTEN: dict[str, tuple[Callable[[list[Entry]], None], str]] = {
    "a lower charge": (cheaper, "rewritten"),
    "a later time": (entry_change("window", 0, at=1.5), "rewritten"),
    "other bytes": (entry_change("settled", 0, artefact_sha256="ab" * 32), "rewritten"),
    "an erasure left out": (removed("erased"), "rewritten"),
    "a reservation left out": (removed("window", 1), "unreserved"),
    "a larger policy, where no reviewer is known": (self_approved, "rewritten"),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_a_ledger_written_anew_is_not_the_confirmed_one(
    honest: Path, tmp_path: Path, name: str
) -> None:
    """The chain holds together and every head is signed, yet the coordinator knew another one."""
    change, kind = REWRITTEN[name]
    forger = Forger(honest)
    forger.change_entries(change, confirmed=False)

    verdict = judged(tmp_path, forger.data(), reviewer_keys=())

    assert first(verdict)[:2] == (kind, OWN.fingerprint)
    assert {"rewritten", "truncated"} & {deviation.kind for deviation in verdict.deviations}


def test_a_cheaper_run_is_named_by_the_confirmed_head(honest: Path, tmp_path: Path) -> None:
    """The head over the entries up to the run is the first that is of another ledger."""
    forger = Forger(honest)
    forger.change_entries(cheaper, confirmed=False)
    sizes = [head["head"]["size"] for head in forger.read(forger.own("witnessed"))]
    run = forger.find("run")

    kind, gateway, entry = first(judged(tmp_path, forger.data()))

    assert (kind, gateway) == ("rewritten", OWN.fingerprint)
    assert entry == min(size for size in sizes if size > run) - 1


def test_a_cheaper_run_is_not_the_planned_one(honest: Path, tmp_path: Path) -> None:
    """Even where the coordinator confirms it: the run was planned with less noise."""
    forger = Forger(honest)
    forger.change_entries(cheaper)

    assert first(judged(tmp_path, forger.data())) == ("run", OWN.fingerprint, forger.find("run"))


# --- chain, heads, witness ----------------------------------------------------------------


def dropped(forger: Forger) -> None:
    forger.put_entries([e for n, e in enumerate(forger.entries) if n != 4], chain=False)


def swapped(forger: Forger) -> None:
    entries = forger.entries
    entries[4], entries[5] = entries[5], entries[4]
    forger.put_entries(entries, chain=False)


def unlinked(forger: Forger) -> None:
    """Numbers in order, one link that leads nowhere, all of it signed and confirmed."""
    entries = forger.entries
    entries[4]["previous"] = "ab" * 32
    forger.put_entries(entries, chain=False)
    forger.sign_heads([len(entries)], confirmed=True)


def shortened(forger: Forger) -> None:
    """The last entries and all heads of the gateway over them are gone."""
    size = forger.read(forger.own("heads"))[0]["size"]
    forger.put_entries(forger.entries[:size])
    forger.change(forger.own("heads"), lambda heads: heads.__delitem__(slice(1, None)))


def shortened_thoroughly(forger: Forger) -> None:
    """The confirmed heads are gone, too; what was sent meanwhile is still there."""
    shortened(forger)
    forger.change(forger.own("witnessed"), lambda heads: heads.__delitem__(slice(1, None)))


def forked(forger: Forger) -> None:
    """The gateway signed two ledgers of one size."""
    size = forger.read(forger.own("heads"))[-1]["size"]
    other = json.loads(sign_head(OWN, size, "ab" * 32, 9.0).to_bytes())
    forger.change(forger.own("heads"), lambda heads: heads.append(other))


def other_witness(forger: Forger) -> None:
    heads = [one["head"] for one in forger.read(forger.own("witnessed"))]
    forger.confirm([SignedHead.from_bytes(canonical(head)) for head in heads], STRANGER)


def unsigned_head(forger: Forger) -> None:
    forger.change(forger.own("heads"), lambda heads: heads[0].update(signature="ab" * 64))


def unsigned_confirmation(forger: Forger) -> None:
    forger.change(forger.own("witnessed"), lambda heads: heads[0].update(signature="ab" * 64))


def foreign_head(forger: Forger) -> None:
    head = json.loads(sign_head(OTHER, 1, "ab" * 32, 9.0).to_bytes())
    forger.change(forger.own("heads"), lambda heads: heads.insert(0, head))


def foreign_ledger(forger: Forger) -> None:
    """All files of the other gateway in the place of this one's."""
    theirs = f"gateways/{OTHER.fingerprint}"
    for name in ("entries", "heads", "witnessed", "artefacts"):
        forger.files[forger.own(name)] = forger.files[f"{theirs}/{name}.jsonl"]


def no_ledger(forger: Forger) -> None:
    for name in ("entries", "heads", "witnessed", "artefacts"):
        del forger.files[forger.own(name)]


def spaced(forger: Forger) -> None:
    name = forger.own("entries")
    forger.files[name] = forger.files[name].replace(b'{"artefact', b'{ "artefact', 1)


def twice_a_field(forger: Forger) -> None:
    """Two readers could take different values: the first or the last."""
    name = forger.own("entries")
    forger.files[name] = forger.files[name].replace(b'"sigma2":250', b'"sigma2":1,"sigma2":250', 1)


def not_a_number(forger: Forger) -> None:
    name = forger.own("entries")
    forger.files[name] = forger.files[name].replace(b'"epsilon":3.0', b'"epsilon":NaN', 1)


def beyond_floats(forger: Forger) -> None:
    name = forger.own("entries")
    forger.files[name] = forger.files[name].replace(b'"epsilon":3.0', b'"epsilon":1e999', 1)


def cut_line(forger: Forger) -> None:
    forger.files[forger.own("entries")] = forger.files[forger.own("entries")][:-1]


LEDGER_FILES: dict[str, tuple[Change, str, int | None]] = {
    "a dropped entry": (dropped, "chain", 4),
    "swapped entries": (swapped, "chain", 4),
    "a broken link": (unlinked, "chain", 4),
    "a shortened ledger": (shortened, "truncated", None),
    "a shortened ledger and no heads": (shortened_thoroughly, "unsettled-artefact", None),
    "forked heads": (forked, "rewritten", None),
    "another witness": (other_witness, "witness", None),
    "a forged head": (unsigned_head, "head", None),
    "a forged confirmation": (unsigned_confirmation, "witness", None),
    "another gateway's head": (foreign_head, "owner", 0),
    "another gateway's files": (foreign_ledger, "owner", 0),
    "no ledger": (no_ledger, "truncated", None),
    "blanks in an entry": (spaced, "form", None),
    "a field twice": (twice_a_field, "form", None),
    "a NaN": (not_a_number, "form", 1),
    "a number beyond floats": (beyond_floats, "form", 1),
    "a cut line": (cut_line, "truncated", None),
}


@pytest.mark.parametrize("name", LEDGER_FILES)
def test_files_of_a_ledger_that_do_not_belong_together(
    honest: Path, tmp_path: Path, name: str
) -> None:
    change, kind, at = LEDGER_FILES[name]
    forger = Forger(honest)
    change(forger)

    found, gateway, entry = first(judged(tmp_path, forger.data()))

    assert found == kind
    assert gateway == OWN.fingerprint or kind == "truncated"
    assert at is None or entry == at


# --- artefacts, runs, releases ------------------------------------------------------------


def artefact_change(number: int = 0, **fields: Any) -> Change:
    """Change an envelope and sign it again with the gateway's key."""

    def change(forger: Forger) -> None:
        def one(values: list[Any]) -> None:
            values[number].update(fields)
            forger.sign_artefact(values[number])

        forger.change(forger.own("artefacts"), one)

    return change


def artefact_of(kind: str, /, **fields: Any) -> Change:
    def change(forger: Forger) -> None:
        kinds = [one["kind"] for one in forger.read(forger.own("artefacts"))]
        artefact_change(kinds.index(kind), **fields)(forger)

    return change


def unsigned_artefact(forger: Forger) -> None:
    forger.change(forger.own("artefacts"), lambda values: values[0].update(signature="ab" * 64))


def foreign_artefact(forger: Forger) -> None:
    theirs = forger.read(f"gateways/{OTHER.fingerprint}/artefacts.jsonl")[0]
    forger.change(forger.own("artefacts"), lambda values: values.append(theirs))


def repeated_artefact(forger: Forger) -> None:
    forger.change(forger.own("artefacts"), lambda values: values.append(values[0]))


def simulated_artefact(forger: Forger) -> None:
    def one(values: list[Any]) -> None:
        values[0]["header"]["simulated"] = True
        forger.sign_artefact(values[0])

    forger.change(forger.own("artefacts"), one)


def run_change(change: Callable[[Any], object]) -> Change:
    return lambda forger: forger.change("runs.jsonl", lambda runs: change(runs[0]))


def release_change(**fields: Any) -> Change:
    return lambda forger: forger.change("releases.jsonl", lambda found: found[-1].update(fields))


def releases(change: Callable[[list[Any]], object]) -> Change:
    return lambda forger: forger.change("releases.jsonl", change)


def exchanged(run: Any) -> None:
    run["update_sha256"][0], run["counts_sha256"][0] = (
        run["counts_sha256"][0],
        run["update_sha256"][0],
    )


LINKS: dict[str, tuple[Change, str]] = {
    "an envelope that nothing settled": (
        artefact_change(payload_sha256="ab" * 32),
        "unsettled-artefact",
    ),
    "a report sent as labels": (artefact_of("report", kind="labels"), "artefact"),
    "an update sent as counts": (artefact_of("update", kind="counts"), "artefact"),
    "labels sent as an update": (artefact_of("labels", kind="update"), "artefact"),
    "a forged envelope": (unsigned_artefact, "artefact"),
    "another gateway's envelope": (foreign_artefact, "owner"),
    "an envelope twice": (repeated_artefact, "artefact"),
    "a simulation's envelope": (simulated_artefact, "simulated"),
    "a swapped update": (run_change(lambda r: r["update_sha256"].__setitem__(0, "ab" * 32)), "run"),
    "an update counted twice": (
        run_change(lambda r: r["update_sha256"].append(r["update_sha256"][0])),
        "run",
    ),
    "counts as an update": (run_change(exchanged), "run"),
    "a plan with more noise": (
        run_change(lambda r: r["spec"]["plan"].update(sigma2=4 * PLAN.sigma2)),
        "run",
    ),
    "a plan with fewer steps": (run_change(lambda r: r["spec"]["plan"].update(steps=1)), "run"),
    "a plan for another unit": (
        run_change(lambda r: r["spec"]["plan"].update(unit="subject")),
        "run",
    ),
    "a plan of another task": (run_change(lambda r: r["spec"].update(task="other")), "run"),
    "a plan from another release": (
        run_change(lambda r: r["spec"].update(base_sha256="00" * 32)),
        "run",
    ),
    "a plan without this gateway": (
        run_change(lambda r: r["spec"]["participants"].__delitem__(0)),
        "run",
    ),
    "a run under another name": (run_change(lambda r: r.update(run_id="run-9")), "run"),
    "a plan that is none": (
        run_change(lambda r: r["spec"]["plan"].update(rounds=-1)),
        "form",
    ),
    "a release from an unknown run": (release_change(run_id="run-9"), "run"),
    "a release with another parent": (release_change(parent=7), "run"),
    "a release with another number": (release_change(counter=7), "run"),
    "a first release that cost something": (release_change(parent=0), "run"),
    "a trained release as a first one": (
        release_change(parent=0, privacy={"epsilon": 0.0}),
        "run",
    ),
    "a release twice": (releases(lambda found: found.append(found[-1])), "run"),
    "a first release twice": (releases(lambda found: found.append(found[0])), "run"),
    "two releases from a run": (
        releases(lambda found: found.append({**found[-1], "counter": 3})),
        "run",
    ),
    "a release left out": (releases(lambda found: found.pop()), "run"),
    "all releases left out": (releases(lambda found: found.clear()), "run"),
    "a first release of other bytes": (
        releases(lambda found: found[0].update(manifest_sha256="00" * 32)),
        "run",
    ),
    "a released run without adapter": (run_change(lambda r: r.update(adapter_sha256=None)), "run"),
    "a released run without updates": (run_change(lambda r: r.update(update_sha256=[])), "run"),
    "a released run that says it led to nothing": (
        run_change(lambda r: r.update(release=None, adapter_sha256=None, update_sha256=[])),
        "run",
    ),
    "a release that is its own parent": (
        releases(lambda found: found[0].update(parent=1)),
        "run",
    ),
    "a base release of another family": (
        releases(
            lambda found: (
                found.insert(0, {**found[0], "family": "a"})
                or found[1].update(manifest_sha256="00" * 32)
            )
        ),
        "run",
    ),
    "rounds of another length": (
        run_change(lambda r: r["spec"]["plan"].update(rounds=5, steps=2)),
        "run",
    ),
    "a plan for an unknown adapter": (
        run_change(lambda r: r["spec"]["plan"].update(adapter="magic")),
        "form",
    ),
    "a plan off its own grid": (
        run_change(lambda r: r["spec"]["plan"].update(grid_bits=40)),
        "form",
    ),
    "a release that claims more than is compared": (
        release_change(privacy={"epsilon": 3.0, "delta": 1e-30}),
        "form",
    ),
    "a release number without end": (release_change(counter=10**400), "form"),
    "a release without its price": (release_change(privacy={}), "form"),
}


@pytest.mark.parametrize("name", LINKS)
def test_what_left_is_what_was_charged(honest: Path, tmp_path: Path, name: str) -> None:
    change, kind = LINKS[name]
    forger = Forger(honest)
    change(forger)

    assert first(judged(tmp_path, forger.data()))[0] == kind


def test_a_release_that_claims_too_little_leaves_the_bound_unproven(
    honest: Path, tmp_path: Path
) -> None:
    """What its manifest says is what everybody is told."""
    forger = Forger(honest)
    release_change(privacy={"epsilon": 0.5})(forger)

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted and not verdict.proven
    assert [finding.kind for finding in verdict.findings] == ["release-epsilon"]


def test_a_run_that_is_left_out_leaves_the_bound_unproven(honest: Path, tmp_path: Path) -> None:
    """The coordinator has every run that it planned: without one, nobody can compare which blocks
    it read. A gateway has none of them."""
    forger = Forger(honest)
    del forger.files["runs.jsonl"]
    releases(lambda found: found.pop())(forger)

    verdict = judged(tmp_path, forger.data())

    assert verdict.accepted and not verdict.proven
    assert {(one.kind, one.unproven) for one in verdict.findings} == {("unknown-run", True)}


def test_a_participant_without_a_ledger_is_missed(honest: Path, tmp_path: Path) -> None:
    """Gone with all that came of it; the plan still names it."""
    forger = Forger(honest)
    theirs = {
        one["payload_sha256"]
        for one in forger.read(f"gateways/{OTHER.fingerprint}/artefacts.jsonl")
    }
    forger.files = {k: v for k, v in forger.files.items() if OTHER.fingerprint not in k}
    del forger.files[STANDING]
    for name in ("update_sha256", "counts_sha256"):
        run_change(lambda r, name=name: r.update({name: [h for h in r[name] if h not in theirs]}))(
            forger
        )
    index = json.loads(forger.files["bundle.json"])
    gateways = [one for one in index["gateways"] if one["gateway"] == OWN.fingerprint]

    verdict = judged(tmp_path, forger.data(gateways=gateways), gateway_keys=[OWN.public_key.hex()])

    assert verdict.accepted and not verdict.proven
    (finding,) = verdict.findings
    assert finding.kind == "missing-gateway" and OTHER.fingerprint in finding.what


def policy_change(**fields: Any) -> Change:
    """The first policy says something else, which the reviewer signed as it stands."""

    def change(entries: list[Entry]) -> None:
        values = entries[1]["policy"] | fields
        approval = {**entries[1]["approval"], "policy_sha256": sha256_hex(canonical(values))}
        del approval["signature"]
        signed = REVIEWER.sign(b"fedge policy approval 1\n" + canonical(approval)).hex()
        entries[1].update(policy=values, approval=approval | {"signature": signed})
        entries[2]["policy"] = values

    return lambda forger: forger.change_entries(change)


def quota(**fields: Any) -> dict[str, Any]:
    return {"quotas": [{"purpose": "features", "task": "*", "share": 0.5} | fields]}


@pytest.mark.parametrize(
    "fields",
    [
        {"public": [""]},
        {"public": ["x" * 201]},
        {"window_rho": 1e-12},
        {"block": {"kind": "windows", "value": 10**6 + 1}},
        {"block": {"kind": "seconds", "value": 10 * 365 * 86_400 + 1}},
        {"block": {"kind": ["windows"], "value": 3}},
        quota(task="digits"),
        quota(share=0.001),
        quota(purpose="labels", share=1e-6),
    ],
)
def test_a_policy_that_no_gateway_adopts_is_refused(
    honest: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """The ledger's own replay refuses it, too: two answers about one bundle are none."""
    forger = Forger(honest)
    policy_change(**fields)(forger)

    found = first(judged(tmp_path, forger.data()))

    assert found == ("form", OWN.fingerprint, 1)


def test_the_same_policy_signed_again_is_no_forgery(honest: Path, tmp_path: Path) -> None:
    """So what is refused above is refused for what it says."""
    forger = Forger(honest)
    policy_change(**quota())(forger)

    assert judged(tmp_path, forger.data()).proven


@pytest.mark.parametrize("fields", [{"reviewer": ""}, {"reason": ""}, {"reviewer": "x" * 201}])
def test_an_approval_says_by_whom_and_why(
    honest: Path, tmp_path: Path, fields: dict[str, str]
) -> None:
    def change(entries: list[Entry]) -> None:
        approval = entries[1]["approval"] | fields
        del approval["signature"]
        signed = REVIEWER.sign(b"fedge policy approval 1\n" + canonical(approval)).hex()
        entries[1]["approval"] = approval | {"signature": signed}

    forger = Forger(honest)
    forger.change_entries(change)

    assert first(judged(tmp_path, forger.data()))[0] == "approval"


@pytest.mark.parametrize("key", ["01" + "00" * 31, "00" * 31 + "80", "ee" + "ff" * 31])
def test_a_key_under_which_anything_is_signed_signs_nothing(
    honest: Path, tmp_path: Path, key: str
) -> None:
    """Points of small order: one signature fits many texts, or all of them."""
    forger = Forger(honest)
    signature = {"public_key": key, "signature": "01" + "00" * 63}
    data = forger.data(exporter_key=key, witness_key=key)
    files = unzipped(data)
    files["bundle.sig"] = canonical(signature)

    found = first(judged(tmp_path, zipped(files), witness_key=key))

    assert found[0] == "signature"


def test_a_run_that_led_to_nothing_needs_no_result(honest: Path, tmp_path: Path) -> None:
    """It may be under way, or have been refused."""
    forger = Forger(honest)
    run_change(lambda r: r.update(adapter_sha256=None, update_sha256=[], release=None))(forger)
    releases(lambda found: found.pop())(forger)

    assert judged(tmp_path, forger.data()).proven


def test_a_gateway_s_own_export_says_that_no_plan_was_compared(
    honest: Path, tmp_path: Path
) -> None:
    """It has none; the coordinator's bundle does."""
    forger = Forger(honest)
    del forger.files["releases.jsonl"], forger.files["runs.jsonl"]
    verdict = judged(tmp_path, forger.data(exporter=OWN, made_by="gateway"))

    assert verdict.proven
    assert {(one.kind, one.unproven) for one in verdict.findings} == {("unchecked-runs", False)}


def test_a_gateway_s_own_export_knows_no_releases(honest: Path, tmp_path: Path) -> None:
    """What only the coordinator holds is not missed."""
    forger = Forger(honest)
    del forger.files["releases.jsonl"]
    verdict = judged(tmp_path, forger.data(exporter=OWN, made_by="gateway"))

    assert verdict.proven
