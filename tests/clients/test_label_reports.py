"""Labelled errors leave once for each window, at its watermark, whatever labels came."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

import numpy as np
import pytest
from fakes.exact_noise import ExactNoise
from tests_clients import ALL_PURPOSES, WINDOW, Gateway

from fedge.errors import StateError
from fedge.identity import Envelope
from fedge.privacy.entries import Lost, Settled, WindowReserved, read_entry
from fedge.privacy.ledger import FEATURES, LABELS
from fedge.records import LabelReport, sha256_hex
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving.marks import NOBODY, Marks
from fedge_client.agent.agent import Agent

MakeGateway = Callable[..., Gateway]

RHO, WATERMARK = 0.005, 2


def serve(
    gateway: Gateway, rows: int = WINDOW, *, purposes: int = ALL_PURPOSES, subject: bytes = NOBODY
) -> int:
    """Rows that are all answered with class 1; answers the first slot."""
    return gateway.writer.append(
        lambda slot, now: slot // (gateway.block_windows * WINDOW),
        1,
        gateway.wall(),
        Marks(purposes, subject),
        np.zeros((rows, 2), np.float32),
        np.tile(np.array([0.0, 4.0], np.float32), (rows, 1)),
        np.zeros((rows, 1), np.float32),
    )


def agent_of(gateway: Gateway) -> Agent:
    assert gateway.agent is not None
    return gateway.agent


def drain(gateway: Gateway) -> None:
    agent = agent_of(gateway)
    while agent.watch_once():
        pass
    agent.push_once()


def pairs(gateway: Gateway) -> dict[int, tuple[int, int]]:
    """Window -> right and wrong, as the centre took them; none came twice."""
    found: dict[int, tuple[int, int]] = {}
    for data in gateway.centre.taken:
        envelope = Envelope.from_bytes(data)
        envelope.verify(gateway.identity.public_key)
        if envelope.header.kind == "labels":
            report = LabelReport.from_bytes(envelope.payload)
            assert report.window not in found
            assert (report.task, report.release, report.watermark_windows) == ("pump", 1, WATERMARK)
            found[report.window] = (report.right, report.wrong)
    return found


def planned(gateway: Gateway) -> list[tuple[int, str]]:
    """Window and purpose of each charge, in the order of the ledger."""
    entries = [read_entry(data) for data in agent_of(gateway).ledger.entries()]
    return [(e.window, e.purpose) for e in entries if isinstance(e, WindowReserved)]


def exact(make_gateway: MakeGateway, **options: object) -> Gateway:
    return make_gateway(noise=ExactNoise(), label_rho=RHO, **options)


def test_nothing_is_sent_without_a_charge_for_it(make_gateway: MakeGateway) -> None:
    """A policy that leaves nothing for labels is the default: none are charged, none leave."""
    gateway = make_gateway()
    gateway.label([serve(gateway), 1, 2])
    serve(gateway, 5 * WINDOW)
    drain(gateway)

    assert pairs(gateway) == {}
    assert {purpose for _, purpose in planned(gateway)} == {"features"}


def test_the_pair_is_what_the_labels_said_by_the_watermark(make_gateway: MakeGateway) -> None:
    """Early, late and again: each record counts once, by its first label; nothing leaves early."""
    gateway = exact(make_gateway)
    serve(gateway)
    gateway.label([0, 1, 2], 1)
    gateway.label([2], 0)  # a record keeps its first label
    serve(gateway)
    drain(gateway)
    gateway.label([3, 4], 0)
    assert pairs(gateway) == {}

    serve(gateway)
    drain(gateway)

    assert pairs(gateway) == {0: (3, 2)}


def test_labels_after_the_watermark_count_nowhere(make_gateway: MakeGateway) -> None:
    """Also such that lie in the ring already when an agent that was away reads all of it."""
    one, two = exact(make_gateway), exact(make_gateway)
    for gateway, reads in ((one, True), (two, False)):
        serve(gateway)
        gateway.label([0], 0)
        for _ in range(WATERMARK):
            serve(gateway)
        serve(gateway, 1)
        if reads:
            drain(gateway)
        gateway.label([1, 2, 3], 0)
        gateway.label([WINDOW], 1)  # of the window after it: this one is still in time
        serve(gateway, WINDOW)
        drain(gateway)

    assert pairs(one) == pairs(two) == {0: (0, 1), 1: (1, 0)}
    assert agent_of(one).store.labelled(0, 0, 10).slots.tolist() == [0, 1, 2, 3]


def test_a_window_without_labels_is_sent_all_the_same(make_gateway: MakeGateway) -> None:
    """Two gateways, one of them never told a label: the same charges, the same number of pairs."""
    told, untold = exact(make_gateway), exact(make_gateway)
    for gateway in (told, untold):
        for _ in range(6):
            first = serve(gateway)
            if gateway is told:
                gateway.label([first, first + 7], 1)
            drain(gateway)

    assert pairs(told) == dict.fromkeys(range(4), (2, 0))
    assert pairs(untold) == dict.fromkeys(range(4), (0, 0))
    assert planned(told) == planned(untold)
    assert [window for window, purpose in planned(told) if purpose == LABELS] == [0, 1, 2, 3]


def test_a_pair_is_noised_and_settled(make_gateway: MakeGateway) -> None:
    """With noise it is another pair, it says how much, and the ledger holds its very bytes."""
    gateway = make_gateway(label_rho=RHO)
    for _ in range(12):
        gateway.label([serve(gateway)], 1)
    drain(gateway)

    found = pairs(gateway)
    assert len(found) == 10 and len(set(found.values())) > 1
    envelopes = [Envelope.from_bytes(data) for data in gateway.centre.taken]
    sent = [envelope.payload for envelope in envelopes if envelope.header.kind == "labels"]
    assert all(LabelReport.from_bytes(payload).sigma2 >= 1 / (2 * RHO) for payload in sent)
    entries = [read_entry(data) for data in agent_of(gateway).ledger.entries()]
    settled = {e.artefact_sha256 for e in entries if isinstance(e, Settled) and e.key == LABELS}
    assert settled == {sha256_hex(payload) for payload in sent}
    agent_of(gateway).ledger.check_chain()


# --- whose labels count -------------------------------------------------------------------------


def test_only_records_that_may_be_watched_count(make_gateway: MakeGateway) -> None:
    """By what they came with, and by what their subject withdrew since, before the watermark."""
    gateway = exact(make_gateway)
    anna, bert = b"a" * 16, b"b" * 16
    serve(gateway, 4, purposes=INFERENCE | TRAINING)
    serve(gateway, 4, purposes=INFERENCE | MONITORING)  # not kept, so its labels join nothing
    serve(gateway, 4, subject=anna)
    serve(gateway, 4, subject=bert)
    serve(gateway, WINDOW - 16)
    gateway.label(range(WINDOW), 1)
    drain(gateway)
    agent_of(gateway).consent.withdraw(anna, MONITORING)
    serve(gateway, WATERMARK * WINDOW)
    drain(gateway)

    assert pairs(gateway) == {0: (WINDOW - 12, 0)}


def test_erased_records_count_for_nothing(make_gateway: MakeGateway) -> None:
    """The others of the window are counted as before."""
    gateway = exact(make_gateway)
    serve(gateway)
    gateway.label(range(6), 0)
    drain(gateway)
    agent_of(gateway).store.erase(slots=np.array([1, 2], dtype=np.int64))
    gateway.label([1], 0)
    serve(gateway, WATERMARK * WINDOW)
    drain(gateway)

    assert pairs(gateway) == {0: (0, 4)}


def test_a_block_that_is_gone_is_sent_empty(make_gateway: MakeGateway) -> None:
    """Retention took the window before its watermark, or its file is damaged: zeros and noise."""
    for damaged in (False, True):
        gateway = exact(make_gateway, block_windows=1)
        serve(gateway)
        gateway.label(range(6), 0)
        drain(gateway)
        if damaged:
            (part,) = (gateway.settings.state_dir / "blocks").glob("0/*.parquet")
            part.write_bytes(b"PAR1" + part.read_bytes()[4:-40] + b"?" * 40)
        else:
            agent_of(gateway).store.expire(before=1e12)
        serve(gateway, WATERMARK * WINDOW)
        drain(gateway)

        assert pairs(gateway) == {0: (0, 0)}


# --- restarts and refusals ----------------------------------------------------------------------


def test_a_restart_keeps_the_watermark(make_gateway: MakeGateway) -> None:
    """Also under another setting: a window keeps the watermark that it closed with."""
    gateway = exact(make_gateway)
    serve(gateway)
    gateway.label([0], 1)
    drain(gateway)
    gateway.settings = gateway.settings.model_copy(update={"label_watermark_windows": 7})
    gateway.start()
    serve(gateway, 3 * WINDOW)
    drain(gateway)

    assert pairs(gateway) == {0: (1, 0)}


def test_a_disk_that_refuses_once_costs_no_pair(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Window and pair become final together: neither is lost or sent twice."""
    gateway = exact(make_gateway)
    serve(gateway)
    gateway.label([0, 1], 0)
    serve(gateway, WATERMARK * WINDOW)
    with monkeypatch.context() as full_disk:

        def refuse(*_: object) -> None:
            raise StateError("no space left")

        full_disk.setattr(agent_of(gateway).watcher._closer._label_reporter, "release", refuse)
        with pytest.raises(StateError):
            agent_of(gateway).watch_once()
    drain(gateway)

    assert pairs(gateway) == {0: (0, 2)}
    assert agent_of(gateway).watcher.windows == 3


