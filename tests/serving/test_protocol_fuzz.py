"""Whatever arrives is answered with what it deserves: never a 5xx, never an exception, no leak."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fakes.asgi_apps import INFER, AsgiApp, Response, binary_body, typed_values
from fakes.gateways import Caller, fill_slot, infer_body, make_gateway, toy_inputs
from fakes.mutations import (
    bent,
    damaged,
    damaged_message,
    damaged_request,
    valid_feedback,
    valid_requests,
)
from fakes.workers import WorkerProcess
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedge.records.task import Datatype
from fedge.serving.ring_reader import RingReader

FEEDBACK = "/fedge/v1/feedback"
VALID = valid_requests()
MIB = 2**20
ROUNDS, REQUESTS_A_ROUND = 4, 1500


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AsgiApp]:
    with closing(AsgiApp(tmp_path_factory.mktemp("fuzz"))) as app:
        yield app


def check(answer: Response) -> None:
    """It is a whole answer, or a refusal in words."""
    assert answer.status == 200 or 400 <= answer.status < 500, (answer.status, answer.body)
    if answer.status == 200:
        assert answer.json
    else:
        field, _, message = answer.error.partition(": ")
        assert field and message and len(answer.body) < 2000


def resident_bytes(pid: int | str = "self") -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def hand_over(app: AsgiApp) -> None:
    """Do as the agent does, so that labels find room."""
    with contextlib.closing(RingReader(app.ring_path)) as reader:
        _, end = reader.read(reader.position, 10**6)
        reader.release(end)


CHANCE = st.integers(0, 2**32).map(random.Random)


@given(CHANCE)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_requests(served: AsgiApp, chance: random.Random) -> None:
    """Bytes and values of valid requests, changed at random; also cut into parts."""
    body, headers = damaged_request(chance, VALID)
    cut = chance.randrange(len(body) + 1)
    check(served.ask("POST", INFER, [body[:cut], body[cut:]], headers))
    assert served.infer(infer_body(toy_inputs(1))).status == 200


@pytest.fixture(scope="module", params=["BYTES", "BOOL", "FP16", "UINT64"])
def typed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[AsgiApp, Datatype]]:
    folder = tmp_path_factory.mktemp("typed")
    with closing(AsgiApp(folder, datatype=request.param)) as app:
        yield app, request.param


@given(CHANCE)
@settings(max_examples=100)
def test_damaged_tensors_of_other_datatypes(
    typed: tuple[AsgiApp, Datatype], chance: random.Random
) -> None:
    """Lengths within texts, bytes that are no bool, JSON values of every kind."""
    app, datatype = typed
    values = typed_values(datatype)
    body, length = binary_body(values, datatype)
    data = {"data": values.ravel().tolist(), "parameters": {}}
    valid = [
        (body, {"Inference-Header-Content-Length": str(length)}),
        (infer_body(values, datatype=datatype, **data), {}),
    ]
    check(app.ask("POST", INFER, *damaged_request(chance, valid)))
    tensor_data = damaged(chance, body[length:])
    size = {"parameters": {"binary_data_size": len(tensor_data)}}
    body, length = binary_body(values, datatype, lambda tensor: tensor.update(size))
    headers = {"Inference-Header-Content-Length": str(length)}
    check(app.ask("POST", INFER, body[:length] + tensor_data, headers))


@given(st.binary(max_size=200), st.sampled_from(["", "0", "1", "7", "200", "x"]))
@settings(max_examples=200)
def test_any_bytes(served: AsgiApp, body: bytes, told: str) -> None:
    """That never were a request, with any length told for their JSON."""
    headers = {"Inference-Header-Content-Length": told} if told else {}
    check(served.ask("POST", INFER, body, headers))
    check(served.ask("POST", FEEDBACK, body, headers))


@given(CHANCE)
@settings(max_examples=200)
def test_damaged_labels(served: AsgiApp, chance: random.Random) -> None:
    """Feedback, likewise."""
    body = valid_feedback()
    if chance.random() < 0.5:
        body = json.dumps(bent(chance, json.loads(body))).encode()
    else:
        body = damaged(chance, body)
    check(served.ask("POST", FEEDBACK, body))
    hand_over(served)


@given(CHANCE, st.sampled_from(["gzip", "deflate"]))
@settings(max_examples=100)
def test_damaged_compression(served: AsgiApp, chance: random.Random, encoding: str) -> None:
    """Compressed bodies that were damaged on the way."""
    body = damaged(chance, gzip.compress(infer_body(toy_inputs(1))))
    check(served.ask("POST", INFER, body, {"Content-Encoding": encoding}))


@given(st.text(max_size=30), st.sampled_from(["GET", "POST", "HEAD", "PUT", "X"]))
def test_any_path(served: AsgiApp, text: str, method: str) -> None:
    """Of any characters, below any of ours."""
    for base in ("/", "/v2/", "/v2/models/", "/v2/models/toy/", "/v2/models/toy/versions/"):
        raw: dict[str, Any] = {"raw_path": b"/"}
        check(served.ask(method, base + text, b"{}", **raw))


def test_memory_does_not_grow(served: AsgiApp) -> None:
    """Thousands of requests, good and bad: the process stays as large as it was."""
    chance = random.Random(7)
    sizes = []
    for _ in range(ROUNDS):
        for _ in range(REQUESTS_A_ROUND):
            body, headers = damaged_request(chance, VALID)
            assert served.ask("POST", INFER, body, headers).status < 500
        hand_over(served)
        sizes.append(resident_bytes())
    # The first round warms caches up.
    assert sizes[-1] - sizes[0] < 8 * MIB, [size // MIB for size in sizes]


def answers_on(port: int, message: bytes) -> bytes:
    """Send bytes, tell that no more come, and read what comes back to its end."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65_536):
                received += part
    return received


def test_damaged_messages_on_a_real_socket(tmp_path: Path) -> None:
    """A real worker outlives all of it, as large as before, and serves the next good caller."""
    fill_slot(make_gateway(tmp_path).state_dir, "A", 1)
    with (tmp_path / "gateway.toml").open("a") as config:
        # What seems to go on and does not is given up soon.
        config.write("[limits]\nheader_timeout_s = 0.2\nbody_timeout_s = 0.2\n")
    chance = random.Random(11)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        closing(WorkerProcess(tmp_path / "gateway.toml", "A", listening)) as worker,
    ):
        port = worker.serve().port
        sizes = []
        for _ in range(3):
            for _ in range(250):
                answer = answers_on(port, damaged_message(chance, VALID, INFER))
                # Nothing at all: the message ended within itself.
                assert answer == b"" or answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4")), answer
                assert b"HTTP/1.1 5" not in answer
            sizes.append(resident_bytes(worker.process.pid))
        caller = Caller(port)
        assert caller.infer(toy_inputs(1))[0] == 200
        caller.close()
        assert worker.process.poll() is None
        assert sizes[-1] - sizes[0] < 8 * MIB, [size // MIB for size in sizes]
