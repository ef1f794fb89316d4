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

    def __init__(
        self,
        config: Path,
        slot: str,
        listening: socket.socket,
        *,
        model: str | None = None,
        local: socket.socket | None = None,
    ) -> None:
        """
        Args:
            model: family of the served model; None for the first.
            local: where workers of other models hand on requests.
        """
        self._line, theirs = socket.socketpair()
        self._line.settimeout(30)
        handles = [listening.fileno(), theirs.fileno()]
        command = [
            *(sys.executable, "-m", "fedge.serving.worker", "--config", str(config)),
            *("--slot", slot, "--listen-fd", str(handles[0]), "--control-fd", str(handles[1])),
        ]
        if model is not None:
            command += ["--model", model]
        if local is not None:
            handles.append(local.fileno())
            command += ["--local-fd", str(local.fileno())]
        self.process = subprocess.Popen(command, pass_fds=handles)
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
        # Silence: it ended before it could say why, and left that on its standard error.
        assert said, f"it ended with {self.process.wait(10)}"
        assert said["event"] == "ready", said
        return self.serve_now()

    def serve_now(self) -> WorkerProcess:
        """For one that has said that it is ready."""
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