POINTS = ("charged", "noised", "inside the release", "final")


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_one_charge_and_at_most_one_pair(
    make_gateway: MakeGateway, point: str
) -> None:
    """Killed around the release: the next agent sends one pair, or notes it as lost: one charge."""
    gateway = exact(make_gateway)
    serve(gateway)
    gateway.label([0, 1, 2], 0)
    serve(gateway, WATERMARK * WINDOW)
    agent_of(gateway).close()
    gateway.agent = None
    killed_at(point, gateway)

    agent = gateway.start()
    ((spooled,),) = agent.state.rows("SELECT COUNT(*) FROM spool WHERE kind = 'labels'")
    assert (planned(gateway).count((0, LABELS)), spooled) == (1, int(point == "final"))
    drain(gateway)

    assert planned(gateway).count((0, LABELS)) == 1
    gone = point in ("noised", "inside the release")
    assert pairs(gateway) == ({} if gone else {0: (0, 3)})
    entries = [read_entry(data) for data in agent.ledger.entries()]
    # The report of the window that was closing was noised with it.
    gaps = {entry.key for entry in entries if isinstance(entry, Lost)}
    assert gaps == {"noised": {FEATURES, LABELS}, "inside the release": {FEATURES, LABELS}}.get(
        point, {FEATURES} if point == "charged" else set()
    )
    assert agent.watcher.withheld == int(FEATURES in gaps)
    agent.ledger.check_chain()


def killed_at(point: str, gateway: Gateway) -> None:
    """Watch in a process of its own, which kills itself right after the step at `point`."""
    child = os.fork()
    if child == 0:
        try:
            agent = gateway.start()
            owner, name, there = steps(agent)[point]
            original = getattr(owner, name)

            def then_die(*args: object, **options: object) -> object:
                answer = original(*args, **options)
                if there(options):
                    os.kill(os.getpid(), signal.SIGKILL)
                return answer

            setattr(owner, name, then_die)
            while agent.watch_once():
                pass
        except BaseException:  # noqa: BLE001  a child must never return into pytest
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


Step = tuple[object, str, Callable[[dict[str, object]], bool]]


def steps(agent: Agent) -> dict[str, Step]:
    """Whose method ends at each point, and by which arguments one knows that it is about labels."""
    watcher = agent.watcher
    return {
        "charged": (agent.ledger, "reserve_window", lambda o: o.get("purpose") == LABELS),
        "noised": (watcher._closer._label_reporter, "prepare", lambda o: True),
        "inside the release": (agent.gate, "release", lambda o: o["key"] == LABELS),
        "final": (watcher, "_release", lambda o: watcher.windows == 1 + WATERMARK),
    }
