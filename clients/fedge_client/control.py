"""Talking to the supervisor: the installer's `SlotSwitch`, and status for whoever asks."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from fedge.delivery.switch import ProbeReport, Slot
from fedge.errors import OutboundError, TrialFailedError

ANSWER_TIMEOUT_S = 30.0
TRIAL_TIMEOUT_S = 150.0
"""A trial may have to wait for one that was asked for before: two starts and a bit."""


class SupervisorClient:
    """A `SlotSwitch` over the supervisor's socket, for one served model.

    Args:
        model: the model's family; None for the gateway's first.

    Every call opens a connection of its own and raises `OutboundError` when the supervisor
    does not answer; it is then unknown whether the call took effect.
    """

    def __init__(self, path: Path, model: str | None = None) -> None:
        self._path, self._model = path, model

    def status(self) -> dict[str, Any]:
        """The supervisor's public facts: slot, fallback, trial, port, processes, restarts."""
        return self._ask("status")

    def facts(self) -> dict[str, Any]:
        """All that is known about the gateway, local facts included; see `GatewayFacts`."""
        return self._ask("facts")

    def worker_restarts(self) -> int:
        """How often the active worker ended without being asked to."""
        return int(self.status()["worker_restarts"])

    def active(self) -> Slot | None:
        """The slot whose worker owns the socket; None before the first takeover."""
        slot: Slot | None = self.status()["slot"]
        return slot

    def trial(self, slot: Slot) -> ProbeReport:
        """Start a worker on `slot` beside the active one and run its probes.

        Raises:
            TrialFailedError: it did not start or failed a probe; its process is gone.
        """
        facts = self._ask("trial", slot, timeout_s=TRIAL_TIMEOUT_S)
        return ProbeReport(
            latency_us=float(facts["latency_us"]), golden_max_abs=float(facts["golden_max_abs"])
        )

    def takeover(self, slot: Slot) -> None:
        """Hand the socket to the worker that passed its trial in `slot`.

        Raises:
            TrialFailedError: there is no such worker any more.
        """
        self._ask("takeover", slot, timeout_s=TRIAL_TIMEOUT_S)

    def discard(self, slot: Slot) -> None:
        """End a trial in `slot` and never fall back to it."""
        self._ask("discard", slot, timeout_s=TRIAL_TIMEOUT_S)

    def _ask(
        self, command: str, slot: str | None = None, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> dict[str, Any]:
        named = {"command": command, "slot": slot, "model": self._model}
        request = {name: value for name, value in named.items() if value is not None}
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(timeout_s)
                connection.connect(str(self._path))
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile("rb") as answers:
                    answer = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            raise OutboundError(
                f"the supervisor does not answer at {self._path} ({error!r}); does the gateway run?"
            ) from error
        return self._checked(answer)

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        ok = answer.pop("ok")
        if ok:
            return answer
        code, detail = answer["code"], answer["detail"]
        if code == "trial-failed":
            raise TrialFailedError(detail)
        if code == "misuse":
            raise RuntimeError(f"the supervisor refused: {detail}")
        raise OutboundError(f"the supervisor could not: {detail}")
