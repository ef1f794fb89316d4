"""The egress gate: the one place through which anything leaves a gateway.

Three kinds of data exist. Public facts pass free, but only as one of the record
types listed here. Content-derived payloads pass only together with the
settlement of a ledger reservation, in the same transaction that stores their
bytes. Records never pass.

Beside what passes here the spool itself makes one kind of envelope, gap records:
kinds, counts, numbers and times of what its quota pushed out.
"""

from __future__ import annotations

from collections.abc import Sequence

from fedge.errors import RecordError
from fedge.identity import EnvelopeKind
from fedge.privacy.entries import read_entry
from fedge.privacy.ledger import Ledger, Reservation
from fedge.records import AuditBatch, GatewayStatus, SignedHead, sha256_hex
from fedge.statefile import StateFile
from fedge_client.agent.spool import Channel, Spool

PUBLIC_FACTS = (GatewayStatus,)
"""Record types whose every field is a public fact."""


class EgressGate:
    """Lets public facts and charged, noised payloads into the spool, and nothing else."""

    def __init__(self, state: StateFile, ledger: Ledger, spool: Spool) -> None:
        self._state, self._ledger, self._spool = state, ledger, spool

    def public_facts(self, facts: GatewayStatus) -> None:
        """Send facts that depend on no record's content."""
        self._spool.put_status(self.checked(facts).to_bytes())

    def checked(self, facts: GatewayStatus) -> GatewayStatus:
        """The same facts, for whoever sends them another way than through the spool.

        Raises:
            RuntimeError: they are no record type whose every field is a public fact.
        """
        if type(facts) not in PUBLIC_FACTS:
            raise RuntimeError(f"{type(facts).__name__} is not declared as public facts")
        return facts

    def audit(
        self, first_seq: int, entries: Sequence[bytes], head: SignedHead | None = None
    ) -> bytes:
        """Send consecutive ledger entries, the very bytes; joins the caller's transaction.

        An entry holds parameters and public facts only, by the ledger's own rule. Asked again
        with the same first entry, it adds nothing while that batch is stored.

        Args:
            head: of the ledger with the last of them: a hash over entries, which are public.

        Raises:
            RuntimeError: something else than ledger entries in their order.
        """
        for seq, entry in enumerate(entries, first_seq):
            if not _is_entry(entry, seq):
                raise RuntimeError(f"no ledger entry {seq}; nothing else is sent as an audit")
        payload = AuditBatch(first_seq, tuple(entries), head).to_bytes()
        return self._spool.put("audit", payload, key=f"audit/{first_seq}", channel="push")

    def release(
        self,
        kind: EnvelopeKind,
        payload: bytes,
        *,
        reservation: Reservation,
        key: str,
        noise_kind: str,
        channel: Channel,
        spool_key: str,
    ) -> bytes:
        """Settle the reservation's part `key` and keep the noised bytes, in one transaction.

        Only after this returned was anything released: a crash before it leaves the charge
        standing and the bytes nowhere. Asked again with a known `spool_key`, it answers the
        stored envelope.
        """
        with self._state.transaction():
            stored = self._spool.stored(spool_key)
            if stored is not None:
                return stored
            self._ledger.settle(reservation, key, sha256_hex(payload), noise_kind)
            size = self._ledger.size
            return self._spool.put(kind, payload, key=spool_key, channel=channel, entries=size)


def _is_entry(data: bytes, seq: int) -> bool:
    """Whether these are the very bytes in which a ledger writes its entry `seq`."""
    try:
        entry = read_entry(data)
    except RecordError:
        return False
    return entry.seq == seq and entry.to_bytes() == data
