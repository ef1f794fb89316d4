"""The gateway under a service manager: inherited sockets, readiness, and the watchdog."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.gateways import FAMILY, ask_once, fill_slot, make_gateway
from fakes.supervisors import SupervisedGateway, wait_until

from fedge.errors import SettingError
from fedge_client import slot_keeper
from fedge_client.notify import Notifier
from fedge_client.slot_keeper import Patience, SlotKeeper
from fedge_client.sockets import Doors, bind, inherited
from fedge_client.supervisor_settings import ServedModel

# What systemd does between fork and exec: sockets from 3 on, and the process's own number.
LAUNCHER = (
    "import os, sys\n"
    "for place, handle in enumerate(map(int, sys.argv[1].split(',')), 3):\n"
    "    os.dup2(handle, place)\n"
    "os.environ['LISTEN_PID'] = str(os.getpid())\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def launcher(*handles: int) -> list[str]:
    """Runs the command that follows with these sockets; they are numbered from 3 on."""
    # High numbers first: `dup2` must not overwrite one that is still to be copied.
    return [sys.executable, "-c", LAUNCHER, ",".join(map(str, handles))]


def high(sock: socket.socket) -> int:
    """A copy of a handle far above those that the launcher gives out."""
    import fcntl

    return fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 100)


def listen_tcp() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def bound_only() -> socket.socket:
    return bind("127.0.0.1", 0)


def unix_socket() -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("")  # an abstract name of the kernel's choice
    listening.listen()
    return listening


def datagrams() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


class Manager:
    """The service manager's end: a real datagram socket, and what arrived on it."""

    def __init__(self, path: Path) -> None:
        self.path, self.heard = path, list[str]()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(20)

    def hear(self, wanted: str) -> None:
        """Wait for a message that begins so."""
        while True:
            self.heard.append(self._socket.recv(4096).decode())
            if self.heard[-1].startswith(wanted):
                return

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify.sock")
    yield manager
    manager.close()


def test_an_inherited_socket_is_served(tmp_path: Path) -> None:
    """Callers reach the worker on the manager's socket; gateway.toml's port stays unused."""
    with listen_tcp() as listening:
        gateway = SupervisedGateway(tmp_path)
        environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "fedge-gateway.socket"}
        handle = high(listening)
        gateway.start(environment, launcher(handle), pass_fds=(handle,))
        os.close(handle)
        with gateway:
            assert gateway.port == listening.getsockname()[1]
            gateway.install("A", 1)
            assert gateway.release() == 1
            worker = Path(f"/proc/{gateway.worker_pid()}/environ").read_bytes()
            assert b"LISTEN_" not in worker
            assert gateway.stop() == 0
        # The manager's socket outlives the gateway: callers wait for the next one.
        socket.create_connection(("127.0.0.1", listening.getsockname()[1])).close()


def test_the_socket_is_chosen_by_its_name(tmp_path: Path) -> None:
    """Where several are handed over, the one named `inference` is served."""
    with listen_tcp() as other, listen_tcp() as wanted:
        handles = high(other), high(wanted)
        environment = {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "metrics:inference"}
        gateway = SupervisedGateway(tmp_path)
        with gateway.start(environment, launcher(*handles), pass_fds=handles):
            assert gateway.port == wanted.getsockname()[1]
        for handle in handles:
            os.close(handle)


@pytest.mark.parametrize("make", [bound_only, unix_socket, datagrams])
def test_another_kind_of_socket_is_refused(
    tmp_path: Path, make: Callable[[], socket.socket]
) -> None:
    """The real command says so and ends with status 1."""
    make_gateway(tmp_path)
    with make() as wrong:
        handle = high(wrong)
        answer = subprocess.run(
            [
                *launcher(handle),
                *(sys.executable, "-m", "fedge_client.supervisor", str(tmp_path / "gateway.toml")),
            ],
            env={**os.environ, "LISTEN_FDS": "1"},
            pass_fds=(handle,),
            capture_output=True,
            text=True,
            timeout=30,
        )
        os.close(handle)
    assert answer.returncode == 1 and "not a listening TCP socket" in answer.stderr


def test_what_is_meant_for_another_process_is_left_alone() -> None:
    """LISTEN_PID of somebody else, none at all, and nonsense; no variable stays for children."""
    for_another = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "HOME": "/"}
    assert inherited(for_another) is None and for_another == {"HOME": "/"}
    assert inherited({}) is None
    assert inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}) is None
    with pytest.raises(SettingError, match="not a number"):
        inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "one"})
    with pytest.raises(SettingError, match="2 sockets were handed over, and 0"):
        inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


