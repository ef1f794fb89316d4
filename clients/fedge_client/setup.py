"""Setting up a gateway's folder: identity, policy, trusted root, settings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fedge.config import GatewaySettings
from fedge.errors import SettingError
from fedge.identity import Identity
from fedge.privacy.policy import read_policy

MAX_SOCKET_PATH = 107


def init_gateway(
    folder: Path,
    *,
    policy: Path,
    root: Path,
    coordinator: str,
    superlink: str = "",
    port: int = 8080,
    runtime_dir: Path | None = None,
    settings: dict[str, object] | None = None,
) -> Identity:
    """Make a gateway in `folder`; nothing there is ever overwritten.

    Args:
        policy: the owner's privacy policy, checked and copied.
        root: the release repository's trusted `root.json`, copied.
        coordinator: base URL; releases are read from `<coordinator>/releases`.
        runtime_dir: where sockets go; inside `folder` unless given.
        settings: further keys of `gateway.toml`.

    Returns:
        the new identity; its public key must be admitted by the coordinator.

    Raises:
        SettingError: the folder holds a gateway already, a file is missing, or a path is too
            long for a socket.
    """
    if (folder / "gateway.toml").exists():
        raise SettingError(f"{folder} already holds a gateway; choose another folder")
    read_policy(policy)
    if not root.is_file():
        raise SettingError(f"no trusted root at {root}; copy it from the release repository")
    runtime = (runtime_dir or folder / "run").resolve()
    if len(os.fsencode(runtime / "supervisor.sock")) > MAX_SOCKET_PATH:
        raise SettingError(f"{runtime} is too long a path for sockets; pass a shorter runtime_dir")
    values: dict[str, object] = {
        "state_dir": "state",
        "runtime_dir": str(runtime),
        "port": port,
        "coordinator_url": coordinator.rstrip("/"),
        "releases_url": coordinator.rstrip("/") + "/releases",
        "superlink": superlink,
        **(settings or {}),
    }
    GatewaySettings.parse(values, folder)
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    runtime.mkdir(parents=True, exist_ok=True, mode=0o750)
    shutil.copyfile(policy, state / "policy.toml")
    shutil.copyfile(root, state / "root.json")
    identity = Identity.create(state / "identity.pem")
    (folder / "gateway.toml").write_text(
        "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())
    )
    return identity


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
