"""What a demo leaves for a reviewer, from a finished run's folder, without playing one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from fakes.centre import report, status
from fakes.ledger_fleet import (
    DAY,
    FEATURE_EVENT,
    NOISE,
    REVIEWER,
    START,
    PlayedGateway,
    fleet_policy,
    gateway_key,
    played_gateway,
    push_ledger,
    run_spec,
)
from fakes.releases import FAMILY, ReleaseWorld

from fedge.audit.evidence import AuditedCase, AuditEvidence, write_evidence
from fedge.delivery.candidate import countersign, publish, stage
from fedge.demo import compliance
from fedge.demo.compliance import BUNDLE, class_accuracy, lagging, leave_bundle
from fedge.demo.evaluation import CLEAN, COLUMNS, COMMITTED, FAULT, FIRST, NONPRIVATE
from fedge.demo.facts import RunFolder
from fedge.demo.plan import make_plan
from fedge.errors import BundleError
from fedge.identity import Envelope, Identity
from fedge.privacy.ledger import FEATURES
from fedge.privacy.policy import write_policy
from fedge.profiles.wire import encode_report
from fedge.records import RunSpec, sha256_hex
from fedge.review.bundle import read_bundle
from fedge.review.verifier import verify_bundle
from fedge_server.admin import init_server
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.ingest import Ingest
from fedge_server.objects import ObjectStore
from fedge_server.witness import open_witness

SITES = {f"site-{number}": gateway_key(number).fingerprint for number in range(2)}
NONPRIVATE_INPUT = f"{NONPRIVATE}input"


def ended(path: Path, *, charged: bool = True) -> RunFolder:
    """A run of two gateways has ended: site-0 drifted, trained, and took up release 2.

    Each released one window report; unless `charged`, the ledgers do not know them.
    """
    folder = RunFolder(path / "run")
    folder.path.mkdir()
    folder.write_plan(make_plan(gateways=2, faulty=1, quick=True), SITES)
    write_policy(fleet_policy(), path / "policy.toml")
    init_server(folder.path / "server", policy=path / "policy.toml", settings={"family": FAMILY})
    spec = _published(folder, path / "builder")
    with Database(folder.settings.database) as database:
        for number in range(2):
            with played_gateway(path, number) as one:
                one.ledger.open_block(0)
                if charged:
                    _settle_report(one)
                if number == 0:
                    one.run(spec, (0,))
                    _keep_result(folder, one)
                push_ledger(database, folder.settings, one)
                _push_report(folder, database, one.identity)
        facts = Facts(database, lambda: 1.0)
        facts.create_run(spec)
        facts.record_release("run-1", 2)
    evaluated(folder, rows())
    return folder


def _published(folder: RunFolder, builder: Path) -> RunSpec:
    """Publish a first release and the run's; answers the plan between the two."""
    world = ReleaseWorld(builder)
    spec = run_spec(1, (0,), last_window=0)
    spec = spec.model_copy(update={"base_sha256": world.release(1).content_sha256})
    candidate, manifest = world.candidate(2, run_id=spec.run_id)
    manifest = manifest.model_copy(update={"privacy_epsilon": 3.0})
    stage(world.releases_dir, candidate, manifest, world.keys.builder)
    countersign(world.releases_dir, candidate, world.keys.evaluator)
    publish(world.releases_dir, candidate, world.keys.online, gateways=None)
    settings = folder.settings
    shutil.copytree(world.releases_dir, settings.releases_dir, dirs_exist_ok=True)
    shutil.copytree(builder / "candidates", settings.objects_dir / "candidates")
    return spec


def _keep_result(folder: RunFolder, one: PlayedGateway) -> None:
    """What came back from the only member."""
    kinds = {"update": [], "counts": []}  # type: dict[str, list[str]]
    for artefact in one.artefacts:
        if artefact.kind in kinds:
            kinds[artefact.kind].append(artefact.payload_sha256)
    hashes = {"update_sha256": kinds["update"], "counts_sha256": kinds["counts"]}
    result = json.dumps({"adapter_sha256": "ad" * 32, **hashes}).encode()
    ObjectStore(folder.settings.objects_dir).put("runs/run-1/result.json", result)


def _settle_report(one: PlayedGateway) -> None:
    made = one.ledger.reserve_window(0, 0, [FEATURE_EVENT], purpose=FEATURES)
    grant = one.ledger.grant(made, "report", FEATURE_EVENT)
    zeros = np.zeros(FEATURE_EVENT.dimension, dtype=np.int64)
    square, variance = FEATURE_EVENT.sensitivity2, FEATURE_EVENT.sigma2
    NOISE.discrete_gaussian(zeros, sensitivity2=square, sigma2=variance, grant=grant)
    one.ledger.settle(made, "report", sha256_hex(encode_report(report(0))), NOISE.kind)


def _push_report(folder: RunFolder, database: Database, gateway: Identity) -> None:
    envelope = Envelope.seal(gateway, "report", 0, encode_report(report(0)))
    witness = open_witness(folder.settings)
    ingest = Ingest(database, lambda: 1.0, witness, max_payload_bytes=2**20)
    ingest.accept(envelope.to_bytes())


