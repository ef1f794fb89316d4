"""A real inference worker, started and told what to do as a supervisor would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class WorkerProcess:
    """A real worker on a socket of ours, driven through its control line."""

    def __init__(self, config: Path, slot: str, listening: socket.socket) -> None:
        self._line, theirs = socket.socketpair()
        self._line.settimeout(30)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "fedge.serving.worker", "--config", str(config)),
                *("--slot", slot, "--listen-fd", str(listening.fileno())),
                *("--control-fd", str(theirs.fileno())),
            ],
            pass_fds=(listening.fileno(), theirs.fileno()),
        )
        theirs.close()
        self._answers = self._line.makefile("rb")
        self.port: int = listening.getsockname()[1]

    def tell(self, command: str, **facts: object) -> None:
        self._line.sendall(json.dumps({"command": command, **facts}).encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        line = self._answers.readline()
        return dict(json.loads(line)) if line else {}

    def serve(self) -> WorkerProcess:
        said = self.hear()
        assert said["event"] == "ready", said
        self.tell("serve")
        assert self.hear()["event"] == "serving"
        return self

    def hang_up(self) -> None:
        self._line.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self._answers.close()
        self._line.close()


StartWorker = Callable[[str], WorkerProcess]
