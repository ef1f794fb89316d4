"""The closed lists of words in which drift is judged, for fleets and for tables alike."""

from __future__ import annotations

from typing import Literal

Cause = Literal["covariate", "label", "concept", "ood", "sensor", "unknown"]
"""What moved: the inputs, the class shares, their relation, unfamiliar rows, a sensor."""

Scope = Literal["gateway", "fleet", "unknown"]
"""Where: on some gateways alone, or everywhere alike."""

SensorFault = Literal["stuck", "dead", "saturated", "offset", "unit-change"]

Severity = Literal["none", "low", "high", "unknown"]
"""How much the model is expected to suffer."""

Action = Literal[
    "none", "watch", "recalibrate", "retrain-gateway", "retrain-fleet", "check-sensor", "quarantine"
]
