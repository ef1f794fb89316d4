"""What lies in the state directory is damaged, or taken: the worker serves, the agent says what is
wrong, or goes on with the rest and counts what is lost."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.faults_gateway import ALL_ROWS, FaultyGateway, MakeFaulty
from fakes.faults_worker import Serve, ServedGateway
from fakes.gateways import WINDOW_SLOTS, wait_until

from fedge.identity import Envelope
from fedge.profiles.wire import decode_report
from fedge.records import WindowReport
from fedge.serving.ring_file import PAGE

Damage = Callable[[Path], None]


def agent(gateway: FaultyGateway) -> subprocess.CompletedProcess[str]:
    """Start the agent as its supervisor does, and wait until it ended."""
    command = [sys.executable, "-m", "fedge_client.agent", "--config", str(gateway.config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def garble(path: Path, at: int, length: int) -> None:
    """Overwrite a part of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(os.urandom(length))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


# --- the state file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: garble(path, 0, 100),
        lambda path: garble(path, 8192, 16384),
        pytest.param(cut, marks=pytest.mark.slow),
    ],
    ids=["header", "pages", "truncated"],
)
def test_a_damaged_state_file_stops_the_agent_only(
    make_faulty: MakeFaulty, ran: FaultyGateway, serve: Serve, damage: Damage
) -> None:
    """It holds what was spent of the budget: nobody goes on without it, or makes it anew."""
    gateway = make_faulty(ran)
    path = gateway.state_dir / "state.sqlite"
    damage(path)
    found = path.read_bytes()
    ended = agent(gateway)
    assert ended.returncode == 1
    assert str(path) in ended.stderr and "restore the file from a backup" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert path.read_bytes() == found, "what is damaged is for people to look at"
    worker = serve(gateway).serve()
    worker.ask(5)
    assert [int(i.split("-")[2]) for i in worker.record_ids] == list(range(ALL_ROWS, ALL_ROWS + 5))


def test_a_second_agent_refuses_to_start(make_faulty: MakeFaulty, ran: FaultyGateway) -> None:
    """It says why, and the first one goes on, its sockets untouched."""
    gateway = make_faulty(ran)
    gateway.start()
    assert gateway.wait(gateway.answers, "the agent answers")
    ended = agent(gateway)
    assert ended.returncode == 1
    assert f"{gateway.state_dir}/state.sqlite is in use by another process" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert gateway.answers()
    gateway.feed(ALL_ROWS + WINDOW_SLOTS)
    assert gateway.wait(lambda: gateway.reported() == 1, "another window")
    assert gateway.stop() == 0


# --- the block store ----------------------------------------------------------------------------


def test_a_damaged_part_is_put_apart_and_counted(
    make_faulty: MakeFaulty, ran: FaultyGateway
) -> None:
    """One window's rows are lost, known at the start; all others and what comes are kept."""
    gateway = make_faulty(ran)
    (part,) = (gateway.state_dir / "blocks").glob("0/000000000001-*.parquet")
    cut(part)
    gateway.feed(ALL_ROWS + WINDOW_SLOTS)
    gateway.start()
    assert gateway.wait(gateway.answers, "the agent answers")
    assert gateway.wait(lambda: gateway.reported() == 1, "another window")
    assert gateway.admin.status()["local"]["damaged_windows"] == 1
    assert gateway.stop() == 0
    windows = [window for (window,) in gateway.rows("SELECT window FROM block_windows")]
    assert windows == [0, 2, 3, 4]
    assert (gateway.state_dir / "blocks" / "quarantine" / part.name).exists()
    assert not part.exists() and "window 1 is lost" in gateway.said()
    assert 12 not in gateway.labels() and {1, 23, 25, 39} <= set(gateway.labels())


