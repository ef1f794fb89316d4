"""Canaries in a staging fleet: evidence beside each release, and never a canary in production."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fakes.centre import Centre, FakeClock, Sender
from fakes.ledger_fleet import PlayedGateway
from fakes.releases import FILES, HARDWARE, toy_reference
from flow_fakes import MemoryBus

from fedge.audit import toy
from fedge.audit.evidence import ONE_RUN, read_evidence
from fedge.config import ServerSettings, TrainingSettings
from fedge.delivery.candidate import READY, countersign, describe_files, stage
from fedge.errors import AuditRefusedError, BundleError, SettingError
from fedge.identity import Artefact
from fedge.learning.planning import plan_training
from fedge.models.weights import adapter_dimension, weights_to_bytes
from fedge.privacy.heads import sign_head
from fedge.privacy.ledger import Ledger
from fedge.privacy.merkle import tree_hash
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import (
    AuditBatch,
    BlockLength,
    PairedDifference,
    Participant,
    ReleaseManifest,
    RunResult,
    RunSpec,
    sha256_hex,
)
from fedge.review.bundle import read_bundle
from fedge.statefile import StateFile
from fedge_flows.compliance import make_compliance
from fedge_flows.context import FlowContext
from fedge_flows.initial import publish_initial
from fedge_flows.progress import PUBLISHED, SIGNED, TRAINED
from fedge_flows.retrain import initial_vector
from fedge_flows.roles import server_settings
from fedge_flows.staged_audit import audit_candidate
from fedge_server.admin import init_server
from fedge_server.database import Database

POLICY = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=60))
WEIGHTS = toy.CODE.base_weights(0)
STAGING = {"simulated": True, "compliance": {"one_run_audit": True}}
AT = 1_800_000_000.0


def plan(**changes: object) -> object:
    settings = TrainingSettings(adapter="head", rounds=2, steps=5, records=60, **changes)
    return plan_training(POLICY, settings, adapter_dimension(WEIGHTS, "head"))


class Fleet:
    """A central host of the audit's toy task: release 1 is out, run-1 is trained.

    Its candidate is built, gated and signed twice already, so that `recompile` has nothing left
    to do but what is promised here.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.sender = folder, Sender()
        write_policy(POLICY, folder / "fleet.toml")
        toy_settings = {"family": "toy", "task": "audit-toy", **settings}
        init_server(folder / "host", policy=folder / "fleet.toml", settings=toy_settings)
        self.environment = {"FEDGE_SERVER_CONFIG": str(folder / "host" / "server.toml")}
        self.settings, self.bus = self.role("server"), MemoryBus()
        self.database = Database(self.settings.database)
        self.centre = Centre(self.settings, self.database, FakeClock())
        self.centre.admitted()
        self._candidate("initial", 1)
        publish_initial(self.role("publisher"))
        self.candidate = self._candidate("run-1", 2)
        self._train()

    def role(self, role: str) -> ServerSettings:
        return server_settings(self.environment, role)

    def context(self, role: str) -> FlowContext:
        return FlowContext(self.role(role), self.centre.facts, self.bus)

    def push_ledger(self, *, simulated: bool, expect: int = 200) -> None:
        """The gateway takes part in the run and sends its ledger to the real coordinator."""
        with closing(StateFile(self.folder / f"ledger-{simulated}.sqlite")) as state:
            ledger = Ledger(
                state,
                POLICY,
                clock=lambda: AT,
                simulated=simulated,
                gateway=self.sender.fingerprint,
                public_key=self.sender.public_key,
            )
            ledger.open_block(0)
            played = PlayedGateway(self.sender.identity, "one", ledger, [AT], [])
            for window in range(4):
                played.window(window, 0)
            played.run(self.spec, (0,))
            entries = ledger.entries()
        self._leave_result(played.artefacts)
        root = tree_hash(entries).hex()
        head = sign_head(self.sender.identity, len(entries), root, AT, simulated=simulated)
        payload = AuditBatch(0, entries, head).to_bytes()
        status, answer = self.centre.post(
            self.sender.seal("audit", 0, payload, simulated=simulated)
        )
        assert status == expect, answer

    def _candidate(self, name: str, counter: int) -> Path:
        folder = self.settings.objects_dir / "candidates" / name
        folder.mkdir(parents=True)
        for file in FILES:
            (folder / file).write_bytes(f"{name} {file}".encode())
        (folder / "task.json").write_bytes(toy.SCHEMA.to_bytes())
        (folder / "reference.json").write_bytes(toy_reference(toy.SCHEMA).to_bytes())
        (folder / "weights.npz").write_bytes(weights_to_bytes(WEIGHTS))
        manifest = ReleaseManifest(
            family="toy",
            task_version=1,
            counter=counter,
            parent=counter - 1,
            run_id=name,
            variants={HARDWARE: "int8"},
            files=describe_files(folder, FILES),
            cohort=() if name == "initial" else (self.sender.fingerprint,),
            privacy_epsilon=0.0,
            measures={},
        )
        builder, evaluator = self.role("builder").keys.builder, self.role("server").keys.evaluator
        evaluator = ServerSettings.load(self.folder / "host" / "evaluator.toml").keys.evaluator
        assert builder is not None and evaluator is not None
        stage(self.settings.releases_dir, folder, manifest, builder)
        countersign(self.settings.releases_dir, folder, evaluator)
        (folder / READY).write_bytes(b"{}")
        return folder

    def _train(self) -> None:
        context = self.context("server")
        who = Participant(
            gateway=self.sender.fingerprint,
            public_key=self.sender.public_key,
            first_window=0,
            last_window=3,
        )
        self.spec = RunSpec(
            run_id="run-1",
            task="audit-toy",
            base_release=1,
            base_sha256=context.shelf.sha256(1),
            plan=plan(),  # type: ignore[arg-type]
            participants=(who,),
            episodes=("e-1",),
        )
        context.objects.put("runs/run-1/adapter.npy", initial_vector(self.spec))
        self.centre.facts.create_run(self.spec)
        self.centre.facts.set_run_state("run-1", TRAINED)

    def _leave_result(self, replies: list[Artefact]) -> None:
        """What the rounds leave: a zero adapter, a gain, and whose replies it came from."""
        vector = np.zeros(self.spec.plan.dimension, "<f4")
        settled = {
            kind: tuple(one.payload_sha256 for one in replies if one.kind == kind)
            for kind in ("update", "counts")
        }
        result = RunResult(
            spec=self.spec,
            adapter_sha256=sha256_hex(vector.tobytes()),
            update_bytes=(100, 100),
            update_sha256=settled["update"],
            contributors=((self.sender.fingerprint,), (self.sender.fingerprint,)),
            counts=(PairedDifference(run_id="run-1", difference=50, sigma2=100),),
            counts_sha256=settled["counts"],
        )
        objects = self.context("server").objects
        objects.replace("runs/run-1/result.json", result.to_bytes())

    def close(self) -> None:
        self.database.close()


