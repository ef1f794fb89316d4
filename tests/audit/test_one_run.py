"""The audit of one run: canaries in staging, never in real data."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.recording_noise import RecordingNoise

from fedge.audit import __main__ as command
from fedge.audit import toy
from fedge.audit.estimators import Guesses, one_run_epsilon
from fedge.audit.evidence import read_evidence
from fedge.audit.one_run import Staging, audit_plan, bound_of, canary_records, one_run
from fedge.audit.staging import opened_staging
from fedge.config import TrainingSettings
from fedge.data.blocks import LabelledRecords
from fedge.errors import AuditRefusedError, BudgetExhaustedError, SettingError, StateError
from fedge.learning.planning import plan_training
from fedge.models.weights import adapter_dimension, weights_to_bytes
from fedge.privacy.ledger import Ledger
from fedge.privacy.noise import SeededNoise
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import BlockLength
from fedge.statefile import StateFile
from fedge.tasks.code import PublicData

POLICY = new_policy(epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=1))
HEAD = TrainingSettings(adapter="head", rounds=2, steps=5)
BLOCK = 4


def nothing(block: int = BLOCK, width: int = toy.WIDTH) -> LabelledRecords:
    """One record, of an ordinary kind, in a block."""
    return LabelledRecords(
        slots=np.array([3]),
        blocks=np.array([block]),
        inputs=np.zeros((1, width), dtype=np.float32),
        labels=np.array([0]),
        predictions=np.array([0]),
    )


def ledger_in(folder: Path, *, simulated: bool = True) -> Ledger:
    state = StateFile(folder / "state.sqlite")
    return Ledger(state, POLICY, clock=lambda: 0.0, simulated=simulated)


def staging(folder: Path, *, simulated: bool = True) -> Staging:
    return Staging(
        code=toy.CODE,
        weights=toy.CODE.base_weights(0),
        ledger=ledger_in(folder, simulated=simulated),
        records=nothing(),
        release=7,
    )


def test_a_run_leaves_evidence(tmp_path: Path) -> None:
    """What was claimed is the run's own charge; the ledger holds it; the bound is below."""
    place = staging(tmp_path)
    evidence = one_run(place, HEAD, SeededNoise(1), canaries=40, seed=2, clock=lambda: 5.0)

    assert (evidence.kind, evidence.release, evidence.canaries) == ("one-run", 7, 40)
    assert evidence.passed
    assert 0 < evidence.claimed_epsilon <= place.ledger.spending(BLOCK).epsilon <= 3.0
    place.ledger.check_chain()


class WideTask(toy.ToyTask):
    """A column for each public row: nothing hides a canary but noise."""

    width = 300
    schema = toy.SCHEMA.model_copy(
        update={"input": toy.SCHEMA.input.model_copy(update={"shape": (width,)})}
    )

    def new_model(self) -> toy.ToyModel:
        model = toy.ToyModel()
        model.head = torch.nn.Linear(self.width, toy.CLASSES)
        torch.nn.init.zeros_(model.head.weight)
        torch.nn.init.zeros_(model.head.bias)
        return model.eval()

    def public(self) -> PublicData:
        rows = toy.REACH * np.eye(self.width, dtype=np.float32)
        labels = np.arange(self.width) % 2
        return PublicData(clean=rows, labels=labels, faulted=rows, faulted_labels=labels)


@pytest.mark.parametrize("noised", [True, False])
def test_without_noise_the_coins_are_read_off(tmp_path: Path, noised: bool) -> None:
    """The attack works: where nothing was added, the bound is far above the claim."""
    code = WideTask()
    place = Staging(
        code=code,
        weights=code.base_weights(0),
        ledger=ledger_in(tmp_path),
        records=nothing(width=code.width),
    )
    noise = RecordingNoise(SeededNoise(1), exactly=not noised)
    evidence = one_run(place, HEAD, noise, canaries=200, seed=2)

    assert evidence.passed == noised
    assert evidence.lower_bound is not None
    assert (evidence.lower_bound > 3.0) == (not noised)


def test_a_real_ledger_is_refused(tmp_path: Path) -> None:
    """Before anything is charged or drawn."""
    place = staging(tmp_path, simulated=False)
    noise = RecordingNoise(SeededNoise(1))
    before = place.ledger.entries()

    with pytest.raises(AuditRefusedError):
        one_run(place, HEAD, noise, canaries=40)
    assert place.ledger.entries() == before
    assert noise.transcript.calls == []


@pytest.mark.parametrize("canaries", [0, 19, 2001])
def test_too_few_or_many_canaries_are_refused(tmp_path: Path, canaries: int) -> None:
    """They would show nothing, or cost a staging gateway hours."""
    with pytest.raises(SettingError):
        one_run(staging(tmp_path), HEAD, SeededNoise(1), canaries=canaries)


