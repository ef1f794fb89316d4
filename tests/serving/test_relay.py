"""Several models behind one port: whichever worker takes a request, the right one answers it."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.gateways import infer_body, toy_inputs, toy_logits
from fakes.served_apps import gateway_of, listening, make_app, make_served
from fakes.upstreams import FakeServer, Request, answer, hang, plays, run

from fedge.config import GatewaySettings
from fedge.errors import RequestError
from fedge.serving.protocol import family_of
from fedge.serving.relay import MAX_UNDER_WAY, Relay, was_relayed
from fedge.serving.upstream import Endpoint, HttpClient, Response

JSON = [(b"content-type", b"application/json")]
COUNTERS = {"one": 1, "two": 2}
"""The two models differ: each answers as another release of the toy model."""


class Pair:
    """Two gateways' apps, each on its port and on its unix socket, that know each other."""

    def __init__(self, folder: Path, *, max_body_bytes: int) -> None:
        self.sockets = {family: folder / f"model-{family}.sock" for family in COUNTERS}
        self.settings: dict[str, GatewaySettings] = {
            family: make_served(
                folder / family, family, counter=counter, max_body_bytes=max_body_bytes
            )
            for family, counter in COUNTERS.items()
        }
        self.clients: dict[str, HttpClient] = {}

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Pair]:
        families = {gateway_of(settings): family for family, settings in self.settings.items()}
        async with AsyncExitStack() as stack:
            for family, settings in self.settings.items():
                others = {f: path for f, path in self.sockets.items() if f != family}
                app = make_app(settings, relay=Relay(others), neighbours=families)
                port = await stack.enter_async_context(listening(app))
                await stack.enter_async_context(listening(app, self.sockets[family]))
                self.clients[family] = HttpClient(Endpoint.parse(f"http://127.0.0.1:{port}"))
            yield self
            for client in self.clients.values():
                client.close()

    async def infer(self, at: str, model: str, seed: int = 0, rows: int = 2) -> tuple[Any, bool]:
        """The answer, and whether it holds the logits of that model."""
        inputs = toy_inputs(rows, seed)
        got = await ask(self.clients[at], "POST", f"/v2/models/{model}/infer", infer_body(inputs))
        value = json.loads(got.body)
        assert got.status == 200, value
        logits = np.array(value["outputs"][0]["data"]).reshape(rows, 3)
        return value, np.allclose(logits, toy_logits(COUNTERS[model], inputs), atol=1e-4)


async def ask(client: HttpClient, method: str, target: str, body: bytes = b"") -> Response:
    return await client.request(method, target, JSON, body, timeout_s=20.0)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path, max_body_bytes=8 * 2**20)


def test_every_worker_answers_for_every_model(pair: Pair) -> None:
    """Both models behind both ports, requests mixed on kept connections, many at once."""

    async def story() -> None:
        async with pair.up():
            asked = [
                pair.infer(at, model, seed)
                for seed in range(20)
                for at in COUNTERS
                for model in COUNTERS
            ]
            for value, right in await asyncio.gather(*asked):
                assert right, value

    run(story())


def test_the_answer_is_the_other_workers_own(pair: Pair) -> None:
    """Name, release and record ids are those of the model that answered; metadata too."""

    async def story() -> None:
        async with pair.up():
            value, _ = await pair.infer("one", "two")
            assert (value["model_name"], value["model_version"]) == ("two", "2")
            prefix = gateway_of(pair.settings["two"])
            assert all(i.startswith(prefix) for i in value["parameters"]["fedge_record_ids"])
            for path in ("/v2/models/two", "/v2/models/two/versions/2"):
                got = await ask(pair.clients["one"], "GET", path)
                assert json.loads(got.body)["name"] == "two"
            got = await ask(pair.clients["one"], "GET", "/v2/models/two/ready")
            assert json.loads(got.body)["ready"] is True

    run(story())


def test_refusals_come_through(pair: Pair) -> None:
    """What the other worker refuses is refused in its words."""

    async def story() -> None:
        async with pair.up():
            for body in (b"{}", b"not json"):
                path = "/v2/models/two/infer"
                direct = await ask(pair.clients["two"], "POST", path, body)
                relayed = await ask(pair.clients["one"], "POST", path, body)
                assert (relayed.status, relayed.body) == (direct.status, direct.body)
                assert relayed.status == 400
            for path in ("/v2/models/two/nothing", "/v2/models/none/infer"):
                assert (await ask(pair.clients["one"], "POST", path)).status == 404

    run(story())


def test_labels_find_their_model(pair: Pair) -> None:
    """Feedback goes to the worker that served the record, whichever worker takes it."""

    async def story() -> None:
        async with pair.up():
            value, _ = await pair.infer("one", "two")
            ids = value["parameters"]["fedge_record_ids"]
            body = json.dumps({"labels": [{"id": i, "label": "red"} for i in ids]}).encode()
            got = await ask(pair.clients["one"], "POST", "/fedge/v1/feedback", body)
            assert (got.status, json.loads(got.body)) == (200, {"accepted": 2})

    run(story())


