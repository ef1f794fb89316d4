"""Settings: one TOML file per process, checked when it is read.

Units stand in the names where the type cannot hold them. Relative paths are
taken from the folder of the file. The supervisor, which may use nothing but the
standard library, reads the same `gateway.toml` by itself.
"""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from fedge.errors import SettingError
from fedge.records import Name
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


class LimitSettings(Settings):
    """What one caller, and all of them together, may ask of the worker (`[limits]`).

    Attributes:
        max_concurrent: requests of one worker under way at once; more get 429.
        requests_per_s, burst: token bucket of one client address; 0 per second is no limit.
        header_timeout_s, body_timeout_s: a client slower than this is disconnected.
        idle_timeout_s: an idle kept-alive connection is closed after it.
        max_connections: connections of one worker; more are refused.
        max_connections_per_client: of these, those of one client address; more get 429. As each
            has one request under way at most, this is also how many requests a client can have.
            0 is no limit, as a gateway behind a proxy needs.
    """

    max_concurrent: int = Field(default=256, ge=1)
    requests_per_s: float = Field(default=0.0, ge=0)
    burst: int = Field(default=100, ge=1)
    header_timeout_s: float = Field(default=10.0, gt=0)
    body_timeout_s: float = Field(default=30.0, gt=0)
    idle_timeout_s: float = Field(default=120.0, gt=0)
    max_connections: int = Field(default=1024, ge=1)
    max_connections_per_client: int = Field(default=0, ge=0)


