"""Replaying a chain: also a forger who hashes correctly cannot make it add up."""

from __future__ import annotations

import pytest

from fedge.errors import RecordError, StateError
from fedge.privacy.entries import (
    FIRST_HASH,
    Created,
    Entry,
    Erased,
    Excluded,
    Opened,
    RunReserved,
    Settled,
    WindowReserved,
    read_entry,
    replay,
)
from fedge.privacy.rdp import event_nano
from fedge.records import DiscreteGaussianEvent, PrivacyPolicy, sha256_hex

SMALL = DiscreteGaussianEvent(sensitivity2=1, sigma2=10_000, count=1, dimension=2)
HUGE = SMALL.model_copy(update={"count": 10_000})
BYTES = sha256_hex(b"noised bytes")


def chained(*steps: tuple[type[Entry], dict[str, object]], simulated: bool = False) -> list[bytes]:
    """A chain with right numbers and hashes, whatever it says."""
    bodies, previous = [], FIRST_HASH
    for seq, (kind, facts) in enumerate(steps):
        base = {"seq": seq, "previous": previous, "at": 0.0, "simulated": simulated}
        entry = kind.model_validate(base | facts)
        bodies.append(entry.to_bytes())
        previous = entry.hash
    return bodies


def opened(policy: PrivacyPolicy, block: int = 0) -> tuple[type[Entry], dict[str, object]]:
    return Opened, {"block": block, "policy": policy}


def window(
    number: int, reservation: int, event: DiscreteGaussianEvent = SMALL, block: int = 0
) -> tuple[type[Entry], dict[str, object]]:
    return WindowReserved, {
        "reservation": reservation,
        "window": number,
        "block": block,
        "purpose": f"p{reservation}",
        "events": (event,),
    }


def run(
    reservation: int, event: DiscreteGaussianEvent = SMALL, blocks: tuple[int, ...] = (0,)
) -> tuple[type[Entry], dict[str, object]]:
    return RunReserved, {
        "reservation": reservation,
        "run_id": f"r{reservation}",
        "blocks": blocks,
        "events": (event,),
    }


def settled(
    reservation: int, key: str = "k", event: DiscreteGaussianEvent = SMALL, noise: str = "os"
) -> tuple[type[Entry], dict[str, object]]:
    return Settled, {
        "reservation": reservation,
        "key": key,
        "event": event,
        "artefact_sha256": BYTES,
        "noise": noise,
    }


def excluded(block: int = 0, what: str = "escalation") -> tuple[type[Entry], dict[str, object]]:
    return Excluded, {"block": block, "what": what}


def erased(records: int, reason: str = "erasure") -> tuple[type[Entry], dict[str, object]]:
    return Erased, {"records": records, "reason": reason}


BEGIN: tuple[type[Entry], dict[str, object]] = (Created, {})


def test_a_right_chain_adds_up(policy: PrivacyPolicy) -> None:
    """The totals are those of the entries, computed from their parameters alone."""
    chain = chained(BEGIN, opened(policy), window(3, 0), run(1), settled(1))

    totals = replay(chain)

    nano = event_nano(SMALL, policy.alpha)
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
        [run(0), settled(0, noise="seeded")],
        [BEGIN],
        [excluded(), excluded()],
        [erased(3, "retention")],
        [erased(3, "quota")],
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
        "seeded-noise",
        "begins-again",
        "excluded-twice",
        "retention-tells-a-count",
        "quota-tells-a-count",
    ],
)
def test_a_chain_that_breaks_a_rule_is_refused(
    policy: PrivacyPolicy, steps: list[tuple[type[Entry], dict[str, object]]]
) -> None:
    """Every rule of the ledger is checked again from the entries."""
    with pytest.raises(StateError):
        replay(chained(BEGIN, opened(policy), *steps))


def test_a_block_opens_once_under_a_policy_that_carries(policy: PrivacyPolicy) -> None:
    """A second opening, or an order that leaves nothing, is no budget."""
    empty = policy.model_copy(update={"alpha": 2})
    for steps in ([opened(policy), opened(policy)], [opened(empty)]):
        with pytest.raises(StateError):
            replay(chained(BEGIN, *steps))
    with pytest.raises(StateError):
        replay(chained(opened(policy)))


def test_erasures_and_exclusions_change_no_charge(policy: PrivacyPolicy) -> None:
    """A chain with them adds up to the same as without; an exclusion may precede its block."""
    plain = replay(chained(BEGIN, opened(policy), run(0), window(3, 1)))

    totals = replay(
        chained(
            BEGIN,
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


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"kind":"voided"}', b'{"kind":"settled"}', b"[]", b"\xff"]
)
def test_other_bytes_are_no_entry(body: bytes) -> None:
    """Kinds come from a closed list; anything else is refused."""
    with pytest.raises(RecordError):
        read_entry(body)
    with pytest.raises(StateError):
        replay([body])
