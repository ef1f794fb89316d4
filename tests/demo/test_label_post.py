"""A gateway that has no room for labels is left alone for a while, and its log file as well."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fedge.demo.player import LABELS_PER_REQUEST, MOST_WAITING, InferenceClient, LabelPost


class Busy:
    """A worker on loopback that answers feedback with `status`, and keeps what it took."""

    def __init__(self) -> None:
        self.status, self.asked, self.taken = 200, 0, list[str]()
        busy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                busy.asked += 1
                if busy.status == 200:
                    busy.taken += [label["id"] for label in body["labels"]]
                self.send_response(busy.status)
                if busy.status == 503:
                    self.send_header("Retry-After", "5")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.client = InferenceClient(self._server.server_port, "toy", "x", ("red", "green"))

    def close(self) -> None:
        self.client.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def busy() -> Iterator[Busy]:
    found = Busy()
    yield found
    found.close()


def labels(first: int, count: int = 1) -> list[tuple[str, int]]:
    return [(f"r{number}", 1) for number in range(first, first + count)]


def test_labels_wait_as_long_as_the_gateway_asks(
    busy: Busy, caplog: pytest.LogCaptureFixture
) -> None:
    """One line when it begins, one when it is over, one request in five seconds; none is lost."""
    caplog.set_level(logging.INFO)
    now = [0.0]
    post = LabelPost(busy.client.feedback, lambda: now[0])
    busy.status = 503
    refused = 0
    for number in range(100):  # 20 s at five a second
        now[0] = number / 5
        try:
            post.give(labels(number))
        except OSError:
            refused += 1
    assert busy.asked == refused == 4 and len(post.waiting) == 100
    assert [record.getMessage()[:11] for record in caplog.records] == ["labels wait"]

    busy.status, now[0] = 200, 21.0
    post.give(labels(100))

    assert busy.taken == [name for name, _ in labels(0, 101)] and not post.waiting
    assert caplog.records[-1].getMessage() == "labels are taken again"
    assert len(caplog.records) == 2


def test_what_waits_has_a_limit_and_is_sent_in_pieces(busy: Busy) -> None:
    """The oldest are given up; no request grows with what waits."""
    now = [0.0]
    post = LabelPost(busy.client.feedback, lambda: now[0])
    busy.status = 503
    with pytest.raises(OSError, match="503"):
        post.give(labels(0, MOST_WAITING))
    post.give(labels(MOST_WAITING, 10))
    assert (len(post.waiting), post.waiting[0]) == (MOST_WAITING, ("r10", 1))

    busy.status, now[0] = 200, 5.0
    post.give([])

    assert len(busy.taken) == LABELS_PER_REQUEST and busy.taken[0] == "r10"


def test_labels_that_are_wrong_are_not_sent_again(busy: Busy) -> None:
    """Another refusal than for want of room holds up none of those that follow."""
    post = LabelPost(busy.client.feedback, lambda: 0.0)
    busy.status = 400
    with pytest.raises(OSError, match="400"):
        post.give(labels(0, 3))
    busy.status = 200
    post.give(labels(3))

    assert busy.taken == ["r3"]