# --- the ring -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "damage"),
    [("worker", lambda path: garble(path, 0, PAGE)), ("agent", cut)],
    ids=["worker-first-header", "agent-first-truncated"],
)
def test_a_damaged_ring_costs_what_waited_in_it(
    make_faulty: MakeFaulty, ran: FaultyGateway, serve: Serve, first: str, damage: Damage
) -> None:
    """A new one is made; no slot is given out twice, and the gap is counted as dropped."""
    gateway = make_faulty(ran)
    damage(gateway.state_dir / "ring.bin")
    if first == "agent":
        gateway.start()
        assert gateway.wait(gateway.answers, "the agent answers")
        assert gateway.wait(lambda: gateway.admin.status()["lost_records"] == 1, "it is counted")
        worker = serve(gateway).serve()
        assert slot_of_next(worker) >= ALL_ROWS, "the agent noted it with the damage"
    else:
        worker = serve(gateway).serve()
        gateway.start()
    assert gateway.wait(gateway.answers, "the agent answers")
    # Until the agent looked, the worker of a lost ring cannot know which slots were given out.
    spare = gateway.settings.ring_slots + gateway.settings.window_slots
    wait_until(
        lambda: slot_of_next(worker) >= 40 + spare, what="the agent says which slots are new"
    )
    worker.ask(30)
    assert gateway.wait(lambda: sum(counted(r) for r in reports(gateway)) >= 20, "new windows")
    assert gateway.stop() == 0
    found = reports(gateway)
    assert [report.window for report in found] == list(range(4, 4 + len(found)))
    ends = [report.first_slot + report.slots for report in found]
    assert [report.first_slot for report in found] == [40, *ends[:-1]]
    assert all(counted(report) + report.dropped == report.slots for report in found)
    assert sum(report.dropped for report in found) >= spare
    kept = [slot for part in gateway.kept().values() for slot in part[0]]
    assert len(set(kept)) == len(kept) and "Traceback" not in gateway.said()


@pytest.mark.parametrize("noted", [False, True], ids=["by-its-head", "by-the-note"])
def test_no_row_gets_the_id_of_another_after_a_lost_ring(
    make_faulty: MakeFaulty, ran: FaultyGateway, serve: Serve, noted: bool
) -> None:
    """Before an agent looked at it, too: a label given with an id joins its own row, or none."""
    gateway = make_faulty(ran)
    path = gateway.state_dir / "ring.bin"
    before, ids = gateway.labels(), []
    if noted:
        worker = serve(gateway).serve()
        worker.ask(12)
        ids += worker.record_ids
        worker.close()
        garble(path, 0, PAGE)
    else:
        os.truncate(path, 5000)
    worker = serve(gateway).serve()
    worker.ask(10)
    ids += worker.record_ids
    slots = [int(record_id.split("-")[2]) for record_id in ids]
    assert min(slots) >= ALL_ROWS and len(set(slots)) == len(slots)
    assert worker.label(worker.record_ids[5], "green")[0] == 200
    gateway.start()
    worker.ask(30)
    assert gateway.wait(lambda: len(gateway.labels()) > len(before), "the label is filed")
    assert gateway.stop() == 0
    assert gateway.labels() == {**before, slots[-5]: 1}


def slot_of_next(worker: ServedGateway) -> int:
    worker.ask(1)
    return int(worker.record_ids[-1].split("-")[2])


def reports(gateway: FaultyGateway) -> list[WindowReport]:
    """What the centre took, in the order of windows."""
    found = {e.payload for e in gateway.envelopes() if e.header.kind == "report"}
    return sorted(map(decode_report, found), key=lambda report: report.window)


def counted(report: WindowReport) -> int:
    """Rows that were counted in a window."""
    return sum(next(f for f in report.features if f.name == "class").counts)


# --- the spool ----------------------------------------------------------------------------------


def test_a_damaged_envelope_is_set_aside(make_faulty: MakeFaulty) -> None:
    """It is counted; the others are delivered, and the ledger shows what it was."""
    gateway = make_faulty()
    url = json.loads(gateway.config.read_text().split("coordinator_url = ")[1].splitlines()[0])
    online = gateway.config.read_text()
    gateway.config.write_text(online.replace(url, "http://127.0.0.1:9"))
    gateway.feed(ALL_ROWS)
    gateway.start()
    assert gateway.wait(gateway.answers, "the agent answers")
    assert gateway.wait(lambda: len(_waiting(gateway)) == 4, "reports wait")
    assert gateway.stop() == 0
    (seq, *_) = _waiting(gateway)
    db = sqlite3.connect(gateway.state_dir / "state.sqlite")
    ((data,),) = db.execute("SELECT envelope FROM spool WHERE seq = ?", (seq,)).fetchall()
    data = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    db.execute("UPDATE spool SET envelope = ? WHERE seq = ?", (data, seq))
    db.commit()
    db.close()

    gateway.config.write_text(online)
    gateway.start()
    assert gateway.wait(lambda: gateway.told(3), "the others arrive")
    assert gateway.admin.status()["spool_corrupt"] == 1
    assert gateway.stop() == 0
    taken = [Envelope.to_bytes(envelope) for envelope in gateway.envelopes()]
    assert data not in taken and seq not in {e.header.seq for e in gateway.envelopes()}
    assert sorted(
        decode_report(e.payload).window for e in gateway.envelopes() if e.header.kind == "report"
    ) == [1, 2, 3]


def _waiting(gateway: FaultyGateway) -> list[int]:
    query = "SELECT seq FROM spool WHERE state = 'waiting' AND kind = 'report' ORDER BY seq"
    return [seq for (seq,) in gateway.rows(query)]
