"""The operations listener: facts for the machine's operator, public facts for a scraper."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.gateways import FAMILY, ask_once, infer_body, toy_inputs
from fakes.supervisors import SupervisedGateway, wait_until
from prometheus_client.parser import text_string_to_metric_families

from fedge.errors import SettingError
from fedge.serving.escalation_counts import EscalationCounts, counts_path
from fedge.serving.stats import WorkerStats, read_stats
from fedge_client import ops
from fedge_client.admin_client import admin_socket
from fedge_client.agent.admin_port import AdminPort
from fedge_client.metrics import exposition
from fedge_client.ops import OpsListener, Page

INFER = f"/v2/models/{FAMILY}/infer"

EXPORTED = {
    *("fedge_start_time_seconds", "fedge_memory_bytes"),
    *("fedge_process_up", "fedge_process_restarts_total"),
    *("fedge_worker_up", "fedge_worker_restarts_total", "fedge_trial_waiting"),
    *("fedge_release", "fedge_ready", "fedge_probe_latency_microseconds", "fedge_rows_total"),
    *("fedge_requests_total", "fedge_request_errors_total", "fedge_requests_limited_total"),
    *("fedge_requests_inflight", "fedge_request_duration_seconds"),
    *("fedge_agent_up", "fedge_arrival_slots_total", "fedge_windows_total"),
    *("fedge_windows_withheld_total", "fedge_observations_dropped_total"),
    *("fedge_spool_entries", "fedge_spool_bytes", "fedge_spool_dropped_total"),
    *("fedge_observations_damaged_total", "fedge_spool_gaps", "fedge_spool_damaged_total"),
    *("fedge_envelopes_refused_total", "fedge_release_refused"),
}
"""All that a gateway exports. Whoever adds to it has checked that it is a public fact."""

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Series:
    """The exposition as Prometheus's own client reads it."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series[(name, frozenset(labels.items()))]


def families(text: str) -> set[str]:
    """Names with a TYPE line; the parser itself cuts off `_total`."""
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}


class Scraper:
    """Reads pages over real HTTP."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read().decode()

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/status")[2]))

    def metrics(self) -> Series:
        return parsed(self.get("/metrics")[2])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SupervisedGateway]:
    with SupervisedGateway(tmp_path_factory.mktemp("gw")) as gateway:
        gateway.install("A", 3)
        yield gateway


@pytest.fixture
def scraper(gateway: SupervisedGateway) -> Scraper:
    return Scraper(gateway.ops_port)


def test_status_tells_everything(gateway: SupervisedGateway, scraper: Scraper) -> None:
    """Processes, slots, the worker's counters; the same document as `fedge gateway status`."""
    code, content_type, _ = scraper.get("/status")
    assert (code, content_type) == (200, "application/json")
    facts = scraper.status()
    assert facts["supervisor"]["port"] == gateway.port
    assert facts["supervisor"]["ops_port"] == gateway.ops_port
    assert facts["processes"]["agent"]["pid"] == gateway.client.status()["agent_pid"]
    model = facts["models"][FAMILY]
    assert model["slot"] == "A" and model["fallback"] is None and model["agent"] is None
    assert model["worker"]["pid"] == gateway.worker_pid()
    assert model["worker"]["release"] == 3 and model["worker"]["latency_us"] > 0
    assert gateway.client.facts()["models"][FAMILY]["slot"] == "A"


