"""One port for several models: passing a request on to the worker that serves its model.

Every worker of a gateway accepts on the shared port, so a request may reach the
worker of another model. That worker hands it, as it came, to the right one over a
unix socket, and the answer back. Which requests are for whom, and who may ask, is
decided by the app and the guard before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from fedge.errors import OutboundError, RequestError
from fedge.serving.protocol import family_of
from fedge.serving.upstream import Endpoint, Headers, HttpClient

MARK = b"fedge-relayed"
"""Header of a request that was passed on. It means something on a unix socket only: there
stands a worker of this gateway; on the port anybody could write it."""

REQUEST_HEADERS = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"content-encoding",
        b"content-type",
        b"inference-header-content-length",
    }
)
ANSWER_HEADERS = frozenset(
    {b"content-encoding", b"content-type", b"inference-header-content-length", b"retry-after"}
)
TIMEOUT_S = 60.0
MAX_UNDER_WAY = 64
"""Requests to one other worker at once. One that hangs must not take all the places that callers
of this worker's own model need."""
RETRY_AFTER_S = 1
"""A worker that ended is started again within this time."""


def was_relayed(scope: Mapping[str, Any]) -> bool:
    """Whether another worker of this gateway passed this request on.

    Args:
        scope: of the ASGI request. Whoever calls over a unix socket has no address.
    """
    return scope.get("client") is None and any(name == MARK for name, _ in scope["headers"])


class Relay:
    """The workers of the other models that this gateway serves.

    Args:
        sockets: where each of them listens, by model family; without this worker's own.
        timeout_s: for a whole request; a worker that takes longer is told off as not there.
    """

    def __init__(self, sockets: Mapping[str, Path], *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._clients = {f: HttpClient(Endpoint(socket=path)) for f, path in sockets.items()}
        self._under_way = dict.fromkeys(sockets, 0)

    @property
    def families(self) -> tuple[str, ...]:
        """The models that others serve."""
        return tuple(self._clients)

    def serves(self, family: str) -> bool:
        """Whether another worker of this gateway serves this model."""
        return family in self._clients

    async def forward(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        *,
        family: str = "",
    ) -> tuple[int, Headers, bytes]:
        """Ask the worker of another model; a request that was relayed already must not come here.

        Headers other than `REQUEST_HEADERS` are left out, so that a caller cannot speak in the
        gateway's name.

        Args:
            target: path and query as they came, still escaped.
            family: whom to ask where the path names no model.

        Returns:
            Status, headers and body to answer with: 503 with `Retry-After` where the other
            worker cannot be reached, is kept waiting for by too many already, or gave no whole
            answer.

        Raises:
            RequestError: path or headers cannot be passed on as they are (400), or nobody here
                serves this model (404).
        """
        family = family or family_of(target)
        if family not in self._clients:
            raise RequestError(404, "model", f"Request for unknown model {family[:64]!r}")
        if self._under_way[family] >= MAX_UNDER_WAY:
            return _unavailable(family)
        passed = [(name, value) for name, value in headers if name in REQUEST_HEADERS]
        self._under_way[family] += 1
        try:
            answer = await self._clients[family].request(
                method, target, [*passed, (MARK, b"1")], body, timeout_s=self._timeout_s
            )
        except OutboundError:
            # Why is the gateway's own business; its log and status say that the worker is down.
            return _unavailable(family)
        except ValueError as error:
            raise RequestError(400, "path", "holds characters that must be escaped") from error
        finally:
            self._under_way[family] -= 1
        kept = [(name, value) for name, value in answer.headers if name in ANSWER_HEADERS]
        return answer.status, kept, answer.body

    def close(self) -> None:
        """Close the connections that are kept."""
        for client in self._clients.values():
            client.close()


def _unavailable(family: str) -> tuple[int, Headers, bytes]:
    headers = [
        (b"content-type", b"application/json"),
        (b"retry-after", b"%d" % RETRY_AFTER_S),
    ]
    text = f"model {family!r} is not served at the moment"
    return 503, headers, orjson.dumps({"error": text})
