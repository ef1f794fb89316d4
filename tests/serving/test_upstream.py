"""The HTTP client: whole answers in time, or a typed failure; against real sockets."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.upstreams import FakeServer, Play, Request, answer, hang, plays, run

from fedge.errors import OutboundError, OutboundTimeoutError, SettingError
from fedge.serving.upstream import Endpoint, HttpClient, Response

SOON_S = 20.0
"""Longer than anything here takes; a test that needs it fails."""


def client_of(server: FakeServer, **options: int) -> HttpClient:
    return HttpClient(Endpoint.parse(server.url), **options)


async def get(client: HttpClient, target: str = "/v2", timeout_s: float = SOON_S) -> Response:
    return await client.request("GET", target, timeout_s=timeout_s)


def asked(play: Play, **options: int) -> Response:
    """The answer that one request gets."""

    async def ask() -> Response:
        async with FakeServer(play) as server:
            return await get(client_of(server, **options))

    return run(ask())


# --- answers


def test_an_answer_comes_whole() -> None:
    """Status, lower-case headers and body, and the request as it was meant."""

    async def story() -> None:
        async with FakeServer(plays(answer(b"yes", 207, headers="X-Kind: Odd\r\n"))) as server:
            client = HttpClient(Endpoint.parse(f"{server.url}/base/"))
            got = await client.request(
                "POST", "/v2/x?y=%20", [(b"x-mark", b"1")], b"rows", timeout_s=SOON_S
            )
            assert (got.status, got.body, got.header(b"x-kind")) == (207, b"yes", b"Odd")
            (request,) = server.requests
            assert (request.line, request.body) == ("POST /base/v2/x?y=%20 HTTP/1.1", b"rows")
            assert request.headers["x-mark"] == "1"
            assert request.headers["host"] == f"127.0.0.1:{server.port}"

    run(story())


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nyes\r\n5;why=so\r\n, yes\r\n0\r\nTrailer: x\r\n\r\n"
)


@pytest.mark.parametrize("pieces", [1, 7, len(CHUNKED)])
def test_chunks_are_joined_however_they_arrive(pieces: int) -> None:
    """A chunked answer is one body, also when it comes byte by byte."""

    async def play(_: Request, writer: asyncio.StreamWriter) -> None:
        size = -(-len(CHUNKED) // pieces)
        for at in range(0, len(CHUNKED), size):
            writer.write(CHUNKED[at : at + size])
            await writer.drain()

    assert asked(play).body == b"yes, yes"


def test_interim_answers_are_passed_over() -> None:
    """A 100 or 103 before the answer is not the answer."""
    got = asked(plays(b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + answer(b"yes")))
    assert (got.status, got.body, got.header(b"link")) == (200, b"yes", None)


def test_an_answer_without_body_is_whole() -> None:
    """204 has no body and needs no length."""
    assert asked(plays(b"HTTP/1.1 204 No Content\r\n\r\n")).body == b""


def test_a_head_request_waits_for_no_body() -> None:
    """The length in the answer to HEAD is that of another answer."""

    async def story() -> None:
        async with FakeServer(plays(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")) as server:
            client = client_of(server)
            for _ in range(2):
                got = await client.request("HEAD", "/v2", timeout_s=SOON_S)
                assert (got.status, got.body) == (200, b"")

    run(story())


@pytest.mark.parametrize(
    "play",
    [
        plays(b"garbage\r\n\r\n"),
        plays(b"\x00" * 64),
        plays(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        plays(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        plays(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        plays(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        plays(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", then_close=True),
        plays(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", then_close=True),
        plays(b"HTTP/1.1 200 OK\r\nX-Half: ", then_close=True),
        plays(b"", then_close=True),
    ],
)
def test_half_and_wrong_answers_are_failures(play: Play) -> None:
    """What is no whole HTTP answer that says its length is never taken for one."""
    with pytest.raises(OutboundError) as failure:
        asked(play)
    assert not isinstance(failure.value, OutboundTimeoutError)


@pytest.mark.parametrize("declared", [True, False])
def test_a_large_answer_is_cut_off(declared: bool) -> None:
    """More than the limit is refused while it comes in, whether its length was told or not."""
    start = answer(b"")[: -len(b"\r\n")] if declared else CHUNKED.partition(b"3\r\n")[0]
    start = start.replace(b"Content-Length: 0", b"Content-Length: 999999999")

    async def play(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(start + b"\r\n" * declared)
        while True:
            writer.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            await writer.drain()

    with pytest.raises(OutboundError, match="larger than 100000 bytes"):
        asked(play, max_answer_bytes=100_000)


# --- connections


def test_a_connection_is_kept() -> None:
    """Requests one after the other take one connection."""

    async def story() -> None:
        async with FakeServer(plays(answer(b"yes"))) as server:
            client = client_of(server)
            for _ in range(5):
                assert (await get(client)).body == b"yes"
            assert (server.connections, len(server.requests)) == (1, 5)
            client.close()
            await asyncio.wait_for(server.gone.wait(), SOON_S)

    run(story())


def test_a_connection_is_left_where_the_server_says_so() -> None:
    """`Connection: close` is obeyed."""

    async def story() -> None:
        async with FakeServer(plays(answer(b"yes", headers="Connection: close\r\n"))) as server:
            client = client_of(server)
            for _ in range(3):
                assert (await get(client)).body == b"yes"
            assert server.connections == 3

    run(story())


def test_an_answer_that_nobody_asked_for_is_never_used() -> None:
    """Bytes behind an answer end the connection: they could pass for the next answer."""

    async def story() -> None:
        async with FakeServer(plays(answer(b"mine") + answer(b"forged"))) as server:
            client = client_of(server)
            for _ in range(3):
                assert (await get(client)).body == b"mine"
            assert server.connections == 3

    run(story())


def closing_after(requests: int) -> Play:
    """Answers so many requests of a connection, then closes it without a word."""
    seen: dict[asyncio.StreamWriter, int] = {}

    async def play(_: Request, writer: asyncio.StreamWriter) -> None:
        seen[writer] = seen.get(writer, 0) + 1
        if seen[writer] <= requests:
            writer.write(answer(b"yes"))
        else:
            writer.close()

    return play


def test_a_stale_connection_costs_one_more_try() -> None:
    """A kept connection that is closed before any answer: the request is sent once more."""

    async def story() -> None:
        async with FakeServer(closing_after(1)) as server:
            client = client_of(server)
            assert (await get(client)).body == b"yes"
            assert (await get(client)).body == b"yes"
            assert (server.connections, len(server.requests)) == (2, 3)

    run(story())


def test_a_request_that_may_be_sent_once_is_sent_once() -> None:
    """Without `resend` a stale connection is a failure."""

    async def story() -> None:
        async with FakeServer(closing_after(1)) as server:
            client = client_of(server)
            assert (await get(client)).body == b"yes"
            with pytest.raises(OutboundError):
                await client.request("GET", "/v2", timeout_s=SOON_S, resend=False)
            assert len(server.requests) == 2

    run(story())


def test_a_new_connection_is_tried_once() -> None:
    """A server that hangs up on everybody is not asked again and again."""

    async def story() -> None:
        async with FakeServer(closing_after(0)) as server:
            with pytest.raises(OutboundError):
                await get(client_of(server))
            assert len(server.requests) == 1

    run(story())


def test_nothing_is_sent_again_once_an_answer_began() -> None:
    """Half an answer on a kept connection is a failure: the server did act on the request."""

    async def play(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.line.startswith("GET /whole"):
            writer.write(answer(b"yes"))
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-")
            await writer.drain()
            writer.close()

    async def story() -> None:
        async with FakeServer(play) as server:
            client = client_of(server)
            await get(client, "/whole")
            with pytest.raises(OutboundError):
                await get(client, "/half")
            assert len(server.requests) == 2

    run(story())


def test_connections_are_bounded() -> None:
    """However many requests there are at once, so many connections and no more."""
    under_way = most = 0

    async def play(_: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1
        writer.write(answer(b"yes"))

    async def story() -> None:
        async with FakeServer(play) as server:
            client = client_of(server, max_connections=3)
            got = await asyncio.gather(*(get(client) for _ in range(40)))
            assert [each.body for each in got] == [b"yes"] * 40
            assert (server.connections, most) == (3, 3)

    run(story())


# --- deadlines


def test_a_silent_server_costs_no_more_than_the_deadline() -> None:
    """The request ends, its connection too, and the next one is not held up by it."""

    async def story() -> None:
        async with FakeServer(hang) as server:
            client = client_of(server, max_connections=1)
            with pytest.raises(OutboundTimeoutError):
                await get(client, timeout_s=0.05)
            await asyncio.wait_for(server.gone.wait(), SOON_S)
            server.play = plays(answer(b"yes"))
            assert (await get(client)).body == b"yes"

    run(story())


def test_waiting_for_a_connection_counts() -> None:
    """The deadline holds for a request that has not even got a connection."""

    async def story() -> None:
        async with FakeServer(hang) as server:
            client = client_of(server, max_connections=1)
            first = asyncio.ensure_future(get(client))
            while not server.requests:
                await asyncio.sleep(0.001)
            with pytest.raises(OutboundTimeoutError):
                await get(client, timeout_s=0.05)
            first.cancel()
            assert len(server.requests) == 1

    run(story())


def test_a_cancelled_caller_ends_the_request() -> None:
    """Nothing goes on for a caller that is gone."""

    async def story() -> None:
        async with FakeServer(hang) as server:
            asking = asyncio.ensure_future(get(client_of(server)))
            while not server.requests:
                await asyncio.sleep(0.001)
            asking.cancel()
            await asyncio.wait_for(server.gone.wait(), SOON_S)
            assert asking.cancelled() or (await asyncio.wait([asking]))[0]

    run(story())


def test_an_absent_server_is_a_failure() -> None:
    """Nobody listens, on TCP or on a unix socket."""

    async def story() -> None:
        async with FakeServer(hang) as server:
            absent = client_of(server)
        for client in (absent, HttpClient(Endpoint(socket=Path("/nowhere/at/all")))):
            with pytest.raises(OutboundError, match="cannot reach"):
                await get(client)

    run(story())


# --- what may not be sent


@pytest.mark.parametrize(
    "target", ["/v2 HTTP/1.1\r\nX: y", "/a b", "v2", "", "/\x00", "/\xe4", "http://other/"]
)
def test_a_target_cannot_smuggle(target: str) -> None:
    """A path that would end the request line, or is none, is not sent."""
    refused(lambda client: get(client, target))


@pytest.mark.parametrize(
    "header", [(b"x", b"1\r\ny: 2"), (b"x", b"a\x00"), (b"x y", b"1"), (b"", b"1"), (b"x\n", b"1")]
)
def test_a_header_cannot_smuggle(header: tuple[bytes, bytes]) -> None:
    """A header that would be two is not sent."""
    refused(lambda client: client.request("GET", "/v2", [header], timeout_s=SOON_S))


def refused(ask: Callable[[HttpClient], Awaitable[Response]]) -> None:
    async def story() -> None:
        async with FakeServer(hang) as server:
            with pytest.raises(ValueError, match=r"no request line|no header"):
                await ask(client_of(server))
            assert server.connections == 0

    run(story())


@pytest.mark.parametrize(
    "url",
    [
        "", "ftp://host", "http://", "http:///path", "https://user:word@host", "http://host:99999",
        "http://host/?q=1", "http://host/#f", "http://a..b/", "http://host/a b", "host:80",
    ],
)  # fmt: skip
def test_an_address_is_read_strictly(url: str) -> None:
    """What is no plain http(s) address is a wrong setting."""
    with pytest.raises(SettingError):
        Endpoint.parse(url)


def test_addresses() -> None:
    """Ports, prefixes and the Host header follow from the address."""
    plain = Endpoint.parse("http://host/base/")
    assert (plain.port, plain.prefix, plain.authority) == (80, "/base", b"host")
    secure = Endpoint.parse("https://host")
    assert (secure.port, secure.tls is not None, secure.authority) == (443, True, b"host")
    assert Endpoint.parse("http://[::1]:81").authority == b"[::1]:81"


# --- TLS and unix sockets


def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    """The same over a socket file."""

    async def story() -> None:
        async with FakeServer(plays(answer(b"yes")), socket=tmp_path / "s") as server:
            client = HttpClient(Endpoint(socket=tmp_path / "s"))
            assert [(await get(client)).body for _ in range(2)] == [b"yes"] * 2
            assert server.connections == 1

    run(story())


def test_tls_with_a_certificate_that_is_known(tmp_path: Path) -> None:
    """A server whose certificate is signed by `ca_file` is asked, any other is not."""
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def story() -> None:
        async with FakeServer(plays(answer(b"yes")), tls=context) as server:
            known = HttpClient(Endpoint.parse(server.url, ca_file=certificate))
            assert [(await get(known)).body for _ in range(2)] == [b"yes"] * 2
            assert server.connections == 1
            known.close()
            with pytest.raises(OutboundError, match="cannot reach"):
                await get(client_of(server))
            assert len(server.requests) == 2

    run(story())
    with pytest.raises(SettingError):
        Endpoint.parse("https://host", ca_file=key)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "upstream")])
    today = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"
