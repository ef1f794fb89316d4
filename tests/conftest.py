"""Settings that hold for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# Nothing that a test starts may call home.
os.environ.update(
    {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
)

# The same examples in every run: a failure must be seen again. No deadline: machines differ.
settings.register_profile("fedge", deadline=None, derandomize=True, database=None)
settings.load_profile("fedge")
