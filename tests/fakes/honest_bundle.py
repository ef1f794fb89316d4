"""A real bundle of two gateways: real ledgers, real noise, heads confirmed by a coordinator.

Everything that a ledger can hold in honest use is in it: a signed policy and a lower one after
it, windows with features and labels, a run that both gateways took part in, an erasure.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedge.identity import Artefact, Envelope, EnvelopeKind, Identity
from fedge.privacy.approval import approve
from fedge.privacy.heads import sign_head, witness_head
from fedge.privacy.ledger import LABELS, Ledger, Reservation
from fedge.privacy.merkle import tree_hash
from fedge.privacy.noise import OsNoise, SeededNoise
from fedge.privacy.policy import new_policy
from fedge.records import (
    BlockLength,
    DiscreteGaussianEvent,
    Participant,
    PrivacyEvent,
    PrivacyPolicy,
    RunSpec,
    TrainingPlan,
    sha256_hex,
)
from fedge.review.bundle import write_bundle
from fedge.review.source import BundleSource, GatewayLedger, ReleaseFact, RunFact
from fedge.statefile import StateFile

REVIEWER = Identity.from_seed(b"\x0a" * 32)
CENTRE = Identity.from_seed(b"\x0b" * 32)
STRANGER = Identity.from_seed(b"\x0c" * 32)
OWN, OTHER = Identity.from_seed(b"\x01" * 32), Identity.from_seed(b"\x02" * 32)

BEGAN = 1_700_000_000.0
"""When the first entry is written; the rest follows by the second."""
MADE_AT = BEGAN + 1_000.0
BASE_SHA256 = "ab" * 32
BLOCK = BlockLength(kind="windows", value=3)
FEATURES_EVENT = DiscreteGaussianEvent(sensitivity2=9, sigma2=250, count=1, dimension=12)
LABELS_EVENT = DiscreteGaussianEvent(sensitivity2=1, sigma2=100, count=1, dimension=2)
PLAN = TrainingPlan(
    adapter="input",
    rounds=2,
    steps=5,
    clip=1.0,
    learning_rate=0.5,
    divisor=300,
    grid_bits=10,
    sigma2=100 * 2**20,
    evaluation_sigma2=400,
    dimension=3,
)
RUN = RunSpec(
    run_id="run-1",
    task="digits",
    base_release=1,
    base_sha256=BASE_SHA256,
    plan=PLAN,
    participants=tuple(
        Participant(
            gateway=who.fingerprint, public_key=who.public_key.hex(), first_window=0, last_window=2
        )
        for who in (OWN, OTHER)
    ),
    episodes=("episode-1",),
)


def policy_of(epsilon: float, **changes: object) -> PrivacyPolicy:
    made = new_policy(epsilon=epsilon, delta=1e-5, block=BLOCK, label_rho=0.008)
    return made.model_copy(update=changes)


@dataclass
class Site:
    """One gateway: its ledger, and what it sent."""

    identity: Identity
    state: StateFile
    policy: PrivacyPolicy
    simulated: bool = False
    artefacts: list[Artefact] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ticks = itertools.count(int(BEGAN))
        self._numbers = {"push": itertools.count(), "reply": itertools.count()}
        self.noise = SeededNoise(1) if self.simulated else OsNoise()
        self.adopt(self.policy)

    def adopt(self, policy: PrivacyPolicy) -> None:
        """Go on under a policy that the reviewer signed."""
        self.ledger = Ledger(
            self.state,
            policy,
            clock=lambda: float(next(self._ticks)),
            simulated=self.simulated,
            gateway=self.identity.fingerprint,
            public_key=self.identity.public_key.hex(),
            approval=approve(policy, REVIEWER, reviewer="R. Reader", reason="a test", at=1.0),
        )

    def release(
        self, kind: EnvelopeKind, reservation: Reservation, key: str, event: PrivacyEvent
    ) -> str:
        """Draw, settle and sign; answers the payload's hash."""
        assert isinstance(event, DiscreteGaussianEvent)
        grant = self.ledger.grant(reservation, key, event)
        for _ in range(event.count):
            noisy = self.noise.discrete_gaussian(
                np.zeros(event.dimension, dtype=np.int64),
                sensitivity2=event.sensitivity2,
                sigma2=event.sigma2,
                grant=grant,
            )
        # Two gateways may well send the same noised difference; it holds no name.
        name = "" if kind == "counts" else self.identity.fingerprint
        payload = f"{kind} {key} {name} {noisy.tolist()}".encode()
        channel = "reply" if kind in ("update", "counts") else "push"
        number = next(self._numbers[channel])
        envelope = Envelope.seal(self.identity, kind, number, payload, simulated=self.simulated)
        self.ledger.settle(reservation, key, sha256_hex(payload), self.noise.kind)
        self.artefacts.append(Artefact.of(envelope, channel))  # type: ignore[arg-type]
        return sha256_hex(payload)

    def window(self, window: int, block: int, *, labels: bool = False) -> None:
        self.ledger.open_block(block)
        reserved = self.ledger.reserve_window(window, block, [FEATURES_EVENT])
        self.release("report", reserved, f"window/{window}", FEATURES_EVENT)
        if labels:
            reserved = self.ledger.reserve_window(window, block, [LABELS_EVENT], purpose=LABELS)
            self.release("labels", reserved, f"labels/{window}", LABELS_EVENT)

    def train(self, spec: RunSpec, block: int) -> tuple[list[str], str]:
        """Take part in a run; answers the hashes of updates and of the evaluation."""
        plan = spec.plan
        reserved = self.ledger.reserve_run(
            spec.run_id,
            [block],
            plan.events,
            purposes=("training", "evaluation"),
            task=spec.task,
            base_release=spec.base_release,
            base_sha256=spec.base_sha256,
        )
        updates = [
            self.release("update", reserved, f"{spec.run_id}/train/{n}", plan.round_event)
            for n in range(plan.rounds)
        ]
        counts = self.release(
            "counts", reserved, f"{spec.run_id}/evaluate/0", plan.evaluation_event
        )
        return updates, counts

    def mark(self) -> None:
        """The gateway signs a head here, and the coordinator confirms it."""
        self.sizes.append(len(self.ledger.entries()))

    def standing(self) -> dict[str, object]:
        """What a coordinator says that it knows of this ledger."""
        entries = len(self.ledger.entries())
        return {
            "gateway": self.identity.fingerprint,
            "name": "a site",
            "entries": entries,
            "beyond_gap": 0,
            "announced": entries,
            "witnessed": max(self.sizes, default=0),
            "status_at": MADE_AT,
            "missing": 0,
            "lag": "",
        }

    def exported(self) -> GatewayLedger:
        entries = self.ledger.entries()
        heads = [
            sign_head(
                self.identity,
                size,
                tree_hash(entries[:size]).hex(),
                BEGAN + size,
                simulated=self.simulated,
            )
            for size in self.sizes
        ]
        return GatewayLedger(
            gateway=self.identity.fingerprint,
            public_key=self.identity.public_key.hex(),
            name="a site",
            entries=entries,
            heads=tuple(heads),
            witnessed=tuple(witness_head(CENTRE, head, head.at) for head in heads),
            artefacts=tuple(self.artefacts),
        )