@pytest.fixture(autouse=True)
def soon_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo leaves its bundle right after its end, whatever day this test runs on."""
    monkeypatch.setattr(compliance, "time", SimpleNamespace(time=lambda: START + DAY / 24))


Row = tuple[str, str, str, int, int]
"""Gateway, condition, model, label, prediction."""


def rows() -> list[Row]:
    """Under the fault: of class 3 one of four is right before, three with privacy, all without."""
    found: list[Row] = []
    for model, right in ((FIRST, 1), (COMMITTED, 3), (NONPRIVATE_INPUT, 4)):
        found += [("site-0", FAULT, model, 3, 3 if n < right else 8) for n in range(4)]
    found += [("site-0", FAULT, FIRST, 8, 8), ("site-0", FAULT, COMMITTED, 8, 3)]
    # Neither a healthy capture nor a gateway that did not drift says what a class lost or won.
    found += [("site-0", CLEAN, model, 3, 8) for model in (FIRST, COMMITTED, NONPRIVATE_INPUT)]
    found += [("site-1", FAULT, model, 3, 8) for model in (FIRST, COMMITTED, NONPRIVATE_INPUT)]
    return found


def evaluated(folder: RunFolder, given: Iterable[Row]) -> None:
    table = [
        {
            "gateway": gateway,
            "glyph": 0,
            "capture": 0,
            "condition": condition,
            "model": model,
            "release_sha256": "",
            "label": label,
            "prediction": prediction,
        }
        for gateway, condition, model, label, prediction in given
    ]
    pq.write_table(pa.Table.from_pylist(table, schema=COLUMNS), folder.evaluations)


def approved_by(folder: RunFolder, reviewer: Identity) -> None:
    """Put a reviewer's key where a demo keeps its own."""
    pem = reviewer._key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder.path / "reviewer.pem").write_bytes(pem)


def test_it_leaves_a_bundle_that_verifies_and_a_page(tmp_path: Path) -> None:
    """And says in a line what the verifier, asked again, says."""
    folder = ended(tmp_path)
    approved_by(folder, REVIEWER)
    line = leave_bundle(folder)

    verdict = verify_bundle(folder.path / BUNDLE)
    assert verdict.accepted and verdict.facts is not None
    assert {one.name for one in verdict.facts.gateways} == set(SITES)
    worst = max(block.epsilon for one in verdict.facts.gateways for block in one.blocks)
    assert f"worst block epsilon {worst:.3f} of 3" in line
    assert line.startswith("ledgers verified (proven")
    page = (folder.path / "compliance.html").read_text()
    assert "REJECTED" not in page and "UNPROVEN" not in page and "Not measured" not in page


def test_it_is_known_whose_ledger_is_not_all_here(tmp_path: Path) -> None:
    """A demo waits for these before it ends its gateways."""
    folder = ended(tmp_path)
    assert lagging(folder) == []

    told = Envelope.seal(gateway_key(1), "status", 50_000, status(ledger_entries=99).to_bytes())
    witness = open_witness(folder.settings)
    with Database(folder.settings.database) as database:
        Ingest(database, lambda: 2.0, witness, max_payload_bytes=2**20).accept(told.to_bytes())
    assert lagging(folder) == ["site-1"]


def test_a_stranger_s_approval_is_rejected_and_the_bundle_kept(tmp_path: Path) -> None:
    """Whoever looks for the reason finds the bundle, and no page that looks like a report."""
    folder = ended(tmp_path)
    approved_by(folder, Identity.from_seed(b"\x77" * 32))

    with pytest.raises(BundleError, match="rejected") as raised:
        leave_bundle(folder)
    assert str(folder.path / BUNDLE) in str(raised.value)
    assert (folder.path / BUNDLE).exists() and not (folder.path / "compliance.html").exists()


def test_a_report_that_no_ledger_charged_is_rejected(tmp_path: Path) -> None:
    """Whatever the rest of the run looks like."""
    folder = ended(tmp_path, charged=False)

    with pytest.raises(BundleError, match="rejected"):
        leave_bundle(folder)
    assert not (folder.path / "compliance.html").exists()


def test_accuracy_by_class_is_counted_from_the_drifted_gateways(tmp_path: Path) -> None:
    """Under the fault, of those who trained; what was not evaluated is unknown, not zero."""
    folder = ended(tmp_path)
    told = class_accuracy(folder)

    assert told["classes"] == [
        {"class": "3", "rows": 4, "stale": 0.25, "private": 0.75, "nonprivate": 1.0},
        {"class": "8", "rows": 1, "stale": 1.0, "private": 0.0, "nonprivate": None},
    ]
    assert "1 drifted gateways" in told["about"]


def test_the_bundle_holds_accuracy_and_the_audits_beside_the_run(tmp_path: Path) -> None:
    """Evidence of `make audit`, which writes beside the runs' folders."""
    folder = ended(tmp_path)
    audit = AuditEvidence(
        kind="multi-run",
        at=1.0,
        versions={"fedge": "0"},
        task="toy",
        runs=100,
        canaries=1,
        claimed_epsilon=8.0,
        delta=1e-5,
        confidence=0.95,
        cases=(AuditedCase(name="the code", seeded_bug=False, counted_epsilon=5.0),),
    )
    write_evidence(audit, tmp_path / "audit")
    leave_bundle(folder)

    evidence = read_bundle(folder.path / BUNDLE).source.evidence
    assert evidence["accuracy"] == class_accuracy(folder)
    assert AuditEvidence.from_bytes(json.dumps(evidence["audit-multi-run"]).encode()) == audit
    assert "multi-run" in (folder.path / "compliance.html").read_text()
