"""Files that were made to break whoever reads them: a bundle's, a controller's."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from fakes.forger import Forger
from fakes.honest_bundle import CENTRE, write_honest

from fedge.errors import BundleError, SettingError
from fedge.records import canonical
from fedge.review.bundle import read_bundle
from fedge.review.evidence import read_controller

DEEP = 50_000


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_honest(tmp_path_factory.mktemp("honest"))


@pytest.mark.parametrize("name", ["evidence/deep.json", "runs.jsonl", "releases.jsonl"])
def test_json_without_a_bottom_is_no_bundle(honest: Path, tmp_path: Path, name: str) -> None:
    """Signed and all: an error that says so, and none of the interpreter's."""
    forger = Forger(honest)
    forger.files[name] = b'{"spec":' + b"[" * DEEP + b"]" * DEEP + b"}\n"
    path = tmp_path / "deep.zip"
    path.write_bytes(forger.data())

    with pytest.raises(BundleError):
        read_bundle(path)


@pytest.mark.parametrize("name", ["bundle.json", "bundle.sig"])
def test_an_index_without_a_bottom_is_none(honest: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "deep.zip"
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w") as made:
        for one in source.namelist():
            deep = b"[" * DEEP + b"]" * DEEP
            made.writestr(one, deep if one == name else source.read(one))

    with pytest.raises(BundleError):
        read_bundle(path)


def test_files_that_lie_in_one_another_are_not_unpacked(honest: Path, tmp_path: Path) -> None:
    """A directory may name the same bytes again and again: small as a file, endless in memory."""
    stream, content = io.BytesIO(), b"x" * 10_000
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("evidence/a.json", content)
        for number in range(50):
            again = zipfile.ZipInfo(f"evidence/a{number}.json")
            again.CRC, again.file_size = made.infolist()[0].CRC, len(content)
            again.compress_size, again.header_offset = len(content), 0
            made.filelist.append(again)
            made.NameToInfo[again.filename] = again
        made._didModify = True  # type: ignore[attr-defined]
    path = tmp_path / "bomb.zip"
    path.write_bytes(stream.getvalue())

    with pytest.raises(BundleError, match="lie in one another"):
        read_bundle(path)


@pytest.mark.parametrize(
    "text",
    [
        "controller = " + "[" * DEEP + "]" * DEEP,
        "controller = " + "9" * 5_000,
        "controller = nan",
        "controller = 'a'\ncontroller = 'b'",
        "other = 'a'",
        "\x00",
    ],
)
def test_a_controllers_file_is_texts_or_an_error(tmp_path: Path, text: str) -> None:
    """Too deep, too long, twice, or of another kind: a wrong setting, named by its file."""
    path = tmp_path / "controller.toml"
    path.write_text(text)

    with pytest.raises(SettingError, match=r"controller\.toml"):
        read_controller(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_controllers_file_that_is_no_text_is_an_error(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "controller.toml"
    path.mkdir() if content is None else path.write_bytes(content)

    with pytest.raises(SettingError, match=r"controller\.toml"):
        read_controller(path)


def test_what_is_refused_above_is_refused_for_its_depth(honest: Path, tmp_path: Path) -> None:
    forger = Forger(honest)
    forger.files["evidence/deep.json"] = canonical({"spec": [[[[]]]]})
    path = tmp_path / "flat.zip"
    path.write_bytes(forger.data(exporter=CENTRE))

    assert json.dumps(read_bundle(path).source.evidence["deep"]) == '{"spec": [[[[]]]]}'