def site(folder: Path, identity: Identity, *, simulated: bool = False) -> Site:
    state = StateFile(folder / f"{identity.fingerprint}.sqlite")
    return Site(identity, state, policy_of(3.0), simulated=simulated)


def lived(one: Site) -> tuple[list[str], str]:
    """A few windows, a run, a lower policy and windows of the next block."""
    for window in range(3):
        one.window(window, 0, labels=window == 0)
    one.mark()
    replies = one.train(RUN, 0)
    one.ledger.note_erasure("erasure", asked=2)
    one.mark()
    one.adopt(policy_of(2.0))
    one.window(3, 1)
    one.mark()
    return replies


def source_of(sites: list[Site], replies: list[tuple[list[str], str]]) -> BundleSource:
    return BundleSource(
        made_by="coordinator",
        simulated=any(one.simulated for one in sites),
        witness_key=CENTRE.public_key.hex(),
        gateways=tuple(one.exported() for one in sites),
        runs=(
            RunFact(
                spec=RUN,
                adapter_sha256="cd" * 32,
                update_sha256=tuple(sha256 for updates, _ in replies for sha256 in updates),
                counts_sha256=tuple(counts for _, counts in replies),
                release=2,
            ),
        ),
        releases=(
            ReleaseFact(
                counter=1,
                family="digits",
                manifest_sha256=BASE_SHA256,
                run_id="initial",
                parent=0,
                privacy={"epsilon": 0.0},
            ),
            ReleaseFact(
                counter=2,
                family="digits",
                manifest_sha256="fe" * 32,
                run_id=RUN.run_id,
                parent=1,
                privacy={"epsilon": 3.0},
            ),
        ),
        evidence={"standing": {"gateways": [one.standing() for one in sites]}},
    )


def write_honest(folder: Path, *, simulated: bool = False) -> Path:
    """The bundle of both gateways, as the coordinator exports it."""
    sites = [site(folder, who, simulated=simulated) for who in (OWN, OTHER)]
    source = source_of(sites, [lived(one) for one in sites])
    for one in sites:
        one.state.close()
    path = folder / "bundle.zip"
    write_bundle(path, source, CENTRE, MADE_AT)
    return path
