"""Every gateway's ledger as the coordinator holds it, for a reviewer; and who lags behind.

A gateway whose own count of entries is larger than what is stored here without a gap, or whose
last entries are not countersigned, is named: the copy is older than the ledger.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from fedge.audit.evidence import ONE_RUN, evidence_files
from fedge.config import ServerSettings
from fedge.errors import StateError
from fedge.identity import Identity
from fedge.learning.chosen import choice_object
from fedge.privacy.heads import confirmed_again
from fedge.records import AuditEvidence, ReleaseManifest, sha256_hex
from fedge.review.evidence import CHOICE, with_evidence
from fedge.review.source import BundleSource, GatewayLedger, ReleaseFact, RunFact
from fedge_server.database import Database
from fedge_server.facts import Facts, Run
from fedge_server.fleet import Fleet, GatewayState
from fedge_server.ledgers import Ledgers
from fedge_server.objects import ObjectStore
from fedge_server.published import published_folders


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerLag:
    """How far the coordinator's copy of one ledger reaches.

    Attributes:
        entries: stored from the first one on without a gap; those go into a bundle.
        beyond_gap: the largest number stored after a gap, plus one; 0 where there is no gap.
        announced: entries that the gateway's latest status says it has; None where no status says.
        witnessed: entries under the latest countersigned head; 0 where there is none.
        status_at: when that status was made; None if there is none.
    """

    gateway: str
    name: str
    entries: int
    beyond_gap: int
    announced: int | None
    witnessed: int
    status_at: float | None

    @property
    def missing(self) -> int:
        """Entries that exist, as far as is known, and are not in the copy."""
        return max(0, self.beyond_gap - self.entries, (self.announced or 0) - self.entries)

    @property
    def unwitnessed(self) -> int:
        return self.entries - self.witnessed

    @property
    def lags(self) -> bool:
        return bool(not self.entries or self.missing or self.unwitnessed)

    def describe(self) -> str:
        """What is missing, for people; empty where nothing is."""
        faults = []
        if not self.entries:
            faults.append("no ledger entry is stored")
        elif self.missing:
            faults.append(f"{self.missing} entries from number {self.entries} on are not here yet")
        if self.unwitnessed:
            faults.append(f"the last {self.unwitnessed} entries are not countersigned")
        return "; ".join(faults)


@dataclass(frozen=True, slots=True)
class FleetExport:
    """What a bundle of the coordinator's copy holds, and how far each ledger in it reaches."""

    source: BundleSource
    lags: tuple[LedgerLag, ...]


def collect_fleet(settings: ServerSettings, database: Database, witness: Identity) -> FleetExport:
    """Every admitted gateway's ledger, all runs, all published releases and audits of them.

    Works while the coordinator runs. A gateway that never sent an entry is named among the
    lags and is no part of the bundle.

    Args:
        witness: the coordinator's key. What an earlier one confirmed is confirmed again under it.

    Raises:
        StateError: what is stored cannot be read.
    """
    facts, fleet = Facts(database, lambda: 0.0), Fleet(database, lambda: 0.0)
    reader, objects = Ledgers(database), ObjectStore(settings.objects_dir)
    states = {state.fingerprint: state for state in fleet.state().gateways}
    # What came of ledgers is read before them: its entries were stored before it was.
    runs, releases = [_run(objects, run) for run in facts.runs()], _releases(settings)
    ledgers, lags = [], []
    for gateway in fleet.admitted():
        artefacts = reader.artefacts(gateway.fingerprint, objects)
        entries = tuple(reader.entries(gateway.fingerprint))
        witnessed = reader.witnessed(gateway.fingerprint)
        confirmed = tuple(
            confirmed_again(witness, one) for one in witnessed if one.head.size <= len(entries)
        )
        one = GatewayLedger(
            gateway=gateway.fingerprint,
            public_key=gateway.public_key,
            name=gateway.name,
            entries=entries,
            heads=tuple(h for h in reader.heads(gateway.fingerprint) if h.size <= len(entries)),
            witnessed=confirmed,
            artefacts=artefacts,
        )
        lags.append(_lag(states[gateway.fingerprint], one))
        if entries:
            ledgers.append(one)
    known = {run.spec.run_id for run in runs}
    runs += [RunFact(spec=run.spec) for run in facts.runs() if run.spec.run_id not in known]
    source = BundleSource(
        made_by="coordinator",
        simulated=settings.simulated,
        witness_key=witness.public_key.hex(),
        gateways=tuple(ledgers),
        runs=tuple(runs),
        releases=releases,
        evidence={
            "standing": {"gateways": [_standing(lag) for lag in lags]},
            **_choices(objects, facts),
        },
    )
    return FleetExport(with_evidence(source, audits=_audits(settings)), tuple(lags))