class TlsSettings(Settings):
    """TLS of the inference port (`[tls]`); with `client_ca` callers need a certificate of it."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class BatchingSettings(Settings):
    """Dynamic batching (`[batching]`): concurrent requests run as one.

    Attributes:
        max_rows: rows of one run at most; 1 switches batching off.
        max_delay_ms: how long the first request waits for others.
    """

    max_rows: int = Field(default=1, ge=1)
    max_delay_ms: float = Field(default=2.0, ge=0)


class EscalationSettings(Settings):
    """Sending hard requests on to a larger model (`[escalation]`). Off unless `url` is set.

    Attributes:
        url: base of the upstream server, which speaks the same protocol.
        model: its model's name.
        confidence_below: a row is hard below this confidence; 0 never is.
        ood_above: a row is hard above this OOD score; None never is.
        per_minute, per_day: requests sent on at most.
        deadline_s: how long the caller may wait for the upstream answer.
        token_file: holds a bearer token for the upstream server.
        ca_file: certificates that sign the upstream server's; None takes those of the system.
    """

    url: str = ""
    model: str = ""
    confidence_below: float = Field(default=0.0, ge=0, le=1)
    ood_above: float | None = None
    per_minute: int = Field(default=60, ge=0)
    per_day: int = Field(default=1000, ge=0)
    deadline_s: float = Field(default=1.0, gt=0)
    token_file: Path | None = None
    ca_file: Path | None = None


RING_WINDOWS = 3
"""Full windows that the ring must have room for."""


class ServedModelSettings(Settings):
    """A further model that a gateway serves (`[[models]]` in `gateway.toml`).

    To the centre it is a gateway of its own, with a key, a policy, a ledger and a state folder
    of its own: `state_dir/models/<family>`.

    Attributes:
        family, task, task_version: as in `GatewaySettings`.
        coordinator_url, releases_url: None takes the gateway's own.
        window_slots, ring_slots: None takes the gateway's own.
        escalation: of this model; off unless set, because the gateway's own names another model.
    """

    family: Name
    task: Name
    task_version: int = Field(default=1, ge=1)
    coordinator_url: str | None = None
    releases_url: str | None = None
    window_slots: int | None = Field(default=None, ge=10)
    ring_slots: int | None = Field(default=None, ge=64)
    escalation: EscalationSettings = EscalationSettings()


class RetentionSettings(Settings):
    """How long records stay on the gateway (`[retention]`).

    Attributes:
        max_age_s: a block's files are deleted so long after its newest record arrived.
        max_bytes: quota of the block store; beyond it the oldest window goes that no run reads. A
            window counts for what its rows take if all of them are kept.
    """

    max_age_s: float = Field(default=30 * 86400.0, gt=0)
    max_bytes: int = Field(default=2 * 2**30, ge=2**20)


class TelemetrySettings(Settings):
    """OpenTelemetry of public facts (`[telemetry]`). Off unless `otlp_url` is set.

    Attributes:
        otlp_url: base of an OTLP/HTTP collector, e.g. `http://127.0.0.1:4318`.
        interval_s: seconds between exports of metrics.
        traces: also export a span for each installation, window and push.
    """

    otlp_url: str = ""
    interval_s: float = Field(default=60.0, gt=0)
    traces: bool = False


class LocalDriftSettings(Settings):
    """Change detectors that a gateway runs for its own operator (`[local_drift]`). Off by default.

    What they find is computed from records without noise, and stays on the gateway: in its
    status, its log, a bounded history, and a webhook on this host.

    Attributes:
        enabled: needs `fedge[drift]`.
        signals: what is watched: the model's confidence, the OOD score, errors on labelled rows.
        detector: which test watches each of them.
        ood_score: computed from a row's logits.
        ood_rate: share of rows like the reference's that may count as strange.
        group_rows: rows averaged to one value for the detectors, which are made for independent
            ones; more where rows depend on each other for longer.
        baseline_groups: such values that form a baseline, taken on the gateway itself.
        history: alarms that are kept.
        webhook: gets one POST with JSON for each alarm; http, and a loopback address.
    """

    enabled: bool = False
    signals: tuple[Literal["confidence", "ood", "error"], ...] = ("confidence", "ood", "error")
    detector: Literal["adwin", "page-hinkley"] = "adwin"
    ood_score: Literal["energy", "msp", "maxlogit"] = "energy"
    ood_rate: float = Field(default=0.01, gt=0, lt=1)
    group_rows: int = Field(default=32, ge=8, le=4096)
    baseline_groups: int = Field(default=30, ge=10, le=1000)
    history: int = Field(default=200, ge=1, le=10_000)
    webhook: str = ""

    @field_validator("signals")
    @classmethod
    def _distinct(cls, signals: tuple[str, ...]) -> tuple[str, ...]:
        if not signals or len(set(signals)) != len(signals):
            raise ValueError("at least one signal, and each once")
        return signals

    @field_validator("webhook")
    @classmethod
    def _on_this_host(cls, webhook: str) -> str:
        if webhook and not names_loopback(webhook):
            raise ValueError(
                "local alarms stay on this host: an address like http://127.0.0.1:9000/alarms"
            )
        return webhook


def names_loopback(url: str) -> bool:
    """Whether a plain http address names this host by a loopback number.

    By its number alone: what a name stands for, somebody else decides.
    """
    try:
        parts = urlsplit(url)
        here = ipaddress.ip_address(parts.hostname or "").is_loopback
        return parts.scheme == "http" and here and parts.port != 0 and parts.username is None
    except ValueError:
        return False


class GatewaySettings(Settings):
    """One gateway host (`gateway.toml`).

    Attributes:
        state_dir: everything a gateway must not lose; `docs/architecture.md` shows its layout.
        runtime_dir: sockets; a short path, because a socket's path holds 107 bytes at most.
        host, port: the inference listener; port 0 takes a free one and writes it to
            `runtime_dir/port`.
        ops_port: loopback port of `/status` and `/metrics`; 0 takes a free one and writes it to
            `runtime_dir/ops_port`; -1 opens none.
        token_file: one bearer token per line; a request needs one of them. None asks for none.
        coordinator_url: where reports go, e.g. `http://127.0.0.1:8100`.
        releases_url: base of the release repository, e.g. `http://127.0.0.1:8100/releases`.
        superlink: `host:port` of Flower's SuperLink; empty for a gateway that never trains.
        supernode_port: loopback port of the SuperNode's runtime API; 0 takes a free one.
        supernode_poll_s: seconds between the SuperNode's looks for a message, 3 at most.
        start_supernode: false leaves the SuperNode to a unit of its own, under its own user.
        task, task_version, family: the only task, version and model family whose releases are
            accepted here.
        models: further models, one worker and one state folder each.
        window_slots: arrival slots of a full window.
        window_s: seconds after which a window closes also when it is not full; 0: only when full.
        label_watermark_windows: further windows that close before a window's labelled errors are
            counted and reported, once; labels that come later count for training alone. Where
            the policy left no charge for labels, none are reported.
        ring_slots: observations that wait for the agent at most; more are dropped and counted.
        trial_s: seconds that a new release must serve before it is committed.
        drain_s: seconds that a replaced worker waits for its callers' next request.
        stop_delay_s: seconds that a gateway which is to stop says that it is not ready, and serves
            all the same, so that whoever routes to it can send its callers elsewhere.
        feedback_slots: how many slots back a label is still accepted.
        monitoring: false serves without observing; there are then no windows and no records.
        log_format: `text`, or `json` for one object a line.
        simulated: only a simulation may set this; marks every ledger entry.
    """

    state_dir: Path
    runtime_dir: Path
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    ops_port: int = Field(default=0, ge=-1, le=65535)
    token_file: Path | None = None
    coordinator_url: str = ""
    releases_url: str = ""
    superlink: str = ""
    supernode_port: int = Field(default=9094, ge=0, le=65535)
    supernode_poll_s: float = Field(default=3.0, gt=0.01, le=3.0)
    start_supernode: bool = True
    task: str = "digits"
    task_version: int = Field(default=1, ge=1)
    family: str = "digits"
    models: tuple[ServedModelSettings, ...] = ()
    window_slots: int = Field(default=1000, ge=10)
    window_s: float = Field(default=0.0, ge=0)
    label_watermark_windows: int = Field(default=24, ge=1, le=100_000)
    ring_slots: int = Field(default=8192, ge=64)
    poll_interval_s: float = Field(default=30.0, gt=0)
    push_interval_s: float = Field(default=5.0, gt=0)
    status_interval_s: float = Field(default=30.0, gt=0)
    trial_s: float = Field(default=60.0, ge=0)
    drain_s: float = Field(default=10.0, gt=0)
    stop_delay_s: float = Field(default=0.0, ge=0, le=60)
    feedback_slots: int = Field(default=100_000, ge=1)
    max_body_bytes: int = Field(default=4 * 2**20, ge=1024)
    max_batch: int = Field(default=256, ge=1)
    spool_bytes: int = Field(default=64 * 2**20, ge=2**16)
    train: bool = True
    monitoring: bool = True
    log_format: Literal["text", "json"] = "text"
    simulated: bool = False
    limits: LimitSettings = LimitSettings()
    tls: TlsSettings | None = None
    batching: BatchingSettings = BatchingSettings()
    escalation: EscalationSettings = EscalationSettings()
    retention: RetentionSettings = RetentionSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    local_drift: LocalDriftSettings = LocalDriftSettings()

    @model_validator(mode="after")
    def _distinct_models(self) -> Self:
        families = [self.family, *(model.family for model in self.models)]
        if len(set(families)) != len(families):
            raise ValueError("a model family is served once")
        return self

    @model_validator(mode="after")
    def _room_for_windows(self) -> Self:
        # An open window waits in the ring, and from half full on the ring thins what it takes.
        if self.ring_slots < RING_WINDOWS * self.window_slots:
            raise ValueError(
                f"ring_slots must be at least {RING_WINDOWS} x window_slots, here "
                f"{RING_WINDOWS * self.window_slots}"
            )
        return self

    @property
    def served(self) -> tuple[GatewaySettings, ...]:
        """The settings of each served model, the first one's first; none has further models."""
        return tuple(self.for_model(f) for f in (self.family, *(m.family for m in self.models)))

    def for_model(self, family: str) -> GatewaySettings:
        """These settings as they hold for one served model.

        Raises:
            SettingError: no such model is served.
        """
        if family == self.family:
            return self.model_copy(update={"models": ()})
        for model in self.models:
            if model.family == family:
                own = {k: v for k, v in model if v is not None}
                state_dir = self.state_dir / "models" / family
                # A further model is never trained here: SuperNode and courier are the first's.
                changed = {"models": (), "state_dir": state_dir, "superlink": "", **own}
                return self.model_copy(update=changed)
        raise SettingError(f"no model {family!r} is served here")


