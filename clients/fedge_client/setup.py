"""Setting up a gateway's folder: identity, policy, trusted root, settings; and further models."""

from __future__ import annotations

import os
import shutil
import stat
import tomllib
from pathlib import Path

from fedge.config import GatewaySettings
from fedge.durable import write_file
from fedge.errors import SettingError
from fedge.identity import Identity
from fedge.privacy.approval import copy_policy, read_policy_and_approval
from fedge_client.state_layout import bring_up_to_date

MAX_SOCKET_PATH = 107


def init_gateway(
    folder: Path,
    *,
    policy: Path,
    root: Path,
    coordinator: str,
    witness_key: str | None = None,
    superlink: str = "",
    port: int = 8080,
    runtime_dir: Path | None = None,
    settings: dict[str, object] | None = None,
) -> Identity:
    """Make a gateway in `folder`; nothing there is ever overwritten.

    Args:
        policy: the owner's privacy policy, checked and copied, and its approval.
        root: the release repository's trusted `root.json`, copied.
        coordinator: base URL; releases are read from `<coordinator>/releases`.
        witness_key: the coordinator's, 64 hex digits; None leaves it to the gateway to keep the
            first that answers.
        runtime_dir: where sockets go; inside `folder` unless given.
        settings: further keys of `gateway.toml`.

    Returns:
        the new identity; its public key must be admitted by the coordinator.

    Raises:
        SettingError: the folder holds a gateway already or cannot be made, a file is missing, or a
            path is too long for a socket.
    """
    if (folder / "gateway.toml").exists():
        raise SettingError(f"{folder} already holds a gateway; choose another folder")
    read_policy_and_approval(policy)
    if not root.is_file():
        raise SettingError(f"no trusted root at {root}; copy it from the release repository")
    runtime = (runtime_dir or folder / "run").resolve()
    _check_socket_path(runtime / "supervisor.sock")
    values: dict[str, object] = {
        "state_dir": "state",
        "runtime_dir": str(runtime),
        "port": port,
        "coordinator_url": coordinator.rstrip("/"),
        "releases_url": coordinator.rstrip("/") + "/releases",
        "superlink": superlink,
        **({} if witness_key is None else {"witness_key": witness_key}),
        **(settings or {}),
    }
    GatewaySettings.parse(values, folder)
    state = folder / "state"
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        runtime.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise SettingError(f"cannot make the folders of a gateway: {error}") from error
    copy_policy(policy, state / "policy.toml")
    shutil.copyfile(root, state / "root.json")
    identity = Identity.create(state / "identity.pem")
    bring_up_to_date(state)
    (folder / "gateway.toml").write_text(_lines(values))
    return identity


def add_model(
    folder: Path, *, family: str, task: str, root: Path, policy: Path, task_version: int = 1
) -> Identity:
    """Let the gateway in `folder` serve a further model, from its next start on.

    To the centre the model is a gateway of its own: it gets an identity, a policy and a trusted
    root in `state_dir/models/<family>`. `gateway.toml` changes last and in one step; a call
    that was cut off before may be repeated, and goes on with the identity that it made.

    Args:
        family: the model family, not served there yet.
        root: the trusted `root.json` of the release repository that holds it, copied.
        policy: the privacy policy for this model's records, checked and copied.

    Returns:
        the new identity; its public key must be admitted by the coordinator.

    Raises:
        SettingError: there is no gateway, the family is served already, a file is missing, or
            a value is wrong. `gateway.toml` is as before.
    """
    config = folder / "gateway.toml"
    table: dict[str, object] = {"family": family, "task": task, "task_version": task_version}
    text = _read(config).rstrip() + "\n\n[[models]]\n" + _lines(table)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{config}: cannot add a [[models]] table: {error}") from error
    settings = GatewaySettings.parse(values, folder.resolve(), str(config))
    read_policy_and_approval(policy)
    if not root.is_file():
        raise SettingError(f"no trusted root at {root}; copy it from the release repository")
    _check_socket_path(settings.runtime_dir / f"agent-admin-{family}.sock")
    state = settings.for_model(family).state_dir
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    copy_policy(policy, state / "policy.toml")
    shutil.copyfile(root, state / "root.json")
    pem = state / "identity.pem"
    identity = Identity.load(pem) if pem.exists() else Identity.create(pem)
    bring_up_to_date(state)
    write_file(config, text.encode(), mode=stat.S_IMODE(config.stat().st_mode))
    return identity


def _read(config: Path) -> str:
    try:
        return config.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"no gateway in {config.parent}: {error}") from error


def _check_socket_path(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise SettingError(
            f"{path.parent} is too long a path for sockets; pass a shorter runtime_dir"
        )


def _lines(values: dict[str, object]) -> str:
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
