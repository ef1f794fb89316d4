"""One ledger of a bundle: its entries in words, beside the verifier's facts about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedge.privacy.charges import events_nano
from fedge.privacy.entries import (
    Adopted,
    Erased,
    Excluded,
    Lost,
    Recovered,
    RunReserved,
    Settled,
    WindowReserved,
    read_entry,
)
from fedge.records import PoissonGaussianEvent, PrivacyEvent
from fedge.review.budget import BlockBudget, block_budgets
from fedge.review.report.model import Charge, Incident, Mechanism, PolicyChange
from fedge.review.source import GatewayLedger
from fedge.review.verifier import GatewayFacts

_INCIDENTS = {
    "escalation": "from here on, records that were sent on to a larger model are not covered",
    "sketches": "from here on, exact sketches of machine columns are not covered",
}
_ERASURES = {
    "erasure": "records were erased on request",
    "consent": "records were erased because consent was withdrawn",
    "retention": "records were deleted because of their age",
    "quota": "records were deleted because the store was full",
}
_RECOVERIES = {
    "wiped": "the gateway's state was lost",
    "restored": "an older state was put back",
    "forked": "two copies of the state went on separately",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerPart:
    """What a report says about one ledger.

    Attributes:
        budgets, charges: by the ledger's own arithmetic; charges hold the verifier's, too.
        last_run: the latest reservation of a run.
        settled: hashes of the payloads that were released.
    """

    ledger: GatewayLedger
    facts: GatewayFacts
    budgets: tuple[BlockBudget, ...]
    charges: tuple[Charge, ...]
    policies: tuple[PolicyChange, ...]
    incidents: tuple[Incident, ...]
    last_run: RunReserved | None
    settled: frozenset[str]

    @property
    def disagreement(self) -> str:
        """Where the two implementations do not say the same; empty where they do."""
        verified = {block.block: block.spent_nano for block in self.facts.blocks}
        for budget in self.budgets:
            if verified.get(budget.block) != budget.spent_nano:
                return f"block {budget.block} of {self.ledger.name}: spending is calculated apart"
        for charge in self.charges:
            if charge.verified_nano != charge.ledger_nano:
                return f"entry {charge.entry} of {self.ledger.name}: its charge is calculated apart"
        return ""


def read_ledger(ledger: GatewayLedger, facts: GatewayFacts) -> LedgerPart:
    """Read a ledger that the verifier replayed.

    Raises:
        StateError: the ledger's own replay refuses it.
    """
    budgets = block_budgets(ledger)
    orders = {budget.block: budget.policy.alpha for budget in budgets}
    entries = [read_entry(data) for data in ledger.entries]
    released: dict[int, list[Settled]] = {}
    for entry in entries:
        if isinstance(entry, Settled):
            released.setdefault(entry.reservation, []).append(entry)
    verified = {charge.entry: charge.nano for charge in facts.charges}
    reserved = [e for e in entries if isinstance(e, RunReserved | WindowReserved)]
    runs = [entry for entry in reserved if isinstance(entry, RunReserved)]
    return LedgerPart(
        ledger=ledger,
        facts=facts,
        budgets=budgets,
        charges=tuple(
            _charge(ledger, entry, orders, verified.get(entry.seq), released) for entry in reserved
        ),
        policies=tuple(_policy(ledger, e) for e in entries if isinstance(e, Adopted)),
        incidents=tuple(
            _incident(ledger, e)
            for e in entries
            if isinstance(e, Erased | Excluded | Recovered | Lost)
        ),
        last_run=runs[-1] if runs else None,
        settled=frozenset(e.artefact_sha256 for parts in released.values() for e in parts),
    )


def _charge(
    ledger: GatewayLedger,
    entry: RunReserved | WindowReserved,
    orders: Mapping[int, int],
    verified: Mapping[int, int] | None,
    released: Mapping[int, list[Settled]],
) -> Charge:
    run = isinstance(entry, RunReserved)
    blocks = entry.blocks if isinstance(entry, RunReserved) else (entry.block,)
    uses = entry.uses if isinstance(entry, RunReserved) else (entry.purpose,) * len(entry.events)
    settled = released.get(entry.reservation, [])
    return Charge(
        gateway=ledger.gateway,
        name=ledger.name,
        entry=entry.seq,
        at=entry.at,
        kind="run" if run else "window",
        about=entry.run_id if isinstance(entry, RunReserved) else f"window {entry.window}",
        blocks=blocks,
        mechanisms=tuple(map(_mechanism, uses, entry.events)),
        ledger_nano=max(events_nano(entry.events, orders[block]) for block in blocks),
        verified_nano=None if not verified else max(verified.values()),
        released=len(settled),
        noise=tuple(sorted({part.noise for part in settled})),
    )


def _mechanism(purpose: str, event: PrivacyEvent) -> Mechanism:
    sampled = isinstance(event, PoissonGaussianEvent)
    return Mechanism(
        purpose=purpose,
        kind=event.kind,
        sampling="poisson" if sampled else "full",
        rate=event.rate_ppm / 1e6 if isinstance(event, PoissonGaussianEvent) else 1.0,
        sensitivity2=event.sensitivity2,
        sigma2=event.sigma2,
        count=event.count,
        dimension=event.dimension,
    )


def _policy(ledger: GatewayLedger, entry: Adopted) -> PolicyChange:
    approval = entry.approval
    return PolicyChange(
        gateway=ledger.gateway,
        name=ledger.name,
        entry=entry.seq,
        at=entry.at,
        policy=entry.policy,
        reviewer="" if approval is None else approval.reviewer,
        reason="" if approval is None else approval.reason,
        reviewer_key="" if approval is None else approval.public_key,
    )


def _incident(ledger: GatewayLedger, entry: Erased | Excluded | Recovered | Lost) -> Incident:
    if isinstance(entry, Erased):
        asked = f" ({entry.records} record ids were asked for)" if entry.records else ""
        what = _ERASURES[entry.reason] + asked
    elif isinstance(entry, Excluded):
        what = f"block {entry.block}: {_INCIDENTS[entry.what]}"
    elif isinstance(entry, Lost):
        what = (
            f"what was noised as {entry.key} of reservation {entry.reservation} was lost before it "
            "was stored, as by a crash: nothing of it left, its charge stands"
        )
    else:
        what = (
            f"{_RECOVERIES[entry.reason]}: blocks up to {entry.through_block} lost what was left "
            f"of their budgets; the chain goes on from {entry.witnessed_size} countersigned entries"
        )
    return Incident(
        gateway=ledger.gateway,
        name=ledger.name,
        entry=entry.seq,
        at=entry.at,
        kind=entry.kind,
        what=what,
    )
