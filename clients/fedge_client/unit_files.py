"""The systemd units that come with fedge, filled in for one installation."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

from fedge.errors import SettingError

HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"))
"""What `ProtectHome=yes` hides."""
UNITS = ("fedge-gateway.service", "fedge-gateway.socket", "fedge-supernode.service")


def sample_settings() -> str:
    """A `gateway.toml` for a gateway under these units."""
    return files("fedge_client.units").joinpath("gateway.toml").read_text()


def unit_files(config: Path, address: str) -> dict[str, str]:
    """The text of each unit, by file name.

    Args:
        config: the gateway's settings file, an absolute path.
        address: what the inference port listens on, `8080` or `192.0.2.7:8080`.

    Raises:
        SettingError: `config` is not absolute; a unit has no working folder.
    """
    if not config.is_absolute():
        raise SettingError(f"{config} must be an absolute path in a unit")
    python = Path(sys.executable)
    for path in (python, config):
        if any(path.is_relative_to(home) for home in HIDDEN):
            raise SettingError(f"{path}: the units hide home folders from the service; move it")
    values = {
        "@PYTHON@": _word(str(python)),
        "@CONFIG@": _word(str(config)),
        "@ADDRESS@": _word(address),
    }
    found = {}
    for name in UNITS:
        text = files("fedge_client.units").joinpath(name).read_text()
        for place, value in values.items():
            text = text.replace(place, value)
        found[name] = text
    return found


def _word(text: str) -> str:
    """Text as one word of a unit file, where `%` has a meaning."""
    if any(character.isspace() or character in "\"'\\$;" for character in text):
        raise SettingError(f"{text!r} cannot stand in a unit: no blanks, quotes, $ or backslashes")
    return text.replace("%", "%%")


def write_units(folder: Path, config: Path, address: str) -> list[Path]:
    """Write the units into a folder; files that are there already stay as they are.

    Raises:
        SettingError: one of them exists, or the folder is not writable.
    """
    texts = unit_files(config, address)
    for name in texts:
        if (folder / name).exists():
            raise SettingError(f"{folder / name} exists; remove it, or write somewhere else")
    try:
        for name, text in texts.items():
            (folder / name).write_text(text)
    except OSError as error:
        raise SettingError(f"cannot write units: {error}") from error
    return [folder / name for name in texts]
