"""A whole fleet in one process: streams in, drift seen, retrained, released, under a virtual clock.

Gateways, rounds, ingest, drift rules, gates and builds are the code that a real
fleet runs. Left out are processes, sockets, signatures on releases and real
randomness: ledgers are marked as simulated and prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedge.config import DriftSettings, TrainingSettings
from fedge.drift.fleet.monitor import FleetAssessment, assess
from fedge.errors import FedgeError, GateFailedError, RunFailedError, SettingError
from fedge.identity import Identity
from fedge.learning.planning import plan_training
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength, PrivacyPolicy, Reference, RunResult, sha256_hex
from fedge.simulation.gateway import (
    GatewayOptions,
    Inputs,
    Labels,
    Shelf,
    SimulatedGateway,
)
from fedge.tasks.code import TaskCode
from fedge_flows import candidates
from fedge_flows.alerts import Alert
from fedge_flows.monitor import Actions, Monitored, Planned, monitor
from fedge_flows.progress import Announcer, Claims
from fedge_flows.retrain import initial_vector
from fedge_server.app import status_of
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.ledgers import Ledgers, read_ledger
from fedge_server.objects import ObjectStore
from fedge_server.round_files import RunFiles
from fedge_server.rounds import GridExchange, conduct

NextBatch = Callable[[int, int, int], tuple[Inputs, Labels]]
"""`(gateway, first_row, rows)` -> inputs and true labels of that piece of its stream."""

ROUND_TIMEOUT_S = 3600.0
MAX_REPORT_BYTES = 4 * 2**20


class VirtualClock:
    """Seconds since the epoch that pass only when told to."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


class _Silent:
    """A bus that nobody listens to: the simulation does the next step itself."""

    def emit(self, event: str, run_id: str) -> None: ...
    def send(self, alert: Alert) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetOptions:
    """What a simulated fleet is made of.

    Attributes:
        window_s: virtual seconds that a full window takes.
        label_every: every n-th slot gets its label back, a public rule.
        epsilon, delta: bound per block; `block_windows` full windows make a block.
        label_rho: zCDP for the labelled errors of each window, which are reported when
            `label_watermark_windows` further ones have closed; 0: none are.
    """

    gateways: int = 5
    seed: int = 1
    window_slots: int = 200
    window_s: float = 3600.0
    label_every: int = 4
    epsilon: float = 3.0
    delta: float = 1e-5
    block_windows: int = 1000
    label_rho: float = 0.0
    label_watermark_windows: int = 1
    drift: DriftSettings = field(
        default_factory=lambda: DriftSettings(baseline_windows=12, gather_windows=9, max_fleet=5)
    )
    training: TrainingSettings = field(default_factory=TrainingSettings)


