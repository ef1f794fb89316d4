"""One simulated gateway: the real agent, ring and model, without processes or sockets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedge.config import GatewaySettings
from fedge.data.blocks import LabelledRecords
from fedge.delivery.store import ContentStore
from fedge.delivery.switch import ProbeReport, Slot
from fedge.errors import TrialFailedError
from fedge.identity import Identity
from fedge.learning.session import TrainingSession
from fedge.models.weights import read_weights
from fedge.privacy.grants import Grant
from fedge.privacy.noise import Noise, SeededNoise
from fedge.privacy.policy import write_policy
from fedge.records import PrivacyPolicy, ReleaseManifest, TrainingPlan
from fedge.records.purposes import purpose_bits
from fedge.serving.marks import Marks
from fedge.serving.probes import probe
from fedge.serving.record_ids import block_numbering
from fedge.serving.release import ServedRelease, load_release
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout
from fedge.tasks.code import TaskCode
from fedge_client.agent.agent import Agent, Ports
from fedge_client.agent.courier_port import answer_request
from fedge_client.agent.post import Post
from fedge_client.frames import AgentAnswer

Inputs = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float32]


class InProcessSwitch:
    """Two slots whose models live in this process; the worker's own probes judge a trial."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._active: Slot | None = None
        self._tried: dict[Slot, ServedRelease] = {}
        self.serving: ServedRelease | None = None

    def active(self) -> Slot | None:
        return self._active

    def trial(self, slot: Slot) -> ProbeReport:
        release = load_release(self._settings.state_dir / "slots" / slot, self._settings)
        result = probe(release)
        self._tried[slot] = release
        return ProbeReport(latency_us=result.latency_us, golden_max_abs=result.golden_max_abs)

    def takeover(self, slot: Slot) -> None:
        if slot not in self._tried:
            raise TrialFailedError(f"slot {slot} passed no trial")
        self._active, self.serving = slot, self._tried[slot]

    def discard(self, slot: Slot) -> None:
        self._tried.pop(slot, None)


class Shelf:
    """Releases offered to simulated gateways, without signatures or HTTP.

    What is offered to whom is decided by the fleet; the installer still checks counters,
    hashes, hardware and task.
    """

    def __init__(self) -> None:
        self._folders: dict[int, tuple[ReleaseManifest, Path]] = {}
        self._assigned: dict[str, int] = {}
        self._default = 0

    def add(self, manifest: ReleaseManifest, folder: Path) -> None:
        """Offer a release to its cohort, or to everybody where it names none."""
        self._folders[manifest.counter] = (manifest, folder)
        if not manifest.cohort:
            self._default = manifest.counter
        for gateway in manifest.cohort:
            self._assigned[gateway] = manifest.counter

    def offered(self, gateway: str) -> ReleaseManifest | None:
        counter = self._assigned.get(gateway, self._default)
        return self._folders[counter][0] if counter else None

    def fetch(self, manifest: ReleaseManifest, store: ContentStore, names: Sequence[str]) -> None:
        folder = self._folders[manifest.counter][1]
        for name in names:
            file = manifest.files[name]
            if not store.has(file.sha256):
                store.add([(folder / name).read_bytes()], file)


class InProcessTrainer:
    """A `Trainer` in this process; the session is the real one."""

    def __init__(
        self,
        code: TaskCode,
        noise: Noise,
        release: Path,
        plan: TrainingPlan,
        records: LabelledRecords,
    ) -> None:
        self.noise_kind = noise.kind
        weights = read_weights(release / "weights.npz")
        self._session = TrainingSession(code, weights, plan, records, noise)

    def round(self, vector: Vector, grant: Grant) -> Vector:
        """See `Trainer.round`."""
        return self._session.round(vector, grant)

    def evaluate(self, vector: Vector, grant: Grant) -> int:
        """See `Trainer.evaluate`."""
        return self._session.evaluate(vector, grant)

    def close(self) -> None:
        """Nothing outlives the object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewayOptions:
    """What all gateways of a simulated fleet share."""

    code: TaskCode
    policy: PrivacyPolicy
    window_slots: int
    label_watermark_windows: int
    shelf: Shelf
    post: Post
    clock: Callable[[], float]


class SimulatedGateway:
    """A gateway that answers requests in this process.

    Args:
        number: makes its identity and its noise, together with `seed`.
        folder: its state directory.
    """

    def __init__(self, number: int, seed: int, folder: Path, options: GatewayOptions) -> None:
        folder.mkdir(parents=True)
        self.number, self._options = number, options
        self.identity = Identity.from_seed(np.random.default_rng([seed, 1, number]).bytes(32))
        self.fingerprint = self.identity.fingerprint
        write_policy(options.policy, folder / "policy.toml")
        schema = options.code.schema
        self.settings = GatewaySettings(
            state_dir=folder,
            runtime_dir=folder,
            task=schema.name,
            task_version=schema.version,
            family=schema.name,
            window_slots=options.window_slots,
            label_watermark_windows=options.label_watermark_windows,
            trial_s=0.0,
            simulated=True,
        )
        noise = SeededNoise(int(np.random.default_rng([seed, 2, number]).integers(2**62)))
        self.switch = InProcessSwitch(self.settings)
        self.agent = Agent(
            self.settings,
            self.identity,
            Ports(
                clock=options.clock,
                noise=noise,
                switch=self.switch,
                post=options.post,
                releases=options.shelf,
                start_trainer=lambda release, plan, records: InProcessTrainer(
                    options.code, noise, release, plan, records
                ),
                worker_restarts=lambda: 0,
                steady=options.clock,
                boot="simulated",
            ),
        )
        self._ring = RingWriter(
            folder / "ring.bin",
            RowLayout.of(schema),
            self.settings.ring_slots,
            steady=options.clock,
        )
        self._block_of = block_numbering(options.policy.block, options.window_slots)

    def answer(self, inputs: Inputs, labels: Labels | None, label_every: int) -> Labels:
        """Serve a batch as the worker does, with the labels of every n-th slot fed back.

        Args:
            inputs: float32 [n, *input shape].
            labels: int64 [n], true classes; None where nobody knows them.

        Returns:
            predicted class indices, int64 [n].
        """
        serving = self.switch.serving
        if serving is None:
            raise RuntimeError("no release is installed yet")
        scores = serving.model.run(inputs)
        first = self._ring.append(
            self._block_of,
            serving.manifest.counter,
            self._options.clock(),
            Marks(purpose_bits(serving.task.purposes)),
            inputs,
            scores.logits,
            scores.features,
        )
        if labels is not None:
            slots = np.arange(first, first + len(inputs))
            chosen = slots % label_every == 0
            if chosen.any():
                self._ring.append_labels(slots[chosen], labels[chosen].astype(np.int32))
        return scores.predictions.astype(np.int64)

    def work(self) -> None:
        """Let the agent do what it does in the background: windows, spool, releases."""
        while self.agent.watch_once():
            pass
        self.agent.install_once()
        self.agent.push_once()

    def ask(self, request: bytes, array: bytes, timeout_s: float) -> AgentAnswer:
        """What the courier asks; see `fedge_client.courier.Ask`."""
        return answer_request(self.agent.answer, request, array)

    def close(self) -> None:
        self._ring.close()
        self.agent.close()
