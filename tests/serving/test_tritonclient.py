"""The tritonclient that others use, as it is, against a real worker process."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from fakes.asgi_apps import typed_logits, typed_release, typed_values
from fakes.gateways import (
    FAMILY,
    TASK,
    Caller,
    fill_slot,
    make_gateway,
    toy_inputs,
    toy_logits,
)
from fakes.workers import StartWorker, WorkerProcess
from tritonclient.utils import InferenceServerException

from fedge.config import GatewaySettings
from fedge.records.task import Datatype

NAMES = ["logits", "class", "label", "confidence"]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A worker that serves release 3 of the toy model to all tests here."""
    folder = tmp_path_factory.mktemp("gateway")
    fill_slot(make_gateway(folder).state_dir, "A", 3)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        closing(WorkerProcess(folder / "gateway.toml", "A", listening)) as worker,
    ):
        yield worker.serve().port


@pytest.fixture
def client(port: int) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}", concurrency=8)
    yield client
    client.close()


def tensor(
    values: npt.NDArray[Any], datatype: Datatype = "FP32", *, binary: bool = True
) -> triton.InferInput:
    given = triton.InferInput("x", list(values.shape), datatype)
    return given.set_data_from_numpy(values, binary_data=binary)


def check(result: triton.InferResult, inputs: npt.NDArray[np.float32]) -> None:
    """The result is release 3's answer to these rows."""
    logits = toy_logits(3, inputs)
    assert np.allclose(result.as_numpy("logits"), logits, atol=1e-4)
    assert result.as_numpy("class").tolist() == logits.argmax(1).tolist()


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    """Everything that the client can ask about server and model, with and without a version."""
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(FAMILY) and client.is_model_ready(FAMILY, "3")
    assert not client.is_model_ready(FAMILY, "2") and not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("fedge", ["binary_tensor_data"])
    for version in ("", "3"):
        model = client.get_model_metadata(FAMILY, version, query_params={"a": "b"})
        assert (model["name"], model["versions"]) == (FAMILY, ["3"])
        assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 3]}]
        assert [output["name"] for output in model["outputs"]] == NAMES


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [None, True, False])
def test_json_and_binary_tensors(
    client: triton.InferenceServerClient, binary_in: bool, binary_out: bool | None
) -> None:
    """In every mixture; asked for nothing, the client wants all outputs as binary."""
    inputs = toy_inputs(5)
    outputs = None
    if binary_out is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in NAMES]
    given = [tensor(inputs, binary=binary_in)]
    result = client.infer(FAMILY, given, "3", outputs=outputs, request_id="r-1")
    check(result, inputs)
    labels = [TASK.classes[index] for index in toy_logits(3, inputs).argmax(1)]
    texts = result.as_numpy("label").tolist()
    assert [t.decode() if isinstance(t, bytes) else t for t in texts] == labels
    assert result.as_numpy("confidence").dtype == np.float32
    answer = result.get_response()
    assert (answer["id"], answer["model_version"]) == ("r-1", "3")
    assert len(answer["parameters"]["fedge_record_ids"]) == 5


