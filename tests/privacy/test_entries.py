"""Replaying a chain: also a forger who hashes correctly cannot make it add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import fedge.privacy.replay as replaying
from fedge.errors import RecordError, StateError
from fedge.identity import Identity
from fedge.privacy import charges, merkle
from fedge.privacy.approval import approve
from fedge.privacy.entries import (
    FIRST_HASH,
    Adopted,
    Created,
    Entry,
    Erased,
    Excluded,
    Lost,
    Opened,
    Recovered,
    RunReserved,
    Settled,
    WindowReserved,
    read_entry,
)
from fedge.privacy.merkle import tree_hash
from fedge.privacy.rdp import cap_nano, event_nano, telemetry_nano
from fedge.privacy.replay import replay
from fedge.records import (
    DiscreteGaussianEvent,
    PoissonGaussianEvent,
    PrivacyEvent,
    PrivacyPolicy,
    sha256_hex,
)

SMALL = DiscreteGaussianEvent(sensitivity2=1, sigma2=10_000, count=1, dimension=2)
HUGE = SMALL.model_copy(update={"count": 10_000})
SAMPLED = PoissonGaussianEvent(rate_ppm=10_000, sensitivity2=1, sigma2=100, count=1, dimension=2)
BYTES = sha256_hex(b"noised bytes")
REVIEWER = Identity.from_seed(bytes(32))
Step = tuple[type[Entry], dict[str, object]]


def chained(*steps: Step, simulated: bool = False) -> list[bytes]:
    """A chain with right numbers and hashes, whatever it says."""
    bodies, previous = [], FIRST_HASH
    for seq, (kind, facts) in enumerate(steps):
        base = {"seq": seq, "previous": previous, "at": 0.0, "simulated": simulated}
        entry = kind.model_validate(base | facts)
        bodies.append(entry.to_bytes())
        previous = entry.hash
    return bodies


def adopted(policy: PrivacyPolicy, **facts: object) -> Step:
    return Adopted, {"policy": policy, **facts}


def opened(policy: PrivacyPolicy, block: int = 0) -> Step:
    return Opened, {"block": block, "policy": policy}


def begun(policy: PrivacyPolicy, *steps: Step, simulated: bool = False) -> list[bytes]:
    """A chain of a ledger with block 0 open under `policy`, and further steps."""
    return chained(BEGIN, adopted(policy), opened(policy), *steps, simulated=simulated)


def window(
    number: int, reservation: int, event: DiscreteGaussianEvent = SMALL, block: int = 0
) -> Step:
    return WindowReserved, {
        "reservation": reservation,
        "window": number,
        "block": block,
        "purpose": f"p{reservation}",
        "events": (event,),
    }


def run(
    reservation: int,
    event: PrivacyEvent = SMALL,
    blocks: tuple[int, ...] = (0,),
    **facts: object,
) -> Step:
    return RunReserved, {
        "reservation": reservation,
        "run_id": f"r{reservation}",
        "blocks": blocks,
        "events": (event,),
        "purposes": ("training",),
        **facts,
    }


def settled(
    reservation: int, key: str = "k", event: PrivacyEvent = SMALL, noise: str = "os"
) -> Step:
    return Settled, {
        "reservation": reservation,
        "key": key,
        "event": event,
        "artefact_sha256": BYTES,
        "noise": noise,
    }


def lost(reservation: int, key: str = "k", event: PrivacyEvent = SMALL) -> Step:
    return Lost, {"reservation": reservation, "key": key, "event": event}


def excluded(block: int = 0, what: str = "escalation") -> Step:
    return Excluded, {"block": block, "what": what}


def erased(records: int, reason: str = "erasure") -> Step:
    return Erased, {"records": records, "reason": reason}


def recovered(through: int = 0, size: int = 1, root: str = "") -> Step:
    return Recovered, {
        "through_block": through,
        "witnessed_size": size,
        "witnessed_root": root or tree_hash(chained(BEGIN)).hex(),
        "reason": "wiped",
    }


BEGIN: Step = (Created, {})


def test_a_right_chain_adds_up(policy: PrivacyPolicy) -> None:
    """The totals are those of the entries, computed from their parameters alone."""
    chain = begun(policy, window(3, 0), run(1), settled(1))

    totals = replay(chain)

    nano = event_nano(SMALL, policy.alpha)
    gap = replay(begun(policy, window(3, 0), run(1), lost(1)))
    assert (gap.training_nano, gap.settled, gap.lost) == ({0: nano}, {}, {(1, "k")})
    assert (totals.training_nano, totals.window_nano) == ({0: nano}, {3: nano})
    assert totals.settled == {(1, "k"): BYTES}
    assert totals.policies == {0: policy}


@pytest.mark.parametrize(
    "steps",
    [
        [run(0, HUGE)],
        [run(number, HUGE.model_copy(update={"count": 2000})) for number in range(3)],
        [window(0, 0, HUGE)],
        [window(0, number, SMALL.model_copy(update={"count": 200})) for number in range(3)],
        [run(0, blocks=(1,))],
        [window(0, 0, block=1)],
        [run(0), run(0)],
        [settled(0)],
        [run(0, SMALL.model_copy(update={"count": 2})), settled(0), settled(0)],
        [run(0), settled(0), settled(0, "second")],
        [run(0), settled(0, event=HUGE)],
        [lost(0)],
        [run(0), lost(0), settled(0)],
        [run(0), lost(0), settled(0, "second")],
        [run(0), settled(0), lost(0)],
        [run(0, SMALL.model_copy(update={"count": 2})), lost(0), lost(0)],
        [run(0), lost(0, event=HUGE)],
        [run(0), settled(0, noise="seeded")],
        [BEGIN],
        [excluded(), excluded()],
        [erased(3, "retention")],
        [erased(3, "quota")],
        [run(0, purposes=())],
        [run(0, purposes=("training", "evaluation"))],
        [run(0, blocks=(0, 0))],
        [run(0), settled(0, noise="os-float")],
        [run(0, SAMPLED), settled(0, event=SAMPLED)],
        [run(0, SAMPLED), settled(0, event=SAMPLED, noise="seeded")],
        [recovered(), run(0)],
        [recovered(), window(0, 0)],
        [run(0), recovered(), settled(0)],
        [recovered(size=99)],
        [recovered(root="ab" * 32)],
        [recovered(through=5), recovered(through=4)],
    ],
    ids=[
        "run-too-dear",
        "runs-too-dear-together",
        "window-too-dear",
        "purposes-too-dear-together",
        "run-on-unopened-block",
        "window-of-unopened-block",
        "reservation-twice",
        "settled-unreserved",
        "settled-twice",
        "settled-more",
        "settled-other",
        "lost-unreserved",
        "settled-what-was-lost",
        "settled-in-place-of-what-was-lost",
        "lost-what-was-settled",
        "lost-twice",
        "lost-other",
        "seeded-noise",
        "begins-again",
        "excluded-twice",
        "retention-tells-a-count",
        "quota-tells-a-count",
        "run-for-nothing-named",
        "run-with-too-many-purposes",
        "run-with-a-block-twice",
        "floating-point-for-integers",
        "integers-for-floating-point",
        "seeded-noise-of-a-sample",
        "run-on-a-recovered-block",
        "window-of-a-recovered-block",
        "settled-after-a-recovery",
        "recovered-from-beyond-the-chain",
        "recovered-from-another-chain",
        "recovered-less-than-before",
    ],
)
def test_a_chain_that_breaks_a_rule_is_refused(policy: PrivacyPolicy, steps: list[Step]) -> None:
    """Every rule of the ledger is checked again from the entries."""
    with pytest.raises(StateError):
        replay(begun(policy, *steps))


def test_a_block_opens_once_under_a_policy_that_carries(policy: PrivacyPolicy) -> None:
    """A second opening, or an order that leaves nothing, is no budget."""
    empty = policy.model_copy(update={"alpha": 2})
    for steps in (
        [adopted(policy), opened(policy), opened(policy)],
        [adopted(empty)],
        [adopted(policy), opened(empty)],
        [opened(policy)],
    ):
        with pytest.raises(StateError):
            replay(chained(BEGIN, *steps))
    with pytest.raises(StateError):
        replay(chained(opened(policy)))


def test_erasures_and_exclusions_change_no_charge(policy: PrivacyPolicy) -> None:
    """A chain with them adds up to the same as without; an exclusion may precede its block."""
    plain = replay(begun(policy, run(0), window(3, 1)))

    totals = replay(
        chained(
            BEGIN,
            adopted(policy),
            excluded(0),
            opened(policy),
            excluded(0, "sketches"),
            excluded(7),
            run(0),
            erased(5),
            erased(0, "retention"),
            window(3, 1),
            erased(0, "consent"),
            erased(2),
        )
    )

    assert (totals.training_nano, totals.window_nano) == (plain.training_nano, plain.window_nano)
    assert totals.excluded == {(0, "escalation"), (0, "sketches"), (7, "escalation")}
    assert totals.erased == 7


def test_noise_of_a_sample_is_floating_point(policy: PrivacyPolicy) -> None:
    """From the system's entropy in a real ledger, from a seed in a simulated one."""
    for noise, simulated in (("os-float", False), ("seeded", True), ("os-float", True)):
        chain = begun(
            policy, run(0, SAMPLED), settled(0, event=SAMPLED, noise=noise), simulated=simulated
        )
        assert replay(chain).settled == {(0, "k"): BYTES}


