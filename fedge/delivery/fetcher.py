"""The one file that speaks HTTP for release downloads.

python-tuf's own fetcher lets some transport errors through unwrapped and knows
no deadline for a whole transfer; this one maps each to python-tuf's
`DownloadError`, which `client` turns into ours. A circuit breaker stands before
the server: while it is open nothing is asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, SlowRetrievalError
from tuf.ngclient.fetcher import FetcherInterface

from fedge.breaker import CircuitBreaker
from fedge.errors import OutboundError

CHUNK_BYTES = 2**16
RESET_S = 10.0


class HttpFetcher(FetcherInterface):
    """Fetches files over HTTP(S), no redirects, no retries: the next poll is the retry.

    Args:
        timeout_s: longest wait for a connection, and for the next bytes.
        transfer_s: longest time for one whole file; a server that trickles bytes is given up.
        breaker: counts what the server did not answer or answered with 5xx, and downloads that
            broke off; one of its own unless given. A missing file (404) is an answer.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 10.0,
        transfer_s: float = 600.0,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._transfer_s = transfer_s
        self.breaker = breaker or CircuitBreaker(
            "the release repository", time.monotonic, reset_s=RESET_S
        )
        self._pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(timeout_s),
            retries=False,
            headers={"User-Agent": "fedge", "Accept-Encoding": "identity"},
        )

    def _fetch(self, url: str) -> Iterator[bytes]:
        deadline = time.monotonic() + self._transfer_s
        try:
            self.breaker.check()
        except OutboundError as error:
            raise DownloadError(str(error)) from error
        try:
            response = self._pool.request("GET", url, preload_content=False)
        except urllib3.exceptions.HTTPError as error:
            self.breaker.failed()
            raise DownloadError(f"cannot fetch {url}: {error}") from error
        if response.status != 200:
            response.close()
            if response.status >= 500:
                self.breaker.failed()
            else:
                self.breaker.succeeded()
            raise DownloadHTTPError(f"{url} answered {response.status}", response.status)
        return self._chunks(response, url, deadline)

    def _chunks(
        self, response: urllib3.BaseHTTPResponse, url: str, deadline: float
    ) -> Iterator[bytes]:
        try:
            # read1 returns what one receive brought, so the deadline is looked at even when
            # bytes trickle in one by one.
            while chunk := response.read1(CHUNK_BYTES):
                if time.monotonic() > deadline:
                    self.breaker.failed()
                    raise SlowRetrievalError(f"{url} takes too long")
                yield chunk
            # Not before: a server that never finishes a file must open the breaker, too.
            self.breaker.succeeded()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self.breaker.failed()
            raise DownloadError(f"the download of {url} broke off: {error}") from error
        finally:
            response.close()
