"""The agent's admin socket: for its own user alone, one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedge.errors import OutboundError, RecordError, SettingError, StateError
from fedge_client.admin_client import AdminClient, admin_socket
from fedge_client.agent.admin_port import MAX_CONNECTIONS, AdminPort


def echo(request: dict[str, Any]) -> dict[str, Any]:
    return {"heard": request}


def refuse(_: dict[str, Any]) -> dict[str, Any]:
    raise RecordError("that is no id")


def fail(_: dict[str, Any]) -> dict[str, Any]:
    raise StateError("no space left")


def break_down(request: dict[str, Any]) -> dict[str, Any]:
    raise ValueError(request["subject"])


COMMANDS = {"echo": echo, "refuse": refuse, "fail": fail, "break": break_down}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return admin_socket(tmp_path)


@pytest.fixture
def port(path: Path) -> Iterator[AdminPort]:
    port = AdminPort(path, COMMANDS)
    yield port
    port.close()


def exchange(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    """Send raw lines over one connection; the answers until the other side closes."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        connection.sendall(b"".join(lines))
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


def test_each_served_model_has_its_own(tmp_path: Path) -> None:
    """The first model's has the plain name."""
    assert admin_socket(tmp_path).name == "agent-admin.sock"
    assert admin_socket(tmp_path, "pump").name == "agent-admin-pump.sock"


@pytest.mark.usefixtures("port")
class TestAnswers:
    def test_a_command_gets_its_fields_and_answers(self, path: Path) -> None:
        """Any text comes through."""
        assert AdminClient(path).ask("echo", subject="Ö\ud800\n", n=1) == {
            "heard": {"subject": "Ö\ud800\n", "n": 1}
        }

    @pytest.mark.parametrize(
        ("command", "error"),
        [("refuse", SettingError), ("fail", StateError), ("unknown", SettingError)],
    )
    def test_errors_say_who_must_act(
        self, path: Path, command: str, error: type[Exception]
    ) -> None:
        """Whoever asked, or whoever looks after the host."""
        with pytest.raises(error):
            AdminClient(path).ask(command)

    def test_a_bug_is_answered_and_quotes_nothing(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What was asked may say who a record is about."""
        with pytest.raises(StateError) as caught:
            AdminClient(path).ask("break", subject="patient 17")

        assert "patient" not in str(caught.value)
        assert all(
            "patient" not in record.getMessage()
            for record in caplog.records
            if record.levelno > logging.DEBUG
        )
        assert AdminClient(path).ask("echo") == {"heard": {}}

    @pytest.mark.parametrize(
        "line",
        [
            b"\n",
            b"{}\n",
            b"[]\n",
            b"\xff\n",
            b'{"command": []}\n',
            b"[" * 100_000 + b"\n",
            b'"x"\n',
        ],
    )
    def test_what_is_no_command_is_refused(self, path: Path, line: bytes) -> None:
        """And the same connection goes on."""
        first, second = exchange(path, line, b'{"command": "echo"}\n')

        assert (first["ok"], first["code"]) == (False, "misuse")
        assert second == {"ok": True, "heard": {}}

    def test_a_line_without_end_is_refused(self, path: Path) -> None:
        """It never became a command."""
        (answer,) = exchange(path, b'{"command": "echo"}')

        assert answer["code"] == "misuse"

    def test_a_peer_that_says_nothing_holds_nobody_up(self, path: Path) -> None:
        """Others are answered beside it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
            silent.connect(str(path))
            assert AdminClient(path).ask("echo") == {"heard": {}}


def test_status_is_answered_while_another_command_runs(path: Path) -> None:
    """An erasure takes its time; the supervisor still sees that the agent lives."""
    go_on = threading.Event()

    def long(_: dict[str, Any]) -> dict[str, Any]:
        assert go_on.wait(30)
        return {}

    port = AdminPort(path, {"status": echo, "erase": long})
    try:
        erasing = threading.Thread(target=AdminClient(path).ask, args=("erase",))
        erasing.start()
        assert AdminClient(path).status() == {"heard": {}}
        go_on.set()
        erasing.join(30)
    finally:
        go_on.set()
        port.close()


def test_connections_are_bounded(port: AdminPort, path: Path) -> None:
    """Many one after the other are all answered."""
    client = AdminClient(path)
    for number in range(3 * MAX_CONNECTIONS):
        assert client.ask("echo", n=number) == {"heard": {"n": number}}


def test_a_silent_agent_is_an_outbound_error(path: Path) -> None:
    """Nobody listens, or nobody answers in time."""
    with pytest.raises(OutboundError):
        AdminClient(path).status()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(path))
        deaf.listen(1)
        with pytest.raises(OutboundError):
            AdminClient(path).ask("status", timeout_s=0.05)


def test_a_path_that_is_no_socket_path_is_named(tmp_path: Path) -> None:
    """Where the socket cannot be made, the error says which one."""
    path = tmp_path / ("x" * 108)

    with pytest.raises(SettingError, match=path.name):
        AdminPort(path, COMMANDS)


def test_the_socket_is_the_owners_alone(port: AdminPort, path: Path) -> None:
    """No group may have records erased; a left-over file is replaced, and removed at the end."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    port.close()
    assert not path.exists()

    path.touch()
    again = AdminPort(path, COMMANDS)
    assert AdminClient(path).ask("echo") == {"heard": {}}
    again.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused(port: AdminPort, tmp_path: Path, path: Path) -> None:
    """Also where the file's mode would let it in: the peer's credentials are checked."""
    path.chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            mode = folder.stat().st_mode
            folder.chmod(mode | 0o011)
    code = (
        "import os, socket, sys\nos.setgid(65534)\nos.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
        'try:\n    s.sendall(b\'{"command": "echo"}\\n\')\n    print(s.recv(99))\n'
        "except OSError:\n    print(b'')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )

    assert done.stdout.strip() == "b''"
