"""Measuring a run: every model on every gateway's fixed evaluation set.

One row per evaluated capture, so that whoever doubts a figure can count again.
Runs as a process of its own beside the play: it needs nothing from it but what the
centre has stored.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from fedge.demo.facts import CohortRun, RunFolder, cohort_run
from fedge.demo.plan import PlayPlan
from fedge.demo.streams import EVALUATION_CAPTURES, evaluation_set, stream_of
from fedge.serving.scoring import Model
from fedge.tasks.camera import HEALTHY, fault_named
from fedge.tasks.digits import SCHEMA, glyphs

FIRST, COMMITTED = "first", "committed"
COMMITTED_INT8, COMMITTED_FLOAT = "committed-int8", "committed-float"
NONPRIVATE = "nonprivate-"
CLEAN, FAULT = "clean", "fault"

COLUMNS = pa.schema(
    [
        ("gateway", pa.string()),
        ("glyph", pa.int64()),
        ("capture", pa.int64()),
        ("condition", pa.string()),
        ("model", pa.string()),
        ("release_sha256", pa.string()),
        ("label", pa.int64()),
        ("prediction", pa.int64()),
    ]
)
BATCH = 1024


@dataclass(frozen=True, slots=True)
class Served:
    """A release's models as files: `served` is the variant that gateways here run."""

    sha256: str
    served: Path
    int8: Path
    float_: Path


def read_candidate(folder: Path) -> Served:
    """The model files of a candidate folder that became a release."""
    from fedge.delivery.candidate import read_manifest

    manifest = read_manifest(folder)
    (variant,) = set(manifest.variants.values())
    return Served(
        sha256=manifest.content_sha256,
        served=folder / f"model.{variant}.onnx",
        int8=folder / "model.int8.onnx",
        float_=folder / "model.float.onnx",
    )


def training_inputs(plan: PlayPlan, run: CohortRun) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The pooled records that the cohort trained on, made again from the seed."""
    inputs, labels = [], []
    for member in run.members:
        stream = stream_of(plan, member.number)
        for slot in member.slots:
            # Slots count the rows that a gateway answered: slot and row are one number here.
            rows = stream.rows(slot, 1)
            inputs.append(rows.inputs)
            labels.append(rows.labels)
    return np.concatenate(inputs), np.concatenate(labels)


def evaluate(plan: PlayPlan, folder: RunFolder) -> pa.Table:
    """Evaluate every model that the summary speaks of."""
    from fedge.demo.yardstick import ADAPTERS, predictions, train_yardstick
    from fedge.models.weights import read_weights
    from fedge.tasks.digits import CODE

    run = cohort_run(plan, folder)
    first = read_candidate(folder.candidate("initial"))
    committed = read_candidate(folder.candidate(run.run_id))
    weights = read_weights(folder.candidate("initial") / "weights.npz")
    inputs, labels = training_inputs(plan, run)
    yardsticks = {kind: train_yardstick(CODE, weights, kind, inputs, labels) for kind in ADAPTERS}
    onnx = {
        FIRST: (first.sha256, first.served),
        COMMITTED: (committed.sha256, committed.served),
        COMMITTED_INT8: (committed.sha256, committed.int8),
        COMMITTED_FLOAT: (committed.sha256, committed.float_),
    }
    sessions = {name: (sha, Model.load(path, SCHEMA)) for name, (sha, path) in onnx.items()}
    tables = []
    drifted = {member.number for member in run.members}
    for number in range(plan.gateways):
        clean, _ = evaluation_set(plan, number, HEALTHY)
        tables.append(_rows(number, CLEAN, FIRST, *_onnx(sessions[FIRST], clean)))
        if number not in drifted:
            tables.append(_rows(number, CLEAN, COMMITTED, *_onnx(sessions[COMMITTED], clean)))
            continue
        faulty, _ = evaluation_set(plan, number, fault_named(plan.fault))
        for name, session in sessions.items():
            tables.append(_rows(number, FAULT, name, *_onnx(session, faulty)))
        for kind, model in yardsticks.items():
            predicted = np.concatenate([predictions(model, part) for part in _batches(faulty)])
            tables.append(_rows(number, FAULT, NONPRIVATE + kind, "", predicted))
    return pa.concat_tables(tables)


def _onnx(session: tuple[str, Model], inputs: npt.NDArray[np.float32]) -> tuple[str, Any]:
    sha256, model = session
    return sha256, np.concatenate([model.run(part).predictions for part in _batches(inputs)])


def _batches(inputs: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(inputs), BATCH):
        yield inputs[start : start + BATCH]


def _rows(
    number: int, condition: str, model: str, sha256: str, predicted: npt.NDArray[Any]
) -> pa.Table:
    test = glyphs("test")
    count = len(predicted)
    return pa.table(
        [
            [f"g{number}"] * count,
            np.repeat(test.ids, EVALUATION_CAPTURES),
            np.tile(np.arange(EVALUATION_CAPTURES), len(test)),
            [condition] * count,
            [model] * count,
            [sha256] * count,
            np.repeat(test.labels, EVALUATION_CAPTURES),
            predicted.astype(np.int64),
        ],
        schema=COLUMNS,
    )


def accuracy(table: pa.Table, gateways: Sequence[str], condition: str, model: str) -> float | None:
    """Unweighted mean over gateways of the share of right answers; None where nothing is known."""
    names = np.asarray(table["gateway"])
    chosen = (np.asarray(table["condition"]) == condition) & (np.asarray(table["model"]) == model)
    right = np.asarray(table["prediction"]) == np.asarray(table["label"])
    shares = [right[chosen & (names == gateway)] for gateway in gateways]
    if not shares or any(len(share) == 0 for share in shares):
        return None
    return float(np.mean([share.mean() for share in shares]))


def main() -> int:
    """`python -m fedge.demo.evaluation RUN_DIR`: write `evaluations.parquet`."""
    os.nice(5)
    import torch

    torch.set_num_threads(1)
    folder = RunFolder(Path(sys.argv[1]))
    table = evaluate(folder.plan(), folder)
    unfinished = folder.evaluations.with_suffix(".tmp")
    pq.write_table(table, unfinished)
    unfinished.rename(folder.evaluations)
    return 0


if __name__ == "__main__":
    sys.exit(main())
