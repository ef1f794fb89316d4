"""Where what leaves a gateway, or is written beside it, is caught: requests, logs, pages, files."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import logging
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

from contracts_pdf import opened
from fakes.loop import ToyGateway
from fakes.receipts import receipt_for, standing_for
from typer.testing import CliRunner

from fedge.cli.main import app
from fedge.config import GatewaySettings
from fedge.logs import TEXT_FORMAT, TextLines
from fedge_client.export import export_state

Tell = Callable[[str, bytes], None]
"""Takes what something is, and its bytes."""

HAS_TELEMETRY = find_spec("opentelemetry") is not None
_COLLECTOR = "/otlp"

TALKATIVE = "everything is logged from here on"
"""A line in the log of each process that `everything_logged` reached."""


def export_telemetry(gateway: ToyGateway, url: str) -> None:
    """Let a gateway export metrics and traces to the recorder at `url`, where it can."""
    if not HAS_TELEMETRY:
        return
    with gateway.config.open("a") as file:
        file.write(f'[telemetry]\notlp_url = "{url}{_COLLECTOR}"\n')
        file.write("interval_s = 0.5\ntraces = true\n")
    gateway.settings = GatewaySettings.load(gateway.config)


class Recorder(SimpleHTTPRequestHandler):
    """A coordinator and a collector that believe everything and write down what they are sent."""

    protocol_version = "HTTP/1.1"

    def __init__(self, kept: list[tuple[str, bytes]], *args: object, **options: object) -> None:
        self._kept = kept
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._kept.append(("request", self._head()))
        if not self.path.startswith("/v1/ledgers/"):
            super().do_GET()
            return
        taken = [data for kind, data in self._kept if kind == "envelope"]
        self._answer(standing_for(self.path, taken))

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if self.path.startswith(_COLLECTOR):
            packed = self.headers.get("Content-Encoding") == "gzip" and len(body) == length
            sent = gzip.decompress(body) if packed else body
            self._kept.append(("telemetry", self._head() + sent))
            self._answer(b"")
            return
        if len(body) < length:  # its sender was ended meanwhile
            self._kept.append(("cut", self._head() + body))
            return
        self._kept.append(("request", self._head()))
        self._kept.append(("envelope", body))
        self._answer(receipt_for(body))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _head(self) -> bytes:
        return self.raw_requestline + bytes(self.headers)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def recording(folder: Path, port: int) -> Iterator[list[tuple[str, bytes]]]:
    """Serve `folder` on `port`; yields the list that every request is added to."""
    kept: list[tuple[str, bytes]] = []
    handler = partial(Recorder, kept, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def everything_logged(folder: Path) -> Iterator[None]:
    """Every Python process started within logs all that it has to say, libraries included."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import logging\n"
        "_basic = logging.basicConfig\n"
        "def _talkative(**options):\n"
        "    _basic(**{**options, 'level': logging.DEBUG})\n"
        f"    logging.debug('{TALKATIVE}')\n"
        "logging.basicConfig = _talkative\n"
    )
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(paths)}):
        yield


class _Lines(logging.Handler):
    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.DEBUG)
        self._tell = tell
        self.setFormatter(TextLines(TEXT_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        self._tell("log", self.format(record).encode())


@contextmanager
def logging_to(tell: Tell) -> Iterator[None]:
    """All that anything in this process logs, written as our processes write it."""
    root, lines = logging.getLogger(), _Lines(tell)
    level = root.level
    root.addHandler(lines)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(lines)


def read_pages(gateway: ToyGateway, tell: Tell) -> None:
    """What a monitoring system and an operator can read of a running gateway."""
    port = int((gateway.settings.runtime_dir / "ops_port").read_text())
    for path in ("/metrics", "/status", "/nowhere"):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as ops:
            ops.request("GET", path)
            tell("page", ops.getresponse().read())
    tell("page", json.dumps(gateway.facts()).encode())


def read_export(gateway: ToyGateway, folder: Path, tell: Tell) -> None:
    """What support is sent of a gateway."""
    target = folder / "support.zip"
    export_state(gateway.settings, gateway.config, target)
    with zipfile.ZipFile(target) as members:
        for name in members.namelist():
            tell("support", name.encode() + b"\n" + members.read(name))


def review(config: Path, folder: Path, tell: Tell) -> dict[str, Any]:
    """Export a gateway's ledger, verify it and report on it; answers the verdict."""
    folder.mkdir()
    bundle, report = folder / "bundle.zip", folder / "report"
    run = CliRunner()
    of_gateway = ["--gateway", str(config)]
    for command in (
        ["ledger", "export", str(bundle), "--audits", str(folder), *of_gateway],
        ["ledger", "show", "--entries", "1000", *of_gateway],
        ["ledger", "report", str(bundle), "--out", str(report)],
    ):
        done = run.invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
        tell("review", done.output.encode())
    with zipfile.ZipFile(bundle) as members:
        for name in members.namelist():
            tell("bundle", name.encode() + b"\n" + members.read(name))
    for path in sorted(report.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            for piece in opened(data) if path.suffix == ".pdf" else (data,):
                tell("review", path.name.encode() + b"\n" + piece)
    verdict = run.invoke(app, ["ledger", "verify", str(bundle), "--json"])
    tell("review", verdict.output.encode())
    return dict(json.loads(verdict.output))
