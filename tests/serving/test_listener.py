"""The HTTP listener over real sockets: what it promises to callers, and whom it cuts."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.gateways import wait_until
from fakes.listeners import QUICK, Held, RunningListener, Wire, answer, echo, read_body, request
from hypothesis import given
from hypothesis import strategies as st

from fedge.config import LimitSettings
from fedge.serving.asgi import Receive, Scope, Send
from fedge.serving.connection import (
    FIRST_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_WAITING,
    Connection,
)
from fedge.serving.front import Front, Pace
from fedge.serving.guard import Guard
from fedge.serving.stats import WorkerStats, read_stats


def test_requests_and_answers_of_a_connection_stay_in_order() -> None:
    """Kept alive, one after the other or several at once (pipelining): each gets its answer."""
    with RunningListener(echo) as served:
        wire = served.connect()
        assert wire.ask("/one", b"12").value["size"] == 2
        wire.send(b"".join(request(f"/{n}", b"x" * n) for n in range(50)))
        answers = [wire.answer().value for _ in range(50)]
        assert [(a["path"], a["size"]) for a in answers] == [(f"/{n}", n) for n in range(50)]
        wire.close()


def test_later_requests_wait_for_an_answer_that_takes_time() -> None:
    """A quick request behind a slow one is answered second, on this connection alone."""
    held = Held()
    with RunningListener(held) as served:
        wire, other = served.connect(), served.connect()
        wire.send(request("/slow", b"1") + request("/quick", b"22"))
        assert held.asked.wait(10)
        assert other.ask("/quick").status == 200
        served.run(held.go())
        assert [wire.answer().value["size"] for _ in range(2)] == [1, 2]


def test_bodies_come_in_any_form() -> None:
    """Chunked, in pieces, and much larger than what is buffered."""
    with RunningListener(echo) as served:
        wire = served.connect()
        wire.send(b"POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        wire.send(b"3\r\nabc\r\n").send(b"2\r\nde\r\n0\r\n\r\n")
        assert wire.answer().value["size"] == 5
        large = bytes(8 * 2**20)
        assert wire.ask("/large", large).value["size"] == len(large)
        whole = request("/pieces", b"abcdef")
        for byte in whole:
            wire.send(bytes([byte]))
        assert wire.answer().value["size"] == 6


@given(st.lists(st.integers(0, 10_000), max_size=12), st.booleans())
def test_where_the_bytes_are_cut_does_not_matter(cuts: list[int], chunked: bool) -> None:
    """However a stream of requests arrives, the same answers leave."""
    second = request("/b", b"zz")
    if chunked:
        second = b"POST /b HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nzz\r\n0\r\n\r\n"
    stream = request("/a", b"y" * 300) + second + request("/c", method="HEAD")
    whole = _answers_to([stream])
    places = sorted({cut % len(stream) for cut in cuts})
    pieces = [stream[i:j] for i, j in zip([0, *places], [*places, len(stream)], strict=True)]
    assert _answers_to([piece for piece in pieces if piece]) == whole
    assert whole.count(b"HTTP/1.1 200 OK") == 3


def _answers_to(pieces: list[bytes]) -> bytes:
    """What a connection writes, driven without a socket."""

    class Memory(asyncio.Transport):
        written = b""

        def write(self, data: Any) -> None:
            self.written += data

        def is_closing(self) -> bool:
            return False

        def can_write_eof(self) -> bool:
            return False

        def close(self) -> None:
            """Nobody is there to notice."""

        def pause_reading(self) -> None:
            """Nothing comes by itself."""

        def resume_reading(self) -> None:
            """Nothing comes by itself."""

    async def drive() -> bytes:
        memory = Memory()
        front = Front(echo, Pace(9, 9, 9), asyncio.get_running_loop())
        connection = Connection(front)
        connection.connection_made(memory)
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        return memory.written

    return asyncio.run(drive())


REQUESTS = [
    request("/a", b"y" * 30),
    request("/b", b"zz", expect="100-continue", connection="close"),
    b"POST /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nzz\r\n0\r\n\r\n",
    b"GET http://x/?q HTTP/1.0\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
]


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(REQUESTS)), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4),
)
def test_no_bytes_break_a_connection(pieces: list[bytes], changes: list[tuple[int, int]]) -> None:
    """Anything at all, and requests with wrong bytes in them, get answers below 500 or none."""
    stream = bytearray(b"".join(pieces))
    for place, value in changes:
        if stream:
            stream[place % len(stream)] = value
    written = _answers_to([bytes(stream)])
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", written)]
    assert all(status < 500 for status in statuses)


def test_the_ways_to_ask_that_http_knows() -> None:
    """HEAD, absolute addresses, escapes, queries, HTTP/1.0, closing, upgrades, half-closing."""
    with RunningListener(echo) as served:
        wire = served.connect()
        head = wire.ask("/h", method="HEAD")
        assert head.status == 200 and int(head.headers["content-length"]) > 0
        value = wire.ask("http://here/a%20b?x=1&y=%20", method="GET").value
        assert (value["path"], value["query"]) == ("/a b", "x=1&y=%20")

        last = wire.ask("/last", connection="close")
        assert last.headers["connection"] == "close" and wire.closed()

        old = served.connect().send(b"GET / HTTP/1.0\r\n\r\n")
        assert old.answer().headers["connection"] == "close" and old.closed()
        kept = served.connect()
        for _ in range(2):
            kept.send(b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            assert kept.answer().headers["connection"] == "keep-alive"

        upgrade = served.connect()
        plain = upgrade.ask("/u", connection="upgrade", upgrade="websocket")
        assert plain.value["path"] == "/u"
        offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAM"}
        assert upgrade.ask("/v", b"123", **offer).value["size"] == 3
        upgrade.send(request("/w", b"12", **offer) * 3)
        assert [upgrade.answer().value["size"] for _ in range(3)] == [2, 2, 2]

        half = served.connect().send(request("/half", b"12"))
        half.socket.shutdown(socket.SHUT_WR)
        assert half.answer().value["size"] == 2 and half.closed()


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    "behind", [b"\x00\xff garbage", b"POST /c HTTP/1.1\r\ncontent-length: 9\r\n\r\nhalf", b"GET"]
)
def test_what_follows_requests_does_not_cost_their_answers(behind: bytes, waits: bool) -> None:
    """Requests are answered whatever comes behind them, in the same packet or later."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if waits:
            await asyncio.sleep(0)
        await echo(scope, receive, send)

    with RunningListener(app, QUICK) as served:
        wire = served.connect().send(request("/a", b"1") + request("/b", b"22") + behind)
        assert [wire.answer().value["size"] for _ in range(2)] == [1, 2]
        last = served.connect().send(request("/a", connection="close") + behind)
        assert last.answer().headers["connection"] == "close" and last.closed()


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without a look at the body."""
    await answer(send, {"error": "no"}, 401)


def test_trailers_are_no_headers() -> None:
    """What comes behind a body cannot change what was said before it."""

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await answer(send, [name.decode() for name, _ in scope["headers"]])

    with RunningListener(named) as served:
        wire = served.connect()
        chunked = (
            b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
        )
        wire.send(chunked + b"authorization: Bearer x\r\n\r\n")
        assert wire.answer().value == ["host", "transfer-encoding"]
        assert wire.ask("/next").value == ["host", "content-length"]


@pytest.mark.parametrize(
    "endless",
    [b"0\r\n" + b"a: b\r\n" * 400_000, b"0\r\na: " + b"b" * 2**21, b"1\r\nx\r\n" * 500_000],
)
def test_what_surrounds_a_body_is_bounded(endless: bytes) -> None:
    """Trailers without end, and a body in crumbs, are cut: no caller fills the memory so."""
    head = b"POST / HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
    with RunningListener(echo) as served:
        wire = served.connect()
        with contextlib.suppress(OSError):  # it may be cut while it still sends
            wire.send(head + b"1\r\nx\r\n" + endless)
        assert wire.answer().status == 431 and wire.closed()
        assert served.connect().ask("/").status == 200


def test_only_so_many_requests_wait() -> None:
    """Who pipelines without measure gets the answers to the first ones, and has to come again."""
    held = Held()
    with RunningListener(held) as served:
        wire = served.connect().send(request("/slow"))
        assert held.asked.wait(10)
        served.run(_told(wire.send, request("/quick") * 2000))
        served.run(held.go())
        answers = [wire.answer()]
        while "connection" not in answers[-1].headers:
            answers.append(wire.answer())
        assert len(answers) <= 1 + MAX_WAITING and wire.closed()


async def _told(call: Callable[[bytes], object], data: bytes) -> None:
    """Send while the listener's loop does nothing else, so that it finds all of it at once."""
    call(data)


