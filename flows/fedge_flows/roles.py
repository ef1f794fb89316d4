"""Which settings a process of the flows reads.

A role is a settings file of its own, so that no process knows a key it does not need:
the server's names none, the builder's and the publisher's one each.
"""

from __future__ import annotations

from pathlib import Path

from fedge.config import ServerSettings
from fedge.errors import SettingError
from fedge_flows.ports import Environment

ROLES = {
    "server": "FEDGE_SERVER_CONFIG",
    "builder": "FEDGE_BUILDER_CONFIG",
    "publisher": "FEDGE_PUBLISHER_CONFIG",
}


def server_settings(environment: Environment, role: str = "server") -> ServerSettings:
    """The settings of a role: the file its variable names, else `<role>.toml` beside `server.toml`.

    Raises:
        SettingError: no settings are named, or they are wrong.
    """
    if own := environment.get(ROLES[role]):
        return ServerSettings.load(Path(own))
    named = environment.get(ROLES["server"])
    if not named:
        raise SettingError(f"set {ROLES['server']} to the path of server.toml")
    file = Path(named)
    return ServerSettings.load(file if role == "server" else file.with_name(f"{role}.toml"))
