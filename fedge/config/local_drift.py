"""Settings of the change detectors that a gateway runs for its own operator."""

from __future__ import annotations

import ipaddress
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from fedge.config.base import Settings


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
