"""By what local alarms are known to those who show them, and to those who must leave them out."""

from __future__ import annotations

LOG_MARK = "local drift:"
"""Begins a log line about an alarm; the export for support leaves such lines out."""

ALARMS_TABLE = "local_alarms"
LATEST_ALARMS = f"SELECT body FROM {ALARMS_TABLE} ORDER BY id DESC LIMIT ?"
"""Of the state file; a body is JSON."""

CHECK = "local drift"
"""The doctor's finding about alarms; the export leaves it out as well."""