@pytest.fixture
def staging(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, **STAGING)
    yield fleet
    fleet.close()


# --- evidence of each release ------------------------------------------------------------


def test_each_release_gets_evidence_of_its_own_training(staging: Fleet) -> None:
    """The run's plan, on the task's public data, at the run's own price; said by release."""
    staging.push_ledger(simulated=True)
    assert staging.context("builder").recompile("run-1") == SIGNED

    found = read_evidence(staging.candidate / ONE_RUN)
    assert (found.kind, found.task, found.release) == ("one-run", "audit-toy", 2)
    assert (found.canaries, found.passed) == (60, True)
    assert 0 < found.claimed_epsilon <= POLICY.epsilon


def test_the_report_shows_it_by_release(staging: Fleet) -> None:
    """In a staging centre's report, which is rejected for what it is, and in the bundle."""
    staging.push_ledger(simulated=True)
    staging.context("builder").recompile("run-1")
    assert staging.context("publisher").publish("run-1") == PUBLISHED
    made = make_compliance(staging.settings, staging.database, AT)

    assert made.verdict == "rejected"
    report = json.loads((made.folder / "compliance.json").read_text())
    (audit,) = report["audits"]
    assert (audit["name"], audit["release"], audit["passed"]) == ("one-run, release 2", 2, True)
    page = (made.folder / "compliance.html").read_text()
    assert "one-run, release 2" in page and "REJECTED" in page and "simulat" in page
    bundle = read_bundle(made.folder / "ledger-bundle.zip")
    assert bundle.source.simulated and "audit-one-run-release-2" in bundle.source.evidence


def test_a_release_that_is_not_out_is_not_in_the_report(staging: Fleet) -> None:
    staging.push_ledger(simulated=True)
    staging.context("builder").recompile("run-1")
    made = make_compliance(staging.settings, staging.database, AT)

    assert json.loads((made.folder / "compliance.json").read_text())["audits"] == []


