"""What scoring a release promises: right numbers, and no guess where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.gateways import TASK, toy_inputs, toy_logits, toy_model, toy_weights
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedge.errors import InferenceError, RecordError, SettingError, TaskError
from fedge.models.hardware import classify, hardware_class
from fedge.records import BlockLength, ModelInput, TaskSchema
from fedge.serving.record_ids import RecordId, block_numbering, format_ids
from fedge.serving.scores import UNKNOWN_CLASS, Scores
from fedge.serving.scoring import Model


def scores(logits: list[list[float]]) -> Scores:
    array = np.array(logits, np.float32)
    return Scores.from_outputs(array, np.zeros((len(array), 1), np.float32))


def test_the_model_answers_its_formula() -> None:
    """Logits and features are those of the exported graph, row by row."""
    inputs = toy_inputs(5)
    answer = Model.from_bytes(toy_model(toy_weights(3)), TASK).run(inputs)
    rows = inputs.reshape(5, 6)
    assert np.allclose(answer.logits, toy_logits(3, inputs), atol=1e-4)
    assert np.allclose(answer.features, np.stack([rows.mean(1), rows.max(1)], 1), atol=1e-6)
    assert (answer.predictions == answer.logits.argmax(1)).all()


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.just(3)), elements=st.floats(-80, 80, width=32)
    )
)
def test_confidence_and_energy_follow_their_definitions(logits: np.ndarray) -> None:
    """Confidence is the largest softmax probability, OOD the energy, at any logits."""
    got = Scores.from_outputs(logits, np.zeros((len(logits), 1), np.float32))
    exact = np.exp(logits.astype(np.float64))
    assert np.allclose(got.confidence, (exact / exact.sum(1, keepdims=True)).max(1), rtol=1e-4)
    assert np.allclose(got.ood, -np.log(exact.sum(1)), rtol=1e-4, atol=1e-4)
    assert got.finite


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_are_no_prediction(bad: float) -> None:
    """A row without an answer is marked unknown; its neighbour keeps its answer."""
    got = scores([[bad, 0.0], [3.0, 0.0]])
    assert got.predictions.tolist() == [UNKNOWN_CLASS, 0]
    assert np.isnan(got.confidence[0]) and np.isnan(got.ood[0])
    assert np.isfinite(got.confidence[1]) and not got.finite


def test_a_model_of_another_task_does_not_load() -> None:
    """Input name and output shapes are checked before and after the first run."""
    data = toy_model(toy_weights(1))
    other = TASK.model_copy(update={"input": ModelInput(name="y", shape=(2, 3), low=0, high=1)})
    with pytest.raises(TaskError, match="takes"):
        Model.from_bytes(data, other)
    fewer = TaskSchema.model_validate({**TASK.model_dump(), "classes": ("red", "green")})
    with pytest.raises(InferenceError, match="answered"):
        Model.from_bytes(data, fewer).run(toy_inputs(1))
    with pytest.raises(TaskError, match="cannot load"):
        Model.from_bytes(data[:-20], TASK)


def test_a_wrong_shape_is_a_typed_error() -> None:
    """ONNX Runtime's own exceptions do not get through."""
    model = Model.from_bytes(toy_model(toy_weights(1)), TASK)
    with pytest.raises(InferenceError):
        model.run(np.zeros((1, 2, 4), np.float32))


@given(
    st.text("0123456789abcdef", min_size=8, max_size=8),
    st.integers(0, 10**15),
    st.integers(0, 10**15),
)
def test_record_ids_survive_the_round_trip(gateway: str, block: int, slot: int) -> None:
    """What an answer carries is what a label brings back."""
    (text,) = format_ids(gateway, [block], slot)
    assert RecordId.parse(text) == RecordId(gateway, block, slot)
    assert str(RecordId.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "abcdef01-1", "abcdef01-01-2", "ABCDEF01-1-2", "abcdef01-1-2 "]
)
def test_other_ids_are_refused(text: str) -> None:
    """There is one way to write an id."""
    with pytest.raises(RecordError):
        RecordId.parse(text)


def test_blocks_follow_slots_or_the_clock() -> None:
    """A block of windows changes with the slot, a block of seconds with the time."""
    by_window = block_numbering(BlockLength(kind="windows", value=4), window_slots=10)
    assert [by_window(slot, 1e9) for slot in (0, 9, 10, 39, 40)] == [0, 0, 0, 0, 1]
    by_day = block_numbering(BlockLength(kind="seconds", value=86_400), window_slots=10)
    assert [by_day(slot, 86_400 * 3 - 0.5) for slot in (0, 40)] == [2, 2]
    assert by_day(7, 86_400 * 3.0) == 3


@pytest.mark.parametrize(
    ("machine", "flags", "wanted"),
    [
        ("x86_64", ["fpu avx2 avx512_vnni", "fpu avx2 avx512_vnni"], "x86-vnni"),
        ("x86_64", ["fpu avx2 avx_vnni"], "x86-vnni"),
        ("x86_64", ["fpu avx2 avx_vnni", "fpu avx2"], "x86-avx2"),
        ("x86_64", ["fpu sse2"], "x86"),
        ("x86_64", [], "x86"),
        ("aarch64", [], "arm64"),
    ],
)
def test_the_hardware_class_holds_on_every_core(
    machine: str, flags: list[str], wanted: str
) -> None:
    """A class is what all cores can do; an unknown processor gets the most careful one."""
    cpuinfo = "\n".join(f"processor : {n}\nflags\t: {line}\n" for n, line in enumerate(flags))
    assert classify(machine, cpuinfo) == wanted


def test_a_machine_without_a_class_is_refused() -> None:
    """No release is ever made for it, so set-up says so at once."""
    with pytest.raises(SettingError, match="riscv64"):
        classify("riscv64", "")
    assert hardware_class() in ("x86-vnni", "x86-avx2", "x86", "arm64")