class PolicyRule(Settings):
    """One line of the table from what was found to what is done (`[[drift.policy.rules]]`).

    `any` fits everything; so does a key that is left out.

    Attributes:
        cause, scope, severity: as verdicts name them.
        min_effect: only where the strongest shift is at least so large, in reference standard
            deviations.
    """

    cause: Literal["covariate", "label", "concept", "ood", "sensor", "unknown", "any"] = "any"
    scope: Literal["gateway", "fleet", "unknown", "any"] = "any"
    severity: Literal["none", "low", "high", "unknown", "any"] = "any"
    min_effect: float = Field(default=0.0, ge=0)
    action: Literal[
        "none",
        "watch",
        "recalibrate",
        "retrain-gateway",
        "retrain-fleet",
        "check-sensor",
        "quarantine",
    ]


class PolicySettings(Settings):
    """What drift leads to (`[drift.policy]` in `server.toml`).

    Attributes:
        rules: the first that fits decides; where none does, `fedge.drift.fleet.policy.DEFAULTS`.
        high_loss: expected loss of accuracy, as a share of all answers, from which drift is severe.
        high_effect: shift of a feature in reference standard deviations from which it is severe.
        fleet_share: share of the fleet's movement that gateways must have in common for it to be
            the fleet's; with equal movements, the share of gateways that move.
        settle_windows: windows after the onset before anything but a retraining is decided.
    """

    rules: tuple[PolicyRule, ...] = ()
    high_loss: float = Field(default=0.05, gt=0, le=1)
    high_effect: float = Field(default=1.0, gt=0)
    fleet_share: float = Field(default=0.5, gt=0, le=1)
    settle_windows: int = Field(default=2, ge=1)


