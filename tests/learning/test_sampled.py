"""Poisson sampled steps: planned, exact in number, and each unit by itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes.digits_base import base_weights, camera_records, demo_policy, grant, plan

from fedge.config import TrainingSettings
from fedge.data.blocks import LabelledRecords
from fedge.errors import ReservationError, SettingError
from fedge.learning import sampled
from fedge.learning.adapters import TrainableAdapter
from fedge.learning.aggregation import norm_bound
from fedge.learning.planning import noise_multiplier, plan_training, run_nano
from fedge.learning.session import TrainingSession
from fedge.models.weights import adapter_dimension
from fedge.privacy.grants import Grant
from fedge.privacy.noise import OsNoise, SeededNoise, os_normals
from fedge.privacy.rdp import cap_nano, telemetry_nano
from fedge.records import AdapterKind, PoissonGaussianEvent, TrainingPlan
from fedge.tasks.camera import LENS
from fedge.tasks.digits import CODE

ROWS = 60
KINDS: tuple[AdapterKind, ...] = ("input", "head", "lora-b", "lora", "conv")


def sampled_plan(kind: AdapterKind = "input", **settings: object) -> TrainingPlan:
    """A plan of 60 records that is sampled as if that were many."""
    asked = {"adapter": kind, "steps": 3, "records": ROWS, "sample_above": 10, "sample": 20}
    dimension = adapter_dimension(base_weights(), kind)
    return plan(dimension, **{**asked, **settings})


class Exact(SeededNoise):
    """Draws no noise, remembers the sums, and samples what a test says."""

    def __init__(self, *samples: np.ndarray) -> None:
        super().__init__(0)
        self.samples, self.exact = list(samples), []

    def poisson_sample(self, units: int, rate_ppm: int) -> np.ndarray:
        return self.samples.pop(0) if self.samples else super().poisson_sample(units, rate_ppm)

    def gaussian(self, exact, *, unit, sensitivity2, sigma2, rate_ppm, grant):
        grant.take(sensitivity2, sigma2, exact.size, rate_ppm=rate_ppm)
        self.exact.append(exact.copy())
        return exact


def _huge(session: TrainingSession, rows: LabelledRecords) -> np.ndarray:
    """A place at which a row's gradient is a third of what float32 holds: ten overflow."""
    adapter = session._adapter
    down = np.concatenate([np.full(p.size, p.part == "down") for p in adapter._pieces])
    adapter.set_change((1e6 * down).astype(np.float32))
    largest = np.abs(adapter.row_gradients(session._prepared, session._labels)).max()
    return (1e6 * down * (0.3 * 3.4e38 / largest)).astype(np.float32)


def records(count: int = ROWS) -> LabelledRecords:
    return camera_records(LENS, seed=5, count=count)


def train(of: LabelledRecords, made: TrainingPlan, noise: SeededNoise) -> np.ndarray:
    session = TrainingSession(CODE, base_weights(), made, of, noise)
    return session.round(np.zeros(made.dimension, np.float32), grant(made.round_event))


def everybody(count: int = ROWS) -> np.ndarray:
    return np.ones(count, dtype=bool)


class TestPlan:
    def test_large_runs_are_sampled(self) -> None:
        """Beyond some 2,000 planned records: a rate, its divisor, and an event of that kind."""
        small = plan(records=2_000)
        large = plan(records=20_000)

        assert (small.sampling, small.rate_ppm) == ("full", None)
        assert (large.sampling, large.rate_ppm) == ("poisson", 25_000)
        assert large.step_divisor == 500
        event = large.round_event
        assert isinstance(event, PoissonGaussianEvent)
        assert (event.rate_ppm, event.count) == (25_000, large.steps)

    def test_all_of_the_budget_and_no_more(self) -> None:
        """Calibrated before any data: one grain less noise would overdraw the block."""
        policy, made = demo_policy(), plan(records=20_000)
        left = cap_nano(policy) - telemetry_nano(policy)

        assert run_nano(made, policy.alpha) <= left
        louder = made.model_copy(update={"sigma2": made.sigma2 - 1})
        assert run_nano(louder, policy.alpha) > left

    def test_sampling_needs_less_noise(self) -> None:
        """What a rate of 1 in 40 is for."""
        assert noise_multiplier(plan(records=20_000)) < noise_multiplier(plan()) / 5

    def test_a_rate_belongs_to_sampling(self) -> None:
        """A plan with one and not the other is no plan."""
        for change in ({"rate_ppm": None}, {"sampling": "full"}, {"rate_ppm": 10**6}):
            with pytest.raises(ValueError, match="rate"):
                TrainingPlan.model_validate(sampled_plan().model_dump() | change)

    def test_an_old_plan_reads_as_full_batch(self) -> None:
        """Plans from before know nothing of sampling, units or subjects."""
        later = {"sampling", "rate_ppm", "unit", "max_records"}
        old = {k: v for k, v in plan().model_dump().items() if k not in later}

        assert TrainingPlan.model_validate(old) == plan()

    def test_more_expected_than_planned_is_nearly_all(self) -> None:
        """A sample size above the number of records keeps a rate below one."""
        made = plan_training(
            demo_policy(), TrainingSettings(records=60, sample_above=10, sample=600), 26
        )
        assert made.rate_ppm == 10**6 - 1


