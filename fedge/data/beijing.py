"""UCI 'Beijing Multi-Site Air Quality': twelve stations, hourly, four years.

Data: S. Chen, UCI Machine Learning Repository, id 501, CC BY 4.0; described in Zhang and
others, Proc. R. Soc. A 473 (2017). Each station is one file,
`PRSA_Data_<station>_20130301-20170228.csv`, plain or gzipped, as UCI delivers it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv

from fedge.data.downloads import data_folder, find_files, read_text
from fedge.errors import TableError

POLLUTANTS = ("PM2.5", "PM10", "SO2", "NO2", "CO", "O3")
"""Concentrations in micrograms per cubic metre."""

WEATHER = ("TEMP", "PRES", "DEWP", "RAIN", "WSPM")
"""Temperature (deg C), pressure (hPa), dew point (deg C), rain (mm), wind speed (m/s)."""

WIND, TIME = "wd", "time"
STATIONS = (
    *("Aotizhongxin", "Changping", "Dingling", "Dongsi", "Guanyuan", "Gucheng"),
    *("Huairou", "Nongzhanguan", "Shunyi", "Tiantan", "Wanliu", "Wanshouxigong"),
)

_FILE = re.compile(r"PRSA_Data_(\w+)_20130301-20170228\.csv(?:\.gz)?")
_CLOCK = ("year", "month", "day", "hour")
_WHERE = (
    "download 'Beijing Multi-Site Air Quality' (id 501) from the UCI Machine Learning Repository "
    "and unpack it there"
)


def read_beijing(
    folder: Path | None = None, *, stations: Sequence[str] | None = None
) -> dict[str, pa.Table]:
    """Read the stations' tables, each in the order of its file, which is that of time.

    Args:
        folder: holds the files or folders of them; None takes `FEDGE_DATA`.
        stations: which to read; None takes all that are there.

    Returns:
        By station: a table of `time` (timestamp in seconds, local time of Beijing), the
        `POLLUTANTS`, the `WEATHER` (all float64) and `wd` (wind direction, a dictionary of
        text). What was not measured is null.

    Raises:
        TableError: a station's file is missing, or a file is not what UCI delivers; names the
            file and the column or row.
    """
    folder = data_folder(_WHERE) if folder is None else folder
    files = find_files(folder, _FILE)
    if not files:
        raise TableError(f"no station's file lies in {folder}; {_WHERE}")
    wanted = tuple(files) if stations is None else tuple(stations)
    for station in wanted:
        if station not in files:
            known = ", ".join(sorted(files))
            raise TableError(
                f"no file of station {station!r} lies in {folder}, only of {known}; {_WHERE}"
            )
    return {station: _read_station(files[station]) for station in sorted(wanted)}


def _read_station(path: Path) -> pa.Table:
    table = _read_csv(path)
    if table.num_rows == 0:
        raise TableError(f"{path} has no rows")
    wind = pc.dictionary_encode(table[WIND]).combine_chunks()
    columns = {TIME: _time(path, table)}
    columns |= {name: table[name] for name in (*POLLUTANTS, *WEATHER)}
    return pa.table(columns | {WIND: wind})


def _read_csv(path: Path) -> pa.Table:
    types = {name: pa.int32() for name in _CLOCK}
    types |= {name: pa.float64() for name in (*POLLUTANTS, *WEATHER)}
    types[WIND] = pa.string()
    content = io.BytesIO(read_text(path).encode())
    header = content.readline().decode().replace('"', "").strip().split(",")
    for name in types:
        if header.count(name) != 1:
            problem = "is missing" if name not in header else "is there twice"
            raise TableError(f"{path}: column {name!r} {problem}")
    content.seek(0)
    convert = pv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        null_values=["NA", ""],
        strings_can_be_null=True,
    )
    try:
        return pv.read_csv(content, convert_options=convert)
    except pa.ArrowException:
        # Arrow's message would show values of the row, which must not end up in a log.
        raise TableError(f"{path}: {_first_wrong(content, types, convert)}") from None


def _first_wrong(
    content: io.BytesIO, types: dict[str, pa.DataType], convert: pv.ConvertOptions
) -> str:
    """Which column, and which row of it, holds no number."""
    content.seek(0)
    lenient = pv.ParseOptions(invalid_row_handler=lambda row: "skip")
    convert.column_types = {name: pa.string() for name in types}
    text = pv.read_csv(content, parse_options=lenient, convert_options=convert)
    for name, kind in types.items():
        for row, cell in enumerate(text[name].to_pylist()):
            try:
                pa.scalar(cell).cast(kind)
            except pa.ArrowException:
                return f"column {name!r}, row {row + 1} is no {kind}"
    return "a row has too few or too many cells"


def _time(path: Path, table: pa.Table) -> pa.Array:
    """The hour of each row; a row without one, or with one that no calendar has, is refused."""
    parts = [pc.cast(table[name], pa.string()) for name in _CLOCK]
    stamp = pc.binary_join_element_wise(
        *(pc.utf8_lpad(part, 2, "0") for part in parts), " ", null_handling="emit_null"
    )
    time = pc.strptime(stamp, format="%Y %m %d %H", unit="s", error_is_null=True)
    unknown = pc.index(pc.is_null(time), True).as_py()
    if unknown >= 0:
        raise TableError(f"{path}: row {unknown + 1} has no valid year, month, day and hour")
    return time.combine_chunks()
