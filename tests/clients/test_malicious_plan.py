"""A server that asks for too much: every plan is refused by type, or counted against the budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_agent_training import ARRAYS, ask, spec_for, trained_gateway
from tests_clients import Gateway

from fedge.errors import ParticipationRefusedError, RecordError
from fedge.identity import Envelope
from fedge.models.weights import read_dimensions
from fedge.privacy.rdp import cap_nano
from fedge.records import AdapterKind, Participant, RoundRequest, RunSpec, sha256_hex
from fedge_client.agent import plan_fit

MakeGateway = Callable[..., Gateway]


def as_json(spec: RunSpec, **plan: object) -> bytes:
    """The request as a server would write it, with other values in its plan."""
    request = RoundRequest(spec=spec, phase="train", round=0, arrays_sha256="0" * 64)
    content = json.loads(request.to_bytes())
    content["spec"]["plan"] |= plan
    return json.dumps(content).encode()


def spent(gateway: Gateway) -> tuple[int, ...]:
    assert gateway.agent is not None
    return tuple(s.training_nano for s in gateway.agent.ledger.spendings())


def asked(gateway: Gateway, spec: RunSpec, phase: str = "train") -> Envelope:
    """The answer to a request with as many zeros as the plan says."""
    assert gateway.agent is not None
    arrays = np.zeros(spec.plan.dimension, "<f4").tobytes()
    request = RoundRequest(
        spec=spec,
        phase=phase,  # type: ignore[arg-type]
        round=0,
        arrays_sha256=sha256_hex(arrays),
    )
    return Envelope.from_bytes(gateway.agent.answer(request, arrays))


def changed(spec: RunSpec, **plan: object) -> RunSpec:
    return spec.model_copy(update={"plan": spec.plan.model_copy(update=plan)})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("steps", value) for value in (-1, 0, 10_001, 10**30, 1.5, float("nan"))),
        *(("rounds", value) for value in (-1, 0, 17, 10**30)),
        *(("clip", value) for value in (-0.5, 0.0, 1e7, 1e308, float("nan"), float("inf"), 1e-9)),
        *(("learning_rate", value) for value in (-1.0, 0.0, 1e7, float("nan"), float("-inf"))),
        *(("sigma2", value) for value in (-5, 0, 2**101, 0.5, float("nan"), float("inf"))),
        *(("evaluation_sigma2", value) for value in (-5, 0, 2**101, float("nan"))),
        *(("divisor", value) for value in (-300, 0, 2**40)),
        *(("grid_bits", value) for value in (0, -3, 41, 10**9)),
        *(("dimension", value) for value in (0, -26, 2**31)),
        *(("max_records", value) for value in (0, -1, 3, 10**6)),
        *(("rate_ppm", value) for value in (0, -1, 10**6, 500)),
        ("sampling", "poisson"),
        ("sampling", "shuffle"),
        ("unit", "household"),
        ("adapter", "everything"),
        ("noise", "off"),
    ],
)
def test_a_plan_that_is_none_is_never_read(
    make_gateway: MakeGateway, field: str, value: object
) -> None:
    """Negative, NaN, huge, of another type or of no meaning: no request comes of it."""
    spec = spec_for(trained_gateway(make_gateway))

    with pytest.raises(RecordError):
        RoundRequest.from_bytes(as_json(spec, **{field: value}))
    RoundRequest.from_bytes(as_json(spec))


@pytest.mark.parametrize(
    "plan",
    [
        {"sigma2": 1},
        {"sigma2": 1, "sampling": "poisson", "rate_ppm": 999_999},
        {"evaluation_sigma2": 1},
        {"steps": 10_000, "rounds": 16},
        {"clip": 100.0},
    ],
)
def test_more_than_the_budget_is_refused_for_free(
    make_gateway: MakeGateway, plan: dict[str, object]
) -> None:
    """Less noise, more steps, a larger clip: the ledger prices it and says no."""
    gateway = trained_gateway(make_gateway)

    with pytest.raises(ParticipationRefusedError, match="budget-exhausted"):
        ask(gateway, changed(spec_for(gateway), **plan))
    assert set(spent(gateway)) == {0} and gateway.trainers == []


@pytest.mark.parametrize(
    "plan", [{"unit": "subject"}, {"unit": "subject", "max_records": 5}, {"max_records": 5}]
)
def test_another_unit_is_refused(make_gateway: MakeGateway, plan: dict[str, object]) -> None:
    """Whom the bound protects is the owner's decision."""
    gateway = trained_gateway(make_gateway)

    with pytest.raises(ParticipationRefusedError, match="other-unit"):
        ask(gateway, changed(spec_for(gateway), **plan))
    assert set(spent(gateway)) == {0}


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [(1, 4, "windows-not-closed"), (3, 2, "windows-not-closed"), (0, 10**9, "windows-not-closed")],
)
def test_other_windows_are_refused(
    make_gateway: MakeGateway, first: int, last: int, reason: str
) -> None:
    """Windows that are open, to come or in no order belong to no run."""
    gateway = trained_gateway(make_gateway)
    spec = spec_for(gateway)
    me = spec.participants[0].model_copy(update={"first_window": first, "last_window": last})

    with pytest.raises(ParticipationRefusedError, match=reason):
        ask(gateway, spec.model_copy(update={"participants": (me,)}))
    assert set(spent(gateway)) == {0}