def test_metrics_follow_the_requests(gateway: SupervisedGateway, scraper: Scraper) -> None:
    """What callers ask for shows up in the next scrape, as an independent parser reads it."""
    code, content_type, text = scraper.get("/metrics")
    assert code == 200 and content_type.startswith("text/plain; version=0.0.4")
    before = parsed(text)
    for _ in range(5):
        ask_once(gateway.port, "POST", INFER, infer_body(toy_inputs(2)))

    def gained(name: str) -> float:
        return value(scraper.metrics(), name, model=FAMILY) - value(before, name, model=FAMILY)

    # A request is counted once its answer is on its way.
    wait_until(lambda: gained("fedge_requests_total") >= 5, what="five requests are counted")
    assert gained("fedge_requests_total") == 5 and gained("fedge_rows_total") == 10
    assert gained("fedge_request_duration_seconds_count") == 5
    assert gained("fedge_request_duration_seconds_sum") > 0
    assert gained("fedge_request_errors_total") == 0
    after = scraper.metrics()
    assert value(after, "fedge_release", model=FAMILY) == 3
    assert value(after, "fedge_worker_up", model=FAMILY) == 1
    assert value(after, "fedge_process_up", process="agent") == 1
    assert value(after, "fedge_memory_bytes", process="supervisor") > 2**20


def test_only_public_facts_are_exported(gateway: SupervisedGateway, scraper: Scraper) -> None:
    """Refused requests and labels leave no name in `/metrics`; the list of names is closed."""
    assert ask_once(gateway.port, "POST", INFER, b"{}")[0] == 400
    ask_once(gateway.port, "POST", "/fedge/v1/feedback", b"{}")
    text = scraper.get("/metrics")[2]
    assert families(text) <= EXPORTED
    assert not any(word in text for word in ("4xx", "label", "escalat", "feedback", "token"))

    def refused() -> int:
        return int(scraper.status()["models"][FAMILY]["worker"]["requests"]["4xx"])

    wait_until(lambda: refused() >= 2, what="the refusals are counted")


def test_every_metric_reads_well(tmp_path: Path) -> None:
    """A full document, odd names included: all metrics, valid text, buckets that add up."""
    stats = WorkerStats(tmp_path / "stats.bin", release=7)
    for seconds in (1e-6, 3e-4, 3e-4, 99.0):
        stats.begun()
        stats.answered(200, seconds)
    stats.begun()
    stats.answered(503, 0.5)
    for why in ("rate", "concurrency", "token"):
        stats.refused(why)
    agent = {"next_slot": 9, "windows": 2, "withheld_windows": 0, "dropped_observations": 1}
    agent |= {"spool_depth": 3, "spool_bytes": 4, "spool_dropped": 5}
    agent |= {"lost_records": 7, "spool_gaps": 1, "spool_corrupt": 2}
    agent |= {"refused_envelopes": 6, "refused_release": 8, "dropped_labels": 1234}
    worker = {"pid": 1, "memory_bytes": 5, "latency_us": 8.5, **read_stats(tmp_path / "stats.bin")}
    odd = 'my "model" \\ one'
    text = exposition(
        {
            "supervisor": {"started_at": 1.5, "memory_bytes": 3},
            "processes": {"agent": {"pid": None, "restarts": 2, "memory_bytes": 0}},
            "models": {odd: {"worker": worker, "agent": agent, "worker_restarts": 1, "trial": "B"}},
        }
    )
    assert families(text) == EXPORTED
    series = parsed(text)
    assert value(series, "fedge_requests_total", model=odd) == 5
    assert value(series, "fedge_request_errors_total", model=odd) == 1
    assert value(series, "fedge_requests_limited_total", model=odd) == 2
    assert value(series, "fedge_release", model=odd) == 7
    buckets = sorted(
        (float(dict(labels)["le"]), count)
        for (name, labels), count in series.items()
        if name == "fedge_request_duration_seconds_bucket"
    )
    counts = [count for _, count in buckets]
    assert counts == sorted(counts) and counts[0] == 1 and counts[-2:] == [4, 5]
    assert value(series, "fedge_request_duration_seconds_sum", model=odd) > 99
    assert "1234" not in text


