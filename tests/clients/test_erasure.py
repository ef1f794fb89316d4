"""Records' rights: what is erased is nowhere, what was withdrawn serves no more."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from fakes.kills import KillPoints, killed
from test_agent_training import ask, spec_for
from tests_clients import ALL_PURPOSES, TASK, WINDOW, Gateway
from typer.testing import CliRunner

from fedge.cli import erase as commands
from fedge.data.consent import WITHDRAWALS_FILE, Withdrawals
from fedge.data.subjects import SubjectKey
from fedge.errors import RecordError, SettingError, StateError
from fedge.identity import Envelope
from fedge.privacy.entries import Erased, read_entry
from fedge.profiles.wire import decode_report
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving.marks import NOBODY, Marks
from fedge.serving.record_ids import RecordId, id_prefix
from fedge.serving.ring_file import RowLayout
from fedge.serving.ring_opening import open_writer
from fedge.serving.ring_reader import RingReader
from fedge_client.admin_client import AdminClient, admin_socket
from fedge_client.agent.admin_port import AdminPort
from fedge_client.agent.agent import Agent

MakeGateway = Callable[..., Gateway]

CANARY = np.float32(5.3218765)
CANARY_LABEL = 0x5ECA11ED
PATIENT = "patient 17, Ward Ö"


def serve_canaries(gateway: Gateway, rows: int, subject: bytes = NOBODY) -> int:
    """Rows whose every value is the canary, the last of them in the open window."""
    content = [np.full((rows, width), CANARY, dtype=np.float32) for width in (2, 2, 1)]
    inputs, logits, features = content
    block_slots = gateway.block_windows * WINDOW
    return gateway.writer.append(
        lambda slot, now: slot // block_slots,
        1,
        1000.0,
        Marks(ALL_PURPOSES, subject),
        inputs,
        logits,
        features,
    )


def agent_of(gateway: Gateway) -> Agent:
    assert gateway.agent is not None
    return gateway.agent


def drain(gateway: Gateway) -> None:
    while agent_of(gateway).watch_once():
        pass


def ids(gateway: Gateway, *slots: int) -> list[str]:
    prefix = id_prefix(gateway.identity.fingerprint)
    return [str(RecordId(prefix, 0, slot)) for slot in slots]


def pseudonym(gateway: Gateway, subject: str = PATIENT) -> bytes:
    return SubjectKey.open(gateway.settings.state_dir).pseudonym(subject)


def on_disk(gateway: Gateway) -> dict[str, bytes]:
    """Every file of the gateway, ring and write-ahead log included."""
    home = gateway.settings.state_dir
    return {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}


def traces(gateway: Gateway) -> list[str]:
    """Files that hold the canary's value or label."""
    value, label = CANARY.tobytes(), CANARY_LABEL
    forms = (value, label.to_bytes(4, "big"), label.to_bytes(4, "little"))
    return sorted(n for n, data in on_disk(gateway).items() if any(f in data for f in forms))


def two_canaries(make_gateway: MakeGateway, subject: bytes | None = None) -> tuple[Gateway, int]:
    """One canary in a closed window, one in the open one, both labelled; others around them."""
    gateway = make_gateway()
    who = pseudonym(gateway) if subject is None else subject
    first = gateway.serve(WINDOW - 1)
    canary = serve_canaries(gateway, 2, who)
    gateway.serve(3)
    gateway.label([first, canary + 2], 1)
    gateway.label([canary, canary + 1], CANARY_LABEL)
    drain(gateway)
    agent_of(gateway).state.checkpoint()
    return gateway, canary


