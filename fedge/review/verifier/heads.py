"""Heads of a ledger: what the gateway signed of it, and what a witness confirmed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedge.review.verifier.form import (
    FormError,
    Shape,
    canonical,
    flag,
    hex64,
    hex128,
    name32,
    number,
    one_of,
    parse,
    require,
    signed_by,
    whole,
    without,
)
from fedge.review.verifier.tree import roots
from fedge.review.verifier.verdict import Deviation, Rejected

Reader = Callable[[bytes], Mapping[str, Any]]
HEAD, WITNESSED = b"fedge ledger head 1\n", b"fedge witnessed head 1\n"

_HEAD: Shape = {
    "schema_version": one_of(1),
    "gateway": name32,
    "size": whole(1, 2**53),
    "root": hex64,
    "at": number,
    "simulated": flag,
    "signature": hex128,
}
_WITNESSED: Shape = {
    "schema_version": one_of(1),
    "head": lambda value: isinstance(value, dict),
    "at": number,
    "witness": hex64,
    "signature": hex128,
}


@dataclass
class Heads:
    """Checks all heads of one ledger and keeps how far they reach, and as of when.

    Args:
        hashes: leaf hashes of the entries.
        complete: whether these are all entries; after a deviation the replay ends early.
        witness_key: whose confirmation counts; anyone's where it is None.

    Attributes:
        signed_at, witnessed_at: of the head over most entries, by the clock of whoever signed it;
            None where there is none.
        ahead_s: by how many seconds a head was signed after it was confirmed, at most.
    """

    gateway: str
    public_key: str
    hashes: Sequence[bytes]
    entries: int
    simulated: bool
    witness_key: str | None
    deviations: list[Deviation] = field(default_factory=list)
    signed_size: int = 0
    signed_at: float | None = None
    ahead_s: float = 0.0
    witnessed_size: int = 0
    witnessed_at: float | None = None
    witnesses: set[str] = field(default_factory=set)
    _known: set[bytes] = field(default_factory=set)
    _latest: dict[int, float] = field(default_factory=dict)

    @property
    def as_of(self) -> float | None:
        """When the ledger was as it is here, as far as anybody signed that.

        A head says how a ledger was when the gateway signed it, whenever it is confirmed.
        """
        if self.witnessed_at is None:
            return self.signed_at
        return min(self.witnessed_at, self._latest[self.witnessed_size])

    def check(self, heads: Iterable[bytes], witnessed: Iterable[bytes]) -> None:
        """Take in both files; notes the first deviation of each."""
        signed = self._each(heads, self._signed, "heads")
        confirmed = self._each(witnessed, self._confirmed, "witnessed")
        roots_at = roots(self.hashes, {size for size, _ in (*signed, *confirmed)})
        for file, found in (("witnessed", confirmed), ("heads", signed)):
            try:
                for size, root in found:
                    self._compare(size, root, roots_at, file)
            except Rejected as rejected:
                self.deviations.append(rejected.deviation)

    def _each(self, lines: Iterable[bytes], reader: Reader, file: str) -> list[tuple[int, str]]:
        """Size and root of each head, in the order of the lines; a line again says nothing new."""
        found: dict[tuple[int, str], None] = {}
        seen: set[bytes] = set()
        for line in lines:
            mark = hashlib.sha256(line).digest()
            if mark in seen:
                continue
            seen.add(mark)
            try:
                head = reader(line)
                found[head["size"], head["root"]] = None
            except FormError as error:
                self.deviations.append(self._deviation("form", f"a head: {error}", file))
                break
            except Rejected as rejected:
                self.deviations.append(rejected.deviation)
                break
        return list(found)

    def _signed(self, line: bytes) -> Mapping[str, Any]:
        return self._head(parse(line), "heads")

    def _confirmed(self, line: bytes) -> Mapping[str, Any]:
        value = require(parse(line), _WITNESSED, "a witnessed head")
        head = self._head(value["head"], "witnessed")
        if self.witness_key is not None and value["witness"] != self.witness_key:
            raise self._rejected("witness", "a head was confirmed by another witness", head)
        signed = WITNESSED + canonical(without(value, "signature"))
        if not signed_by(value["witness"], value["signature"], signed):
            raise self._rejected("witness", "a witness's signature does not fit", head)
        self.witnesses.add(value["witness"])
        self.ahead_s = max(self.ahead_s, head["at"] - value["at"])
        latest = (self.witnessed_size, self.witnessed_at or 0.0)
        self.witnessed_size, self.witnessed_at = max(latest, (head["size"], value["at"]))
        return head

    def _head(self, value: Any, file: str) -> Mapping[str, Any]:
        head = require(value, _HEAD, "a head")
        data = hashlib.sha256(canonical(head)).digest()
        if data in self._known:
            return head
        if head["gateway"] != self.gateway:
            raise self._rejected("owner", "a head is of another gateway's ledger", head, file)
        signed = HEAD + canonical(without(head, "signature"))
        if not signed_by(self.public_key, head["signature"], signed):
            raise self._rejected("head", "a head's signature is not the gateway's", head, file)
        if head["simulated"] != self.simulated:
            raise self._rejected("simulated", "a head mixes simulated and real", head, file)
        self._known.add(data)
        self._latest[head["size"]] = max(head["at"], self._latest.get(head["size"], -math.inf))
        latest = (self.signed_size, self.signed_at or 0.0)
        self.signed_size, self.signed_at = max(latest, (head["size"], head["at"]))
        return head

    def _compare(self, size: int, root: str, known: Mapping[int, str], file: str) -> None:
        whose = "a confirmed head" if file == "witnessed" else "a head"
        if size > self.entries:
            raise self._rejected(
                "truncated",
                f"{whose} is over {size} entries, the bundle holds {self.entries} of them",
                {"size": size},
                file,
            )
        if size in known and known[size] != root:
            raise self._rejected(
                "rewritten",
                f"{whose} over {size} entries is of another ledger",
                {"size": size},
                file,
            )

    def _rejected(
        self, kind: str, what: str, head: Mapping[str, Any], file: str = "witnessed"
    ) -> Rejected:
        return Rejected(self._deviation(kind, what, file, head["size"] - 1))

    def _deviation(self, kind: str, what: str, file: str, entry: int | None = None) -> Deviation:
        return Deviation(
            kind=kind,
            what=what,
            gateway=self.gateway,
            entry=entry,
            file=f"gateways/{self.gateway}/{file}.jsonl",
        )
