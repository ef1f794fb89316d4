"""`fedge-supernode`: Flower's SuperNode, which refuses every bundle that could bring code.

Flower imports a ClientApp from the bundle's folder first, so a bundle with a package named
like ours would win over the installed one. Here a bundle is looked at before Flower stores,
unpacks or reads it: it must hold `pyproject.toml` alone and name our courier. Any other run
gets an error reply that says so, and the SuperNode goes on.

Flower has no hook for this, so two private functions of one version are wrapped
(`_guard`); another version is refused at the start. The wrapper ends with its parent, and
so do the processes it starts; if Flower's loop ends by itself (it does after some errors of
the SuperLink), this process ends with status 1, for its supervisor to start it again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import os
import re
import socket
import sys
import time
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fedge.config import GatewaySettings
from fedge.errors import BundleRefusedError, FedgeError, SettingError
from fedge.flower import (
    BUNDLE_NAME,
    CLIENT_APP,
    PUBLISHER,
    SERVER_APP,
    TaskStarter,
    loopback,
    require_flwr,
    require_parameters,
    use_environment,
)
from fedge.lifetime import die_with_parent

log = logging.getLogger("fedge.supernode")

AGENT_SOCKET = "agent.sock"
MAX_BUNDLE_BYTES = 64 * 1024
_CONFIG_FILE, _MANIFEST_FILE = "pyproject.toml", ".info/CONTENT"
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_PROJECT_KEYS = {"name", "version", "description", "license", "dependencies"}
_APP_KEYS = {"publisher", "fab-include", "components", "config"}
_SERVER_TASK = "flwr-serverapp"


def check_bundle(content: bytes) -> str:
    """Check that a Flower bundle is the code-free one; answers its version.

    Raises:
        BundleRefusedError: it holds anything but `pyproject.toml` and Flower's manifest, or its
            `pyproject.toml` says more, or something else, than ours may say.
    """
    project = _only_config(content)
    app = _table(project, "tool", "flwr", "app")
    if set(project) != {"project", "tool"} or _table(project, "tool") != {"flwr": {"app": app}}:
        raise BundleRefusedError("pyproject.toml holds tables that are not ours")
    about = _table(project, "project")
    if not set(about) <= _PROJECT_KEYS or about.get("dependencies", []) != []:
        raise BundleRefusedError("[project] may not hold dependencies or other keys")
    if not set(app) <= _APP_KEYS or app.get("fab-include") != [_CONFIG_FILE]:
        raise BundleRefusedError("[tool.flwr.app] holds keys that are not ours")
    if (app.get("publisher"), about.get("name")) != (PUBLISHER, BUNDLE_NAME):
        raise BundleRefusedError(f"it is not {PUBLISHER}/{BUNDLE_NAME}")
    if app.get("components") != {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}:
        raise BundleRefusedError(f"its components are not {SERVER_APP} and {CLIENT_APP}")
    release = about.get("version")
    if not isinstance(release, str) or not _VERSION.fullmatch(release):
        raise BundleRefusedError("its version is not three numbers")
    return release


def _only_config(content: bytes) -> dict[str, Any]:
    if len(content) > MAX_BUNDLE_BYTES:
        raise BundleRefusedError(f"{len(content)} bytes, {MAX_BUNDLE_BYTES} allowed")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            # A list: a name that comes twice is refused too.
            names = sorted(entry.filename for entry in bundle.infolist())
            if names != sorted((_CONFIG_FILE, _MANIFEST_FILE)):
                extra = [name for name in names if name not in (_CONFIG_FILE, _MANIFEST_FILE)]
                raise BundleRefusedError(f"it holds more than {_CONFIG_FILE}: {extra[:3]}")
            if any(entry.file_size > MAX_BUNDLE_BYTES for entry in bundle.infolist()):
                raise BundleRefusedError("an entry unpacks to too many bytes")
            return tomllib.loads(bundle.read(_CONFIG_FILE).decode())
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        OSError,
    ) as error:
        raise BundleRefusedError(f"it cannot be read: {error}") from error


def _table(config: dict[str, Any], *path: str) -> dict[str, Any]:
    for name in path:
        config = config.get(name, {})
        if not isinstance(config, dict):
            raise BundleRefusedError(f"{name} in pyproject.toml is no table")
    return config


def check_run(run: Any, fab: Any) -> None:
    """Check a run's bundle and that the run is about this bundle.

    Raises:
        BundleRefusedError: the bundle is not ours, or the run names another one: Flower would
            load the ClientApp from the folder that the run names.
    """
    release = check_bundle(fab.content)
    digest = hashlib.sha256(fab.content).hexdigest()
    if not digest == fab.hash_str == run.fab_hash:
        raise BundleRefusedError("its hash is not the run's")
    if (run.fab_id, run.fab_version) != (f"{PUBLISHER}/{BUNDLE_NAME}", release):
        raise BundleRefusedError("the run names another bundle")
    if run.primary_task_type != _SERVER_TASK:
        raise BundleRefusedError(f"the run is a {run.primary_task_type}, not a {_SERVER_TASK}")


def _guard(worker: Any, wake: Callable[[], None], poll_s: float) -> None:
    """Put our check and our pace into Flower's worker loop.

    Args:
        worker: the module `flwr.supernode.start_client_internal`.
        wake: called when a message was stored.
        poll_s: longest pause between two looks for a message, seconds.
    """
    original, insert = worker._pull_and_store_message, worker._insert_message
    require_parameters(original, "state", "object_store", "receive", "get_run", "get_fab")
    require_parameters(insert, "msg", "state", "store")

    def pull(**parts: Any) -> int | None:
        """Flower's look for a message; one that brings a foreign bundle is answered with a refusal.

        Returns:
            the id of the run that a message came for; None where none came.
        """
        screened = _Screened(parts)
        try:
            found: int | None = original(**screened.parts)
        except BundleRefusedError as error:
            log.error("refused the bundle of run %s: %s", screened.message.metadata.run_id, error)
            insert(_refusal(screened.message, error), parts["state"], parts["object_store"])
            return int(screened.message.metadata.run_id)
        if found is not None:
            wake()
        return found

    worker._pull_and_store_message = pull
    # The module uses `time` to pause and for nothing else.
    worker.time = SimpleNamespace(sleep=lambda seconds: time.sleep(min(seconds, poll_s)))


class _Screened:
    """The loop's callbacks with a check between: no bundle passes that was not looked at."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self._ask = parts
        self.parts = parts | {
            "receive": self._receive,
            "get_run": self._get_run,
            "get_fab": self._get_fab,
        }
        self.message: Any = None
        self._run: Any = None

    def _receive(self) -> Any:
        received = self._ask["receive"]()
        if received is not None:
            self.message = received[0]
        return received

    def _get_run(self, run_id: int) -> Any:
        self._run = self._ask["get_run"](run_id)
        return self._run

    def _get_fab(self, fab_hash: str, run_id: int) -> Any:
        fab = self._ask["get_fab"](fab_hash, run_id)
        check_run(self._run, fab)
        return fab


