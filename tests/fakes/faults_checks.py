"""What must hold when an agent's process was killed at a write, or a write was refused.

A disturbed run, and another one after it, come to the same as a run without any fault.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from fakes.faults_disk import Fault, How
from fakes.faults_gateway import (
    BLOCK_WINDOWS,
    DEADLINE_S,
    FaultyGateway,
    MakeFaulty,
    Outcome,
    row_inputs,
)
from fakes.gateways import WINDOW_SLOTS, wait_until

from fedge.errors import OutboundError, StateError
from fedge.identity import Identity
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import read_policy
from fedge.serving.record_ids import RecordId, id_prefix
from fedge.statefile import StateFile

KILLED, STOPPED, NOT_STARTED = -9, 0, 1


@dataclass(frozen=True)
class Undisturbed:
    """What a run without any fault wrote, and what came of it."""

    calls: tuple[str, ...]
    outcome: Outcome


def sorts_of(calls: Iterable[str]) -> dict[str, int]:
    """One call of each sort (what it does to which sort of file): its number."""
    return {re.sub(r"[0-9a-f]{8,}|[0-9]+", "*", call): number for number, call in enumerate(calls)}


def sample(calls: tuple[str, ...], count: int, offset: int) -> list[int]:
    """Numbers of `count` calls: those of a rare sort first, then others, evenly."""
    rare = sorted(sorts_of(calls).values())
    picked = rare[offset :: max(1, -(-len(rare) // (count // 2)))]
    left = count - len(picked)
    even = [(2 * index + 1 + offset % 2) * len(calls) // (2 * left + 1) for index in range(left)]
    return sorted({*picked, *even})


def check_disturbed(
    make_faulty: MakeFaulty, undisturbed: Undisturbed, how: How, number: int
) -> None:
    """A run that is disturbed at one write, and another one after it if it ended."""
    gateway = make_faulty()
    ended = gateway.run(Fault(how, number))
    told = f"{how.name} at {number}: {gateway.calls()[number : number + 1]}\n{gateway.said()}"
    if how in (How.KILL_BEFORE, How.KILL_WITHIN):
        assert ended == (KILLED if len(gateway.calls()) > number else STOPPED), told
    else:
        # One that cannot start says so, and its supervisor tries again.
        assert ended in (STOPPED, NOT_STARTED), told
        assert "Traceback" not in gateway.said(), told
    if ended != STOPPED:
        assert gateway.run() == STOPPED, told
    outcome = gateway.outcome()
    # Only what a killed process was noising may be missing, and the ledger says so.
    assert len(outcome.gaps) <= (ended == KILLED), told
    assert outcome == undisturbed.outcome.with_gaps(outcome.gaps), told
    shutil.rmtree(gateway.config.parent)


# --- erasing ------------------------------------------------------------------------------------

STORED, WAITING = 12, 41
"""Slots of two labelled rows to be erased: one in the block store, one of the open window."""


class Erasing:
    """A gateway that holds all rows, and is asked to erase two of them."""

    def __init__(self, gateway: FaultyGateway) -> None:
        self.gateway = gateway
        self.state_dir = gateway.state_dir
        prefix = id_prefix(Identity.load(self.state_dir / "identity.pem").fingerprint)
        block = BLOCK_WINDOWS * WINDOW_SLOTS
        self.ids = [str(RecordId(prefix, slot // block, slot)) for slot in (STORED, WAITING)]

    def run(self, fault: Fault | None = None, *, ask: bool = True) -> int:
        """Start the agent, ask it to erase; answers its exit status.

        Args:
            ask: False lets it only finish what was begun.
        """
        gateway = self.gateway
        gateway.start(fault)
        if gateway.wait(gateway.answers, "the agent answers"):
            try:
                if ask:
                    self.asked_at = len(gateway.calls())
                    gateway.admin.ask("erase", record_ids=self.ids)
                else:
                    wait_until(self._finished, DEADLINE_S, "unfinished erasures")
            except (OutboundError, StateError):
                assert fault is not None
        return gateway.stop()

    def _finished(self) -> bool:
        return bool(self.gateway.admin.status()["local"]["unfinished_erasures"] == 0)

    def begun(self) -> bool:
        """Whether anything of the erasure is on the disk."""
        return bool(self.gateway.rows("SELECT slot FROM block_tombstones"))

    def traces(self) -> set[tuple[str, int]]:
        """Files that hold the input values of a row that was to be erased, and its slot."""
        rows = row_inputs()
        return {
            (path.relative_to(self.state_dir).as_posix(), slot)
            for path in self.state_dir.rglob("*")
            if path.is_file()
            for slot in (STORED, WAITING)
            if rows[slot].tobytes() in path.read_bytes()
        }

    def check_gone(self, told: str) -> None:
        assert self.traces() == set(), told
        assert [*self.gateway.labels()] == [1, 23, 25, 39], told
        left = [path for path in self.state_dir.rglob("*") if ".part" in path.name]
        assert left == [], told
        with contextlib.closing(StateFile(self.state_dir / "state.sqlite")) as state:
            policy = read_policy(self.state_dir / "policy.toml")
            ledger = Ledger(state, policy, clock=lambda: 2e9, simulated=True)
            ledger.check_chain()
            entries = map(json.loads, ledger.entries())
            erased = [e["records"] for e in entries if e["kind"] == "erased"]
        # Once, whatever came between: how many were asked for, not how many were found when.
        assert set(erased) == {len(self.ids)}, told


def check_erasing(make_faulty: MakeFaulty, of: FaultyGateway, how: How, number: int) -> None:
    erasing = Erasing(make_faulty(of))
    ended = erasing.run(Fault(how, number))
    assert ended == (KILLED if len(erasing.gateway.calls()) > number else STOPPED)
    told = f"{how.name} at {number}: {erasing.gateway.calls()[-1:]}\n{erasing.gateway.said()}"
    if erasing.begun():
        assert erasing.run(ask=False) == STOPPED, told
    else:
        assert erasing.run() == STOPPED, told
    erasing.check_gone(told)
    shutil.rmtree(erasing.gateway.config.parent)
