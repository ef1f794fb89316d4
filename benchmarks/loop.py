"""The closed loop: a whole demo, and INT8 against float on the model that came out of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from fedge.demo.facts import RunFolder, cohort_run
from fedge.demo.plan import make_plan
from fedge.demo.run import run_demo
from fedge.demo.summary import read_summary
from fedge.models.measure import ServedModel, interleaved_us
from fedge.tasks.digits import CODE

REPEATS = 7


def measure(arguments: Sequence[str]) -> list[Figure]:
    """Play a demo (or take a finished one with `--run FOLDER`) and measure it."""
    parser = argparse.ArgumentParser(prog="loop")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    path = options.run
    if path is None:
        run_demo(make_plan(seed=options.seed), Path("runs"), as_json=False)
        path = Path("runs/latest")
    folder = RunFolder(path.resolve())
    summary = read_summary(folder.summary)
    return [*model_figures(summary, *speeds(folder)), *time_figures(summary)]


def model_figures(summary: dict[str, Any], int8_us: float, float_us: float) -> list[Figure]:
    """What travels and what serves: update size, INT8 accuracy and speed."""
    drop = summary["release"]["int8_accuracy_drop"]
    update, full = summary["update_bytes"], summary["full_model_bytes"]
    return [
        Figure(
            id="lp-update",
            what="largest update envelope",
            ours=update,
            peer=full,
            peer_name="float model",
            unit="bytes",
            goal="<= 1/20",
            holds=update * 20 <= full,
        ),
        Figure(
            id="lp-int8-drop",
            what="accuracy lost by INT8 under the fault",
            ours=drop,
            peer=None,
            peer_name="float model",
            unit="share",
            goal="<= 0.005",
            holds=drop is not None and drop <= 0.005,
        ),
        Figure(
            id="lp-int8-us",
            what="INT8 inference, batch 1, median of interleaved runs",
            ours=int8_us,
            peer=float_us,
            peer_name="float model",
            unit="us",
            goal="faster than float, or float serves",
            holds=int8_us < float_us or summary["release"]["variant"] == "float",
        ),
    ]


def time_figures(summary: dict[str, Any]) -> list[Figure]:
    """How long the loop and the whole demo took."""
    return [
        Figure(
            id="lp-loop",
            what="first faulty request to the last gateway's new release",
            ours=summary["loop_s"],
            peer=None,
            peer_name="",
            unit="s",
            goal="minutes",
            holds=summary["loop_s"] <= 300,
        ),
        Figure(
            id="lp-wall",
            what="whole demo on this machine",
            ours=summary["wall_s"],
            peer=None,
            peer_name="",
            unit="s",
            goal="<= 300 on 2 cores",
            holds=summary["wall_s"] <= 300,
        ),
    ]


def speeds(folder: RunFolder) -> tuple[float, float]:
    """INT8 and float microseconds a row on the committed model, medians of interleaved repeats."""
    candidate = folder.candidate(cohort_run(folder.plan(), folder).run_id)
    models = (
        ServedModel(candidate / "model.int8.onnx"),
        ServedModel(candidate / "model.float.onnx"),
    )
    row = CODE.public().clean[:1]
    repeats = np.array([interleaved_us(models, row) for _ in range(REPEATS)])
    int8_us, float_us = np.median(repeats, axis=0)
    return float(int8_us), float(float_us)
