"""Telling local alarms to a program on this host: one POST with JSON for each.

To a loopback address alone, by its number, without a proxy and without following anybody
elsewhere. Whoever listens there may be slow, gone or hostile: alarms wait in a short queue,
each is tried a few times, one attempt takes a bounded time, and nothing waits for it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
from collections import deque
from collections.abc import Mapping
from urllib.parse import urlsplit

from fedge.config import names_loopback
from fedge.errors import SettingError

log = logging.getLogger(__name__)

ROOM, ATTEMPTS, TIMEOUT_S = 64, 3, 2.0
LOOK_S, RETRY_S = 1.0, 5.0
"""Seconds between looks at the queue, and after an attempt that failed."""


class AlarmWebhook:
    """Posts alarms to one address.

    Attributes:
        sent: alarms that were answered with a 2xx.
        given_up: those that were not, after `ATTEMPTS` attempts, or that found no room.

    Raises:
        SettingError: the address is none of this host.
    """

    def __init__(self, url: str) -> None:
        if not names_loopback(url):
            raise SettingError("local alarms go to a loopback address over http, nowhere else")
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._waiting: deque[bytes] = deque()
        self._tries = 0
        self.sent = self.given_up = 0

    @property
    def waiting(self) -> int:
        """Alarms that wait to be told."""
        return len(self._waiting)

    def enqueue(self, alarm: Mapping[str, object]) -> None:
        """Let an alarm wait for the next look; never blocks. Where there is no room it is lost."""
        if len(self._waiting) >= ROOM:
            self.given_up += 1
            return
        self._waiting.append(json.dumps(alarm, sort_keys=True).encode())

    def deliver(self) -> float:
        """Try the oldest alarm once; answers the seconds until the next attempt or look."""
        if not self._waiting:
            return LOOK_S
        status = self._attempt(self._waiting[0])
        if 200 <= status < 300:
            self.sent += 1
        else:
            self._tries += 1
            if self._tries < ATTEMPTS:
                return RETRY_S
            self.given_up += 1
            log.warning("a local alarm could not be told to the webhook")
        self._waiting.popleft()
        self._tries = 0
        return 0.0 if self._waiting else LOOK_S

    def _attempt(self, body: bytes) -> int:
        """The answer's status; 0 where there was none in time."""
        line = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)
        with contextlib.closing(line):
            try:
                headers = {"Content-Type": "application/json", "Connection": "close"}
                line.request("POST", self._path, body, headers)
                # One read, so that an answer that comes drop by drop ends in time, too.
                answer = line.sock.recv(64).split(b" ")
                return int(answer[1]) if answer[0] in (b"HTTP/1.1", b"HTTP/1.0") else 0
            except (OSError, http.client.HTTPException, ValueError, IndexError):
                return 0
