"""Public data sets that a user downloaded: where they lie, and how their files are opened.

The folder is named by the environment variable `FEDGE_DATA`. It may hold a set's files
themselves, or folders of any names that hold them, as unpacked archives have. Nothing
is ever fetched from here.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

from fedge.errors import TableError

VARIABLE = "FEDGE_DATA"
"""The environment variable that names the folder."""

_DEPTH = 3


def data_folder(advice: str = "", environ: Mapping[str, str] | None = None) -> Path:
    """The folder with downloaded data sets.

    Args:
        advice: what to download; said where there is no folder.
        environ: where `FEDGE_DATA` is looked up; None takes this process's environment.

    Raises:
        TableError: the variable is not set, or names no folder.
    """
    name = (os.environ if environ is None else environ).get(VARIABLE, "")
    more = f"; {advice}" if advice else ""
    if not name:
        raise TableError(f"{VARIABLE} is not set: it names the folder with downloaded data{more}")
    folder = Path(name)
    if not folder.is_dir():
        raise TableError(f"{VARIABLE} names {folder}, which is no folder{more}")
    return folder


def find_files(folder: Path, name: re.Pattern[str]) -> dict[str, Path]:
    """Files up to three folders deep whose name matches, by what the pattern's group 1 holds.

    Where one file is there twice, the one nearest to `folder` counts, and a plain one before a
    gzipped one.

    Args:
        name: matched against whole file names.
    """
    found: dict[str, Path] = {}
    for depth in range(_DEPTH):
        level = sorted(folder.glob("*/" * depth + "*"), key=lambda path: path.name)
        for path in level:
            match = name.fullmatch(path.name)
            if match and path.is_file():
                found.setdefault(match.group(1), path)
    return found


def read_text(path: Path) -> str:
    """The text of a plain or gzipped file.

    Raises:
        TableError: it cannot be read, is cut off, or is no text.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except (OSError, EOFError, zlib.error) as error:
        raise TableError(f"cannot read {path}: {error}") from error
    except UnicodeDecodeError:
        raise TableError(f"cannot read {path}: it is no text") from None
