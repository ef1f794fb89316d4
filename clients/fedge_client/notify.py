"""Telling systemd how the gateway is: the protocol of sd_notify(3), and its watchdog.

A datagram to the socket that `NOTIFY_SOCKET` names; without one nothing happens. That
nobody listens is no reason to stop serving: a datagram that cannot be sent is dropped.
Standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping


class Notifier:
    """The line to the service manager.

    Args:
        address: of its datagram socket; `@` begins an abstract one; empty: nobody listens.
        watchdog_s: it expects a sign of life within so many seconds; None: it expects none.
    """

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s
        self._last_status = ""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Notifier:
        """Take the variables out of `environment`: they are for this process, not its children."""
        address = environment.pop("NOTIFY_SOCKET", "")
        micros, pid = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        ours = pid in ("", str(os.getpid())) and micros.isascii() and micros.isdigit()
        watchdog_s = int(micros) / 1e6 if ours and int(micros) > 0 else None
        return cls(address, watchdog_s)

    def ready(self) -> None:
        """Start-up is over."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """Shutdown began."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """A sign of life for the watchdog."""
        self._tell("WATCHDOG=1")

    def status(self, line: str) -> None:
        """One line for people; sent only where it changed."""
        line = line.replace("\n", " ")
        if line != self._last_status:
            self._last_status = line
            self._tell(f"STATUS={line}")

    def _tell(self, message: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line,
        ):
            # A manager that does not read must not stop the gateway.
            line.setblocking(False)
            line.connect(self._address)
            line.send(message.encode())
