"""What the supervisor needs of `gateway.toml`, read with the standard library alone.

`fedge.config` checks all of the file and is what everybody else reads; a test holds the two
readings together. `fedge gateway run` loads it first, so that what is wrong is said by name.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from fedge.errors import SettingError
from fedge_client.children import python

OPTIONAL = (
    *("host", "port", "ops_port", "superlink", "start_supernode", "train"),
    *("drain_s", "stop_delay_s", "family", "max_batch", "log_format"),
)
FAMILY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,63}")
"""As `fedge.records.Name`: no path, so a state folder named by it stays where it belongs."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of this gateway.

    Attributes:
        family: names it in requests, on the command line and in file names.
        state_dir: everything that it must not lose.
    """

    family: str
    state_dir: Path


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """The supervisor's part of `gateway.toml`; see `fedge.config.GatewaySettings`.

    Attributes:
        models: families beside the first one.
        max_batch: rows of one run at most; how long a worker may be deaf depends on it.
    """

    config: Path
    state_dir: Path
    runtime_dir: Path
    host: str = "127.0.0.1"
    port: int = 8080
    ops_port: int = 0
    superlink: str = ""
    start_supernode: bool = True
    train: bool = True
    drain_s: float = 10.0
    stop_delay_s: float = 0.0
    family: str = "digits"
    models: tuple[str, ...] = field(default=())
    max_batch: int = 256
    log_format: str = "text"

    @classmethod
    def load(cls, config: Path) -> SupervisorSettings:
        """Read the file; relative paths start at its folder.

        Raises:
            SettingError: it cannot be read, a setting that is needed is missing, or a model
                is named twice or by no name.
        """
        config = config.resolve()
        try:
            values = tomllib.loads(config.read_text())
            state_dir, runtime_dir = values["state_dir"], values["runtime_dir"]
            models = tuple(model["family"] for model in values.get("models", ()))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingError(f"cannot read settings {config}: {error}") from error
        except KeyError as error:
            raise SettingError(f"{config}: {error} is missing") from error
        except TypeError as error:
            raise SettingError(f"{config}: models must be tables [[models]]") from error
        others = {name: values[name] for name in OPTIONAL if name in values}
        folder = config.parent
        settings = cls(config, folder / state_dir, folder / runtime_dir, models=models, **others)
        families = [model.family for model in settings.served]
        if len(set(families)) != len(families):
            raise SettingError(f"{config}: models: a model family is served once")
        for family in families:
            if not isinstance(family, str) or not FAMILY.fullmatch(family):
                raise SettingError(f"{config}: family: {family!r} is no name")
        return settings

    @property
    def served(self) -> tuple[ServedModel, ...]:
        """Every model, the first one's first."""
        further = (ServedModel(f, self.state_dir / "models" / str(f)) for f in self.models)
        return (ServedModel(self.family, self.state_dir), *further)

    @property
    def companions(self) -> dict[str, list[str]]:
        """The commands that run beside the workers, by name."""
        config = ("--config", str(self.config))
        commands = {"agent": python("fedge_client.agent", *config)}
        if self.superlink and self.train and self.start_supernode:
            commands["supernode"] = python("fedge_client.supernode", *config)
        return commands
