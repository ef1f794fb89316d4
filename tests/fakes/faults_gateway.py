"""A gateway whose agent's process is killed or refused at chosen writes, and what is left of it.

The agent is the real one, on a real state directory, with a ring that a worker filled and a
coordinator that keeps what it took. Its rows and labels are always the same, so that what
became of them can be compared with an undisturbed run.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from fakes.faults_disk import Fault, calls
from fakes.faults_nursery import Nursery
from fakes.gateways import (
    TASK,
    WINDOW_SLOTS,
    fill_slot,
    make_gateway,
    toy_inputs,
    toy_logits,
    toy_model,
    toy_weights,
    wait_until,
)
from fakes.receipts import receipt_for, standing_for

from fedge.config import GatewaySettings
from fedge.errors import OutboundError
from fedge.identity import Envelope, Identity
from fedge.privacy.ledger import Ledger
from fedge.privacy.policy import new_policy, read_policy, write_policy
from fedge.profiles.build import build_reference
from fedge.profiles.wire import decode_report
from fedge.records import AuditBatch, BlockLength, sha256_hex
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving.marks import NOBODY, Marks
from fedge.serving.record_ids import block_numbering
from fedge.serving.ring import RingWriter
from fedge.serving.ring_file import RowLayout
from fedge.serving.ring_reader import RingReader
from fedge.statefile import StateFile
from fedge_client.admin_client import AdminClient, admin_socket

ALL_ROWS, HALF, WINDOWS, BLOCK_WINDOWS = 43, 24, 4, 2
LABELS = {1: 2, 12: 0, 23: 1, 25: 2, 39: 0, 41: 1}
"""Slot and class; the last one's window stays open."""
DEADLINE_S = 90.0
ALL = INFERENCE | MONITORING | TRAINING
SUBJECTS = (NOBODY, b"somebody........", b"somebody else...")
"""Whom rows are about, in turn. A subject's records are counted, and none of them exceeds."""


