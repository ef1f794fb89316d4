"""What the agent decides about a run: from public facts and its own ledger, never from data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests_clients import WINDOW, Gateway, ToyTrainer

from fedge.config import TrainingSettings
from fedge.errors import ParticipationRefusedError, StateError, UpdateInvalidError
from fedge.identity import Envelope
from fedge.learning.planning import plan_training
from fedge.privacy.entries import Lost, read_entry
from fedge.privacy.grants import Grant
from fedge.privacy.ledger import Ledger
from fedge.privacy.rdp import cap_nano
from fedge.records import (
    AdapterUpdate,
    PairedDifference,
    Participant,
    RoundRequest,
    RunSpec,
    sha256_hex,
)

MakeGateway = Callable[..., Gateway]
DIMENSION = 4
ARRAYS = np.zeros(DIMENSION, dtype="<f4").tobytes()


def trained_gateway(make_gateway: MakeGateway, **options: int) -> Gateway:
    """A gateway with four closed windows, every row labelled."""
    gateway = make_gateway(**options)
    first = gateway.serve(4 * WINDOW)
    gateway.label(list(range(first, first + 4 * WINDOW)))
    assert gateway.agent is not None
    while gateway.agent.watch_once():
        pass
    return gateway


def spec_for(gateway: Gateway, run_id: str = "run-1", **changes: object) -> RunSpec:
    assert gateway.agent is not None
    plan = plan_training(gateway.agent.policy, TrainingSettings(records=50, steps=3), DIMENSION)
    values: dict[str, object] = {
        "run_id": run_id,
        "task": "pump",
        "base_release": 1,
        "base_sha256": gateway.manifest.content_sha256,
        "plan": plan,
        "participants": (
            Participant(
                gateway=gateway.identity.fingerprint,
                public_key=gateway.identity.public_key.hex(),
                first_window=1,
                last_window=3,
            ),
        ),
        "episodes": ("e",),
    }
    return RunSpec(**{**values, **changes})  # type: ignore[arg-type]


def ask(gateway: Gateway, spec: RunSpec, phase: str = "train", number: int = 0) -> Envelope:
    assert gateway.agent is not None
    request = RoundRequest(
        spec=spec,
        phase=phase,  # type: ignore[arg-type]
        round=number,
        arrays_sha256=sha256_hex(ARRAYS),
    )
    envelope = Envelope.from_bytes(gateway.agent.answer(request, ARRAYS))
    envelope.verify(gateway.identity.public_key)
    return envelope


def test_a_run_is_reserved_whole_and_answered_with_signed_noise(make_gateway: MakeGateway) -> None:
    """Two rounds and an evaluation take one reservation and one trainer; the cap holds."""
    gateway = trained_gateway(make_gateway)
    spec = spec_for(gateway)
    assert gateway.agent is not None

    first = ask(gateway, spec, number=0)
    charged = gateway.agent.ledger.spendings()
    second = ask(gateway, spec, number=1)
    counts = ask(gateway, spec, "evaluate")

    assert AdapterUpdate.from_bytes(first.payload).round == 0
    assert AdapterUpdate.from_bytes(second.payload).round == 1
    assert PairedDifference.from_bytes(counts.payload).sigma2 == spec.plan.evaluation_sigma2
    assert gateway.agent.ledger.spendings() == charged, "later messages cost nothing more"
    (spending,) = charged
    total = spending.telemetry_nano + spending.training_nano
    assert 0.98 * cap_nano(gateway.agent.policy) < total <= cap_nano(gateway.agent.policy)
    (trainer,) = gateway.trainers
    assert trainer.records == 50 and trainer.closed


def test_a_round_asked_again_gets_the_stored_answer(make_gateway: MakeGateway) -> None:
    """The same bytes, no new noise, no new charge, also after a restart of the agent."""
    gateway = trained_gateway(make_gateway)
    spec = spec_for(gateway)
    first = ask(gateway, spec)

    again = ask(gateway, spec)
    agent = gateway.start()
    restarted = ask(gateway, spec)

    assert first == again == restarted
    assert sum(trainer.asked for trainer in gateway.trainers) == 1
    agent.ledger.check_chain()


def test_a_round_whose_trainer_died_is_lost_and_never_drawn_again(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its charge stands, the ledger notes the gap, and the other parts of the run go on."""
    gateway = trained_gateway(make_gateway)
    spec, drawn = spec_for(gateway), ToyTrainer.round

    def die(trainer: ToyTrainer, vector: np.ndarray, grant: Grant) -> np.ndarray:
        drawn(trainer, vector, grant)
        raise UpdateInvalidError("the trainer is gone")

    with monkeypatch.context() as broken:
        broken.setattr(ToyTrainer, "round", die)
        with pytest.raises(UpdateInvalidError):
            ask(gateway, spec)
    assert gateway.agent is not None
    charged = gateway.agent.ledger.spendings()
    for _ in range(2):
        with pytest.raises(ParticipationRefusedError, match="draw-lost"):
            ask(gateway, spec)
        agent = gateway.start()
    update, counts = ask(gateway, spec, number=1), ask(gateway, spec, "evaluate")

    assert AdapterUpdate.from_bytes(update.payload).round == 1
    assert PairedDifference.from_bytes(counts.payload).run_id == spec.run_id
    assert gaps(agent.ledger) == ["run-1/train/0"]
    assert agent.ledger.spendings() == charged
    agent.ledger.check_chain()


