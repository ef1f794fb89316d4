"""One envelope over HTTP to the coordinator, and proof that it was the coordinator who took it.
A question to it goes the same way.

A status of 200 alone proves nothing: a captive portal answers so, or another server at the
same address. What is taken is answered by a receipt that names this very envelope. When to
send which envelope, and when to try again, is the sender's part.
"""

from __future__ import annotations

import contextlib
import socket
import weakref
from collections.abc import Callable
from typing import Protocol

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from fedge.errors import OutboundError, RecordError
from fedge.identity import Envelope
from fedge.records import Receipt

CONNECT_S = 3.0
SOON_S = 1.0
MAX_ANSWER_BYTES = 4096
"""A receipt has a tenth of this; of an answer to an envelope no more than this is read."""

Get = Callable[[str, int], tuple[int, bytes]]
"""Asks for a path and answers status and body, of so many bytes at most; raises `OutboundError`
when it cannot."""


class Post(Protocol):
    """The way to the coordinator."""

    def __call__(self, envelope: bytes) -> int:
        """Send one envelope; answers the HTTP status, 200 only with a receipt for it.

        Raises:
            OutboundError: it cannot be sent, or nobody answers.
        """
        ...

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        """Ask for what is at `path`; see `Get`."""
        ...


class _Lines:
    """Connection classes for urllib3 whose open sockets are known, so that one can be cut."""

    def __init__(self) -> None:
        self._open: weakref.WeakSet[HTTPConnection] = weakref.WeakSet()
        opened = self._open

        class Http(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                opened.add(self)

        class Https(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                opened.add(self)

        class HttpPool(urllib3.HTTPConnectionPool):
            ConnectionCls = Http

        class HttpsPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Https

        self.pools = {"http": HttpPool, "https": HttpsPool}

    def cut(self) -> None:
        """Shut every open connection down; whoever waits for an answer gets an error."""
        for connection in list(self._open):
            line = connection.sock
            if line is not None:
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)


class HttpPost:
    """Posts envelopes to `<base>/v1/envelopes` over a kept connection; follows no redirect.

    `get` asks for other paths under the same base.

    Args:
        base_url: of the coordinator.
        timeout_s: longest wait for the next bytes of an answer; for a connection, less.
    """

    def __init__(self, base_url: str, *, timeout_s: float = 10.0) -> None:
        self._base = base_url.rstrip("/")
        self._url = self._base + "/v1/envelopes"
        self._timeout = urllib3.Timeout(connect=min(timeout_s, CONNECT_S), read=timeout_s)
        self._pool = urllib3.PoolManager(num_pools=1, timeout=self._timeout, retries=False)
        self._lines = _Lines()
        self._pool.pool_classes_by_scheme = dict(self._lines.pools)

    def __call__(self, envelope: bytes) -> int:
        """Send one; answers the HTTP status.

        Raises:
            OutboundError: nobody answers, or an answer of 200 holds no receipt for it.
        """
        headers = {"Content-Type": "application/octet-stream"}
        try:
            answer = self._pool.request(
                "POST", self._url, body=envelope, headers=headers, preload_content=False
            )
            body = _read(answer, MAX_ANSWER_BYTES)
        except urllib3.exceptions.HTTPError as error:
            raise OutboundError(f"cannot reach {self._url}: {error}") from error
        if answer.status == 200:
            self._check_receipt(envelope, body)
        return answer.status

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        """Ask for what is at `path`; answers status and body.

        Raises:
            OutboundError: nobody answers, or an answer of 200 is longer than `max_bytes`.
        """
        return self._get(path, max_bytes, self._timeout)

    def get_soon(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        """As `get`, for one who cannot wait: `SOON_S` for a connection, and for the next bytes.

        Raises:
            OutboundError: as `get`.
        """
        return self._get(path, max_bytes, urllib3.Timeout(connect=SOON_S, read=SOON_S))

    def _get(self, path: str, max_bytes: int, timeout: urllib3.Timeout) -> tuple[int, bytes]:
        url = self._base + path
        try:
            answer = self._pool.request("GET", url, preload_content=False, timeout=timeout)
            body = _read(answer, max_bytes)
        except urllib3.exceptions.HTTPError as error:
            raise OutboundError(f"cannot reach {url}: {error}") from error
        if answer.status == 200 and not body:
            raise OutboundError(f"{url} answers nothing, or more than {max_bytes} bytes")
        return answer.status, body

    def abort(self) -> None:
        """End the call that another thread waits for: there it raises `OutboundError`."""
        self._lines.cut()

    def _check_receipt(self, envelope: bytes, body: bytes) -> None:
        try:
            header = Envelope.from_bytes(envelope).header
            receipt = Receipt.from_bytes(body)
        except RecordError as error:
            raise OutboundError(f"{self._url} answers 200 without a receipt") from error
        if receipt != Receipt(
            gateway=header.gateway, seq=header.seq, payload_sha256=header.payload_sha256
        ):
            raise OutboundError(f"{self._url} answers 200 with the receipt of another envelope")


def _read(answer: urllib3.BaseHTTPResponse, limit: int) -> bytes:
    """The body; nothing of one that is longer than `limit`, and its connection is given up."""
    body = bytes(answer.read(limit + 1, decode_content=False))
    if len(body) > limit:
        answer.close()
        return b""
    answer.release_conn()
    return body
