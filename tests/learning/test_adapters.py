"""Adapters: zero changes nothing, and every row's gradient is its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fakes.digits_base import base_weights
from torch import nn
from torch.nn import functional as F

from fedge.errors import NonFiniteValueError, TaskError
from fedge.learning.adapters import TrainableAdapter, load_model
from fedge.models.export import export_float
from fedge.models.weights import (
    adapter_dimension,
    adapter_names,
    adapter_pieces,
    fixed_down,
    merge_vector,
)
from fedge.records import AdapterKind, CategoricalFeature, ModelInput, NumericFeature, TaskSchema
from fedge.tasks.code import TaskCode, Weights
from fedge.tasks.digits import CODE
from fedge.tasks.table import TableTask
from fedge.tasks.trunk_adapters import LoRALinear, ResidualConvolution

KINDS: tuple[AdapterKind, ...] = ("input", "head", "lora-b", "lora", "conv")
TABLE_KINDS = tuple(kind for kind in KINDS if kind != "conv")  # a table has no convolution


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


@pytest.mark.parametrize(
    ("case", "kind"),
    [*((digits_case, kind) for kind in KINDS), *((table_case, kind) for kind in TABLE_KINDS)],
)
class TestEveryTask:
    def test_row_gradients_are_those_of_autograd(self, case, kind: AdapterKind) -> None:
        """The closed form equals differentiating each row's loss alone, at any point."""
        code, weights, inputs, labels = case()
        adapter = TrainableAdapter(code, weights, kind)
        rng = np.random.default_rng(8)
        adapter.set_change(rng.normal(0, 0.1, adapter.dimension).astype(np.float32))

        ours = adapter.row_gradients(adapter.prepared(inputs), torch.from_numpy(labels))

        for parameter in adapter.parameters:
            parameter.requires_grad_(True)
        for row in range(len(labels)):
            loss = F.cross_entropy(
                adapter.model(torch.from_numpy(inputs[row : row + 1])),
                torch.from_numpy(labels[row : row + 1]),
            )
            gradients = torch.autograd.grad(loss, adapter.parameters)
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

        merged = load_model(code, merge_vector(weights, kind, change))

        rows = torch.from_numpy(inputs)
        assert torch.allclose(adapter.model(rows), merged(rows), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(merged(rows), load_model(code, weights)(rows), atol=1e-3)

    def test_what_lies_before_it_is_computed_once(self, case, kind: AdapterKind) -> None:
        """Prepared rows and the tail are the whole model, whatever the change."""
        code, weights, inputs, _ = case()
        adapter = TrainableAdapter(code, weights, kind)
        prepared = adapter.prepared(inputs)

        adapter.set_change(np.full(adapter.dimension, 0.05, dtype=np.float32))

        whole = adapter.model(torch.from_numpy(inputs)).detach()
        assert torch.allclose(adapter.logits(prepared).detach(), whole, atol=1e-5)

    def test_a_change_comes_back(self, case, kind: AdapterKind) -> None:
        """The vector that was put in is the vector that is read."""
        code, weights, _, _ = case()
        adapter = TrainableAdapter(code, weights, kind)
        change = np.random.default_rng(4).normal(0, 0.1, adapter.dimension).astype(np.float32)

        adapter.set_change(change)

        np.testing.assert_allclose(adapter.change(), change, atol=1e-6)

    def test_only_the_adapter_moves(self, case, kind: AdapterKind) -> None:
        """Merging touches the adapter's own weights and no others."""
        _, weights, _, _ = case()
        change = np.ones(adapter_dimension(weights, kind), dtype=np.float32)

        merged = merge_vector(weights, kind, change)

        assert {name: v.shape for name, v in merged.items()} == {
            name: v.shape for name, v in weights.items()
        }
        moved = {name for name in weights if not np.array_equal(weights[name], merged[name])}
        assert moved == set(adapter_names(weights, kind))


def test_the_input_adapter_is_small() -> None:
    """26 values for a picture: one kernel and a bias."""
    assert adapter_dimension(base_weights(), "input") == 26
    assert adapter_dimension(base_weights(), "head") == 650
    assert adapter_dimension(base_weights(), "conv") == 160
    assert adapter_dimension(base_weights(), "lora-b") == 4 * (256 + 64)
    assert adapter_dimension(base_weights(), "lora") == 4 * (256 + 64) + 4 * (512 + 256)


def test_the_fixed_factor_is_the_same_everywhere() -> None:
    """Drawn from public facts alone: whoever trains and whoever merges have the same signs."""
    signs = np.sign(fixed_down("trunk.7", 512)).astype(int)

    assert hashlib.sha256(signs.astype("<i1").tobytes()).hexdigest().startswith("44d77e1b8b40")
    assert abs(signs.mean()) < 0.1
    assert (fixed_down("trunk.9", 512) != fixed_down("trunk.7", 512)).any()


def test_layers_are_numbered_not_spelt() -> None:
    """The tenth layer of a trunk comes after the second: the vector's order is the model's."""
    weights = {f"trunk.{n}.weight": np.zeros((3, 2), np.float32) for n in (10, 2)}

    assert [p.layer for p in adapter_pieces(weights, "lora-b")] == ["trunk.2", "trunk.10"]


def test_a_table_has_no_convolution_to_adapt() -> None:
    """An adapter that the model has no place for is refused by name."""
    code, weights, _, _ = table_case()

    with pytest.raises(TaskError, match="conv"):
        TrainableAdapter(code, weights, "conv")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.Conv2d(4, 6, 3, padding="same", bias=False),
        nn.Conv2d(4, 6, (3, 1), dilation=(2, 1)),
    ],
)
def test_any_convolution_gives_row_gradients(layer: nn.Conv2d) -> None:
    """Also where no closed form serves, each row's gradient is autograd's."""
    torch.manual_seed(3)
    site = ResidualConvolution(layer.requires_grad_(False))
    rows = torch.randn(5, 4, 7, 7)
    upstream = torch.randn_like(site(rows))

    ours = site.row_gradients(rows, upstream)

    site.part("weight").requires_grad_(True)
    for row in range(len(rows)):
        through = (site(rows[row : row + 1]) * upstream[row : row + 1]).sum()
        (expected,) = torch.autograd.grad(through, site.part("weight"))
        assert torch.allclose(ours["weight"][row], expected, atol=1e-4)