def test_a_round_that_an_agent_died_in_is_lost(make_gateway: MakeGateway) -> None:
    """Handed to a trainer and not settled: whether it was noised, the next agent cannot know."""
    gateway = trained_gateway(make_gateway)
    spec = spec_for(gateway)
    ask(gateway, spec, number=0)
    assert gateway.agent is not None
    ledger = gateway.agent.ledger
    blocks = tuple(s.block for s in ledger.spendings())
    reserved = ledger.reserve_run("run-1", blocks, spec.plan.events)
    ledger.grant(reserved, "run-1/train/1", spec.plan.round_event)

    agent = gateway.start()

    with pytest.raises(ParticipationRefusedError, match="draw-lost"):
        ask(gateway, spec, number=1)
    assert gaps(agent.ledger) == ["run-1/train/1"]
    agent.ledger.check_chain()


def test_a_disk_that_refuses_once_costs_no_round(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was noised is held, and the very same bytes are stored when it can be."""
    gateway = trained_gateway(make_gateway)
    spec = spec_for(gateway)
    assert gateway.agent is not None
    with monkeypatch.context() as full_disk:

        def refuse(*_: object, **__: object) -> bytes:
            raise StateError("no space left")

        full_disk.setattr(gateway.agent.spool, "put", refuse)
        for _ in range(2):
            with pytest.raises(StateError, match="no space"):
                ask(gateway, spec)
    ask(gateway, spec)

    assert sum(trainer.asked for trainer in gateway.trainers) == 1
    assert gaps(gateway.agent.ledger) == []
    gateway.agent.ledger.check_chain()


def gaps(ledger: Ledger) -> list[str]:
    """Parts whose draw the ledger notes as lost."""
    entries = [read_entry(data) for data in ledger.entries()]
    return [entry.key for entry in entries if isinstance(entry, Lost)]


def test_a_spent_block_refuses_the_next_run(make_gateway: MakeGateway) -> None:
    """One run may take all of a block's training share; the next one gets nothing."""
    gateway = trained_gateway(make_gateway)
    ask(gateway, spec_for(gateway, "run-1"))

    with pytest.raises(ParticipationRefusedError, match="budget-exhausted"):
        ask(gateway, spec_for(gateway, "run-2"))


def test_a_run_over_two_blocks_charges_both(make_gateway: MakeGateway) -> None:
    """A block that ends in the middle of a run's windows: both pay in full."""
    gateway = trained_gateway(make_gateway, block_windows=2)

    ask(gateway, spec_for(gateway))

    assert gateway.agent is not None
    spendings = gateway.agent.ledger.spendings()
    assert [s.block for s in spendings] == [0, 1]
    assert spendings[0].training_nano == spendings[1].training_nano > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task": "other"}, "other-task"),
        ({"base_release": 2}, "other-release"),
        ({"base_sha256": "0" * 64}, "other-release"),
    ],
)
def test_a_run_for_something_else_is_refused_for_free(
    make_gateway: MakeGateway, change: dict[str, object], reason: str
) -> None:
    """A refusal names a public reason and charges nothing."""
    gateway = trained_gateway(make_gateway)
    assert gateway.agent is not None
    before = gateway.agent.ledger.spendings()

    with pytest.raises(ParticipationRefusedError, match=reason):
        ask(gateway, spec_for(gateway, **change))

    assert gateway.agent.ledger.spendings() == before and not gateway.trainers


def test_windows_that_are_not_closed_are_refused(make_gateway: MakeGateway) -> None:
    """A run names closed windows; the one being filled is not read."""
    gateway = trained_gateway(make_gateway)
    ours = spec_for(gateway).participants[0].model_copy(update={"last_window": 4})

    with pytest.raises(ParticipationRefusedError, match="windows-not-closed"):
        ask(gateway, spec_for(gateway, participants=(ours,)))


@pytest.mark.parametrize(("phase", "number"), [("train", 2), ("evaluate", 3), ("train", 10**300)])
def test_a_round_beyond_the_plan_is_refused(
    make_gateway: MakeGateway, phase: str, number: int
) -> None:
    """A server that asks for more rounds than were planned gets none, for nothing."""
    gateway = trained_gateway(make_gateway)
    assert gateway.agent is not None
    entries = gateway.agent.ledger.size

    with pytest.raises(ParticipationRefusedError, match="round-not-planned"):
        ask(gateway, spec_for(gateway), phase, number)
    assert gateway.agent.ledger.size == entries


def test_a_run_id_is_never_used_for_another_plan(make_gateway: MakeGateway) -> None:
    """A changed plan under a known run id is refused, whatever it would cost."""
    gateway = trained_gateway(make_gateway)
    spec = spec_for(gateway)
    ask(gateway, spec)
    weaker = spec.plan.model_copy(update={"sigma2": spec.plan.sigma2 + 1})

    with pytest.raises(ParticipationRefusedError, match="run-id-used"):
        ask(gateway, spec.model_copy(update={"plan": weaker}), number=1)


def test_a_gateway_outside_the_cohort_is_left_alone(make_gateway: MakeGateway) -> None:
    """Being asked is not being meant."""
    gateway, other = trained_gateway(make_gateway), trained_gateway(make_gateway)

    with pytest.raises(ParticipationRefusedError, match="not-in-cohort"):
        ask(gateway, spec_for(other))


def test_a_block_without_labels_still_answers(make_gateway: MakeGateway) -> None:
    """Whether a gateway holds labels is no public fact: it trains on nothing, with full noise."""
    gateway = make_gateway()
    gateway.serve(4 * WINDOW)
    assert gateway.agent is not None
    while gateway.agent.watch_once():
        pass

    ask(gateway, spec_for(gateway))

    assert gateway.trainers[0].records == 0
