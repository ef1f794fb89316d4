"""Who may ask, and how much: the checks that a request passes before the app sees it.

A check looks at the request's head alone; no body is read for a caller who may not ask.
Health is told to everybody, always: whoever restarts or routes must not need a token.
Sizes, time limits and the number of connections belong to the listener, what is right in
a request to the app.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic

from fedge.config import LimitSettings
from fedge.errors import RequestError, SettingError, TooManyRequestsError
from fedge.serving.app import Answer
from fedge.serving.asgi import App, Receive, Scope, Send
from fedge.serving.callers import client_key
from fedge.serving.front import Observer, Unobserved

log = logging.getLogger(__name__)

Check = Callable[[Scope], None]
"""Lets a request pass, or raises `RequestError`."""

MAX_TOKEN_FILE_BYTES = 65_536
MAX_CLIENTS = 16_384
"""Client addresses whose rate is remembered; the one that was silent longest is forgotten."""
RETRY_BUSY_S = 1.0
ROUNDING_S = 1e-6
"""Sums of intervals are not exact; far less than one request."""


class Guard:
    """An ASGI app around another one.

    Args:
        checks: in this order, each for every request but those for health.
        max_concurrent: requests in the app at once, those for health left out; more get 429.
        observer: is told what was refused.
    """

    def __init__(
        self,
        app: App,
        checks: Sequence[tuple[str, Check]] = (),
        *,
        max_concurrent: int,
        observer: Observer | None = None,
    ) -> None:
        self._app, self._checks = app, tuple(checks)
        self._observer = observer or Unobserved()
        self._max_concurrent = max_concurrent
        self._concurrent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_health(scope):
            await self._app(scope, receive, send)
            return
        for why, check in self._checks:
            try:
                check(scope)
            except RequestError as error:
                await self._refuse(why, error, send)
                return
        if self._concurrent >= self._max_concurrent:
            message = f"{self._max_concurrent} are being served already"
            busy = TooManyRequestsError("requests", message, RETRY_BUSY_S)
            await self._refuse("concurrency", busy, send)
            return
        self._concurrent += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._concurrent -= 1

    async def _refuse(self, why: str, error: RequestError, send: Send) -> None:
        self._observer.refused(why)
        if error.status == 401:
            answer = Answer.error(401, str(error), www_authenticate='Bearer realm="fedge"')
        else:
            answer = Answer.refusal(error)
        await answer.send(send)


def is_health(scope: Scope) -> bool:
    """Whether a request asks if server or model are alive or ready."""
    path: str = scope["path"]
    if not path.endswith(("/ready", "/live")) or scope["method"] not in ("GET", "HEAD"):
        return False
    return path in ("/v2/health/live", "/v2/health/ready") or path.startswith("/v2/models/")


class BearerToken:
    """Lets those pass who send a token of a file (`Authorization: Bearer ...`).

    The file holds one token a line; with two lines callers can change from one to the other.
    Empty lines and those that start with # are skipped. A change of the file takes effect with
    the next request. A file that is gone or unreadable lets nobody in.

    Raises:
        SettingError: the file cannot be read or holds no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._digests: tuple[bytes, ...] = ()
        try:
            self._read()
        except (OSError, ValueError) as error:
            raise SettingError(f"token_file: cannot take tokens from {path}: {error}") from error

    def __call__(self, scope: Scope) -> None:
        given = next((v for name, v in scope["headers"] if name == b"authorization"), None)
        if given is None:
            raise RequestError(401, "authorization", "a bearer token is needed")
        scheme, _, token = given.partition(b" ")
        # Digests have one length, so that time tells nothing about the tokens, not even theirs.
        digest = hashlib.sha256(token.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._tokens()]
        if scheme.lower() != b"bearer" or not any(matches):
            raise RequestError(401, "authorization", "this token is not known here")

    def _tokens(self) -> tuple[bytes, ...]:
        try:
            if self._mark() != self._seen:
                self._read()
                log.info("read %d tokens from %s", len(self._digests), self._path)
        except (OSError, ValueError) as error:
            if self._digests:
                log.error("nobody is let in: cannot take tokens from %s: %s", self._path, error)
            self._digests, self._seen = (), None
        return self._digests

    def _mark(self) -> tuple[int, ...]:
        """Changes with the file."""
        found = os.stat(self._path)  # noqa: PTH116 - for each request, and much cheaper
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> None:
        seen = self._mark()
        if seen[2] > MAX_TOKEN_FILE_BYTES:
            raise ValueError(f"it is larger than {MAX_TOKEN_FILE_BYTES} bytes")
        lines = (line.strip() for line in self._path.read_bytes().splitlines())
        tokens = [line for line in lines if line and not line.startswith(b"#")]
        if not tokens:
            raise ValueError("it holds no token")
        if any(b" " in token or not token.isascii() for token in tokens):
            raise ValueError("a token is one word of ASCII characters")
        self._digests = tuple(hashlib.sha256(token).digest() for token in tokens)
        self._seen = seen


class RateLimit:
    """A token bucket for each client address (IPv6: for each /64 network).

    Args:
        per_s: requests a second in the long run.
        burst: requests at once after a silence.
        clock: seconds, monotonic.

    Kept as the generic cell rate algorithm: per client only the time at which its bucket is
    full again (ITU-T I.371, appendix; one number says level and time of the last request).
    """

    def __init__(
        self,
        per_s: float,
        burst: int,
        *,
        clock: Callable[[], float] = monotonic,
        max_clients: int = MAX_CLIENTS,
    ) -> None:
        if not (per_s > 0 and burst >= 1 and max_clients >= 1):
            raise SettingError(f"need {per_s=} > 0, {burst=} >= 1, {max_clients=} >= 1")
        self._interval_s, self._depth_s = 1 / per_s, burst / per_s
        self._clock, self._max_clients = clock, max_clients
        self._full_again: OrderedDict[bytes, float] = OrderedDict()

    def __call__(self, scope: Scope) -> None:
        now, client = self._clock(), client_key(scope["client"])
        full_again = max(now, self._full_again.get(client, now)) + self._interval_s
        wait_s = full_again - now - self._depth_s
        if wait_s > ROUNDING_S:
            raise TooManyRequestsError("requests", "there are too many of this client", wait_s)
        self._full_again[client] = full_again
        self._full_again.move_to_end(client)
        if len(self._full_again) > self._max_clients:
            self._full_again.popitem(last=False)

    def __len__(self) -> int:
        return len(self._full_again)


def checks(token_file: Path | None, limits: LimitSettings) -> list[tuple[str, Check]]:
    """The checks that the settings ask for, each with its name in the counters.

    Raises:
        SettingError: see `BearerToken`.
    """
    found: list[tuple[str, Check]] = []
    # The rate comes first: it bounds how many tokens a client can try.
    if limits.requests_per_s > 0:
        found.append(("rate", RateLimit(limits.requests_per_s, limits.burst)))
    if token_file is not None:
        found.append(("token", BearerToken(token_file)))
    return found
