"""A gateway as it is on a factory line, on loopback: real supervisor, worker and agent.

Its release lies in slot A from the start; no centre runs. The digits model is built once
and kept below `runs/bench`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fedge.config import GatewaySettings
from fedge.demo.services import free_ports
from fedge.identity import Identity
from fedge.models.build import build_candidate
from fedge.models.hardware import hardware_class
from fedge.privacy.policy import new_policy, write_policy
from fedge.profiles.build import build_reference
from fedge.records import (
    BlockLength,
    ModelInput,
    NumericFeature,
    ReleaseFile,
    ReleaseManifest,
    TaskSchema,
    sha256_hex,
)
from fedge.tasks.digits import CODE
from fedge_client.control import SupervisorClient
from fedge_server.admin import init_server

READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A release's files, in one folder, and what they are."""

    folder: Path
    task: TaskSchema
    variant: str

    @property
    def model(self) -> Path:
        return self.folder / f"model.{self.variant}.onnx"


def digits(work: Path) -> Candidate:
    """The demo's base model, trained and quantized once."""
    folder = work / "digits"
    if not (folder / "build.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        build_candidate(CODE, CODE.base_weights(0), folder, hardware=hardware_class(), seed=0)
    built = json.loads((folder / "build.json").read_bytes())
    return Candidate(folder, CODE.schema, built["variants"][hardware_class()])


def pooled(work: Path, shape: tuple[int, ...], features: int) -> Candidate:
    """A model that costs next to nothing, so that what is around it shows.

    It averages all values for its 3 logits and hands on the first `features` values as watched.
    """
    size = int(np.prod(shape))
    task = TaskSchema(
        name="pooled",
        version=1,
        input=ModelInput(name="x", shape=shape, low=-10.0, high=10.0),
        classes=("low", "middle", "high"),
        features=tuple(
            NumericFeature(name=f"f{n}", type="float32", low=-10.0, high=10.0)
            for n in range(features)
        ),
        code="pooled.task:CODE",
    )
    folder = work / f"pooled-{size}-{features}"
    folder.mkdir(parents=True, exist_ok=True)
    model = _pooled_model(shape, size, features)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(8, *shape)).astype(np.float32)
    means = inputs.reshape(8, size).mean(axis=1, keepdims=True)
    logits = (means * np.array([-4.0, 0.0, 4.0], np.float32)).astype(np.float32)
    rows = rng.normal(size=(2000, features + 3))
    rows[:, features] = rng.integers(0, 3, 2000)
    rows[:, features + 1] = rng.uniform(0.3, 1.0, 2000)
    golden = io.BytesIO()
    np.savez(golden, inputs=inputs, logits_float=logits)
    reference = build_reference(
        task, rows, ood=rows[:, -1], model_sha256=sha256_hex(model), source="drawn for a benchmark"
    )
    files = {
        "task.json": task.to_bytes(),
        "reference.json": reference.to_bytes(),
        "golden.npz": golden.getvalue(),
        "model.float.onnx": model,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return Candidate(folder, task, "float")


def _pooled_model(shape: tuple[int, ...], size: int, features: int) -> bytes:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["mean", "w"], ["logits"]),
        helper.make_node("Slice", ["rows", "zero", "watched", "one"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pooled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", features]),
        ],
        [
            numpy_helper.from_array(np.array([-1, size], np.int64), "flat"),
            numpy_helper.from_array(np.array([[-4.0, 0.0, 4.0]], np.float32), "w"),
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(np.array([features], np.int64), "watched"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    data: bytes = model.SerializeToString()
    onnx.checker.check_model(model)
    return data


def make_folder(folder: Path, candidate: Candidate, **settings: object) -> GatewaySettings:
    """A gateway's folder with identity, policy, settings, and the release in slot A, active."""
    slot = folder / "state" / "slots" / "A"
    slot.mkdir(parents=True)
    (folder / "run").mkdir()
    Identity.create(folder / "state" / "identity.pem")
    block = BlockLength(kind="windows", value=24)
    policy = folder / "state" / "policy.toml"
    write_policy(new_policy(epsilon=3.0, delta=1e-5, block=block), policy)
    init_server(folder / "centre", policy=policy)
    root = folder / "centre" / "data" / "releases" / "metadata" / "1.root.json"
    (folder / "state" / "root.json").write_bytes(root.read_bytes())
    names = ("task.json", "reference.json", "golden.npz", candidate.model.name)
    files = {name: (candidate.folder / name).read_bytes() for name in names}
    manifest = ReleaseManifest(
        family=candidate.task.name,
        task_version=candidate.task.version,
        counter=1,
        parent=0,
        run_id="initial",
        variants={hardware_class(): candidate.variant},
        files={n: ReleaseFile(sha256=sha256_hex(d), length=len(d)) for n, d in files.items()},
        cohort=(),
        privacy_epsilon=0.0,
        measures={},
    )
    for name, data in files.items():
        (slot / name).write_bytes(data)
    (slot / "release.json").write_bytes(manifest.to_bytes())
    (slot / "variant.txt").write_text(candidate.variant)
    (folder / "state" / "active.json").write_text('{"slot": "A", "fallback": null}')
    values: dict[str, object] = {
        "state_dir": "state",
        "runtime_dir": str(folder / "run"),
        "port": 0,
        "task": candidate.task.name,
        "task_version": candidate.task.version,
        "family": candidate.task.name,
        "train": False,
        **settings,
    }
    (folder / "gateway.toml").write_text(_toml(values))
    return GatewaySettings.load(folder / "gateway.toml")


def _toml(values: dict[str, object]) -> str:
    plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in plain.items()]
    for name, table in values.items():
        if isinstance(table, dict):
            lines += [f"[{name}]\n", *(f"{k} = {json.dumps(v)}\n" for k, v in table.items())]
    return "".join(lines)


@dataclass(slots=True)
class Site:
    """A running gateway."""

    settings: GatewaySettings
    process: subprocess.Popen[bytes]

    @property
    def base(self) -> str:
        port = (self.settings.runtime_dir / "port").read_text()
        return f"http://127.0.0.1:{port}"

    @property
    def infer_url(self) -> str:
        return f"{self.base}/v2/models/{self.settings.family}/infer"

    def facts(self) -> dict[str, Any]:
        return SupervisorClient(self.settings.runtime_dir / "supervisor.sock").status()

    def pids(self) -> dict[str, int]:
        """Supervisor, worker and agent."""
        facts = self.facts()
        return {
            "supervisor": self.process.pid,
            "worker": int(facts["worker_pid"]),
            "agent": int(facts["agent_pid"]),
        }


@contextlib.contextmanager
def running(settings: GatewaySettings) -> Iterator[Site]:
    """Run a gateway's supervisor; ready when the block begins, ended when it is left."""
    config = settings.state_dir.parent / "gateway.toml"
    with (config.parent / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedge_client.supervisor", str(config)], stdout=log, stderr=log
        )
    site = Site(settings, process)
    try:
        wait_ready(lambda: f"{site.base}/v2/health/ready", process)
        yield site
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(url: Any, process: subprocess.Popen[bytes]) -> float:
    """Seconds until `url()` answers 200.

    Raises:
        RuntimeError: the process ended, or it took too long.
    """
    started = time.monotonic()
    while time.monotonic() - started < READY_TIMEOUT_S:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(url(), timeout=5) as answer,
        ):
            if answer.status == 200:
                return time.monotonic() - started
        time.sleep(0.01)
    raise RuntimeError(f"not ready after {READY_TIMEOUT_S:g} s")


@contextlib.contextmanager
def mlserver(python: Path, folder: Path, models: dict[str, Path]) -> Iterator[str]:
    """Run MLServer on the same model files; gives its base URL."""
    http, grpc, metrics = free_ports(3)
    peer = Path(__file__).parent / "peer"
    for name, model in models.items():
        home = folder / name
        home.mkdir(parents=True)
        (home / "onnx_model.py").write_bytes((peer / "onnx_model.py").read_bytes())
        (home / "model-settings.json").write_text(
            json.dumps(
                {
                    "name": name,
                    "implementation": "onnx_model.OnnxModel",
                    "parameters": {"uri": str(model.absolute())},
                }
            )
        )
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,  # in its own process: faster at batch 1 than over a queue
        "debug": False,
        "use_structured_logging": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    with (folder / "mlserver.log").open("ab") as log:
        process = subprocess.Popen(
            [str(python.parent / "mlserver"), "start", str(folder)],
            stdout=log,
            stderr=log,
            env={**environment, "OMP_NUM_THREADS": "1", "MLSERVER_LOGGING_SETTINGS": ""},
        )
    try:
        wait_ready(lambda: f"http://127.0.0.1:{http}/v2/health/ready", process)
        yield f"http://127.0.0.1:{http}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def json_body(name: str, inputs: npt.NDArray[np.float32], outputs: tuple[str, ...] = ()) -> bytes:
    """An inference request with its tensor as JSON numbers; asks for all outputs or those named."""
    tensor = {
        "name": name,
        "shape": list(inputs.shape),
        "datatype": "FP32",
        "data": [float(f"{value:.6g}") for value in inputs.ravel().tolist()],
    }
    wanted = {"outputs": [{"name": output} for output in outputs]} if outputs else {}
    return json.dumps({"inputs": [tensor], **wanted}).encode()


def binary_body(name: str, inputs: npt.NDArray[np.float32]) -> tuple[bytes, dict[str, str]]:
    """The same as a binary tensor, and the headers that belong to it; answered in binary."""
    data = np.ascontiguousarray(inputs, np.float32).tobytes()
    tensor = {
        "name": name,
        "shape": list(inputs.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return head + data, headers