class TestPolicies:
    @pytest.fixture
    def stricter(self, policy: PrivacyPolicy) -> PrivacyPolicy:
        return policy.model_copy(update={"epsilon": 2.5})

    def test_open_blocks_fall_to_a_stricter_policy(
        self, policy: PrivacyPolicy, stricter: PrivacyPolicy
    ) -> None:
        """At their own order and delta; a later generous one does not raise them again."""
        generous = policy.model_copy(update={"epsilon": 4.0})
        totals = replay(begun(policy, adopted(stricter), opened(stricter, 1), adopted(generous)))

        assert totals.epsilons == {0: 2.5, 1: 2.5}
        assert totals.cap_nano(0) == totals.cap_nano(1) == cap_nano(stricter)
        assert totals.policies == {0: policy, 1: stricter}
        assert totals.adopted == generous

    def test_a_run_that_fitted_before_overdraws_after(
        self, policy: PrivacyPolicy, stricter: PrivacyPolicy
    ) -> None:
        """Exactly what the lowered cap has left is the limit."""
        left = cap_nano(stricter) - telemetry_nano(policy)
        count = left // event_nano(SMALL, policy.alpha)
        most = SMALL.model_copy(update={"count": count})
        more = SMALL.model_copy(update={"count": count + 1})

        replay(begun(policy, adopted(stricter), run(0, most)))
        replay(begun(policy, run(0, more)))
        with pytest.raises(StateError, match="overdraws block 0"):
            replay(begun(policy, adopted(stricter), run(0, more)))
        with pytest.raises(StateError, match="overdraws block 0"):
            replay(begun(policy, run(0, more), adopted(stricter), run(1)))

    def test_an_epsilon_that_leaves_nothing_at_a_blocks_order(self, policy: PrivacyPolicy) -> None:
        """The block's cap is 0 then, and its windows still have what was reserved for them."""
        tiny = PrivacyPolicy.model_validate(
            policy.model_dump()
            | {"epsilon": 0.3, "alpha": 64, "telemetry_rho": 1e-4, "window_rho": 1e-4}
        )

        totals = replay(begun(policy, adopted(tiny), window(0, 0)))

        assert totals.cap_nano(0) == 0
        with pytest.raises(StateError, match="overdraws block 0"):
            replay(begun(policy, adopted(tiny), run(0)))

    def test_a_block_opens_under_the_policy_adopted_last(
        self, policy: PrivacyPolicy, stricter: PrivacyPolicy
    ) -> None:
        """Also an earlier one of the same gateway is not its own any more."""
        with pytest.raises(StateError, match="adopted last"):
            replay(begun(policy, adopted(stricter), opened(policy, 1)))

    def test_an_approval_is_of_its_policy_and_its_key(
        self, policy: PrivacyPolicy, stricter: PrivacyPolicy
    ) -> None:
        """One of another policy, or with another reason than was signed, is refused."""
        mine = approve(stricter, REVIEWER, reviewer="Ada", reason="less is enough", at=1.0)
        totals = replay(begun(policy, adopted(stricter, approval=mine)))
        assert totals.approval == mine

        forged = mine.model_copy(update={"reason": "more is better"})
        for steps in ([adopted(stricter, approval=forged)], [adopted(policy, approval=mine)]):
            with pytest.raises(StateError, match="approved"):
                replay(begun(policy, *steps))

    def test_the_same_policy_is_adopted_once(self, policy: PrivacyPolicy) -> None:
        """Unless somebody signs it later."""
        mine = approve(policy, REVIEWER, reviewer="Ada", reason="as it is", at=1.0)
        replay(begun(policy, adopted(policy, approval=mine)))
        with pytest.raises(StateError, match="again"):
            replay(begun(policy, adopted(policy)))


