"""Everything that can be known about a running gateway, gathered for whoever operates it.

From the supervisor's own processes, from the counters that each worker keeps in a mapped
file, and from the agent's admin socket, which may be down. This is for the machine's own
operator: it holds local facts as well. What of it may be exported is decided in `metrics`.
Standard library alone.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

from fedge.errors import StateError
from fedge.serving.escalation_counts import counts_path, read_counts
from fedge.serving.stats import read_stats, stats_path
from fedge_client.admin_client import admin_socket
from fedge_client.children import Companion, Worker
from fedge_client.slot_keeper import SlotKeeper

AGENT_TIMEOUT_S = 1.0
MAX_ANSWER_BYTES = 2**20
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class GatewayFacts:
    """Gathers facts; holds none.

    Args:
        started_at: of this supervisor, Unix seconds.
        keepers: of the served models, the first one's first.
    """

    def __init__(
        self,
        runtime_dir: Path,
        keepers: Sequence[SlotKeeper],
        companions: Sequence[Companion],
        started_at: float,
    ) -> None:
        self._runtime_dir, self._keepers, self._companions = runtime_dir, keepers, companions
        self._started_at = started_at
        self.port = self.ops_port = -1

    async def gather(self) -> dict[str, object]:
        """One document: `supervisor`, `processes` by name, `models` by family.

        A model's `worker` is None while none serves, its `agent` while the agent does not
        answer within a second.
        """
        agents = await asyncio.gather(*(self._ask_agent(keeper) for keeper in self._keepers))
        return {
            "supervisor": {
                "pid": os.getpid(),
                "started_at": self._started_at,
                "memory_bytes": memory_bytes(os.getpid()),
                "port": self.port,
                "ops_port": self.ops_port,
            },
            "processes": {companion.name: _process(companion) for companion in self._companions},
            "models": {
                keeper.model.family: {**self._model(keeper), "agent": agent}
                for keeper, agent in zip(self._keepers, agents, strict=True)
            },
        }

    def _model(self, keeper: SlotKeeper) -> dict[str, object]:
        record, worker = keeper.record, keeper.current
        return {
            "slot": record.slot if record else None,
            "fallback": record.fallback if record else None,
            "trial": keeper.trial_slot,
            "worker_restarts": keeper.restarts,
            "worker": self._worker(keeper.model.family, worker) if worker else None,
        }

    def _worker(self, family: str, worker: Worker) -> dict[str, object]:
        probes = dict(worker.report or {})
        stats = counters(self._runtime_dir, family, worker)
        escalations = _escalations(self._runtime_dir, family, worker)
        return {
            "pid": worker.pid,
            "memory_bytes": memory_bytes(worker.pid),
            **probes,
            **stats,
            **escalations,
        }

    async def _ask_agent(self, keeper: SlotKeeper) -> dict[str, object] | None:
        family = None if keeper is self._keepers[0] else keeper.model.family
        try:
            async with asyncio.timeout(AGENT_TIMEOUT_S):
                return await _ask(admin_socket(self._runtime_dir, family))
        except (OSError, ValueError, TimeoutError):
            return None


def counters(runtime_dir: Path, family: str, worker: Worker) -> dict[str, object]:
    """What this very worker counted; empty where it has no counters (yet)."""
    try:
        stats = read_stats(stats_path(runtime_dir, family, worker.slot))
    except StateError:
        return {}
    return stats if stats["pid"] == worker.pid else {}


def _escalations(runtime_dir: Path, family: str, worker: Worker) -> dict[str, object]:
    """How often requests went on to a larger model; empty where that is switched off."""
    try:
        return {"escalations": read_counts(counts_path(runtime_dir, family, worker.slot))}
    except StateError:
        return {}


def memory_bytes(pid: int) -> int:
    """Resident memory of a process, shared pages included; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def _process(companion: Companion) -> dict[str, object]:
    pid = companion.pid
    return {
        "pid": pid,
        "restarts": companion.restarts,
        "memory_bytes": memory_bytes(pid) if pid is not None else 0,
    }


async def _ask(path: Path) -> dict[str, object] | None:
    """The agent's own status; None where it refuses."""
    reader, writer = await asyncio.open_unix_connection(path, limit=MAX_ANSWER_BYTES)
    try:
        writer.write(b'{"command": "status"}\n')
        answer = json.loads(await reader.readline())
    finally:
        writer.close()
    if not isinstance(answer, dict) or answer.pop("ok", False) is not True:
        return None
    return answer
