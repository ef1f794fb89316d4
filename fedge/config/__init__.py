"""Settings: one TOML file per process, checked when it is read.

Units stand in the names where the type cannot hold them. Relative paths are
taken from the folder of the file. The supervisor, which may use nothing but the
standard library, reads the same `gateway.toml` by itself.
"""

from fedge.config.base import Settings
from fedge.config.drift import AlertSettings, DriftSettings, PolicyRule, PolicySettings
from fedge.config.gateway import (
    BatchingSettings,
    EscalationSettings,
    GatewaySettings,
    LimitSettings,
    RetentionSettings,
    ServedModelSettings,
    TelemetrySettings,
    TlsSettings,
)
from fedge.config.local_drift import LocalDriftSettings, names_loopback
from fedge.config.server import (
    ComplianceSettings,
    KeySettings,
    ServerSettings,
    TrainingSettings,
)

__all__ = [
    "AlertSettings",
    "BatchingSettings",
    "ComplianceSettings",
    "DriftSettings",
    "EscalationSettings",
    "GatewaySettings",
    "KeySettings",
    "LimitSettings",
    "LocalDriftSettings",
    "PolicyRule",
    "PolicySettings",
    "RetentionSettings",
    "ServedModelSettings",
    "ServerSettings",
    "Settings",
    "TelemetrySettings",
    "TlsSettings",
    "TrainingSettings",
    "names_loopback",
]
