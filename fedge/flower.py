"""What both ends need of Flower: its pinned version, its environment, our message, our processes.

Flower has no public way to say which code a task may run, nor to make its processes end with
their parent. So Flower's task processes are started here instead: a *starter* forks one
process per task of a single type from a process that has imported everything already (a
fresh interpreter per message costs some two CPU seconds), and the kernel ends each with its
parent. This touches private parts of one version, hence `require_flwr`, which fails loudly
on any other. Nothing here opens a connection by itself or knows gateways, runs or rounds.

Flower is imported inside the functions: its switches are read when it is imported, so
`use_environment` comes first.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NoReturn

from fedge.errors import SettingError
from fedge.lifetime import die_with_parent

log = logging.getLogger(__name__)

FLWR_VERSION = "1.41.0"
"""The one version whose private parts fit what is done here and in the SuperNode wrapper."""

PUBLISHER, BUNDLE_NAME = "fedge", "fedge-rounds"
SERVER_APP, CLIENT_APP = "fedge_server.rounds:app", "fedge_client.courier:app"
RUN_KEY = "fedge-run"
"""Key of Flower's run config that holds our run id."""

MESSAGE_ACTION, MESSAGE_TYPE = "round", "query.round"
RECORD = "fedge"
"""A message's one `ConfigRecord`: `request` and `array`; in a reply `ok`, `reason`, `envelope`."""

TaskKind = Literal["flwr-clientapp", "flwr-serverapp"]
_COMMANDS: dict[str, tuple[str, str]] = {
    "flwr-clientapp": ("flwr.supernode.cli.flwr_clientapp", "flwr_clientapp"),
    "flwr-serverapp": ("flwr.superlink.cli.flwr_serverapp", "flwr_serverapp"),
}
STARTER_POLL_S = 0.5
BIND_WAIT_S = 60.0


def require_flwr() -> None:
    """Check that the installed Flower is the one that this file knows.

    Raises:
        SettingError: another version, or none.
    """
    try:
        found = version("flwr")
    except PackageNotFoundError as error:
        raise SettingError(f"flwr is not installed; fedge needs flwr=={FLWR_VERSION}") from error
    if found != FLWR_VERSION:
        raise SettingError(f"flwr {found} is installed; fedge is proven on {FLWR_VERSION} only")


def require_parameters(function: Callable[..., object], *names: str) -> None:
    """Check that a private function of Flower still takes the parameters that we pass.

    Raises:
        SettingError: it does not, whatever the version says.
    """
    missing = set(names) - set(inspect.signature(function).parameters)
    if missing:
        raise SettingError(f"flwr's {function.__name__} does not take {sorted(missing)}")


def flower_environment(home: Path) -> dict[str, str]:
    """Switches for every Flower process: own folder, no calls home, no installations."""
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        # Above each request's access line, which polling would write several times a second.
        "FLWR_LOG_LEVEL": os.environ.get("FLWR_LOG_LEVEL", "WARNING"),
        # The starter waits by itself, see `_Starter.reconcile`.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.01",
        # One thread, so that forking is safe; nothing here computes.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def use_environment(home: Path) -> None:
    """Set `flower_environment` for this process and those it starts, and what they log.

    Comes before Flower is imported.

    Raises:
        RuntimeError: Flower was imported already and would ignore some switches.
    """
    if "flwr" in sys.modules:
        raise RuntimeError("flwr was imported before its environment was set")
    home.mkdir(parents=True, exist_ok=True)
    os.environ.update(flower_environment(home))
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    for ours in ("fedge", "fedge_client", "fedge_server"):
        logging.getLogger(ours).setLevel(logging.INFO)
    # It has a handler of its own, which heeds FLWR_LOG_LEVEL; ours would not.
    logging.getLogger("flwr").propagate = False


def loopback(address: str, what: str) -> tuple[str, int]:
    """Take `host:port` apart where the host is this machine.

    Raises:
        SettingError: another host, or no port. Flower's control API has no authentication:
            whoever reaches it can run code.
    """
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost", "[::1]"):
        raise SettingError(
            f"{what} must be on 127.0.0.1, not {address!r}: it has no authentication"
        )
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingError(f"{what} needs a port from 1 to 65535, not {address!r}")
    return host.strip("[]"), int(port)