class TestGradients:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_step_is_the_clipped_sum_over_the_sample(self, kind: AdapterKind) -> None:
        """Opacus's sums are those of the closed forms, row by row and clipped by hand."""
        made = sampled_plan(kind, steps=1)
        chosen = np.arange(ROWS) % 3 == 0
        noise = Exact(chosen)
        of = records()
        change = train(of, made, noise)

        adapter = TrainableAdapter(CODE, base_weights(), kind)
        inputs = of.inputs.reshape(-1, 1, 8, 8)
        rows = adapter.row_gradients(adapter.prepared(inputs), torch.from_numpy(of.labels))[chosen]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        expected = (rows * np.minimum(1.0, made.clip / (norms + 1e-6))).sum(axis=0)
        np.testing.assert_allclose(noise.exact[0], expected, rtol=1e-3, atol=1e-4)
        step = made.learning_rate / made.step_divisor
        np.testing.assert_allclose(change, -step * expected, rtol=1e-3, atol=1e-6)

    def test_a_large_sample_in_pieces_is_the_same_sum(self, monkeypatch) -> None:
        """However many rows are held at once, the sum of a sample is one."""
        made = sampled_plan(steps=1)
        whole, pieces = Exact(everybody()), Exact(everybody())
        train(records(), made, whole)
        monkeypatch.setattr(sampled, "CHUNK_ROWS", 7)
        train(records(), made, pieces)

        assert len(pieces.exact) == 1
        np.testing.assert_allclose(pieces.exact[0], whole.exact[0], rtol=1e-4, atol=1e-5)

    def test_an_empty_sample_makes_a_noised_step(self) -> None:
        """Every planned step draws noise, also about nobody."""
        made = sampled_plan(steps=2)
        change = train(records(), made, Exact(~everybody(), ~everybody()))
        assert not change.any()

        seeded = SeededNoise(3)
        seeded.poisson_sample = lambda units, rate: np.zeros(units, bool)  # type: ignore[method-assign]
        assert train(records(), made, seeded).all()

    def test_without_records_the_planned_noise_is_sent(self) -> None:
        """A gateway without labels answers noise of the same size, not silence."""
        made = sampled_plan(steps=100)
        change = train(records(0), made, SeededNoise(1))

        sigma = np.sqrt(made.sigma2 * made.steps) / 2.0**made.grid_bits / made.step_divisor
        assert change.std() == pytest.approx(made.learning_rate * sigma, rel=0.4)

    def test_a_row_that_is_not_finite_adds_nothing(self) -> None:
        """A NaN gradient is zero and leaves the others alone."""
        made = sampled_plan(steps=1)
        bad, good = Exact(everybody()), Exact(np.arange(ROWS) != 4)
        spoilt = replace(records(), inputs=records().inputs.copy())
        spoilt.inputs[4] = np.nan
        train(spoilt, made, bad)
        train(records(), made, good)

        np.testing.assert_allclose(bad.exact[0], good.exact[0], rtol=1e-3, atol=1e-5)

    def test_one_record_moves_a_sum_by_at_most_the_clip(self) -> None:
        """Up to floating point, which is what the event is marked with."""
        made = sampled_plan(steps=1)
        whole = Exact(everybody())
        train(records(), made, whole)
        for row in range(0, ROWS, 15):
            without = Exact(np.arange(ROWS) != row)
            train(records(), made, without)
            moved = np.linalg.norm(whole.exact[0] - without.exact[0])
            assert 0 < moved <= made.clip * (1 + 1e-4)

    def test_a_person_is_sampled_and_clipped_as_one(self) -> None:
        """All rows of a subject share one draw and one clip."""
        subjects = np.ones((ROWS, 16), dtype=np.uint8)
        subjects[:, 0] = np.arange(ROWS) % 6
        made = sampled_plan(steps=1).model_copy(update={"unit": "subject", "max_records": 10})
        noise = Exact(np.ones(6, dtype=bool))
        train(replace(records(), subjects=subjects), made, noise)

        assert np.linalg.norm(noise.exact[0]) <= 6 * made.clip * (1 + 1e-4)

    def test_a_person_who_is_not_drawn_is_in_no_sum(self) -> None:
        """With none of their rows, however many; and one bad row takes no other with it."""
        subjects = np.ones((ROWS, 16), dtype=np.uint8)
        subjects[:, 0] = np.arange(ROWS) // 10
        people = replace(records(), subjects=subjects)
        made = sampled_plan(steps=1).model_copy(update={"unit": "subject", "max_records": 10})
        others = subjects[:, 0] != 2
        spoilt = replace(people, inputs=people.inputs.copy())
        spoilt.inputs[24] = np.nan  # theirs
        others_or_spoilt = others | (np.arange(ROWS) == 24)

        for given, absent in ((people, others), (spoilt, others_or_spoilt)):
            drawn, alone = Exact(np.arange(6) == 2), Exact(np.ones(6, dtype=bool))
            train(given, made, drawn)
            train(replace(people, labels=np.where(absent, -1, people.labels)), made, alone)
            assert drawn.exact[0].any()
            np.testing.assert_allclose(drawn.exact[0], alone.exact[0], rtol=1e-4, atol=1e-6)

    def test_a_person_whose_sum_overflows_adds_nothing(self) -> None:
        """Finite gradients may add up to infinity: a failure would tell about the records."""
        subjects = np.zeros((ROWS, 16), dtype=np.uint8)
        subjects[:, 0] = 1 + np.arange(ROWS) % 6
        made = sampled_plan("lora", steps=1).model_copy(
            update={"unit": "subject", "max_records": 10}
        )
        alike = replace(
            records(),
            inputs=np.repeat(records().inputs[:1], ROWS, axis=0),
            labels=np.repeat(records().labels[:1], ROWS),
            subjects=subjects,
        )
        noise = Exact(np.ones(6, dtype=bool))
        session = TrainingSession(CODE, base_weights(), made, alike, noise)

        session.round(_huge(session, alike), grant(made.round_event))

        assert not noise.exact[0].any()

    def test_the_trunk_stays_as_it_is(self) -> None:
        """Only the adapter moves, and the rest stays in eval mode."""
        made = sampled_plan("conv")
        session = TrainingSession(CODE, base_weights(), made, records(), SeededNoise(2))
        session.round(np.zeros(made.dimension, np.float32), grant(made.round_event))

        model = session._adapter.model
        for name, value in model.state_dict().items():
            name = name.replace("trunk.0.base.", "trunk.0.")
            if name in base_weights():
                np.testing.assert_array_equal(value.numpy(), base_weights()[name])
        training = {name for name, part in model.named_modules() if part.training}
        assert training == {"trunk.0.change"}


