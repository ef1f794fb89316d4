"""Where the unit of privacy is a subject: all that leaves about a block holds m records of each.

The agent is the real one; noise is exact, so that what would leave is read as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count

import numpy as np
import pytest
from fakes.exact_noise import ExactNoise
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests_clients import ALL_PURPOSES, TASK, WINDOW, Gateway

from fedge.config import TrainingSettings
from fedge.data.subjects import SubjectKey
from fedge.errors import ParticipationRefusedError
from fedge.identity import Envelope
from fedge.learning.planning import plan_training
from fedge.privacy.entries import WindowReserved, read_entry
from fedge.privacy.rdp import event_nano, telemetry_nano
from fedge.profiles.counts import sensitivity2
from fedge.profiles.wire import decode_report
from fedge.records import (
    LabelReport,
    Participant,
    Reference,
    RoundRequest,
    RunSpec,
    WindowReport,
    sha256_hex,
)
from fedge.records.purposes import INFERENCE, MONITORING, TRAINING
from fedge.serving.marks import Marks
from fedge_client.agent.agent import Agent

MakeGateway = Callable[..., Gateway]

M, WINDOWS, BLOCK_WINDOWS, WATERMARK = 3, 6, 2, 2
RHO = 0.005
ANNA, BERT, NOBODY = b"a" * 16, b"b" * 16, bytes(16)
WORN = TASK.classes.index("worn")


def subject_gateway(make_gateway: MakeGateway, **options: object) -> Gateway:
    """Blocks of two windows, labels counted, at most M records of a subject in a block."""
    values = {"unit": "subject", "max_records": M, "block_windows": BLOCK_WINDOWS} | options
    return make_gateway(noise=ExactNoise(), label_rho=RHO, **values)


def serve(
    gateway: Gateway, subjects: Iterable[bytes], purposes: Iterable[int] | None = None
) -> None:
    """One row for each subject, answered "worn" and labelled so; its values follow its slot."""
    each = iter(purposes) if purposes is not None else (ALL_PURPOSES for _ in count())
    for subject in subjects:
        rng = np.random.default_rng(gateway.writer.next_slot)
        slot = gateway.writer.append(
            lambda slot, now: slot // (gateway.block_windows * WINDOW),
            1,
            gateway.wall(),
            Marks(next(each), subject),
            rng.normal(size=(1, 2)).astype(np.float32),
            np.array([[0.0, 4.0]], np.float32),
            rng.normal(size=(1, 1)).astype(np.float32),
        )
        gateway.label([slot], WORN)


def agent_of(gateway: Gateway) -> Agent:
    assert gateway.agent is not None
    return gateway.agent


def drain(gateway: Gateway) -> None:
    while agent_of(gateway).watch_once():
        pass
    agent_of(gateway).push_once()


def finish(gateway: Gateway) -> None:
    """Let the watermark of every window come, with rows that may be used for nothing."""
    more = (WATERMARK * WINDOW, WATERMARK * WINDOW)
    serve(gateway, [NOBODY] * more[0], [INFERENCE] * more[1])
    drain(gateway)


def payloads(gateway: Gateway, kind: str) -> list[bytes]:
    found = [Envelope.from_bytes(data) for data in gateway.centre.taken]
    return [envelope.payload for envelope in found if envelope.header.kind == kind]


def reports(gateway: Gateway) -> list[WindowReport]:
    return sorted(map(decode_report, payloads(gateway, "report")), key=lambda one: one.window)


def pairs(gateway: Gateway) -> dict[int, LabelReport]:
    found = map(LabelReport.from_bytes, payloads(gateway, "labels"))
    return {pair.window: pair for pair in found}


def counted(report: WindowReport) -> int:
    """Rows that were counted in a window: every one falls into one class."""
    return sum(next(f for f in report.features if f.kind == "categorical").counts)


def vector(report: WindowReport) -> np.ndarray:
    """All that a report says of a window's rows, int64 [n]."""
    return np.concatenate([np.array(f.counts, dtype=np.int64) for f in report.features])