def _refusal(message: Any, error: BundleRefusedError) -> Any:
    from flwr.app import Error, Message
    from flwr.common.constant import ErrorCode

    reason = f"bundle-refused: {error}"
    return Message(Error(code=ErrorCode.INVALID_FAB, reason=reason), reply_to=message)


def supernode_arguments(settings: GatewaySettings) -> list[str]:
    """Arguments for `flower-supernode`.

    Raises:
        SettingError: the SuperLink is not on loopback (an mTLS tunnel ends there), or the
            agent's socket has a path that Flower's configuration cannot hold.
    """
    host, port = loopback(settings.superlink, "the SuperLink, or the tunnel to it,")
    agent = str(settings.runtime_dir.absolute() / AGENT_SOCKET)
    if any(character in agent for character in "\"'\\\n"):
        raise SettingError(f"runtime_dir may not hold quotes or backslashes: {agent}")
    arguments = ["--insecure", "--superlink", f"{host}:{port}", "--isolation", "process"]
    arguments += ["--host", "127.0.0.1", "--port", str(settings.supernode_port or _free_port())]
    return [*arguments, "--node-config", f"agent='{agent}'"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(settings: GatewaySettings, home: Path | None = None) -> None:
    """Run the SuperNode in this process; comes back only if Flower's loop ended by itself.

    Args:
        home: Flower's own folder; `flower` in the runtime folder unless given. A SuperNode under
            its own user needs one that it may write.

    Raises:
        SettingError: a setting is wrong, or Flower is another version.
    """
    require_flwr()
    arguments = supernode_arguments(settings)
    use_environment(home or settings.runtime_dir.absolute() / "flower")
    from flwr.supernode import start_client_internal as worker
    from flwr.supernode.cli.flower_supernode import flower_supernode

    address = f"127.0.0.1:{arguments[arguments.index('--port') + 1]}"
    starter = TaskStarter(address, "flwr-clientapp", preload=("fedge_client.courier",))
    _guard(worker, starter.wake, settings.supernode_poll_s)
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `fedge-supernode --config gateway.toml`."""
    parser = argparse.ArgumentParser(prog="fedge-supernode", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the gateway.toml")
    parser.add_argument("--home", type=Path, help="Flower's own folder")
    arguments = parser.parse_args(argv)
    die_with_parent()
    try:
        run(GatewaySettings.load(arguments.config), arguments.home)
    except FedgeError as error:
        print(f"fedge-supernode: {error}", file=sys.stderr)
        return 1
    log.error("Flower's loop ended; the supervisor starts it again")
    # Flower's API thread would keep a process alive that does nothing any more.
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