class SimulatedFleet:
    """Gateways and their centre.

    Args:
        code: the task.
        next_batch: the streams; whoever owns them decides when they drift.
        folder: empty or missing; holds every state directory and the centre's objects.
    """

    def __init__(
        self, code: TaskCode, next_batch: NextBatch, folder: Path, options: FleetOptions
    ) -> None:
        if folder.exists() and any(folder.iterdir()):
            raise SettingError(f"{folder} is not empty; a simulation starts in a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.code, self.options, self._next_batch = code, options, next_batch
        self.clock = VirtualClock()
        self.policy: PrivacyPolicy = new_policy(
            epsilon=options.epsilon,
            delta=options.delta,
            block=BlockLength(kind="windows", value=options.block_windows),
            label_rho=options.label_rho,
        )
        self._database = Database(f"sqlite:///{folder / 'fedge.sqlite'}")
        self.facts = Facts(self._database, self.clock)
        self._objects = ObjectStore(folder / "objects")
        self._candidates = folder / "candidates"
        self._shelf = Shelf()
        self._released: dict[int, tuple[Path, str]] = {}
        witness = Identity.from_seed(np.random.default_rng([options.seed, 3]).bytes(32))
        ingest = Ingest(
            self._database,
            self.clock,
            witness,
            max_payload_bytes=MAX_REPORT_BYTES,
            simulated=True,
        )
        claims = Claims(folder / "claims")
        self._announcer = Announcer(_Silent(), folder / "sent", claims, self.clock)
        shared = GatewayOptions(
            code=code,
            policy=self.policy,
            window_slots=options.window_slots,
            label_watermark_windows=options.label_watermark_windows,
            shelf=self._shelf,
            post=_Line(ingest, Ledgers(self._database), witness),
            clock=self.clock,
        )
        self.gateways = [
            SimulatedGateway(n, options.seed, folder / "gateways" / str(n), shared)
            for n in range(options.gateways)
        ]
        fleet = Fleet(self._database, self.clock)
        for gateway in self.gateways:
            fleet.admit(gateway.identity.public_key.hex(), f"g{gateway.number}")
        self._rows = 0
        self.accuracy: list[list[float]] = [[] for _ in self.gateways]

    def release_first(self, weights_seed: int = 0) -> int:
        """Train the base model on public data and install it everywhere; answers its counter."""
        folder = self._candidates / candidates.INITIAL
        folder.mkdir(parents=True)
        build = candidates.builder(
            self.code.schema.code, lambda task: task.base_weights(weights_seed), seed=0
        )
        return self._release(folder, build, None)

    def play(self, windows: int) -> None:
        """Let every gateway answer the rows of so many full windows, and its agent work."""
        size = self.options.window_slots
        for _ in range(windows):
            self.clock.advance(self.options.window_s)
            for gateway in self.gateways:
                inputs, labels = self._next_batch(gateway.number, self._rows, size)
                predicted = gateway.answer(inputs, labels, self.options.label_every)
                self.accuracy[gateway.number].append(float(np.mean(predicted == labels)))
                gateway.work()
            self._rows += size

    def assess(self) -> FleetAssessment:
        """Judge the fleet from its stored reports."""
        return self._monitor(assess).assessment

    def retrain(self) -> RunResult:
        """Run the rounds for the frozen cohort, as the monitor flow would start them.

        Raises:
            RunFailedError: no cohort is frozen yet, or the rounds ended without a result.
        """
        from fedge.simulation.grid import InProcessGrid  # loads Flower

        created = self._monitor(assess).created
        waiting = [r for r in self.facts.runs() if r.state == "created"]
        if created is None and not waiting:
            raise RunFailedError("no cohort is frozen: play more windows, or there is no drift")
        spec = waiting[-1].spec
        files = f"runs/{spec.run_id}"
        self._objects.put(f"{files}/spec.json", spec.to_bytes())
        self._objects.put(f"{files}/initial.npy", initial_vector(spec))
        nodes = {2 + gateway.number: gateway.ask for gateway in self.gateways}
        exchange = GridExchange(InProcessGrid(nodes), ROUND_TIMEOUT_S, poll_s=0.0)
        conduct(RunFiles(self._objects, spec.run_id), exchange, simulated=True)
        self.facts.set_run_state(spec.run_id, "trained")
        return RunResult.from_bytes(self._objects.get(f"{files}/result.json"))

    def release(self, result: RunResult) -> int:
        """Build, gate and offer a run's candidate to its cohort; answers its counter.

        Raises:
            GateFailedError: the candidate did not pass; nothing was released.
        """
        spec = result.spec
        base, _ = self._released[spec.base_release]
        vector = candidates.read_adapter(self._objects, result)
        folder = self._candidates / spec.run_id
        folder.mkdir()
        build = candidates.builder(
            self.code.schema.code, candidates.merged(base, result, vector), seed=0
        )
        try:
            counter = self._release(folder, build, result)
        except GateFailedError as error:
            self.facts.set_run_state(spec.run_id, "refused", str(error))
            raise
        self.facts.record_release(spec.run_id, counter)
        self.facts.set_run_state(spec.run_id, "published")
        return counter

    def epsilon(self) -> float:
        """The bound that the worst block of any gateway has reached."""
        return max(
            (s.epsilon for g in self.gateways for s in g.agent.ledger.spendings()), default=0.0
        )

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.close()
        self._database.close()

    def _monitor(self, judge: Callable[..., FleetAssessment]) -> Monitored:
        references = {}
        for folder, _ in self._released.values():
            data = (folder / "reference.json").read_bytes()
            references[sha256_hex(data)] = Reference.from_bytes(data)
        return monitor(
            facts=self.facts,
            references=references,
            settings=self.options.drift,
            plan=self._planned,
            release_sha256=lambda release: self._released[release][1],
            task=self.code.schema.name,
            announcer=self._announcer,
            actions=Actions(log=self.facts.interventions, channels=(_Silent(),), clock=self.clock),
            judge=judge,
        )

    def _planned(self, release: int) -> Planned:
        training = self.options.training
        dimension = candidates.planned_dimension(self._released[release][0], training.adapter)
        return Planned(plan_training(self.policy, training, dimension))

    def _release(
        self, folder: Path, build: Callable[[Path], None], result: RunResult | None
    ) -> int:
        build(folder)
        candidates.gate(result, self.options.training.min_gain_sigmas)(folder)
        manifest = candidates.manifest(
            folder,
            family=self.code.schema.name,
            counter=len(self._released) + 1,
            result=result,
            policy=self.policy,
        )
        self._released[manifest.counter] = (folder, manifest.content_sha256)
        self._shelf.add(manifest, folder)
        for gateway in self.gateways:
            # One step installs, the next one sees that the trial time is over.
            gateway.work()
            gateway.work()
        return manifest.counter


@dataclass(frozen=True, slots=True)
class _Line:
    """The way to a coordinator in the same process; see `fedge_client.agent.post.Post`."""

    ingest: Ingest
    ledgers: Ledgers
    witness: Identity

    def __call__(self, envelope: bytes) -> int:
        try:
            self.ingest.accept(envelope)
        except FedgeError as error:
            return status_of(error)
        return 200

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        return read_ledger(self.ledgers, self.witness, path)
