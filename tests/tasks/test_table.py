"""A task from any labelled table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from fedge.data.tables import read_labelled
from fedge.errors import TaskError
from fedge.records import CategoricalFeature, ModelInput, NumericFeature, TaskSchema
from fedge.tasks.code import TaskCode
from fedge.tasks.table import TableTask


def schema(columns: int = 3) -> TaskSchema:
    return TaskSchema(
        name="pump",
        version=1,
        input=ModelInput(name="row", shape=(columns,), low=-1000.0, high=1000.0),
        classes=("ok", "worn"),
        features=(
            NumericFeature(name="pressure", type="float64", low=0.0, high=200.0),
            CategoricalFeature(name="site", categories=("north", "south")),
            NumericFeature(name="flow", type="float64", low=-10.0, high=10.0),
        ),
        code="tests_pump:CODE",
    )


@dataclass(frozen=True)
class Rows:
    values: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]


def pump_rows(count: int = 400) -> Rows:
    """Worn where the pressure is high in the north and low in the south."""
    rng = np.random.default_rng(4)
    pressure, site = rng.normal(100, 20, count), rng.integers(0, 2, count)
    values = np.stack([pressure, site, rng.normal(0, 1, count)], axis=1)
    return Rows(values, ((pressure > 100) ^ (site == 1)).astype(np.int64))


def accuracy(task: TableTask, seed: int = 1) -> float:
    model = task.new_model()
    weights = {k: torch.from_numpy(v) for k, v in task.base_weights(seed).items()}
    model.load_state_dict(weights)
    public = task.public()
    with torch.no_grad():
        predicted = model(torch.from_numpy(public.clean)).argmax(dim=1).numpy()
    return float((predicted == public.labels).mean())


class TestTable:
    def test_learns_numbers_and_categories(self) -> None:
        """The base model needs both columns to be right, and is."""
        assert accuracy(TableTask(schema(), pump_rows)) > 0.95

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_reads_a_file(self, tmp_path: Path, suffix: str) -> None:
        """A CSV or Parquet file with a label column and a schema are all it takes."""
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet

        rows, task = pump_rows(), schema()
        table = pa.table(
            {
                "pressure": rows.values[:, 0],
                "site": [("north", "south")[int(at)] for at in rows.values[:, 1]],
                "flow": rows.values[:, 2],
                "unwatched": ["x"] * len(rows.labels),
                "state": [task.classes[at] for at in rows.labels],
            }
        )
        path = tmp_path / f"pump{suffix}"
        if suffix == ".csv":
            pa.csv.write_csv(table, path)
        else:
            pa.parquet.write_table(table, path)
        code = TableTask(
            task, lambda: read_labelled(path, task.features, label="state", classes=task.classes)
        )

        assert isinstance(code, TaskCode)
        np.testing.assert_allclose(code.public().clean, rows.values, rtol=1e-6)
        np.testing.assert_array_equal(code.public().labels, rows.labels)

    def test_watches_the_columns_themselves(self) -> None:
        """The watched features are the request's own numbers."""
        task = TableTask(schema(), pump_rows)
        inputs = task.public().clean
        with torch.no_grad():
            features = task.new_model().features(torch.from_numpy(inputs)).numpy()

        np.testing.assert_array_equal(features, inputs)

    def test_public_faults_leave_categories_alone(self) -> None:
        """A drifting sensor moves numbers, never a category's index."""
        public = TableTask(schema(), pump_rows).public()

        np.testing.assert_array_equal(public.clean[:, 1], public.faulted[:, 1])
        assert not np.allclose(public.clean[:, 0], public.faulted[:, 0])

    def test_a_missing_value_is_named(self) -> None:
        """A row without a value is refused with its column and row, not trained on."""

        def missing() -> Rows:
            rows = pump_rows(10)
            rows.values[6, 2] = np.nan
            return rows

        with pytest.raises(TaskError, match=r"'flow', row 7"):
            TableTask(schema(), missing).public()

    def test_an_input_that_is_no_row_is_refused(self) -> None:
        """The schema's input must hold one number per feature."""
        with pytest.raises(TaskError, match="input shape"):
            TableTask(schema(columns=4), pump_rows)

    def test_a_constant_column_does_no_harm(self) -> None:
        """A column that never changes gives finite weights and a right model."""

        def constant() -> Rows:
            rows = pump_rows()
            rows.values[:, 2] = 5.0
            return rows

        assert accuracy(TableTask(schema(), constant)) > 0.95
