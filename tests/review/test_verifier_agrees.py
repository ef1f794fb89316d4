"""Two implementations, one answer: what the ledger wrote, the verifier computes again."""

from __future__ import annotations

import ast
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.forger import Forger
from fakes.honest_bundle import (
    BEGAN,
    CENTRE,
    FEATURES_EVENT,
    LABELS_EVENT,
    MADE_AT,
    OTHER,
    OWN,
    REVIEWER,
    STRANGER,
    Site,
    policy_of,
    site,
    source_of,
    write_honest,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fedge.review.verifier as verifier
from fedge.errors import BudgetError
from fedge.privacy.approval import approve
from fedge.privacy.heads import sign_head, witness_head
from fedge.privacy.merkle import tree_hash
from fedge.records import DiscreteGaussianEvent, PoissonGaussianEvent, PrivacyEvent, Quota
from fedge.review.bundle import write_bundle
from fedge.review.source import BundleSource
from fedge.review.verifier import Verdict, verify_bundle

KEYS: dict[str, Any] = {
    "witness_key": CENTRE.public_key.hex(),
    "reviewer_keys": [REVIEWER.public_key.hex()],
    "gateway_keys": [OWN.public_key.hex()],
}


def source(one: Site, **changes: Any) -> BundleSource:
    values: dict[str, Any] = {
        "made_by": "coordinator",
        "simulated": one.simulated,
        "witness_key": CENTRE.public_key.hex(),
        "gateways": (one.exported(),),
    }
    return BundleSource(**(values | changes))


def verdict_of(one: Site, **changes: Any) -> Verdict:
    path = one.state.path.with_name("bundle.zip")
    write_bundle(path, source(one, **changes), CENTRE, MADE_AT)
    return verify_bundle(path, **KEYS)


discrete = st.builds(
    DiscreteGaussianEvent,
    sensitivity2=st.integers(1, 2**40),
    sigma2=st.integers(2**38, 2**60),
    count=st.integers(1, 100),
    dimension=st.integers(1, 1000),
)
sampled = st.builds(
    PoissonGaussianEvent,
    rate_ppm=st.integers(1, 10**6 - 1),
    sensitivity2=st.integers(1, 2**40),
    sigma2=st.integers(2**38, 2**60),
    count=st.integers(1, 100),
    dimension=st.integers(1, 1000),
)
actions = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 1)),
    st.tuples(st.just("window"), st.integers(0, 1), discrete),
    st.tuples(st.just("labels"), st.integers(0, 8), discrete),
    st.tuples(
        st.just("run"),
        st.sets(st.integers(0, 3), min_size=1),
        st.lists(discrete | sampled, min_size=1, max_size=3),
    ),
    st.tuples(st.just("policy"), st.sampled_from([1.5, 2.0, 3.0, 4.0])),
    st.tuples(st.just("erase"), st.integers(0, 9)),
)


def newest(one: Site) -> int:
    return max((own.block for own in one.ledger.spendings()), default=0)


def charged_windows(one: Site) -> list[tuple[int, int, int]]:
    """Window, block and number of each entry about a window."""
    entries = map(json.loads, one.ledger.entries())
    return [(e["window"], e["block"], e["seq"]) for e in entries if e["kind"] == "window"]


def attempt(one: Site, action: tuple[Any, ...], number: int) -> None:
    match action:
        case ("open", more):
            one.ledger.open_block(newest(one) + more)
        case ("window", more, event):  # both numbers only rise, as they do at a gateway
            block = newest(one) + more
            one.ledger.open_block(block)
            one.ledger.reserve_window(number, block, [event])
        case ("labels", window, event):
            known = {w: b for w, b, _ in charged_windows(one)}
            if window in known:
                one.ledger.reserve_window(window, known[window], [event], purpose=f"p{number}")
        case ("run", blocks, events):
            purposes = [("training", "evaluation")[n % 2] for n in range(len(events))]
            one.ledger.reserve_run(f"run-{number}", sorted(blocks), events, purposes=purposes)
        case ("policy", epsilon):
            one.adopt(policy_of(epsilon))
        case ("erase", asked):
            one.ledger.note_erasure("erasure", asked=asked)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(actions, max_size=20))
