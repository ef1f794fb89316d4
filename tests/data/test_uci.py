"""The UCI loaders: files as UCI delivers them in, typed tables out, errors that say what to do."""

from __future__ import annotations

import gzip
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedge.data.beijing import POLLUTANTS, STATIONS, WEATHER, read_beijing
from fedge.data.downloads import data_folder
from fedge.data.gas import FEATURES, GASES, read_gas
from fedge.errors import TableError

HEADER = (
    '"No","year","month","day","hour","PM2.5","PM10","SO2","NO2","CO","O3",'
    '"TEMP","PRES","DEWP","RAIN","wd","WSPM","station"'
)
HOUR = '{no},2013,3,{day},{hour},4,8,3,NA,300,77,-0.7,1023,-18.8,0,"NNW",4.4,"Dongsi"'
NO_WIND = '3,2013,3,1,2,NA,NA,NA,NA,NA,NA,NA,NA,NA,NA,NA,NA,"Dongsi"'


def station_text(*rows: str) -> str:
    first = (HOUR.format(no=1, day=1, hour=0), HOUR.format(no=2, day=1, hour=1))
    return "\n".join((HEADER, *first, *rows)) + "\n"


def batch_line(gas: int, concentration: float, start: float = 0.0) -> str:
    cells = " ".join(f"{at}:{start + at:.6f}" for at in range(1, 129))
    return f"{gas};{concentration:.6f} {cells} "


def write_station(folder: Path, text: str, station: str = "Dongsi") -> Path:
    path = folder / f"PRSA_Data_{station}_20130301-20170228.csv"
    path.write_text(text)
    return path


class TestBeijing:
    def test_an_hour_is_read_with_its_types(self, tmp_path: Path) -> None:
        """A timestamp, numbers, a category; NA is a null everywhere, and never a wind of that
        name."""
        write_station(tmp_path, station_text(NO_WIND))

        table = read_beijing(tmp_path)["Dongsi"]

        assert table.column_names == ["time", *POLLUTANTS, *WEATHER, "wd"]
        assert table["time"].to_pylist() == [datetime(2013, 3, 1, hour) for hour in range(3)]
        assert table["time"].type == pa.timestamp("s")
        assert all(table[name].type == pa.float64() for name in (*POLLUTANTS, *WEATHER))
        assert table["NO2"].null_count == 3 and table["TEMP"].to_pylist() == [-0.7, -0.7, None]
        assert pa.types.is_dictionary(table["wd"].type)
        assert table["wd"].to_pylist() == ["NNW", "NNW", None]

    def test_plain_gzipped_and_unpacked_folders_read_alike(self, tmp_path: Path) -> None:
        plain, packed = tmp_path / "plain", tmp_path / "packed"
        inner = packed / "uci" / "PRSA_Data_20130301-20170228"
        plain.mkdir()
        inner.mkdir(parents=True)
        path = write_station(plain, station_text())
        (inner / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))

        assert read_beijing(plain)["Dongsi"].equals(read_beijing(packed)["Dongsi"])

    def test_only_the_stations_asked_for_are_read(self, tmp_path: Path) -> None:
        for station in ("Dongsi", "Gucheng"):
            write_station(tmp_path, station_text(), station)

        assert list(read_beijing(tmp_path)) == ["Dongsi", "Gucheng"]
        assert list(read_beijing(tmp_path, stations=["Gucheng"])) == ["Gucheng"]
        with pytest.raises(TableError, match=r"'Wanliu'.*only of Dongsi, Gucheng.*id 501"):
            read_beijing(tmp_path, stations=["Wanliu"])

    def test_an_empty_folder_says_what_to_download(self, tmp_path: Path) -> None:
        with pytest.raises(TableError, match=r"Beijing Multi-Site Air Quality.*id 501.*UCI"):
            read_beijing(tmp_path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "column 'year' is missing"),
            (HEADER + "\n", "has no rows"),
            (station_text().replace("SO2", "SO3"), "column 'SO2' is missing"),
            (station_text().replace('"No"', '"CO"'), "column 'CO' is there twice"),
            (station_text().replace(",1023,", ",secret,"), "column 'PRES', row 1 is no double"),
            (station_text(HOUR.format(no=3, day=31, hour=25)), "row 3 has no valid year"),
            (station_text(HOUR.format(no=3, day="NA", hour=5)), "row 3 has no valid year"),
            (station_text("3,2013,3"), "too few or too many cells"),
        ],
    )
    def test_a_wrong_file_is_refused_without_its_values(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        path = write_station(tmp_path, text)

        with pytest.raises(TableError, match=message) as caught:
            read_beijing(tmp_path)

        assert str(path) in str(caught.value) and "secret" not in str(caught.value)

    def test_a_cut_off_download_is_refused(self, tmp_path: Path) -> None:
        path = write_station(tmp_path, station_text())
        packed = gzip.compress(path.read_bytes())
        path.unlink()
        path.with_name(path.name + ".gz").write_bytes(packed[: len(packed) // 2])

        with pytest.raises(TableError, match="cannot read"):
            read_beijing(tmp_path)


class TestGas:
    def test_a_line_is_read_with_its_types(self, tmp_path: Path) -> None:
        lines = [batch_line(1, 10.0), batch_line(6, 2.5, start=0.5)]
        (tmp_path / "batch3.dat").write_text("\n".join(lines) + "\n")

        batch = read_gas(tmp_path)[3]

        assert len(batch) == 2 and batch.values.shape == (2, len(FEATURES)) == (2, 128)
        assert batch.values[1, 0] == 1.5 and batch.values[1, 127] == 128.5
        assert [GASES[gas] for gas in batch.gas] == ["ethanol", "toluene"]
        assert batch.concentration.tolist() == [10.0, 2.5]

    def test_as_a_table_it_keeps_names_and_values(self, tmp_path: Path) -> None:
        (tmp_path / "batch1.dat").write_text(batch_line(2, 7.0) + "\n")

        table = read_gas(tmp_path)[1].to_table()

        assert table.column_names == [*FEATURES, "concentration", "gas"]
        assert table["gas"].to_pylist() == ["ethylene"]
        assert table["sensor16_fall_0.1"].to_pylist() == [128.0]

    def test_batches_are_a_choice_and_in_order(self, tmp_path: Path) -> None:
        """Ten comes after nine, wherever the files lie and however they are packed."""
        (tmp_path / "sub").mkdir()
        text = batch_line(1, 1.0) + "\n"
        for name in ("batch10.dat.gz", "batch2.dat.gz"):
            (tmp_path / "sub" / name).write_bytes(gzip.compress(text.encode()))
        (tmp_path / "batch9.dat").write_text(text)

        assert list(read_gas(tmp_path)) == [2, 9, 10]
        assert list(read_gas(tmp_path, batches=[10, 2])) == [2, 10]
        with pytest.raises(TableError, match=r"batch 7 .*only of 2, 9, 10.*id 270"):
            read_gas(tmp_path, batches=[7])

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("", "has no rows"),
            (batch_line(7, 1.0), "row 2 does not begin with gas;concentration"),
            (batch_line(1, 1.0).replace(";", " "), "row 2 does not begin"),
            (batch_line(1, 1.0).replace(" 5:", " 6:"), "row 2 does not hold the features"),
            (batch_line(1, 1.0).rpartition(" 128:")[0], "row 2 does not hold the features"),
            (batch_line(1, 1.0).replace(":5.000000", ":nan"), "row 2 holds a feature that is no"),
            (batch_line(1, 1.0).replace(":5.000000", ":x"), "row 2 holds a feature that is no"),
        ],
    )
    def test_a_wrong_line_is_refused_by_its_row(
        self, tmp_path: Path, line: str, message: str
    ) -> None:
        first = batch_line(1, 1.0) + "\n" if line else ""
        (tmp_path / "batch1.dat").write_text(first + line + "\n")

        with pytest.raises(TableError, match=message):
            read_gas(tmp_path)

    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "batch1.dat").write_bytes(b"\xff\xfe\x00" * 10)

        with pytest.raises(TableError, match="is no text"):
            read_gas(tmp_path)