class TestRecoveries:
    def test_later_blocks_have_their_budget(self, policy: PrivacyPolicy) -> None:
        """Only blocks up to the one named lost theirs; unopened ones among them stay closed."""
        totals = replay(begun(policy, recovered(through=3), opened(policy, 4), run(0, blocks=(4,))))

        assert totals.recovered_through == 3
        for block in (2, 3):
            with pytest.raises(StateError, match="lost its budget"):
                replay(begun(policy, recovered(through=3), opened(policy, block)))

    def test_no_known_block_is_left_out(self, policy: PrivacyPolicy) -> None:
        """A block that was open cannot keep what it had."""
        with pytest.raises(StateError, match="leaves a budget"):
            replay(begun(policy, opened(policy, 7), recovered(through=6)))


class TestCosts:
    """What one entry costs does not grow with what lies before it."""

    def parts(self, policy: PrivacyPolicy, count: int) -> list[bytes]:
        event = SMALL.model_copy(update={"count": count})
        keys = [f"part-{number}" for number in range(count)]
        return begun(policy, run(0, event), *(settled(0, key) for key in keys))

    def recoveries(self, policy: PrivacyPolicy, count: int) -> list[bytes]:
        known = [BEGIN, adopted(policy), opened(policy), *[erased(1)] * count]
        again = recovered(0, len(known), tree_hash(chained(*known)).hex())
        return chained(*known, *[again] * count)

    @pytest.mark.parametrize("kind", ["parts", "recoveries"])
    def test_twice_the_entries_cost_twice_as_much(
        self, policy: PrivacyPolicy, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = [0]

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: object) -> object:
                calls[0] += 1
                return function(*given)

            return call

        monkeypatch.setattr(merkle, "node_hash", counted(merkle.node_hash))
        monkeypatch.setattr(charges, "parameters", counted(charges.parameters))
        monkeypatch.setattr(replaying, "parameters", counted(charges.parameters))
        costs = []
        for count in (50, 100):
            entries, calls[0] = getattr(self, kind)(policy, count), 0
            replay(entries)
            costs.append(calls[0])
        assert costs[1] < 2.5 * costs[0]