def test_every_ledger_is_accepted_and_adds_up_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    """Whatever was asked of a ledger, and refused by it: block by block, to the last nano-RDP."""
    one = site(tmp_path_factory.mktemp("ledger"), OWN)
    for number, action in enumerate(steps):
        try:
            attempt(one, action, number)
        except BudgetError:
            continue
    one.mark()

    verdict = verdict_of(one)

    assert verdict.deviations == ()
    assert verdict.facts is not None
    theirs = {
        block.block: (block.cap_nano, block.telemetry_nano, block.training_nano, block.epsilon)
        for block in verdict.facts.gateways[0].blocks
    }
    assert theirs == {
        own.block: (own.cap_nano, own.telemetry_nano, own.training_nano, own.epsilon)
        for own in one.ledger.spendings()
    }
    one.state.close()


def test_what_a_block_has_left_is_what_the_ledger_still_gives(tmp_path: Path) -> None:
    """A run for all that remains is taken by the ledger, one nano-RDP more is not."""
    one = site(tmp_path, OWN)
    one.window(0, 0)
    one.mark()
    verdict = verdict_of(one)
    assert verdict.facts is not None
    block = verdict.facts.gateways[0].blocks[0]
    assert 0 < block.remaining_nano == block.cap_nano - block.spent_nano

    # alpha / 2 * sensitivity2 / sigma2 in nano-RDP: any integer, with a sigma2 of alpha * 1e9 / 2.
    sigma2 = block.alpha * 10**9 // 2
    all_of_it = DiscreteGaussianEvent(
        sensitivity2=block.remaining_nano, sigma2=sigma2, count=1, dimension=1
    )
    with pytest.raises(BudgetError):
        more = all_of_it.model_copy(update={"sensitivity2": block.remaining_nano + 1})
        one.ledger.reserve_run("too-much", [0], [more])
    one.ledger.reserve_run("all", [0], [all_of_it])


# --- what honest gateways go through ------------------------------------------------------


def test_a_recovered_ledger_is_accepted_and_has_nothing_left(tmp_path: Path) -> None:
    """The finding says so; the blocks concerned count as spent up to their cap."""
    one = site(tmp_path, OWN)
    one.window(0, 0)
    one.mark()
    entries = one.ledger.entries()
    head = sign_head(OWN, len(entries), tree_hash(entries).hex(), BEGAN)
    (tmp_path / "new").mkdir()
    again = site(tmp_path / "new", OWN)
    assert again.ledger.recover(entries, witness_head(CENTRE, head, BEGAN), 2, "wiped")
    again.window(9, 3)
    again.mark()

    verdict = verdict_of(again)

    assert verdict.deviations == ()
    assert "recovered" in {finding.kind for finding in verdict.findings}
    assert verdict.facts is not None
    old, new = verdict.facts.gateways[0].blocks
    assert (old.block, old.recovered, old.remaining_nano) == (0, True, 0)
    assert (new.block, new.recovered) == (3, False) and new.remaining_nano > 0


def test_a_lost_draw_is_accepted_and_stays_charged(tmp_path: Path) -> None:
    """The finding says how many; the block's spending is as if it had been released."""
    folders = [tmp_path / name for name in ("lost", "kept")]
    for folder in folders:
        folder.mkdir()
    one, other = (site(folder, OWN) for folder in folders)
    for each in (one, other):
        each.window(0, 0)
    reserved = one.ledger.reserve_window(1, 0, [FEATURES_EVENT])
    one.ledger.grant(reserved, "window/1", FEATURES_EVENT).to_bytes()
    one.adopt(one.policy)  # the next start
    one.window(2, 0)
    other.window(1, 0)
    other.window(2, 0)
    for each in (one, other):
        each.mark()

    verdict, complete = verdict_of(one), verdict_of(other)

    assert verdict.deviations == () and verdict.proven
    assert {f.kind for f in verdict.findings} - {f.kind for f in complete.findings} == {"lost-draw"}
    assert verdict.facts is not None and complete.facts is not None
    spent, full = (v.facts.gateways[0].blocks[0].spent_nano for v in (verdict, complete))
    assert spent == full


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_a_ledger_of_the_first_version_goes_on(tmp_path: Path, signed: bool, asked: bool) -> None:
    """It says of no entry whose it is and adopts no policy; what follows is of the second one.

    Who asks for approvals is told that there is none: what is proven then is proven of a policy
    that the gateway may have made. Where it was signed later, there is one.
    """
    one = site(tmp_path, OWN)
    one.window(0, 0)
    one.mark()
    path = tmp_path / "bundle.zip"
    write_bundle(path, source(one), CENTRE, MADE_AT)
    forger = Forger(path)

    def older(entries: list[dict[str, Any]]) -> None:
        adopted = entries.pop(1)
        for entry in entries:
            entry["schema_version"] = 1
        entries[0].pop("gateway"), entries[0].pop("public_key")
        if signed:
            entries.append(adopted)

    forger.change_entries(older)
    path.write_bytes(forger.data())

    verdict = verify_bundle(path, **(KEYS if asked else KEYS | {"reviewer_keys": []}))

    assert verdict.deviations == ()
    found = {f.kind for f in verdict.findings} - {"unpinned"}
    assert found == {"anonymous-ledger", "unsigned-policy"}
    assert verdict.proven == (signed or not asked)