def test_binary_and_packed_bodies_pass_unread(pair: Pair) -> None:
    """Binary tensors both ways and content encoding reach the other worker as they came."""
    inputs = toy_inputs(3)
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    head = json.dumps(
        {
            "id": "mine",
            "inputs": [
                {
                    "name": "x",
                    "shape": [3, 2, 3],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": inputs.nbytes},
                }
            ],
            "outputs": outputs,
        }
    ).encode()
    length = (b"inference-header-content-length", b"%d" % len(head))
    whole = head + inputs.tobytes()

    async def story() -> None:
        async with pair.up():
            for headers, body in (
                ([length], whole),
                ([length, (b"content-encoding", b"gzip")], gzip.compress(whole)),
            ):
                got = await pair.clients["one"].request(
                    "POST", "/v2/models/two/infer", headers, body, timeout_s=20.0
                )
                assert got.status == 200, got.body
                at = int(got.header(b"inference-header-content-length") or b"")
                assert json.loads(got.body[:at])["id"] == "mine"
                logits = np.frombuffer(got.body[at:], np.float32).reshape(3, 3)
                assert np.allclose(logits, toy_logits(2, inputs), atol=1e-4)

    run(story())


def test_big_bodies_pass(tmp_path: Path) -> None:
    """Megabytes there and back, several at once, byte for byte."""
    body = np.random.default_rng(1).bytes(5 * 2**20)

    async def echo(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(request.body, headers="Content-Type: application/octet-stream\r\n"))
        await writer.drain()

    async def story() -> None:
        async with FakeServer(echo, socket=tmp_path / "s"):
            relay = Relay({"two": tmp_path / "s"})
            asked = (relay.forward("POST", "/v2/models/two/infer", [], body) for _ in range(4))
            for status, headers, got in await asyncio.gather(*asked):
                assert (status, got == body) == (200, True)
                assert headers == [(b"content-type", b"application/octet-stream")]

    run(story())


def test_connections_to_the_other_worker_are_kept(tmp_path: Path) -> None:
    """Relayed requests one after the other take one connection; a restart costs none."""

    async def story() -> None:
        path = tmp_path / "s"
        relay = Relay({"two": path})
        async with FakeServer(plays(answer(b"{}")), socket=path) as server:
            for _ in range(5):
                assert (await relay.forward("GET", "/v2/models/two", [], b""))[0] == 200
            assert server.connections == 1
        path.unlink()
        async with FakeServer(plays(answer(b"{}")), socket=path):
            assert (await relay.forward("GET", "/v2/models/two", [], b""))[0] == 200

    run(story())


