"""What a demo leaves for a reviewer: a bundle of its ledgers, verified, and the report about it.

The ledgers are those of the run's own gateways, as the coordinator holds them: real charges
for real noise. Made when the fleet has ended, from what is stored.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fedge.audit.evidence import evidence_files
from fedge.demo import evaluation
from fedge.demo.facts import RunFolder, cohort_run
from fedge.errors import BundleError
from fedge.identity import Identity
from fedge.review.bundle import read_bundle, write_bundle
from fedge.review.evidence import with_evidence
from fedge.review.report.build import build_report
from fedge.review.report.files import write_report
from fedge.review.report.verdict_words import verdict_words
from fedge.review.verifier import verify_bundle
from fedge_server.admin import ledgers
from fedge_server.database import Database
from fedge_server.review import collect_fleet
from fedge_server.witness import open_witness

BUNDLE = "ledger-bundle.zip"


def leave_bundle(folder: RunFolder) -> str:
    """Write `ledger-bundle.zip` and `compliance.html`; answers one line about them.

    Raises:
        BundleError: the verifier rejects the bundle; it is left there.
        StateError: what is stored cannot be read, or the disk refused.
    """
    settings, path = folder.settings, folder.path / BUNDLE
    witness = open_witness(settings)
    with Database(settings.database) as database:
        found = collect_fleet(settings, database, witness)
    source = with_evidence(
        found.source,
        audits=evidence_files(folder.path.parent / "audit"),
        accuracy=class_accuracy(folder),
    )
    write_bundle(path, source, witness, time.time())
    verdict = verify_bundle(
        path,
        witness_key=witness.public_key.hex(),
        reviewer_keys=[
            Identity.load(key).public_key.hex() for key in folder.path.glob("reviewer.pem")
        ],
        gateway_keys=[one.public_key for one in source.gateways],
    )
    if not verdict.accepted:
        first = verdict.deviations[0] if verdict.deviations else "it cannot be taken apart"
        raise BundleError(f"the ledgers of this run were rejected: {first} ({path})")
    report = build_report(read_bundle(path), verdict, verified_at=time.time(), estimate=False)
    if report.worst is None or report.deviation is not None:
        raise BundleError(f"the ledgers of this run hold no block, or are counted apart ({path})")
    write_report(report, folder.path, ["html"])
    budget = report.worst.budget
    return (
        f"ledgers verified ({verdict_words(report)}), worst block epsilon {budget.epsilon:.3f} of "
        f"{budget.epsilon_cap:g}"
    )


def lagging(folder: RunFolder) -> list[str]:
    """Names of gateways that have ledger entries which the coordinator has not confirmed yet."""
    return [
        one.name
        for one in ledgers(folder.settings).gateways
        if one.lag or one.entries > (one.witnessed_size or 0)
    ]


def class_accuracy(folder: RunFolder) -> dict[str, Any]:
    """Accuracy of each class on the drifted gateways' evaluation sets, before and after.

    These rows are public: they were made for the evaluation and trained nothing.
    """
    table = pq.read_table(folder.evaluations)
    run = cohort_run(folder.plan(), folder)
    models = {
        "stale": evaluation.FIRST,
        "private": evaluation.COMMITTED,
        "nonprivate": f"{evaluation.NONPRIVATE}{run.adapter}",
    }
    members = [member.name for member in run.members]
    known = _faulty(table, members)
    labels = np.asarray(known["label"])
    classes = []
    for label in np.unique(labels):
        own = known.filter(pa.array(labels == label))
        shares = {name: _share(own, model) for name, model in models.items()}
        rows = int((np.asarray(own["model"]) == evaluation.FIRST).sum())
        classes.append({"class": str(label), "rows": rows, **shares})
    about = f"on made-up captures of {len(members)} drifted gateways that trained nothing"
    return {"about": about, "classes": classes}


def _faulty(table: pa.Table, members: list[str]) -> pa.Table:
    condition = np.asarray(table["condition"]) == evaluation.FAULT
    return table.filter(pa.array(condition & np.isin(np.asarray(table["gateway"]), members)))


def _share(table: pa.Table, model: str) -> float | None:
    """Share of right answers; None where this model was not evaluated."""
    own = table.filter(pa.array(np.asarray(table["model"]) == model))
    right = np.asarray(own["prediction"]) == np.asarray(own["label"])
    return float(right.mean()) if len(right) else None