def test_a_caller_that_half_closes_still_gets_a_late_answer() -> None:
    """The end of what it sends is not the end of what it reads."""
    held = Held()
    with RunningListener(held) as served:
        wire = served.connect().send(request("/slow", b"12"))
        assert held.asked.wait(10)
        wire.socket.shutdown(socket.SHUT_WR)
        assert served.connect().ask("/quick").status == 200  # the end was seen before this
        served.run(held.go())
        assert wire.answer().value == {"size": 2} and wire.closed()


def test_a_caller_that_waits_to_be_asked_is_asked() -> None:
    """`Expect: 100-continue` gets its answer before the body is sent."""
    with RunningListener(echo) as served:
        wire = served.connect()
        whole = request("/e", b"abc", expect="100-continue")
        wire.send(whole[:-3])
        assert wire.answer().status == 100
        assert wire.send(b"abc").answer().value["size"] == 3
        assert wire.ask("/next", b"12", expect="100-continue").status == 200
        wire.send(request("/first", b"1") + whole[:-3])
        assert [wire.answer().status, wire.answer().status] == [200, 100]
        assert wire.send(b"abc").answer().status == 200
        old = served.connect().send(whole.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert old.answer().status == 200


def test_a_caller_that_waits_to_be_asked_holds_no_place() -> None:
    """However many announce a body that never comes: the app has its places for others."""
    with RunningListener(Guard(echo, max_concurrent=1)) as served:
        waiting = [
            served.connect().send(request("/e", expect="100-continue", content_length="9"))
            for _ in range(5)
        ]
        assert [wire.answer().status for wire in waiting] == [100] * 5
        assert served.connect().ask("/").status == 200


def test_a_body_that_nobody_wants_is_passed_over() -> None:
    """A request refused by its head leaves a usable connection, whatever its body."""
    with RunningListener(refuse) as served:
        wire = served.connect()
        for size in (0, 10, 2 * FIRST_BODY_BYTES, 4 * 2**20):
            assert wire.ask("/", bytes(size)).status == 401


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT here:80 HTTP/1.1\r\nhost: here\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_HEAD_BYTES + 400_000), 431),
        (b"GET /" + b"y" * (MAX_HEAD_BYTES + 400_000), 431),
    ],
)
def test_what_is_no_request_is_refused_readably(sent: bytes, status: int) -> None:
    """The answer says what is wrong, the connection ends, everybody else is served."""
    with RunningListener(echo) as served:
        other = served.connect()
        wire = served.connect().send(sent)
        refusal = wire.answer()
        assert refusal.status == status and refusal.value["error"].startswith("request: ")
        assert refusal.headers["connection"] == "close" and wire.closed()
        assert other.ask("/").status == 200


