"""Private training: what one record can do is bounded, and everything leaves noised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fakes.digits_base import ExactNoise, base_weights, camera_records, grant, plan
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedge.data.blocks import LabelledRecords
from fedge.errors import ReservationError, SettingError, UpdateInvalidError
from fedge.learning.session import TrainingSession, on_grid
from fedge.models.weights import adapter_dimension
from fedge.privacy.noise import SeededNoise
from fedge.records import AdapterKind
from fedge.tasks.camera import LENS
from fedge.tasks.digits import CODE

PLAN = plan(steps=3, records=40)
ZERO = np.zeros(26, dtype=np.float32)
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True, width=64)


def records(count: int = 40) -> LabelledRecords:
    return camera_records(LENS, seed=5, count=count)


def session(of: LabelledRecords, noise: ExactNoise | SeededNoise, on=PLAN) -> TrainingSession:
    return TrainingSession(CODE, base_weights(), on, of, noise)


def train(of: LabelledRecords, on=PLAN) -> tuple[np.ndarray, list[np.ndarray]]:
    """The exact change of one round, and the exact sums before noise."""
    noise = ExactNoise()
    change = session(of, noise, on).round(ZERO, grant(on.events[0], on.steps))
    return change, noise.exact


def keep(of: LabelledRecords, rows: np.ndarray) -> LabelledRecords:
    names = ("slots", "blocks", "inputs", "labels", "predictions")
    return replace(of, **{name: getattr(of, name)[rows] for name in names})


class TestBound:
    @given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2), elements=ANY_FLOAT))
    def test_no_gradient_exceeds_the_clip(self, gradients: np.ndarray) -> None:
        """Whatever a gradient holds, its integers' squared norm is at most the charged one."""
        grid = on_grid(gradients, PLAN)

        assert grid.dtype == np.int64
        assert all(sum(int(v) ** 2 for v in row) <= PLAN.sensitivity2 for row in grid)

    @given(
        hnp.arrays(
            np.float64, (4, 26), elements=st.floats(min_value=-0.05, max_value=0.05, width=64)
        )
    )
    def test_rounding_goes_toward_zero(self, gradients: np.ndarray) -> None:
        """A gradient within the clip loses less than one grid step and never grows."""
        exact = gradients * 2.0**PLAN.grid_bits

        grid = on_grid(gradients, PLAN)

        assert (np.abs(grid) <= np.abs(exact) + 1e-6).all()
        assert (np.abs(grid - exact) < 1.0 + 1e-6).all()

    def test_a_long_gradient_keeps_its_direction(self) -> None:
        """Clipping shortens to the clip and nothing else."""
        gradient = np.zeros((1, 26))
        gradient[0, :2] = 3e8, 4e8

        grid = on_grid(gradient, PLAN)[0] / 2.0**PLAN.grid_bits

        np.testing.assert_allclose(grid[:2], [0.3, 0.4], atol=1e-4)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_row_that_is_not_finite_is_zero(self, value: float) -> None:
        """A non-finite gradient counts as zero and leaves the others alone."""
        gradients = np.full((3, 26), 0.01)
        gradients[1, 7] = value

        grid = on_grid(gradients, PLAN)

        assert not grid[1].any()
        assert grid[0].all()
        np.testing.assert_array_equal(grid[0], grid[2])

    def test_one_record_moves_the_sum_by_at_most_the_sensitivity(self) -> None:
        """Taking any record away changes the exact sum by no more than what is charged."""
        whole = records()
        _, sums = train(whole)
        for left_out in range(0, 40, 8):
            _, others = train(keep(whole, np.arange(40) != left_out))
            difference = sums[0] - others[0]
            assert int((difference * difference).sum()) <= PLAN.sensitivity2
            assert difference.any()


