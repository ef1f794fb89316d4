"""What the coordinator promises about the envelopes that gateways push."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.centre import WITNESS, Centre, FakeClock, Sender, report, server_settings, status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, select

from fedge.errors import EnvelopeError, StateError
from fedge.identity import MAGIC, Envelope
from fedge.privacy.entries import FIRST_HASH, Created, Opened
from fedge.privacy.policy import new_policy
from fedge.profiles.wire import encode_report
from fedge.records import AuditBatch, BlockLength, GapRecord
from fedge_server.database import Database
from fedge_server.fleet import Fleet
from fedge_server.ingest import Ingest
from fedge_server.tables import envelopes

SAME_CENTRE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)
NEW_CENTRE = settings(deadline=None, max_examples=15)


def stored(centre: Centre) -> int:
    with centre.database.reading() as connection:
        return connection.execute(select(func.count()).select_from(envelopes)).scalar_one()


class TestTaking:
    def test_a_report_comes_back_as_it_was_sent(self, centre: Centre) -> None:
        """What a gateway signed is what the flows read."""
        sender = centre.admitted()

        assert centre.post(sender.report(0))[0] == 200
        assert centre.facts.reports() == {sender.fingerprint: (report(0),)}

    def test_the_same_envelope_again_gets_the_same_answer_and_is_stored_once(
        self, centre: Centre
    ) -> None:
        """A retry of the spool changes nothing and looks like the first time."""
        data = centre.admitted().report(0)

        answers = [centre.post(data) for _ in range(3)]

        assert answers[0][0] == 200
        assert answers[1] == answers[2] == answers[0]
        assert stored(centre) == 1

    def test_the_same_envelope_written_otherwise_is_the_same(self, centre: Centre) -> None:
        """Blanks in the header are not signed, so they do not make another envelope."""
        sender = centre.admitted()
        plain = sender.status(0)
        envelope = Envelope.from_bytes(plain)
        header = json.dumps(json.loads(envelope.header.to_bytes()), indent=3).encode()
        spaced = (
            MAGIC + len(header).to_bytes(2, "big") + header + envelope.signature + envelope.payload
        )

        assert centre.post(spaced) == centre.post(plain)
        assert stored(centre) == 1
        with centre.database.reading() as connection:
            assert connection.execute(select(envelopes.c.envelope)).scalar_one() == plain

    def test_another_payload_under_a_stored_number_is_a_conflict(self, centre: Centre) -> None:
        """The first payload of a number stays; no retry changes that."""
        sender = centre.admitted()
        centre.post(sender.report(0))

        code, body = centre.post(sender.report(0, window=5))

        assert code == 409
        assert "number 0" in body["error"]
        assert centre.facts.reports() == {sender.fingerprint: (report(0),)}

    def test_another_kind_under_a_stored_number_is_a_conflict(self, centre: Centre) -> None:
        """A number belongs to one envelope, not to one envelope of each kind."""
        sender = centre.admitted()
        centre.post(sender.report(0))

        assert centre.post(sender.status(0))[0] == 409

    def test_a_window_is_reported_once(self, centre: Centre) -> None:
        """A second report of a window under another number would count its records twice."""
        sender = centre.admitted()
        centre.post(sender.report(0, window=3))

        code, body = centre.post(sender.report(1, window=3, slots=100))

        assert code == 409
        assert "window 3" in body["error"]
        assert centre.facts.reports() == {sender.fingerprint: (report(3),)}

    def test_gateways_number_for_themselves(self, centre: Centre) -> None:
        """Two gateways may use the same numbers and windows."""
        one, two = centre.admitted(1), centre.admitted(2)

        assert [centre.post(s.report(0))[0] for s in (one, two)] == [200, 200]
        assert set(centre.facts.reports()) == {one.fingerprint, two.fingerprint}

    @given(order=st.permutations(range(6)))
    @NEW_CENTRE
    def test_order_of_arrival_does_not_matter(
        self, tmp_path_factory: pytest.TempPathFactory, order: list[int]
    ) -> None:
        """Whatever the order, reports are read in window order and no gap is left."""
        folder = tmp_path_factory.mktemp("order")
        with Database(server_settings(folder).database) as database:
            centre = Centre(server_settings(folder), database, FakeClock())
            sender = centre.admitted()
            for seq in order:
                assert centre.post(sender.report(seq))[0] == 200

            reports = centre.facts.reports(sender.fingerprint)[sender.fingerprint]
            assert [r.window for r in reports] == list(range(6))
            assert centre.fleet.state().gateways[0].missing == 0

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
    @NEW_CENTRE
    def test_the_log_is_a_function_of_first_arrivals(
        self, tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[int, int]]
    ) -> None:
        """Each number and each window is stored at most once, for whoever came first."""
        folder = tmp_path_factory.mktemp("model")
        with Database(server_settings(folder).database) as database:
            clock = FakeClock()
            ingest = Ingest(database, clock, WITNESS, max_payload_bytes=20_000)
            sender = Sender()
            Fleet(database, clock).admit(sender.public_key, "one")
            model: dict[int, int] = {}
            for seq, window in sent:
                taken = model.get(seq) == window or (
                    seq not in model and window not in model.values()
                )
                if taken:
                    model[seq] = window
                    assert ingest.accept(sender.report(seq, window)).seq == seq
                else:
                    with pytest.raises(EnvelopeError):
                        ingest.accept(sender.report(seq, window))
            with database.reading() as connection:
                rows = connection.execute(select(envelopes.c.seq, envelopes.c.report_window))
                assert {row.seq: row.report_window for row in rows} == model


class TestRefusing:
    def test_a_key_that_is_not_admitted(self, centre: Centre) -> None:
        """Who was not admitted leaves no trace, and the answer says what to do."""
        code, body = centre.post(Sender(9).report(0))

        assert code == 401
        assert "fedge server admit" in body["error"]
        assert stored(centre) == 0

    def test_a_key_counts_from_the_moment_it_is_admitted(self, centre: Centre) -> None:
        """The refused envelope may be sent again after `admit`."""
        sender = Sender(9)
        assert centre.post(sender.report(0))[0] == 401

        centre.fleet.admit(sender.public_key, "late")

        assert centre.post(sender.report(0))[0] == 200

    def test_a_signature_by_another_admitted_key(self, centre: Centre) -> None:
        """A gateway cannot speak for another one."""
        victim, liar = centre.admitted(1), centre.admitted(2)
        honest = Envelope.from_bytes(victim.report(0))
        signature = liar.identity.sign(MAGIC + honest.header.to_bytes())

        forged = Envelope(honest.header, honest.payload, signature).to_bytes()

        assert centre.post(forged)[0] == 403
        assert stored(centre) == 0

    def test_a_payload_that_was_swapped(self, centre: Centre) -> None:
        """The signature covers the payload."""
        sender = centre.admitted()
        honest = Envelope.from_bytes(sender.report(0))

        swapped = Envelope(honest.header, encode_report(report(7)), honest.signature).to_bytes()

        assert centre.post(swapped)[0] == 403
        assert stored(centre) == 0

    @pytest.mark.parametrize("kind", ["update", "counts"])
    def test_kinds_that_answer_a_round(self, centre: Centre, kind: str) -> None:
        """Updates come through Flower; pushed here they are refused for good."""
        data = centre.admitted().seal(kind, 0, b"{}")  # type: ignore[arg-type]

        assert centre.post(data)[0] == 400
        assert stored(centre) == 0

    def test_simulated_envelopes(self, centre: Centre) -> None:
        """A simulation's numbers never mix with real ones."""
        sender = centre.admitted()
        data = sender.seal("status", 0, status().to_bytes(), simulated=True)

        code, body = centre.post(data)

        assert code == 400
        assert "simulated" in body["error"]
        assert stored(centre) == 0

    def test_real_envelopes_in_a_simulation(self, centre: Centre) -> None:
        """Nor the other way round."""
        sender = centre.admitted()
        simulated = Ingest(
            centre.database, centre.clock, WITNESS, max_payload_bytes=20_000, simulated=True
        )

        with pytest.raises(EnvelopeError, match="simulated"):
            simulated.accept(sender.report(0))
        data = sender.seal("report", 0, encode_report(report(0)), simulated=True)
        assert simulated.accept(data).seq == 0

    @pytest.mark.parametrize(
        ("kind", "payload"),
        [
            ("report", b""),
            ("report", status().to_bytes()),
            ("report", encode_report(report(0))[:-9]),
            ("status", b""),
            ("status", encode_report(report(0))),
            ("status", status().to_bytes().replace(b'"next_slot":400', b'"next_slot":-1')),
            ("status", status().to_bytes().replace(b'"next_slot":400', b'"extra":1')),
            ("status", status().to_bytes().replace(b"1234.5", b"NaN")),
        ],
    )
    def test_a_signed_payload_that_is_not_of_its_kind(
        self, centre: Centre, kind: str, payload: bytes
    ) -> None:
        """An admitted sender's bytes are as untrusted as any."""
        code, body = centre.post(centre.admitted().seal(kind, 0, payload))  # type: ignore[arg-type]

        assert code == 400
        assert body["error"]
        assert stored(centre) == 0

    @pytest.mark.parametrize("streamed", [False, True])
    def test_too_many_bytes(self, centre: Centre, streamed: bool) -> None:
        """The limit holds with and without a declared length."""
        limit = Ingest(centre.database, centre.clock, WITNESS, max_payload_bytes=20_000).max_bytes
        data = b"x" * (limit + 1)
        chunks = (data[i : i + 4096] for i in range(0, len(data), 4096))

        answer = centre.client.post("/v1/envelopes", content=chunks if streamed else data)

        assert answer.status_code == 413
        assert str(limit) in answer.json()["error"]

    def test_the_largest_allowed_size_is_read(self, centre: Centre) -> None:
        """At the limit it is the form that is judged, not the size."""
        limit = Ingest(centre.database, centre.clock, WITNESS, max_payload_bytes=20_000).max_bytes

        assert centre.post(b"x" * limit)[0] == 400

    def test_a_database_that_is_away_asks_to_come_back(
        self, centre: Centre, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A 5xx is the only answer to our own trouble: the gateway keeps the envelope."""
        data = centre.admitted().report(0)

        def full() -> None:
            raise StateError("the database cannot be used: disk full")

        monkeypatch.setattr(centre.database, "writing", full)

        assert centre.post(data) == (503, {"error": "the database cannot be used: disk full"})


def ledger(*, entries: int = 6, at: float = 5.0, simulated: bool = False) -> list[bytes]:
    """A chain as a gateway's ledger writes it: one beginning, then blocks that open."""
    policy = new_policy(
        epsilon=3.0, delta=1e-5, block=BlockLength(kind="windows", value=24), telemetry_rho=0.0281
    )
    chain: list[bytes] = []
    previous = FIRST_HASH
    for seq in range(entries):
        entry: Created | Opened = (
            Created(seq=0, previous=previous, at=at, simulated=simulated)
            if seq == 0
            else Opened(
                seq=seq, previous=previous, at=at, simulated=simulated, block=seq, policy=policy
            )
        )
        chain.append(entry.to_bytes())
        previous = entry.hash
    return chain


def audit(sender: Sender, seq: int, first: int, entries: list[bytes]) -> bytes:
    return sender.seal("audit", seq, AuditBatch(first, tuple(entries)).to_bytes())


class TestAudits:
    CHAIN = ledger()
    OTHER = ledger(at=6.0)

    def test_entries_come_back_byte_for_byte(self, centre: Centre) -> None:
        """In their order, whatever order the batches arrived in, so that they replay."""
        sender = centre.admitted()

        assert centre.post(audit(sender, 1, 4, self.CHAIN[4:]))[0] == 200
        assert centre.post(audit(sender, 0, 0, self.CHAIN[:4]))[0] == 200

        assert list(centre.facts.ledger_entries(sender.fingerprint)) == self.CHAIN
        (state,) = centre.fleet.state().gateways
        assert (state.audit_seq, state.missing) == (5, 0)

    def test_entries_that_are_there_may_come_again(self, centre: Centre) -> None:
        """A gateway that forgot what it sent sends the same bytes under other numbers."""
        sender = centre.admitted()
        centre.post(audit(sender, 0, 0, self.CHAIN[:4]))

        assert centre.post(audit(sender, 1, 2, self.CHAIN[2:]))[0] == 200
        assert list(centre.facts.ledger_entries(sender.fingerprint)) == self.CHAIN

    @pytest.mark.parametrize(("first", "last"), [(0, 6), (0, 2), (2, 4), (3, 6), (4, 6)])
    def test_another_ledger_is_a_conflict(self, centre: Centre, first: int, last: int) -> None:
        """Overlapping or touching: entries that cannot be of the stored ledger are refused."""
        sender = centre.admitted()
        centre.post(audit(sender, 0, 2, self.CHAIN[2:4]))

        code, body = centre.post(audit(sender, 1, first, self.OTHER[first:last]))

        assert code == 409
        assert "another ledger" in body["error"]
        assert list(centre.facts.ledger_entries(sender.fingerprint)) == self.CHAIN[2:4]

    def test_ledgers_of_two_gateways_are_their_own(self, centre: Centre) -> None:
        """Entry 0 of one says nothing about entry 0 of another."""
        one, two = centre.admitted(1), centre.admitted(2)
        assert centre.post(audit(one, 0, 0, self.CHAIN))[0] == 200
        assert centre.post(audit(two, 0, 0, self.OTHER))[0] == 200

    @pytest.mark.parametrize(
        "entries",
        [
            (0, [b""]),
            (0, [b"{}"]),
            (1, CHAIN[:2]),
            (0, [CHAIN[0], CHAIN[2]]),
            (0, [CHAIN[0], OTHER[1]]),
            (0, [CHAIN[0] + b" "]),
            (0, [CHAIN[0].replace(b'"seq":0', b'"seq": 0')]),
            (0, ledger(simulated=True)[:1]),
            (0, [CHAIN[1].replace(b'"seq":1', b'"seq":0')]),
            (1, [CHAIN[0].replace(b'"seq":0', b'"seq":1')]),
        ],
        ids=[
            *("empty", "no-entry", "shifted", "skipped", "unchained", "blank", "spaced"),
            *("simulated", "no-beginning", "second-beginning"),
        ],
    )
    def test_what_is_no_piece_of_a_chain_is_malformed(
        self, centre: Centre, entries: tuple[int, list[bytes]]
    ) -> None:
        """Each entry parses, is canonical, and follows from the one before it."""
        code, body = centre.post(audit(centre.admitted(), 0, *entries))

        assert code == 400
        assert body["error"]
        assert stored(centre) == 0

    @given(st.data())
    @SAME_CENTRE
    def test_a_damaged_batch_is_malformed(self, centre: Centre, data: st.DataObject) -> None:
        """Whatever byte its sender changed before signing, the chain shows it."""
        sender = centre.admitted()
        payload = bytearray(AuditBatch(0, tuple(self.CHAIN[:3])).to_bytes())
        place = data.draw(st.integers(0, len(payload) - 1))
        payload[place] = data.draw(st.integers(0, 255))

        code, _ = centre.post(sender.seal("audit", 0, bytes(payload)))

        # 200 or 409: the last entry's own facts, or the head's blanks, which nothing else holds.
        assert code in (200, 400, 409)


class TestGaps:
    GAP = GapRecord(kind="report", count=3, first_seq=0, last_seq=4, first_at=1.0, last_at=2.0)

    def test_what_was_given_up_is_shown(self, centre: Centre) -> None:
        """Fleet state tells numbers that will never come from those that may."""
        sender = centre.admitted()
        centre.post(sender.seal("gap", 5, self.GAP.to_bytes()))
        centre.post(sender.seal("gap", 9, self.GAP.to_bytes().replace(b":3,", b":2,")))

        (state,) = centre.fleet.state().gateways
        assert (state.given_up, state.missing) == (5, 8)
        assert "8 numbers missing, 5 of them given up" in state.describe()
        detail = centre.fleet.detail(sender.fingerprint)
        assert detail is not None and detail.gap_records[0] == self.GAP
        assert len(detail.gap_records) == 2

    def test_absurd_counts_break_no_view(self, centre: Centre) -> None:
        """One gateway's lies add up to no number that a database or a record cannot hold."""
        sender, most = centre.admitted(), 2**53 - 1
        gap = GapRecord(
            kind="report", count=most, first_seq=0, last_seq=most, first_at=1.0, last_at=2.0
        )
        sealed = sender.seal("gap", 0, gap.to_bytes())
        centre.post(sealed)
        with centre.database.writing() as connection:
            (row,) = connection.execute(select(envelopes)).mappings()
            rows = [{**row, "number": n + 1, "seq": n} for n in range(1, 1100)]
            connection.execute(insert(envelopes), rows)

        (state,) = centre.fleet.state().gateways
        assert state.given_up == most

    @pytest.mark.parametrize(
        "payload", [b"", b"{}", GAP.to_bytes().replace(b'"count":3', b'"count":6')]
    )
    def test_what_is_no_gap_record(self, centre: Centre, payload: bytes) -> None:
        """It cannot count more numbers than lie between its ends."""
        assert centre.post(centre.admitted().seal("gap", 0, payload))[0] == 400


class TestHostileBytes:
    """Whatever arrives gets a 4xx, leaves nothing behind, and the next good one is taken."""

    @given(st.binary(max_size=600))
    @SAME_CENTRE
    def test_any_bytes(self, centre: Centre, data: bytes) -> None:
        """Noise is malformed."""
        assert centre.post(data)[0] == 400
        assert stored(centre) == 0

    @given(st.binary(max_size=300), st.binary(max_size=100))
    @SAME_CENTRE
    def test_any_header(self, centre: Centre, header: bytes, rest: bytes) -> None:
        """Noise behind the right magic and length is malformed."""
        data = MAGIC + len(header).to_bytes(2, "big") + header + bytes(64) + rest

        assert centre.post(data)[0] == 400

    @given(
        st.dictionaries(
            st.sampled_from(
                ["schema_version", "kind", "gateway", "seq", "payload_sha256", "simulated"]
            ),
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=40)
            | st.lists(st.integers(), max_size=3),
        )
    )
    @SAME_CENTRE
    def test_any_json_header(self, centre: Centre, changes: dict[str, object]) -> None:
        """A header of the right fields and wrong values is malformed or unknown."""
        honest = Envelope.from_bytes(centre.admitted().status(0))
        header = json.dumps(json.loads(honest.header.to_bytes()) | changes).encode()
        data = MAGIC + len(header).to_bytes(2, "big") + header + honest.signature + honest.payload

        code, _ = centre.post(data)

        assert code in (200, 400, 401, 403)
        assert code != 200 or Envelope.from_bytes(data).header == honest.header

    @given(st.data())
    @SAME_CENTRE
    def test_a_damaged_envelope(self, centre: Centre, data: st.DataObject) -> None:
        """Cut, or with bytes changed, an envelope is refused or, where nothing signed changed,
        taken as what it was.
        """
        whole = bytearray(centre.admitted().report(0))
        for _ in range(data.draw(st.integers(0, 3))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(whole)))

        code, _ = centre.post(bytes(whole[:cut]))

        assert code in (200, 400, 401, 403)
        assert code != 200 or centre.facts.reports() == {Sender().fingerprint: (report(0),)}

    @given(st.data())
    @SAME_CENTRE
    def test_a_signed_damaged_report(self, centre: Centre, data: st.DataObject) -> None:
        """Damage that its sender signed reaches the payload's parser, and no further."""
        sender = centre.admitted()
        payload = bytearray(encode_report(report(0)))
        for _ in range(data.draw(st.integers(1, 4))):
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))

        code, _ = centre.post(sender.seal("report", 0, bytes(payload)))

        # 409: the damage hit a count, which no parser can see, after another one was stored.
        assert code in (200, 400, 409)

    @given(st.binary(max_size=400))
    @SAME_CENTRE
    def test_any_signed_payload(self, centre: Centre, payload: bytes) -> None:
        """Signed noise is malformed, as any kind."""
        sender = centre.admitted()

        assert centre.post(sender.seal("report", 0, payload))[0] == 400
        assert centre.post(sender.seal("status", 0, payload))[0] == 400
        assert centre.post(sender.seal("audit", 0, payload))[0] == 400
        assert centre.post(sender.seal("gap", 0, payload))[0] == 400

    def test_nested_json(self, centre: Centre) -> None:
        """Deep nesting meets the parser's limit, not the stack's."""
        sender = centre.admitted()
        nested = b'{"release":' * 3000 + b"1" + b"}" * 3000

        assert centre.post(sender.seal("status", 0, nested[:19_000]))[0] == 400
        assert centre.post(sender.seal("status", 0, b"[" * 19_000))[0] == 400
        assert centre.post(sender.seal("status", 0, b"9" * 19_000))[0] == 400
        assert centre.post(sender.report(1))[0] == 200


def test_a_full_log_is_readable_after_reopening(tmp_path: Path) -> None:
    """What was taken is still there, byte for byte, when the file is opened again."""
    settings_ = server_settings(tmp_path)
    with Database(settings_.database) as database:
        centre = Centre(settings_, database, FakeClock())
        sender = centre.admitted()
        for seq in range(5):
            centre.post(sender.report(seq))
        before = centre.facts.reports()
    with Database(settings_.database) as database:
        assert Centre(settings_, database, FakeClock()).facts.reports() == before
