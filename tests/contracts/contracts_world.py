"""A gateway that is played canaries, and everything that leaves it.

Supervisor, worker and agent are real processes; the coordinator is a server that keeps
every byte it is sent. Then the same folder is opened by an agent in this process, with a
trainer that needs no torch, and a run is answered over the real courier socket.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from contracts_needles import number_needles, text_needles
from contracts_taps import (
    everything_logged,
    export_telemetry,
    logging_to,
    read_export,
    read_pages,
    recording,
    review,
)
from fakes.gateways import FAMILY, Caller, infer_body, wait_until
from fakes.loop import DEADLINE_S, ToyCentre, ToyGateway
from fakes.receipts import standing_for
from flwr.app import ConfigRecord, Message, RecordDict

from fedge.config import TrainingSettings
from fedge.data.blocks import LabelledRecords
from fedge.data.subjects import SubjectKey
from fedge.delivery.store import ContentStore
from fedge.delivery.switch import ProbeReport, Slot
from fedge.demo.services import free_ports
from fedge.flower import MESSAGE_TYPE, RECORD
from fedge.identity import Envelope
from fedge.learning.planning import plan_training
from fedge.privacy.grants import Grant
from fedge.privacy.noise import OsNoise
from fedge.privacy.policy import new_policy, read_policy, write_policy
from fedge.records import (
    Participant,
    ReleaseManifest,
    RoundRequest,
    RunSpec,
    TrainingPlan,
    sha256_hex,
)
from fedge.serving.scoring import Scores
from fedge.simulation.grid import InProcessGrid
from fedge_client.agent.agent import Agent, Ports
from fedge_client.agent.courier_port import CourierPort
from fedge_client.frames import ask_agent

REQUESTS, ROWS, DIMENSION = 12, 8, 4
ARRAYS = np.zeros(DIMENSION, dtype="<f4").tobytes()
INPUTS = (0.7316894, -0.2914377, 0.5837261, -0.8467513, 0.1379468, -0.6683492)
"""The record that every even row is; its numbers occur nowhere else."""
STRINGS = (
    *("Canary-tensor-Q7", "Canary-model-W3", "Canary-request-Z9", "Canary-label-K5"),
    *("Canary-subject-H2", "Canary-header-B4"),
)
"""Texts in requests: the name of a column, of a model, of a request, a class, whom a record is
about, and what somebody calls with."""
SUBJECT_EVERY = 4


class SummingTrainer:
    """Answers the noised sum of its records on a grid, and remembers it without noise.

    Its first round ends with an error that quotes its records, as libraries do.
    """

    noise_kind = "os"

    def __init__(self, records: LabelledRecords, bits: int) -> None:
        self.records, self._grid, self._noise = records, 2**bits, OsNoise()
        self.exact: list[float] = []
        self._broke = False

    def round(self, vector: np.ndarray, grant: Grant) -> np.ndarray:
        if not self._broke:
            self._broke = True
            raise ValueError(f"cannot add up {self.records.inputs.ravel()[:12].tolist()}")
        event = grant.event
        exact = np.rint(self.records.inputs[:, :DIMENSION].sum(axis=0) * self._grid)
        drawn = exact.astype(np.int64)
        self.exact += [float(x) / self._grid for x in drawn]
        for _ in range(event.count):
            drawn = self._noise.discrete_gaussian(
                drawn, sensitivity2=event.sensitivity2, sigma2=event.sigma2, grant=grant
            )
        return (drawn / self._grid).astype(np.float32)

    def evaluate(self, vector: np.ndarray, grant: Grant) -> int:
        event = grant.event
        right = int((self.records.labels == self.records.predictions).sum())
        (difference,) = self._noise.discrete_gaussian(
            np.array([len(self.records) - 2 * right]),
            sensitivity2=event.sensitivity2,
            sigma2=event.sigma2,
            grant=grant,
        )
        return int(difference)

    def close(self) -> None: ...


class QuietSwitch:
    """Slot A serves; nothing is installed any more."""

    def active(self) -> Slot | None:
        return "A"

    def trial(self, slot: Slot) -> ProbeReport:
        raise RuntimeError

    def takeover(self, slot: Slot) -> None: ...
    def discard(self, slot: Slot) -> None: ...


class NoReleases:
    def offered(self, gateway: str) -> ReleaseManifest | None:
        return None

    def fetch(
        self, manifest: ReleaseManifest, store: ContentStore, names: Sequence[str]
    ) -> None: ...


@dataclass
class World:
    """What was played, and every byte that came out.

    Attributes:
        outgoing: (what, bytes): `envelope`s as they were pushed, `request` heads, `telemetry`,
            `reply`s of the courier and reasons of its `refusal`s, `status` of the worker, `page`s
            of facts, what goes to `support`, `log` files and lines, entries of the `ledger`, the
            `bundle` of it and its `review`.
        secret_numbers: values in records, and functions of one record or of a few.
        pseudonyms: of subjects.
        mapped: files that worker and agent had mapped when they had done all their work.
        state_dir: the gateway's, at rest.
        entries: its ledger.
    """

    state_dir: Path
    outgoing: list[tuple[str, bytes]] = field(default_factory=list)
    secret_numbers: set[float] = field(default_factory=set)
    pseudonyms: set[bytes] = field(default_factory=set)
    mapped: dict[str, str] = field(default_factory=dict)
    entries: tuple[bytes, ...] = ()
    spec: RunSpec | None = None
    verdict: dict[str, Any] = field(default_factory=dict)

    def tell(self, what: str, data: bytes) -> None:
        """Write down what came out."""
        self.outgoing.append((what, data))

    def of(self, kind: str) -> list[bytes]:
        return [data for what, data in self.outgoing if what == kind]

    def envelopes(self) -> list[Envelope]:
        return [Envelope.from_bytes(data) for data in (*self.of("envelope"), *self.of("reply"))]

    @property
    def needles(self) -> set[bytes]:
        numbers = {needle for n in self.secret_numbers for needle in number_needles(n)}
        texts = {needle for text in STRINGS for needle in text_needles(text)}
        return numbers | texts | self.pseudonyms


def make_world(folder: Path) -> World:
    """Play everything; all processes have ended when it returns."""
    (port,) = free_ports(1)
    centre = ToyCentre(folder / "centre", port)
    centre.release(1)
    with recording(centre.settings.data_dir, port) as kept:
        # A policy that leaves something for labels, so that every kind of report leaves.
        write_policy(
            new_policy(
                epsilon=3.0, delta=1e-5, block=read_policy(centre.policy).block, label_rho=0.005
            ),
            centre.policy,
        )
        url = f"http://127.0.0.1:{port}"
        gateway = ToyGateway(folder / "gw", centre, url, label_watermark_windows=2)
        export_telemetry(gateway, url)
        world = World(gateway.settings.state_dir)
        try:
            with everything_logged(folder / "talkative"):
                gateway.start()
            _play(gateway, world)
            wait_until(lambda: _reports(kept) >= 9, DEADLINE_S, "reports arrive")
            read_pages(gateway, world.tell)
            for process in ("agent", "worker"):
                pid = gateway.facts()[f"{process}_pid"]
                world.mapped[process] = Path(f"/proc/{pid}/maps").read_text()
        finally:
            gateway.stop()
    world.outgoing += kept
    subjects = SubjectKey.open(world.state_dir)
    world.pseudonyms.add(subjects.pseudonym(STRINGS[4]))
    with logging_to(world.tell):
        _train(gateway, world)
        world.verdict = review(gateway.config, folder / "review", world.tell)
        read_export(gateway, folder, world.tell)
    world.outgoing += [("ledger", entry) for entry in world.entries]
    for log in sorted((world.state_dir / "logs").glob("*")):
        world.outgoing.append(("log", log.read_bytes()))
    world.outgoing.append(("log", (folder / "gw" / "supervisor.log").read_bytes()))
    return world


def _reports(kept: list[tuple[str, bytes]]) -> int:
    envelopes = [Envelope.from_bytes(data) for kind, data in kept if kind == "envelope"]
    return sum(envelope.header.kind == "report" for envelope in envelopes)


def _play(gateway: ToyGateway, world: World) -> None:
    """Rows, labels, and requests that are refused, all of them with canaries."""
    wait_until(lambda: bool(gateway.rows("SELECT 1 FROM ledger_entries")), DEADLINE_S, "ledger")
    caller, rng = Caller(gateway.port), np.random.default_rng(8)
    ids: list[str] = []
    for number in range(REQUESTS):
        inputs = rng.uniform(-1, 1, (ROWS, 2, 3)).astype(np.float32)
        inputs[::2] = np.array(INPUTS, dtype=np.float32).reshape(2, 3)
        body = json.loads(infer_body(inputs))
        if number % SUBJECT_EVERY == 0:
            body["parameters"] = {"fedge_subject": STRINGS[4]}
        status, answer, _ = caller.ask(
            "POST", f"/v2/models/{FAMILY}/infer", json.dumps(body).encode()
        )
        assert status == 200, answer
        ids += answer["parameters"]["fedge_record_ids"]
    logits = np.array(answer["outputs"][0]["data"], dtype=np.float32).reshape(ROWS, 3)[:1]
    scores = Scores.from_outputs(logits, np.zeros((1, 2), dtype=np.float32))
    row = np.array(INPUTS, dtype=np.float32)
    for found in (row, logits.ravel(), scores.confidence, scores.ood):
        world.secret_numbers |= {float(value) for value in found}
    _feedback(caller, [{"id": name, "label": "green"} for name in ids], 200)
    _feedback(caller, [{"id": ids[0], "label": STRINGS[3]}], 400)
    _feedback(caller, [{"id": STRINGS[3], "label": "green"}], 400)
    _feedback(caller, [{"id": ids[0], "label": STRINGS[3], STRINGS[0]: row.tolist()}], 400)
    model = f"/v2/models/{FAMILY}/infer"
    for path, body in (
        (model, infer_body(row.reshape(1, 2, 3), name=STRINGS[0])),
        (model, infer_body(row.reshape(1, 2, 3), datatype=STRINGS[0])),
        (f"/v2/models/{STRINGS[1]}/infer", infer_body(row.reshape(1, 2, 3))),
        (model, infer_body(row[:5].reshape(1, 5))),
        (model, f'{{"id": "{STRINGS[2]}", "inputs": [{row.tolist()}]}}'.encode()),
        (model, STRINGS[2].encode()),
        # Overflows inside the model: an error of the 5xx kind.
        (model, infer_body(np.full((1, 2, 3), 3e38, dtype=np.float32))),
    ):
        status, answer, _ = caller.ask("POST", path, body)
        assert status >= 400, (body, answer)
    told = {"Authorization": f"Bearer {STRINGS[5]}", "X-Request-Id": STRINGS[5]}
    assert caller.ask("POST", f"{model}/{STRINGS[1]}?x={STRINGS[2]}", b"{}", **told)[0] >= 400
    for path in ("/fedge/v1/status", "/v2", "/v2/health/live", f"/v2/models/{FAMILY}"):
        caller.connection.request("GET", path)
        world.outgoing.append(("status", caller.connection.getresponse().read()))
    caller.close()


def _feedback(caller: Caller, labels: list[dict[str, str]], wanted: int) -> None:
    body = json.dumps({"labels": labels}).encode()
    status, answer, _ = caller.ask("POST", "/fedge/v1/feedback", body)
    assert status == wanted, answer


@dataclass
class _Keeper:
    """A `Post` to nobody, which keeps what leaves."""

    world: World

    def __call__(self, envelope: bytes) -> int:
        self.world.outgoing.append(("envelope", envelope))
        return 200

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        return 200, standing_for(path, self.world.of("envelope"))


def _train(gateway: ToyGateway, world: World) -> None:
    """Answer a whole run over the courier's socket, and some requests that are refused."""
    trainers: list[SummingTrainer] = []

    def start_trainer(
        release: Path, plan: TrainingPlan, records: LabelledRecords
    ) -> SummingTrainer:
        trainers.append(SummingTrainer(records, plan.grid_bits))
        return trainers[-1]

    ports = Ports(
        clock=lambda: 2e9,
        noise=OsNoise(),
        switch=QuietSwitch(),
        post=_Keeper(world),
        releases=NoReleases(),
        start_trainer=start_trainer,
        worker_restarts=lambda: 0,
    )
    agent = Agent(gateway.settings, gateway.identity, ports)
    path = gateway.settings.runtime_dir / "agent.sock"
    port = CourierPort(path, agent.answer)
    grid = InProcessGrid(
        {2: lambda request, array, left_s: ask_agent(path, request, array, left_s)}
    )
    try:
        while agent.watch_once():
            pass
        spec = world.spec = _spec(gateway, agent)
        for phase, number, arrays in (
            ("train", 0, ARRAYS),  # its trainer fails
            ("train", 0, ARRAYS),
            ("train", 1, ARRAYS),
            ("evaluate", 0, ARRAYS),
            ("train", 0, ARRAYS),
            ("train", 7, ARRAYS),
            ("evaluate", 1, ARRAYS[:-4]),
        ):
            request = RoundRequest(
                spec=spec,
                phase=phase,  # type: ignore[arg-type]
                round=number,
                arrays_sha256=sha256_hex(arrays),
            )
            _ask(world, grid, request.to_bytes(), arrays)
        _ask(world, grid, STRINGS[0].encode(), ARRAYS)
        agent.report_facts_once()
        agent.push_once()
        world.entries = agent.ledger.entries()
    finally:
        port.close()
        agent.close()
    world.secret_numbers |= {value for t in trainers for value in t.exact}
    world.secret_numbers |= {float(v) for v in _features(world.state_dir)}