def test_a_layer_with_time_steps_gives_row_gradients() -> None:
    """A linear layer over a sequence adds its steps up within a row, never across rows."""
    torch.manual_seed(3)
    site = LoRALinear(nn.Linear(5, 3).requires_grad_(False), torch.randn(2, 5))
    with torch.no_grad():
        site.part("up").normal_()
    rows, upstream = torch.randn(4, 6, 5), torch.randn(4, 6, 3)

    ours = site.row_gradients(rows, upstream)

    for part in ("up", "down"):
        site.part(part).requires_grad_(True)
        for row in range(len(rows)):
            through = (site(rows[row : row + 1]) * upstream[row : row + 1]).sum()
            (expected,) = torch.autograd.grad(through, site.part(part))
            assert torch.allclose(ours[part][row], expected, atol=1e-4)


def test_an_exported_adapter_leaves_a_plain_model(tmp_path: Path) -> None:
    """What is served after merging has the same graph as before: no adapter is left in it."""
    weights, rng = base_weights(), np.random.default_rng(6)
    change = rng.normal(0, 0.05, adapter_dimension(weights, "lora")).astype(np.float32)
    plain, merged = tmp_path / "plain.onnx", tmp_path / "merged.onnx"

    export_float(CODE, weights, plain)
    export_float(CODE, merge_vector(weights, "lora", change), merged)

    one, other = (onnx.load(str(path)).graph for path in (plain, merged))
    assert [node.op_type for node in one.node] == [node.op_type for node in other.node]


def test_weights_of_another_model_are_refused() -> None:
    """Weights that do not fit the task's model are refused by name of the task."""
    with pytest.raises(TaskError, match="pump"):
        TrainableAdapter(table_task(), base_weights(), "input")


def test_a_model_that_mixes_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of the batch let one row move the others' gradients, which no clip bounds."""
    task, weights, _, _ = table_case()
    model = task.new_model()
    model.trunk = nn.Sequential(
        model.trunk,
        nn.BatchNorm1d(model.head.in_features, affine=False, track_running_stats=False),
    )
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    monkeypatch.setattr(task, "new_model", lambda: model)
    assert len(state) == len(weights)

    with pytest.raises(TaskError, match="mixes rows"):
        load_model(task, state)


@pytest.mark.parametrize("shape", [(25,), (27,), (26, 1)])
def test_a_change_of_another_length_is_refused(shape: tuple[int, ...]) -> None:
    """An adapter's vector has one length."""
    with pytest.raises(TaskError, match="26"):
        merge_vector(base_weights(), "input", np.zeros(shape, dtype=np.float32))


def test_a_change_that_is_not_finite_is_refused() -> None:
    """A NaN never becomes a weight."""
    with pytest.raises(NonFiniteValueError):
        merge_vector(base_weights(), "input", np.full(26, np.nan, dtype=np.float32))
