"""A spool with its state file, ledger and gate, and coordinators for it, without an agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from fakes.receipts import standing_for

from fedge.errors import FedgeError, OutboundError
from fedge.identity import Envelope, Identity
from fedge.privacy.ledger import Ledger, Reservation
from fedge.privacy.noise import SeededNoise
from fedge.privacy.policy import new_policy
from fedge.profiles.wire import encode_report
from fedge.records import (
    BlockLength,
    BlockSpending,
    DiscreteGaussianEvent,
    FeatureCounts,
    GapRecord,
    GatewayStatus,
    LedgerStanding,
    PrivacyPolicy,
    WindowReport,
)
from fedge.statefile import StateFile
from fedge_client.agent.audit import AuditTrail
from fedge_client.agent.egress import EgressGate
from fedge_client.agent.held import Held
from fedge_client.agent.post import Get
from fedge_client.agent.spool import Spool
from fedge_client.agent.standing import Standing
from fedge_client.agent.trusted_witness import TrustedWitness
from fedge_server.app import status_of
from fedge_server.database import Database
from fedge_server.ingest import Ingest
from fedge_server.ledgers import Ledgers, read_ledger

IDENTITY = Identity.from_seed(b"\7" * 32)
BLOCK_WINDOWS = 24
EVENT = DiscreteGaussianEvent(sensitivity2=1, sigma2=2000, count=1, dimension=4)


@cache
def policy() -> PrivacyPolicy:
    return new_policy(
        epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=BLOCK_WINDOWS)
    )


@dataclass
class Outbox:
    """What a gateway keeps of its way out. `open` it again after `close`, or after a kill.

    Writes are not waited for: a killed process loses none of them, only power loss would.
    """

    folder: Path
    max_bytes: int = 2**26
    now: float = 1_700_000_000.0
    simulated: bool = True
    state: StateFile = field(init=False)
    ledger: Ledger = field(init=False)
    spool: Spool = field(init=False)
    gate: EgressGate = field(init=False)
    audit: AuditTrail = field(init=False)
    standing: Standing = field(init=False)
    held: Held[tuple[bytes, Reservation]] = field(init=False)

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.held = Held()
        self.state = StateFile(self.folder / "state.sqlite")
        self.state.rows("PRAGMA synchronous=OFF")
        self.ledger = Ledger(
            self.state,
            policy(),
            clock=lambda: self.now,
            simulated=self.simulated,
            gateway=IDENTITY.fingerprint,
            public_key=IDENTITY.public_key.hex(),
        )
        self.spool = Spool(
            self.state,
            IDENTITY,
            lambda: self.now,
            max_bytes=self.max_bytes,
            simulated=self.simulated,
        )
        self.gate = EgressGate(self.state, self.ledger, self.spool)
        self.audit = AuditTrail(
            self.state, self.ledger, self.gate, self.spool, IDENTITY, lambda: self.now
        )
        self.standing = Standing(
            self.state,
            self.ledger,
            gateway=IDENTITY.fingerprint,
            public_key=IDENTITY.public_key,
            witness=TrustedWitness(self.state, None),
            recover=_never,
            greeted=lambda found: self.audit.resend_from(found.entries),
        )

    def close(self) -> None:
        self.state.close()

    def report(self, window: int, features: int = 4) -> None:
        """Close a window: reserve, noise, settle and spool its report, as the watcher does.

        What was noised and could not be stored is held until the window is asked for again.
        """
        payload, reservation = self.held.of(window, lambda: self._noised(window, features))
        self.gate.release(
            "report",
            payload,
            reservation=reservation,
            key="features",
            noise_kind="seeded",
            channel="push",
            spool_key=f"report/{window}",
        )
        self.held.forget()

    def _noised(self, window: int, features: int) -> tuple[bytes, Reservation]:
        block = window // BLOCK_WINDOWS
        self.ledger.open_block(block)
        reservation = self.ledger.reserve_window(window, block, (EVENT,))
        grant = self.ledger.grant(reservation, "features", EVENT)
        SeededNoise(window).discrete_gaussian(
            np.zeros(4, np.int64), sensitivity2=1, sigma2=2000, grant=grant
        )
        return encode_report(report(window, features, self.now)), reservation

    def put_report(self, window: int, features: int = 4) -> None:
        """A report without a ledger behind it."""
        payload = encode_report(report(window, features, self.now))
        self.spool.put("report", payload, key=f"report/{window}", channel="push")

    def status(self) -> None:
        spendings = self.ledger.spendings()[-64:]
        self.gate.public_facts(status(spendings, self.now))

    def waiting(self) -> list[Envelope]:
        found = self.spool.waiting(10**6, cleared=10**6)
        return [Envelope.from_bytes(item.envelope) for item in found]

    def gaps(self) -> list[GapRecord]:
        """Gap records in the spool, sent already or not."""
        rows = self.state.rows("SELECT envelope FROM spool WHERE kind = 'gap' ORDER BY seq")
        return [GapRecord.from_bytes(Envelope.from_bytes(bytes(e)).payload) for (e,) in rows]


def report(window: int, features: int, at: float) -> WindowReport:
    """A report of the size that a task with so many numeric features and ten classes has."""
    rng = np.random.default_rng(window)
    counts = tuple(
        FeatureCounts(
            name=f"feature {n}",
            kind="numeric",
            counts=tuple(int(c) for c in rng.integers(-2000, 2000, 16)),
            sigma2=2000,
        )
        for n in range(features)
    )
    classes = FeatureCounts(name="class", kind="categorical", counts=tuple(range(11)), sigma2=2000)
    return WindowReport(
        task="toy",
        window=window,
        block=window // BLOCK_WINDOWS,
        release=1,
        reference_sha256="a" * 64,
        first_slot=window * 200,
        slots=200,
        planned_slots=200,
        opened_at=at,
        closed_at=at + 3600,
        features=(*counts, classes),
    )


def status(blocks: tuple[BlockSpending, ...] = (), at: float = 1.0) -> GatewayStatus:
    return GatewayStatus(
        release=1,
        release_sha256="a" * 64,
        variant="int8",
        slot="A",
        hardware="x86-vnni",
        install_state="committed",
        refused_release=0,
        refused_reason="",
        next_slot=0,
        windows=0,
        dropped_observations=0,
        spool_depth=0,
        spool_dropped=0,
        worker_restarts=0,
        blocks=blocks,
        at=at,
    )


def _never(found: LedgerStanding, get: Get) -> None:
    raise AssertionError("nothing was lost")


@dataclass(frozen=True)
class Door:
    """A `Post` that is the coordinator itself, in this process."""

    ingest: Ingest
    database: Database
    witness: Identity

    def __call__(self, envelope: bytes) -> int:
        try:
            self.ingest.accept(envelope)
        except FedgeError as error:
            return status_of(error)
        return 200

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        return read_ledger(Ledgers(self.database), self.witness, path)


@dataclass
class Post:
    """Answers what it is told to, and keeps what it was sent. Confirms no heads.

    Attributes:
        answer: the status; None where nobody answers.
        special: statuses of single numbers.
        lose_ack: says of which number the acknowledgement gets lost on the way back.
    """

    answer: int | None = 200
    special: dict[int, int] = field(default_factory=dict)
    lose_ack: Callable[[int], bool] = lambda _: False
    sent: list[Envelope] = field(default_factory=list)
    taken: dict[int, bytes] = field(default_factory=dict)

    def __call__(self, data: bytes) -> int:
        if self.answer is None:
            raise OutboundError("nobody answers")
        envelope = Envelope.from_bytes(data)
        self.sent.append(envelope)
        seq = envelope.header.seq
        status = self.special.get(seq, self.answer)
        if status == 200:
            assert self.taken.setdefault(seq, data) == data, "the bytes of a number changed"
            if self.lose_ack(seq):
                raise OutboundError("the answer was lost")
        return status

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        if self.answer is None:
            raise OutboundError("nobody answers")
        return 200, standing_for(path, self.taken.values())

    @property
    def kinds(self) -> list[str]:
        return [envelope.header.kind for envelope in self.sent]