class TestSampler:
    @pytest.mark.parametrize("noise", [OsNoise(), SeededNoise(8)])
    def test_each_unit_enters_by_itself(self, noise) -> None:
        """Participation counts are binomial and sizes vary: no shuffled or fixed batches."""
        draws = np.array([noise.poisson_sample(200, 250_000) for _ in range(2_000)])

        expected, spread = 500, np.sqrt(2_000 * 0.25 * 0.75)
        assert (np.abs(draws.sum(axis=0) - expected) < 6 * spread).all()
        sizes = draws.sum(axis=1)
        assert sizes.var() == pytest.approx(200 * 0.25 * 0.75, rel=0.25)
        together = (draws[:, 0] & draws[:, 1]).mean()
        assert together == pytest.approx(0.0625, abs=0.03)

    def test_nobody_is_sampled_from_nobody(self) -> None:
        """No unit, no sample."""
        assert OsNoise().poisson_sample(0, 500_000).shape == (0,)

    def test_system_normals_are_normal(self) -> None:
        """Mean, variance and tails of what the system's entropy gives."""
        values = os_normals(100_000)

        assert abs(values.mean()) < 0.02
        assert values.var() == pytest.approx(1.0, abs=0.03)
        assert (np.abs(values) > 3).mean() == pytest.approx(0.0027, abs=0.0012)
        assert np.isfinite(values).all() and os_normals(0).shape == (0,)