class Centre:
    """A coordinator of many gateways, told apart by the path that they post to."""

    def __init__(self) -> None:
        self.taken: defaultdict[str, list[bytes]] = defaultdict(list)
        centre = self

        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    return  # whoever sent it was killed
                centre.taken[self.path.split("/")[1]].append(body)
                self._answer(receipt_for(body))

            def do_GET(self) -> None:
                taken = list(centre.taken[self.path.split("/")[1]])
                self._answer(standing_for(self.path, taken))

            def _answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None: ...

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None: ...  # killed callers break connections

        self._server = Server(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def row_inputs() -> npt.NDArray[np.float32]:
    """What a worker observed, by slot."""
    return toy_inputs(100, seed=5)


@dataclass(frozen=True)
class Outcome:
    """What became of the rows. Equal after every disturbance.

    Attributes:
        windows: of each report, once: window, block, release, first slot, slots, dropped, counts.
        kept: slots, inputs and predictions of each stored window.
        labels: by slot. charges: of each block.
        contributions: block, window, the subject's name in the block, records that count.
        given_up: windows withheld beside gaps, records lost, envelopes dropped, damaged or refused.
        gaps: windows whose draw was lost, as the ledger notes.
    """

    windows: tuple[Any, ...]
    kept: dict[int, Any]
    labels: dict[int, int]
    charges: tuple[Any, ...]
    contributions: tuple[Any, ...]
    given_up: tuple[int, ...]
    gaps: tuple[int, ...] = ()

    def with_gaps(self, gaps: tuple[int, ...]) -> Outcome:
        """The same, had the draws of these windows been lost."""
        windows = tuple(row for row in self.windows if row[0] not in gaps)
        return replace(self, windows=windows, gaps=gaps)


def template(folder: Path) -> GatewaySettings:
    """A gateway with release 1, to be copied; it never ran."""
    settings = make_gateway(
        folder,
        simulated=True,
        train=False,
        ring_slots=256,
        push_interval_s=0.01,
        status_interval_s=1000.0,
        poll_interval_s=1000.0,
    )
    block = BlockLength(kind="windows", value=BLOCK_WINDOWS)
    write_policy(
        new_policy(
            epsilon=3.0,
            delta=1e-5,
            block=block,
            telemetry_rho=0.0281,
            unit="subject",
            max_records=BLOCK_WINDOWS * WINDOW_SLOTS,
        ),
        settings.state_dir / "policy.toml",
    )
    inputs = toy_inputs(64, seed=99)
    logits = toy_logits(1, inputs)
    columns = [inputs.mean((1, 2)), inputs.max((1, 2)), logits.argmax(1), np.ones(64)]
    reference = build_reference(
        TASK,
        np.column_stack([*columns, logits.max(1)]).astype(np.float64),
        ood=logits.max(1).astype(np.float64),
        model_sha256=sha256_hex(toy_model(toy_weights(1))),
        source="public toy rows",
    )

    def put_reference(files: dict[str, bytes]) -> None:
        files["reference.json"] = reference.to_bytes()

    fill_slot(settings.state_dir, "A", 1, change=put_reference)
    (settings.state_dir / "root.json").write_bytes(b"{}")  # nobody offers a release here
    return settings


class FaultyGateway:
    """One gateway, copied from a template, and its agent.

    Args:
        folder: of this gateway, made here.
    """

    def __init__(
        self, source: GatewaySettings, folder: Path, nursery: Nursery, centre: Centre
    ) -> None:
        folder = folder.resolve()
        shutil.copytree(source.state_dir.parent, folder)
        self.name, self.config = folder.name, folder / "gateway.toml"
        lines = [
            line
            for line in self.config.read_text().splitlines()
            if not line.startswith("coordinator_url")
        ]
        url = json.dumps(centre.url(self.name))
        self.config.write_text("\n".join([*lines, f"coordinator_url = {url}", ""]))
        self.settings = GatewaySettings.load(self.config)
        self.state_dir = self.settings.state_dir
        self.log, self.stderr = folder / "calls.log", folder / "agent.log"
        self._nursery, self._centre = nursery, centre
        self._inputs = row_inputs()

    # --- what a worker does ------------------------------------------------------------------

    def feed(self, rows: int, labels: bool = True) -> None:
        """Append the rows up to `rows`, and the labels that came by then."""
        block_of = block_numbering(
            read_policy(self.state_dir / "policy.toml").block, self.settings.window_slots
        )
        ring = RingWriter(self.state_dir / "ring.bin", RowLayout.of(TASK), self.settings.ring_slots)
        first = ring.next_slot
        for slot in range(first, rows):
            row = self._inputs[slot : slot + 1]
            features = np.array([[row.mean(), row.max()]], np.float32)
            marks = Marks(ALL, SUBJECTS[slot % len(SUBJECTS)])
            ring.append(block_of, 1, time.time(), marks, row, toy_logits(1, row), features)
        due = {s: c for s, c in LABELS.items() if first <= s < rows}
        if labels and due:
            ring.append_labels(np.array([*due]), np.array([*due.values()], np.int32))
        ring.close()

    # --- the agent ---------------------------------------------------------------------------

    def start(self, fault: Fault | None = None) -> int:
        """Start the agent; answers its process id."""
        self.log.unlink(missing_ok=True)
        self.pid = self._nursery.start(
            self.config, self.state_dir, self.log, self.stderr, fault or Fault()
        )
        return self.pid

    def stop(self) -> int:
        """End the agent if it runs; answers its exit status."""
        with contextlib.suppress(ProcessLookupError):  # it may have died just now
            if self.running:
                os.kill(self.pid, signal.SIGTERM)
        return self._nursery.wait()

    @property
    def running(self) -> bool:
        return not self._nursery.ended(0)

    def wait(self, holds: Callable[[], bool], what: str) -> bool:
        """Wait until something holds, or the agent is gone; says which."""
        wait_until(lambda: holds() or not self.running, DEADLINE_S, what + "\n" + self.said())
        return holds()

    def run(self, fault: Fault | None = None) -> int:
        """Run the agent until all is done, or until it dies; answers its exit status."""
        self.feed(HALF)
        self.start(fault)
        if self.wait(lambda: self.decided() >= 2, "two windows are over"):
            self.feed(ALL_ROWS)
            self.wait(self.done, "all is reported")
        # One that is still starting has not learnt to end in peace.
        self.wait(self.answers, "the agent answers")
        return self.stop()

    def answers(self) -> bool:
        """Whether it takes commands."""
        try:
            return bool(self.admin.status())
        except OutboundError:
            return False

    @property
    def admin(self) -> AdminClient:
        return AdminClient(admin_socket(self.settings.runtime_dir))

    def said(self) -> str:
        return self.stderr.read_text() if self.stderr.exists() else ""

    def calls(self) -> list[str]:
        """What the last agent did to files of the state directory."""
        return calls(self.log)

    # --- what came of it ---------------------------------------------------------------------

    def envelopes(self) -> list[Envelope]:
        """All that the centre took, in order, repetitions included."""
        return [Envelope.from_bytes(data) for data in self._centre.taken[self.name]]

    def reported(self) -> int:
        """Windows that the centre knows."""
        reports = [e.payload for e in self.envelopes() if e.header.kind == "report"]
        return len({decode_report(payload).window for payload in reports})

    def decided(self) -> int:
        """Windows that the centre knows, and those whose report a killed process lost."""
        try:
            ((withheld,),) = self.rows("SELECT withheld FROM watch") or [(0,)]
        except sqlite3.OperationalError:  # the agent has made no state file yet
            return 0
        return self.reported() + int(withheld)

    def rows(self, query: str) -> list[Any]:
        """A look into the state file, beside whoever writes it."""
        db = sqlite3.connect(f"file:{self.state_dir / 'state.sqlite'}?mode=ro", uri=True)
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()

    def done(self) -> bool:
        """All windows are reported, their labels are filed, and nothing waits in the spool."""
        labels = len([slot for slot in LABELS if slot < WINDOWS * WINDOW_SLOTS])
        return self.told(WINDOWS) and len(self.labels()) >= labels

    def told(self, windows: int) -> bool:
        """The centre knows so many windows or that they are gaps, and every entry of the ledger."""
        if self.decided() < windows:
            return False
        ((waiting,),) = self.rows("SELECT COUNT(*) FROM spool WHERE state = 'waiting'")
        ((next_entry,),) = self.rows("SELECT next_seq FROM audit_trail")
        ((entries,),) = self.rows("SELECT COUNT(*) FROM ledger_entries")
        return bool(waiting == 0 and next_entry == entries)

    def labels(self) -> dict[int, int]:
        """Labels that joined their records, by slot."""
        return dict(self.rows("SELECT slot, label FROM block_labels ORDER BY slot"))

    def outcome(self) -> Outcome:
        """Look at everything that is left, and check what must hold whatever happened."""
        with contextlib.closing(StateFile(self.state_dir / "state.sqlite")) as state:
            return self._outcome(state)

    def kept(self) -> dict[int, Any]:
        """The rows of each stored window; no file lies about that nobody knows."""
        with contextlib.closing(StateFile(self.state_dir / "state.sqlite")) as state:
            return self._kept(state)

    def _outcome(self, state: StateFile) -> Outcome:
        ledger = Ledger(
            state, read_policy(self.state_dir / "policy.toml"), clock=lambda: 2e9, simulated=True
        )
        ledger.check_chain()
        entries = [json.loads(entry) for entry in ledger.entries()]
        by_seq = self._by_seq()
        reports = [e for e in by_seq.values() if e.header.kind == "report"]
        self._check_charged(entries, [sha256_hex(e.payload) for e in reports])
        window = {e["reservation"]: e["window"] for e in entries if e["kind"] == "window"}
        gaps = tuple(window[e["reservation"]] for e in entries if e["kind"] == "lost")
        batches = [
            AuditBatch.from_bytes(e.payload) for e in by_seq.values() if e.header.kind == "audit"
        ]
        told = [entry for batch in batches for entry in batch.entries]
        assert told == list(ledger.entries()), "the centre's ledger is another one"
        decoded = [decode_report(e.payload) for e in reports]
        windows = [r.window for r in decoded]
        assert len(windows) == len(set(windows)), "a window was reported twice with other bytes"
        return Outcome(
            windows=tuple(
                (r.window, r.block, r.release, r.first_slot, r.slots, r.dropped, r.features)
                for r in sorted(decoded, key=lambda r: r.window)
            ),
            kept=self._kept(state),
            labels=dict(state.rows("SELECT slot, label FROM block_labels ORDER BY slot")),
            charges=tuple(ledger.spendings()),
            contributions=tuple(
                state.rows(
                    "SELECT block, window, subject, records FROM contributions"
                    " ORDER BY block, window, subject"
                )
            ),
            given_up=tuple(
                int(count)
                for query in (
                    f"SELECT withheld - {len(gaps)} FROM watch",
                    "SELECT lost FROM watch_lost",
                    "SELECT COUNT(*) FROM spool WHERE state <> 'waiting'",
                    "SELECT COALESCE(SUM(value), 0) FROM spool_counters"
                    " WHERE name IN ('dropped', 'corrupt')",
                )
                for (count,) in state.rows(query)
            ),
            gaps=gaps,
        )

    def _by_seq(self) -> dict[int, Envelope]:
        """What the centre took; each number once, with one sequence of bytes, and no gap."""
        key = Identity.load(self.state_dir / "identity.pem").public_key
        found: dict[int, bytes] = {}
        for data in self._centre.taken[self.name]:
            envelope = Envelope.from_bytes(data)
            envelope.verify(key)
            assert found.setdefault(envelope.header.seq, data) == data, "one number, two envelopes"
        assert sorted(found) == list(range(len(found))), "a number is missing"
        return {seq: Envelope.from_bytes(found[seq]) for seq in sorted(found)}

    def _check_charged(self, entries: list[dict[str, Any]], released: list[str]) -> None:
        """Whatever left was reserved first and settled, once."""
        settled = {e["artefact_sha256"]: e for e in entries if e["kind"] == "settled"}
        reserved = {e["reservation"]: e["seq"] for e in entries if e["kind"] == "window"}
        for sha256 in released:
            entry = settled[sha256]
            assert reserved[entry["reservation"]] < entry["seq"]
        assert len(settled) == len(released), "what was settled arrived"

    def _kept(self, state: StateFile) -> dict[int, Any]:
        """The rows of each stored window; no file lies about that nobody knows."""
        parts = dict(state.rows("SELECT window, part FROM block_windows"))
        blocks = self.state_dir / "blocks"
        on_disk = {p.relative_to(blocks).as_posix() for p in blocks.rglob("*") if p.is_file()}
        assert on_disk == set(parts.values()), "files that no row names, or names without a file"
        left = [p for p in self.state_dir.rglob("*") if ".part" in p.name or ".tmp" in p.name]
        assert left == [], "temporary files are left"
        kept = {}
        for window, part in parts.items():
            table = pq.read_table(blocks / part)
            kept[window] = tuple(
                table[name].to_pylist() for name in ("slot", "input", "prediction")
            )
        return kept

    def released_position(self) -> int:
        """How far the agent let go of the ring."""
        reader = RingReader(self.state_dir / "ring.bin")
        try:
            return reader.position
        finally:
            reader.close()


MakeFaulty = Callable[..., FaultyGateway]