def test_another_fault_still_fails_the_report(
    staging: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Being a simulation excuses nothing else."""
    from fedge_flows import compliance

    staging.push_ledger(simulated=True)
    honest = compliance.write_bundle

    def tampering(path: Path, *given: object) -> str:
        sha256 = honest(path, *given)  # type: ignore[arg-type]
        path.write_bytes(path.read_bytes().replace(b'"block":0', b'"block":1'))
        return sha256

    monkeypatch.setattr(compliance, "write_bundle", tampering)
    with pytest.raises(BundleError, match="rejected"):
        make_compliance(staging.settings, staging.database, AT)


def test_a_release_is_audited_once(staging: Fleet) -> None:
    """A step that is taken again keeps what is there; evidence about another release is not it."""
    given = {"base": staging.settings.objects_dir / "candidates" / "initial"}
    given["policy"] = staging.settings.policy
    first = audit_candidate(staging.candidate, staging.spec, **given)
    assert audit_candidate(staging.candidate, staging.spec, **given) == first

    other = first.model_copy(update={"release": 1})
    (staging.candidate / ONE_RUN).write_bytes(other.to_bytes())
    again = audit_candidate(staging.candidate, staging.spec, **given)
    assert again.release == 2 and read_evidence(staging.candidate / ONE_RUN) == again


def test_where_no_evidence_can_be_made_the_release_goes_on(
    staging: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """The policy was tightened since the run: under it that training is not allowed any more."""
    staging.push_ledger(simulated=True)
    tighter = POLICY.model_copy(update={"epsilon": POLICY.epsilon - 0.5})
    write_policy(tighter, staging.settings.policy)

    assert staging.context("builder").recompile("run-1") == SIGNED
    assert not (staging.candidate / ONE_RUN).exists()
    assert "no evidence about its training" in caplog.text


def test_no_round_begins_after_the_limit(staging: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """What the first round showed is evidence, too; how far it came is told."""
    clock = iter([0.0, 61.0])
    with caplog.at_level("INFO"):
        found = audit_candidate(
            staging.candidate,
            staging.spec,
            base=staging.settings.objects_dir / "candidates" / "initial",
            policy=staging.settings.policy,
            clock=lambda: next(clock),
        )

    told = [record.getMessage() for record in caplog.records if "round" in record.getMessage()]
    assert told == ["audit of release 2: round 1 of 2, 61.0 s"]
    assert found.passed


def test_a_sampled_plan_is_audited_as_planned(staging: Fleet) -> None:
    """Beyond the limit of full batches steps read samples, and the audit's do, too."""
    sampled = plan(sample_above=50, sample=30)
    assert sampled.sampling == "poisson"  # type: ignore[attr-defined]
    found = audit_candidate(
        staging.candidate,
        staging.spec.model_copy(update={"plan": sampled}),
        base=staging.settings.objects_dir / "candidates" / "initial",
        policy=staging.settings.policy,
    )

    assert found.passed and 0 < found.claimed_epsilon <= POLICY.epsilon


# --- never in production -----------------------------------------------------------------


def test_it_is_off_by_default(tmp_path: Path) -> None:
    """A production centre recompiles without an audit."""
    fleet = Fleet(tmp_path)
    with closing(fleet):
        fleet.push_ledger(simulated=False)
        assert fleet.context("builder").recompile("run-1") == SIGNED
        assert not (fleet.candidate / ONE_RUN).exists()


def test_a_production_centre_may_not_even_ask_for_it(tmp_path: Path) -> None:
    """The settings are refused before a process starts."""
    with pytest.raises(SettingError, match="staging"):
        Fleet(tmp_path, compliance={"one_run_audit": True})


def test_a_fleet_with_a_real_ledger_is_refused(tmp_path: Path) -> None:
    """Also where a builder's settings claim a staging centre: the gateways' ledgers decide.

    Nothing is planted, and the run goes no further.
    """
    fleet = Fleet(tmp_path)
    with closing(fleet):
        fleet.push_ledger(simulated=False)
        builder = fleet.folder / "host" / "builder.toml"
        builder.write_text(
            "simulated = true\n" + builder.read_text() + "\n[compliance]\none_run_audit = true\n"
        )
        with pytest.raises(AuditRefusedError, match="production"):
            fleet.context("builder").recompile("run-1")
        assert not (fleet.candidate / ONE_RUN).exists()
        (run,) = fleet.centre.facts.runs()
        assert run.state == TRAINED


def test_a_gateway_that_is_not_known_is_not_staging(staging: Fleet) -> None:
    """Without a ledger nobody knows whose records a participant has."""
    with pytest.raises(AuditRefusedError, match="not known"):
        staging.context("builder").recompile("run-1")
    assert not (staging.candidate / ONE_RUN).exists()


def test_a_staging_centre_takes_no_real_gateway(staging: Fleet) -> None:
    """And a real one no staging gateway: the two fleets cannot mix."""
    staging.push_ledger(simulated=False, expect=400)
    staging.push_ledger(simulated=True)


def test_a_real_centre_takes_no_staging_gateway(tmp_path: Path) -> None:
    with closing(Fleet(tmp_path)) as fleet:
        fleet.push_ledger(simulated=True, expect=400)
        fleet.push_ledger(simulated=False)
