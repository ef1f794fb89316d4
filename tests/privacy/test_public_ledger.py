"""Every ledger entry follows from public facts: rebuilt without a record, it is the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedge.config import TrainingSettings
from fedge.identity import Envelope
from fedge.learning.planning import plan_training
from fedge.privacy.ledger import FEATURES, LABELS, Ledger, Reservation
from fedge.privacy.noise import SeededNoise
from fedge.privacy.policy import label_event
from fedge.profiles.counts import window_event
from fedge.records import (
    DiscreteGaussianEvent,
    Participant,
    PrivacyPolicy,
    Reference,
    RoundRequest,
    RunSpec,
    sha256_hex,
)
from fedge.simulation.digits import digits_fleet
from fedge.simulation.fleet import FleetOptions, SimulatedFleet
from fedge.statefile import StateFile

WINDOWS, BLOCK_WINDOWS, DIMENSION = 4, 2, 26
NOT_PUBLIC_BEFORE = ("artefact_sha256", "at", "previous")
"""Hashes of noised bytes, times of the clock, and the chain over both."""


@dataclass(frozen=True)
class PublicFacts:
    """All that a rebuild may look at.

    Attributes:
        gateway: its public key.
        reference: of the release that serves.
        windows: (window, block) as windows closed, in order.
        watermark: further windows that close before a window's labels are counted.
        run: what the centre asked for after the last window.
    """

    gateway: bytes
    policy: PrivacyPolicy
    reference: Reference
    windows: Sequence[tuple[int, int]]
    watermark: int
    run: RunSpec


class Rebuilt:
    """A ledger that is written from public facts, with noise on nothing at all."""

    def __init__(self, facts: PublicFacts, state: StateFile) -> None:
        self.facts = facts
        self.ledger = Ledger(
            state,
            facts.policy,
            clock=lambda: 0.0,
            simulated=True,
            gateway=sha256_hex(facts.gateway)[:32],
            public_key=facts.gateway.hex(),
        )

    def play(self) -> None:
        """All windows, each with the labels that are due, and then the run."""
        blocks = dict(self.facts.windows)
        labels = label_event(self.facts.policy)
        features = window_event(
            self.facts.reference, self.facts.policy.window_rho, self.facts.policy.max_records
        )
        assert labels is not None
        for window, block in self.facts.windows:
            self.ledger.open_block(block)
            made = self.ledger.reserve_window(window, block, [features])
            self.noise(made, FEATURES, features)
            due = window - self.facts.watermark
            if due in blocks:
                owed = self.ledger.reserve_window(due, blocks[due], [labels], purpose=LABELS)
                self.noise(owed, LABELS, labels)
                self.settle(owed, LABELS)
            self.settle(made, FEATURES)
        self.run(blocks)

    def run(self, blocks: dict[int, int]) -> None:
        spec, (mine,) = self.facts.run, self.facts.run.participants
        read = [blocks[window] for window in range(mine.first_window, mine.last_window + 1)]
        made = self.ledger.reserve_run(
            spec.run_id,
            read,
            spec.plan.events,
            purposes=("training", "evaluation"),
            task=spec.task,
            base_release=spec.base_release,
            base_sha256=spec.base_sha256,
        )
        for number in range(spec.plan.rounds):
            event = spec.plan.round_event
            assert isinstance(event, DiscreteGaussianEvent)
            self.noise(made, f"{spec.run_id}/train/{number}", event)
            self.settle(made, f"{spec.run_id}/train/{number}")
        key = f"{spec.run_id}/evaluate/{spec.plan.rounds}"
        self.noise(made, key, spec.plan.evaluation_event)
        self.settle(made, key)

    def noise(self, made: Reservation, key: str, event: DiscreteGaussianEvent) -> None:
        SeededNoise(0).discrete_gaussian(
            np.zeros(event.dimension, dtype=np.int64),
            sensitivity2=event.sensitivity2,
            sigma2=event.sigma2,
            grant=self.ledger.grant(made, key, event),
        )

    def settle(self, made: Reservation, key: str) -> None:
        self.ledger.settle(made, key, sha256_hex(b"anything"), "seeded")


def played(folder: Path, seed: int) -> tuple[SimulatedFleet, PublicFacts]:
    """A simulated gateway that answered rows, got labels back, reported, and trained."""
    options = FleetOptions(
        gateways=1, seed=seed, block_windows=BLOCK_WINDOWS, label_rho=0.005, label_every=3
    )
    fleet = digits_fleet(folder, onset_windows={}, options=options)
    fleet.release_first()
    fleet.play(WINDOWS)
    (gateway,) = fleet.gateways
    agent = gateway.agent
    serving = agent.installer.status()
    installed = agent.installed.get(serving.release)
    spec = RunSpec(
        run_id="run-1",
        task=agent.settings.task,
        base_release=serving.release,
        base_sha256=serving.sha256,
        plan=plan_training(
            fleet.policy, TrainingSettings(rounds=1, steps=2, records=50), DIMENSION
        ),
        participants=(
            Participant(
                gateway=gateway.identity.fingerprint,
                public_key=gateway.identity.public_key.hex(),
                first_window=1,
                last_window=WINDOWS - 1,
            ),
        ),
        episodes=(),
    )
    facts = PublicFacts(
        gateway=gateway.identity.public_key,
        policy=fleet.policy,
        reference=installed.reference,
        windows=[(window, window // BLOCK_WINDOWS) for window in range(WINDOWS)],
        watermark=options.label_watermark_windows,
        run=spec,
    )
    return fleet, facts


def train(fleet: SimulatedFleet, facts: PublicFacts) -> None:
    """Ask for the run's one round and its evaluation."""
    arrays = np.zeros(DIMENSION, dtype="<f4").tobytes()
    (gateway,) = fleet.gateways
    for phase, number in (("train", 0), ("evaluate", 1)):
        request = RoundRequest.model_validate(
            {
                "spec": facts.run,
                "phase": phase,
                "round": number,
                "arrays_sha256": sha256_hex(arrays),
            }
        )
        sealed = gateway.agent.answer(request, arrays)
        Envelope.from_bytes(sealed).verify(facts.gateway)


def public(entries: Sequence[bytes]) -> list[dict[str, Any]]:
    """Entries without what only the noised bytes and the clock decide."""
    found = [json.loads(entry) for entry in entries]
    return [{k: v for k, v in entry.items() if k not in NOT_PUBLIC_BEFORE} for entry in found]


@pytest.mark.slow
def test_the_ledger_is_rebuilt_from_public_facts(tmp_path: Path) -> None:
    """Windows, labels and a run of a gateway with data, entry by entry as without any."""
    fleet, facts = played(tmp_path / "fleet", seed=5)
    train(fleet, facts)
    state = StateFile(tmp_path / "state.sqlite")
    try:
        rebuilt = Rebuilt(facts, state)
        rebuilt.play()

        real = fleet.gateways[0].agent.ledger
        assert public(rebuilt.ledger.entries()) == public(real.entries())
        kinds = [entry["kind"] for entry in public(real.entries())]
        assert {"created", "policy", "opened", "window", "run", "settled"} == set(kinds)
        assert kinds.count("settled") == 2 * WINDOWS - 1 + 2
        assert rebuilt.ledger.spendings() == real.spendings()
        rebuilt.ledger.check_chain()
        real.check_chain()
    finally:
        state.close()
        fleet.close()
