"""A gateway's folder with tiny real releases in its slots, and callers that talk to it.

The model is linear, built with onnx alone: `logits = 4 * x W`, `features = (mean x, max x)`;
each release has its own W. An input of 1e30 or more overflows to non-finite logits.
"""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from fedge.config import GatewaySettings
from fedge.identity import Identity
from fedge.models.hardware import hardware_class
from fedge.privacy.policy import new_policy, write_policy
from fedge.records import (
    BlockLength,
    ModelInput,
    NumericFeature,
    ReleaseFile,
    ReleaseManifest,
    TaskSchema,
    sha256_hex,
)

TASK = TaskSchema(
    name="toy",
    version=1,
    input=ModelInput(name="x", shape=(2, 3), low=-1.0, high=1.0),
    classes=("red", "green", "blue"),
    features=(
        NumericFeature(name="mean", type="float32", low=-1.0, high=1.0),
        NumericFeature(name="max", type="float32", low=-1.0, high=1.0),
    ),
    code="toy.task:TASK",
)
FAMILY = "toy"
WINDOW_SLOTS, BLOCK_WINDOWS, MAX_BATCH = 10, 5, 32
GAIN = np.float32(1e9)


def toy_weights(counter: int) -> npt.NDArray[np.float32]:
    """The matrix W (6 x 3) of release `counter`."""
    return np.random.default_rng(counter).normal(size=(6, 3)).astype(np.float32)


def toy_model(weights: npt.NDArray[np.float32]) -> bytes:
    """The ONNX file of a release."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["small"]),
        # Times 1e9 and back: large inputs overflow float32 on the way.
        helper.make_node("Mul", ["small", "gain"], ["large"]),
        helper.make_node("Mul", ["large", "back"], ["logits"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("ReduceMax", ["rows"], ["top"], axes=[1], keepdims=1),
        helper.make_node("Concat", ["mean", "top"], ["features"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 3])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 2]),
        ],
        [
            numpy_helper.from_array(np.array([-1, 6], np.int64), "flat"),
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(GAIN, "gain"),
            numpy_helper.from_array(np.float32(4) / GAIN, "back"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def toy_inputs(rows: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Some rows that the model takes."""
    return np.random.default_rng(seed).uniform(-1, 1, (rows, 2, 3)).astype(np.float32)


def toy_logits(counter: int, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What release `counter` answers."""
    return 4 * inputs.reshape(len(inputs), 6) @ toy_weights(counter)


def npz(**arrays: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def fill_slot(
    state_dir: Path,
    slot: str,
    counter: int,
    *,
    family: str = FAMILY,
    task: TaskSchema = TASK,
    golden_shift: float = 0.0,
    change: Callable[[dict[str, bytes]], None] = lambda files: None,
) -> Path:
    """Put release `counter` into a slot, as an installer would.

    Args:
        golden_shift: by how much the golden logits are wrong.
        change: alters the files before they are described in the manifest.
    """
    inputs = toy_inputs(8, seed=99)
    files = {
        "task.json": task.to_bytes(),
        "reference.json": b"{}",
        "golden.npz": npz(
            inputs=inputs,
            logits_float=(toy_logits(counter, inputs) + golden_shift).astype(np.float32),
        ),
        "model.float.onnx": toy_model(toy_weights(counter)),
    }
    change(files)
    manifest = ReleaseManifest(
        family=family,
        task_version=task.version,
        counter=counter,
        parent=counter - 1,
        run_id="initial" if counter == 1 else f"run-{counter}",
        variants={hardware_class(): "float"},
        files={n: ReleaseFile(sha256=sha256_hex(d), length=len(d)) for n, d in files.items()},
        cohort=(),
        privacy_epsilon=0.0,
        measures={},
    )
    folder = state_dir / "slots" / slot
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "release.json").write_bytes(manifest.to_bytes())
    (folder / "variant.txt").write_text("float")
    return folder


def make_gateway(folder: Path, **settings: object) -> GatewaySettings:
    """A gateway's folder with identity, policy and `gateway.toml`; its slots are empty."""
    state = folder / "state"
    for part in (state / "slots", folder / "run"):
        part.mkdir(parents=True)
    Identity.create(state / "identity.pem")
    block = BlockLength(kind="windows", value=BLOCK_WINDOWS)
    write_policy(new_policy(epsilon=3.0, delta=1e-5, block=block), state / "policy.toml")
    values: dict[str, object] = {
        "state_dir": "state",
        "runtime_dir": "run",
        "port": 0,
        "task": "toy",
        "family": FAMILY,
        "window_slots": WINDOW_SLOTS,
        "ring_slots": 4096,
        "drain_s": 5.0,
        "max_body_bytes": 65536,
        "max_batch": MAX_BATCH,
        "feedback_slots": 100,
        **settings,
    }
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    (folder / "gateway.toml").write_text(text)
    return GatewaySettings.load(folder / "gateway.toml")


class Caller:
    """One keep-alive connection to an inference port. No retry: what fails, fails."""

    def __init__(self, port: int, timeout_s: float = 30.0) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and lower-case headers of the answer."""
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        data = response.read()
        names = {name.lower(): value for name, value in response.getheaders()}
        return response.status, json.loads(data), names

    def infer(self, inputs: npt.NDArray[np.float32]) -> tuple[int, Any]:
        status, answer, _ = self.ask("POST", f"/v2/models/{FAMILY}/infer", infer_body(inputs))
        return status, answer

    def close(self) -> None:
        self.connection.close()


def infer_body(inputs: npt.NDArray[np.float32], **changes: object) -> bytes:
    tensor: dict[str, object] = {
        "name": "x",
        "shape": list(inputs.shape),
        "datatype": "FP32",
        "data": inputs.ravel().tolist(),
    }
    return json.dumps({"inputs": [{**tensor, **changes}]}).encode()


def ask_once(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """One request on a connection of its own."""
    caller = Caller(port)
    try:
        status, answer, _ = caller.ask(method, path, body)
        return status, answer
    finally:
        caller.close()


def wait_until(holds: Callable[[], bool], timeout_s: float = 20.0, what: str = "") -> None:
    """Poll until `holds`; a test fails where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        time.sleep(0.01)


class Load:
    """Callers that ask without a pause, each on its keep-alive connection, until stopped."""

    def __init__(self, port: int, callers: int = 3, pause_s: float = 0.0) -> None:
        self.failed: list[str] = []
        self.releases: list[list[int]] = [[] for _ in range(callers)]
        self.record_ids: list[str] = []
        self._port, self._pause_s = port, pause_s
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._play, args=(n,), daemon=True) for n in range(callers)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def served(self) -> int:
        return sum(map(len, self.releases))

    def _play(self, number: int) -> None:
        caller = Caller(self._port)
        inputs = toy_inputs(2, seed=number)
        while not self._stop.is_set():
            try:
                status, answer = caller.infer(inputs)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(repr(error))
                caller.close()
                continue
            if status != 200:
                self.failed.append(f"{status} {answer}")
                continue
            release = answer["parameters"]["fedge_release"]
            wanted = toy_logits(release, inputs).ravel()
            if not np.allclose(answer["outputs"][0]["data"], wanted, atol=1e-4):
                self.failed.append(f"release {release} answered another model's logits")
            self.releases[number].append(release)
            self.record_ids.extend(answer["parameters"]["fedge_record_ids"])
            self._stop.wait(self._pause_s)
        caller.close()