def _lag(state: GatewayState, ledger: GatewayLedger) -> LedgerLag:
    status, entries = state.status, len(ledger.entries)
    last = -1 if state.audit_seq is None else state.audit_seq
    return LedgerLag(
        gateway=state.fingerprint,
        name=state.name,
        entries=entries,
        beyond_gap=last + 1 if last >= entries else 0,
        announced=None if status is None else status.ledger_entries,
        witnessed=max((one.head.size for one in ledger.witnessed), default=0),
        status_at=None if status is None else status.at,
    )


def _standing(lag: LedgerLag) -> dict[str, Any]:
    return {**asdict(lag), "missing": lag.missing, "lag": lag.describe()}


def _run(objects: ObjectStore, run: Run) -> RunFact:
    """A run and the hashes in its result; an earlier version's result names fewer."""
    name, values = f"runs/{run.spec.run_id}/result.json", {}
    if objects.exists(name):
        try:
            values = json.loads(objects.get(name))
        except ValueError as error:
            raise StateError(f"the result of run {run.spec.run_id} is damaged: {error}") from error
    return RunFact(
        spec=run.spec,
        adapter_sha256=values.get("adapter_sha256"),
        update_sha256=tuple(values.get("update_sha256", ())),
        counts_sha256=tuple(values.get("counts_sha256", ())),
        release=run.release,
    )


def _choices(objects: ObjectStore, facts: Facts) -> dict[str, dict[str, Any]]:
    """Studies that runs name, as they are; one that is gone is left out, which a report says."""
    found = {}
    for sha256 in sorted({run.spec.choice_sha256 or "" for run in facts.runs()} - {""}):
        if not objects.exists(choice_object(sha256)):
            continue
        data = objects.get(choice_object(sha256))
        if sha256_hex(data) != sha256:
            raise StateError(f"the object {choice_object(sha256)} has other bytes than its name")
        found[f"{CHOICE}{sha256[:16]}"] = json.loads(data)
    return found


def _releases(settings: ServerSettings) -> tuple[ReleaseFact, ...]:
    """Published releases whose candidate folder is still there."""
    return tuple(_release(manifest) for _, manifest in published_folders(settings))


def _audits(settings: ServerSettings) -> tuple[AuditEvidence, ...]:
    """What lies beside published releases about their own training."""
    found = []
    for folder, manifest in published_folders(settings):
        for one in evidence_files(folder, ONE_RUN):
            if one.release != manifest.counter:
                raise StateError(f"{folder} holds audit evidence about release {one.release}")
            found.append(one)
    return tuple(found)


def _release(manifest: ReleaseManifest) -> ReleaseFact:
    privacy: dict[str, Any] = {
        name.removeprefix("privacy_"): value
        for name, value in manifest.model_dump(mode="json").items()
        if name.startswith("privacy")
    }
    return ReleaseFact(
        counter=manifest.counter,
        family=manifest.family,
        manifest_sha256=manifest.content_sha256,
        run_id=manifest.run_id,
        parent=manifest.parent,
        privacy=privacy,
    )
