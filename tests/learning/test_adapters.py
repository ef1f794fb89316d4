"""Adapters: zero changes nothing, and every row's gradient is its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.digits_base import base_weights
from torch.nn import functional as F

from fedge.errors import NonFiniteValueError, TaskError
from fedge.learning.adapters import TrainableAdapter
from fedge.models.weights import adapter_dimension, adapter_names, merge_vector
from fedge.records import AdapterKind, CategoricalFeature, ModelInput, NumericFeature, TaskSchema
from fedge.tasks.code import TaskCode, Weights
from fedge.tasks.digits import CODE
from fedge.tasks.table import TableTask

KINDS: tuple[AdapterKind, ...] = ("input", "head")


def table_task() -> TableTask:
    schema = TaskSchema(
        name="pump",
        version=1,
        input=ModelInput(name="row", shape=(3,), low=-1e3, high=1e3),
        classes=("ok", "worn", "broken"),
        features=(
            NumericFeature(name="pressure", type="float64", low=0.0, high=200.0),
            CategoricalFeature(name="site", categories=("north", "south")),
            NumericFeature(name="flow", type="float64", low=-10.0, high=10.0),
        ),
        code="tests_pump:CODE",
    )

    def unread() -> None:
        raise AssertionError("a model needs no public rows")

    return TableTask(schema, unread)  # type: ignore[arg-type]


def table_case() -> tuple[TaskCode, Weights, np.ndarray, np.ndarray]:
    task, rng = table_task(), np.random.default_rng(2)
    torch.manual_seed(0)
    weights = {name: v.numpy().copy() for name, v in task.new_model().state_dict().items()}
    rows = np.stack([rng.normal(0, 1, 12), rng.integers(0, 2, 12), rng.normal(0, 1, 12)], axis=1)
    return task, weights, rows.astype(np.float32), rng.integers(0, 3, 12)


def digits_case() -> tuple[TaskCode, Weights, np.ndarray, np.ndarray]:
    public = CODE.public()
    return CODE, base_weights(), public.faulted[:12], public.faulted_labels[:12]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [digits_case, table_case])
class TestEveryTask:
    def test_row_gradients_are_those_of_autograd(self, case, kind: AdapterKind) -> None:
        """The closed form equals differentiating each row's loss alone, at any point."""
        code, weights, inputs, labels = case()
        adapter = TrainableAdapter(code, weights, kind)
        rng = np.random.default_rng(8)
        adapter.set_change(rng.normal(0, 0.1, adapter.dimension).astype(np.float32))

        ours = adapter.row_gradients(adapter.prepared(inputs), torch.from_numpy(labels))

        names = adapter_names(weights, kind)
        parameters = dict(adapter.model.named_parameters())
        for name in names:
            parameters[name].requires_grad_(True)
        for row in range(len(labels)):
            loss = F.cross_entropy(
                adapter.model(torch.from_numpy(inputs[row : row + 1])),
                torch.from_numpy(labels[row : row + 1]),
            )
            gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
            expected = np.concatenate([gradient.numpy().ravel() for gradient in gradients])
            np.testing.assert_allclose(ours[row], expected, atol=2e-5, rtol=1e-3)

    def test_zero_changes_nothing(self, case, kind: AdapterKind) -> None:
        """Every adapter starts at zero change: the release's own logits."""
        code, weights, inputs, _ = case()
        adapter = TrainableAdapter(code, weights, kind)
        before = adapter.logits(adapter.prepared(inputs)).detach()

        adapter.set_change(np.zeros(adapter.dimension, dtype=np.float32))

        after = adapter.model(torch.from_numpy(inputs)).detach()
        assert torch.allclose(before, after, atol=1e-6)

    def test_merging_is_what_training_saw(self, case, kind: AdapterKind) -> None:
        """Weights with a change merged in answer as the adapter did while it trained."""
        code, weights, inputs, _ = case()
        adapter = TrainableAdapter(code, weights, kind)
        change = np.random.default_rng(1).normal(0, 0.2, adapter.dimension).astype(np.float32)
        adapter.set_change(change)

        merged = TrainableAdapter(code, merge_vector(weights, kind, change), kind)

        rows = torch.from_numpy(inputs)
        assert torch.allclose(adapter.model(rows), merged.model(rows), atol=1e-6)

    def test_only_the_adapter_moves(self, case, kind: AdapterKind) -> None:
        """Merging touches the adapter's own weights and no others."""
        _, weights, _, _ = case()
        change = np.ones(adapter_dimension(weights, kind), dtype=np.float32)

        merged = merge_vector(weights, kind, change)

        moved = {name for name in weights if not np.array_equal(weights[name], merged[name])}
        assert moved == set(adapter_names(weights, kind))


def test_the_input_adapter_is_small() -> None:
    """26 values for a picture: one kernel and a bias."""
    assert adapter_dimension(base_weights(), "input") == 26
    assert adapter_dimension(base_weights(), "head") == 650


def test_weights_of_another_model_are_refused() -> None:
    """Weights that do not fit the task's model are refused by name of the task."""
    with pytest.raises(TaskError, match="pump"):
        TrainableAdapter(table_task(), base_weights(), "input")


@pytest.mark.parametrize("shape", [(25,), (27,), (26, 1)])
def test_a_change_of_another_length_is_refused(shape: tuple[int, ...]) -> None:
    """An adapter's vector has one length."""
    with pytest.raises(TaskError, match="26"):
        merge_vector(base_weights(), "input", np.zeros(shape, dtype=np.float32))


def test_a_change_that_is_not_finite_is_refused() -> None:
    """A NaN never becomes a weight."""
    with pytest.raises(NonFiniteValueError):
        merge_vector(base_weights(), "input", np.full(26, np.nan, dtype=np.float32))
