"""The unix socket on which the agent takes its own operator's commands.

For this user and root alone: who may ask here may have records erased. One JSON object a
line, `{"command": ...}`, is answered by one line, `{"ok": true, ...}` or
`{"ok": false, "code": ..., "detail": ...}`. What the commands do belongs to those who
give them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedge.errors import FedgeError, RecordError, SettingError
from fedge_client.peers import Peer
from fedge_client.sockets import bind_local, close_local

log = logging.getLogger(__name__)

Command = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the request's fields, answers those of the answer."""

MAX_REQUEST_BYTES = 4 * 2**20
MAX_CONNECTIONS = 8
READ_TIMEOUT_S = 10.0


def answer_command(commands: Mapping[str, Command], line: bytes) -> dict[str, Any]:
    """The answer to one line. Codes: `misuse`, `refused` (ask otherwise), `failed`."""
    try:
        request = json.loads(line)
        command = request.pop("command")
        run = commands[command]
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return _refusal("misuse", f"not understood; commands are {', '.join(sorted(commands))}")
    # Fields are not logged: they may say who a record is about.
    try:
        return {"ok": True, **run(request)}
    except (SettingError, RecordError) as error:
        return _refusal("refused", str(error))
    except FedgeError as error:
        log.error("%s failed: %s", command, error)
        return _refusal("failed", str(error))
    except Exception as error:  # whatever a command provokes, the next one is still answered
        # The traceback without its message: that could quote the request.
        log.error("%s failed: %s", command, type(error).__name__)
        log.debug("%s failed", command, exc_info=True)
        return _refusal("failed", f"a bug in the agent: {type(error).__name__}")


class AdminPort:
    """Serves `commands` on a unix socket until `close`.

    Connections are served beside each other, so that `status` is answered while an erasure
    runs; commands see to their own locking.

    Args:
        path: the socket; a file left there by a killed agent is replaced.
        commands: what may be asked, by name.

    Raises:
        SettingError: the socket cannot be made there.
    """

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        self._path, self._commands = path, commands
        self._socket = bind_local(path)
        self._socket.listen(MAX_CONNECTIONS)
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._thread = threading.Thread(target=self._serve, name="admin-port", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections and remove the socket; waits up to 5 s for its thread."""
        close_local(self._socket, self._path)
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            if not Peer.of(connection).is_owner:
                log.warning("refused a peer of another user")
                connection.close()
                continue
            if not self._free.acquire(timeout=READ_TIMEOUT_S):
                connection.close()
                continue
            threading.Thread(
                target=self._exchange, args=(connection,), name="admin-command", daemon=True
            ).start()

    def _exchange(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):  # a peer that went away
                connection.settimeout(READ_TIMEOUT_S)
                with connection.makefile("rb") as lines:
                    while line := lines.readline(MAX_REQUEST_BYTES + 1):
                        whole = line.endswith(b"\n")
                        answer = (
                            answer_command(self._commands, line)
                            if whole
                            else _refusal("misuse", f"no line of {MAX_REQUEST_BYTES} bytes at most")
                        )
                        connection.sendall(json.dumps(answer).encode() + b"\n")
                        if not whole:
                            return
        finally:
            self._free.release()


def _refusal(code: str, detail: str) -> dict[str, Any]:
    return {"ok": False, "code": code, "detail": detail}
