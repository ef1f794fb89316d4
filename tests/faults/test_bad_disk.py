"""A disk that is full, or read-only, under worker and agent: requests are answered all the same,
and afterwards everything that was observed is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.faults_disk import Fault, FaultyDisk, How
from fakes.faults_gateway import (
    ALL_ROWS,
    BLOCK_WINDOWS,
    DEADLINE_S,
    FaultyGateway,
    MakeFaulty,
)
from fakes.faults_supervisor import SupervisedOnBadDisk
from fakes.faults_worker import Serve
from fakes.gateways import WINDOW_SLOTS, Load, wait_until

from fedge.profiles.wire import decode_report
from fedge.records import WindowReport
from fedge.serving.ring_reader import RingReader
from fedge.serving.slot_floor import LARGEST_SLOT


def windows(gateway: FaultyGateway) -> list[WindowReport]:
    """What the centre took, each window once, in order."""
    reports = [e.payload for e in gateway.envelopes() if e.header.kind == "report"]
    found = {payload: decode_report(payload) for payload in reports}
    return sorted(found.values(), key=lambda report: report.window)


def check_accounted(gateway: FaultyGateway, slots: int) -> int:
    """Every slot below is in one window, counted or dropped; answers how many were dropped."""
    assert partition(gateway) == slots
    found = windows(gateway)
    for report in found:
        (counts,) = (f.counts for f in report.features if f.name == "class")
        assert sum(counts) + report.dropped == report.slots
    return sum(report.dropped for report in found)


@pytest.mark.parametrize(
    "how", [How.FULL, pytest.param(How.BROKEN, marks=pytest.mark.slow)], ids=["full", "broken"]
)
def test_a_full_disk_stops_no_request_and_loses_no_window(
    make_faulty: MakeFaulty, serve: Serve, tmp_path: Path, how: How
) -> None:
    """While nothing can be written all is served, and waits; then it is all reported."""
    gateway, switch = make_faulty(), tmp_path / "bad"
    fault = Fault(how, calls=0, while_exists=switch)
    worker = serve(gateway, fault).serve()
    gateway.start(fault)
    worker.ask(15)
    gateway.wait(lambda: gateway.reported() == 1, "a report")

    switch.touch()
    said = len(gateway.said())
    worker.ask(45)
    assert worker.label(worker.record_ids[3], "green")[0] == 200
    gateway.wait(lambda: "watch: " in gateway.said()[said:], "the agent says that it cannot write")
    assert gateway.running and gateway.answers() and gateway.reported() == 1
    worker.ask(1)
    switch.unlink()

    assert gateway.wait(lambda: gateway.told(6), "what waited is reported")
    assert gateway.wait(lambda: gateway.labels() == {3: 1}, "the label is filed")
    assert gateway.stop() == 0
    assert check_accounted(gateway, 60) == 0
    assert "Traceback" not in gateway.said()
    outcome = gateway.outcome()
    blocks = [window // BLOCK_WINDOWS for window in range(6)]
    assert [block for _, block, *_ in outcome.windows] == blocks
    assert [slot for part in outcome.kept.values() for slot in part[0]] == list(range(60))


def test_what_a_full_disk_costs_is_counted(
    make_faulty: MakeFaulty, serve: Serve, tmp_path: Path
) -> None:
    """More rows than the ring holds while the agent cannot write: served, thinned, counted."""
    gateway, switch = make_faulty(), tmp_path / "bad"
    fault = Fault(How.FULL, calls=0, while_exists=switch)
    worker = serve(gateway, fault).serve()
    gateway.start(fault)
    worker.ask(10)
    gateway.wait(lambda: gateway.reported() == 1, "a report")

    switch.touch()
    worker.ask(490)
    switch.unlink()
    # The window that holds the last of them closes with the next row.
    worker.ask(1)
    full = 500 // WINDOW_SLOTS
    assert gateway.wait(lambda: gateway.told(full), "what waited is reported")
    assert gateway.stop() == 0

    assert check_accounted(gateway, 500) > 100
    assert len(set(worker.record_ids)) == 501


def test_a_disk_that_is_read_only_from_the_start(make_faulty: MakeFaulty, serve: Serve) -> None:
    """The worker serves unobserved, the agent says what is wrong; then both go on as before."""
    gateway = make_faulty()
    gateway.feed(ALL_ROWS)
    assert gateway.run() == 0
    before = len(gateway.envelopes())
    read_only = Fault(How.READ_ONLY, calls=0)
    worker = serve(gateway, read_only).serve()
    worker.ask(30)
    gateway.start(read_only)
    assert gateway.wait(lambda: False, "the agent ends") is False
    assert gateway.stop() == 1
    assert f"{gateway.state_dir}/state.sqlite" in gateway.said()
    assert "Read-only file system" in gateway.said() and "Traceback" not in gateway.said()
    unobserved = worker.record_ids
    assert worker.label(unobserved[0], "green")[0] == 404
    worker.close()

    again = serve(gateway).serve()
    again.ask(ALL_ROWS)
    # What nobody observed has no name that a record has, before or after.
    slots = {int(record_id.split("-")[2]) for record_id in again.record_ids}
    assert slots == set(range(ALL_ROWS, 2 * ALL_ROWS))
    assert not slots.union(range(ALL_ROWS)) & {int(i.split("-")[2]) for i in unobserved}
    assert again.label(unobserved[0], "green")[0] == 404
    gateway.start()
    full = 2 * ALL_ROWS // WINDOW_SLOTS
    assert gateway.wait(lambda: gateway.told(full), "it goes on")
    assert gateway.stop() == 0 and len(gateway.envelopes()) > before
    assert check_accounted(gateway, full * WINDOW_SLOTS) == 0


def test_a_worker_that_starts_on_a_full_disk_heals(
    make_faulty: MakeFaulty, serve: Serve, tmp_path: Path
) -> None:
    """Without a ring it serves unobserved, without a key it takes no subjects; later it does."""
    gateway, switch = make_faulty(), tmp_path / "bad"
    switch.touch()
    worker = serve(gateway, Fault(How.FULL, calls=0, while_exists=switch)).serve()
    worker.ask(3)
    assert [worker.observed(), worker.ask_about("anna")] == [False, 503]
    switch.unlink()
    wait_until(worker.observed, what="it observes")
    assert worker.ask_about("anna") == 200
    worker.ask(2)
    slots = [int(record_id.split("-")[2]) for record_id in worker.record_ids]
    assert slots[-2:] == [1, 2] and min(slots[:3]) > LARGEST_SLOT


def test_a_ring_that_is_taken_away_under_a_worker(
    make_faulty: MakeFaulty, serve: Serve, tmp_path: Path
) -> None:
    """The worker goes over to a new one by itself, and gives out no slot twice."""
    gateway = make_faulty()
    worker = serve(gateway).serve()
    worker.ask(5)
    path = gateway.state_dir / "ring.bin"
    path.unlink()
    worker.ask(5)
    skipped = gateway.settings.ring_slots
    wait_until(lambda: worker.next_slot() >= skipped, what="the worker uses another ring")
    worker.ask(5)
    assert len(set(worker.record_ids)) == 15
    reader = RingReader(path)
    rows, _ = reader.read(0, 99)
    assert rows["slot"][-5:].tolist() == [int(i.split("-")[2]) for i in worker.record_ids[-5:]]
    reader.close()


def test_a_worker_that_is_killed_while_it_makes_its_files(
    make_faulty: MakeFaulty, serve: Serve
) -> None:
    """The next one makes them, and nothing half made is left."""
    made = serve(make_faulty())
    made.serve()
    for call in ("write .ring.bin.part", "rename ring.bin", "write .subject.key.part"):
        gateway = make_faulty()
        assert serve(gateway, Fault(How.KILL_WITHIN, made.calls().index(call))).said == {}
        worker = serve(gateway).serve()
        worker.ask(1)
        assert worker.record_ids[0].endswith("-0-0")
        assert [path for path in gateway.state_dir.rglob("*") if ".part" in path.name] == []


def partition(gateway: FaultyGateway) -> int:
    """The reported windows follow each other without a gap; answers where the last one ends."""
    found = windows(gateway)
    assert [report.window for report in found] == list(range(len(found)))
    ends = [report.first_slot + report.slots for report in found]
    assert [report.first_slot for report in found] == [0, *ends[:-1]]
    return ends[-1]


def test_a_gateway_on_a_full_disk_serves_heals_and_goes_on(
    make_faulty: MakeFaulty, disk: FaultyDisk, tmp_path: Path
) -> None:
    """Supervisor, worker and agent together, both of the latter killed while nothing fits."""
    gateway, switch = make_faulty(), tmp_path / "bad"
    fault = Fault(How.FULL, calls=0, while_exists=switch)
    supervisor = SupervisedOnBadDisk(gateway, disk, fault)
    wait_until(supervisor.serves, what="a model answers")
    port = supervisor.facts()["port"]
    with Load(port, callers=1, pause_s=0.01) as load:
        wait_until(lambda: gateway.reported() >= 2, DEADLINE_S, "windows are reported")
        switch.touch()
        served = load.served
        wait_until(lambda: load.served > served + 20, what="it serves on")
    assert load.failed == []
    for name in ("worker", "agent"):
        pid = supervisor.kill(name)
        wait_until(lambda: supervisor.replaced(name, pid), DEADLINE_S, f"another {name}")  # noqa: B023
    wait_until(supervisor.serves, what="a model answers again")
    with Load(port, callers=1, pause_s=0.01) as again:
        wait_until(lambda: again.served > 20, what="it serves")
        switch.unlink()
    assert again.failed == []
    slots = 2 * (load.served + again.served)
    full = slots // WINDOW_SLOTS
    wait_until(lambda: gateway.reported() >= full and gateway.told(full), DEADLINE_S, "all is told")
    assert supervisor.stop() == 0
    assert partition(gateway) == full * WINDOW_SLOTS
    kept = sum(len(part[0]) for part in gateway.outcome().kept.values())
    assert kept + sum(report.dropped for report in windows(gateway)) == full * WINDOW_SLOTS
    ids = load.record_ids + again.record_ids
    assert len(set(ids)) == len(ids) == slots


def test_a_gateway_on_a_read_only_disk_serves(
    make_faulty: MakeFaulty, ran: FaultyGateway, disk: FaultyDisk, tmp_path: Path
) -> None:
    """From the boot on, and after its worker was killed."""
    gateway, switch = make_faulty(ran), tmp_path / "bad"
    (gateway.state_dir / "supervisor.lock").touch()
    switch.touch()
    supervisor = SupervisedOnBadDisk(
        gateway, disk, Fault(How.READ_ONLY, calls=0, while_exists=switch)
    )
    wait_until(supervisor.serves, what="a model answers")
    pid = supervisor.kill("worker")
    wait_until(lambda: supervisor.replaced("worker", pid), DEADLINE_S, "another worker")
    wait_until(supervisor.serves, what="a model answers again")
    with Load(supervisor.facts()["port"], callers=1) as load:
        wait_until(lambda: load.served > 20, what="it serves")
    assert load.failed == []
    switch.unlink()
    wait_until(gateway.answers, DEADLINE_S, "the agent is back")
    assert supervisor.stop() == 0