def test_escalations_stay_on_the_machine(gateway: SupervisedGateway, scraper: Scraper) -> None:
    """Their counts are in `/status`; `/metrics` has neither them nor latencies that betray them."""
    path = counts_path(gateway.settings.runtime_dir, FAMILY, "A")
    EscalationCounts(path).count("escalated")
    try:
        assert scraper.status()["models"][FAMILY]["worker"]["escalations"]["escalated"] == 1
        text = scraper.get("/metrics")[2]
        assert "escalat" not in text and "fedge_request_duration_seconds" not in text
        assert "fedge_requests_total" in text
    finally:
        path.unlink()


def test_an_agent_that_answers_is_shown(gateway: SupervisedGateway, scraper: Scraper) -> None:
    """Its own facts stand beside the worker's; one that is away or hangs is down, soon."""
    assert value(scraper.metrics(), "fedge_agent_up", model=FAMILY) == 0
    path = admin_socket(gateway.settings.runtime_dir)
    port = AdminPort(path, {"status": lambda _: {"windows": 11, "labels": 5, "spool_depth": 1}})
    try:
        series = scraper.metrics()
        assert value(series, "fedge_agent_up", model=FAMILY) == 1
        assert value(series, "fedge_windows_total", model=FAMILY) == 11
        assert scraper.status()["models"][FAMILY]["agent"]["labels"] == 5
    finally:
        port.close()
    with socket.socket(socket.AF_UNIX) as hangs:
        hangs.bind(str(path))
        hangs.listen()
        assert value(scraper.metrics(), "fedge_agent_up", model=FAMILY) == 0
    path.unlink()


def test_a_model_that_does_not_serve_is_down(tmp_path: Path) -> None:
    """No release yet: up is 0, and no counter pretends to be a zero."""
    with SupervisedGateway(tmp_path) as gateway:
        series = Scraper(gateway.ops_port).metrics()
        assert value(series, "fedge_worker_up", model=FAMILY) == 0
        assert not any(name == "fedge_requests_total" for name, _ in series)


def test_a_gateway_may_do_without(tmp_path: Path) -> None:
    """`ops_port = -1` opens nothing; the command line still knows everything."""
    with SupervisedGateway(tmp_path, ops_port=-1) as gateway:
        assert not (gateway.settings.runtime_dir / "ops_port").exists()
        assert gateway.client.facts()["supervisor"]["ops_port"] == -1


def test_the_command_line_shows_a_summary(gateway: SupervisedGateway) -> None:
    """Words for people, JSON for programs, and status 1 where no gateway runs."""
    config = str(gateway.config)
    command = [sys.executable, "-m", "fedge.cli.main", "gateway", "status", "--config", config]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rows = {line[:22].strip(): line[22:].strip() for line in shown.stdout.splitlines()}
    assert rows["model"] == FAMILY and rows["release"] == "3" and rows["agent"] == "silent"
    assert rows["worker"] == f"pid {gateway.worker_pid()}" and rows["requests"].isdigit()
    assert f"operations port {gateway.ops_port}" in shown.stdout
    printed = subprocess.run([*command, "--json"], capture_output=True, check=True, timeout=60)
    assert json.loads(printed.stdout)["models"][FAMILY]["slot"] == "A"


def test_the_command_line_says_that_nothing_runs(tmp_path: Path) -> None:
    gateway = SupervisedGateway(tmp_path)
    command = [sys.executable, "-m", "fedge.cli.main", "gateway", "status"]
    answer = subprocess.run(
        [*command, "--config", str(gateway.config)], capture_output=True, text=True, timeout=60
    )
    assert answer.returncode == 1 and "does not answer" in answer.stderr


# --- slow and hostile clients -----------------------------------------------------------


@contextlib.asynccontextmanager
async def listener(body: bytes = b"fine") -> AsyncIterator[OpsListener]:
    async def fine() -> Page:
        return Page("text/plain", body)

    async def broken() -> Page:
        raise ZeroDivisionError

    opened = OpsListener({"/fine": fine, "/broken": broken}, 0)
    await opened.open()
    try:
        yield opened
    finally:
        opened.close()


