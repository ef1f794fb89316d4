"""Static INT8 quantization of an exported model, calibrated on public rows.

QDQ form with 7-bit weights (`reduce_range`): as accurate as 8 bits, right on
processors without VNNI too, and faster there. The watched features are left in
float: drift is counted on them.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from fedge.errors import CandidateError
from fedge.models.export import LOGITS

_BATCH = 100
_NARROW = 4
"""Convolutions with fewer input channels stay in float."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One way to quantize.

    Attributes:
        per_channel: one weight scale for each output channel.
        percentile: calibrate to this percentile of the activations; None: to their extremes.
    """

    name: str
    per_channel: bool
    percentile: float | None


RECIPES = (
    Recipe(name="per-channel-percentile-99.99", per_channel=True, percentile=99.99),
    Recipe(name="per-channel-minmax", per_channel=True, percentile=None),
    Recipe(name="per-channel-percentile-99.9", per_channel=True, percentile=99.9),
)
"""Tried in this order; the first that passes the gates is taken."""


def quantize(model: Path, rows: npt.NDArray[np.float32], recipe: Recipe, path: Path) -> None:
    """Write the INT8 form of `model`.

    Args:
        rows: float32 [n, *input shape], public rows whose activations set the scales.

    Raises:
        CandidateError: ONNX Runtime's quantizer refused the model.
    """
    options: dict[str, object] = {"ActivationSymmetric": False, "WeightSymmetric": True}
    method = CalibrationMethod.MinMax
    if recipe.percentile is not None:
        method = CalibrationMethod.Percentile
        options["CalibPercentile"] = recipe.percentile
    with tempfile.TemporaryDirectory(prefix="fedge-quantize-") as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        try:
            # The symbolic pass fails on what the exporter makes of reductions; ONNX's own does not.
            quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
            graph = onnx.load(str(prepared)).graph
            quantize_static(
                str(prepared),
                str(path),
                _Rows(graph.input[0].name, rows),
                quant_format=QuantFormat.QDQ,
                per_channel=recipe.per_channel,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
                calibrate_method=method,
                nodes_to_exclude=[*_outside_logits(graph), *_narrow_convolutions(graph)],
                extra_options=options,
            )
        except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
            raise CandidateError(f"{recipe.name}: the model does not quantize: {error}") from error


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, rows: npt.NDArray[np.float32]) -> None:
        self._batches: Iterator[dict[str, npt.NDArray[np.float32]]] = iter(
            {name: rows[start : start + _BATCH]} for start in range(0, len(rows), _BATCH)
        )

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return next(self._batches, None)


def _outside_logits(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that only serve the watched features."""
    makers = {output: node for node in graph.node for output in node.output}
    needed: set[str] = set()
    waiting = [LOGITS]
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            waiting.extend(node.input)
    return [node.name for node in graph.node if node.name not in needed]


def _narrow_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Names of convolutions that read very few channels: in INT8 they are slower, not faster."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv" and shapes.get(node.input[1], (0, _NARROW))[1] < _NARROW
    ]


class _quiet:  # noqa: N801
    """ONNX Runtime's quantizer logs advice through the root logger that does not apply here."""

    def __enter__(self) -> None:
        self._level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().setLevel(self._level)
