"""Signed envelopes of what left a gateway: each must be settled in its ledger as what it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedge.review.verifier.form import (
    FormError,
    Shape,
    canonical,
    count,
    flag,
    hex64,
    hex128,
    name32,
    one_of,
    parse,
    require,
    shaped,
    signed_by,
)
from fedge.review.verifier.replay import Replay
from fedge.review.verifier.reserved import Settlement
from fedge.review.verifier.verdict import Deviation, Finding, Rejected

MAGIC = b"FEDGE1"
_KINDS = ("report", "labels", "update", "counts")
_PURPOSES = {"report": "features", "labels": "labels", "update": "training", "counts": "evaluation"}
_HEADER: Shape = {
    "schema_version": one_of(1),
    "kind": one_of(*_KINDS),
    "gateway": name32,
    "seq": count,
    "payload_sha256": hex64,
    "simulated": flag,
}
_ARTEFACT: Shape = {
    "kind": one_of(*_KINDS),
    "seq": count,
    "channel": one_of("push", "reply"),
    "payload_sha256": hex64,
    "header": shaped(_HEADER),
    "signature": hex128,
}


def check_artefacts(replay: Replay, lines: Iterable[bytes]) -> None:
    """Link each envelope to its settlement; notes the first that has none.

    Settled releases whose envelope is not there are no manipulation: they may wait on the
    gateway, or be with the coordinator. They are counted in a finding.
    """
    try:
        linked = _linked(replay, lines)
    except Rejected as rejected:
        replay.deviations.append(rejected.deviation)
        return
    missing = len(replay.settlements.keys() - linked)
    if missing:
        replay.findings.append(
            Finding(
                kind="missing-artefacts",
                what=f"{missing} of {len(replay.settlements)} settled releases are not in the "
                "bundle; they are charged all the same",
                gateway=replay.gateway,
            )
        )


def _linked(replay: Replay, lines: Iterable[bytes]) -> set[str]:
    linked: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    fitting: set[tuple[str, str]] = set()
    for line in lines:
        try:
            artefact = require(parse(line), _ARTEFACT, "an artefact")
        except FormError as error:
            raise _rejected(replay, "form", str(error)) from error
        _check_envelope(replay, artefact)
        number = (artefact["channel"], artefact["seq"])
        if number in numbers:
            raise _rejected(replay, "artefact", f"{_name(artefact)} is there twice")
        numbers.add(number)
        settlements = replay.settlements.get(artefact["payload_sha256"])
        if settlements is None:
            raise _rejected(
                replay, "unsettled-artefact", f"{_name(artefact)} left, and no entry settled it"
            )
        part = (artefact["payload_sha256"], artefact["kind"])
        if part not in fitting and not any(_fits(part[1], one) for one in settlements):
            raise _rejected(
                replay,
                "artefact",
                f"{_name(artefact)} was settled as something else",
                settlements[0].entry,
            )
        fitting.add(part)
        linked.add(artefact["payload_sha256"])
    return linked


def _check_envelope(replay: Replay, artefact: dict[str, Any]) -> None:
    header, name = artefact["header"], _name(artefact)
    if any(header[field] != artefact[field] for field in ("kind", "seq", "payload_sha256")):
        raise _rejected(replay, "form", f"{name} is not what its header says")
    if header["gateway"] != replay.gateway:
        raise _rejected(replay, "owner", f"{name} is another gateway's")
    if not signed_by(replay.public_key, artefact["signature"], MAGIC + canonical(header)):
        raise _rejected(replay, "artefact", f"the signature of {name} is not the gateway's")
    if header["simulated"] != replay.simulated:
        raise _rejected(replay, "simulated", f"{name} mixes simulated and real")


def _fits(kind: str, settlement: Settlement) -> bool:
    """Whether an envelope of this kind may hold what was settled."""
    reserved = settlement.reserved
    if reserved.is_run != (kind in ("update", "counts")):
        return False
    return reserved.may_be(settlement.event, _PURPOSES[kind])


def _name(artefact: dict[str, Any]) -> str:
    return f"the {artefact['kind']} with {artefact['channel']} number {artefact['seq']}"


def _rejected(replay: Replay, kind: str, what: str, entry: int | None = None) -> Rejected:
    return Rejected(
        Deviation(
            kind=kind,
            what=what,
            gateway=replay.gateway,
            entry=entry,
            file=f"gateways/{replay.gateway}/artefacts.jsonl",
        )
    )
