"""Windows, reports and labels: what the agent makes of its ring, also across kills."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests_clients import WINDOW, Gateway

from fedge.errors import StateError
from fedge.identity import Envelope
from fedge.profiles.wire import decode_report
from fedge.records import GatewayStatus, WindowReport

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


def drain(gateway: Gateway) -> None:
    assert gateway.agent is not None
    while gateway.agent.watch_once():
        pass
    gateway.agent.push_once()


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
    assert gateway.agent is not None and gateway.agent.spool.depth == 3

    gateway.centre.down = False
    gateway.agent.push_once()

    assert len(reports(gateway)) == 3 and gateway.agent.spool.depth == 0


def test_an_envelope_refused_for_good_does_not_stop_the_others(make_gateway: MakeGateway) -> None:
    """A 400 puts one envelope aside; a 403 keeps it, because the key may be admitted later."""
    gateway = make_gateway()
    gateway.serve(WINDOW)
    gateway.centre.status = 400
    drain(gateway)
    assert gateway.agent is not None and gateway.agent.spool.depth == 0

    gateway.serve(WINDOW)
    gateway.centre.status = 403
    drain(gateway)

    assert gateway.agent.spool.depth == 1


def test_what_the_quota_pushes_out_is_counted(make_gateway: MakeGateway) -> None:
    """A full spool drops its oldest report and says how many."""
    gateway = make_gateway(spool_bytes=2**16)
    gateway.centre.down = True
    gateway.serve(80 * WINDOW)
    drain(gateway)

    assert gateway.agent is not None
    assert gateway.agent.spool.dropped > 0
    assert gateway.agent.spool.depth + gateway.agent.spool.dropped == 80


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
    gateway = make_gateway()
    for _ in range(5):
        gateway.serve(1000)
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
    assert facts[-1].dropped_observations == 5 * 1000 - 4096
    assert facts[-1].windows == 5 * 1000 // WINDOW
    assert sum(r.dropped for r in reports(gateway)) == 5 * 1000 - 4096


def test_a_second_agent_is_refused(make_gateway: MakeGateway) -> None:
    """Two agents on one state directory would spend one budget twice."""
    from fedge_client.agent.agent import Agent

    gateway = make_gateway()
    assert gateway.agent is not None

    with pytest.raises(StateError, match="in use"):
        Agent(gateway.settings, gateway.identity, gateway.agent._ports)
