"""UCI 'Gas Sensor Array Drift at Different Concentrations': 16 sensors over 36 months.

Data: A. Vergara and others, UCI Machine Learning Repository, id 270, CC BY 4.0; described
in Sensors and Actuators B 166-167 (2012). The sensors age and are poisoned, so that what
they answer to one gas drifts from batch to batch. A batch is one file, `batch1.dat` to
`batch10.dat`, plain or gzipped, as UCI delivers it: a line is
`<gas>;<concentration> 1:<value> 2:<value> ... 128:<value>`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedge.data.downloads import data_folder, find_files, read_text
from fedge.errors import TableError

GASES = ("ethanol", "ethylene", "ammonia", "acetaldehyde", "acetone", "toluene")
SENSORS = 16
_PER_SENSOR = (
    *("change", "change_ratio"),
    *("rise_0.001", "rise_0.01", "rise_0.1"),
    *("fall_0.001", "fall_0.01", "fall_0.1"),
)
FEATURES = tuple(
    f"sensor{sensor:02}_{name}" for sensor in range(1, SENSORS + 1) for name in _PER_SENSOR
)
"""128 names: of each sensor the steady change of its resistance (ohm), that change as a ratio, and
extremes of an exponential moving average of its rise and of its fall at three smoothings."""

_FILE = re.compile(r"batch([1-9]|10)\.dat(?:\.gz)?")
_HEAD = re.compile(r"([1-6]);([0-9]+(?:\.[0-9]*)?)")
_WHERE = (
    "download 'Gas Sensor Array Drift at Different Concentrations' (id 270) from the UCI Machine "
    "Learning Repository and unpack it there"
)


@dataclass(frozen=True, slots=True)
class GasBatch:
    """Some months of measurements, in the order of the file.

    Attributes:
        values: float64[n, 128], in the order of `FEATURES`.
        gas: int64[n], index into `GASES`.
        concentration: float64[n], parts per million by volume.
    """

    values: npt.NDArray[np.float64]
    gas: npt.NDArray[np.int64]
    concentration: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.gas)

    def to_table(self) -> pa.Table:
        """The batch as a table: `FEATURES`, `concentration` and `gas` (a dictionary of text)."""
        columns = {name: pa.array(self.values[:, at]) for at, name in enumerate(FEATURES)}
        gas = pa.DictionaryArray.from_arrays(self.gas.astype(np.int8), list(GASES))
        return pa.table(columns | {"concentration": pa.array(self.concentration), "gas": gas})


def read_gas(
    folder: Path | None = None, *, batches: Sequence[int] | None = None
) -> dict[int, GasBatch]:
    """Read batches, by their number.

    Args:
        folder: holds the files or folders of them; None takes `FEDGE_DATA`.
        batches: which to read, 1 to 10; None takes all that are there.

    Raises:
        TableError: a batch's file is missing, or a file is not what UCI delivers; names the file
            and the row.
    """
    folder = data_folder(_WHERE) if folder is None else folder
    files = {int(number): path for number, path in find_files(folder, _FILE).items()}
    if not files:
        raise TableError(f"no batch's file lies in {folder}; {_WHERE}")
    wanted = tuple(files) if batches is None else tuple(batches)
    for batch in wanted:
        if batch not in files:
            known = ", ".join(str(number) for number in sorted(files))
            raise TableError(
                f"no file of batch {batch} lies in {folder}, only of {known}; {_WHERE}"
            )
    return {batch: _read_batch(files[batch]) for batch in sorted(wanted)}


def _read_batch(path: Path) -> GasBatch:
    rows = list(_rows(path))
    if not rows:
        raise TableError(f"{path} has no rows")
    gas, concentration, values = zip(*rows, strict=True)
    return GasBatch(
        values=np.array(values, dtype=np.float64),
        gas=np.array(gas, dtype=np.int64) - 1,
        concentration=np.array(concentration, dtype=np.float64),
    )


def _rows(path: Path) -> Iterator[tuple[int, float, list[float]]]:
    """Gas number, concentration and values of each line that is not empty."""
    keys = [str(at) for at in range(1, len(FEATURES) + 1)]
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        first, *cells = line.split()
        head = _HEAD.fullmatch(first)
        if head is None:
            raise TableError(f"{path}: row {number} does not begin with gas;concentration")
        pairs = [cell.partition(":") for cell in cells]
        if [key for key, _, _ in pairs] != keys:
            raise TableError(f"{path}: row {number} does not hold the features 1 to {len(keys)}")
        yield (
            int(head.group(1)),
            float(head.group(2)),
            [_number(v, path, number) for _, _, v in pairs],
        )


def _number(text: str, path: Path, row: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TableError(f"{path}: row {row} holds a feature that is no finite number")
    return value