def charged(gateway: Gateway) -> list[WindowReserved]:
    entries = [read_entry(data) for data in agent_of(gateway).ledger.entries()]
    return [entry for entry in entries if isinstance(entry, WindowReserved)]


def public_part(gateway: Gateway) -> list[dict[str, object]]:
    """All entries of the ledger, without who wrote them and without hashes."""
    hidden = {"previous", "artefact_sha256", "gateway", "public_key"}
    entries = map(json.loads, agent_of(gateway).ledger.entries())
    return [{k: v for k, v in entry.items() if k not in hidden} for entry in entries]


def one_record(gateway: Gateway) -> int:
    """Squared length by which one record moves a window's vector at most."""
    body = (gateway.settings.state_dir / "slots/A/reference.json").read_bytes()
    return sum(sensitivity2(stream) for stream in Reference.from_bytes(body).streams)


# --- what counts --------------------------------------------------------------------------------


def test_a_block_counts_m_records_of_a_subject(make_gateway: MakeGateway) -> None:
    """The first ones, over all its windows; a record about nobody stands for itself."""
    gateway = subject_gateway(make_gateway)
    serve(gateway, ([ANNA] * 2 + [NOBODY] * (WINDOW - 2)) * 2)  # a block
    serve(gateway, [BERT] * WINDOW + [ANNA] * WINDOW)  # the next one
    finish(gateway)

    assert [counted(report) for report in reports(gateway)][:4] == [WINDOW, WINDOW - 1, M, M]
    assert [pairs(gateway)[window].right for window in range(4)] == [WINDOW, WINDOW - 1, M, M]