class TestErasing:
    def test_nothing_of_an_erased_record_is_left(self, make_gateway: MakeGateway) -> None:
        """Not in Parquet, tables, log, sketch or ring, whether its window closed or not."""
        gateway, canary = two_canaries(make_gateway, NOBODY)
        found = traces(gateway)
        assert "ring.bin" in found and "state.sqlite" in found
        assert any(name.startswith("blocks/") for name in found)

        receipt = agent_of(gateway).eraser.erase(record_ids=ids(gateway, canary, canary + 1))

        assert (receipt.records, receipt.blocks, receipt.foreign) == (2, (0,), 0)
        assert traces(gateway) == []
        gateway.serve(2 * WINDOW)
        gateway.label([canary + 1, canary + 3])
        drain(gateway)
        left = agent_of(gateway).store.labelled(0, 2, 99).slots.tolist()
        assert canary not in left and canary + 1 not in left
        assert {0, canary + 2, canary + 3} <= set(left)

    def test_a_subject_is_forgotten_everywhere(self, make_gateway: MakeGateway) -> None:
        """Its rows, and its pseudonym; the words themselves were never written."""
        gateway, _ = two_canaries(make_gateway)
        who = pseudonym(gateway)
        assert any(who in data for data in on_disk(gateway).values())

        receipt = agent_of(gateway).eraser.erase(subject=PATIENT)

        assert receipt.records == 2
        assert traces(gateway) == []
        for form in (who, PATIENT.encode(), who.hex().encode()):
            assert not any(form in data for data in on_disk(gateway).values())

    def test_no_charge_changes_and_the_ledger_names_nobody(self, make_gateway: MakeGateway) -> None:
        """One audit entry: why, when, and how many ids were asked for."""
        gateway, _ = two_canaries(make_gateway)
        agent = agent_of(gateway)
        charged = agent.ledger.spendings()

        agent.eraser.erase(subject=PATIENT)

        assert agent.ledger.spendings() == charged
        agent.ledger.check_chain()
        entry = read_entry(agent.ledger.entries()[-1])
        assert isinstance(entry, Erased)
        assert (entry.records, entry.reason) == (0, "erasure")
        assert set(json.loads(entry.to_bytes())) == {
            *("schema_version", "kind", "seq", "previous", "at", "simulated"),
            *("records", "reason"),
        }

    def test_others_counts_stay_as_they_would_have_been(self, make_gateway: MakeGateway) -> None:
        """An erased row of the open window is a null record: it adds nothing to any cell."""
        reports = []
        for extra in (CANARY, np.float32(-3.0)):
            gateway = make_gateway()
            gateway.serve(WINDOW - 1)
            slot = gateway.writer.append(
                lambda slot, now: 0,
                1,
                1000.0,
                Marks(ALL_PURPOSES, NOBODY),
                *(np.full((1, width), extra, np.float32) for width in (2, 2, 1)),
            )
            agent_of(gateway).watcher._open()
            agent_of(gateway).eraser.erase(record_ids=ids(gateway, slot))
            drain(gateway)
            agent_of(gateway).push_once()
            envelopes = [Envelope.from_bytes(data) for data in gateway.centre.taken]
            (report,) = [decode_report(e.payload) for e in envelopes if e.header.kind == "report"]
            assert report.slots == WINDOW
            reports.append(report)

        assert reports[0].features == reports[1].features

    @pytest.mark.parametrize("purposes", [ALL_PURPOSES, INFERENCE | MONITORING])
    def test_the_ledger_does_not_tell_what_was_found(
        self, make_gateway: MakeGateway, purposes: int
    ) -> None:
        """The entry is the same whether records were kept, were there, or named another block:
        what was found depends on consent, and only the caller is told."""
        gateway = make_gateway()
        gateway.serve(2 * WINDOW, purposes=purposes)
        drain(gateway)
        agent = agent_of(gateway)
        asked = [*ids(gateway, 3, 4, 4), f"{id_prefix(gateway.identity.fingerprint)}-7-5"]

        receipt = agent.eraser.erase(record_ids=asked)
        by_subject = agent.eraser.erase(subject=PATIENT)

        assert receipt.records == (2 if purposes & TRAINING else 0)
        assert by_subject.records == 0
        entries = [e for e in map(read_entry, agent.ledger.entries()) if isinstance(e, Erased)]
        assert [(e.records, e.reason) for e in entries] == [(3, "erasure"), (0, "erasure")]

    def test_an_id_that_names_another_block_erases_nothing(self, make_gateway: MakeGateway) -> None:
        """Not from the store, not from the open window; whoever asked is told so."""
        gateway, canary = two_canaries(make_gateway, NOBODY)
        agent, before = agent_of(gateway), traces(gateway)
        prefix = id_prefix(gateway.identity.fingerprint)
        wrong = [str(RecordId(prefix, 5, slot)) for slot in (canary, canary + 1)]

        receipt = agent.eraser.erase(record_ids=wrong)

        assert (receipt.records, receipt.blocks, receipt.foreign) == (0, (), 2)
        assert traces(gateway) == before
        gateway.serve(2 * WINDOW)
        drain(gateway)
        assert {canary, canary + 1} <= set(agent.store.labelled(0, 9, 99).slots.tolist())
        mixed = agent.eraser.erase(record_ids=[*wrong, *ids(gateway, canary, canary + 1)])
        assert (mixed.records, mixed.foreign) == (2, 2)

    def test_an_id_of_another_gateway_is_told_apart(self, make_gateway: MakeGateway) -> None:
        """It is not erased here, and whoever asked is told so."""
        gateway, canary = two_canaries(make_gateway)

        receipt = agent_of(gateway).eraser.erase(record_ids=[f"ffffffff-0-{canary}"])

        assert (receipt.records, receipt.foreign) == (0, 1)
        assert traces(gateway) != []

    def test_what_is_no_id_erases_nothing(self, make_gateway: MakeGateway) -> None:
        """All or nothing: a typo is found before anything is done."""
        gateway, canary = two_canaries(make_gateway)
        before = len(agent_of(gateway).ledger.entries())

        with pytest.raises(RecordError):
            agent_of(gateway).eraser.erase(record_ids=[*ids(gateway, canary), "0-0"])
        for nothing in ({}, {"record_ids": ids(gateway, 1), "subject": "x"}, {"subject": ""}):
            with pytest.raises(SettingError):
                agent_of(gateway).eraser.erase(**nothing)  # type: ignore[arg-type]

        assert len(agent_of(gateway).ledger.entries()) == before

    def test_a_running_training_forgets_too(self, make_gateway: MakeGateway) -> None:
        """The trainer holds copies: it ends, and begins again with the records that are left."""
        gateway = make_gateway()
        first = gateway.serve(4 * WINDOW)
        gateway.label(list(range(first, first + 4 * WINDOW)))
        drain(gateway)
        ask(gateway, spec_for(gateway))
        assert [trainer.closed for trainer in gateway.trainers] == [False]

        slots = range(first + WINDOW, first + 3 * WINDOW)
        agent_of(gateway).eraser.erase(record_ids=ids(gateway, *slots))

        assert [trainer.closed for trainer in gateway.trainers] == [True]
        ask(gateway, spec_for(gateway), number=1)
        assert gateway.trainers[-1].records == WINDOW

    @pytest.mark.parametrize("found", [True, False])
    def test_training_ends_whatever_an_erasure_finds(
        self, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, found: bool
    ) -> None:
        """Also where the disk refused after the rows were gone: the next try finds none of them.
        And a round does not tell whether a subject had records here."""
        gateway = make_gateway()
        first = gateway.serve(WINDOW, subject=pseudonym(gateway))
        gateway.serve(3 * WINDOW)
        gateway.label(list(range(first, first + 4 * WINDOW)))
        drain(gateway)
        ask(gateway, spec_for(gateway))
        agent = agent_of(gateway)
        if found:
            with monkeypatch.context() as full_disk:

                def refuse(*_: object) -> None:
                    raise StateError("no space left")

                full_disk.setattr("fedge.data.removal.remove_files", refuse)
                with pytest.raises(StateError):
                    agent.eraser.erase(subject=PATIENT)
            agent.tidy_once()
        else:
            agent.eraser.erase(subject="somebody else")

        assert agent.eraser.unfinished == 0
        assert [trainer.closed for trainer in gateway.trainers] == [True]

    def test_a_record_that_is_yet_to_come_is_not_buried(self, make_gateway: MakeGateway) -> None:
        """A wrong id must not take a later row from its window; one that waits unread is erased."""
        gateway, _ = two_canaries(make_gateway)
        unread = serve_canaries(gateway, 1)
        agent = agent_of(gateway)

        receipt = agent.eraser.erase(record_ids=ids(gateway, unread, unread + 1, 10**15))

        assert receipt.records == 1
        gateway.serve(2 * WINDOW)
        gateway.label([unread, unread + 1])
        drain(gateway)
        kept = agent.store.labelled(0, 9, 99).slots
        assert unread not in kept and unread + 1 in kept

    def test_a_ring_that_a_worker_just_made_is_wiped_too(self, make_gateway: MakeGateway) -> None:
        """Before the agent has gone over to it."""
        gateway, _ = two_canaries(make_gateway)
        gateway.writer.close()
        gateway.writer_path.unlink()
        gateway.writer = open_writer(gateway.writer_path, RowLayout.of(TASK), 4096)
        gateway.serve(1)
        serve_canaries(gateway, 3, pseudonym(gateway))

        receipt = agent_of(gateway).eraser.erase(subject=PATIENT)

        assert receipt.records == 5 and traces(gateway) == []
        gateway.serve(2 * WINDOW)
        drain(gateway)
        assert traces(gateway) == []