class TestFolder:
    def test_it_is_named_by_the_environment(self, tmp_path: Path) -> None:
        assert data_folder(environ={"FEDGE_DATA": str(tmp_path)}) == tmp_path

    @pytest.mark.parametrize("value", [None, "", "/nowhere/at/all"])
    def test_without_one_nothing_is_guessed(self, value: str | None) -> None:
        with pytest.raises(TableError, match="FEDGE_DATA"):
            data_folder(environ={} if value is None else {"FEDGE_DATA": value})

    def test_what_to_download_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FEDGE_DATA", raising=False)

        for read, number in ((read_beijing, 501), (read_gas, 270)):
            with pytest.raises(TableError, match=rf"FEDGE_DATA is not set.*id {number}.*UCI"):
                read()

    def test_the_loaders_use_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEDGE_DATA", str(tmp_path))
        write_station(tmp_path, station_text())
        (tmp_path / "batch1.dat").write_text(batch_line(1, 1.0) + "\n")

        assert list(read_beijing()) == ["Dongsi"] and list(read_gas()) == [1]


@pytest.mark.skipif("FEDGE_DATA" not in os.environ, reason="FEDGE_DATA names no downloaded data")
class TestRealFiles:
    def test_beijing_is_whole(self) -> None:
        """Twelve stations, four years of hours each, no hour skipped."""
        stations = read_beijing()

        assert tuple(stations) == STATIONS
        for table in stations.values():
            time = table["time"].to_numpy()
            assert len(time) == 35_064 and (np.diff(time) == np.timedelta64(1, "h")).all()
            assert len(table["wd"].chunk(0).dictionary) == 16

    def test_gas_batches_have_their_published_sizes(self) -> None:
        """As UCI's page lists them; batches 7 and 10 only where they were downloaded, too."""
        published = {1: 445, 2: 1244, 3: 1586, 4: 161, 5: 197, 6: 2300, 7: 3613, 8: 294, 9: 470}
        published[10] = 3600

        batches = read_gas()

        assert {1, 2, 3, 4, 5, 6, 8, 9} <= set(batches)
        assert {number: len(batch) for number, batch in batches.items()} == {
            number: published[number] for number in batches
        }