class TestVersions:
    def old(self, policy: PrivacyPolicy) -> list[bytes]:
        """A chain as version 1 wrote it: no policy entries, no purposes."""
        first = PrivacyPolicy.model_validate(policy.model_dump() | {"schema_version": 1})
        steps = (BEGIN, opened(first), run(0, purposes=()), settled(0))
        return chained(*((kind, {"schema_version": 1, **facts}) for kind, facts in steps))

    def test_version_1_has_none_of_the_later_fields(self, policy: PrivacyPolicy) -> None:
        """Byte for byte as it was, so that the hashes hold."""
        chain = self.old(policy)

        assert chain[0] == (
            b'{"at":0.0,"kind":"created","previous":"' + b"0" * 64 + b'",'
            b'"schema_version":1,"seq":0,"simulated":false}'
        )
        for name in (b"purposes", b"task", b"base_release", b"max_records", b"quotas"):
            assert not [entry for entry in chain if name in entry]
        nano = event_nano(SMALL, policy.alpha)
        totals = replay(chain)
        assert totals.training_nano == {0: nano}
        assert totals.uses == {(0, "training", ""): nano}

    def test_versions_never_fall(self, policy: PrivacyPolicy) -> None:
        """A later entry without what a version asks for does not pass as an old one."""
        late = {"schema_version": 1, **opened(policy, 1)[1]}
        first = PrivacyPolicy.model_validate(policy.model_dump() | {"schema_version": 1})
        late["policy"] = first
        with pytest.raises(StateError, match="earlier version"):
            replay(begun(policy, (Opened, late)))

    def test_a_later_version_is_refused(self, policy: PrivacyPolicy) -> None:
        """An entry of a build to come is not guessed at."""
        later = begun(policy)[0].replace(b'"schema_version":2', b'"schema_version":3')
        with pytest.raises(RecordError, match="schema_version"):
            read_entry(later)
        with pytest.raises(StateError, match="schema_version"):
            replay([later])


@pytest.mark.parametrize(
    "facts",
    [
        {"gateway": "ab" * 16, "public_key": REVIEWER.public_key.hex()},
        {"gateway": None, "public_key": REVIEWER.public_key.hex()},
    ],
)
def test_a_key_is_its_gateways(facts: dict[str, object]) -> None:
    """The name of a ledger's gateway is the fingerprint of the key beside it."""
    own = {"gateway": REVIEWER.fingerprint, "public_key": REVIEWER.public_key.hex()}
    assert replay(chained((Created, own))).created is not None
    with pytest.raises(StateError, match="key"):
        replay(chained((Created, facts)))


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"kind":"voided"}', b'{"kind":"settled"}', b"[]", b"\xff"]
)
def test_other_bytes_are_no_entry(body: bytes) -> None:
    """Kinds come from a closed list; anything else is refused."""
    with pytest.raises(RecordError):
        read_entry(body)
    with pytest.raises(StateError):
        replay([body])
