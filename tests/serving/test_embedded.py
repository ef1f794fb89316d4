"""In-process use: what HTTP callers get, without HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes.gateways import TASK, fill_slot, make_gateway, toy_inputs, toy_logits

from fedge.errors import RequestError, SettingError, StateError, TamperedFileError
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving import EmbeddedModel
from fedge.serving.record_ids import RecordId
from fedge.serving.ring import LABEL, OBSERVATION
from fedge.serving.ring_reader import RingReader
from fedge.serving.slot_floor import LARGEST_SLOT


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A gateway with one release in slot A, which is active."""
    gateway = make_gateway(tmp_path)
    fill_slot(gateway.state_dir, "A", 1)
    (gateway.state_dir / "active.json").write_text(json.dumps({"slot": "A", "fallback": None}))
    return tmp_path / "gateway.toml"


def test_rows_are_answered_and_observed(config: Path) -> None:
    """Numbers, classes and ids come back; the agent finds the rows, then their labels."""
    rows = toy_inputs(3)
    with EmbeddedModel.open(config) as model:
        answer = model.infer(rows)
        alone = model.infer(rows[1])
        assert model.feedback(answer.ids[:2], ["red", "blue"])

    logits = toy_logits(1, rows)
    assert np.allclose(answer.logits, logits, atol=1e-4) and len(answer) == 3
    assert np.allclose(alone.logits, logits[1:2], atol=1e-4)
    assert answer.labels == [TASK.classes[index] for index in logits.argmax(1)]
    assert answer.scores.confidence.shape == (3,)
    assert [RecordId.parse(name).slot for name in answer.ids + alone.ids] == [0, 1, 2, 3]
    assert answer.ids[0] in repr(answer)
    records, _ = RingReader(config.parent / "state" / "ring.bin").read(0, 10)
    assert records["kind"].tolist() == [OBSERVATION] * 4 + [LABEL] * 2
    assert np.array_equal(records["inputs"][:3], rows.reshape(3, 6))
    assert records["label"][4:].tolist() == [0, 2]


def test_marks_restrict_what_rows_may_serve(config: Path) -> None:
    """Purposes restrict the schema's and never extend them; a subject is kept as a pseudonym."""
    rows = toy_inputs(1)
    with EmbeddedModel.open(config) as model:
        model.infer(rows, purposes=["inference", "monitoring", "escalation"])
        model.infer(rows, subject="anna")
        for marks in (
            {"purposes": ["monitoring"]},
            {"purposes": ["inference", "x"]},
            {"subject": ""},
        ):
            with pytest.raises(RequestError):
                model.infer(rows, **marks)  # type: ignore[arg-type]
    path = config.parent / "state" / "ring.bin"
    records, _ = RingReader(path).read(0, 10)
    watched = INFERENCE | MONITORING
    assert records["purposes"].tolist() == [watched, watched | TRAINING]
    assert not records["subject"][0].any() and records["subject"][1].any()
    assert b"anna" not in path.read_bytes()


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((1, 3, 2)),
        np.zeros((0, 2, 3)),
        np.full((1, 2, 3), np.nan),
        np.full((1, 2, 3), 1e300),
        [["a", "b", "c"], ["d", "e", "f"]],
    ],
)
def test_other_inputs_are_refused(config: Path, rows: object) -> None:
    """Shape, type and finiteness are checked before the model sees a number; no slot is spent."""
    with EmbeddedModel.open(config) as model:
        with pytest.raises(RequestError):
            model.infer(rows)  # type: ignore[arg-type]
        assert RecordId.parse(model.infer(toy_inputs(1)).ids[0]).slot == 0


def test_no_answer_is_an_error_and_an_observation(config: Path) -> None:
    """Logits that are not finite are no prediction, but the monitor sees that it happened."""
    with EmbeddedModel.open(config) as model:
        with pytest.raises(RequestError) as refused:
            model.infer(np.full((1, 2, 3), 3e38, np.float32))
        assert refused.value.status == 422
        assert RecordId.parse(model.infer(toy_inputs(1)).ids[0]).slot == 1


def test_wrong_feedback_is_refused(config: Path) -> None:
    """A foreign or future record, or another class, is refused as over HTTP."""
    with EmbeddedModel.open(config) as model:
        (name,) = model.infer(toy_inputs(1)).ids
        later = f"{name.rsplit('-', 1)[0]}-9"
        for ids, labels in (
            ([name], ["mauve"]),
            ([later], ["red"]),
            ([name], []),
            (["x"], ["red"]),
        ):
            with pytest.raises(RequestError):
                model.feedback(ids, labels)


def test_without_monitoring_nothing_is_observed(tmp_path: Path) -> None:
    """Slots are counted in memory, apart from observed ones; no ring is made, no label taken."""
    gateway = make_gateway(tmp_path, monitoring=False)
    fill_slot(gateway.state_dir, "A", 1)
    (gateway.state_dir / "active.json").write_text('{"slot": "A", "fallback": null}')
    with EmbeddedModel.open(tmp_path / "gateway.toml") as model:
        names = [*model.infer(toy_inputs(2)).ids, *model.infer(toy_inputs(1)).ids]
        slots = [RecordId.parse(name).slot for name in names]
        assert slots[0] > LARGEST_SLOT and np.diff(slots).tolist() == [1, 1]
        with pytest.raises(RequestError):
            model.feedback(names[:1], ["red"])
    with EmbeddedModel.open(tmp_path / "gateway.toml") as again:
        assert RecordId.parse(again.infer(toy_inputs(1)).ids[0]).slot > slots[-1]
    assert not (gateway.state_dir / "ring.bin").exists()


def test_what_cannot_be_opened_says_why(config: Path) -> None:
    """No such model, a damaged release, no release: each has its own error."""
    with pytest.raises(SettingError):
        EmbeddedModel.open(config, family="other")
    state = config.parent / "state"
    (state / "slots" / "A" / "model.float.onnx").write_bytes(b"x")
    with pytest.raises(TamperedFileError):
        EmbeddedModel.open(config)
    for damage in ("{}", "[", '{"slot": "../A"}'):
        (state / "active.json").write_text(damage)
        with pytest.raises(StateError):
            EmbeddedModel.open(config)
    (state / "active.json").unlink()
    with pytest.raises(StateError, match="no release"):
        EmbeddedModel.open(config)


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import fedge.serving` alone brings in neither ONNX Runtime nor numpy."""
    heavy = "[name for name in ('onnxruntime', 'numpy') if name in sys.modules]"
    code = f"import sys, fedge.serving; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