class TestRound:
    def test_moves_by_the_planned_arithmetic(self) -> None:
        """Each step is learning rate times noised sum over the public divisor."""
        change, sums = train(records())

        expected = sum(
            -PLAN.learning_rate * total / (2.0**PLAN.grid_bits * PLAN.divisor) for total in sums
        )
        assert len(sums) == PLAN.steps
        np.testing.assert_allclose(change, expected, rtol=1e-6)

    def test_learns_without_noise(self) -> None:
        """The change lowers the loss: more records are right than before."""
        whole = records()
        change, _ = train(whole, plan(steps=20, records=40))
        noise = ExactNoise()

        session(whole, noise).evaluate(change, grant(PLAN.events[1]))
        session(whole, noise).evaluate(ZERO, grant(PLAN.events[1]))

        assert noise.exact[0].item() > noise.exact[1].item()

    def test_at_most_the_planned_records_count(self) -> None:
        """Records beyond the planned number, in slot order, change nothing."""
        few, _ = train(records())
        more = camera_records(LENS, seed=5, count=40)
        extra = camera_records(LENS, seed=6, count=9)
        joined = LabelledRecords(
            *(
                np.concatenate([getattr(more, name), getattr(extra, name)])
                for name in ("slots", "blocks", "inputs", "labels", "predictions")
            )
        )

        np.testing.assert_array_equal(few, train(joined)[0])

    def test_a_bad_record_is_a_null_record(self) -> None:
        """A NaN input or an unknown label adds nothing, and costs the others nothing."""
        whole = records()
        bad = keep(whole, np.arange(40))
        bad.inputs[3] = np.nan
        bad.labels[9] = 10
        bad.labels[11] = -1
        good = keep(whole, ~np.isin(np.arange(40), [3, 9, 11]))

        np.testing.assert_allclose(train(bad)[0], train(good)[0], atol=1e-7)

    def test_inputs_are_clamped_to_public_bounds(self) -> None:
        """A value far out of bounds trains like the bound."""
        low, high = records(), records()
        low.inputs[2, 5], high.inputs[2, 5] = 1.0, 1e6

        np.testing.assert_array_equal(train(low)[0], train(high)[0])

    def test_without_records_the_planned_noise_is_sent(self) -> None:
        """A gateway without labels answers noise of the same size, not silence."""
        nothing = keep(records(), np.zeros(40, dtype=bool))
        change = session(nothing, SeededNoise(3)).round(ZERO, grant(PLAN.events[0], PLAN.steps))

        sigma = np.sqrt(PLAN.sigma2 * PLAN.steps) / 2.0**PLAN.grid_bits / PLAN.divisor
        assert change.std() == pytest.approx(PLAN.learning_rate * sigma, rel=0.4)
        assert session(nothing, ExactNoise()).evaluate(ZERO, grant(PLAN.events[1])) == 0

    def test_a_grant_is_used_up(self) -> None:
        """A second round under the same grant is refused."""
        once = grant(PLAN.events[0], PLAN.steps)
        trainer = session(records(), SeededNoise(3))
        trainer.round(ZERO, once)

        with pytest.raises(ReservationError):
            trainer.round(ZERO, once)

    def test_a_grant_for_less_noise_is_refused(self) -> None:
        """A grant with other parameters than the plan's lets nothing out."""
        other = PLAN.events[0].model_copy(update={"sigma2": PLAN.sigma2 - 1})
        noise = ExactNoise()

        with pytest.raises(ReservationError):
            session(records(), noise).round(ZERO, grant(other))
        assert noise.exact == []

    @pytest.mark.parametrize(
        "vector", [np.zeros(25, dtype=np.float32), np.full(26, np.nan, dtype=np.float32)]
    )
    def test_a_vector_that_does_not_fit_is_refused(self, vector: np.ndarray) -> None:
        """A wrong or non-finite start is refused before any noise is drawn."""
        noise = ExactNoise()

        with pytest.raises(UpdateInvalidError):
            session(records(), noise).round(vector, grant(PLAN.events[0]))
        assert noise.exact == []

    def test_a_plan_for_another_adapter_is_refused(self) -> None:
        """A plan's dimension must be the adapter's."""
        with pytest.raises(SettingError, match="26"):
            session(records(), ExactNoise(), plan(dimension=27))

    @pytest.mark.parametrize("kind", ["head", "lora-b", "lora", "conv"])
    def test_every_adapter_trains(self, kind: AdapterKind) -> None:
        """Whatever is adapted goes through the same steps."""
        size = adapter_dimension(base_weights(), kind)
        made = plan(size, adapter=kind, steps=10, records=40, learning_rate=0.5)
        noise = ExactNoise()
        trainer = session(records(), noise, made)
        start = np.zeros(size, dtype=np.float32)
        trainer.evaluate(start, grant(made.events[1]))
        change = trainer.round(start, grant(made.events[0], made.steps))
        trainer.evaluate(change, grant(made.events[1]))

        assert noise.exact[-1].item() > noise.exact[0].item()


class TestEvaluate:
    def test_answers_the_difference_of_right_answers(self) -> None:
        """Records that the candidate gets right, less those that the served model did."""
        whole = records()
        noise = ExactNoise()
        right = np.zeros(40, dtype=bool)
        right[:25] = True
        served = np.where(right, whole.labels, (whole.labels + 1) % 10)
        candidate = session(replace(whole, predictions=whole.labels * 0 - 1), noise)
        candidate.evaluate(ZERO, grant(PLAN.events[1]))
        correct = noise.exact[0].item()

        session(replace(whole, predictions=served), noise).evaluate(ZERO, grant(PLAN.events[1]))

        assert 0 < correct < 40
        assert noise.exact[1].item() == correct - 25

    def test_one_record_moves_it_by_at_most_one(self) -> None:
        """Nulling any record changes the exact difference by no more than what is charged."""
        whole = records()
        served = replace(whole, predictions=whole.labels)
        noise = ExactNoise()
        session(served, noise).evaluate(ZERO, grant(PLAN.events[1]))
        for row in range(0, 40, 4):
            nulled = keep(served, np.arange(40))
            nulled.labels[row] = -1
            session(nulled, noise).evaluate(ZERO, grant(PLAN.events[1]))

        whole_difference, *others = [exact.item() for exact in noise.exact]
        assert {abs(other - whole_difference) for other in others} == {0, 1}

    def test_half_the_noise_of_two_counts_at_the_same_charge(self) -> None:
        """One difference is as sensitive as one count; two counts' noise adds up."""
        event = PLAN.evaluation_event

        assert (event.sensitivity2, event.dimension) == (1, 1)
        assert PLAN.smallest_detectable() == pytest.approx(2.486 * np.sqrt(100), rel=1e-3)
        assert PLAN.smallest_detectable(5) == pytest.approx(2.486 * np.sqrt(500), rel=1e-3)
        assert PLAN.smallest_detectable(level=0.999) > PLAN.smallest_detectable(power=0.9)