def test_single_outputs_in_their_own_form(client: triton.InferenceServerClient) -> None:
    """One as binary data, one as JSON, the others not at all."""
    inputs = toy_inputs(2)
    outputs = [
        triton.InferRequestedOutput("class", binary_data=False),
        triton.InferRequestedOutput("logits", binary_data=True),
    ]
    result = client.infer(FAMILY, [tensor(inputs)], outputs=outputs)
    check(result, inputs)
    assert "data" in result.get_output("class") and "data" not in result.get_output("logits")
    assert result.as_numpy("label") is None


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(client: triton.InferenceServerClient, algorithm: str) -> None:
    """Both that the client offers, and it may ask for compressed answers, too."""
    inputs = toy_inputs(3)
    for binary in (True, False):
        result = client.infer(
            FAMILY,
            [tensor(inputs, binary=binary)],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        check(result, inputs)


def test_parameters_travel(client: triton.InferenceServerClient) -> None:
    """The client's own and ours: purposes and a subject."""
    inputs = toy_inputs(1)
    marks = {"fedge_purposes": "inference,monitoring", "fedge_subject": "anna"}
    check(client.infer(FAMILY, [tensor(inputs)], parameters=marks, priority=1, timeout=9), inputs)
    with pytest.raises(InferenceServerException, match=r"parameters\.fedge_purposes: "):
        client.infer(FAMILY, [tensor(inputs)], parameters={"fedge_purposes": "x"})


def test_errors_are_the_clients_exceptions(client: triton.InferenceServerClient) -> None:
    """With our status and our words; afterwards the connection still serves."""
    inputs = toy_inputs(1)
    wrong_shape = toy_inputs(1).reshape(1, 3, 2)
    nan = np.full((1, 2, 3), np.nan, np.float32)
    classification = [triton.InferRequestedOutput("logits", class_count=2)]
    failures: list[tuple[dict[str, Any], str, str]] = [
        ({"model_name": "other", "inputs": [tensor(inputs)]}, "404", "model: "),
        (
            {"model_name": FAMILY, "model_version": "9", "inputs": [tensor(inputs)]},
            "404",
            "version: ",
        ),
        ({"model_name": FAMILY, "inputs": [tensor(wrong_shape)]}, "400", "inputs[0].shape: "),
        ({"model_name": FAMILY, "inputs": [tensor(nan)]}, "400", "inputs[0].data: "),
        ({"model_name": FAMILY, "inputs": [tensor(nan, binary=False)]}, "400", "inputs[0].data: "),
        (
            {"model_name": FAMILY, "inputs": [tensor(inputs.astype(np.float64), "FP64")]},
            "400",
            "inputs[0].datatype: ",
        ),
        ({"model_name": FAMILY, "inputs": [tensor(inputs)] * 2}, "400", "inputs: "),
        (
            {"model_name": FAMILY, "inputs": [tensor(inputs)], "outputs": classification},
            "400",
            "outputs[0].parameters.classification: ",
        ),
        (
            {"model_name": FAMILY, "inputs": [tensor(np.full_like(inputs, 3e38))]},
            "422",
            "inputs[0].data: ",
        ),
    ]
    for arguments, status, start in failures:
        with pytest.raises(InferenceServerException) as refusal:
            client.infer(**arguments)
        assert refusal.value.status() == status
        assert refusal.value.message().startswith(start)
        check(client.infer(FAMILY, [tensor(inputs)]), inputs)
    with pytest.raises(InferenceServerException, match="Request for unknown model"):
        client.get_model_metadata("other")


def test_many_at_once_from_one_client(client: triton.InferenceServerClient) -> None:
    """Its own asynchronous calls over eight connections; every answer is its request's."""
    batches = [toy_inputs(1 + number % 4, seed=number) for number in range(60)]
    calls = [
        client.async_infer(FAMILY, [tensor(inputs, binary=number % 2 == 0)])
        for number, inputs in enumerate(batches)
    ]
    ids: list[str] = []
    for call, inputs in zip(calls, batches, strict=True):
        result = call.get_result(timeout=30)
        check(result, inputs)
        ids += result.get_response()["parameters"]["fedge_record_ids"]
    assert len(set(ids)) == len(ids) == sum(map(len, batches))


def test_many_at_once_from_threads(port: int) -> None:
    """One client in each thread, as its manual asks for."""
    failed: list[BaseException] = []

    def ask(seed: int) -> None:
        inputs = toy_inputs(2, seed=seed)
        try:
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
                for number in range(40):
                    check(client.infer(FAMILY, [tensor(inputs, binary=number % 2 == 0)]), inputs)
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_many_at_once_from_asyncio(port: int) -> None:
    """The client's asyncio form."""

    async def ask() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{port}", conn_limit=8) as client:
            assert await client.is_server_ready()
            batches = [toy_inputs(2, seed=number) for number in range(40)]
            calls = (client.infer(FAMILY, [tensor(inputs)]) for inputs in batches)
            for result, inputs in zip(await asyncio.gather(*calls), batches, strict=True):
                check(result, inputs)

    asyncio.run(ask())


def test_every_datatype(gateway: GatewaySettings, start_worker: StartWorker) -> None:
    """Numbers of every width, bools and texts, as the client sends them."""
    datatypes: tuple[Datatype, ...] = ("FP16", "BYTES", "BOOL", "UINT64", "INT8", "FP64")
    for datatype in datatypes:
        typed_release(gateway.state_dir, datatype)
        # A ring is made for one datatype; a task that changes it is another task.
        (gateway.state_dir / "ring.bin").unlink(missing_ok=True)
        worker = start_worker("A").serve()
        values = typed_values(datatype)
        with triton.InferenceServerClient(f"127.0.0.1:{worker.port}") as client:
            (taken,) = client.get_model_metadata(FAMILY)["inputs"]
            assert taken["datatype"] == datatype
            for binary in (True, False):
                result = client.infer(FAMILY, [tensor(values, datatype, binary=binary)])
                wanted = typed_logits(values)
                assert np.allclose(result.as_numpy("logits"), wanted, rtol=1e-5, atol=1e-5)
        worker.kill()


def test_a_draining_worker_is_not_ready(
    gateway: GatewaySettings, start_worker: StartWorker
) -> None:
    """The client reads it off the status; who asks for an answer still gets one."""
    fill_slot(gateway.state_dir, "A", 3)
    worker = start_worker("A").serve()
    caller = Caller(worker.port)
    assert caller.ask("GET", "/v2/health/ready")[0] == 200
    worker.tell("unready")
    with triton.InferenceServerClient(f"127.0.0.1:{worker.port}") as client:
        while client.is_server_ready():
            pass
        assert client.is_server_live() and not client.is_model_ready(FAMILY)
        check(client.infer(FAMILY, [tensor(toy_inputs(1))]), toy_inputs(1))
    caller.close()
