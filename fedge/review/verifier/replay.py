"""Every decision of one ledger, taken again from its entries alone.

Stops at the first entry that an honest ledger would not have written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedge.review.verifier import prices
from fedge.review.verifier.accounts import Account
from fedge.review.verifier.adoptions import Adoptions
from fedge.review.verifier.clocks import EntryTimes
from fedge.review.verifier.entries import read_entry
from fedge.review.verifier.faults import Fault
from fedge.review.verifier.form import FormError, fingerprint
from fedge.review.verifier.lengths import lengths
from fedge.review.verifier.limits import TooMuchError, Work
from fedge.review.verifier.numbering import Numbering
from fedge.review.verifier.policies import read_policy
from fedge.review.verifier.reserved import Book, Event, Reserved, Settlement
from fedge.review.verifier.tree import leaf, roots
from fedge.review.verifier.verdict import Deviation, Finding
from fedge.review.verifier.words import counted


@dataclass
class Replay:
    """The state of a ledger after its entries so far.

    Args:
        gateway, public_key: whose ledger it must be.
        reviewer_keys: who may approve policies; nobody in particular where it is empty.
        work: what the whole verification may do; shared by the ledgers of a bundle.

    Attributes:
        removed_at: the first entry after which windows may be gone from the gateway; None: none is.
    """

    gateway: str
    public_key: str
    reviewer_keys: Collection[str] = ()
    work: Work = field(default_factory=Work)
    tariff: prices.Tariff | None = None
    hashes: list[bytes] = field(default_factory=list)
    deviations: list[Deviation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    simulated: bool = False
    accounts: dict[int, Account] = field(default_factory=dict)
    book: Book = field(default_factory=Book)
    numbering: Numbering = field(default_factory=Numbering)
    runs: dict[str, Reserved] = field(default_factory=dict)
    settlements: dict[str, list[Settlement]] = field(default_factory=dict)
    excluded: dict[int, set[str]] = field(default_factory=dict)
    recovered_through: int = -1
    removed_at: int | None = None
    erasures: int = 0
    floating: int = 0
    _version: int = 1
    _newest: int = -1
    _resumed: list[int] = field(default_factory=list)
    _confirmed: list[tuple[int, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.adoptions = Adoptions(self.gateway, self.reviewer_keys, self.findings, self.work)
        self.times = EntryTimes(self.gateway, self.findings)
        self._tariff = self.tariff or prices.Tariff(self.work)

    def run(self, entries: Iterable[bytes]) -> None:
        """Take in all entries; a deviation among them ends it and is noted."""
        for seq, data in enumerate(entries):
            try:
                self._add(seq, data)
            except FormError as error:
                self._reject("form", seq, f"is not as a ledger writes it: {error}")
                break
            except Fault as fault:
                self._reject(fault.kind, seq, fault.what)
                break
            except prices.PriceError as error:
                self._reject("unknown-event", seq, f"charges what has no price: {error}")
                break
            except TooMuchError as error:
                self._reject("limit", seq, f"is one too many: {error}")
                break
        self._check_recoveries()
        self._conclude()

    def _add(self, seq: int, data: bytes) -> None:
        entry = read_entry(data)
        previous = self.hashes[-1].hex() if self.hashes else "0" * 64
        if entry["seq"] != seq or entry["previous"] != previous:
            raise Fault("chain", "does not follow from the entry before it")
        if (entry["kind"] == "created") != (seq == 0):
            raise Fault("chain", "is out of place: a ledger is created once, at its beginning")
        if seq == 0 and entry["simulated"]:
            self.simulated = True
            self._reject("simulated", seq, "is of a simulated ledger, which proves nothing")
        if entry["simulated"] != self.simulated:
            raise Fault("simulated", "mixes simulated and real")
        if entry["schema_version"] < self._version:
            raise Fault("form", "is of an earlier version than the entry before it")
        self._version = entry["schema_version"]
        self.times.add(seq, entry["at"])
        _RULES[entry["kind"]](self, entry)
        self.hashes.append(leaf(data))

    # --- kinds of entry -------------------------------------------------------------------

    def _create(self, entry: Mapping[str, Any]) -> None:
        key, gateway = entry.get("public_key"), entry.get("gateway")
        if (key is None) != (gateway is None):
            raise Fault("owner", "names a gateway without its key, or a key without its gateway")
        if key is None:
            self._note("anonymous-ledger", "its ledger does not say whose it is", 0)
        elif (gateway, key) != (self.gateway, self.public_key) or fingerprint(key) != gateway:
            raise Fault("owner", "is of another gateway's ledger")

    def _adopt(self, entry: Mapping[str, Any]) -> None:
        self.adoptions.adopt(entry)

    def _open(self, entry: Mapping[str, Any]) -> None:
        block, policy = entry["block"], read_policy(entry["policy"], self.work)
        if block in self.accounts:
            raise Fault("reopened", f"opens block {block} a second time")
        if block <= self.recovered_through:
            raise Fault("recovered", f"opens block {block}, whose budget was lost with the state")
        adopted = self.adoptions.policy.sha256 if self.adoptions.policy else None
        if self._version > 1 and policy.sha256 != adopted:
            raise Fault("policy", f"opens block {block} under a policy that was not adopted last")
        self.numbering.open(block, policy, entry["at"], self.times.earliest)
        if self._version == 1:
            self.adoptions.note_unsigned(policy, entry["seq"])
        self.accounts[block] = Account(policy, self.adoptions, self.adoptions.number)
        self._newest = max(self._newest, block)

    def _reserve_window(self, entry: Mapping[str, Any]) -> None:
        window, block, purpose = entry["window"], entry["block"], entry["purpose"]
        account = self._account(block)
        self.numbering.place(window, block, entry["seq"])
        self.book.once(("window", window, purpose), f"window {window} for {purpose}")
        for event in entry["events"]:
            _check_sensitivity(event, account.policy.max_records)
        nano = sum(self._price(event, account) for event in entry["events"])
        if fault := account.charge_window(window, purpose, nano):
            raise Fault("overdrawn", fault)
        self.book.reserve(entry, (block,), (purpose,) * len(entry["events"]), {block: nano})

    def _reserve_run(self, entry: Mapping[str, Any]) -> None:
        events, blocks = entry["events"], entry["blocks"]
        purposes = entry.get("purposes", ["training"] * len(events))
        if len(purposes) != len(events):
            raise Fault("form", "does not say what each event is for")
        if blocks != sorted(set(blocks)):
            raise Fault("form", "names a block twice or out of order")
        self.book.once(("run", entry["run_id"]), f"run {entry['run_id']}")
        nano = {}
        for block in blocks:
            account = self._account(block)
            parts: dict[str, int] = {}
            for purpose, event in zip(purposes, events, strict=True):
                if purpose == "evaluation":
                    _check_sensitivity(event, account.policy.max_records)
                parts[purpose] = parts.get(purpose, 0) + self._price(event, account)
            if fault := account.charge_run(parts, entry.get("task", "")):
                raise Fault("overdrawn", f"overdraws block {block}: {fault}")
            nano[block] = sum(parts.values())
        reserved = self.book.reserve(entry, tuple(blocks), tuple(purposes), nano)
        self.runs[entry["run_id"]] = reserved

    def _settle(self, entry: Mapping[str, Any]) -> None:
        key, event = entry["key"], entry["event"]
        self._check_noise(event, entry["noise"])
        reserved = self.book.use(entry, "settles")
        if min(reserved.blocks) <= self.recovered_through:
            raise Fault("recovered", f"settles {key!r} of a block whose budget was lost")
        reserved.released.append((entry["artefact_sha256"], event))
        settlement = Settlement(entry["seq"], key, event, reserved)
        self.settlements.setdefault(entry["artefact_sha256"], []).append(settlement)

    def _lose(self, entry: Mapping[str, Any]) -> None:
        self.book.lose(entry)

    def _exclude(self, entry: Mapping[str, Any]) -> None:
        block, what = entry["block"], entry["what"]
        known = self.excluded.setdefault(block, set())
        if what in known:
            raise Fault("form", f"excludes {what} of block {block} a second time")
        known.add(what)
        self._note("exclusion", f"the guarantee leaves out {what} of block {block}", entry["seq"])

    def _erase(self, entry: Mapping[str, Any]) -> None:
        # No account is touched: what was released about a record stays released.
        if entry["records"] and entry["reason"] != "erasure":
            raise Fault("form", "tells how many records there were")
        self.erasures += 1
        if entry["reason"] in ("retention", "quota"):
            self._remove(entry["seq"])

    def _recover(self, entry: Mapping[str, Any]) -> None:
        through, size = entry["through_block"], entry["witnessed_size"]
        if through < max(self.recovered_through, self._newest):
            raise Fault("recovered", "leaves a budget to a block that was known before")
        if not 0 < size <= len(self.hashes):
            raise Fault("recovered", "names a confirmed head of no entry, or of later ones")
        self._confirmed.append((entry["seq"], size, entry["witnessed_root"]))
        self.recovered_through = through
        self._resumed.append(through)
        self._remove(entry["seq"])
        self._note(
            "recovered",
            f"its state was {entry['reason']}: blocks up to {through} have no budget left",
            entry["seq"],
            unproven=entry["reason"] == "forked",
        )

    # --- parts ----------------------------------------------------------------------------

    def _account(self, block: int) -> Account:
        if block not in self.accounts:
            raise Fault("unopened", f"charges block {block}, which was never opened")
        if block <= self.recovered_through:
            raise Fault("recovered", f"charges block {block}, whose budget was lost")
        return self.accounts[block]

    def _price(self, event: Event, account: Account) -> int:
        self.work.take("charges")
        return self._tariff.price(event, account.policy.alpha)

    def _remove(self, seq: int) -> None:
        if self.removed_at is None:
            self.removed_at = seq

    def _check_noise(self, event: Event, noise: str) -> None:
        real = "os-float" if event["kind"] == "poisson-gaussian" else "os"
        if noise == real:
            self.floating += noise == "os-float"
        elif not (noise == "seeded" and self.simulated):
            raise Fault("noise", f"settles {noise!r} noise, which does not make it {event['kind']}")

    # --- words ----------------------------------------------------------------------------

    def _check_recoveries(self) -> None:
        known = roots(self.hashes, [size for _, size, _ in self._confirmed])
        for seq, size, root in self._confirmed:
            if known[size] != root:
                self._reject("recovered", seq, "names a confirmed head that is not of this ledger")
        self.deviations.sort(key=lambda deviation: deviation.entry or 0)

    def _conclude(self) -> None:
        if self.floating:
            self._note(
                "floating-point-noise",
                f"{counted(self.floating, 'release')} with floating-point noise: the charge is "
                "proven up to its rounding",
                unproven=True,
            )
        if self.book.lost:
            self._note(
                "lost-draw",
                f"{counted(len(self.book.lost), 'release')} lost before anything was kept: nothing "
                "left, the charge stands",
            )
        self.adoptions.conclude()
        self.findings += lengths(
            self.gateway, self.numbering, self.accounts, sorted(set(self._resumed))
        )
        for block, account in sorted(self.accounts.items()):
            for quota in account.exceeded_quotas():
                self._note("quota", f"block {block} took more than its quota for {quota}")

    def _note(
        self, kind: str, what: str, entry: int | None = None, *, unproven: bool = False
    ) -> None:
        self.findings.append(
            Finding(kind=kind, what=what, gateway=self.gateway, entry=entry, unproven=unproven)
        )

    def _reject(self, kind: str, seq: int, what: str) -> None:
        self.deviations.append(Deviation(kind=kind, what=what, gateway=self.gateway, entry=seq))


def _check_sensitivity(event: Event, records: int) -> None:
    """Refuse a count that says it moves less than the records of one subject move it."""
    if event["sensitivity2"] < records**2:
        raise Fault(
            "sensitivity", f"declares less sensitivity than {records} records of a subject have"
        )


_RULES: Mapping[str, Callable[[Replay, Mapping[str, Any]], None]] = {
    "created": Replay._create,
    "policy": Replay._adopt,
    "opened": Replay._open,
    "window": Replay._reserve_window,
    "run": Replay._reserve_run,
    "settled": Replay._settle,
    "lost": Replay._lose,
    "excluded": Replay._exclude,
    "erased": Replay._erase,
    "recovered": Replay._recover,
}