class TestFaults:
    def test_a_ring_that_fell_back_brings_nothing_back(self, make_gateway: MakeGateway) -> None:
        """After a power failure the ring may hold old bytes: erased slots count for nothing."""
        gateway, canary = two_canaries(make_gateway)
        ring = gateway.settings.state_dir / "ring.bin"
        old = ring.read_bytes()
        agent_of(gateway).eraser.erase(subject=PATIENT)
        with ring.open("r+b") as file:
            file.write(old)
        assert traces(gateway) == ["ring.bin"]

        agent = gateway.start()
        gateway.serve(2 * WINDOW)
        gateway.label([canary + 1, canary + 2])
        drain(gateway)

        assert traces(gateway) == []
        assert canary + 2 in agent.store.labelled(0, 9, 99).slots
        assert canary + 1 not in agent.store.labelled(0, 9, 99).slots

    def test_a_disk_that_refuses_is_said_and_tried_again(
        self, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No receipt before it is done; the next housekeeping does it."""
        gateway, _ = two_canaries(make_gateway)
        agent = agent_of(gateway)
        with monkeypatch.context() as full_disk:

            def refuse(*_: object) -> None:
                raise StateError("no space left")

            full_disk.setattr("fedge.data.removal.write_part", refuse)
            with pytest.raises(StateError):
                agent.eraser.erase(subject=PATIENT)
        assert agent.eraser.unfinished == 1 and traces(gateway) != []

        agent.tidy_once()

        assert agent.eraser.unfinished == 0 and traces(gateway) == []
        entry = read_entry(agent.ledger.entries()[-1])
        assert isinstance(entry, Erased) and entry.records == 0

    def test_a_kill_at_any_step_is_made_good_by_the_next_start(
        self, make_gateway: MakeGateway
    ) -> None:
        """Once it was begun, nothing is left after the next start, and nobody else is harmed."""
        died, seen = 0, set()
        while True:
            gateway, _ = two_canaries(make_gateway)
            agent_of(gateway).close()
            gateway.agent = None

            def child(points: KillPoints, gateway: Gateway = gateway) -> None:
                agent = gateway.start()
                drain(gateway)
                watch_commits(points, agent)
                dangerous = (os, "fsync"), (Path, "replace"), (Path, "unlink"), (RingReader, "wipe")
                for owner, name in dangerous:
                    points.wrap(owner, name)
                agent.eraser.erase(subject=PATIENT)

            finished = not killed(child, died)
            agent = gateway.start()
            begun = bool(agent.state.rows("SELECT number FROM erasures"))
            agent.tidy_once()
            drain(gateway)
            erased = [e for e in map(read_entry, agent.ledger.entries()) if isinstance(e, Erased)]
            if erased:
                assert traces(gateway) == []
                assert len(erased) == 1 and erased[0].records == 0, died
                kept = agent.store.labelled(0, 0, 9).slots.tolist()
                assert kept == [0]
            else:
                assert not begun and not finished
            agent.ledger.check_chain()
            seen.add((begun, bool(erased)))
            agent.close()
            gateway.agent = None
            if finished:
                break
            # A commit is two moments, a file several: every third tells them all apart.
            died += 1 if died < 4 else 3
        assert died > 10 and seen >= {(False, False), (True, True), (False, True)}


def watch_commits(points: KillPoints, agent: Agent) -> None:
    original = agent.state._db

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(original, name)

        def execute(self, statement: str, *values: object) -> object:
            if statement not in ("COMMIT", "VACUUM"):
                return original.execute(statement, *values)
            points.moment()
            answer = original.execute(statement, *values)
            points.moment()
            return answer

    agent.state._db = Watched()  # type: ignore[assignment]


class TestConsent:
    def test_withdrawing_training_erases_what_is_kept(self, make_gateway: MakeGateway) -> None:
        """And rows that a worker marked as before, because it does not know yet, stay away."""
        gateway, _ = two_canaries(make_gateway)
        agent = agent_of(gateway)

        receipt = agent.eraser.withdraw(PATIENT, ["training"])

        assert receipt.records == 2 and traces(gateway) == []
        later = serve_canaries(gateway, WINDOW, pseudonym(gateway))
        gateway.label(range(later, later + WINDOW))
        drain(gateway)
        kept = agent.store.labelled(0, 9, 999).slots
        assert not (kept >= later).any()
        entry = read_entry(agent.ledger.entries()[-2])
        assert not isinstance(entry, Erased) or entry.reason == "consent"

    def test_workers_learn_of_it(self, make_gateway: MakeGateway) -> None:
        """Through their file, also after the agent started again."""
        gateway = make_gateway()
        agent_of(gateway).eraser.withdraw(PATIENT, ["monitoring", "training"])

        gateway.start()

        path = gateway.settings.state_dir / WITHDRAWALS_FILE
        assert Withdrawals(path).withdrawn(pseudonym(gateway)) == MONITORING | TRAINING
        assert Withdrawals(path).withdrawn(pseudonym(gateway, "patient 18")) == 0

    @pytest.mark.parametrize("purposes", [[], ["inference"], ["training", "fun"]])
    def test_what_cannot_be_withdrawn_is_refused(
        self, make_gateway: MakeGateway, purposes: list[str]
    ) -> None:
        """Nothing is noted."""
        gateway = make_gateway()

        with pytest.raises(SettingError):
            agent_of(gateway).eraser.withdraw(PATIENT, purposes)
        assert agent_of(gateway).consent.withdrawn(pseudonym(gateway)) == 0


class TestPurposes:
    def test_a_record_without_training_never_reaches_the_trainer(
        self, make_gateway: MakeGateway
    ) -> None:
        """Half of the rows may not be trained on: they are not on the disk, labelled or not."""
        gateway = make_gateway()
        for number in range(8):
            purposes = ALL_PURPOSES if number % 2 else INFERENCE | MONITORING
            first = gateway.serve(WINDOW // 2, purposes=purposes)
            gateway.label(range(first, first + WINDOW // 2))
        drain(gateway)

        ask(gateway, spec_for(gateway))

        assert gateway.trainers[0].records == 3 * WINDOW // 2
        slots = agent_of(gateway).store.labelled(0, 9, 999).slots
        assert (slots // (WINDOW // 2) % 2 == 1).all() and len(slots) == 2 * WINDOW

    @pytest.mark.parametrize("how", ["request", "consent"])
    def test_a_record_without_monitoring_adds_nothing_to_any_count(
        self, make_gateway: MakeGateway, how: str
    ) -> None:
        """Whatever such rows hold, the report is the same to the last count."""
        reports = []
        for seed in (1, 2):
            gateway = make_gateway()
            who = pseudonym(gateway)
            if how == "consent":
                agent_of(gateway).eraser.withdraw(PATIENT, ["monitoring"])
            marked = ALL_PURPOSES if how == "consent" else INFERENCE | TRAINING
            gateway.serve(WINDOW // 2)
            gateway.serve(WINDOW // 2, purposes=marked, subject=who, seed=seed)
            drain(gateway)
            agent_of(gateway).push_once()
            envelopes = [Envelope.from_bytes(data) for data in gateway.centre.taken]
            reports += [decode_report(e.payload) for e in envelopes if e.header.kind == "report"]

        assert len(reports) == 2
        assert reports[0].features == reports[1].features


class TestCommands:
    @pytest.fixture
    def gateway(self, make_gateway: MakeGateway, tmp_path: Path) -> tuple[Gateway, AdminPort, Path]:
        """Two canaries of a subject, the admin socket, and a settings file."""
        gateway, _ = two_canaries(make_gateway)
        settings = gateway.settings
        port = AdminPort(admin_socket(settings.runtime_dir), agent_of(gateway).commands())
        config = tmp_path / "gateway.toml"
        config.write_text(
            f'state_dir = "{settings.state_dir}"\nruntime_dir = "{settings.runtime_dir}"\n'
        )
        return gateway, port, config

    def run(self, *arguments: str, stdin: str | None = None) -> tuple[int, str, object]:
        app = typer.Typer()
        app.command("erase")(commands.erase)
        app.command("withdraw")(commands.withdraw)
        result = CliRunner().invoke(app, arguments, input=stdin)
        return result.exit_code, result.output, result.exception

    def test_records_are_erased_by_id(
        self, gateway: tuple[Gateway, AdminPort, Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Through the socket of the running agent; asked again, there is nothing left."""
        one, port, config = gateway
        names = [f"--record={name}" for name in ids(one, WINDOW - 1, WINDOW)]
        try:
            first = self.run("erase", *names, "--config", str(config), "--json")
            again = self.run("erase", *names, "--config", str(config))
        finally:
            port.close()

        assert first[0] == 0
        assert json.loads(first[1]) == {
            "records": 2,
            "models": {"digits": {"records": 2, "blocks": [0]}},
        }
        assert again[:2] == (0, "erased 0 records\n")
        assert traces(one) == []

    def test_a_subject_is_named_in_no_log(
        self, gateway: tuple[Gateway, AdminPort, Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Read from standard input, it is on no command line either."""
        one, port, config = gateway
        caplog.set_level(logging.DEBUG)
        try:
            done = self.run(
                *("erase", "--subject-file", "-", "--config", str(config)), stdin=PATIENT + "\n"
            )
            wrong = self.run(
                *("withdraw", "--subject", PATIENT, "--purpose", "fun", "--config", str(config))
            )
            withdrawn = self.run(
                *("withdraw", "--subject", PATIENT, "--purpose", "training"),
                *("--config", str(config)),
            )
        finally:
            port.close()

        assert done[:2] == (0, "erased 2 records\n")
        assert isinstance(wrong[2], SettingError)
        assert withdrawn[0] == 0
        for text in (caplog.text, done[1], wrong[1], str(wrong[2]), withdrawn[1]):
            assert "Ward" not in text and "patient" not in text
        assert agent_of(one).consent.withdrawn(pseudonym(one)) == TRAINING

    def test_a_file_of_subjects_may_begin_with_a_mark(
        self, gateway: tuple[Gateway, AdminPort, Path], tmp_path: Path
    ) -> None:
        """As some editors write it, and with their ends of lines."""
        _, port, config = gateway
        names = tmp_path / "names.txt"
        names.write_bytes(b"\xef\xbb\xbf" + f"{PATIENT}\r\n\r\n".encode())
        try:
            done = self.run("erase", "--subject-file", str(names), "--config", str(config))
        finally:
            port.close()
        assert done[:2] == (0, "erased 2 records\n")

    @pytest.mark.parametrize(
        "arguments",
        [[], ["--record", "a", "--subject", "b"], ["--subject", "a", "--subject-file", "-"]],
    )
    def test_wrong_usage(self, arguments: list[str]) -> None:
        """Exit status 2, and nothing is asked."""
        assert self.run("erase", *arguments)[0] == 2

    def test_ids_of_another_gateway_are_an_error(
        self, gateway: tuple[Gateway, AdminPort, Path]
    ) -> None:
        """The others are done, and the message says so."""
        one, port, config = gateway
        names = [*ids(one, WINDOW), "ffffffff-0-1"]
        try:
            _, output, error = self.run(
                "erase", *(f"--record={name}" for name in names), "--config", str(config)
            )
        finally:
            port.close()

        assert output == "erased 1 records\n"
        assert isinstance(error, SettingError) and "1 record ids" in str(error)

    def test_every_served_model_is_asked(self, tmp_path: Path) -> None:
        """A subject may be in each of them; an id belongs to one, whichever that is."""
        config = tmp_path / "gateway.toml"
        config.write_text(
            f'state_dir = "{tmp_path}"\nruntime_dir = "{tmp_path}"\n'
            '[[models]]\nfamily = "pump"\ntask = "pump"\n'
        )
        asked: list[tuple[str | None, dict[str, object]]] = []

        def answers(family: str | None, mine: str) -> AdminPort:
            def answer(request: dict[str, object]) -> dict[str, object]:
                asked.append((family, request))
                found = request.get("record_ids", [mine])
                assert isinstance(found, list)
                own = [name for name in found if name == mine]
                return {"records": len(own), "blocks": [7], "foreign": len(found) - len(own)}

            return AdminPort(admin_socket(tmp_path, family), {"erase": answer})

        ports = [answers(None, "a"), answers("pump", "b")]
        try:
            by_id = self.run("erase", "--record=a", "--record=b", "--config", str(config))
            named = self.run("erase", "--subject", "x", "--config", str(config), "--json")
        finally:
            for port in ports:
                port.close()

        assert by_id[:2] == (0, "erased 2 records\n")
        assert json.loads(named[1])["models"] == {
            "digits": {"records": 1, "blocks": [7]},
            "pump": {"records": 1, "blocks": [7]},
        }
        assert [family for family, _ in asked] == [None, "pump"] * 2

    def test_the_agents_status_is_local(self, gateway: tuple[Gateway, AdminPort, Path]) -> None:
        """What waits and what was lost is told to whoever may ask."""
        one, port, _ = gateway
        try:
            status = AdminClient(admin_socket(one.settings.runtime_dir)).status()
        finally:
            port.close()

        assert status["local"]["unfinished_erasures"] == 0
