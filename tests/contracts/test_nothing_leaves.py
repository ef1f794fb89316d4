"""Promise 1: raw data never leaves a gateway, nor any un-noised function of it.

Canaries are planted in records, names and labels, and every byte that goes out is searched
for them; and what depends on content at all is shown to be settled in the ledger. That
nothing goes around the egress gate is shown beside, in `test_one_gate.py`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from contracts_needles import leaks, number_needles, text_needles
from contracts_pdf import opened
from contracts_taps import HAS_TELEMETRY, TALKATIVE
from contracts_world import INPUTS, STRINGS, World
from fakes.gateways import TASK

from fedge.privacy.entries import Settled, read_entry
from fedge.profiles.counts import count_window, feature_counts, join
from fedge.profiles.streams import stream_values
from fedge.profiles.wire import decode_report
from fedge.records import AuditBatch, GatewayStatus, LabelReport, Reference, sha256_hex
from fedge.review.report.document import Document, Fact, Grid, Paragraph, Section
from fedge.review.report.pdf import render_pdf

# --- the search itself -------------------------------------------------------------------

VALUE = float(np.float32(INPUTS[3]))
ENCODERS: dict[str, Callable[[float], bytes]] = {
    "float32": lambda v: struct.pack("<f", v),
    "float32 big-endian": lambda v: struct.pack(">f", v),
    "float64": lambda v: struct.pack("<d", v),
    "float64 big-endian": lambda v: struct.pack(">d", v),
    "array": lambda v: np.array([1, v, 2], dtype="<f4").tobytes(),
    "json": lambda v: json.dumps({"x": [v]}).encode(),
    "short decimal": lambda v: f"{v:.6g}".encode(),
    "decimal without its sign": lambda v: f"{-v}".encode(),
    "scientific": lambda v: f"{v:e}".encode(),
    "numpy": lambda v: repr(np.float32(v)).encode(),
    "hexadecimal": lambda v: struct.pack("<f", v).hex().encode(),
    "base64": lambda v: base64.b64encode(np.array([v, 5], dtype="<f4").tobytes()),
    "base64 off its start": lambda v: base64.b64encode(b"ab" + struct.pack("<d", v)),
    "base64 for addresses": lambda v: base64.urlsafe_b64encode(struct.pack("<d", v)),
}


PAGE: dict[str, Any] = {
    "title": "A title",
    "kind": "a kind",
    "tone": "plain",
    "headline": "a headline",
    "sentences": ("A sentence.",),
    "facts": (Fact("a fact", "its value"),),
    "footer": (),
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_planted_number_is_found(world: World, encoder: str) -> None:
    """The search sees a leak in the middle of a real envelope, however it is written."""
    leak = ENCODERS[encoder](VALUE)
    envelope = world.of("envelope")[0]
    assert leaks(envelope, number_needles(VALUE)) == []
    assert leaks(envelope[:90] + b'"' + leak + b'"' + envelope[90:], number_needles(VALUE))


@pytest.mark.parametrize("text", STRINGS)
def test_a_planted_text_is_found(text: str) -> None:
    """In any case, as UTF-8 or UTF-16, plain or encoded."""
    raw = text.encode()
    for leak in (raw, raw.upper(), text.encode("utf-16-le"), raw.hex().encode()):
        assert leaks(b"..." + leak + b"...", text_needles(text))
    assert leaks(b'"' + base64.b64encode(raw) + b'"', text_needles(text))
    assert leaks(b'"Canary"', text_needles(text)) == []


@pytest.mark.parametrize("text", [*STRINGS, f"{VALUE:.6g}"])
def test_what_is_planted_in_a_pdf_is_found(text: str) -> None:
    """In plain words, and in a word that a narrow cell breaks; the file itself hides both."""
    needles = number_needles(VALUE) if text[-1].isdigit() and "." in text else text_needles(text)
    word = f"{'x' * 8}{text}{'x' * 20}"
    plain, broken = Paragraph(f"said {text} once"), Grid(("a", "b"), ((word, ""),), widths=(1, 25))
    for block, pieces in ((plain, 2), (broken, 1)):
        pdf = render_pdf(Document(**PAGE, sections=(Section("one", "one", (block,)),)))
        assert leaks(pdf, needles) == []
        found = [bool(leaks(piece, needles)) for piece in opened(pdf)]
        assert found[-1] and sum(found) == pieces


def test_a_pdf_that_cannot_be_opened_is_not_passed_over() -> None:
    """Another filter, or a stream that is cut off, is an error and no empty text."""
    pdf = render_pdf(Document(**PAGE, sections=()))
    with pytest.raises(ValueError, match="filter"):
        list(opened(pdf.replace(b"/ASCII85Decode", b"/RunLengthDecode")))
    with pytest.raises(ValueError, match="streams"):
        list(opened(pdf + b"endstream"))


def test_the_report_that_was_searched_says_all_that_it_says(world: World) -> None:
    """The PDF's text, as it was taken apart, holds what its reader sees: verdict, site, hashes."""
    texts = [data for data in world.of("review") if data.startswith(b"compliance.pdf\n")]
    assert len(texts) > 4
    (bundle,) = (data for data in world.of("bundle") if data.startswith(b"bundle.json\n"))
    key = json.loads(bundle.partition(b"\n")[2])["exporter_key"].encode()
    for said in (b"Privacy budget report", b"Audits of the implementation", key):
        assert said in texts[-1]


