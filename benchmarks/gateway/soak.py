"""A day of traffic in some minutes: does anything grow?

A day at 20 rows a second is 1.7 million rows. They are sent as fast as they are taken,
in small batches, while the centre is out of reach, so that spool and block store must
live within their quotas.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.figures import Figure
from benchmarks.gateway import site
from benchmarks.gateway.processes import proportional_mb

ROWS_A_DAY = 24 * 3600 * 20
BATCH, WINDOW_SLOTS = 32, 1000
BLOCK_BYTES, SPOOL_BYTES, OTHER_BYTES = 64 * 2**20, 2**20, 64 * 2**20
GROWTH_GOAL = 1.05


def measure(work: Path, *, rows: int = ROWS_A_DAY) -> Figure:
    """gw-soak: memory in the last quarter against the second one; bytes on disk at the end."""
    candidate = site.digits(work)
    inputs = np.load(candidate.folder / "golden.npz")["inputs"]
    batch = np.resize(inputs, (BATCH, *inputs.shape[1:])).astype(np.float32)
    body, headers = site.binary_body(candidate.task.input.name, batch)
    with tempfile.TemporaryDirectory() as folder:
        settings = site.make_folder(
            Path(folder) / "gw",
            candidate,
            window_slots=WINDOW_SLOTS,
            coordinator_url="http://127.0.0.1:9",
            spool_bytes=SPOOL_BYTES,
            retention={"max_bytes": BLOCK_BYTES},
        )
        with site.running(settings) as ours:
            began = time.monotonic()
            sizes = _drive(ours, body, headers, rows)
            seconds = time.monotonic() - began
            windows = sum(1 for _ in settings.state_dir.glob("blocks/*/*"))
            used = _bytes_below(settings.state_dir / "blocks")
            state = _bytes_below(settings.state_dir) - used
    quarter = len(sizes) // 4
    before = statistics.median(sizes[quarter : 2 * quarter])
    after = statistics.median(sizes[3 * quarter :])
    flat, fits = after <= GROWTH_GOAL * before, used <= BLOCK_BYTES and state <= OTHER_BYTES
    return Figure(
        id="gw-soak",
        what=(
            f"PSS in the last quarter of {rows} rows sent in {seconds:.0f} s, centre unreachable; "
            f"{windows} windows kept in {used / 2**20:.0f} MiB, all else {state / 2**20:.0f} MiB"
        ),
        ours=after,
        peer=before,
        peer_name="second quarter",
        unit="MB",
        goal=f"<= {GROWTH_GOAL:g}x, files within quota",
        holds=flat and fits,
    )


def _drive(ours: site.Site, body: bytes, headers: dict[str, str], rows: int) -> list[float]:
    """Send all rows; answers memory samples (MB of supervisor, worker and agent together)."""
    parts = urlsplit(ours.infer_url)
    connection = HTTPConnection(parts.netloc, timeout=30)
    requests = rows // BATCH
    every = max(1, requests // 64)
    pids, sizes = ours.pids(), []
    for number in range(requests):
        connection.request("POST", parts.path, body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"request {number} was answered {answer.status}")
        if number % every == 0:
            sizes.append(sum(proportional_mb(pid) for pid in pids.values()))
    connection.close()
    if ours.pids() != pids:
        raise RuntimeError(f"a process was restarted: {pids} became {ours.pids()}")
    return sizes


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
