"""What the spool promises: nothing is lost that it has room for, what is lost is counted."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes.centre import WITNESS
from fakes.kills import KillPoints, killed
from fakes.spools import EVENT, IDENTITY, Door, Outbox, Post, report, status
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import DrawLostError, FedgeError, StateError
from fedge.identity import Envelope
from fedge.profiles.wire import encode_report
from fedge.records import AuditBatch, GapRecord
from fedge_client.agent.sender import Sender
from fedge_client.agent.spool import KEPT_RUNS, disk_bytes
from fedge_server.database import Database
from fedge_server.facts import Facts
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest

REPORT_BYTES = len(encode_report(report(0, 4, 1.0)))


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(tmp_path)
    yield made
    made.close()


def drain(outbox: Outbox, post: Any) -> None:
    sender = Sender(outbox.spool, post, outbox.standing, interval_s=0.01, jitter=lambda: 0.0)
    while outbox.spool.depth:
        sender.push()
        if outbox.spool.depth:  # reports, whose charges had no room in the spool so far
            outbox.audit.hand_over()


class TestOrder:
    def test_importance_goes_before_age(self, outbox: Outbox) -> None:
        """Audit, then reports, then statuses; inside a kind the oldest first."""
        outbox.status()
        outbox.put_report(0)
        outbox.put_report(1)
        outbox.audit.hand_over()
        post = Post()

        drain(outbox, post)

        assert post.kinds == ["audit", "report", "report", "status"]
        assert [e.header.seq for e in post.sent] == [3, 1, 2, 0]

    def test_nothing_starves(self, outbox: Outbox) -> None:
        """Each look at what waits shows the oldest of each kind, however much is before it."""
        outbox.status()
        for window in range(40):
            outbox.put_report(window)

        shown = outbox.spool.waiting(10, cleared=0)

        assert len(shown) <= 10
        assert [item.kind for item in shown] == ["report"] * (len(shown) - 1) + ["status"]

    def test_a_key_is_used_once(self, outbox: Outbox) -> None:
        """Whoever puts the same thing again gets the stored bytes."""
        first = outbox.spool.put("report", b"one", key="report/0", channel="push")

        assert outbox.spool.put("report", b"two", key="report/0", channel="push") == first
        assert outbox.spool.depth == 1

    def test_an_outage_leaves_one_status(self, outbox: Outbox) -> None:
        """Statuses are snapshots: while one waits, no other is added."""
        for _ in range(50):
            outbox.status()
        assert outbox.spool.depth == 1


class TestQuota:
    def test_the_least_important_oldest_goes_first(self, tmp_path: Path) -> None:
        """Statuses before reports, old reports before new ones, audits last of all."""
        outbox = Outbox(tmp_path, max_bytes=2**16)
        outbox.audit.hand_over()
        outbox.status()
        window = 0
        while outbox.spool.dropped < 6:
            outbox.put_report(window)
            window += 1

        kinds = [e.header.kind for e in outbox.waiting()]
        assert "status" not in kinds and kinds.count("audit") == 1
        (lost_reports,) = [gap for gap in outbox.gaps() if gap.kind == "report"]
        assert (lost_reports.first_seq, lost_reports.last_seq, lost_reports.count) == (2, 6, 5)
        outbox.close()

    def test_everything_counts(self, outbox: Outbox) -> None:
        """What waits, what was refused, replies: the sum is what the file holds, at most."""
        for window in range(200):
            outbox.put_report(window, features=64)
        outbox.status()
        for part in range(5):
            outbox.spool.put("update", bytes(3000), key=f"run/train/{part}", channel="reply")
        outbox.spool.quarantine(3, "malformed")
        outbox.state.checkpoint()
        (pages,), (free,) = (
            outbox.state.rows("PRAGMA page_count")[0],
            outbox.state.rows("PRAGMA freelist_count")[0],
        )

        # The ledger's tables and the schema lie in the same file: some forty pages.
        assert (pages - free) * 4096 <= outbox.spool.bytes_kept + 40 * 4096
        assert outbox.spool.bytes_kept < 1.3 * (pages - free) * 4096

    def test_what_leaves_makes_room(self, tmp_path: Path) -> None:
        """After everything was acknowledged nothing counts, and the figure survives a start."""
        outbox = Outbox(tmp_path)
        for window in range(20):
            outbox.put_report(window)
        kept = outbox.spool.bytes_kept
        outbox.close()
        outbox.open()
        assert outbox.spool.bytes_kept == kept > 20 * REPORT_BYTES

        drain(outbox, Post())

        assert outbox.spool.bytes_kept == 0
        outbox.close()

    def test_what_was_set_aside_goes_before_what_waits(self, tmp_path: Path) -> None:
        """An envelope that nobody will take is the first to make room, and is counted, too."""
        outbox = Outbox(tmp_path, max_bytes=2**16)
        for window in range(4):
            outbox.put_report(window)
        for seq in (1, 3):
            outbox.spool.quarantine(seq, "malformed")
        window = 4
        while not outbox.spool.dropped:
            outbox.put_report(window)
            window += 1

        assert outbox.spool.refused == 0
        assert next(e.header.seq for e in outbox.waiting() if e.header.kind == "report") == 0
        assert (outbox.gaps()[0].first_seq, outbox.gaps()[0].last_seq) == (1, 3)
        assert outbox.gaps()[0].count == outbox.spool.dropped == 2
        outbox.close()

    def test_one_that_fits_nowhere_pushes_out_no_other(self, tmp_path: Path) -> None:
        """A single huge envelope is given up by itself, and counted."""
        outbox = Outbox(tmp_path, max_bytes=2**16)
        for window in range(3):
            outbox.put_report(window)
        outbox.spool.put("report", bytes(2**17), key="huge", channel="push")

        assert [e.header.kind for e in outbox.waiting()] == ["gap", "report", "report", "report"]
        assert outbox.gaps()[0].first_seq == outbox.gaps()[0].last_seq == 3
        outbox.close()

    def test_replies_of_the_last_runs_stay(self, outbox: Outbox) -> None:
        """A round that is asked again gets its bytes; replies of old runs are pruned."""
        sealed = {}
        for run in range(KEPT_RUNS + 2):
            for part in ("train/0", "train/1", "evaluate/0"):
                key = f"run-{run}/{part}"
                sealed[key] = outbox.spool.put("update", key.encode(), key=key, channel="reply")

        for key, envelope in sealed.items():
            run = int(key.partition("/")[0][4:])
            kept = outbox.spool.stored(key)
            assert kept == (envelope if run >= 2 else None)


class TestGaps:
    def test_one_record_for_a_run_of_evictions(self, tmp_path: Path) -> None:
        """However many go, one waiting record counts them, with first and last."""
        outbox = Outbox(tmp_path, max_bytes=2**16)
        for window in range(300):
            outbox.now += 3600
            outbox.put_report(window)

        (gap,) = outbox.gaps()
        assert gap.count == outbox.spool.dropped > 200
        assert gap.first_seq == 0
        assert gap.last_at - gap.first_at == 3600 * (gap.count - 1)
        assert outbox.spool.gaps == 1
        outbox.close()

    def test_a_record_that_may_have_been_sent_is_never_changed(self, tmp_path: Path) -> None:
        """Once handed out, its bytes stay; what is lost after that begins another record."""
        outbox = Outbox(tmp_path, max_bytes=2**16)
        post = Post(lose_ack=lambda _: True)
        window = 0
        for _ in range(4):
            for _ in range(60):
                outbox.put_report(window)
                window += 1
            Sender(outbox.spool, post, outbox.standing, interval_s=1).push()
        # Two and not four: the second record waits for the first and grows meanwhile.
        first, second = outbox.gaps()
        assert (first.count, first.count + second.count) == (
            GapRecord.from_bytes(post.sent[0].payload).count,
            outbox.spool.dropped,
        )
        assert {e.header.seq for e in post.sent} == {post.sent[0].header.seq}

        post.lose_ack = lambda _: False
        drain(outbox, post)
        assert outbox.spool.gaps == 0
        outbox.close()

    def test_gap_records_account_for_exactly_what_is_missing(self, tmp_path: Path) -> None:
        """A month offline with a small quota: arrived plus given up is all there ever was."""
        outbox = Outbox(tmp_path, max_bytes=2**17)
        for window in range(720):
            outbox.now += 3600
            outbox.report(window)
            if window % 24 == 0:
                outbox.status()
            outbox.audit.hand_over()
        post = Post()
        drain(outbox, post)
        while outbox.audit.hand_over():
            drain(outbox, post)

        (numbers,) = outbox.state.rows("SELECT value FROM spool_counters WHERE name = 'next_push'")[
            0
        ]
        missing = set(range(numbers)) - set(post.taken)
        gaps = [GapRecord.from_bytes(e.payload) for e in post.sent if e.header.kind == "gap"]
        assert sum(gap.count for gap in gaps) == len(missing) == outbox.spool.dropped > 300
        assert all(any(g.first_seq <= seq <= g.last_seq for g in gaps) for seq in missing)
        # No ledger entry is among them: what does not fit waits in the ledger itself.
        assert {gap.kind for gap in gaps} <= {"report", "status"}
        assert _audited(post) == outbox.ledger.entries()
        outbox.close()

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.sampled_from(["report", "status", "audit"]), st.integers(1, 3000)),
                st.tuples(st.just("push"), st.sampled_from([None, 200, 200, 400, 503])),
                st.tuples(st.just("lost"), st.integers(0, 3)),
                st.tuples(st.just("again"), st.just(0)),
            ),
            max_size=60,
        )
    )
    @settings(max_examples=40, deadline=None)
    def test_no_number_is_ever_unaccounted(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
    ) -> None:
        """Whatever happens in whatever order: each number arrived, waits, is set aside, or is
        in exactly one gap record; and no number is sent with two contents.
        """
        outbox = Outbox(tmp_path_factory.mktemp("model"), max_bytes=2**14)
        post, refused = Post(), set[int]()
        for what, value in steps:
            if what == "again":
                outbox.close()
                outbox.open()
            elif what in ("push", "lost"):
                post.answer = value if what == "push" else 200
                post.lose_ack = lambda seq, v=value, w=what: w == "lost" and seq % 4 == v  # type: ignore[misc]
                Sender(outbox.spool, post, outbox.standing, interval_s=1).push()
                if post.answer == 400:
                    refused |= {e.header.seq for e in post.sent} - set(post.taken)
            else:
                batch = AuditBatch(10**6, (b"0" * (value + 1),)).to_bytes()
                payload = batch if what == "audit" else bytes(value)
                outbox.spool.put(what, payload, channel="push")
        numbers = outbox.state.rows("SELECT value FROM spool_counters WHERE name = 'next_push'")
        kept = {seq for (seq,) in outbox.state.rows("SELECT seq FROM spool")}
        arrived = [e for seq, d in post.taken.items() if (e := Envelope.from_bytes(d))]
        records = outbox.gaps() + [
            GapRecord.from_bytes(e.payload)
            for e in arrived
            if e.header.kind == "gap" and e.header.seq not in kept
        ]
        counted = sum(gap.count for gap in records)
        assert outbox.spool.dropped == counted
        total = numbers[0][0] if numbers else 0
        gone = set(range(total)) - kept
        # Of what is no longer here each was acknowledged or given up; one whose acknowledgement
        # got lost may be both.
        assert counted <= len(gone) <= counted + len(set(post.taken) - kept)
        assert all(
            seq in post.taken or any(g.first_seq <= seq <= g.last_seq for g in records)
            for seq in gone
        )
        limit = outbox.max_bytes + 6 * disk_bytes(600)
        assert outbox.spool.bytes_kept <= limit
        outbox.close()


def _audited(post: Post) -> tuple[bytes, ...]:
    lines = [
        line
        for envelope in sorted(post.sent, key=lambda e: e.header.seq)
        if envelope.header.kind == "audit"
        for line in envelope.payload.split(b"\n")[1:]
    ]
    return tuple(lines)


class TestMonthOffline:
    @pytest.mark.parametrize(
        ("features", "limit_mib"), [pytest.param(14, 8, marks=pytest.mark.slow), (64, 16)]
    )
    def test_a_month_of_reports_fits_and_arrives_once(
        self, tmp_path: Path, features: int, limit_mib: int
    ) -> None:
        """720 hourly reports with their ledger entries and statuses: nothing is dropped, and a
        real coordinator stores each once, though every 50th acknowledgement gets lost.
        """
        outbox = Outbox(tmp_path, max_bytes=64 * 2**20)
        nobody = Sender(
            outbox.spool, Post(answer=None), outbox.standing, interval_s=5, jitter=lambda: 1.0
        )
        outbox.state.rows("PRAGMA synchronous=OFF")  # what the disk does is not what is tested
        for window in range(720):
            outbox.now += 3600
            outbox.report(window, features)
            if window % 24 == 0:
                outbox.status()
            outbox.audit.hand_over()
            nobody.push()
        assert outbox.spool.dropped == 0 and outbox.spool.gaps == 0
        assert outbox.spool.bytes_kept < limit_mib * 2**20

        with Database(f"sqlite:///{tmp_path / 'centre.sqlite'}") as database:
            Fleet(database, lambda: outbox.now).admit(IDENTITY.public_key.hex(), "one")
            door = Door(
                Ingest(
                    database, lambda: outbox.now, WITNESS, max_payload_bytes=2**22, simulated=True
                ),
                database,
                WITNESS,
            )
            post = Lossy(door)
            while outbox.audit.hand_over() or outbox.spool.depth:
                Sender(outbox.spool, post, outbox.standing, interval_s=5).push()
            (state,) = Fleet(database, lambda: outbox.now).state().gateways
            facts = Facts(database, lambda: outbox.now)
            reports = facts.reports()[IDENTITY.fingerprint]
            assert [r.window for r in reports] == list(range(720))
            assert (state.missing, state.given_up) == (0, 0)
            entries = outbox.ledger.entries()
            assert facts.ledger_entries(IDENTITY.fingerprint) == entries
            assert state.audit_seq == len(entries) - 1
            assert post.sent == state.envelopes + post.lost
        outbox.close()


class Lossy:
    """A coordinator behind a line that loses each 50th acknowledgement once."""

    def __init__(self, door: Any) -> None:
        self._door, self.sent, self.lost = door, 0, 0

    def __call__(self, envelope: bytes) -> int:
        from fedge.errors import OutboundError

        status = self._door(envelope)
        assert status == 200
        self.sent += 1
        if self.sent % 50 == 0:
            self.lost += 1
            raise OutboundError("the answer was lost")
        return int(status)

    def get(self, path: str, max_bytes: int) -> tuple[int, bytes]:
        answer: tuple[int, bytes] = self._door.get(path, max_bytes)
        return answer


class TestCorruption:
    @pytest.mark.parametrize(
        "damage",
        [
            "UPDATE spool SET envelope = x'00' WHERE seq = 1",
            "UPDATE spool SET envelope = 'text' WHERE seq = 1",
            "UPDATE spool SET envelope = '' WHERE seq = 1",
            "UPDATE spool SET envelope = substr(envelope, 1, 300) WHERE seq = 1",
            "UPDATE spool SET envelope = (SELECT envelope FROM spool WHERE seq = 2) WHERE seq = 1",
            "UPDATE spool SET kind = 'status', priority = 0 WHERE seq = 1",
        ],
        ids=["noise", "text", "empty", "cut", "another", "kind"],
    )
    def test_a_damaged_entry_is_set_aside_and_skipped(self, outbox: Outbox, damage: str) -> None:
        """It is counted and never sent; the others are not held up, nor is the next start."""
        for window in range(3):
            outbox.put_report(window)
        with outbox.state.transaction() as db:
            db.execute(damage)
        outbox.close()
        outbox.open()
        post = Post()

        drain(outbox, post)

        assert [e.header.seq for e in post.sent] == [0, 2]
        assert (outbox.spool.corrupt, outbox.spool.depth, outbox.spool.refused) == (1, 0, 0)

    def test_a_flipped_bit_anywhere_is_seen(self, outbox: Outbox) -> None:
        """The signature covers every byte that is sent."""
        outbox.put_report(0)
        (item,) = outbox.spool.waiting(cleared=10**6)
        for place in range(0, len(item.envelope), 97):
            data = bytearray(item.envelope)
            data[place] ^= 1
            assert outbox.spool._rows.fault(0, "report", bytes(data)), place

    def test_a_damaged_gap_record_does_not_stop_the_next(self, tmp_path: Path) -> None:
        """Later evictions are still counted, in a record of their own."""
        outbox = Outbox(tmp_path, max_bytes=2**14)
        for window in range(30):
            outbox.put_report(window)
        with outbox.state.transaction() as db:
            db.execute("UPDATE spool SET envelope = x'00' WHERE kind = 'gap'")
        dropped = outbox.spool.dropped
        for window in range(30, 50):
            outbox.put_report(window)
        post = Post()
        drain(outbox, post)

        (gap,) = [GapRecord.from_bytes(e.payload) for e in post.sent if e.header.kind == "gap"]
        assert gap.count == outbox.spool.dropped - dropped
        assert outbox.spool.corrupt == 1
        outbox.close()


OLD_SCHEMA = (
    "CREATE TABLE spool (channel TEXT NOT NULL, seq INTEGER NOT NULL,"
    " kind TEXT NOT NULL, key TEXT UNIQUE, state TEXT NOT NULL, created REAL NOT NULL,"
    " envelope BLOB NOT NULL, detail TEXT NOT NULL DEFAULT '', PRIMARY KEY (channel, seq))",
    "CREATE TABLE spool_counters (name TEXT PRIMARY KEY, value INTEGER)",
)


def test_a_file_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    """Every waiting envelope keeps its number and bytes; replies, counters and order are right."""
    old = sqlite3.connect(tmp_path / "state.sqlite")
    for statement in OLD_SCHEMA:
        old.execute(statement)
    sealed = []
    for seq, kind in enumerate(["status", "report", "report"]):
        payload = status().to_bytes() if kind == "status" else encode_report(report(seq, 4, 1.0))
        sealed.append(
            Envelope.seal(IDENTITY, kind, seq, payload, simulated=True).to_bytes()  # type: ignore[arg-type]
        )
        state = "refused" if seq == 2 else "waiting"
        row = ("push", seq, kind, f"k/{seq}", state, 5.0, sealed[-1], "")
        old.execute("INSERT INTO spool VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    row = ("reply", 0, "update", "run-1/train/0", "waiting", 5.0, b"reply", "")
    old.execute("INSERT INTO spool VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    old.execute("INSERT INTO spool_counters VALUES ('next_push', 3), ('next_reply', 1)")
    old.execute("INSERT INTO spool_counters VALUES ('dropped', 4)")
    old.commit()
    old.close()

    outbox = Outbox(tmp_path)
    for _ in range(2):  # once taken over, it opens like any other
        spool = outbox.spool
        assert [item.envelope for item in spool.waiting(cleared=10**6)] == [sealed[1], sealed[0]]
        assert (spool.refused, spool.dropped, spool.stored("run-1/train/0")) == (1, 4, b"reply")
        assert spool.bytes_kept == sum(disk_bytes(len(e)) for e in [*sealed, b"reply"])
        outbox.close()
        outbox.open()
    outbox.put_report(9)
    assert [item.seq for item in outbox.spool.waiting(cleared=10**6)] == [1, 3, 0]
    outbox.close()


KILL_BYTES = 28_000
"""Room for twelve small reports and little more."""

KINDS_OF_ENTRIES = "SELECT json_extract(body, '$.kind') FROM ledger_entries"


class Watched:
    """A connection on which one may die before each statement that writes."""

    def __init__(self, db: sqlite3.Connection, points: KillPoints) -> None:
        self._db, self._points = db, points

    def execute(self, statement: str, *values: Any) -> Any:
        if not statement.startswith(("SELECT", "PRAGMA")):
            self._points.moment()
        return self._db.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.soak)])
def test_a_kill_at_any_write_loses_nothing_and_charges_once(tmp_path: Path, stride: int) -> None:
    """Windows, statuses, evictions, gap records, sending: after a kill at any statement every
    number is whole and accounted for, the ledger's chain holds, and each window that was closed
    is charged; done again, all windows are there once, but for one that was noised and not stored
    at the kill: the ledger says so.
    """
    start = tmp_path / "start"
    start.mkdir()
    outbox = Outbox(start, max_bytes=KILL_BYTES)
    for window in range(12):
        outbox.report(window)
    assert outbox.spool.dropped == 0
    outbox.state.checkpoint()
    outbox.close()
    windows = range(12, 14)

    def work(folder: Path, points: KillPoints | None) -> Post:
        outbox = Outbox(folder, max_bytes=KILL_BYTES)
        if points is not None:
            outbox.state._db = Watched(outbox.state._db, points)  # type: ignore[assignment]
        post = Post(answer=None)
        for window in windows:
            if outbox.ledger.settled(_reservation(outbox, window), "features") is None:
                with suppress(DrawLostError):  # by the kill
                    outbox.report(window)
            outbox.audit.hand_over()
        outbox.status()
        Sender(outbox.spool, post, outbox.standing, interval_s=1).push()
        post.answer, post.special = 200, {2: 400}
        Sender(outbox.spool, post, outbox.standing, interval_s=1).push()
        while outbox.spool.depth:  # what the coordinator does not have of the ledger goes again
            outbox.audit.resend_from(outbox.standing.stored)
            outbox.audit.hand_over()
            Sender(outbox.spool, post, outbox.standing, interval_s=1).push()
        outbox.close()
        return post

    def _reservation(outbox: Outbox, window: int) -> Any:
        outbox.ledger.open_block(window // 24)
        return outbox.ledger.reserve_window(window, window // 24, (EVENT,))

    died, moment = True, 0
    while died:
        folder = tmp_path / str(moment)
        folder.mkdir()
        shutil.copy(start / "state.sqlite", folder / "state.sqlite")
        died = killed(lambda points, folder=folder: work(folder, points) and None, moment)  # type: ignore[misc]
        check = Outbox(folder, max_bytes=KILL_BYTES)
        check.ledger.check_chain()
        for item in check.spool.waiting(10**6, cleared=10**6):
            assert check.spool._rows.fault(item.seq, item.kind, item.envelope) == ""
        settled = len(check.ledger.entries())
        check.close()

        work(folder, None)

        after = Outbox(folder, max_bytes=KILL_BYTES)
        after.ledger.check_chain()
        assert len(after.ledger.entries()) >= settled
        totals = after.ledger.spendings()
        assert len(totals) == 1
        kinds = [kind for (kind,) in after.state.rows(KINDS_OF_ENTRIES)]
        assert kinds.count("settled") + kinds.count("lost") == kinds.count("window") == 14
        assert kinds.count("lost") <= died
        assert after.spool.depth == 0 and after.spool.dropped > 0
        gaps = after.state.rows("SELECT COUNT(*) FROM spool WHERE kind = 'gap'")
        assert gaps == [(0,)]
        after.close()
        shutil.rmtree(folder)
        moment += stride


def test_a_full_disk_costs_only_what_is_counted(outbox: Outbox) -> None:
    """While the disk is full a window cannot be made final: nothing half is kept, the charge
    stands, and when there is room again the same window is charged no second time.
    """
    outbox.report(0)
    spent = outbox.ledger.spending(0).telemetry_nano
    ((pages,),) = outbox.state.rows("PRAGMA page_count")
    outbox.state.rows(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StateError, match="full"):
        for window in range(1, 50):
            outbox.report(window, features=64)
    refused = outbox.spool.depth
    before = outbox.ledger.entries()
    with pytest.raises(FedgeError):
        outbox.report(refused, features=64)
    outbox.ledger.check_chain()
    assert len(outbox.spool.waiting(100, cleared=10**6)) == refused

    outbox.state.rows("PRAGMA max_page_count = 100000")
    outbox.report(refused, features=64)
    outbox.report(refused + 1, features=64)

    assert outbox.ledger.entries()[: len(before)] == before
    outbox.ledger.check_chain()
    assert outbox.spool.depth == refused + 2 and outbox.spool.dropped == 0
    assert outbox.ledger.spending(0).telemetry_nano == spent