def _ask(world: World, grid: InProcessGrid, request: bytes, arrays: bytes) -> None:
    """Let the courier carry a request, and write down all that it answers Flower."""
    record = ConfigRecord({"request": request, "array": arrays})
    message = Message(RecordDict({RECORD: record}), dst_node_id=2, message_type=MESSAGE_TYPE)
    (reply,) = grid.send_and_receive([message])
    answered = dict(reply.content.config_records[RECORD])
    assert answered.keys() == {"ok", "reason", "envelope"} and len(reply.content) == 1
    if answered["ok"]:
        world.tell("reply", bytes(answered["envelope"]))  # type: ignore[arg-type]
    else:
        world.tell("refusal", str(answered["reason"]).encode() + bytes(answered["envelope"]))  # type: ignore[arg-type]


def _spec(gateway: ToyGateway, agent: Agent) -> RunSpec:
    settings = TrainingSettings(records=50, steps=3)
    return RunSpec(
        run_id="run-1",
        task="toy",
        base_release=1,
        base_sha256=agent.installer.status().sha256,
        plan=plan_training(agent.policy, settings, DIMENSION),
        participants=(
            Participant(
                gateway=gateway.identity.fingerprint,
                public_key=gateway.identity.public_key.hex(),
                first_window=1,
                last_window=agent.watcher.windows - 1,
            ),
        ),
        episodes=("e",),
    )


def _features(state_dir: Path) -> npt.NDArray[np.float32]:
    """The first stored record's features, exactly as the model computed them."""
    part = sorted((state_dir / "blocks").glob("*/*.parquet"))[0]
    column = pq.read_table(part).column("feature")[0].as_py()
    return np.frombuffer(column, dtype=np.float32)