def test_a_worker_that_is_down_is_said_to_be_down(tmp_path: Path) -> None:
    """503 with an error and `Retry-After`, whether it is absent, silent or breaks off."""

    async def story() -> None:
        half = plays(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", then_close=True)
        async with (
            FakeServer(hang, socket=tmp_path / "silent"),
            FakeServer(half, socket=tmp_path / "half"),
        ):
            families = ("absent", "silent", "half")
            relay = Relay({family: tmp_path / family for family in families}, timeout_s=0.05)
            for family in families:
                status, headers, body = await relay.forward(
                    "POST", f"/v2/models/{family}/infer", JSON, b"{}"
                )
                assert status == 503
                assert dict(headers)[b"retry-after"].isdigit()
                assert family in json.loads(body)["error"]

    run(story())


def test_a_worker_that_hangs_takes_so_many_places_and_no_more(tmp_path: Path) -> None:
    """Callers beyond are told at once, so that the model of the worker they came to is served."""

    async def story() -> None:
        async with FakeServer(hang, socket=tmp_path / "hung"):
            relay = Relay({"hung": tmp_path / "hung"}, timeout_s=0.3)

            async def asked() -> tuple[int, float]:
                begun = time.monotonic()
                status, _, _ = await relay.forward("POST", "/v2/models/hung/infer", JSON, b"{}")
                return status, time.monotonic() - begun

            answers = await asyncio.gather(*(asked() for _ in range(MAX_UNDER_WAY + 9)))
            assert {status for status, _ in answers} == {503}
            assert sum(took < 0.2 for _, took in answers) == 9
            assert (await asked())[1] > 0.2, "places are given back"

    run(story())


def test_who_only_looks_has_no_body_passed_on(pair: Pair) -> None:
    """Readiness of another model needs no token: a body with it is not even read."""

    async def story() -> None:
        async with pair.up():
            big = bytes(pair.settings["one"].max_body_bytes + 1)
            got = await ask(pair.clients["one"], "GET", "/v2/models/two/ready", big)
            assert (got.status, json.loads(got.body)["ready"]) == (200, True)

    run(story())


def test_the_caller_hears_of_it_as_any_other_answer(pair: Pair) -> None:
    """Through the app too; the model that is there is served on."""

    async def story() -> None:
        async with pair.up():
            pair.sockets["two"].rename(pair.sockets["two"].with_suffix(".gone"))
            got = await ask(pair.clients["one"], "POST", "/v2/models/two/infer", b"{}")
            assert (got.status, got.header(b"retry-after")) == (503, b"1")
            assert (await pair.infer("one", "one"))[1]

    run(story())


def test_a_relayed_request_is_never_relayed_again(tmp_path: Path) -> None:
    """Two workers that each take the other for the third model's: a 404, and no loop."""
    sockets = {family: tmp_path / family for family in ("a", "b")}

    async def story() -> None:
        async with AsyncExitStack() as stack:
            for family, other in (("a", "b"), ("b", "a")):
                settings = make_served(tmp_path / f"of-{family}", family)
                app = make_app(settings, relay=Relay({"third": sockets[other]}))
                await stack.enter_async_context(listening(app, sockets[family]))
            relay = Relay({"third": sockets["a"]}, timeout_s=5.0)
            status, _, body = await relay.forward("POST", "/v2/models/third/infer", JSON, b"{}")
            assert (status, "third" in json.loads(body)["error"]) == (404, True)

    run(story())


def test_a_caller_cannot_claim_to_be_a_worker(pair: Pair) -> None:
    """On the port the mark means nothing: the request is relayed all the same."""

    async def story() -> None:
        async with pair.up():
            got = await pair.clients["one"].request(
                "GET", "/v2/models/two", [(b"fedge-relayed", b"1")], timeout_s=20.0
            )
            assert json.loads(got.body)["name"] == "two"

    run(story())
    scope = {"client": ("127.0.0.1", 1), "headers": [(b"fedge-relayed", b"1")]}
    assert not was_relayed(scope)
    assert was_relayed({**scope, "client": None})
    assert not was_relayed({"client": None, "headers": []})


def test_only_known_headers_pass(tmp_path: Path) -> None:
    """Neither a caller's other headers nor the other worker's hop-by-hop ones get through."""
    reply = answer(b"{}", headers="Connection: close\r\nX-Inner: 1\r\nRetry-After: 7\r\n")

    async def story() -> None:
        async with FakeServer(plays(reply), socket=tmp_path / "s") as server:
            relay = Relay({"two": tmp_path / "s"})
            headers = [
                *JSON,
                (b"host", b"outside"),
                (b"content-length", b"99"),
                (b"transfer-encoding", b"chunked"),
                (b"connection", b"upgrade"),
                (b"cookie", b"secret"),
                (b"authorization", b"Bearer t"),
            ]
            target = "/v2/models/two?a=%2F"
            _, passed, _ = await relay.forward("GET", target, headers, b"")
            assert passed == [(b"retry-after", b"7")]
            (request,) = server.requests
            assert request.line == f"GET {target} HTTP/1.1"
            assert request.headers == {
                "host": "localhost",
                "content-length": "0",
                "content-type": "application/json",
                "authorization": "Bearer t",
                "fedge-relayed": "1",
            }

    run(story())


@pytest.mark.parametrize("target", ["/v2/models/two/infer\r\nX: 1", "/v2/models/two/a b"])
def test_a_path_cannot_smuggle(tmp_path: Path, target: str) -> None:
    """A path that was unescaped too early is refused, not sent."""

    async def story() -> None:
        async with FakeServer(hang, socket=tmp_path / "s") as server:
            with pytest.raises(RequestError) as refusal:
                await Relay({"two": tmp_path / "s"}).forward("GET", target, [], b"")
            assert (refusal.value.status, server.connections) == (400, 0)

    run(story())


def test_a_cancelled_caller_ends_the_relayed_request(tmp_path: Path) -> None:
    """The other worker sees the caller go."""

    async def story() -> None:
        async with FakeServer(hang, socket=tmp_path / "s") as server:
            relay = Relay({"two": tmp_path / "s"})
            asking = asyncio.ensure_future(relay.forward("GET", "/v2/models/two", [], b""))
            while not server.requests:
                await asyncio.sleep(0.001)
            asking.cancel()
            await asyncio.wait_for(server.gone.wait(), 20.0)

    run(story())


def test_families() -> None:
    """The model is the path's; others than those given are not served."""
    relay = Relay({"two": Path("two")})
    assert (relay.serves("two"), relay.serves("one"), relay.families) == (True, False, ("two",))
    assert family_of("/v2/models/two/infer?x=/v2/models/one") == "two"
    assert [family_of(p) for p in ("/v2", "/v2/models", "/fedge/v1/feedback", "")] == [""] * 4
    with pytest.raises(RequestError) as refusal:
        run(relay.forward("GET", "/v2/models/one", [], b""))
    assert refusal.value.status == 404
