"""A real worker process on a real socket: it serves, refuses, drains, and never breaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.bad_requests import BAD_REQUESTS
from fakes.gateways import (
    FAMILY,
    TASK,
    Caller,
    Load,
    ask_once,
    fill_slot,
    infer_body,
    make_gateway,
    npz,
    toy_inputs,
    toy_logits,
    toy_model,
    toy_weights,
    wait_until,
)
from fakes.workers import StartWorker

from fedge.config import GatewaySettings
from fedge.records import ModelInput
from fedge.records.purposes import purpose_bits
from fedge.serving.ring import LABEL, OBSERVATION
from fedge.serving.ring_reader import RingReader
from fedge.serving.stats import read_stats, stats_path

INFER = f"/v2/models/{FAMILY}/infer"


def test_a_worker_serves_what_it_observes(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """Answers, record ids, observations and labels of one gateway fit together."""
    fill_slot(gateway.state_dir, "A", 3)
    caller = Caller(start_worker("A").serve().port)
    inputs = toy_inputs(7)
    _, first = caller.infer(inputs[:4])
    status, answer = caller.infer(inputs[4:])
    assert status == 200 and answer["model_version"] == "3"
    ids = first["parameters"]["fedge_record_ids"] + answer["parameters"]["fedge_record_ids"]
    assert [text.split("-")[1:] for text in ids] == [["0", str(slot)] for slot in range(7)]
    assert answer["parameters"]["fedge_release"] == 3
    outputs = {output["name"]: output for output in answer["outputs"]}
    logits = toy_logits(3, inputs)
    assert outputs["logits"]["shape"] == [3, 3]
    assert np.allclose(outputs["logits"]["data"], logits[4:].ravel(), atol=1e-4)
    assert outputs["class"]["data"] == logits[4:].argmax(1).tolist()
    assert outputs["label"]["data"] == [TASK.classes[k] for k in logits[4:].argmax(1)]
    label = {"labels": [{"id": ids[5], "label": "blue"}]}
    assert caller.ask("POST", "/fedge/v1/feedback", json.dumps(label).encode())[:2] == (
        200,
        {"accepted": 1},
    )

    reader = RingReader(gateway.state_dir / "ring.bin")
    rows, _ = reader.read(0, 100)
    assert rows["kind"].tolist() == [OBSERVATION] * 7 + [LABEL]
    assert rows["slot"].tolist() == [*range(7), 5]
    assert (rows["label"][7], rows["release"][0]) == (2, 3)
    assert np.array_equal(rows["inputs"][:7], inputs.reshape(7, 6))
    assert np.allclose(rows["logits"][:7], logits, atol=1e-4)
    assert rows["purposes"][:7].tolist() == [purpose_bits(TASK.purposes)] * 7
    assert abs(rows["time"][0] - time.time()) < 60
    assert reader.next_slot == 7
    caller.close()


def test_the_open_inference_protocol_answers(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """Health and metadata come where the protocol says."""
    fill_slot(gateway.state_dir, "A", 1)
    port = start_worker("A").serve().port
    assert ask_once(port, "GET", "/v2/health/live") == (200, {"live": True})
    assert ask_once(port, "GET", "/v2/health/ready") == (200, {"ready": True})
    assert ask_once(port, "GET", f"/v2/models/{FAMILY}/ready")[1]["ready"] is True
    assert ask_once(port, "GET", "/v2")[1]["name"] == "fedge"
    metadata = ask_once(port, "GET", f"/v2/models/{FAMILY}")[1]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 3]}]
    assert [output["name"] for output in metadata["outputs"]] == [
        *("logits", "class", "label", "confidence")
    ]
    facts = ask_once(port, "GET", "/fedge/v1/status")[1]
    assert (facts["release"], facts["variant"], facts["next_slot"]) == (1, "float", 0)


def test_bad_input_gets_a_4xx_and_the_worker_goes_on(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """After every kind of wrong request the same connection gets a right answer."""
    fill_slot(gateway.state_dir, "A", 1)
    caller = Caller(start_worker("A").serve().port)
    good = infer_body(toy_inputs(1))
    refusals = [(INFER, "POST", body, 400, f"{field}: ") for body, field in BAD_REQUESTS.values()]
    refusals += [
        ("/v2/models/other/infer", "POST", good, 404, "model: Request for unknown model 'other'"),
        ("/v2/models/other", "GET", b"", 404, "model: "),
        ("/v2/nothing", "GET", b"", 404, "path: "),
        (INFER, "GET", b"", 405, "method: "),
        ("/v2/health/live", "POST", b"", 405, "method: "),
        ("/fedge/v1/feedback", "POST", b"{}", 400, "labels: "),
    ]
    for path, method, body, wanted, start in refusals:
        status, answer, _ = caller.ask(method, path, body)
        assert (status, answer["error"][: len(start)]) == (wanted, start)
        assert caller.infer(toy_inputs(1))[0] == 200
    for name, wanted in (("Content-Encoding", 415), ("Inference-Header-Content-Length", 400)):
        status, answer, _ = caller.ask("POST", INFER, good, **{name: "br"})
        assert status == wanted and answer["error"].startswith(name.lower())
    assert caller.infer(toy_inputs(1))[0] == 200
    caller.close()


def test_too_large_a_body_is_refused_readably(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """The sender of a large body gets its 413 also where it writes before it reads."""
    fill_slot(gateway.state_dir, "A", 1)
    port = start_worker("A").serve().port
    status, answer = ask_once(port, "POST", INFER, b" " * (gateway.max_body_bytes * 3))
    assert status == 413
    assert answer["error"] == f"body: is larger than {gateway.max_body_bytes} bytes"
    assert ask_once(port, "POST", INFER, infer_body(toy_inputs(1)))[0] == 200


def test_an_unknown_answer_is_no_answer(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """Where the model overflows the input is refused, and the row is observed as unknown."""
    fill_slot(gateway.state_dir, "A", 1)
    caller = Caller(start_worker("A").serve().port)
    status, answer = caller.infer(np.full((1, 2, 3), 3e38, np.float32))
    assert status == 422 and "not finite" in answer["error"]
    status, answer = caller.infer(toy_inputs(1))
    assert answer["parameters"]["fedge_record_ids"][0].endswith("-0-1")
    counted = read_stats(stats_path(gateway.runtime_dir, FAMILY, "A"))
    assert counted["rows"] == 2, "slots less rows would tell how many were unknown"
    rows, _ = RingReader(gateway.state_dir / "ring.bin").read(0, 10)
    assert not np.isfinite(rows["logits"][0]).all() and np.isfinite(rows["logits"][1]).all()
    caller.close()


def test_a_full_ring_stops_no_request(tmp_path: Path, start_worker: StartWorker) -> None:
    """Without an agent rows are served, thinned and counted; labels are asked for again once they
    fill their own places, an eighth as many as rows have."""
    folder = tmp_path / "small"
    settings = make_gateway(folder, ring_slots=64)
    (tmp_path / "gateway.toml").write_bytes((folder / "gateway.toml").read_bytes())
    (tmp_path / "state").rename(tmp_path / "unused")
    (folder / "state").rename(tmp_path / "state")
    fill_slot(tmp_path / "state", "A", 1)
    caller = Caller(start_worker("A").serve().port)
    for _ in range(20):
        assert caller.infer(toy_inputs(10))[0] == 200
    gateway_name = caller.ask("GET", "/fedge/v1/status")[1]["gateway"]
    label = {"labels": [{"id": f"{gateway_name}-3-199", "label": "red"}]}
    for _ in range(8):
        assert caller.ask("POST", "/fedge/v1/feedback", json.dumps(label).encode())[0] == 200
    status, answer, _ = caller.ask("POST", "/fedge/v1/feedback", json.dumps(label).encode())
    assert status == 503 and answer["error"].startswith("labels: ")
    too_many = json.dumps({"labels": label["labels"] * 9}).encode()
    assert caller.ask("POST", "/fedge/v1/feedback", too_many)[0] == 400
    reader = RingReader(tmp_path / "state" / "ring.bin")
    rows, end = reader.read(0, 1000)
    assert (len(rows), reader.next_slot, reader.dropped) == (64 + 8, 200, 136)
    reader.release(end)
    assert caller.ask("POST", "/fedge/v1/feedback", json.dumps(label).encode())[0] == 200
    assert settings.ring_slots == 64
    caller.close()


def refuse_golden_nan(files: dict[str, bytes]) -> None:
    inputs = toy_inputs(2)
    logits = np.full((2, 3), np.nan, np.float32)
    files["golden.npz"] = npz(inputs=inputs, logits_float=logits)


def refuse_golden_empty(files: dict[str, bytes]) -> None:
    files["golden.npz"] = npz(inputs=toy_inputs(0), logits_float=np.zeros((0, 3), np.float32))


def refuse_golden_other_variant(files: dict[str, bytes]) -> None:
    files["golden.npz"] = npz(inputs=toy_inputs(1), logits_int8=toy_logits(1, toy_inputs(1)))


def refuse_golden_pickle(files: dict[str, bytes]) -> None:
    files["golden.npz"] = npz(inputs=np.array([{}], object), logits_float=np.zeros((1, 3)))


def refuse_other_model(files: dict[str, bytes]) -> None:
    files["model.float.onnx"] = toy_model(toy_weights(77))


def refuse_broken_model(files: dict[str, bytes]) -> None:
    files["model.float.onnx"] = files["model.float.onnx"][:-40]


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        (refuse_golden_nan, "trial-failed", "not finite"),
        (refuse_golden_empty, "trial-failed", "shapes"),
        (refuse_golden_other_variant, "trial-failed", "no vectors for float"),
        (refuse_golden_pickle, "trial-failed", "no vectors for float"),
        (refuse_other_model, "trial-failed", "golden vectors"),
        (refuse_broken_model, "not-ready", "cannot load"),
    ],
)
def test_a_release_that_fails_a_probe_never_serves(
    gateway: GatewaySettings, change: object, reason: str, detail: str
) -> None:
    """The refusal is typed and says which probe failed."""
    from fedge.errors import FedgeError, UpdateRejectedError
    from fedge.serving.composition import compose

    fill_slot(gateway.state_dir, "A", 1, change=change)  # type: ignore[arg-type]
    with pytest.raises(FedgeError, match=detail) as refusal:
        compose(gateway, FAMILY, "A")
    assert isinstance(refusal.value, UpdateRejectedError) == (reason == "trial-failed")


def test_a_golden_mismatch_is_told_over_the_line(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """A worker whose golden vectors do not fit says so and ends, without a request."""
    fill_slot(gateway.state_dir, "A", 1, golden_shift=0.5)
    worker = start_worker("A")
    said = worker.hear()
    assert (said["event"], said["reason"]) == ("failed", "trial-failed")
    assert "off by 0.5" in said["detail"]
    assert worker.process.wait(10) == 1
    assert not (gateway.state_dir / "ring.bin").exists()


@pytest.mark.parametrize("name", ["model.float.onnx", "task.json", "golden.npz"])
def test_a_file_changed_on_disk_is_refused(gateway: GatewaySettings, name: str) -> None:
    """Every file that is used is the one in the manifest, also months after the install."""
    from fedge.errors import TamperedFileError
    from fedge.serving.release import load_release

    folder = fill_slot(gateway.state_dir, "A", 1)
    load_release(folder, gateway)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(TamperedFileError, match=name):
        load_release(folder, gateway)
    (folder / name).unlink()
    with pytest.raises(TamperedFileError, match=name):
        load_release(folder, gateway)


def test_another_task_is_refused(gateway: GatewaySettings) -> None:
    """A release of another task version does not serve, whatever the installer did."""
    from fedge.errors import SchemaMismatchError, TaskError
    from fedge.serving.release import load_release

    newer = TASK.model_copy(update={"version": 2})
    with pytest.raises(SchemaMismatchError, match="2"):
        load_release(fill_slot(gateway.state_dir, "A", 1, task=newer), gateway)
    reshaped = ModelInput(name="y", shape=(2, 3), low=0, high=1)
    other = TASK.model_copy(update={"input": reshaped})
    with pytest.raises(TaskError, match="takes"):
        load_release(fill_slot(gateway.state_dir, "A", 1, task=other), gateway)


def test_a_swap_fails_no_request(gateway: GatewaySettings, start_worker: StartWorker) -> None:
    """Under load, the next release takes the socket over again and again, and nobody notices."""
    fill_slot(gateway.state_dir, "A", 1)
    serving = start_worker("A").serve()
    idle = Caller(serving.port)
    idle.infer(toy_inputs(1))
    with Load(serving.port, callers=3, pause_s=0.002) as load:
        for counter, slot in ((2, "B"), (3, "A"), (4, "B")):
            fill_slot(gateway.state_dir, slot, counter)
            following = start_worker(slot).serve()
            serving.tell("drain", seconds=5.0)
            if counter == 2:
                # A caller that was silent during the swap still gets its answer, and is told.
                time.sleep(0.3)
                status, answer, headers = idle.ask("POST", INFER, infer_body(toy_inputs(1)))
                assert (status, answer["parameters"]["fedge_release"]) == (200, 1)
                assert headers["connection"] == "close"
            assert serving.process.wait(20) == 0
            serving = following
        wait_until(lambda: all(r and r[-1] == 4 for r in load.releases), what="release 4 serves")
    assert load.failed == []
    assert load.served > 100 and {1, 2, 3, 4} <= set().union(*map(set, load.releases))
    assert len(set(load.record_ids)) == len(load.record_ids) == 2 * load.served
    idle.close()


def test_a_silent_connection_does_not_hold_a_drain(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """After the draining time the worker goes, whoever stays connected."""
    fill_slot(gateway.state_dir, "A", 1)
    worker = start_worker("A").serve()
    idle = Caller(worker.port)
    idle.infer(toy_inputs(1))
    worker.tell("drain", seconds=0.5)
    assert worker.process.wait(10) == 0
    idle.close()


@pytest.mark.parametrize("how", ["sigterm", "hang up", "sigterm while draining"])
def test_a_worker_ends_with_its_supervisor(
    gateway: GatewaySettings, start_worker: StartWorker, how: str
) -> None:
    """SIGTERM or a broken line ends it at once; what is being answered is answered."""
    fill_slot(gateway.state_dir, "A", 1)
    worker = start_worker("A").serve()
    idle = Caller(worker.port)
    idle.infer(toy_inputs(1))
    if how == "sigterm while draining":
        worker.tell("drain", seconds=60.0)
        time.sleep(0.2)
    if how == "hang up":
        worker.hang_up()
    else:
        os.kill(worker.process.pid, signal.SIGTERM)
    assert worker.process.wait(5) == 0
    idle.close()


def test_a_killed_worker_leaves_all_it_answered(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """kill -9 under load: every record id that a caller holds is in the ring; the next goes on."""
    fill_slot(gateway.state_dir, "A", 1)
    worker = start_worker("A").serve()
    load = Load(worker.port, callers=2)
    with load:
        wait_until(lambda: load.served > 50, what="some requests")
        killer = threading.Thread(target=worker.kill)
        killer.start()
        killer.join()
        following = start_worker("A").serve()
        served = load.served
        wait_until(lambda: load.served > served, what="requests of the next worker")
    reader = RingReader(gateway.state_dir / "ring.bin")
    rows, _ = reader.read(0, 10**6)
    slots = rows["slot"].tolist()
    assert slots == list(range(len(slots))) and reader.next_slot == len(slots)
    assert {int(text.split("-")[2]) for text in load.record_ids} <= set(slots)
    assert following.process.poll() is None


def test_the_worker_loads_nothing_heavy() -> None:
    """What serves on a gateway carries no training, statistics or flow library."""
    heavy = ["torch", "scipy", "pandas", "sklearn", "dp_accounting", "opendp", "river", "flwr"]
    heavy += ["prefect", "onnx", "pyarrow", "fastapi", "tuf"]
    program = (
        "import sys, fedge.serving.worker; print([m for m in sys.argv[1:] if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, *heavy], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
