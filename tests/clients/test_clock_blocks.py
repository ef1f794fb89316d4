"""Blocks that end by the clock: however it is set, none is opened twice or gets a second budget."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from fakes.clocks import HostClocks
from fakes.exact_noise import ExactNoise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_clients import WINDOW, Gateway

from fedge.identity import Envelope
from fedge.privacy.entries import Opened, WindowReserved, read_entry
from fedge.privacy.rdp import telemetry_nano
from fedge.profiles.wire import decode_report
from fedge.records import BlockLength, WindowReport
from fedge.serving.record_ids import block_numbering
from fedge_client.agent.agent import Agent

MakeGateway = Callable[..., Gateway]

WINDOW_S, DAY_S = 60.0, 86400.0
YEAR_S = 365 * DAY_S
DAY = BlockLength(kind="seconds", value=int(DAY_S))
SHORT = BlockLength(kind="seconds", value=150)
"""So that time that passes ends blocks without making a thousand windows."""


def timed(make_gateway: MakeGateway, clocks: HostClocks, block: BlockLength) -> Gateway:
    """A gateway whose blocks end by the clock, and whose windows after a minute or when full."""
    gateway = make_gateway(
        block=block,
        window_s=WINDOW_S,
        wall=clocks.wall,
        steady=clocks.steady,
        boot=lambda: clocks.boot,
        noise=ExactNoise(),
    )
    restart_worker(gateway)
    return gateway


def restart_worker(gateway: Gateway) -> None:
    """A new worker numbers blocks by the clock alone, and remembers none."""
    gateway.block_of = block_numbering(agent_of(gateway).policy.block, WINDOW)


def agent_of(gateway: Gateway) -> Agent:
    assert gateway.agent is not None
    return gateway.agent


def work(gateway: Gateway) -> None:
    while agent_of(gateway).watch_once():
        pass


def reports(gateway: Gateway) -> list[WindowReport]:
    agent_of(gateway).push_once()
    found = [Envelope.from_bytes(data) for data in gateway.centre.taken]
    kept = [decode_report(e.payload) for e in found if e.header.kind == "report"]
    return sorted(kept, key=lambda report: report.window)


def counted(report: WindowReport) -> int:
    return sum(next(f for f in report.features if f.kind == "categorical").counts)


def check_budgets(gateway: Gateway, blocks: list[int]) -> None:
    """Each block was opened once, in order, and has one share that all its windows are within."""
    agent = agent_of(gateway)
    agent.ledger.check_chain()
    entries = [read_entry(data) for data in agent.ledger.entries()]
    opened = [entry.block for entry in entries if isinstance(entry, Opened)]
    assert opened == sorted(set(blocks))
    reserved = [entry for entry in entries if isinstance(entry, WindowReserved)]
    assert [entry.block for entry in reserved] == blocks
    assert len({entry.window for entry in reserved}) == len(reserved)
    spent = {s.block: s.telemetry_nano for s in agent.ledger.spendings()}
    assert spent == dict.fromkeys(opened, telemetry_nano(agent.policy))


def test_a_day_back_and_a_year_ahead(make_gateway: MakeGateway) -> None:
    """Back, the block goes on; ahead, one is opened, and kept until the clock has passed it."""
    clocks = HostClocks(wall=1000 * DAY_S + 10.0)
    gateway = timed(make_gateway, clocks, DAY)
    for jump in (0.0, -DAY_S, YEAR_S + DAY_S, -YEAR_S, 0.0):
        clocks.jumps(jump)
        restart_worker(gateway)
        gateway.start()
        gateway.serve(3)
        clocks.passes(WINDOW_S)
        work(gateway)
        clocks.passes(1.0)
        work(gateway)

    found = reports(gateway)
    blocks = [report.block for report in found]
    assert [counted(report) for report in found] == [3] * 5, "each minute closed its window"
    assert blocks == [1000, 1000, 1365, 1365, 1365]
    check_budgets(gateway, blocks)

    clocks.jumps(YEAR_S + 2 * DAY_S)
    restart_worker(gateway)
    gateway.serve(WINDOW)
    work(gateway)
    assert reports(gateway)[-1].block == 1367


Step = tuple[str, float]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("serve"), st.sampled_from([1.0, 7.0, 25.0])),
        st.tuples(st.just("pass"), st.sampled_from([1.0, 61.0, 200.0])),
        st.tuples(st.just("jump"), st.sampled_from([-YEAR_S, -DAY_S, -1.0, DAY_S, YEAR_S])),
        st.tuples(st.sampled_from(["worker", "agent", "reboot"]), st.just(0.0)),
    ),
    min_size=5,
    max_size=16,
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_no_clock_gives_a_block_a_second_budget(
    make_gateway: MakeGateway, steps: list[Step]
) -> None:
    """Whatever is set, restarted and rebooted in whatever order, and each row is in one window."""
    clocks = HostClocks(wall=1000 * DAY_S)
    gateway = timed(make_gateway, clocks, SHORT)
    for what, amount in [("serve", 1.0), *steps]:
        match what:
            case "serve":
                gateway.serve(int(amount))
            case "pass":
                clocks.passes(amount)
            case "jump":
                clocks.jumps(amount)
            case "worker":
                restart_worker(gateway)
            case "agent":
                gateway.start()
            case "reboot":
                clocks.reboots(5.0)
                restart_worker(gateway)
                gateway.start()
        work(gateway)
    for _ in range(2):
        clocks.passes(WINDOW_S + 1)
        work(gateway)

    found = reports(gateway)
    assert [report.window for report in found] == list(range(len(found)))
    assert all(a.first_slot + a.slots == b.first_slot for a, b in pairwise(found))
    assert sum(map(counted, found)) == gateway.writer.next_slot
    blocks = [report.block for report in found]
    assert blocks == sorted(blocks)
    check_budgets(gateway, blocks)
    gateway.close()
