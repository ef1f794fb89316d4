from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.gateways import make_gateway
from fakes.workers import StartWorker, WorkerProcess

from fedge.config import GatewaySettings


@pytest.fixture
def gateway(tmp_path: Path) -> GatewaySettings:
    return make_gateway(tmp_path)


@pytest.fixture
def start_worker(gateway: GatewaySettings) -> Iterator[StartWorker]:
    """Starts workers of the gateway on one shared listening socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    workers: list[WorkerProcess] = []

    def start(slot: str) -> WorkerProcess:
        config = gateway.state_dir.parent / "gateway.toml"
        workers.append(WorkerProcess(config, slot, listening))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()
    listening.close()


@pytest.fixture
def start() -> Iterator[Callable[[Callable[[], None]], int]]:
    """Runs a function in a process of its own and gives its id; all are ended after the test."""
    children: list[int] = []

    def fork(action: Callable[[], None]) -> int:
        child = os.fork()
        if child == 0:
            try:
                action()
            finally:
                os._exit(1)
        children.append(child)
        return child

    yield fork
    for child in children:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
