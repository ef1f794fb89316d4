"""Windows, reports and labels: what the agent makes of its ring, also across kills."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes.exact_noise import ExactNoise
from tests_clients import TASK, WINDOW, Gateway, push_all

from fedge.config import EscalationSettings
from fedge.errors import StateError
from fedge.identity import Envelope
from fedge.profiles.wire import decode_report
from fedge.records import GatewayStatus, WindowReport
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving.ring_file import RingFile, RowLayout
from fedge.serving.ring_opening import open_writer
from fedge.serving.ring_reader import RingReader

MakeGateway = Callable[..., Gateway]


def reports(gateway: Gateway) -> list[WindowReport]:
    """Everything the centre took, verified with the gateway's key."""
    found = []
    for data in gateway.centre.taken:
        envelope = Envelope.from_bytes(data)
        envelope.verify(gateway.identity.public_key)
        if envelope.header.kind == "report":
            found.append(decode_report(envelope.payload))
    return found


def waiting(gateway: Gateway, kind: str) -> int:
    """Envelopes of one kind in the spool."""
    assert gateway.agent is not None
    ((count,),) = gateway.agent.state.rows(
        "SELECT COUNT(*) FROM spool WHERE channel = 'push' AND state = 'waiting' AND kind = ?", kind
    )
    return int(count)


def drain(gateway: Gateway) -> None:
    assert gateway.agent is not None
    while gateway.agent.watch_once():
        pass
    push_all(gateway.agent)


