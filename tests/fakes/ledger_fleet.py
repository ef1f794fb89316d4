"""A small fleet of real ledgers, played quickly: what a bundle of it holds is signed and noised.

Each gateway keeps a real ledger in a real state file: it opens blocks under an approved
policy, releases window reports with the system's noise, takes part in retrainings, erases.
Payloads are made up; their hashes, envelopes and charges are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedge.config import ServerSettings
from fedge.identity import Artefact, Envelope, EnvelopeKind, Identity
from fedge.privacy.approval import approve
from fedge.privacy.heads import sign_head, witness_head
from fedge.privacy.ledger import FEATURES, Ledger, Reservation
from fedge.privacy.merkle import tree_hash
from fedge.privacy.noise import OsNoise
from fedge.privacy.policy import new_policy
from fedge.records import (
    AuditBatch,
    BlockLength,
    DiscreteGaussianEvent,
    Participant,
    PrivacyPolicy,
    RunSpec,
    TrainingPlan,
    sha256_hex,
)
from fedge.review.source import BundleSource, GatewayLedger, ReleaseFact, RunFact
from fedge.statefile import StateFile
from fedge_server.database import Database
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.witness import open_witness

DAY = 86_400.0
START = 1_790_000_000.0
CENTRE = Identity.from_seed(b"\x11" * 32)
REVIEWER = Identity.from_seed(b"\x22" * 32)
FEATURE_EVENT = DiscreteGaussianEvent(sensitivity2=33, sigma2=588, count=1, dimension=130)
NOISE = OsNoise()


def gateway_key(number: int) -> Identity:
    return Identity.from_seed(bytes([number + 1]) * 32)


def fleet_policy(epsilon: float = 3.0) -> PrivacyPolicy:
    return new_policy(epsilon=epsilon, delta=1e-5, block=BlockLength(kind="seconds", value=86_400))


def training_plan(noise_multiplier: float = 16.0, steps: int = 20) -> TrainingPlan:
    """About half of what a block of `fleet_policy` has for training."""
    bits = 8
    sigma2 = int((noise_multiplier * 0.5 * 2**bits) ** 2)
    return TrainingPlan(
        adapter="input",
        rounds=2,
        steps=steps,
        clip=0.5,
        learning_rate=2.4,
        divisor=300,
        grid_bits=bits,
        sigma2=sigma2,
        evaluation_sigma2=100,
        dimension=26,
    )


@dataclass
class PlayedGateway:
    """One gateway's ledger while it is played; `at` is its clock."""

    identity: Identity
    name: str
    ledger: Ledger
    at: list[float]
    artefacts: list[Artefact]

    def window(self, window: int, block: int) -> None:
        """Reserve, noise, seal and settle one window's report."""
        self.at[0] += 3600.0
        made = self.ledger.reserve_window(window, block, [FEATURE_EVENT], purpose=FEATURES)
        self._release(made, "report", FEATURE_EVENT, "report", "push")

    def run(self, spec: RunSpec, blocks: tuple[int, ...]) -> None:
        """Both rounds and the evaluation of a run."""
        self.at[0] += 60.0
        plan = spec.plan
        made = self.ledger.reserve_run(
            spec.run_id,
            blocks,
            plan.events,
            purposes=("training", "evaluation"),
            task=spec.task,
            base_release=spec.base_release,
            base_sha256=spec.base_sha256,
        )
        for number in range(plan.rounds):
            event = plan.round_event
            assert isinstance(event, DiscreteGaussianEvent)
            self._release(made, f"{spec.run_id}/train/{number}", event, "update", "reply")
        self._release(
            made, f"{spec.run_id}/evaluate/{plan.rounds}", plan.evaluation_event, "counts", "reply"
        )

    def _release(
        self,
        made: Reservation,
        key: str,
        event: DiscreteGaussianEvent,
        kind: EnvelopeKind,
        channel: str,
    ) -> None:
        grant = self.ledger.grant(made, key, event)
        noised = [
            NOISE.discrete_gaussian(
                np.zeros(event.dimension, dtype=np.int64),
                sensitivity2=event.sensitivity2,
                sigma2=event.sigma2,
                grant=grant,
            )
            for _ in range(event.count)
        ]
        payload = b"".join(part.tobytes() for part in noised)
        self.ledger.settle(made, key, sha256_hex(payload), NOISE.kind)
        seq = sum(one.channel == channel for one in self.artefacts)
        envelope = Envelope.seal(self.identity, kind, seq, payload)
        self.artefacts.append(Artefact.of(envelope, channel))  # type: ignore[arg-type]

    def exported(self, *, unwitnessed: int = 0) -> GatewayLedger:
        """The ledger as the coordinator holds it, countersigned but for the last few entries."""
        entries = self.ledger.entries()
        heads = []
        for size in (len(entries) - unwitnessed, len(entries)):
            root = tree_hash(entries[:size]).hex()
            heads.append(sign_head(self.identity, size, root, self.at[0]))
        return GatewayLedger(
            gateway=self.identity.fingerprint,
            public_key=self.identity.public_key.hex(),
            name=self.name,
            entries=entries,
            heads=tuple(heads[: 1 + bool(unwitnessed)]),
            witnessed=(witness_head(CENTRE, heads[0], self.at[0] + 1.0),),
            artefacts=tuple(self.artefacts),
        )