async def say(port: int, data: bytes) -> bytes:
    """What comes back, until the listener closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), 10)
        return b""
    finally:
        writer.close()


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /fine HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /fine?x=1 HTTP/1.0\r\nhost: [::1]:80\r\n\r\n", 200),
        (b"GET /broken HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n", 500),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"POST /fine HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"GET /fine HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET /fine HTTP/1.1\r\n\r\n", 421),
        (b"GET /fine HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 421),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET  /fine HTTP/1.1\r\n\r\n", 400),
        (b"GET /fine HTTP/2\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000, 400),
    ],
)
def test_each_request_gets_its_answer(request_bytes: bytes, status: int) -> None:
    """Only GET, only loopback's own names, only small heads; anything else is told so."""

    async def test() -> None:
        async with listener() as opened:
            answer = await say(opened.port, request_bytes)
            assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
            assert b"Connection: close" in answer
            assert (await say(opened.port, b"GET /fine HTTP/1.1\r\nHost: localhost\r\n\r\n"))[
                -4:
            ] == b"fine"

    in_loop(test)


def test_slow_clients_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never ends its request, and one that never reads its answer, are let go."""
    monkeypatch.setattr(ops, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(ops, "WRITE_TIMEOUT_S", 0.2)

    async def test() -> None:
        async with listener(b"x" * 50_000_000) as opened:
            reader, writer = await asyncio.open_connection("127.0.0.1", opened.port)
            writer.write(b"GET /fine HT")
            assert await reader.read() == b""
            writer.close()
            with socket.create_connection(("127.0.0.1", opened.port)) as lazy:
                lazy.sendall(b"GET /fine HTTP/1.1\r\nHost: localhost\r\n\r\n")
                while opened.connections == 0:
                    await asyncio.sleep(0.01)
                while opened.connections:
                    await asyncio.sleep(0.01)

    in_loop(test)


def test_a_crowd_is_turned_away_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit connections end at once; when the crowd is gone all is as before."""
    monkeypatch.setattr(ops, "READ_TIMEOUT_S", 0.5)

    async def test() -> None:
        async with listener() as opened:
            crowd = [
                await asyncio.open_connection("127.0.0.1", opened.port)
                for _ in range(3 * ops.MAX_CONNECTIONS)
            ]
            while opened.connections < ops.MAX_CONNECTIONS:
                await asyncio.sleep(0.01)
            assert await say(opened.port, b"") == b""
            for _, writer in crowd:
                writer.close()
            while opened.connections:
                await asyncio.sleep(0.01)
            request = b"GET /fine HTTP/1.1\r\nHost: localhost\r\n\r\n"
            assert (await say(opened.port, request)).endswith(b"fine")

    in_loop(test)


def test_loopback_only() -> None:
    """No setting opens it to another machine."""
    for host in ("0.0.0.0", "::", "192.0.2.1", ""):
        with pytest.raises(SettingError, match="loopback"):
            OpsListener({}, 0, host)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = SupervisedGateway(tmp_path, ops_port=port)
        answer = subprocess.run(
            [sys.executable, "-m", "fedge_client.supervisor", str(gateway.config)],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert answer.returncode == 1 and f"127.0.0.1:{port}" in answer.stderr


def test_serving_does_not_feel_the_operations_port(
    gateway: SupervisedGateway, scraper: Scraper
) -> None:
    """With as many idle scrapers as are let in, requests and the supervisor answer as ever."""
    with contextlib.ExitStack() as idle:
        for _ in range(2 * ops.MAX_CONNECTIONS):
            idle.enter_context(socket.create_connection(("127.0.0.1", scraper.port)))
        assert gateway.release() == 3
        assert gateway.client.status()["slot"] == "A"
    wait_until(lambda: scraper_answers(scraper), what="the next scrape")


def scraper_answers(scraper: Scraper) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return scraper.get("/metrics")[0] == 200
    return False