class TaskStarter:
    """A child process that starts this host's Flower tasks, and nothing else.

    Args:
        address: `host:port` of the runtime API to ask for tasks, unencrypted on loopback.
        kind: the only type of task that is asked for and started.
        preload: modules to import before the first task.

    Must be made in the main thread before any other thread runs. If the child ends,
    whatever the cause, this process ends with status 1: without it no task would ever start.
    """

    def __init__(self, address: str, kind: TaskKind, preload: tuple[str, ...]) -> None:
        require_flwr()
        for module in (*preload, _COMMANDS[kind][0]):
            importlib.import_module(module)
        wake_read, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        gc.collect()
        gc.freeze()  # the collector would touch, and so copy, every shared page
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._wake)
            _in_child(parent, lambda: _serve_tasks(address, kind, wake_read))
        os.close(wake_read)
        threading.Thread(target=self._watch, name="task-starter", daemon=True).start()

    def wake(self) -> None:
        """There is a task now: do not wait for the next look."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"!")

    def _watch(self) -> None:
        os.waitpid(self.pid, 0)
        time.sleep(1.0)  # a signal to the whole group ends this process in its own way
        log.error("the process that starts Flower's tasks ended")
        os._exit(1)


def _in_child(parent: int, work: Callable[[], object]) -> NoReturn:
    """Run `work` in a process just forked; never comes back."""
    status = 1
    try:
        die_with_parent()
        if os.getppid() == parent:
            work()
            status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - the last frame of a process: say why, then end
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def _serve_tasks(address: str, kind: TaskKind, wake: int) -> None:
    module: Any = importlib.import_module("flwr.supercore.superexec.run_superexec")
    require_parameters(module.run_superexec, "runtime_api_address", "insecure", "executor_type")
    starter = _Starter(kind, wake)

    def our_starter(*_: object, **__: object) -> _Starter:
        return starter

    require_parameters(module.get_executor, "executor_type", "executor_config")
    module.get_executor = our_starter
    _wait_for_bind(address)
    module.run_superexec(runtime_api_address=address, insecure=True)


def _wait_for_bind(address: str) -> None:
    """Wait for the API; Flower itself would back off for seconds after the first refusal."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + BIND_WAIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0):
            return
        time.sleep(0.05)


class _Starter:
    """Flower's `Executor` port: forks a process per task, and refuses other types of task."""

    def __init__(self, kind: TaskKind, wake: int) -> None:
        self._kind, self._wake = kind, wake
        self._children: set[int] = set()

    def get_eligible_capacity(self, supported: set[Any], **_: object) -> tuple[set[Any], set[str]]:
        return {task_type for task_type in supported if task_type.value == self._kind}, set()

    def wait_for_capacity(self, *_: object, **__: object) -> None:
        """There is no limit to wait for."""

    def reconcile(self) -> None:
        """Reap what ended; then wait for a wake-up or the next look."""
        for pid in list(self._children):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    self._children.discard(pid)
        if select.select([self._wake], [], [], STARTER_POLL_S)[0]:
            os.read(self._wake, 4096)

    def launch(self, spec: Any) -> Any:
        """See Flower's `Executor.launch`: fork a process for the task, or answer that it failed."""
        from flwr.supercore.superexec.executor import LaunchResult

        if spec.task_type.value != self._kind:
            return LaunchResult.failed(f"{spec.task_type.value} is not started here")
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _in_child(parent, lambda: _run_task(spec))
        self._children.add(pid)
        return LaunchResult.accepted()

    def close(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def _run_task(spec: Any) -> None:
    """Become the process that Flower's command of this task would have started."""
    from flwr.supercore.exit import exit_handler

    # The starter's handlers would close connections that are its own.
    exit_handler.registered_exit_handlers.clear()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    module, command = _COMMANDS[spec.task_type.value]
    sys.argv = [command, "--runtime-api-address", spec.runtime_api_address]
    sys.argv += ["--token", spec.token, "--insecure"]
    getattr(importlib.import_module(module), command)()
