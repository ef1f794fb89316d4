"""Asking an agent: the other end of its admin socket, in the standard library alone."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from fedge.errors import OutboundError, SettingError, StateError

STATUS_TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 600.0
"""An erasure rewrites every file that holds a row of it."""


def admin_socket(runtime_dir: Path, family: str | None = None) -> Path:
    """Where an agent listens; `family` for every served model but the first."""
    return runtime_dir / ("agent-admin.sock" if family is None else f"agent-admin-{family}.sock")


class AdminClient:
    """One agent's admin socket; every call opens a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def status(self) -> dict[str, Any]:
        """The agent's own facts; see `ask`."""
        return self.ask("status", timeout_s=STATUS_TIMEOUT_S)

    def ask(
        self, command: str, *, timeout_s: float = COMMAND_TIMEOUT_S, **fields: object
    ) -> dict[str, Any]:
        """Have the agent do `command`; answers what it said.

        Raises:
            OutboundError: the agent does not answer; it is unknown whether the command took
                effect, and asking again is safe.
            SettingError: what was asked is wrong; nothing was done.
            StateError: the agent could not do it.
        """
        # ensure_ascii: a subject in any script, lone surrogates included, stays one line.
        line = json.dumps({"command": command, **fields}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout_s)
                connection.connect(str(self._path))
                connection.sendall(line)
                with connection.makefile("rb") as answers:
                    answer: dict[str, Any] = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            raise OutboundError(
                f"the agent does not answer at {self._path} ({error!r}); does the gateway run?"
            ) from error
        if answer.pop("ok"):
            return answer
        if answer["code"] == "failed":
            raise StateError(f"the agent could not: {answer['detail']}")
        raise SettingError(f"the agent refused: {answer['detail']}")
