"""Windows that close by the clock: whatever happens to the clock, each slot is in exactly one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from fakes.clocks import HostClocks
from fakes.exact_noise import ExactNoise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_clients import WINDOW, Gateway, write_release

from fedge.errors import StateError
from fedge.identity import Envelope
from fedge.profiles.wire import decode_report
from fedge.records import BlockLength, WindowReport
from fedge.serving.record_ids import block_numbering
from fedge_client.agent.watch_state import WatchState
from fedge_client.agent.window_clock import Moment, WindowClock

MakeGateway = Callable[..., Gateway]

WINDOW_S = 60.0


def timed(make_gateway: MakeGateway, clocks: HostClocks, **options: Any) -> Gateway:
    """A gateway whose windows close after a minute, or when full."""
    return make_gateway(
        window_s=WINDOW_S,
        wall=clocks.wall,
        steady=clocks.steady,
        boot=lambda: clocks.boot,
        noise=ExactNoise(),
        **options,
    )


def work(gateway: Gateway) -> None:
    assert gateway.agent is not None
    while gateway.agent.watch_once():
        pass


def reports(gateway: Gateway) -> list[WindowReport]:
    """Everything that was spooled and sent, by window."""
    assert gateway.agent is not None
    gateway.agent.push_once()
    found = [Envelope.from_bytes(data) for data in gateway.centre.taken]
    kept = [decode_report(e.payload) for e in found if e.header.kind == "report"]
    return sorted(kept, key=lambda report: report.window)


def counted(report: WindowReport) -> int:
    """Rows that were counted in a window: every one falls into one class."""
    return sum(next(f for f in report.features if f.kind == "categorical").counts)


def check_partition(found: list[WindowReport], slots: int) -> None:
    """Every slot lies in exactly one window, and windows are numbered without a gap."""
    assert [r.window for r in found] == list(range(len(found)))
    assert all(a.first_slot + a.slots == b.first_slot for a, b in pairwise(found))
    assert found[0].first_slot == 0 and found[-1].first_slot + found[-1].slots == slots
    assert all(report.opened_at <= report.closed_at for report in found)


def test_a_minute_closes_a_window_that_is_not_full(make_gateway: MakeGateway) -> None:
    """The report comes with the time, without any further request."""
    clocks = HostClocks()
    gateway = timed(make_gateway, clocks)
    gateway.serve(3)
    work(gateway)
    assert reports(gateway) == []

    clocks.passes(WINDOW_S + 1)
    work(gateway)

    assert [(r.slots, counted(r)) for r in reports(gateway)] == [(3, 3)]


def test_silence_is_reported_at_fixed_times(make_gateway: MakeGateway) -> None:
    """Windows without a request are sent too, empty, and cost their block nothing more."""
    clocks = HostClocks()
    gateway = timed(make_gateway, clocks)
    gateway.serve(3)
    work(gateway)
    for _ in range(5):
        clocks.passes(WINDOW_S)
        work(gateway)
    clocks.passes(1)
    work(gateway)

    found = reports(gateway)
    assert [(r.window, r.slots, counted(r)) for r in found] == [
        (0, 3, 3),
        *((n, 0, 0) for n in range(1, 5)),
    ]
    assert gateway.agent is not None
    (spending,) = gateway.agent.ledger.spendings()
    gateway.agent.ledger.check_chain()
    assert spending.training_nano == 0


def test_nothing_is_reported_before_the_first_row(make_gateway: MakeGateway) -> None:
    """Until a release has answered there is nothing that a window could describe."""
    clocks = HostClocks()
    gateway = timed(make_gateway, clocks)
    clocks.passes(10 * WINDOW_S)
    work(gateway)

    assert reports(gateway) == []


def test_a_full_window_does_not_wait_for_the_clock(make_gateway: MakeGateway) -> None:
    """Slots close a window as ever."""
    gateway = timed(make_gateway, HostClocks())
    gateway.serve(2 * WINDOW + 1)
    work(gateway)

    assert [r.slots for r in reports(gateway)] == [WINDOW, WINDOW]


def test_only_a_window_that_lasted_its_time_counts_as_full(make_gateway: MakeGateway) -> None:
    """What the clock closed is as long as planned; what another release cut short is not."""
    clocks = HostClocks()
    gateway = timed(make_gateway, clocks)
    for rows, release in ((3, 1), (4, 1), (2, 2)):
        gateway.serve(rows, release=release)
        clocks.passes(WINDOW_S + 1 if rows == 3 else 1)
    write_release(gateway.settings.state_dir / "slots" / "B", counter=2)
    clocks.passes(2 * WINDOW_S + 1)
    work(gateway)

    found = [(r.release, r.slots, r.planned_slots) for r in reports(gateway)]
    assert found == [(1, 3, 3), (1, 4, WINDOW), (2, 2, 2), (2, 0, 1)]


def test_an_agent_that_was_away_makes_the_same_windows(make_gateway: MakeGateway) -> None:
    """Rows of several minutes that waited in the ring go into the windows of their minutes."""
    clocks = HostClocks()
    gateway = timed(make_gateway, clocks)
    gateway.serve(2)
    clocks.passes(70)
    gateway.serve(3)
    clocks.passes(130)
    gateway.serve(4)
    clocks.passes(61)
    gateway.start()
    work(gateway)

    assert [(r.slots, counted(r)) for r in reports(gateway)] == [(2, 2), (3, 3), (0, 0), (4, 4)]


def test_after_a_reboot_the_open_window_goes_on(make_gateway: MakeGateway) -> None:
    """It takes in what waited in the ring; the time in which the host was off is no window."""
    clocks = HostClocks()
    gateway = timed(make_gateway, clocks)
    gateway.serve(WINDOW)
    work(gateway)
    clocks.passes(20)
    gateway.serve(3)
    clocks.reboots(off_s=30 * 86400.0)
    gateway.start()
    gateway.serve(1)
    work(gateway)
    clocks.passes(2)
    work(gateway)

    assert [r.slots for r in reports(gateway)] == [WINDOW, 4]
    clocks.passes(WINDOW_S)
    work(gateway)
    assert [r.slots for r in reports(gateway)] == [WINDOW, 4, 0]


@pytest.mark.parametrize("late", [0, 1])
def test_what_was_noised_for_a_shorter_window_is_no_report_of_a_longer_one(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """After a reboot a window that a full disk kept from being final may take in one more row: its
    report is lost then, and else it is the one that was held. Nothing stands still, no row is left
    out."""
    clocks = HostClocks()
    gateway = timed(make_gateway, clocks)
    gateway.serve(WINDOW)
    work(gateway)
    clocks.passes(20)
    gateway.serve(3)
    clocks.reboots(off_s=5.0)
    agent = gateway.start()
    work(gateway)
    clocks.passes(36)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(WatchState, "window_closed", _refuse)
        with pytest.raises(StateError):
            work(gateway)
    if late:
        gateway.serve(late)
    clocks.passes(3)
    work(gateway)
    clocks.passes(WINDOW_S)
    work(gateway)

    found = {r.window: (r.slots, counted(r)) for r in reports(gateway)}
    rows = {1: (3, 3)} if late == 0 else {}
    assert found == {0: (WINDOW, WINDOW), **rows, 2: (0, 0)}
    assert agent.watcher.next_slot == WINDOW + 3 + late and agent.watcher.withheld == late
    assert agent.store.window_of(WINDOW + 2 + late) == 1
    agent.ledger.check_chain()


def _refuse(*_: object) -> None:
    raise StateError("no space left")


def test_a_clock_that_is_set_back_reopens_no_block(make_gateway: MakeGateway) -> None:
    """Blocks by time: neither a worker nor the agent falls back, not even a restarted worker."""
    hour = BlockLength(kind="seconds", value=3600)
    numbering = block_numbering(hour, WINDOW)
    assert [numbering(n, t) for n, t in enumerate([7200.0, 3599.0, 10800.0, 7300.0])] == [
        2,
        2,
        3,
        3,
    ]

    clocks = HostClocks(wall=36_000.0)
    gateway = timed(make_gateway, clocks)
    gateway.block_of = block_numbering(hour, WINDOW)
    gateway.serve(WINDOW)
    clocks.jumps(-7200.0)
    gateway.block_of = block_numbering(hour, WINDOW)
    gateway.serve(WINDOW)
    gateway.start()
    clocks.jumps(3 * 3600.0)
    gateway.serve(WINDOW)
    work(gateway)

    assert [r.block for r in reports(gateway)] == [10, 10, 11]


Step = tuple[str, float]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("serve"), st.sampled_from([1.0, 3.0, 17.0])),
        st.tuples(st.just("pass"), st.sampled_from([1.0, 25.0, 70.0, 200.0])),
        st.tuples(st.just("jump"), st.sampled_from([-1e6, -3600.0, -0.7, 0.7, 3600.0, 1e8])),
        st.tuples(st.just("work"), st.just(0.0)),
        st.tuples(st.just("kill"), st.just(0.0)),
    ),
    min_size=4,
    max_size=14,
)


def play(gateway: Gateway, clocks: HostClocks, steps: list[Step], *, undisturbed: bool) -> int:
    """Let it all happen; answers the rows. Undisturbed: no jump, no kill, a punctual agent."""
    rows = gateway.writer.next_slot
    for what, amount in [("serve", 1.0), *steps, ("pass", 1.0), ("work", 0.0)]:
        match what:
            case "serve":
                gateway.serve(int(amount))
            case "pass":
                clocks.passes(amount)
            case "jump" if not undisturbed:
                clocks.jumps(amount)
            case "kill" if not undisturbed:
                gateway.start()
        if what == "work" or undisturbed:
            work(gateway)
    return gateway.writer.next_slot - rows


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_jumps_and_kills_change_no_window(make_gateway: MakeGateway, steps: list[Step]) -> None:
    """However the wall clock is set, wherever the agent is killed: the very same windows."""
    windows = []
    for undisturbed in (True, False):
        clocks = HostClocks(wall=2e6)
        gateway = timed(make_gateway, clocks)
        rows = play(gateway, clocks, steps, undisturbed=undisturbed)
        clocks.passes(WINDOW_S + 1)
        work(gateway)
        found = reports(gateway)
        check_partition(found, rows)
        assert sum(map(counted, found)) == rows
        windows.append([(r.window, r.first_slot, r.slots, counted(r), r.features) for r in found])
        gateway.close()
    assert windows[0] == windows[1]


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(
        st.tuples(STEPS, st.sampled_from([0.0, 30.0, 1e7]), st.sampled_from([-1e5, 0.0, 1e5])),
        min_size=1,
        max_size=3,
    )
)
def test_reboots_lose_and_double_nothing(
    make_gateway: MakeGateway, parts: list[tuple[list[Step], float, float]]
) -> None:
    """Also where the clock was wrong after the reboot: each slot in exactly one window."""
    clocks = HostClocks(wall=2e6)
    gateway = timed(make_gateway, clocks)
    rows = 0
    for steps, off_s, wrong_by in parts:
        rows += play(gateway, clocks, steps[:6], undisturbed=False)
        clocks.reboots(off_s)
        clocks.jumps(wrong_by)
        gateway.start()
    work(gateway)
    for _ in range(2):
        clocks.passes(WINDOW_S + 1)
        work(gateway)
    found = reports(gateway)
    assert [r.window for r in found] == list(range(len(found)))
    assert all(a.first_slot + a.slots == b.first_slot for a, b in pairwise(found))
    assert found[-1].first_slot + found[-1].slots == sum(map(counted, found)) == rows
    gateway.close()


def test_wall_time_never_runs_backwards_within_a_process() -> None:
    """What is dated later is dated no earlier."""
    clocks = HostClocks(wall=100.0)
    clock = WindowClock(clocks.wall, clocks.steady, "b")
    assert clock.wall() == 100.0
    clocks.jumps(-50.0)
    assert clock.wall() == 100.0
    clocks.jumps(80.0)
    assert clock.wall() == 130.0


@pytest.mark.parametrize(("wall", "ago"), [(940.0, 60.0), (2000.0, 0.0), (0.0, 90.0)])
def test_moments_of_another_boot_lie_in_the_near_past(wall: float, ago: float) -> None:
    """By the wall clock, but never in the future and never further back than allowed."""
    clocks = HostClocks(wall=1000.0, steady=7.0)
    clock = WindowClock(clocks.wall, clocks.steady, "b")
    found = clock.steady_of(Moment(wall, 123.0, "a"), at_most_s=90.0)
    assert found == pytest.approx(7.0 - ago)
