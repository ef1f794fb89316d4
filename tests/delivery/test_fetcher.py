"""What fetching promises about a release server that is away or broken."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tuf.api.exceptions import DownloadError, DownloadHTTPError

from fedge.breaker import CircuitBreaker
from fedge.delivery.fetcher import HttpFetcher

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nonly this"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def answering(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these answers, one a connection; yields its address and the requests."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file", asked
    finally:
        listener.close()


def fetcher(clock: Clock) -> HttpFetcher:
    return HttpFetcher(
        timeout_s=5.0, breaker=CircuitBreaker("releases", clock, failures=2, reset_s=30)
    )


@pytest.mark.parametrize("broken", [b"", BUSY, CUT], ids=["closed", "busy", "cut-body"])
def test_a_broken_server_is_soon_left_alone(broken: bytes) -> None:
    """After some failures in a row nothing is sent for a while; then one trial, and all is well."""
    clock = Clock()
    with answering(broken, broken, WHOLE) as (url, asked):
        fetch = fetcher(clock)
        for _ in range(2):
            with pytest.raises(DownloadError):
                b"".join(fetch.fetch(url))
        with pytest.raises(DownloadError, match="not asked again"):
            fetch.fetch(url)
        assert len(asked) == 2
        clock.now += 30

        assert b"".join(fetch.fetch(url)) == b"ok"
        assert fetch.breaker.state == "closed"


def test_a_missing_file_is_an_answer() -> None:
    """A repository is asked for its next root until it has none: that is no failure."""
    clock = Clock()
    with answering(*[NOT_FOUND] * 4) as (url, asked):
        fetch = fetcher(clock)
        for _ in range(4):
            with pytest.raises(DownloadHTTPError):
                fetch.fetch(url)
        assert len(asked) == 4
        assert fetch.breaker.state == "closed"
