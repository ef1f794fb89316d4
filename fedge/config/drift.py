"""How the centre decides on drift, what it does about it, and where alerts go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedge.config.base import Settings


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
        silent_windows: windows' time without a report after which a gateway's verdict is unknown.
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
    silent_windows: int = Field(default=6, ge=1)
    season: Literal["none", "hour", "weekday"] = "none"
    policy: PolicySettings = PolicySettings()