def test_what_exceeds_it_is_kept_nowhere(make_gateway: MakeGateway) -> None:
    """In no part of the block store, so that no label joins it and no training reads it."""
    gateway = subject_gateway(make_gateway)
    serve(gateway, [ANNA] * WINDOW + [NOBODY, ANNA, BERT, BERT] * (WINDOW // 4))
    drain(gateway)

    kept = agent_of(gateway).store.labelled(0, 1, 1000)
    assert kept.subjects is not None
    assert kept.slots.tolist()[:M] == list(range(M))
    subjects = Counter(bytes(row) for row in kept.subjects)
    assert subjects == {ANNA: M, BERT: M, NOBODY: WINDOW // 4}
    (rows,) = agent_of(gateway).state.rows("SELECT SUM(rows) FROM block_windows")
    assert rows == (len(kept),)


def test_a_run_trains_on_m_records_of_a_subject_and_no_other_plan(
    make_gateway: MakeGateway,
) -> None:
    """The trainer is given no more; a plan that bounds records, or more of them, is refused."""
    gateway = subject_gateway(make_gateway)
    serve(gateway, [ANNA] * WINDOW + [BERT] * WINDOW)
    drain(gateway)
    agent, arrays = agent_of(gateway), np.zeros(4, "<f4").tobytes()
    plan = plan_training(agent.policy, TrainingSettings(records=50, steps=3), 4)
    assert (plan.unit, plan.max_records) == ("subject", M)

    def ask(number: int, **changes: object) -> bytes:
        spec = RunSpec(
            run_id=f"run-{number}",
            task="pump",
            base_release=1,
            base_sha256=gateway.manifest.content_sha256,
            plan=plan.model_copy(update=changes),
            participants=(
                Participant(
                    gateway=gateway.identity.fingerprint,
                    public_key=gateway.identity.public_key.hex(),
                    first_window=0,
                    last_window=1,
                ),
            ),
            episodes=("e",),
        )
        request = RoundRequest(spec=spec, phase="train", round=0, arrays_sha256=sha256_hex(arrays))
        return agent.answer(request, arrays)

    for number, changes in enumerate(
        ({"unit": "record", "max_records": 1}, {"max_records": M + 1})
    ):
        with pytest.raises(ParticipationRefusedError, match="other-unit"):
            ask(number, **changes)
    ask(2)
    assert [trainer.records for trainer in gateway.trainers] == [2 * M]


def test_what_may_not_be_used_takes_no_place(make_gateway: MakeGateway) -> None:
    """Records that are null anyway leave the m to those that count."""
    gateway = subject_gateway(make_gateway)
    purposes = [INFERENCE] * 5 + [INFERENCE | MONITORING] * 5 + [INFERENCE | TRAINING] * 5
    serve(gateway, [ANNA] * WINDOW, [*purposes, *[ALL_PURPOSES] * (WINDOW - len(purposes))])
    agent_of(gateway).consent.withdraw(ANNA, MONITORING)
    drain(gateway)

    (report,) = reports(gateway)
    assert counted(report) == 0
    assert agent_of(gateway).store.labelled(0, 0, 99).slots.tolist() == [10, 11, 12]


def test_a_kill_gives_no_subject_more(make_gateway: MakeGateway) -> None:
    """An agent that starts again in the middle of a block goes on counting."""
    gateway = subject_gateway(make_gateway)
    serve(gateway, [ANNA] * 2 + [BERT] * (WINDOW - 2) + [ANNA] * 3)
    drain(gateway)
    gateway.start()
    serve(gateway, [ANNA] * (WINDOW - 3))
    drain(gateway)

    assert [counted(report) for report in reports(gateway)] == [2 + M, 1]


def test_erasing_gives_a_subject_no_further_records(make_gateway: MakeGateway) -> None:
    """What it contributed was released; its pseudonym is gone from the disk all the same."""
    gateway = subject_gateway(make_gateway)
    who = SubjectKey.open(gateway.settings.state_dir).pseudonym("patient 17")
    serve(gateway, [who] * 2 + [NOBODY] * (WINDOW - 2))
    drain(gateway)
    agent_of(gateway).eraser.erase(subject="patient 17")

    home = gateway.settings.state_dir
    files = [path for path in home.rglob("*") if path.is_file()]
    assert [str(path) for path in files if who in path.read_bytes()] == []
    serve(gateway, [who] * WINDOW)
    drain(gateway)

    assert [counted(report) for report in reports(gateway)] == [WINDOW, M - 2]


def test_a_withdrawal_is_followed_within_the_m(make_gateway: MakeGateway) -> None:
    """Before a window closes it counts; what closed before stays counted."""
    gateway = subject_gateway(make_gateway)
    serve(gateway, [ANNA] + [NOBODY] * (WINDOW - 1))
    drain(gateway)
    agent_of(gateway).consent.withdraw(ANNA, MONITORING)
    serve(gateway, [ANNA] * WINDOW)
    finish(gateway)

    assert [counted(report) for report in reports(gateway)][:2] == [WINDOW, 0]
    assert pairs(gateway)[0].right == WINDOW - 1
    assert len(agent_of(gateway).store.labelled(1, 1, 99)) == M - 1


# --- what is charged ----------------------------------------------------------------------------


def test_charges_are_for_m_records_and_stay_within_the_share(make_gateway: MakeGateway) -> None:
    """m times as far is m^2 the noise: a block pays what it would pay for records."""
    gateway, records = (
        subject_gateway(make_gateway),
        subject_gateway(make_gateway, unit="record", max_records=1),
    )
    for one in (gateway, records):
        serve(one, [ANNA] * (2 * WINDOW) + [NOBODY] * (2 * WINDOW))
        finish(one)

    ours, theirs = charged(gateway), charged(records)
    assert {entry.purpose for entry in ours} == {"features", "labels"}
    for entry, other in zip(ours, theirs, strict=True):
        ((event,), (single,)) = entry.events, other.events
        per_record = one_record(gateway) if entry.purpose == "features" else 1
        assert (event.sensitivity2, single.sensitivity2) == (M**2 * per_record, per_record)
        assert event.sigma2 >= M**2 * (single.sigma2 - 1)
    agent = agent_of(gateway)
    for block in {entry.block for entry in ours}:
        for window in {entry.window for entry in ours if entry.block == block}:
            events = [e for entry in ours if entry.window == window for e in entry.events]
            total = sum(event_nano(event, agent.policy.alpha) for event in events)
            assert total <= telemetry_nano(agent.policy)
    assert {s.telemetry_nano for s in agent.ledger.spendings()} == {telemetry_nano(agent.policy)}
    agent.ledger.check_chain()
    assert {f.sigma2 for f in reports(gateway)[0].features} == {ours[0].events[0].sigma2}


def test_a_block_keeps_the_unit_it_was_opened_under(make_gateway: MakeGateway) -> None:
    """A policy that changes from records to subjects holds from the next block on."""
    from fedge.privacy.policy import new_policy, write_policy

    gateway = subject_gateway(make_gateway, unit="record", max_records=1)
    serve(gateway, [ANNA] * WINDOW)
    drain(gateway)
    old = agent_of(gateway).policy
    changed = new_policy(
        epsilon=3.0,
        delta=1e-5,
        block=old.block,
        telemetry_rho=old.telemetry_rho,
        label_rho=RHO,
        unit="subject",
        max_records=M,
    )
    write_policy(changed, gateway.settings.state_dir / "policy.toml")
    gateway.start()
    serve(gateway, [ANNA] * (3 * WINDOW))
    drain(gateway)

    assert [counted(report) for report in reports(gateway)] == [WINDOW, WINDOW, M, 0]
    features = [
        e for entry in charged(gateway) if entry.purpose == "features" for e in entry.events
    ]
    one = one_record(gateway)
    assert [event.sensitivity2 for event in features] == [one, one, M**2 * one, M**2 * one]


# --- neighbours ---------------------------------------------------------------------------------


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    who=st.lists(
        st.sampled_from([ANNA, ANNA, BERT, NOBODY]),
        min_size=3 * WINDOW,
        max_size=3 * WINDOW,
    ),
    limit=st.integers(1, 5),
    killed=st.booleans(),
)
def test_one_subject_moves_a_block_by_what_is_charged(
    make_gateway: MakeGateway, who: list[bytes], limit: int, killed: bool
) -> None:
    """With Anna, and with each of her records null: the same releases at the same times, no further
    apart over all windows of the block than one window's charge is for."""
    gateways = []
    for allowed in (ALL_PURPOSES, INFERENCE):
        gateway = subject_gateway(make_gateway, max_records=limit, block_windows=100)
        purposes = [allowed if subject == ANNA else ALL_PURPOSES for subject in who]
        for start in range(0, len(who), 25):
            serve(gateway, who[start : start + 25], purposes[start : start + 25])
            drain(gateway)
            if killed:
                gateway.start()
        finish(gateway)
        gateways.append(gateway)
    with_her, without = gateways

    # But for names and hashes: of the gateway, of the entry before, of noised bytes.
    assert public_part(with_her) == public_part(without)
    kinds = [
        [(e.header.kind, e.header.seq) for e in map(Envelope.from_bytes, one.centre.taken)]
        for one in gateways
    ]
    assert kinds[0] == kinds[1]
    ((event,), (pair,)) = (
        next(entry.events for entry in charged(with_her) if entry.purpose == purpose)
        for purpose in ("features", "labels")
    )
    moved = [
        vector(mine) - vector(other)
        for mine, other in zip(reports(with_her), reports(without), strict=True)
    ]
    lengths2 = [int((one**2).sum()) for one in moved]
    # Over all windows together: then the maximum over windows covers them, as for one record.
    assert sum(lengths2) <= event.sensitivity2 == limit**2 * one_record(with_her)
    told, untold = pairs(with_her), pairs(without)
    assert told.keys() == untold.keys() and len(told) == 3
    apart2 = sum(
        (told[w].right - untold[w].right) ** 2 + (told[w].wrong - untold[w].wrong) ** 2
        for w in told
    )
    assert apart2 <= pair.sensitivity2 == limit**2
    assert bool(sum(lengths2)) == (ANNA in who)
    for gateway in gateways:
        gateway.close()
