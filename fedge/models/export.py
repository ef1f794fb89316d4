"""From a torch model to the one ONNX file that is served in float.

The graph has one input and two outputs: `logits`, and `features`, the task's
watched features of the raw input, so that gateways compute them without any of
the task's code.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from fedge.errors import CandidateError
from fedge.models.weights import Weights
from fedge.tasks.adapted import AdaptedModel
from fedge.tasks.code import TaskCode

LOGITS, FEATURES = "logits", "features"
_EXAMPLE_ROWS = 2
"""Two: the exporter takes a batch of one for a constant."""


def export_float(code: TaskCode, weights: Weights, path: Path) -> None:
    """Write the float model: one file, the first dimension open.

    Raises:
        CandidateError: the weights do not fit, or the exporter or ONNX's checker refused.
    """
    model = code.new_model()
    try:
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    except (RuntimeError, TypeError) as error:
        raise CandidateError(f"the weights do not fit the model: {error}") from error
    schema = code.schema
    example = torch.full((_EXAMPLE_ROWS, *schema.input.shape), schema.input.low)
    served = _Served(model).eval()
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                served,
                (example,),
                path,
                input_names=[schema.input.name],
                output_names=[LOGITS, FEATURES],
                dynamic_shapes=({0: torch.export.Dim("rows")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        _strip(path)
        onnx.checker.check_model(str(path), full_check=True)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise CandidateError(f"the model does not export to ONNX: {error}") from error
    finally:
        exporter_log.setLevel(level)
    _check_interface(path, code)


def _strip(path: Path) -> None:
    """Drop what the exporter notes about its own host: source paths and stack traces."""
    model = onnx.load(str(path))
    model.ClearField("metadata_props")
    model.doc_string = ""
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.doc_string = ""
    for value in (*graph.input, *graph.output):
        value.ClearField("metadata_props")
        value.doc_string = ""
    onnx.save(model, str(path))


class _Served(nn.Module):
    def __init__(self, model: AdaptedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(inputs), self.model.features(inputs)


def _check_interface(path: Path, code: TaskCode) -> None:
    graph = onnx.load(str(path)).graph
    names = [value.name for value in graph.input], [value.name for value in graph.output]
    if names != ([code.schema.input.name], [LOGITS, FEATURES]):
        raise CandidateError(f"the exported model has inputs and outputs {names}")
    last = graph.output[1].type.tensor_type.shape.dim[-1].dim_value
    if last != len(code.schema.features):
        raise CandidateError(
            f"features() gives {last} columns, the task watches {len(code.schema.features)}"
        )
