"""A gateway in a folder: real agent, real ring, a release already in slot A, seeded noise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fakes.receipts import standing_for

from fedge.config import GatewaySettings
from fedge.delivery.store import ContentStore
from fedge.delivery.switch import ProbeReport, Slot
from fedge.errors import OutboundError
from fedge.identity import Envelope, Identity
from fedge.models.weights import weights_to_bytes
from fedge.privacy.grants import Grant
from fedge.privacy.noise import Noise, SeededNoise
from fedge.profiles.build import build_reference
from fedge.records import (
    ModelInput,
    NumericFeature,
    ReleaseFile,
    ReleaseManifest,
    TaskSchema,
    sha256_hex,
)
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving.marks import NOBODY, Marks
from fedge.serving.record_ids import BlockOf
from fedge.serving.ring import RingWriter
from fedge_client.agent.agent import Agent, Ports

WINDOW = 20
ALL_PURPOSES = INFERENCE | MONITORING | TRAINING
TASK = TaskSchema(
    name="pump",
    version=1,
    input=ModelInput(name="x", shape=(2,), low=-10.0, high=10.0),
    classes=("ok", "worn"),
    features=(NumericFeature(name="pressure", type="float32", low=-10.0, high=10.0),),
    code="pump.task:code",
)
WEIGHTS = {
    "input_adapter.scale": np.ones(2, np.float32),
    "input_adapter.shift": np.zeros(2, np.float32),
    "head.weight": np.ones((2, 3), np.float32),
}


@dataclass
class Centre:
    """A coordinator from memory: answers what it is told to, keeps what it took.

    Attributes:
        special: statuses of single kinds of envelopes.
    """

    status: int = 200
    special: dict[str, int] = field(default_factory=dict)
    down: bool = False
    taken: list[bytes] = field(default_factory=list)

    def __call__(self, envelope: bytes) -> int:
        if self.down:
            raise OutboundError("no coordinator")
        kind = Envelope.from_bytes(envelope).header.kind
        status = self.special.get(kind, self.status)
        if status == 200:
            self.taken.append(envelope)
        return status

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        if self.down:
            raise OutboundError("no coordinator")
        return 200, standing_for(path, self.taken)


class NoReleases:
    def offered(self, gateway: str) -> ReleaseManifest | None:
        return None

    def fetch(
        self, manifest: ReleaseManifest, store: ContentStore, names: Sequence[str]
    ) -> None: ...


class OneSlot:
    """A switch on which slot A serves and nothing ever changes."""

    def active(self) -> Slot | None:
        return "A"

    def trial(self, slot: Slot) -> ProbeReport:
        return ProbeReport(latency_us=1.0, golden_max_abs=0.0)

    def takeover(self, slot: Slot) -> None: ...

    def discard(self, slot: Slot) -> None: ...


class ToyTrainer:
    """Answers noise of the planned size; counts what it was asked."""

    noise_kind = "seeded"

    def __init__(self, records: int) -> None:
        self.records, self.asked, self.closed = records, 0, False
        self._noise = SeededNoise(5)

    def round(self, vector: np.ndarray, grant: Grant) -> np.ndarray:
        self.asked += 1
        event = grant.event
        drawn = np.zeros(len(vector), dtype=np.int64)
        for _ in range(event.count):
            drawn = self._noise.discrete_gaussian(
                drawn, sensitivity2=event.sensitivity2, sigma2=event.sigma2, grant=grant
            )
        return (drawn / 2**20).astype(np.float32)

    def evaluate(self, vector: np.ndarray, grant: Grant) -> int:
        self.asked += 1
        event = grant.event
        (noised,) = self._noise.discrete_gaussian(
            np.array([self.records]),
            sensitivity2=event.sensitivity2,
            sigma2=event.sigma2,
            grant=grant,
        )
        return int(noised)

    def close(self) -> None:
        self.closed = True


@dataclass
class Gateway:
    """What a test holds: the folder, its ring, and an agent that can be started again."""

    settings: GatewaySettings
    identity: Identity
    writer: RingWriter
    centre: Centre
    manifest: ReleaseManifest
    trainers: list[ToyTrainer] = field(default_factory=list)
    agent: Agent | None = None
    block_windows: int = 100
    wall: Callable[[], float] = lambda: 1000.0
    steady: Callable[[], float] = time.monotonic
    boot: Callable[[], str | None] = lambda: None
    noise: Noise | None = None
    block_of: BlockOf | None = None
    writer_closed: bool = False

    def start(self) -> Agent:
        """Start the agent, as after a kill if one ran before."""
        if self.agent is not None:
            self.agent.close()

        def start_trainer(release: Path, plan: object, records: object) -> ToyTrainer:
            self.trainers.append(ToyTrainer(len(records)))  # type: ignore[arg-type]
            return self.trainers[-1]

        self.agent = Agent(
            self.settings,
            self.identity,
            Ports(
                clock=self.wall,
                noise=self.noise or SeededNoise(1),
                switch=OneSlot(),
                post=self.centre,
                releases=NoReleases(),
                start_trainer=start_trainer,
                worker_restarts=lambda: 0,
                steady=self.steady,
                boot=self.boot(),
            ),
        )
        return self.agent

    def serve(
        self,
        rows: int,
        *,
        release: int = 1,
        seed: int = 0,
        purposes: int = ALL_PURPOSES,
        subject: bytes = NOBODY,
        scale: float = 1.0,
    ) -> int:
        """Let the worker observe `rows` rows, inputs `scale` wide; answers the first slot."""
        rng = np.random.default_rng([seed, self.writer.next_slot])
        block_slots = self.block_windows * self.settings.window_slots
        logits = rng.normal(size=(rows, 2)).astype(np.float32)
        features = rng.normal(size=(rows, 1)).astype(np.float32)
        inputs = (scale * rng.normal(size=(rows, 2))).astype(np.float32)
        return self.writer.append(
            self.block_of or (lambda slot, now: slot // block_slots),
            release,
            self.wall(),
            Marks(purposes, subject),
            inputs,
            logits,
            features,
        )

    @property
    def writer_path(self) -> Path:
        return self.settings.state_dir / "ring.bin"

    def close(self) -> None:
        """End its agent and its worker."""
        if self.agent is not None:
            self.agent.close()
            self.agent = None
        if not self.writer_closed:
            self.writer.close()
            self.writer_closed = True

    def label(self, slots: Sequence[int], label: int = 1) -> None:
        self.writer.append_labels(
            np.array(slots, dtype=np.int64), np.full(len(slots), label, dtype=np.int32)
        )


def push_all(agent: Agent) -> None:
    """Push until nothing moves any more: reports leave after the entries that charge for them."""
    before, now = None, (0, 0)
    while before != now:
        before = now
        agent.push_once()
        now = (agent.spool.depth, agent.audit.next_seq)


def write_release(slot: Path, counter: int = 1) -> ReleaseManifest:
    """Put what the agent reads of a release into a slot."""
    rng = np.random.default_rng(3)
    values = np.column_stack(
        [
            rng.normal(size=500),
            rng.integers(0, 2, size=500),
            rng.uniform(0.5, 1, size=500),
            rng.normal(size=500),
        ]
    )
    reference = build_reference(
        TASK, values, ood=values[:, -1], model_sha256="a" * 64, source="public test rows"
    )
    files = {
        "task.json": TASK.to_bytes(),
        "reference.json": reference.to_bytes(),
        "weights.npz": weights_to_bytes(WEIGHTS),
    }
    slot.mkdir(parents=True)
    for name, data in files.items():
        (slot / name).write_bytes(data)
    files |= {"golden.npz": b"", "model.float.onnx": b""}
    manifest = ReleaseManifest(
        family="pump",
        task_version=1,
        counter=counter,
        parent=0,
        run_id="initial",
        variants={"x86": "float"},
        files={
            name: ReleaseFile(sha256=sha256_hex(data), length=len(data))
            for name, data in files.items()
        },
        cohort=(),
        privacy_epsilon=0.0,
        measures={},
    )
    (slot / "release.json").write_bytes(manifest.to_bytes())
    (slot / "variant.txt").write_text("float")
    return manifest
