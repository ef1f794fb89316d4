"""The report on schedule: a bundle of all ledgers, verified, and what it says to people.

Each goes into a folder named by its moment, `latest` points to the newest. A bundle that is
rejected is kept with a report that says so, and the flow fails: somebody must look. A staging
centre's is rejected for what it is; as long as nothing else is wrong its report shows what the
audits of its releases found, and the flow goes on. Nothing is spent, and no gateway is asked.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedge.audit.evidence import evidence_files
from fedge.config import ServerSettings
from fedge.durable import make_folder
from fedge.errors import BundleError, StateError
from fedge.review.bundle import read_bundle, write_bundle
from fedge.review.evidence import read_controller, with_evidence
from fedge.review.report.build import build_report
from fedge.review.report.files import write_report
from fedge.review.report.model import Verdict
from fedge.review.report.verdict_words import deviation_words
from fedge.review.verifier import verify_bundle
from fedge_server.database import Database
from fedge_server.review import LedgerLag, collect_fleet
from fedge_server.witness import open_witness

log = logging.getLogger(__name__)

BUNDLE, LATEST = "ledger-bundle.zip", "latest"


@dataclass(frozen=True, kw_only=True, slots=True)
class ComplianceRun:
    """One report that was made.

    Attributes:
        folder: holds the bundle and the report's files.
        lags: how far the copy of each ledger reaches.
    """

    folder: Path
    verdict: Verdict
    lags: tuple[LedgerLag, ...]


def make_compliance(settings: ServerSettings, database: Database, at: float) -> ComplianceRun:
    """Export all ledgers, verify them, and write the report in every format.

    Args:
        at: now, in seconds since the epoch; names the folder.

    Raises:
        BundleError: the bundle was rejected, and not only for being a staging centre's; it lies in
            its folder with the report that says why.
        StateError: no gateway sent a ledger entry yet, what is stored cannot be read, or the disk
            refused.
        SettingError: the controller's file is wrong.
    """
    own, witness = settings.compliance, open_witness(settings)
    found = collect_fleet(settings, database, witness)
    if not found.source.gateways:
        raise StateError("no gateway sent a ledger entry yet: there is nothing to report about")
    source = with_evidence(
        found.source,
        audits=evidence_files(own.audits) if own.audits is not None else (),
        controller=read_controller(own.controller),
    )
    parent = own.folder or settings.data_dir / "compliance"
    folder = parent / datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    make_folder(folder)
    write_bundle(folder / BUNDLE, source, witness, at)
    verdict = verify_bundle(
        folder / BUNDLE,
        witness_key=witness.public_key.hex(),
        reviewer_keys=own.reviewers,
        gateway_keys=[one.public_key for one in source.gateways],
    )
    staged = settings.simulated and {one.kind for one in verdict.deviations} == {"simulated"}
    bundle = read_bundle(folder / BUNDLE) if verdict.accepted or staged else None
    report = build_report(bundle, verdict, verified_at=at, file=folder / BUNDLE)
    write_report(report, folder)
    _point(parent / LATEST, folder)
    _forget_old(parent, own.keep)
    for lag in found.lags:
        if lag.lags:
            log.warning("%s (%s): %s", lag.name, lag.gateway, lag.describe())
    if report.deviation is not None and not staged:
        raise BundleError(
            f"the ledgers were rejected: {deviation_words(report.deviation)} ({folder})"
        )
    return ComplianceRun(folder=folder, verdict=report.verdict, lags=found.lags)


def _point(link: Path, folder: Path) -> None:
    """Let `link` point at a folder beside it, in one step."""
    new = link.with_name(f".{link.name}-{folder.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(folder.name)
    new.replace(link)


def _forget_old(parent: Path, keep: int) -> None:
    """Remove the oldest reports beyond `keep`; their names sort by time."""
    made = sorted(path for path in parent.glob("[0-9]*T[0-9]*Z") if path.is_dir())
    for path in made[:-keep]:
        shutil.rmtree(path)
