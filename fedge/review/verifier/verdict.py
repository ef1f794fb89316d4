"""What a verification says: deviations that reject, findings that weaken, facts computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

HARMLESS = frozenset({"unpinned", "lost-draw", "recovered", "quota"})
"""Kinds of finding that take nothing from a proven bound: what was lost was never sent, a lost
state only ends budgets, quotas are house rules, and keys are spoken of by themselves."""


class UnreadableBundleError(Exception):
    """There is no file to judge: it is missing, not readable, or too large to be one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deviation:
    """Something that an honest bundle never shows.

    Attributes:
        kind: a short fixed word for programs.
        what: one sentence's worth, for people.
        gateway: fingerprint of the ledger concerned, if it is one.
        entry: number of the ledger entry concerned, or of the last one under a head.
        file: where in the bundle.
    """

    kind: str
    what: str
    gateway: str | None = None
    entry: int | None = None
    file: str | None = None

    def __str__(self) -> str:
        places = (
            f"gateway {self.gateway}" if self.gateway else "",
            f"entry {self.entry}" if self.entry is not None else "",
            self.file if self.file and self.entry is None else "",
        )
        where = ", ".join(place for place in places if place)
        return f"{where}: {self.what}" if where else self.what


class Rejected(Exception):  # noqa: N818 - carries a verdict, is no fault of this program
    """Stops one line of checks at its first deviation."""

    def __init__(self, deviation: Deviation) -> None:
        super().__init__(str(deviation))
        self.deviation = deviation


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that happens to honest gateways and that a reviewer must know.

    Attributes:
        unproven: whether the bound does not follow from the bundle while this stands.
    """

    kind: str
    what: str
    gateway: str | None = None
    entry: int | None = None
    unproven: bool = False

    def __str__(self) -> str:
        place = f"gateway {self.gateway}: " if self.gateway else ""
        return f"{place}{self.what}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Charge:
    """One reservation, priced again.

    Attributes:
        entry, at: its number in the ledger, and when it was made by the gateway's clock.
        about: `window 12`, or the id of a run.
        purposes: one per event.
        nano: price at the order of each charged block, in nano-RDP.
        events: their parameters, as the ledger holds them.
        settled: parts of it that were released.
    """

    entry: int
    at: float
    reservation: int
    kind: str
    about: str
    task: str
    purposes: tuple[str, ...]
    nano: Mapping[int, int]
    events: tuple[Mapping[str, Any], ...]
    settled: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFacts:
    """One block's account as this implementation computes it.

    Attributes:
        policy_sha256: of the policy under which it was opened.
        alpha, delta: fixed when it opened.
        epsilon_cap: the smallest epsilon adopted since it opened, its own included.
        cap_nano: what it may spend in all, at least what is spent.
        telemetry_nano: share that is reserved for any one of its windows.
        training_nano: what runs were charged.
        window_nano: the most that was reserved about one of its windows.
        spent_nano, remaining_nano: telemetry and training; what is left of the cap.
        epsilon: of `spent_nano` at the block's delta.
        windows, runs: reservations about it.
        recovered: whether it lost what was left when the gateway's state was lost or put back.
        excluded: what the guarantee leaves out of it.
    """

    block: int
    policy_sha256: str
    unit: str
    max_records: int
    adjacency: str
    alpha: int
    delta: float
    epsilon_cap: float
    cap_nano: int
    telemetry_nano: int
    training_nano: int
    window_nano: int
    spent_nano: int
    remaining_nano: int
    epsilon: float
    windows: int
    runs: int
    recovered: bool
    excluded: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayFacts:
    """One ledger, as far as it could be replayed.

    Attributes:
        root: Merkle root over all entries, in hex.
        signed_size, witnessed_size: entries under the latest head that the gateway signed, and
            under the latest that a witness confirmed; 0 where there is none.
        witnessed_at: when that was, by the witness's clock.
        policy: the one adopted last, as the ledger holds it; None before schema 2.
        reviewer, reviewer_key: who approved that; None where nobody did.
        erasures: entries that record one.
        as_of: when the ledger was as it is here: when the gateway signed the last confirmed head or
            the witness confirmed it, whichever is earlier; without one, when the gateway signed
            its last head; None where there is neither.
    """

    gateway: str
    public_key: str
    name: str
    entries: int
    root: str
    signed_size: int
    witnessed_size: int
    witnessed_at: float | None
    policy: Mapping[str, Any] | None
    reviewer: str | None
    reviewer_key: str | None
    erasures: int
    blocks: tuple[BlockFacts, ...]
    charges: tuple[Charge, ...]
    as_of: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the bundle says of itself, and what was computed from it.

    Attributes:
        as_of: what is said of all ledgers holds as of then: the smallest of theirs; None where one
            has none. What was charged later cannot be known from a bundle.
    """

    sha256: str
    made_at: float
    made_by: str
    fedge: str
    exporter_key: str
    witness_key: str | None
    gateways: tuple[GatewayFacts, ...]
    as_of: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The outcome of a verification.

    Attributes:
        deviations: the first one found comes first; empty where the bundle is accepted.
        findings: what a reviewer must know all the same.
        facts: None where the bundle's index could not be trusted at all.
    """

    deviations: tuple[Deviation, ...]
    findings: tuple[Finding, ...]
    facts: Facts | None

    @property
    def accepted(self) -> bool:
        """Whether nothing deviates. Never true for a bundle that could not be taken apart."""
        return not self.deviations and self.facts is not None

    @property
    def proven(self) -> bool:
        """Whether the bound follows from the bundle: accepted, and no finding stands against.

        Where no block was opened there is no bound that could follow.
        """
        bounded = self.facts is not None and any(one.blocks for one in self.facts.gateways)
        return self.accepted and bounded and not any(one.unproven for one in self.findings)

    @property
    def pinned(self) -> bool:
        """Whether the caller gave all keys; else the bundle's own word is taken for whose it is.

        Anybody can make a bundle that adds up, under keys of their own.
        """
        return self.facts is not None and all(one.kind != "unpinned" for one in self.findings)

    @property
    def reservations(self) -> tuple[str, ...]:
        """What a proven verdict is not to be read without, such as what the bound leaves out."""
        found = (one for one in self.findings if not one.unproven and one.kind not in HARMLESS)
        return tuple(dict.fromkeys(one.what for one in found))

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        said = {
            "accepted": self.accepted,
            "proven": self.proven,
            "pinned": self.pinned,
            "reservations": self.reservations,
        }
        return {**said, **asdict(self)}
