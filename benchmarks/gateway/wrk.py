"""Loading an HTTP server with wrk, and reading what it measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
{headers}
done = function(summary, latency, requests)
  io.stderr:write(string.format(
    '{{"requests": %d, "seconds": %.6f, "p50": %.1f, "p99": %.1f, "p999": %.1f, "errors": %d}}',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9), summary.errors.status + summary.errors.connect
    + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk. Times are in microseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    p999: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def available() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def load(
    url: str, body: bytes, headers: dict[str, str], *, seconds: float, connections: int = 4
) -> Load:
    """Post `body` to `url` without a pause over kept connections.

    Raises:
        RuntimeError: wrk failed, or a request did.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, script = Path(folder) / "body", Path(folder) / "post.lua"
        data.write_bytes(body)
        lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
        script.write_text(_SCRIPT.format(body=data, headers=lines))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"wrk: {done.stdout} {done.stderr}")
    measured = Load(**json.loads(done.stderr[done.stderr.index("{") :]))
    if measured.errors:
        raise RuntimeError(f"{measured.errors} of {measured.requests} requests to {url} failed")
    return measured