def drip(wire: Any, data: bytes, stopped: threading.Event) -> None:
    """Send byte after byte until it is cut."""
    for byte in data:
        if stopped.wait(0.02):
            return
        try:
            wire.send(bytes([byte]))
        except OSError:
            return


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="headers"),
        pytest.param(b"POST / HTTP/1.1\r\ncontent-length: 5000\r\n\r\n", id="body"),
        pytest.param(
            b"POST / HTTP/1.1\r\ncontent-length: 99999\r\n\r\n" + bytes(70_000),
            id="body that the app has begun to read",
        ),
        pytest.param(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1388\r\n", id="chunks"),
        pytest.param(request("/", b"") + b"GET / HT", id="second request"),
    ],
)
def test_a_client_that_drips_is_cut_while_others_are_served(start: bytes) -> None:
    """Sending a byte now and then is no progress; nobody else waits for it."""
    limits = QUICK.model_copy(update={"idle_timeout_s": 30.0})
    # Only what the app has begun to read takes one of its places.
    app = Guard(echo, max_concurrent=2 if len(start) > FIRST_BODY_BYTES else 1)
    with RunningListener(app, limits) as served:
        slow, other, stopped = served.connect(), served.connect(), threading.Event()
        slow.send(start)
        if start.endswith(b"GET / HT"):
            assert slow.answer().status == 200
        text = b"z" * 5000
        if not start.endswith(b"\r\n\r\n") and len(start) < FIRST_BODY_BYTES:
            text = (b"GET / HTTP/1.1\r\nx: " + text).removeprefix(start[-8:])
        dripping = threading.Thread(target=drip, args=(slow, text, stopped))
        dripping.start()
        assert other.ask("/", b"123").value["size"] == 3
        cut = slow.answer()
        assert cut.status == 408 and "too long" in cut.value["error"]
        assert slow.closed()
        assert other.ask("/").status == 200
        stopped.set()
        dripping.join(10)
        slow.close()
        wait_until(lambda: served.listener.connections == 1, what="the other one alone")