class AlertSettings(Settings):
    """Where alerts go besides Prefect's events (`[alerts]`). Nowhere unless `webhook_url` is set.

    Attributes:
        webhook_url: https, or http on this host alone; gets one POST with JSON for each alert.
        token_file: holds a bearer token for it.
        ca_file: certificates that sign the webhook server's; None takes those of the system.
        timeout_s: for one attempt.
        attempts: within one look of `monitor`; the next look goes on.
    """

    webhook_url: str = ""
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = Field(default=5.0, gt=0)
    attempts: int = Field(default=3, ge=1)


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
        season: part of the calendar (UTC) by which windows are compared with their like only.
        policy: what is done about drift.
    """

    baseline_windows: int = Field(default=168, ge=4)
    false_alarms_per_month: float = Field(default=0.5, gt=0)
    windows_per_month: float = Field(default=720.0, gt=0)
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2, 3, 4, 6, 12), min_length=1)
    min_effect: float = Field(default=0.1, ge=0)
    gather_windows: int = Field(default=24, ge=1)
    cooldown_windows: int = Field(default=0, ge=0)
    max_fleet: int = Field(default=20, ge=1)
    season: Literal["none", "hour", "weekday"] = "none"
    policy: PolicySettings = PolicySettings()


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
    alerts: AlertSettings = AlertSettings()
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