def test_each_full_window_leaves_one_charged_signed_report(make_gateway: MakeGateway) -> None:
    """Three and a half windows of rows give three reports, each charged before it left."""
    gateway = make_gateway()
    gateway.serve(3 * WINDOW + WINDOW // 2)

    drain(gateway)

    assert [(r.window, r.first_slot, r.slots) for r in reports(gateway)] == [
        (0, 0, WINDOW),
        (1, WINDOW, WINDOW),
        (2, 2 * WINDOW, WINDOW),
    ]
    assert gateway.agent is not None
    gateway.agent.ledger.check_chain()
    (spending,) = gateway.agent.ledger.spendings()
    assert spending.telemetry_nano > 0 and spending.training_nano == 0


def test_counts_are_noised(make_gateway: MakeGateway) -> None:
    """The same rows on two gateways with other noise leave other counts."""
    one, two = make_gateway(), make_gateway()
    for gateway in (one, two):
        gateway.serve(WINDOW)
    two.start()._ports.noise._random.bit_generator.advance(100)  # type: ignore[attr-defined,union-attr]

    for gateway in (one, two):
        drain(gateway)

    assert reports(one)[0].features != reports(two)[0].features


def test_a_killed_agent_goes_on_where_the_last_window_closed(make_gateway: MakeGateway) -> None:
    """A restart in the middle of a window neither loses nor repeats a slot."""
    gateway = make_gateway()
    gateway.serve(WINDOW + 7)
    drain(gateway)

    gateway.start()
    gateway.serve(WINDOW)
    drain(gateway)

    assert [(r.window, r.first_slot) for r in reports(gateway)] == [(0, 0), (1, WINDOW)]


def test_a_disk_that_refuses_once_costs_no_window(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that could not be made final is made again, of the same rows."""
    gateway = make_gateway()
    assert gateway.agent is not None
    gateway.serve(WINDOW + 7)
    with monkeypatch.context() as full_disk:

        def refuse(**_: object) -> None:
            raise StateError("no space left")

        full_disk.setattr(gateway.agent.store, "write_window", refuse)
        with pytest.raises(StateError):
            gateway.agent.watch_once()
    gateway.serve(WINDOW)

    drain(gateway)

    assert [(r.window, r.first_slot, r.dropped) for r in reports(gateway)] == [
        (0, 0, 0),
        (1, WINDOW, 0),
    ]
    assert gateway.agent.store.window_of(WINDOW) == 1


def test_a_window_is_cut_where_another_release_answers(make_gateway: MakeGateway) -> None:
    """A window belongs to one release."""
    from tests_clients import write_release

    gateway = make_gateway()
    write_release(gateway.settings.state_dir / "slots" / "B", counter=2)
    gateway.serve(7, release=1)
    gateway.serve(WINDOW, release=2)

    drain(gateway)

    assert [(r.release, r.slots) for r in reports(gateway)] == [(1, 7), (2, WINDOW)]


def test_a_window_is_cut_at_the_end_of_its_block(make_gateway: MakeGateway) -> None:
    """No window spans two blocks, and each block has its own charge."""
    gateway = make_gateway(block_windows=2)
    gateway.serve(5 * WINDOW)

    drain(gateway)

    assert [r.block for r in reports(gateway)] == [0, 0, 1, 1, 2]
    assert gateway.agent is not None
    assert [s.block for s in gateway.agent.ledger.spendings()] == [0, 1, 2]


def test_reports_wait_while_the_centre_is_away(make_gateway: MakeGateway) -> None:
    """Nothing is lost when nobody answers; all is delivered when somebody does."""
    gateway = make_gateway()
    gateway.centre.down = True
    gateway.serve(3 * WINDOW)
    drain(gateway)
    assert gateway.agent is not None and waiting(gateway, "report") == 3

    gateway.centre.down = False
    gateway.agent.push_once()

    assert len(reports(gateway)) == 3 and waiting(gateway, "report") == 0


def test_an_envelope_refused_for_good_does_not_stop_the_others(make_gateway: MakeGateway) -> None:
    """A 400 puts one envelope aside; a 403 keeps it, because the key may be admitted later."""
    gateway = make_gateway()
    gateway.serve(WINDOW)
    gateway.centre.special = {"report": 400}
    drain(gateway)
    assert waiting(gateway, "report") == 0

    gateway.serve(WINDOW)
    gateway.centre.status = 403
    drain(gateway)

    assert waiting(gateway, "report") == 1


def test_what_the_quota_pushes_out_is_counted(make_gateway: MakeGateway) -> None:
    """A full spool drops its oldest report and says how many."""
    gateway = make_gateway(spool_bytes=2**16)
    gateway.centre.down = True
    gateway.serve(80 * WINDOW)
    drain(gateway)

    assert gateway.agent is not None
    assert gateway.agent.spool.dropped > 0
    assert waiting(gateway, "report") + gateway.agent.spool.dropped == 80


def test_labels_join_their_records(make_gateway: MakeGateway) -> None:
    """A label joins the record of its slot, whether its window is still open or long closed."""
    gateway = make_gateway()
    first = gateway.serve(WINDOW + 5)
    gateway.label([first + 1, first + WINDOW + 2])
    drain(gateway)
    gateway.serve(WINDOW)
    gateway.label([first + 3])
    drain(gateway)

    assert gateway.agent is not None
    kept = gateway.agent.store.labelled(0, 1, 10)
    assert kept.slots.tolist() == [first + 1, first + 3, first + WINDOW + 2]


def test_rows_that_found_the_ring_full_are_null_records(make_gateway: MakeGateway) -> None:
    """Dropped rows keep their slots, add nothing, and are counted as a public fact."""
    gateway = make_gateway(ring_slots=256)
    for _ in range(5):
        gateway.serve(100)
    while gateway.agent is not None and gateway.agent.watch_once():
        pass
    gateway.serve(1)
    drain(gateway)
    assert gateway.agent is not None

    gateway.agent.report_facts_once()
    gateway.agent.push_once()

    facts = [
        GatewayStatus.from_bytes(e.payload)
        for e in map(Envelope.from_bytes, gateway.centre.taken)
        if e.header.kind == "status"
    ]
    assert facts[-1].dropped_observations == gateway.writer.dropped > 0
    assert facts[-1].windows == 5 * 100 // WINDOW
    assert sum(r.dropped for r in reports(gateway)) == gateway.writer.dropped


# --- purposes, consent, erasure -----------------------------------------------------------------


def counted(report: WindowReport) -> int:
    """Rows that were counted in a window: every one falls into one class."""
    return sum(next(f for f in report.features if f.kind == "categorical").counts)


def kept(gateway: Gateway) -> list[int]:
    """Slots of all rows in the block store."""
    assert gateway.agent is not None
    folder = gateway.settings.state_dir / "blocks"
    parts = sorted(folder.glob("*/*.parquet"))
    return [slot for part in parts for slot in pq.read_table(part)["slot"].to_pylist()]


def test_each_row_serves_its_purposes_and_no_other(make_gateway: MakeGateway) -> None:
    """Without `monitoring` a row adds nothing to any cell; without `training` it is not kept.

    Its slot is covered all the same, and is no dropped one: nobody learns who agreed to what.
    """
    gateway = make_gateway(noise=ExactNoise())
    first = gateway.serve(4, purposes=INFERENCE)
    gateway.serve(5, purposes=INFERENCE | MONITORING)
    gateway.serve(6, purposes=INFERENCE | TRAINING)
    gateway.serve(WINDOW - 15)
    drain(gateway)

    (report,) = reports(gateway)
    assert counted(report) == 5 + (WINDOW - 15)
    assert (report.slots, report.dropped) == (WINDOW, 0)
    assert kept(gateway) == list(range(first + 9, first + WINDOW))


def test_a_window_of_rows_that_may_not_be_watched_is_sent_empty(make_gateway: MakeGateway) -> None:
    """Rows decide nothing about whether and when a window is sent."""
    gateway = make_gateway(noise=ExactNoise())
    gateway.serve(WINDOW, purposes=INFERENCE)
    drain(gateway)

    (report,) = reports(gateway)
    assert all(set(feature.counts) == {0} for feature in report.features)


def test_what_a_subject_withdrew_no_longer_counts(make_gateway: MakeGateway) -> None:
    """A withdrawal also holds for rows that a worker marked before it knew."""
    gateway = make_gateway(noise=ExactNoise())
    assert gateway.agent is not None
    anna, bert = b"a" * 16, b"b" * 16
    gateway.serve(7, subject=anna)
    gateway.serve(5, subject=bert)
    gateway.serve(WINDOW - 12)
    gateway.agent.consent.withdraw(anna, MONITORING | TRAINING)
    gateway.agent.consent.withdraw(bert, TRAINING)
    drain(gateway)

    (report,) = reports(gateway)
    assert counted(report) == WINDOW - 7
    assert kept(gateway) == list(range(12, WINDOW))


def test_erased_rows_of_an_open_window_are_gone(make_gateway: MakeGateway) -> None:
    """They leave a covered slot, no count, no file, and no label; also after a kill."""
    gateway = make_gateway(noise=ExactNoise())
    gateway.serve(WINDOW - 2)
    gateway.label([2, 3])
    drain(gateway)
    assert gateway.agent is not None

    wiped = gateway.agent.watcher.erase(lambda rows: rows["slot"] == 3)
    again = gateway.agent.watcher.erase(lambda rows: rows["slot"] == 3)
    gateway.start()
    gateway.serve(2)
    drain(gateway)

    assert (wiped, again) == (1, 0)
    (report,) = reports(gateway)
    assert (counted(report), report.slots, report.dropped) == (WINDOW - 1, WINDOW, 0)
    assert 3 not in kept(gateway)
    assert gateway.agent.store.labelled(0, 0, 10).slots.tolist() == [2]


# --- labels -------------------------------------------------------------------------------------


def test_a_label_whose_id_names_another_block_is_refused(make_gateway: MakeGateway) -> None:
    """A label joins its record in the block of prediction, or nothing."""
    gateway = make_gateway(block_windows=1)
    gateway.serve(2 * WINDOW)
    slots = np.array([1, 2, WINDOW, WINDOW + 1, 5 * WINDOW])
    blocks = np.array([0, 1, 1, 0, 5])
    gateway.writer.append_labels(slots, np.ones(5, dtype=np.int32), blocks)
    drain(gateway)

    assert gateway.agent is not None
    assert gateway.agent.store.labelled(0, 1, 10).slots.tolist() == [1, WINDOW]
    assert gateway.agent.watcher.refused_labels == 2


def test_late_labels_alone_do_not_fill_the_ring(make_gateway: MakeGateway) -> None:
    """While no window is open, filed labels make room at once."""
    gateway = make_gateway()
    gateway.serve(WINDOW)
    drain(gateway)
    for _ in range(3):
        for _ in range(25):  # nearly all places that a ring of 4096 rows has for labels
            gateway.label(range(WINDOW))
        drain(gateway)
    gateway.start()
    drain(gateway)

    assert gateway.agent is not None and gateway.agent.watcher.dropped_labels == 0
    assert len(gateway.agent.store.labelled(0, 0, 100)) == WINDOW


def test_nothing_is_skipped_where_resuming_fails_too(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that refuses twice in a row: rows that were taken in are taken in again."""
    gateway = make_gateway()
    agent = gateway.agent
    assert agent is not None
    gateway.serve(WINDOW // 2)
    drain(gateway)
    gateway.serve(WINDOW // 4)

    def refuse(*_: object, **__: object) -> None:
        raise StateError("input/output error")

    with monkeypatch.context() as broken_disk:
        broken_disk.setattr(agent.watcher, "_credible", refuse)
        broken_disk.setattr(agent.watcher._watch_state, "read", refuse)
        for _ in range(2):
            with pytest.raises(StateError):
                agent.watch_once()
    gateway.serve(WINDOW)
    drain(gateway)

    assert [(r.first_slot, r.slots, r.dropped) for r in reports(gateway)] == [(0, WINDOW, 0)]


def test_when_a_block_goes_does_not_depend_on_what_is_kept(make_gateway: MakeGateway) -> None:
    """Its age is that of its newest row, also where that row may not be kept."""
    ages = []
    for purposes in (INFERENCE | MONITORING | TRAINING, INFERENCE):
        now = [1000.0]
        gateway = make_gateway(wall=lambda: now[0])  # noqa: B023  # used up in this turn
        gateway.serve(WINDOW - 1)
        now[0] = 5000.0
        gateway.serve(1, purposes=purposes)
        drain(gateway)
        assert gateway.agent is not None
        ages += gateway.agent.state.rows("SELECT arrived FROM block_windows")
    assert ages == [(5000.0,), (5000.0,)]


def test_which_windows_the_quota_takes_does_not_depend_on_content(
    make_gateway: MakeGateway,
) -> None:
    """The ledger's entry about it travels: rows that may not be kept, or compress well, make no
    difference. And what is kept never takes more than it counts for."""
    gone = []
    both = INFERENCE | TRAINING
    for purposes, scale in ((both, 1.0), (both, 0.0), (INFERENCE, 1.0)):
        gateway = make_gateway()
        for _ in range(6):
            gateway.serve(WINDOW, purposes=purposes, scale=scale)
        drain(gateway)
        assert gateway.agent is not None
        store = gateway.agent.store
        sizes = gateway.agent.state.rows("SELECT bytes, room FROM block_windows")
        assert len(sizes) == 6 and all(size <= room for size, room in sizes)
        gone.append(store.evict(40_000, ()).windows)
        assert store.bytes_on_disk <= 40_000
    assert gone == [(0, 1)] * 3


def test_the_number_of_labels_stays_on_the_gateway(make_gateway: MakeGateway) -> None:
    """Those that were turned away are counted for the machine's operator, and not sent."""
    gateway = make_gateway(ring_slots=64)
    gateway.serve(WINDOW)
    gateway.label(range(65))
    drain(gateway)

    agent = gateway.agent
    assert agent is not None
    assert agent.local_facts()["dropped_labels"] == 65
    assert agent.public_facts().dropped_labels == 0


def test_a_task_without_the_purpose_has_nothing_excluded(make_gateway: MakeGateway) -> None:
    """Escalation that is set up for a task which forbids it leaves no entry in the ledger."""
    gateway = make_gateway()
    wanted = EscalationSettings(url="http://127.0.0.1:9", model="large")
    gateway.settings = gateway.settings.model_copy(update={"escalation": wanted})
    agent = gateway.start()
    gateway.serve(WINDOW)
    drain(gateway)
    assert not any(b'"excluded"' in entry for entry in agent.ledger.entries())

    allowing = TASK.model_copy(update={"purposes": (*TASK.purposes, "escalation")})
    (gateway.settings.state_dir / "slots" / "A" / "task.json").write_bytes(allowing.to_bytes())
    agent = gateway.start()
    agent.watch_once()
    assert sum(b'"excluded"' in entry for entry in agent.ledger.entries()) == 2


# --- rings that are not as they should be ---------------------------------------------------------


def renew_ring(gateway: Gateway) -> None:
    """What the next worker does."""
    gateway.writer = open_writer(gateway.writer_path, RowLayout.of(TASK), 64)
    gateway.writer_closed = False


def test_a_damaged_ring_is_given_up_and_counted(make_gateway: MakeGateway) -> None:
    """The next worker's ring is taken over; no slot is given out twice, no window is skipped."""
    gateway = make_gateway(noise=ExactNoise(), ring_slots=64)
    gateway.serve(WINDOW + 5)
    drain(gateway)
    assert gateway.agent is not None
    gateway.close()
    gateway.writer_path.write_bytes(b"\xff" * 8192)

    agent = gateway.start()
    assert agent.watch_once() == 0 and not gateway.writer_path.exists()
    renew_ring(gateway)
    drain(gateway)
    first = gateway.serve(WINDOW)
    while reports(gateway)[-1].first_slot + WINDOW <= first:
        gateway.serve(WINDOW)
        drain(gateway)

    found = reports(gateway)
    assert first >= WINDOW + 5
    assert agent.watcher.lost == 1 and agent.public_facts().lost_records == 1
    assert [r.window for r in found] == list(range(len(found)))
    assert all(a.first_slot + a.slots == b.first_slot for a, b in pairwise(found))


def test_a_ring_that_was_replaced_is_left_when_it_is_used_up(make_gateway: MakeGateway) -> None:
    """Nothing of either ring is lost: the open window is closed where the old ring ends."""
    gateway = make_gateway(noise=ExactNoise(), ring_slots=64)
    gateway.serve(WINDOW + 5)
    drain(gateway)
    gateway.writer.close()
    gateway.writer_path.unlink()
    renew_ring(gateway)
    drain(gateway)
    gateway.serve(WINDOW)
    drain(gateway)

    found = reports(gateway)
    assert [(r.slots, counted(r)) for r in found][:2] == [(WINDOW, WINDOW), (5, 5)]
    assert sum(map(counted, found)) + open_rows(gateway) == 2 * WINDOW + 5


def open_rows(gateway: Gateway) -> int:
    assert gateway.agent is not None
    window = gateway.agent.watcher._cutter.open
    return 0 if window is None else window.rows


def test_a_ring_that_was_replaced_meanwhile_is_recognised(make_gateway: MakeGateway) -> None:
    """Also where the position in the old one exists in the new one: no row of it is passed over."""
    gateway = make_gateway(noise=ExactNoise(), ring_slots=64)
    gateway.serve(WINDOW)
    drain(gateway)
    gateway.close()
    gateway.writer_path.unlink()
    renew_ring(gateway)
    reader = RingReader(gateway.writer_path)
    reader.never_below(WINDOW)
    reader.close()
    gateway.serve(WINDOW + 5)
    gateway.start()
    drain(gateway)

    assert sum(map(counted, reports(gateway))) + open_rows(gateway) == 2 * WINDOW + 5


def test_damaged_records_are_counted_not_believed(make_gateway: MakeGateway) -> None:
    """A slot from nowhere or a time that is none cannot stop the watch."""
    gateway = make_gateway(noise=ExactNoise())
    gateway.serve(WINDOW)
    ring = RingFile(gateway.writer_path)
    ring.records["slot"][3] = 10**17
    ring.records["slot"][4] = 1
    ring.records["steady"][5] = np.nan
    ring.records["block"][6] = -4
    ring.close()
    drain(gateway)

    (report,) = reports(gateway)
    assert gateway.agent is not None and gateway.agent.watcher.lost == 4
    assert (counted(report), report.dropped) == (WINDOW - 4, 4)


# --- disks that refuse ----------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["store", "state"])
def test_windows_wait_for_a_disk_that_refuses(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Nothing crashes, the ring thins and counts, and all goes on by itself."""
    gateway = make_gateway(noise=ExactNoise(), ring_slots=256)
    assert gateway.agent is not None
    agent = gateway.agent
    gateway.serve(WINDOW)
    drain(gateway)
    with monkeypatch.context() as full_disk:
        if when == "store":
            full_disk.setattr(os, "fsync", refuse_the_disk)
        else:
            agent.state.rows("PRAGMA query_only = ON")
        for _ in range(5):
            gateway.serve(100)
            with pytest.raises(StateError):
                agent.watch_once()
    agent.state.rows("PRAGMA query_only = OFF")
    gateway.serve(WINDOW)
    drain(gateway)

    found = reports(gateway)
    covered = found[-1].first_slot + found[-1].slots
    assert gateway.writer.dropped > 0 and agent.watcher.windows == len(found)
    assert [r.window for r in found] == list(range(len(found)))
    assert sum(map(counted, found)) + sum(r.dropped for r in found) == covered
    assert covered + WINDOW > gateway.writer.next_slot - 8


def refuse_the_disk(handle: int) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


def test_a_second_agent_is_refused(make_gateway: MakeGateway) -> None:
    """Two agents on one state directory would spend one budget twice."""
    from fedge_client.agent.agent import Agent

    gateway = make_gateway()
    assert gateway.agent is not None

    with pytest.raises(StateError, match="in use"):
        Agent(gateway.settings, gateway.identity, gateway.agent._ports)