def test_the_canaries_were_there(world: World) -> None:
    """They lie in the gateway's own records, so that finding none outside means something."""
    parts = sorted((world.state_dir / "blocks").glob("*/*.parquet"))
    kept = np.concatenate([_column(part, "input") for part in parts])
    for value in INPUTS:
        assert (kept == np.float32(value)).sum() > 20
    assert len(world.secret_numbers) >= 6 + 2 + 3 + 1 + 2
    with contextlib.closing(sqlite3.connect(world.state_dir / "state.sqlite")) as db:
        (labels,) = db.execute("SELECT COUNT(*) FROM block_labels").fetchone()
    assert labels >= 50


def test_the_logs_hold_all_there_was_to_say(world: World) -> None:
    """Down to the libraries' own lines, so that finding no canary in them means something."""
    logs = world.state_dir / "logs"
    written = {path.stem: path.read_text() for path in logs.glob("*.log")}
    written["supervisor"] = (world.state_dir.parent / "supervisor.log").read_text()
    for process in ("supervisor", "worker-A", "agent"):
        assert TALKATIVE in written[process], process
    lines = [data.decode(errors="replace") for data in world.of("log")]
    assert any("the run failed here" in line and "ValueError" in line for line in lines)
    assert any(" DEBUG " in line and " DEBUG fedge" not in line for line in lines)


# --- what went out -----------------------------------------------------------------------


def test_no_canary_left(world: World) -> None:
    """Envelopes, requests, replies of the courier, refusals, pages, metrics, traces, logs, entries
    of the ledger, its bundle and the reports about it, an export for support: none holds one."""
    needles = world.needles
    kinds = {what for what, _ in world.outgoing}
    assert kinds - {"telemetry", "cut"} == {
        *("envelope", "request", "reply", "refusal", "status", "page", "log"),
        *("ledger", "bundle", "review", "support"),
    }
    assert ("telemetry" in kinds) == HAS_TELEMETRY
    # In pages for people nothing is packed, and four bytes may stand there by chance.
    spelled = {needle for needle in needles if len(needle) > 4}
    found: dict[str, set[bytes]] = {}
    for what, data in world.outgoing:
        if hits := leaks(data, spelled if what == "review" else needles):
            found.setdefault(what, set()).update(hits)
    assert found == {}


def test_every_kind_of_envelope_was_looked_at(world: World) -> None:
    """The play made these six kinds, so the search above covered each.

    The seventh, a gap record, holds numbers, counts and times of the spool's own.
    """
    kinds = [envelope.header.kind for envelope in world.envelopes()]
    assert set(kinds) == {"report", "labels", "status", "audit", "update", "counts"}
    assert kinds.count("report") >= 9 and kinds.count("labels") >= 7 and kinds.count("update") == 3


