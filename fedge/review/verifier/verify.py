"""Verifying a bundle from the outside in: the file, its index, each ledger, what links them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedge.review.verifier import standing
from fedge.review.verifier.account_facts import gateway_facts
from fedge.review.verifier.archive import read_archive
from fedge.review.verifier.artefacts import check_artefacts
from fedge.review.verifier.form import (
    FormError,
    Shape,
    fingerprint,
    flag,
    hex64,
    hex128,
    listed,
    matches,
    moment,
    name32,
    nullable,
    one_of,
    parse,
    require,
    sha256,
    shaped,
    signed_by,
    text,
)
from fedge.review.verifier.freshness import check_times, coverage, earliest
from fedge.review.verifier.heads import Heads
from fedge.review.verifier.limits import TooMuchError, Work
from fedge.review.verifier.lines import Lines
from fedge.review.verifier.prices import Tariff
from fedge.review.verifier.replay import Replay
from fedge.review.verifier.runs import Runs
from fedge.review.verifier.verdict import Deviation, Facts, Finding, GatewayFacts, Rejected, Verdict

INDEX, SIGNATURE = "bundle.json", "bundle.sig"
SIGNED = b"fedge bundle 1\n"

_GATEWAY: Shape = {"gateway": name32, "public_key": hex64, "name": text}
_INDEX: Shape = {
    "schema": one_of(1),
    "made_at": moment,
    "made_by": one_of("gateway", "coordinator"),
    "fedge": matches(r"[0-9A-Za-z.+!\-]{1,64}"),
    "simulated": flag,
    "exporter_key": hex64,
    "witness_key": nullable(hex64),
    "gateways": listed(shaped(_GATEWAY), least=1),
    "files": lambda value: isinstance(value, dict) and all(map(hex64, value.values())),
}
_SIGNATURE: Shape = {"public_key": hex64, "signature": hex128}


def verify_bundle(
    path: Path,
    *,
    witness_key: str | None = None,
    reviewer_keys: Collection[str] = (),
    gateway_keys: Collection[str] = (),
) -> Verdict:
    """Check everything about a bundle that can be checked without data and without a gateway.

    Keys are public keys, 64 hex digits, that the caller had from somewhere else than the bundle.
    A key that is not given is taken from the bundle itself, and a finding says so: whoever made
    the bundle may then have made the key, too.

    Args:
        witness_key: of the coordinator that confirmed the ledgers.
        reviewer_keys: of those who may approve policies.
        gateway_keys: of the gateways that may appear.

    Raises:
        UnreadableBundleError: there is no such file, or it is too large to be a bundle.
        ValueError: a key is not 64 hex digits.
    """
    for key in (*reviewer_keys, *gateway_keys, *([] if witness_key is None else [witness_key])):
        if not hex64(key):
            raise ValueError(f"a public key is 64 lower-case hex digits, not {key!r}")
    try:
        digest, files = read_archive(path)
        index = _index(files)
        check = _Check(index, files, witness_key, frozenset(reviewer_keys), frozenset(gateway_keys))
        check.keys()
    except Rejected as rejected:
        return Verdict(deviations=(rejected.deviation,), findings=(), facts=None)
    return check.contents(digest)


def _index(files: Mapping[str, bytes]) -> Mapping[str, Any]:
    """The index, once its signature and all hashes in it are found to fit."""
    index = _object(files, INDEX, _INDEX)
    signature = _object(files, SIGNATURE, _SIGNATURE)
    if signature["public_key"] != index["exporter_key"]:
        raise _rejected("signature", "the bundle is signed by another key than it names", SIGNATURE)
    if not signed_by(signature["public_key"], signature["signature"], SIGNED + files[INDEX]):
        raise _rejected("signature", "the bundle's signature does not fit", SIGNATURE)
    named, there = index["files"], files.keys() - {INDEX, SIGNATURE}
    for name in sorted(named.keys() ^ there):
        what = "is not in the bundle" if name in named else "is not named in its index"
        raise _rejected("files", f"the file {name[:200]!r} {what}", INDEX)
    for name in sorted(there):
        if sha256(files[name]) != named[name]:
            raise _rejected("files", "it is not the file that was signed", name)
    return index


@dataclass
class _Check:
    """One bundle under verification; its index is trusted as its exporter's word."""

    index: Mapping[str, Any]
    files: Mapping[str, bytes]
    witness_key: str | None
    reviewer_keys: frozenset[str]
    gateway_keys: frozenset[str]
    deviations: list[Deviation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._work = Work()
        self._tariff = Tariff(self._work)  # one for all ledgers: their runs are the same ones

    def keys(self) -> None:
        """Whose bundle it is, and about whom."""
        index, gateways = self.index, self.index["gateways"]
        names = [one["gateway"] for one in gateways]
        if names != sorted(set(names)):
            raise _rejected("owner", "gateways are named twice or out of order", INDEX)
        for one in gateways:
            if fingerprint(one["public_key"]) != one["gateway"]:
                raise _rejected("owner", f"the key of {one['gateway']} is another's", INDEX)
            if self.gateway_keys and one["public_key"] not in self.gateway_keys:
                raise _rejected("owner", f"gateway {one['gateway']} is none that was named", INDEX)
        keys = {one["public_key"] for one in gateways}
        if index["made_by"] == "coordinator":
            keys = {index["witness_key"]}
        if index["exporter_key"] not in keys:
            raise _rejected("signature", "it was exported by a key that may not export it", INDEX)
        if self.witness_key and index["witness_key"] not in (None, self.witness_key):
            raise _rejected("witness", "it names another witness than the caller", INDEX)
        self._check_folders(set(names))

    def _check_folders(self, names: set[str]) -> None:
        for file in self.files:
            folder, _, rest = file.partition("/")
            if folder == "gateways" and rest.partition("/")[0] not in names:
                raise _rejected("files", "it is of a gateway that is not named", file)
            if folder == "evidence":
                _object(self.files, file, None)

    def contents(self, bundle_sha256: str) -> Verdict:
        """Everything behind the index; all deviations, the ledgers' before what links them."""
        if self.index["simulated"]:
            self.deviations.append(
                Deviation(kind="simulated", what="it is of a simulation, which proves nothing")
            )
        self._note_unpinned()
        replays: dict[str, Replay] = {}
        facts = []
        for one in self.index["gateways"]:
            replay, known = self._ledger(one)
            replays[one["gateway"]] = replay
            facts.append(known)
        self._standing(facts)
        runs = Runs(replays, self.index["made_by"] == "coordinator")
        runs.check(self._lines("runs.jsonl"), self._lines("releases.jsonl"))
        self.deviations += runs.deviations
        self.findings += runs.findings
        return self._verdict(bundle_sha256, facts)

    def _ledger(self, one: Mapping[str, str]) -> tuple[Replay, GatewayFacts]:
        gateway, folder = one["gateway"], f"gateways/{one['gateway']}"
        entries = self._lines(f"{folder}/entries.jsonl")
        replay = Replay(gateway, one["public_key"], self.reviewer_keys, self._work, self._tariff)
        if not len(entries):
            what = "its ledger is missing"
            replay.deviations.append(Deviation(kind="truncated", what=what, gateway=gateway))
        replay.run(entries)
        heads = Heads(
            gateway=gateway,
            public_key=one["public_key"],
            hashes=replay.hashes,
            entries=len(entries),
            simulated=replay.simulated,
            witness_key=self.witness_key or self.index["witness_key"],
        )
        heads.check(self._lines(f"{folder}/heads.jsonl"), self._lines(f"{folder}/witnessed.jsonl"))
        replay_ended_early = len(replay.hashes) < len(entries)
        if not replay_ended_early:  # what it did not reach would only look unsettled
            check_artefacts(replay, self._lines(f"{folder}/artefacts.jsonl"))
        self.deviations += _in_order(replay.deviations, heads.deviations)
        self.findings += [
            *replay.findings,
            *coverage(heads, len(entries)),
            *check_times(replay, heads, self.index["made_at"]),
        ]
        return replay, gateway_facts(one, replay, heads)

    def _lines(self, name: str) -> Lines:
        lines = Lines(self.files.get(name, b""))
        if lines.data and not lines.data.endswith(b"\n"):
            self._deviates("truncated", "it ends within a line", name)
        try:
            self._work.take("lines", len(lines))
        except TooMuchError as error:
            self._deviates("limit", str(error), name)
            return Lines()
        return lines

    def _deviates(self, kind: str, what: str, file: str) -> None:
        self.deviations.append(Deviation(kind=kind, what=what, file=file))

    def _standing(self, facts: Sequence[GatewayFacts]) -> None:
        """What the exporter says that it knows of the ledgers, if it says anything."""
        if standing.FILE not in self.files:
            return
        held = {
            one.gateway: standing.Held(
                len(Lines(self.files.get(f"gateways/{one.gateway}/entries.jsonl", b""))),
                one.witnessed_size,
                one.as_of,
            )
            for one in facts
        }
        try:
            value = _object(self.files, standing.FILE, None)
            self.findings += standing.check_standing(value, held)
        except Rejected as rejected:
            self.deviations.append(rejected.deviation)

    def _note_unpinned(self) -> None:
        for known, what in (
            (self.witness_key, "the witness's key was"),
            (self.reviewer_keys, "the reviewers' keys were"),
            (self.gateway_keys, "the gateways' keys were"),
        ):
            if not known:
                what = f"{what} not given, the bundle's own word is taken for it"
                self.findings.append(Finding(kind="unpinned", what=what))
        absent = self.gateway_keys - {one["public_key"] for one in self.index["gateways"]}
        for key in sorted(absent):
            what = f"the ledger of gateway {fingerprint(key)} is not in the bundle"
            self.findings.append(Finding(kind="missing-gateway", what=what, unproven=True))

    def _verdict(self, bundle_sha256: str, gateways: Sequence[GatewayFacts]) -> Verdict:
        index = self.index
        facts = Facts(
            sha256=bundle_sha256,
            made_at=float(index["made_at"]),
            made_by=index["made_by"],
            fedge=index["fedge"],
            exporter_key=index["exporter_key"],
            witness_key=index["witness_key"],
            gateways=tuple(gateways),
            as_of=earliest([one.as_of for one in gateways]),
        )
        return Verdict(
            deviations=tuple(self.deviations), findings=tuple(self.findings), facts=facts
        )


def _in_order(replayed: Sequence[Deviation], heads: Sequence[Deviation]) -> list[Deviation]:
    """A ledger's own deviations by entry; where heads deviate at an earlier one, these first."""
    found = [*replayed, *heads]
    # Without an entry number it is a file as a whole that deviates: after what can be named.
    return sorted(found, key=lambda one: (one.entry is None, one.entry or 0))


def _object(files: Mapping[str, bytes], name: str, shape: Shape | None) -> dict[str, Any]:
    if name not in files:
        raise _rejected("files", f"the bundle has no {name}", name)
    try:
        value = parse(files[name])
        if shape is None:
            shape = {} if not isinstance(value, dict) else {key: lambda _: True for key in value}
        return require(value, shape, name)
    except FormError as error:
        raise _rejected("form", str(error), name) from error


def _rejected(kind: str, what: str, file: str) -> Rejected:
    return Rejected(Deviation(kind=kind, what=what, file=file))
