"""Settings of a gateway host (`gateway.toml`) and of the models that it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from fedge.config.base import Settings
from fedge.config.local_drift import LocalDriftSettings
from fedge.errors import SettingError
from fedge.records import Name, PublicKeyHex


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
        witness_key: None takes the gateway's own where the coordinator is the gateway's own.
        window_slots, ring_slots: None takes the gateway's own.
        escalation: of this model; off unless set, because the gateway's own names another model.
    """

    family: Name
    task: Name
    task_version: int = Field(default=1, ge=1)
    coordinator_url: str | None = None
    witness_key: PublicKeyHex | None = None
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
        witness_key: public key, 64 hex digits, with which the coordinator confirms the privacy
            ledger (`fedge server witness`). Only answers under it count, and it replaces a key that
            was kept. None keeps the first key that answers, for good.
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
        policy_reviewers: public keys (hex), one of which must have signed the privacy policy; an
            empty list takes a policy that nobody signed, and the log says so.
        simulated: for simulations and staging fleets alone; marks every ledger entry and envelope,
            so that no real coordinator takes them and no reviewer believes them.
    """

    state_dir: Path
    runtime_dir: Path
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    ops_port: int = Field(default=0, ge=-1, le=65535)
    token_file: Path | None = None
    coordinator_url: str = ""
    witness_key: PublicKeyHex | None = None
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
    policy_reviewers: tuple[PublicKeyHex, ...] = ()
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
                if own.get("coordinator_url", self.coordinator_url) != self.coordinator_url:
                    changed["witness_key"] = model.witness_key  # another coordinator, another key
                return self.model_copy(update=changed)
        raise SettingError(f"no model {family!r} is served here")