@contextmanager
def played_gateway(
    folder: Path,
    number: int = 0,
    *,
    policy: PrivacyPolicy | None = None,
    approved: bool = True,
    identity: Identity | None = None,
    file: str = "",
) -> Iterator[PlayedGateway]:
    """A gateway with a ledger that was just begun, in `file` of the folder."""
    identity, at = identity or gateway_key(number), [START + number]
    policy = policy or fleet_policy()
    approval = None
    if approved:
        approval = approve(policy, REVIEWER, reviewer="A. Officer", reason="first policy", at=at[0])
    state = StateFile(folder / (file or f"state-{number}.sqlite"))
    try:
        ledger = Ledger(
            state,
            policy,
            clock=lambda: at[0],
            gateway=identity.fingerprint,
            public_key=identity.public_key.hex(),
            approval=approval,
        )
        yield PlayedGateway(identity, f"site-{number}", ledger, at, [])
    finally:
        state.close()


def run_spec(
    number: int,
    gateways: tuple[int, ...],
    plan: TrainingPlan | None = None,
    *,
    first_window: int = 0,
    last_window: int = 7,
) -> RunSpec:
    return RunSpec(
        run_id=f"run-{number}",
        task="digits",
        base_release=number,
        base_sha256=f"{number:02x}" * 32,
        plan=plan or training_plan(),
        participants=tuple(
            Participant(
                gateway=gateway_key(g).fingerprint,
                public_key=gateway_key(g).public_key.hex(),
                first_window=first_window,
                last_window=last_window,
            )
            for g in gateways
        ),
        episodes=("e-1",),
    )


def play_fleet(
    folder: Path, *, gateways: int = 3, approved: bool = True, unwitnessed: int = 0
) -> BundleSource:
    """Three days at each gateway; the first one retrains twice and erases, the others once."""
    everyone = tuple(range(gateways))
    specs = [run_spec(1, everyone), run_spec(2, (0,), first_window=4)]
    ledgers, replies = [], {spec.run_id: [] for spec in specs}  # type: ignore[var-annotated]
    for number in everyone:
        with played_gateway(folder, number, approved=approved) as one:
            for block in range(3):
                one.ledger.open_block(block)
                for window in range(4):
                    one.window(4 * block + window, block)
            for spec, blocks in zip(specs, ((0, 1), (1,)), strict=True):
                if one.identity.fingerprint in {p.gateway for p in spec.participants}:
                    before = len(one.artefacts)
                    one.run(spec, blocks)
                    replies[spec.run_id] += one.artefacts[before:]
            if number == 0:
                one.ledger.note_erasure("erasure", asked=3)
                one.ledger.note_erasure("retention")
            ledgers.append(one.exported(unwitnessed=unwitnessed))
    return BundleSource(
        made_by="coordinator",
        simulated=False,
        witness_key=CENTRE.public_key.hex(),
        gateways=tuple(ledgers),
        runs=tuple(
            RunFact(
                spec=spec,
                adapter_sha256="ad" * 32,
                update_sha256=tuple(
                    a.payload_sha256 for a in replies[spec.run_id] if a.kind == "update"
                ),
                counts_sha256=tuple(
                    a.payload_sha256 for a in replies[spec.run_id] if a.kind == "counts"
                ),
                release=number + 2,
            )
            for number, spec in enumerate(specs)
        ),
        releases=(
            ReleaseFact(
                counter=1,
                family="digits",
                manifest_sha256="01" * 32,
                run_id="initial",
                parent=0,
                privacy={"epsilon": 0.0},
            ),
            *(
                ReleaseFact(
                    counter=number + 2,
                    family="digits",
                    manifest_sha256=f"{number + 2:02x}" * 32,
                    run_id=spec.run_id,
                    parent=number + 1,
                    privacy={"epsilon": 3.0},
                )
                for number, spec in enumerate(specs)
            ),
        ),
    )


def push_ledger(
    database: Database,
    settings: ServerSettings,
    one: PlayedGateway,
    *,
    first: int = 0,
    until: int | None = None,
    signed: bool = True,
) -> None:
    """Admit the gateway and have the real ingest take some of its entries, under a head."""
    Fleet(database, lambda: one.at[0]).admit(one.identity.public_key.hex(), one.name)
    every = one.ledger.entries()
    entries = every[first:until]
    size = first + len(entries)
    root = tree_hash(every[:size]).hex()
    head = sign_head(one.identity, size, root, one.at[0]) if signed else None
    payload = AuditBatch(first, entries, head).to_bytes()
    envelope = Envelope.seal(one.identity, "audit", 10_000 + first, payload)
    witness = open_witness(settings)
    ingest = Ingest(database, lambda: one.at[0], witness, max_payload_bytes=2**22)
    ingest.accept(envelope.to_bytes())