def test_a_thousand_retries_cost_one_run(make_gateway: MakeGateway) -> None:
    """The same question has one answer; another question under its name has none."""
    gateway = trained_gateway(make_gateway)
    spec = spec_for(gateway)
    first, charged = ask(gateway, spec), spent(gateway)

    for attempt in range(1_000):
        assert ask(gateway, spec) == first
        if attempt % 100 == 0:
            with pytest.raises(ParticipationRefusedError, match="used-for-other-content"):
                ask(gateway, changed(spec, sigma2=spec.plan.sigma2 + 1 + attempt), number=1)

    assert spent(gateway) == charged
    assert sum(trainer.asked for trainer in gateway.trainers) == 1


def test_a_thousand_runs_end_at_the_cap(make_gateway: MakeGateway) -> None:
    """Many cheap runs are each charged, until nothing is left; the cap holds at every moment."""
    gateway = trained_gateway(make_gateway)
    assert gateway.agent is not None
    base, policy = spec_for(gateway), gateway.agent.policy
    cheap = changed(base, sigma2=base.plan.sigma2 * 20, evaluation_sigma2=2_000)
    answered = 0
    for number in range(1_000):
        try:
            ask(gateway, cheap.model_copy(update={"run_id": f"run-{number}"}))
        except ParticipationRefusedError:
            continue
        answered += 1
        (spending,) = gateway.agent.ledger.spendings()
        assert spending.telemetry_nano + spending.training_nano <= cap_nano(policy)

    assert 5 < answered < 40


def test_another_cohort_is_refused(make_gateway: MakeGateway) -> None:
    """A gateway that a run does not name takes no part in it."""
    gateway = trained_gateway(make_gateway)
    other = Participant(gateway="0" * 32, public_key="0" * 64, first_window=1, last_window=3)

    with pytest.raises(ParticipationRefusedError, match="not-in-cohort"):
        ask(gateway, spec_for(gateway, participants=(other,)))


def test_a_dimension_of_another_adapter_is_refused(make_gateway: MakeGateway) -> None:
    """The vector that is sent must be as long as the plan says."""
    gateway = trained_gateway(make_gateway)

    with pytest.raises(ParticipationRefusedError, match="arrays-do-not-fit"):
        ask(gateway, changed(spec_for(gateway), dimension=len(ARRAYS)))
    assert set(spent(gateway)) == {0}


class TestAPlanForAnotherModel:
    """Its trainer would refuse it, but only after the charge: so the agent does, before."""

    @pytest.mark.parametrize(
        ("adapter", "dimension", "reason"),
        [
            ("input", 3, "other-dimension"),
            ("input", 6, "other-dimension"),
            ("head", 4, "other-dimension"),
            ("conv", 4, "no-such-adapter"),
            ("lora", 4, "no-such-adapter"),
            ("lora-b", 4, "no-such-adapter"),
        ],
    )
    @pytest.mark.parametrize("phase", ["train", "evaluate"])
    def test_it_costs_nothing(
        self, make_gateway: MakeGateway, adapter: str, dimension: int, reason: str, phase: str
    ) -> None:
        """Declined with the reason; no charge, no entry, no trainer, no answer. The run that fits
        has all of the budget afterwards."""
        gateway = trained_gateway(make_gateway)
        assert gateway.agent is not None
        spec, entries = spec_for(gateway), gateway.agent.ledger.size

        with pytest.raises(ParticipationRefusedError, match=reason):
            asked(gateway, changed(spec, adapter=adapter, dimension=dimension), phase)

        assert gateway.agent.ledger.size == entries
        assert set(spent(gateway)) == {0} and gateway.trainers == []
        kinds = {"train": "update", "evaluate": "counts"}
        assert asked(gateway, spec, phase).header.kind == kinds[phase]

    def test_of_another_task(self, make_gateway: MakeGateway) -> None:
        """Whatever else fits."""
        gateway = trained_gateway(make_gateway)
        assert gateway.agent is not None
        entries = gateway.agent.ledger.size

        with pytest.raises(ParticipationRefusedError, match="other-task"):
            asked(gateway, spec_for(gateway).model_copy(update={"task": "valve"}))
        assert gateway.agent.ledger.size == entries and set(spent(gateway)) == {0}

    def test_weights_are_read_once_for_a_release(
        self, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that asks a thousand times makes the agent read a file once."""
        gateway = trained_gateway(make_gateway)
        read: list[Path] = []

        def counted(path: Path) -> dict[AdapterKind, int]:
            read.append(path)
            return read_dimensions(path)

        monkeypatch.setattr(plan_fit, "read_dimensions", counted)
        for number in range(5):
            with pytest.raises(ParticipationRefusedError, match="other-dimension"):
                asked(gateway, changed(spec_for(gateway, f"run-{number}"), dimension=3))
        assert len(read) == 1

    def test_weights_that_cannot_be_read(self, make_gateway: MakeGateway) -> None:
        """Whether the plan fits is not known then: declined for free, and looked at again."""
        gateway = trained_gateway(make_gateway)
        assert gateway.agent is not None
        file = gateway.settings.state_dir / "slots" / "A" / "weights.npz"
        whole, entries = file.read_bytes(), gateway.agent.ledger.size

        for damaged in (b"", whole[:-40], b"no archive", whole.replace(b"<f4", b"<f8"), None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            with pytest.raises(ParticipationRefusedError, match="weights-not-readable"):
                asked(gateway, spec_for(gateway))
        assert gateway.agent.ledger.size == entries and set(spent(gateway)) == {0}

        file.write_bytes(whole)
        asked(gateway, spec_for(gateway))