class TestGrant:
    def test_exactly_the_planned_steps(self) -> None:
        """A round uses its grant up; a second one under it is refused before it samples."""
        made, noise = sampled_plan(), Exact()
        session = TrainingSession(CODE, base_weights(), made, records(), noise)
        once = grant(made.round_event)
        zero = np.zeros(made.dimension, np.float32)
        session.round(zero, once)

        assert (once.remaining, len(noise.exact)) == (0, made.steps)
        with pytest.raises(ReservationError):
            session.round(zero, once)
        assert len(noise.exact) == made.steps

    @pytest.mark.parametrize(
        "change", [{"rate_ppm": 1000}, {"sigma2": 7}, {"sensitivity2": 1}, {"dimension": 25}]
    )
    def test_a_grant_for_anything_else_is_refused(self, change: dict[str, int]) -> None:
        """Sampler, clip, noise and charge come from one plan or nothing runs."""
        made, noise = sampled_plan(), Exact()
        other = made.round_event.model_copy(update=change)
        with pytest.raises(ReservationError):
            session = TrainingSession(CODE, base_weights(), made, records(), noise)
            session.round(np.zeros(made.dimension, np.float32), grant(other))
        assert noise.exact == []

    def test_an_optimizer_that_left_the_plan_is_refused(self) -> None:
        """Half the noise or another clip is caught before the first step."""
        made = sampled_plan()
        session = TrainingSession(CODE, base_weights(), made, records(), Exact())
        zero = np.zeros(made.dimension, np.float32)
        session.round(zero, grant(made.round_event))
        optimizer = session._steps._optimizer
        for name in ("noise_multiplier", "max_grad_norm"):
            right = getattr(optimizer, name)
            setattr(optimizer, name, right / 2)
            with pytest.raises(ReservationError, match="not what was planned"):
                session.round(zero, grant(made.round_event))
            setattr(optimizer, name, right)
        session.round(zero, grant(made.round_event))

    def test_noise_is_of_the_planned_size(self) -> None:
        """Of the system's as of the seeded noise: sigma in units of the grid."""
        event = PoissonGaussianEvent(
            rate_ppm=10_000, sensitivity2=4, sigma2=10_000, count=1, dimension=20_000
        )
        zeros = np.zeros(20_000)
        given = {"unit": 0.5, "sensitivity2": 4, "sigma2": 10_000, "rate_ppm": 10_000}
        real = Grant(1, "test", event, simulated=False)

        assert OsNoise().gaussian(zeros, **given, grant=real).std() == pytest.approx(50, rel=0.05)
        seeded = SeededNoise(1).gaussian(zeros, **given, grant=grant(event))
        assert seeded.std() == pytest.approx(50, rel=0.05)
        with pytest.raises(ReservationError):
            SeededNoise(1).gaussian(zeros, **given, grant=Grant(1, "test", event, simulated=False))
        with pytest.raises(SettingError):
            OsNoise().gaussian(zeros + np.nan, **given, grant=grant(event))
        with pytest.raises(TypeError):
            OsNoise().gaussian(zeros.astype(np.float32), **given, grant=grant(event))


def test_honest_updates_pass_the_centres_check() -> None:
    """What a sampled round sends is within the norm bound of its plan."""
    made = sampled_plan()
    sent = train(records(), made, SeededNoise(1))

    assert 0 < np.linalg.norm(sent) < norm_bound(made)


@pytest.mark.slow
def test_sampled_steps_learn() -> None:
    """A sampled run under its noise gains records over the release it began from."""
    many = LabelledRecords(
        *(
            np.concatenate([getattr(camera_records(LENS, 5, g, 600), name) for g in range(5)])
            for name in ("slots", "blocks", "inputs", "labels", "predictions")
        )
    )
    made = plan(records=3_000, steps=30, rounds=1, learning_rate=2.4)
    assert made.sampling == "poisson"
    session = TrainingSession(CODE, base_weights(), made, many, SeededNoise(2))
    zero = np.zeros(26, np.float32)
    change = session.round(zero, grant(made.round_event))

    before = session.evaluate(zero, grant(made.evaluation_event))
    after = session.evaluate(change, grant(made.evaluation_event))
    assert after - before > made.smallest_detectable()


def test_only_sampled_runs_load_opacus() -> None:
    """It is slow to load: a full-batch session never does."""
    program = (
        "import sys, fedge.learning.session, fedge.learning.planning;"
        "sys.exit('opacus' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