def test_an_exclusion_is_named(tmp_path: Path) -> None:
    """The block is accounted for, and what left by itself is not hidden."""
    one = site(tmp_path, OWN)
    one.window(0, 0)
    one.ledger.exclude(0, "escalation")
    one.mark()

    verdict = verdict_of(one)

    assert verdict.accepted and [f.kind for f in verdict.findings] == ["exclusion"]
    assert verdict.facts is not None
    assert verdict.facts.gateways[0].blocks[0].excluded == ("escalation",)


def test_floating_point_noise_leaves_the_bound_unproven(tmp_path: Path) -> None:
    """Accepted, since nobody changed anything; proven only up to rounding."""
    one = site(tmp_path, OWN)
    one.ledger.open_block(0)
    event = PoissonGaussianEvent(rate_ppm=50_000, sensitivity2=4, sigma2=400, count=10, dimension=3)
    reserved = one.ledger.reserve_run("run-1", [0], [event])
    grant = one.ledger.grant(reserved, "all", event)
    grant.take(4, 400, 3, rate_ppm=50_000)
    one.ledger.settle(reserved, "all", "ab" * 32, "os-float")
    one.mark()

    verdict = verdict_of(one)

    assert verdict.accepted and not verdict.proven
    assert "floating-point-noise" in {f.kind for f in verdict.findings if f.unproven}


def test_entries_that_nobody_confirmed_leave_the_bound_unproven(tmp_path: Path) -> None:
    """The gateway could still write them anew."""
    one = site(tmp_path, OWN)
    one.mark()
    one.window(0, 0)

    verdict = verdict_of(one)

    assert verdict.accepted and not verdict.proven
    found = {(f.kind, f.entry) for f in verdict.findings if f.unproven}
    assert found == {("unsigned-entries", 2), ("unwitnessed-entries", 2)}


def test_a_quota_that_was_exceeded_is_a_finding(tmp_path: Path) -> None:
    """A rule of the house and no part of the bound: whoever broke it is named, and accepted."""
    one = site(tmp_path, OWN)
    one.window(0, 0)
    one.ledger.reserve_run("run-1", [0], [FEATURES_EVENT])
    one.mark()
    path = tmp_path / "bundle.zip"
    write_bundle(path, source(one, made_by="gateway"), OWN, MADE_AT)
    forger = Forger(path)
    policy = policy_of(3.0, quotas=(Quota(purpose="training", share=0.01),))
    approval = approve(policy, REVIEWER, reviewer="R", reason="a quota", at=1.0)

    def with_quota(entries: list[dict[str, Any]]) -> None:
        entries[1] |= {
            "policy": json.loads(policy.to_bytes()),
            "approval": json.loads(approval.to_bytes()),
        }
        entries[2]["policy"] = entries[1]["policy"]

    forger.change_entries(with_quota)
    path.write_bytes(forger.data(exporter=OWN))

    verdict = verify_bundle(path, **KEYS)

    assert verdict.accepted
    assert {finding.kind for finding in verdict.findings} == {"quota", "unchecked-runs"}


def test_a_gateway_exports_its_own(tmp_path: Path) -> None:
    """Without a coordinator nobody confirmed anything, and the verdict says so."""
    one = site(tmp_path, OWN)
    one.window(0, 0)
    one.mark()
    ledger = one.exported()
    path = tmp_path / "own.zip"
    write_bundle(
        path,
        source(
            one,
            made_by="gateway",
            witness_key=None,
            gateways=(type(ledger)(**{**_fields(ledger), "witnessed": ()}),),
        ),
        OWN,
        MADE_AT,
    )

    verdict = verify_bundle(path)

    assert verdict.accepted and not verdict.proven
    assert [f.kind for f in verdict.findings if f.unproven] == ["unwitnessed-entries"]
    assert sum(f.kind == "unpinned" for f in verdict.findings) == 3