def test_the_manager_hears_how_it_goes(tmp_path: Path, manager: Manager) -> None:
    """READY once the worker serves, then signs of life, and STOPPING at SIGTERM."""
    gateway = SupervisedGateway(tmp_path)
    fill_slot(gateway.settings.state_dir, "A", 1)
    active = json.dumps({"slot": "A", "fallback": None})
    (gateway.settings.state_dir / "active.json").write_text(active)
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "100000"}
    with gateway.start(environment):
        manager.hear("READY=1")
        assert ask_once(gateway.port, "GET", "/v2/health/ready")[0] == 200
        manager.hear("STATUS=toy: slot A serves")
        for _ in range(3):
            manager.hear("WATCHDOG=1")
        worker = Path(f"/proc/{gateway.worker_pid()}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in worker and b"WATCHDOG" not in worker
        assert gateway.stop() == 0
        manager.hear("STOPPING=1")
    assert manager.heard.count("READY=1") == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_a_gateway_without_a_model_is_ready(
    tmp_path: Path, manager: Manager, damaged: bool
) -> None:
    """No release yet, or one that does not start: the agent that brings a better one must live."""
    gateway = SupervisedGateway(tmp_path)
    if damaged:
        active = json.dumps({"slot": "A", "fallback": None})
        (gateway.settings.state_dir / "active.json").write_text(active)
    with gateway.start({"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "50000"}):
        manager.hear("READY=1")
        manager.hear(f"STATUS={FAMILY}: " + ("slot A does not" if damaged else "no release"))
        manager.hear("WATCHDOG=1")


def test_the_watchdog_starves_where_a_hung_worker_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that does not end its hung worker is itself what hangs."""
    monkeypatch.setattr(slot_keeper, "IN_HAND_MARGIN_S", 0.0)
    settings = make_gateway(tmp_path)
    fill_slot(settings.state_dir, "A", 1)

    async def run() -> None:
        with bind("127.0.0.1", 0) as listening:
            keeper = SlotKeeper(
                tmp_path / "gateway.toml",
                ServedModel(FAMILY, settings.state_dir),
                Doors(listening),
                drain_s=1.0,
                max_batch=1,
                patience=Patience(ping_every_s=0.05, deaf_s=0.2),
                progress=lambda worker: None,
            )
            assert keeper.in_hand
            await keeper.trial("A")
            await keeper.takeover("A")
            assert keeper.in_hand and keeper.current is not None
            # Its `watch` does not run: nobody ends the worker.
            keeper.current.signal(signal.SIGSTOP)
            async with asyncio.timeout(20):
                while keeper.in_hand:
                    await asyncio.sleep(0.02)
            await keeper.stop(0.0)

    asyncio.run(run())


def test_a_manager_that_went_away_is_no_reason_to_end(tmp_path: Path) -> None:
    """Nothing listens, nothing is set, an abstract name: no error, and nothing stays set."""
    Notifier(str(tmp_path / "nobody")).ready()
    Notifier().alive()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        name = f"\0fedge-test-{os.getpid()}"
        abstract.bind(name)
        Notifier("@" + name[1:]).stopping()
        assert abstract.recv(100) == b"STOPPING=1"
    environment = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    assert Notifier.from_environment(environment).watchdog_s is None and environment == {}
    assert Notifier.from_environment({"WATCHDOG_USEC": "3000000"}).watchdog_s == 3.0


def test_a_status_is_told_once(manager: Manager) -> None:
    """The same line again costs no datagram."""
    notifier = Notifier(str(manager.path))
    for line in ("a", "a", "b\nc"):
        notifier.status(line)
    notifier.ready()
    manager.hear("READY=1")
    assert manager.heard == ["STATUS=a", "STATUS=b c", "READY=1"]


def test_waiting_callers_are_served_once_a_model_is(tmp_path: Path) -> None:
    """On an inherited socket a caller may connect first; its request is answered in time."""
    with listen_tcp() as listening:
        handle = high(listening)
        gateway = SupervisedGateway(tmp_path)
        gateway.start({"LISTEN_FDS": "1"}, launcher(handle), pass_fds=(handle,))
        os.close(handle)
        with gateway, socket.create_connection(listening.getsockname()) as early:
            early.settimeout(20)
            early.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            gateway.install("A", 1)
            assert early.recv(4096).startswith(b"HTTP/1.1 200")
            wait_until(gateway.answers)
