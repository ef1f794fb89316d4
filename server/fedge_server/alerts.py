"""What an operator must know about alerts: which are owed, and whether they can be sent at all.

Sending them belongs to the monitor flow.
"""

from __future__ import annotations

from pathlib import Path

from fedge.config import ServerSettings
from fedge.errors import SettingError
from fedge_server.database import Database
from fedge_server.interventions import InterventionLog


def read_token(path: Path) -> bytes:
    """The bearer token in a file.

    Raises:
        SettingError: it cannot be read, or holds nothing.
    """
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise SettingError(f"cannot read the token in {path}: {error}") from error
    if not token:
        raise SettingError(f"{path} holds no token")
    return token


def alert_troubles(settings: ServerSettings, database: Database) -> tuple[str, ...]:
    """What is wrong with alerts, in words; empty where nothing is."""
    troubles = []
    if settings.alerts.webhook_url and settings.alerts.token_file is not None:
        try:
            read_token(settings.alerts.token_file)
        except SettingError as error:
            troubles.append(f"no alert can be sent to the webhook: {error}")
    if owed := len(InterventionLog(database, _no_clock).unannounced()):
        troubles.append(f"alerts owed: {owed}; monitor's log says why")
    return tuple(troubles)


def _no_clock() -> float:
    raise RuntimeError("nothing is written here")