def test_each_share_gets_its_part_of_the_error_allowed() -> None:
    """The best of three bounds holds as often as it says only if each holds more often."""
    scores, coins = np.arange(60.0), np.arange(60) >= 30
    whole = Guesses(canaries=60, made=60, right=60)

    found = bound_of(scores, coins, 1e-5)

    assert found == one_run_epsilon(whole, 1e-5, 1 - 0.05 / 3) < one_run_epsilon(whole, 1e-5, 0.95)


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    """Before anything is charged."""
    place = staging(tmp_path)
    before = place.ledger.entries()

    with pytest.raises(SettingError, match="seed"):
        one_run(place, HEAD, SeededNoise(1), canaries=40, seed=-1)
    assert place.ledger.entries() == before


def test_a_plan_without_room_for_the_canaries_is_refused(tmp_path: Path) -> None:
    """Coins of canaries that nobody trains on would show nothing, and look like privacy."""
    place = staging(tmp_path)
    settings = HEAD.model_copy(update={"records": 40})
    plan = plan_training(POLICY, settings, adapter_dimension(place.weights, "head"))
    before = place.ledger.entries()

    with pytest.raises(SettingError, match="do not fit a plan of 40"):
        audit_plan(place, plan, SeededNoise(1), canaries=40)
    assert place.ledger.entries() == before


def test_a_staging_block_has_a_budget_too(tmp_path: Path) -> None:
    """A second run about the same block is refused by the ledger."""
    place = staging(tmp_path)
    one_run(place, HEAD, SeededNoise(1), canaries=40, seed=2)

    with pytest.raises(BudgetExhaustedError):
        one_run(place, HEAD, SeededNoise(1), canaries=40, seed=3)


def test_canaries_are_public_rows_with_wrong_labels(tmp_path: Path) -> None:
    """On slots after the gateway's own, in its newest block, never labelled right."""
    planted = canary_records(staging(tmp_path), 50, np.random.default_rng(1))

    assert (planted.slots > 3).all() and (planted.blocks == BLOCK).all()
    assert (planted.labels != planted.predictions).all()
    assert set(planted.labels) <= {0, 1}


class TestAGatewayOfItsOwn:
    """A staging gateway's state directory, and a release beside it."""

    def make(self, folder: Path, *, simulated: bool) -> tuple[Path, Path]:
        state, release = folder / "state", folder / "release"
        state.mkdir()
        release.mkdir()
        write_policy(POLICY, state / "policy.toml")
        with closing(StateFile(state / "state.sqlite")) as file:
            Ledger(file, POLICY, clock=lambda: 0.0, simulated=simulated).open_block(0)
        (release / "task.json").write_bytes(toy.SCHEMA.to_bytes())
        (release / "weights.npz").write_bytes(weights_to_bytes(toy.CODE.base_weights(0)))
        return state, release

    def test_is_audited_where_it_is_staging(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """From the command line: prints the record, writes it, names the release."""
        state, release = self.make(tmp_path, simulated=True)
        given = ["--state", str(state), "--release", str(release), "--counter", "12"]
        out = tmp_path / "out"
        more = ["--canaries", "30", "--adapter", "head", "--seed", "1", "--out", str(out)]
        status = command.main(["one-run", *given, *more, "--json"])

        assert status == command.EXIT_OK
        kept = read_evidence(out / "one-run.json")
        assert json.loads(capsys.readouterr().out) == json.loads(kept.to_bytes())
        assert (kept.task, kept.release, kept.canaries) == ("audit-toy", 12, 30)

    def test_is_refused_where_it_is_real(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """With its own error, exit status 1, and not one entry more."""
        state, release = self.make(tmp_path, simulated=False)
        with closing(StateFile(state / "state.sqlite")) as file:
            before = file.rows("SELECT * FROM ledger_entries")

        with pytest.raises(AuditRefusedError), opened_staging(state, release):
            pass
        given = ["--state", str(state), "--release", str(release), "--out", str(tmp_path / "out")]
        assert command.main(["one-run", *given]) == command.EXIT_FAILED
        assert "staging" in capsys.readouterr().err
        with closing(StateFile(state / "state.sqlite")) as file:
            assert file.rows("SELECT * FROM ledger_entries") == before
        assert not (tmp_path / "out").exists()

    def test_must_be_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """An empty folder does not become a gateway, and a number alone names no release."""
        with pytest.raises(StateError), opened_staging(tmp_path, tmp_path):
            pass
        assert command.main(["one-run", "--state", str(tmp_path)]) == command.EXIT_FAILED
        for counter in (["3"], ["0", "--state", str(tmp_path), "--release", str(tmp_path)]):
            given = ["one-run", "--counter", *counter, "--out", str(tmp_path / "out")]
            assert command.main(given) == command.EXIT_FAILED
            assert "--counter" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
