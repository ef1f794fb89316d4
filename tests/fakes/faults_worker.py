"""A real worker beside a gateway whose disk fails, and a caller that minds every answer."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.faults_disk import Fault, FaultyDisk, calls
from fakes.gateways import FAMILY, Caller, infer_body, toy_inputs
from fakes.workers import WorkerProcess

from fedge.config import GatewaySettings
from fedge.serving.stats import read_stats


class ServedGateway:
    """The worker of a gateway's slot A, on a port of its own.

    Args:
        config: the gateway's `gateway.toml`.
        below: the state directory.
        fault: what becomes of the worker's own writes.
    """

    def __init__(
        self, config: Path, below: Path, disk: FaultyDisk, fault: Fault | None = None
    ) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._log = config.parent / "worker-calls.log"
        self._log.unlink(missing_ok=True)
        before = dict(os.environ)
        os.environ.update(disk.environment(below, self._log, fault or Fault()))
        try:
            self.worker = WorkerProcess(config, "A", self._listening)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self._seed, self._runtime = 0, GatewaySettings.load(config).runtime_dir
        self.record_ids: list[str] = []
        self.said = self.worker.hear()

    def serve(self) -> ServedGateway:
        """For one that should be ready."""
        assert self.said["event"] == "ready", self.said
        self.worker.serve_now()
        self._caller = Caller(self.worker.port)
        return self

    def ask(self, rows: int) -> None:
        """That many requests of one row, each of which must be answered."""
        for _ in range(rows):
            self._seed += 1
            status, answer = self._caller.infer(toy_inputs(1, seed=self._seed))
            assert status == 200, answer
            self.record_ids += answer["parameters"]["fedge_record_ids"]

    def ask_about(self, subject: str) -> int:
        """A request that names a subject; answers the status."""
        request = json.loads(infer_body(toy_inputs(1)))
        body = json.dumps({**request, "parameters": {"fedge_subject": subject}}).encode()
        return self._caller.ask("POST", f"/v2/models/{FAMILY}/infer", body)[0]

    def observed(self) -> bool:
        """Whether rows are observed, by its own word and by its counters."""
        (counters,) = self._runtime.glob("stats-*-A.bin")
        told, counted = self._status()["observed"], read_stats(counters)["observed"]
        return bool(told) and bool(counted)

    def next_slot(self) -> int:
        return int(self._status()["next_slot"])

    def _status(self) -> dict[str, Any]:
        found: dict[str, Any] = self._caller.ask("GET", "/fedge/v1/status")[1]
        return found

    def label(self, record_id: str, label: str) -> tuple[int, Any]:
        """Feed back a label; answers status and answer."""
        body = f'{{"labels": [{{"id": "{record_id}", "label": "{label}"}}]}}'.encode()
        status, answer, _ = self._caller.ask("POST", "/fedge/v1/feedback", body)
        return status, answer

    def calls(self) -> list[str]:
        """What it did to files of the state directory."""
        return calls(self._log)

    def close(self) -> None:
        self.worker.close()
        self._listening.close()


Serve = Callable[..., ServedGateway]
