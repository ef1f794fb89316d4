"""The supervisor's control socket: one JSON object a line, each answered by one.

Whoever may open the socket (its owner alone) may ask; what a command means belongs to
whoever answers. Standard library alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from fedge.errors import SettingError
from fedge_client.slot_keeper import CommandError

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 4096

Answer = Callable[[dict[str, object]], Awaitable[dict[str, object]]]


class ControlPort:
    """Listens on `path` from `open` to `close`.

    Args:
        answer: carries out a command and returns its facts, or raises `CommandError`.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path, self._answer = path, answer
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        """Start to answer.

        Raises:
            SettingError: the socket cannot be made there.
        """
        mask = os.umask(0o177)
        try:
            self._path.unlink(missing_ok=True)  # left by a killed supervisor
            self._server = await asyncio.start_unix_server(
                self._converse, self._path, limit=MAX_LINE_BYTES
            )
        except OSError as error:  # a path longer than 107 bytes, most of all
            raise SettingError(f"cannot open the control socket {self._path}: {error}") from error
        finally:
            os.umask(mask)

    def close(self) -> None:
        """Take no more callers; the socket's file is gone."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                writer.write(json.dumps(await self._reply(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _reply(self, line: bytes) -> dict[str, object]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            return {"ok": False, "code": "misuse", "detail": "not a command"}
        try:
            return {"ok": True, **await self._answer(request)}
        except CommandError as error:
            log.warning("%s: %s", request["command"][:64], error)
            return {"ok": False, "code": error.code, "detail": error.detail}