@pytest.mark.parametrize("named", [False, True])
def test_a_witness_that_nobody_names_is_nobody(tmp_path: Path, named: bool) -> None:
    """Heads confirmed under some key prove nothing where neither bundle nor caller names it."""
    one = site(tmp_path, OWN)
    one.window(0, 0)
    one.mark()
    path = tmp_path / "own.zip"
    write_bundle(path, source(one, made_by="gateway", witness_key=None), OWN, MADE_AT)

    verdict = verify_bundle(path, **(KEYS if named else KEYS | {"witness_key": None}))

    assert verdict.accepted and verdict.proven == named
    assert ("unnamed-witness" in {f.kind for f in verdict.findings}) != named


def _fields(ledger: Any) -> dict[str, Any]:
    return {name: getattr(ledger, name) for name in ledger.__dataclass_fields__}


def test_a_named_gateway_that_is_absent_is_noticed(tmp_path: Path) -> None:
    path = write_honest(tmp_path)
    named = [who.public_key.hex() for who in (OWN, OTHER, STRANGER)]

    verdict = verify_bundle(path, **(KEYS | {"gateway_keys": named}))

    assert verdict.accepted and not verdict.proven
    assert [f.kind for f in verdict.findings] == ["missing-gateway"]


def test_releases_that_wait_elsewhere_are_counted(tmp_path: Path) -> None:
    """Charged all the same; the exporter does not hold their envelopes."""
    one = site(tmp_path, OWN)
    one.window(0, 0, labels=True)
    one.mark()
    one.artefacts.clear()

    verdict = verdict_of(one)

    assert verdict.accepted
    assert [f.kind for f in verdict.findings] == ["missing-artefacts"]
    assert verdict.findings[0].what.startswith("2 of 2")


def test_the_same_noised_difference_of_two_gateways_is_no_forgery(tmp_path: Path) -> None:
    """A few bytes of an evaluation may well be equal; each was settled by its own gateway."""
    path = write_honest(tmp_path, simulated=True)  # one seed: equal differences

    kinds = {deviation.kind for deviation in verify_bundle(path).deviations}

    assert kinds == {"simulated"}


def test_facts_name_every_charge(tmp_path: Path) -> None:
    """What was asked of which block, for what, and what it cost at the block's order."""
    verdict = verify_bundle(write_honest(tmp_path))

    assert verdict.facts is not None
    charges = verdict.facts.gateways[0].charges
    assert [charge.about for charge in charges] == [
        *("window 0", "window 0", "window 1", "window 2"),
        *("run run-1", "window 3"),
    ]
    assert charges[1].purposes == ("labels",) and charges[4].purposes == ("training", "evaluation")
    assert charges[0].nano == {0: _nano(FEATURES_EVENT, 8)}
    assert charges[1].nano == {0: _nano(LABELS_EVENT, 8)}
    assert charges[4].settled == 3 and charges[4].task == "digits"
    assert json.loads(json.dumps(verdict.to_json()))["accepted"] is True


def _nano(event: PrivacyEvent, alpha: int) -> int:
    return -(-(10**9) * alpha * event.count * event.sensitivity2 // (2 * event.sigma2))


# --- independence -------------------------------------------------------------------------

ALLOWED = {"cryptography", "mpmath", *sys.stdlib_module_names}


def test_the_verifier_shares_no_code() -> None:
    """Each of its modules imports the standard library, cryptography, mpmath and its siblings."""
    folder = Path(verifier.__file__).parent
    modules = sorted(folder.glob("*.py"))
    imported = set(itertools.chain.from_iterable(map(_imports, modules)))

    assert len(modules) > 10
    own = {name for name in imported if name.startswith(verifier.__name__)}
    assert {name.partition(".")[0] for name in imported - own} <= ALLOWED
    assert not any(b"importlib" in module.read_bytes() for module in modules)


def _imports(module: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            found.add(node.module)
    return found


def test_the_honest_bundle_has_a_source_with_all_parts(tmp_path: Path) -> None:
    """So that the forgeries have something to forge."""
    one = site(tmp_path, OWN)
    one.window(0, 0)
    made = source_of([one], [])

    assert made.runs and made.releases and made.gateways[0].artefacts
