"""What pushing promises: nothing twice that was acknowledged, nothing held up, no hammering."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fakes.receipts import receipt_for, standing_for
from fakes.spools import IDENTITY, Outbox, Post

from fedge.breaker import CircuitBreaker
from fedge.errors import OutboundError
from fedge.identity import Envelope
from fedge_client.agent import sender as module
from fedge_client.agent.post import MAX_ANSWER_BYTES, HttpPost
from fedge_client.agent.sender import Sender, outcome_of


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path)
    for window in range(4):
        made.put_report(window)
    yield made
    made.close()


def make(outbox: Outbox, post: Post, clock: Clock | None = None) -> Sender:
    return Sender(
        outbox.spool,
        post,
        outbox.standing,
        interval_s=1.0,
        max_backoff_s=60.0,
        jitter=lambda: 1.0,
        clock=clock or Clock(),
    )


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "taken"),
        (400, "refused"),
        (409, "refused"),
        (413, "refused"),
        (401, "not-admitted"),
        (403, "not-admitted"),
        (302, "failed"),
        (404, "failed"),
        (408, "failed"),
        (429, "failed"),
        (500, "failed"),
        (503, "failed"),
    ],
)
def test_what_a_status_means(status: int, outcome: str) -> None:
    """Only what no retry can change is given up; only 200 means taken."""
    assert outcome_of(status) == outcome


def test_everything_goes_in_one_push(outbox: Outbox) -> None:
    """When all is well the spool is empty afterwards and the next look comes at leisure."""
    post = Post()
    assert make(outbox, post).push() == 1.0
    assert [e.header.seq for e in post.sent] == [0, 1, 2, 3]
    assert outbox.spool.depth == 0


def test_backoff_doubles_up_to_a_limit_and_starts_over(outbox: Outbox) -> None:
    """An outage is asked after less and less often; the first success forgets it."""
    post, clock = Post(answer=None), Clock()
    sender = make(outbox, post, clock)
    waits = []
    for _ in range(9):
        waits.append(sender.push())
        clock.now += waits[-1]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60, 60]

    post.answer = 200
    assert sender.push() == 1.0
    outbox.put_report(9)
    post.answer = None
    assert sender.push() == 2.0


def test_jitter_spreads_a_fleet(outbox: Outbox) -> None:
    """The pause lies between half and all of the backoff."""
    waits = set()
    for part in (0.0, 0.3, 0.999):
        sender = Sender(
            outbox.spool,
            Post(answer=None),
            outbox.standing,
            interval_s=1.0,
            jitter=lambda part=part: part,
        )
        waits.add(round(sender.push(), 2))
    assert waits == {1.0, 1.3, 2.0}


def test_the_breaker_stands_before_the_coordinator(outbox: Outbox) -> None:
    """After five failures in a row nothing is sent until it lets one through."""
    post, clock = Post(answer=None), Clock()
    asked = 0

    class Counted(Post):
        def __call__(self, data: bytes) -> int:
            nonlocal asked
            asked += 1
            return post(data)

    outbox.standing.greet(Post().get)
    breaker = CircuitBreaker("x", clock, failures=5, reset_s=30)
    sender = Sender(
        outbox.spool,
        Counted(),
        outbox.standing,
        interval_s=0.001,
        jitter=lambda: 0,
        clock=clock,
        breaker=breaker,
    )
    waits = [sender.push() for _ in range(20)]
    assert asked == 5 and waits[-1] == 30
    clock.now += 30
    sender.push()
    assert asked == 6
    post.answer = 200
    clock.now += 30
    sender.push()
    assert outbox.spool.depth == 0 and breaker.state == "closed"


def test_a_refusal_for_good_puts_one_aside(outbox: Outbox) -> None:
    """The others are not held up, and a refusal is no failure of the line."""
    post = Post(special={1: 400, 2: 409})
    sender = make(outbox, post)
    assert sender.push() == 1.0
    assert sorted(post.taken) == [0, 3]
    assert (outbox.spool.depth, outbox.spool.refused) == (0, 2)


def test_a_key_that_is_not_admitted_yet_is_asked_again(outbox: Outbox) -> None:
    """Nothing is lost until somebody admits the gateway; the line is known to work meanwhile."""
    post = Post(answer=401)
    sender = make(outbox, post)
    for _ in range(8):
        sender.push()
    assert len(post.sent) == 8 and outbox.spool.depth == 4
    assert sender.breaker.state == "closed"
    post.answer = 200
    sender.push()
    assert outbox.spool.depth == 0


def test_one_that_always_fails_does_not_hold_up_the_others(outbox: Outbox) -> None:
    """An envelope that the coordinator stumbles over is tried again after all the others."""
    post = Post(special={0: 500})
    sender = make(outbox, post)
    assert sender.push() == 2.0
    assert sender.push() == 2.0
    assert sorted(post.taken) == [1, 2, 3] and outbox.spool.depth == 1
    outbox.put_report(9)
    sender.push()
    sender.push()
    assert sorted(post.taken) == [1, 2, 3, 4]
    post.special = {}
    sender.push()
    assert outbox.spool.depth == 0


def test_a_lost_acknowledgement_resends_the_same_bytes(outbox: Outbox) -> None:
    """At least once: the second copy is byte for byte the first."""
    post = Post(lose_ack=lambda seq: len(post.sent) == 2)
    sender = make(outbox, post)
    sender.push()
    sender.push()
    assert [e.header.seq for e in post.sent] == [0, 1, 1, 2, 3]
    assert post.sent[1] == post.sent[2]


def test_a_round_ends_in_time(outbox: Outbox) -> None:
    """A slow line with a long queue comes back to whoever asks whether to stop."""
    clock = Clock()
    post = Post()

    class Slow(Post):
        def __call__(self, data: bytes) -> int:
            clock.now += module.ROUND_S * 0.6
            return post(data)

    sender = make(outbox, Slow(), clock)
    assert sender.push() == 0.0
    assert len(post.sent) == 2


def test_stopping_ends_a_round_after_the_call_under_way(outbox: Outbox) -> None:
    """A push in another thread ends, the rest stays for the next start."""
    entered, go_on = threading.Event(), threading.Event()
    post = Post()

    class Waiting(Post):
        def __call__(self, data: bytes) -> int:
            entered.set()
            assert go_on.wait(10)
            return post(data)

    sender = make(outbox, Waiting())
    thread = threading.Thread(target=sender.push)
    thread.start()
    assert entered.wait(10)
    sender.stop()
    go_on.set()
    thread.join(10)
    assert not thread.is_alive()
    assert len(post.sent) == 1 and outbox.spool.depth == 3


def test_what_is_evicted_meanwhile_is_not_sent(tmp_path: Path) -> None:
    """What a gap record counts is not sent after all; what is under way is left alone."""
    outbox = Outbox(tmp_path, max_bytes=2**14)
    outbox.put_report(0)
    outbox.put_report(1)
    post = Post()

    class Busy(Post):
        def __call__(self, data: bytes) -> int:
            if not post.sent:  # the watcher fills the spool while the first call is under way
                for window in range(2, 40):
                    outbox.put_report(window)
            return post(data)

    Sender(outbox.spool, Busy(), outbox.standing, interval_s=1).push()

    (gap,) = [e for e in post.sent if e.header.kind == "gap"]
    given_up = outbox.spool.dropped
    assert b'"count":%d' % given_up in gap.payload
    assert len(post.taken) + given_up == 41
    outbox.close()


ONE, TWO = (Envelope.seal(IDENTITY, "status", seq, b"facts").to_bytes() for seq in (1, 2))
FALSE_ANSWERS = {
    "empty": b"",
    "portal": b"<html>Welcome! Please log in.</html>",
    "other": receipt_for(TWO),
    "foreign": receipt_for(ONE).replace(IDENTITY.fingerprint.encode(), b"0" * 32),
    "payload": receipt_for(Envelope.seal(IDENTITY, "status", 1, b"else").to_bytes()),
    "more": receipt_for(ONE).replace(b"{", b'{"also":1,', 1),
    "long": receipt_for(ONE) + b" " * MAX_ANSWER_BYTES,
    "endless": b" " * 2**20,
}
"""Bodies of an answer of 200 that do not say that `ONE` is stored."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None: ...  # a caller that reads no further


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Moves `/moved`, answers falsely below the names of `FALSE_ANSWERS`, believes elsewhere;
    yields its address and what came."""
    came: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.path, body))
            answer = FALSE_ANSWERS.get(self.path.split("/")[1], receipt_for(body))
            self.send_response(302 if self.path.startswith("/moved") else 200)
            self.send_header("Location", "/v1/envelopes")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            answer = standing_for(self.path, [])
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None: ...

    with _Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", came
        finally:
            running.shutdown()
            thread.join()


def test_posting_over_http(server: tuple[str, list[tuple[str, bytes]]]) -> None:
    """The envelope is the body, byte for byte; a redirect is not followed."""
    address, came = server
    assert HttpPost(address + "/")(ONE) == 200
    assert HttpPost(address + "/moved")(TWO) == 302
    assert came == [("/v1/envelopes", ONE), ("/moved/v1/envelopes", TWO)]


@pytest.mark.parametrize("answer", FALSE_ANSWERS)
def test_only_a_receipt_takes_an_envelope(
    outbox: Outbox, server: tuple[str, list[tuple[str, bytes]]], answer: str
) -> None:
    """A captive portal or a wrong server also answers 200: what it was sent stays, and is sent
    again once the coordinator is back."""
    address, _ = server
    with pytest.raises(OutboundError, match="receipt"):
        HttpPost(f"{address}/{answer}")(ONE)

    sender = Sender(outbox.spool, HttpPost(f"{address}/{answer}"), outbox.standing, interval_s=1.0)
    assert sender.push() > 1.0
    assert outbox.spool.depth == 4
    Sender(outbox.spool, HttpPost(address), outbox.standing, interval_s=1.0).push()
    assert outbox.spool.depth == 0


def test_a_server_that_never_answers_does_not_hold_up_a_stop(outbox: Outbox) -> None:
    """The call under way is cut off; what it sent waits for the next start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        post = HttpPost(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=600.0)
        sender = Sender(outbox.spool, post, outbox.standing, interval_s=1.0)
        thread = threading.Thread(target=sender.push)
        thread.start()
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(4096)
            sender.stop()
            thread.join(20)
    assert not thread.is_alive()
    assert outbox.spool.depth == 4


def test_nobody_there() -> None:
    """A refused connection is an outbound error, not a crash."""
    with pytest.raises(OutboundError, match="cannot reach"):
        HttpPost("http://127.0.0.1:1", timeout_s=1.0)(ONE)
