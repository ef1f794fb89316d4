"""Settings: one TOML file per process, checked when it is read.

Units stand in the names where the type cannot hold them. Relative paths are
taken from the folder of the file. The supervisor, which may use nothing but the
standard library, reads the same `gateway.toml` by itself.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedge.errors import SettingError


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
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SettingError(f"{name}: {where}: {first['msg']}") from error
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
    return settings.model_copy(update=changed)


class GatewaySettings(Settings):
    """One gateway host (`gateway.toml`).

    Attributes:
        state_dir: everything a gateway must not lose; `docs/architecture.md` shows its layout.
        runtime_dir: sockets; a short path, because a socket's path holds 107 bytes at most.
        host, port: the inference listener; port 0 takes a free one and writes it to
            `runtime_dir/port`.
        coordinator_url: where reports go, e.g. `http://127.0.0.1:8100`.
        releases_url: base of the release repository, e.g. `http://127.0.0.1:8100/releases`.
        superlink: `host:port` of Flower's SuperLink; empty for a gateway that never trains.
        supernode_port: loopback port of the SuperNode's runtime API; 0 takes a free one.
        supernode_poll_s: seconds between the SuperNode's looks for a message, 3 at most.
        task, task_version, family: the only task, version and model family whose releases are
            accepted here.
        window_slots: arrival slots of a full window.
        ring_slots: observations that wait for the agent at most; more are dropped and counted.
        trial_s: seconds that a new release must serve before it is committed.
        feedback_slots: how many slots back a label is still accepted.
        simulated: only a simulation may set this; marks every ledger entry.
    """

    state_dir: Path
    runtime_dir: Path
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    coordinator_url: str = ""
    releases_url: str = ""
    superlink: str = ""
    supernode_port: int = Field(default=9094, ge=0, le=65535)
    supernode_poll_s: float = Field(default=3.0, gt=0.01, le=3.0)
    task: str = "digits"
    task_version: int = Field(default=1, ge=1)
    family: str = "digits"
    window_slots: int = Field(default=1000, ge=10)
    ring_slots: int = Field(default=8192, ge=64)
    poll_interval_s: float = Field(default=30.0, gt=0)
    push_interval_s: float = Field(default=5.0, gt=0)
    status_interval_s: float = Field(default=30.0, gt=0)
    trial_s: float = Field(default=60.0, ge=0)
    drain_s: float = Field(default=10.0, gt=0)
    feedback_slots: int = Field(default=100_000, ge=1)
    max_body_bytes: int = Field(default=4 * 2**20, ge=1024)
    max_batch: int = Field(default=256, ge=1)
    spool_bytes: int = Field(default=64 * 2**20, ge=2**16)
    train: bool = True
    simulated: bool = False


class DriftSettings(Settings):
    """How `monitor` decides (`[drift]` in `server.toml`).

    Attributes:
        baseline_windows: full windows of one gateway and release that form its baseline.
        false_alarms_per_month: episodes that the whole fleet may open without drift in 30 days.
        windows_per_month: windows that one gateway closes in 30 days.
        lengths: numbers of latest windows whose scores are summed.
        min_effect: smallest shift of a stream, in reference standard deviations, that may alarm.
        gather_windows: windows after the first alarm in which the cohort is gathered.
        cooldown_windows: windows after an episode closed before a new one may open.
        max_fleet: gateways that share the alarm budget.
    """

    baseline_windows: int = Field(default=168, ge=4)
    false_alarms_per_month: float = Field(default=0.5, gt=0)
    windows_per_month: float = Field(default=720.0, gt=0)
    lengths: tuple[int, ...] = (1, 2, 3, 4, 6, 12)
    min_effect: float = Field(default=0.1, ge=0)
    gather_windows: int = Field(default=24, ge=1)
    cooldown_windows: int = Field(default=0, ge=0)
    max_fleet: int = Field(default=20, ge=1)


class TrainingSettings(Settings):
    """How a retraining is planned (`[training]` in `server.toml`). Chosen on public data."""

    adapter: Literal["input", "head"] = "input"
    rounds: int = Field(default=2, ge=1)
    steps: int = Field(default=20, ge=1)
    clip: float = Field(default=0.5, gt=0)
    learning_rate: float = Field(default=2.4, gt=0)
    records: int = Field(default=300, ge=1)
    evaluation_rho: float = Field(default=0.005, gt=0)
    round_timeout_s: float = Field(default=180.0, gt=0)
    min_gain_sigmas: float = Field(default=3.0, gt=0)


class KeySettings(Settings):
    """Key files (`[keys]`). A process reads only those that it names; none holds them all."""

    builder: Path | None = None
    evaluator: Path | None = None
    online: Path | None = None


class ServerSettings(Settings):
    """The central host (`server.toml`), read by coordinator, rounds, evaluator and flows.

    Attributes:
        data_dir: database, objects and release repository live here unless set apart.
        policy: the privacy policy file that gateways of this fleet run under (public).
        superlink: `host:port` of the SuperLink; loopback only.
        flwr_home: Flower's own folder (configuration, installed bundles).
    """

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = Field(default=8100, ge=0, le=65535)
    database_url: str = ""
    policy: Path
    task: str = "digits"
    family: str = "digits"
    superlink: str = "127.0.0.1:8000"
    flwr_home: Path = Path("flwr")
    max_report_bytes: int = Field(default=4 * 2**20, ge=1024)
    monitor_interval_s: float = Field(default=60.0, gt=0)
    drift: DriftSettings = DriftSettings()
    training: TrainingSettings = TrainingSettings()
    keys: KeySettings = KeySettings()

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'fedge.sqlite'}"

    @property
    def objects_dir(self) -> Path:
        return self.data_dir / "objects"

    @property
    def releases_dir(self) -> Path:
        return self.data_dir / "releases"