@pytest.mark.parametrize("before", [b"", request("/")])
def test_a_silent_connection_is_closed(before: bytes) -> None:
    """Who never asks, or no longer does, holds no connection for long."""
    with RunningListener(echo, QUICK) as served:
        wire = served.connect().send(before)
        if before:
            assert wire.answer().status == 200
        assert wire.closed()


def test_who_does_not_fetch_its_answers_is_cut() -> None:
    """Answers do not pile up in memory for a caller that only sends."""

    async def talkative(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await answer(send, "x" * 1_000_000)

    with RunningListener(talkative, QUICK) as served:
        wire = served.connect()
        # So many that they fit into no socket's buffer; the sender notices that it is cut.
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(b"".join(request("/") for _ in range(100)))
        wait_until(lambda: served.listener.connections == 1, what="the connection is there")
        wait_until(lambda: served.listener.connections == 0, what="the connection is cut")


def test_an_app_that_takes_its_time_is_no_slow_client() -> None:
    """Time limits hold for what the client owes, not for what we owe."""
    held = Held()
    with RunningListener(held, QUICK) as served:
        wire = served.connect().send(request("/slow", b"12"))
        assert held.asked.wait(10)
        assert not held.ended.wait(3 * QUICK.idle_timeout_s)
        served.run(held.go())
        assert wire.answer().status == 200


def test_too_many_connections_are_told_so(tmp_path: Path) -> None:
    """One more than allowed gets a 503 and is counted; when one leaves there is room again."""
    limits, stats = LimitSettings(max_connections=2), WorkerStats(tmp_path / "stats.bin")
    with RunningListener(echo, limits, observer=stats) as served:
        first, second = served.connect(), served.connect()
        assert first.ask("/").status == second.ask("/").status == 200
        third = served.connect()
        refusal = third.answer()
        assert refusal.status == 503 and refusal.value["error"].startswith("connections: ")
        assert refusal.headers["retry-after"] == "1" and third.closed()
        first.close()
        wait_until(lambda: served.listener.connections == 1, what="one left")
        assert served.connect().ask("/").status == 200
    counted = read_stats(tmp_path / "stats.bin")
    assert counted["refused"] == {"token": 0, "rate": 0, "concurrency": 0, "connections": 1}
    assert counted["requests"] == {"1xx": 0, "2xx": 3, "3xx": 0, "4xx": 0, "5xx": 0}


def test_one_client_does_not_take_every_connection() -> None:
    """Beyond its share it gets 429 while others are served; what it closes it may reopen."""
    limits = LimitSettings(max_connections_per_client=2)
    with RunningListener(echo, limits) as served:
        first, second = served.connect(), served.connect()
        assert first.ask("/").status == second.ask("/").status == 200
        refusal = served.connect().answer()
        assert (refusal.status, refusal.headers["retry-after"]) == (429, "1")
        other = socket.create_connection(("127.0.0.1", served.port), 10, ("127.0.0.2", 0))
        assert Wire(other).ask("/").status == 200
        first.close()
        wait_until(lambda: served.listener.connections == 2, what="one left")
        third = served.connect()
        assert third.ask("/").status == 200
        assert served.connect().answer().status == 429


class Exhausted(socket.socket):
    """A listening socket whose process has no file handle left, for a while."""

    failures = 2

    def accept(self) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_without_a_file_handle_accepting_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process goes on, and accepts again when it can."""
    monkeypatch.setattr("fedge.serving.listener.NO_HANDLES_PAUSE_S", 0.05)
    listening = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    with RunningListener(echo, listening=listening) as served:
        assert served.connect().ask("/").status == 200


def broken_at_once(scope: Scope) -> None:
    raise ValueError("secret 42")


@pytest.mark.parametrize("waits", [False, True])
def test_a_bug_costs_one_request(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets a 500, the log says where, but not with what; the next one is served."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if waits:
            await asyncio.sleep(0)
        if scope["path"] == "/bug":
            broken_at_once(scope)
        await answer(send, "well")

    with RunningListener(app) as served:
        wire = served.connect()
        assert wire.ask("/").status == 200
        refusal = wire.ask("/bug")
        assert refusal.status == 500 and refusal.headers["connection"] == "close"
        assert served.connect().ask("/").value == "well"
    assert "broken_at_once" in caplog.text and "ValueError" in caplog.text
    assert "secret" not in caplog.text.replace('raise ValueError("secret 42")', "")


def half_answer(length: bytes | None) -> Callable[[Scope, Receive, Send], Any]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [] if length is None else [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"abc"})

    return app


@pytest.mark.parametrize("length", [None, b"5", b"2"])
def test_an_answer_is_as_long_as_it_says(length: bytes | None) -> None:
    """One of another length is a bug and never reaches a caller."""
    with RunningListener(half_answer(length)) as served:
        wire = served.connect()
        assert wire.ask("/").status == 500
        assert wire.closed()


def test_a_caller_that_leaves_is_no_trouble() -> None:
    """Its request runs to its end, and the others are served."""
    held = Held()
    with RunningListener(held) as served:
        wire = served.connect().send(request("/slow", b"12"))
        assert held.asked.wait(10)
        # A reset; a mere end of what it sends could be a caller that still reads.
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.close()
        wait_until(lambda: served.listener.connections == 0, what="it left")
        served.run(held.go())
        assert held.ended.wait(10)
        assert served.connect().ask("/quick").status == 200


def test_a_drain_loses_nothing() -> None:
    """What is being answered is answered, an idle connection gets its last answer, then all go."""
    held = Held()
    with RunningListener(held) as served:
        busy, idle = served.connect(), served.connect()
        assert idle.ask("/quick").status == 200
        busy.send(request("/slow", b"12"))
        assert held.asked.wait(10)
        draining = served.start(served.listener.drain(5.0))
        wait_until(lambda: not served.listener.accepting, what="no new connections")
        last = idle.ask("/quick")
        assert (last.status, last.headers["connection"]) == (200, "close") and idle.closed()
        assert not draining.done()
        served.run(held.go())
        last = busy.answer()
        assert (last.status, last.headers["connection"]) == (200, "close") and busy.closed()
        draining.result(10)


def test_a_drain_does_not_wait_for_the_silent() -> None:
    """After the draining time idle connections and half requests are cut, work is finished."""
    held = Held()
    with RunningListener(held) as served:
        busy, idle, half = (served.connect() for _ in range(3))
        half.send(b"GET / HT")
        busy.send(request("/slow"))
        assert held.asked.wait(10)
        wait_until(lambda: served.listener.connections == 3, what="all are connected")
        draining = served.start(served.listener.drain(0.0))
        assert idle.closed() and half.closed()
        served.run(held.go())
        assert busy.answer().status == 200
        draining.result(10)