def test_what_depends_on_content_is_settled_in_the_ledger(world: World) -> None:
    """Each report, update and count that left is, byte for byte, one that was charged first."""
    entries = [read_entry(entry) for entry in world.entries]
    settled = {entry.artefact_sha256 for entry in entries if isinstance(entry, Settled)}
    assert {entry.noise for entry in entries if isinstance(entry, Settled)} == {"os"}
    for envelope in world.envelopes():
        if envelope.header.kind == "status":
            GatewayStatus.from_bytes(envelope.payload)
        elif envelope.header.kind == "audit":
            assert set(AuditBatch.from_bytes(envelope.payload).entries) <= set(world.entries)
        else:
            assert sha256_hex(envelope.payload) in settled, envelope.header


def test_the_bundle_that_was_searched_is_one_that_reviewers_accept(world: World) -> None:
    """It holds the whole ledger, and the verifier finds nothing wrong with it."""
    assert world.verdict["accepted"] is True
    (entries,) = (data for data in world.of("bundle") if b"entries.jsonl\n" in data[:200])
    assert entries.count(b"\n") - 1 == len(world.entries) > 30


def test_no_report_holds_exact_counts(world: World) -> None:
    """Each window's report says its noise, and differs from the counts of the kept records."""
    reference = Reference.from_bytes((world.state_dir / "slots/A/reference.json").read_bytes())
    envelopes = [e for e in world.envelopes() if e.header.kind == "report"]
    for report in (decode_report(envelope.payload) for envelope in envelopes):
        assert all(feature.sigma2 > 0 for feature in report.features)
        (part,) = (world.state_dir / "blocks").glob(f"{report.block}/{report.window:012d}-*")
        features, predictions = _column(part, "feature"), _column(part, "prediction").ravel()
        blank = np.full(len(predictions), np.nan, dtype=np.float32)
        values = stream_values(TASK, features, predictions.astype(np.int32), blank, blank)
        exact = join(count_window(reference, values))
        event = _event(report.window, world)
        shown = feature_counts(reference, exact, event)
        for name in ("mean", "max"):
            assert _counts(report.features, name) != _counts(shown, name)


def test_no_pair_of_labelled_errors_is_exact(world: World) -> None:
    """Each says its noise; all of them together are not what the labels of the records say."""
    envelopes = [e for e in world.envelopes() if e.header.kind == "labels"]
    pairs = [LabelReport.from_bytes(envelope.payload) for envelope in envelopes]
    assert all(pair.sigma2 >= 100 for pair in pairs)
    exact = []
    for pair in pairs:
        (part,) = (world.state_dir / "blocks").glob(f"{pair.block}/{pair.window:012d}-*")
        green = int((_column(part, "prediction").ravel() == TASK.classes.index("green")).sum())
        exact.append((green, len(_column(part, "slot")) - green))
    assert [(pair.right, pair.wrong) for pair in pairs] != exact


def test_a_refused_round_says_one_public_word(world: World) -> None:
    """A courier that is refused hears a reason from a short list, and no detail."""
    assert world.of("refusal") == [
        *(b"failed", b"round-not-planned", b"arrays-do-not-fit", b"malformed-request")
    ]


def test_a_round_asked_again_gives_no_second_noise(world: World) -> None:
    """The third `train` message asked for the first round again: the same bytes."""
    first, _, _, again = world.of("reply")
    assert first == again


def _column(part: Path, name: str) -> np.ndarray:
    """One column; vectors are kept as the bytes of float32 numbers."""
    rows = pq.read_table(part).column(name).to_pylist()
    vectors = [np.frombuffer(row, np.float32) if isinstance(row, bytes) else row for row in rows]
    return np.array(vectors, dtype=np.float32)


def _counts(features: object, name: str) -> tuple[int, ...]:
    return next(f.counts for f in features if f.name == name)  # type: ignore[attr-defined]


def _event(window: int, world: World) -> object:
    """The mechanism that the ledger holds for a window."""
    entries = [read_entry(entry) for entry in world.entries]
    return next(e.events[0] for e in entries if getattr(e, "window", None) == window)
