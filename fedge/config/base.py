"""What all settings share: a frozen model read from TOML, with its paths made absolute."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedge.errors import SettingError
from fedge.records.base import first_fault


class Settings(BaseModel):
    """Base of all settings: frozen, closed, finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            SettingError: it cannot be read, or a setting is wrong; names the setting.
        """
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingError(f"cannot read settings {path}: {error}") from error
        return cls.parse(values, path.parent.resolve(), str(path))

    @classmethod
    def parse(cls, values: dict[str, object], folder: Path, name: str = "settings") -> Self:
        """Check values that were read already; relative paths start at `folder`."""
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            raise SettingError(f"{name}: {first_fault(error, 'settings')}") from error
        return _anchored(settings, folder)


SettingsT = TypeVar("SettingsT", bound=Settings)


def _anchored(settings: SettingsT, folder: Path) -> SettingsT:
    changed: dict[str, object] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Path) and not value.is_absolute():
            changed[name] = folder / value
        elif isinstance(value, Settings):
            changed[name] = _anchored(value, folder)
        elif isinstance(value, tuple) and any(isinstance(part, Settings) for part in value):
            changed[name] = tuple(_anchored(part, folder) for part in value)
    return settings.model_copy(update=changed)
