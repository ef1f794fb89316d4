"""Broken sensors have a mark; changed processes have none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from fedge.drift.sensor_faults import Fault, broken_relation, histogram_fault, value_fault

Floats = NDArray[np.float64]


def channel(seed: int, rows: int = 600, *, mean: float = 20.0) -> Floats:
    """An autocorrelated channel with a spread of about 2."""
    rng = np.random.default_rng(seed)
    values = np.empty(rows)
    state = 0.0
    for row, step in enumerate(rng.normal(size=rows)):
        state = 0.8 * state + 0.6 * step
        values[row] = mean + 2 * state
    return values


NORMAL = channel(0)
NOW = channel(1, 120)


def kind_of(fault: Fault | None) -> str | None:
    return None if fault is None else fault.kind


@pytest.mark.parametrize(
    ("recent", "kind"),
    [
        (np.concatenate([NOW[:20], np.full(60, NOW[20])]), "stuck"),
        (np.concatenate([NOW[:20], np.zeros(60)]), "dead"),
        (np.full(80, NORMAL.min() - 3), "dead"),
        (np.full(80, math.nan), "dead"),
        (np.full(80, NORMAL.max() + 1), "saturated"),
        (np.minimum(NOW, 20.5), "saturated"),
        (np.maximum(NOW, 19.5), "saturated"),
        (NOW * 1.8 + 0.0, "unit-change"),
        (NOW / 1000, "unit-change"),
    ],
)
def test_a_broken_channel_is_recognised(recent: Floats, kind: str) -> None:
    assert kind_of(value_fault(NORMAL, recent)) == kind


@pytest.mark.parametrize(
    "recent",
    [
        NOW,
        NOW + 4,
        NOW - 10,
        (NOW - 20) * 1.5 + 20,
        np.round(NOW),
        np.where(np.arange(120) % 3 == 0, math.nan, NOW),
        NOW[:4],
    ],
    ids=["same", "shifted", "far", "wider", "coarser", "gaps", "few"],
)
def test_a_changed_process_is_no_broken_channel(recent: Floats) -> None:
    """Shifts, wider spread, coarser digits and gaps happen to healthy sensors."""
    assert value_fault(NORMAL, recent) is None


def test_a_valve_that_stays_closed_is_not_stuck() -> None:
    """Runs of a value that is usual prove nothing."""
    rng = np.random.default_rng(2)
    valve = np.where(rng.random(500) < 0.4, 0.0, rng.uniform(5, 9, 500))

    assert value_fault(valve, np.zeros(60)) is None
    assert kind_of(value_fault(valve, np.full(60, 7.0))) == "stuck"


def test_the_factor_is_told() -> None:
    fault = value_fault(NORMAL, NOW * 2.54)

    assert fault is not None
    assert fault.value == pytest.approx(2.54, rel=0.1)


def related(seed: int, rows: int) -> Floats:
    """Three channels driven by one cause, and one that is on its own."""
    rng = np.random.default_rng(seed)
    cause = rng.normal(size=rows)
    noise = rng.normal(size=(rows, 4))
    return np.column_stack([cause, -cause, 2 * cause, np.zeros(rows)]) + noise * [0.4, 0.4, 0.8, 1]


class TestOffset:
    def test_one_channel_leaves_its_kin(self) -> None:
        recent = related(1, 100)
        recent[:, 2] += 6.0
        fault = broken_relation(related(0, 800), recent, 2)

        assert kind_of(fault) == "offset"
        assert fault is not None
        assert fault.value > 1.5

    def test_a_common_cause_breaks_nothing(self) -> None:
        """Kin that move together are a process on the move."""
        recent = related(1, 100) + 3 * np.array([1, -1, 2, 0])

        assert all(broken_relation(related(0, 800), recent, c) is None for c in range(4))

    def test_a_channel_without_kin_just_moved(self) -> None:
        """Nothing says what it should be: a shift of it is a change of the inputs."""
        recent = related(1, 100)
        recent[:, 3] += 3.0

        assert broken_relation(related(0, 800), recent, 3) is None

    def test_a_channel_that_may_have_moved_by_itself_is_hardly_called_broken(self) -> None:
        """What is measured moves alone at times; the farther, the surer."""
        sure = []
        for shift in (1.0, 1.5, 3.0, 6.0):
            recent = related(1, 100)
            recent[:, 2] += shift * related(0, 800)[:, 2].std()
            fault = broken_relation(related(0, 800), recent, 2)
            sure.append(0.0 if fault is None else fault.certainty)

        assert sure[0] == 0.0
        assert sure[1] < 0.6 < sure[2] < sure[3] <= 0.95

    def test_no_channel_is_to_blame_when_many_relations_broke(self) -> None:
        recent = related(1, 100) + np.array([3.0, 3.0, -5.0, 0.0])

        assert all(broken_relation(related(0, 800), recent, c) is None for c in range(3))


class TestHistograms:
    BEFORE = np.full(16, 100)

    @pytest.mark.parametrize(("filled", "kind"), [(7, "stuck"), (0, "dead"), (15, "saturated")])
    def test_all_rows_in_one_bin(self, filled: int, kind: str) -> None:
        now = np.zeros(16)
        now[filled] = 200

        assert kind_of(histogram_fault(self.BEFORE, now)) == kind

    def test_clipped_is_not_shifted(self) -> None:
        """A clipped channel keeps its other end, a shifted one does not."""
        clipped = np.array([20.0] * 11 + [0] * 4 + [100])
        shifted = np.array([0.0] * 8 + [2, 3, 5, 10, 20, 40, 60, 180])

        assert kind_of(histogram_fault(self.BEFORE, clipped)) == "saturated"
        assert histogram_fault(self.BEFORE, shifted) is None

    def test_noise_feigns_no_fault(self) -> None:
        """A few rows under strong noise are no evidence."""
        now = np.zeros(16)
        now[7] = 60

        assert histogram_fault(self.BEFORE, now, noise=900.0) is None
        assert histogram_fault(self.BEFORE, np.zeros(16)) is None


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_infinite_values_are_a_fault_of_their_own(share: float) -> None:
    """Not a dead channel: it says something, and no process says that."""
    rng = np.random.default_rng(3)
    recent = np.where(rng.random(200) < share, np.inf, rng.normal(size=200))

    fault = value_fault(rng.normal(size=500), recent)

    assert fault is not None and fault.kind == "saturated"
    assert fault.value == np.inf


def test_infinite_values_that_the_reference_had_are_no_fault() -> None:
    rng = np.random.default_rng(4)
    values = np.where(rng.random(700) < 0.2, np.inf, rng.normal(size=700))

    assert value_fault(values[:500], values[500:]) is None


def test_numbers_near_the_largest_are_judged_like_others() -> None:
    values = np.random.default_rng(0).normal(5.0, 1.0, size=400)

    with np.errstate(over="raise", invalid="raise"):
        fault = value_fault(values * 1e306, values[:100] * 1e307)

    assert fault is not None and fault.kind == "unit-change"
    assert fault.value == pytest.approx(10.0, rel=0.1)


def test_a_wild_factor_is_seen_though_the_window_began_before_it() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=500)
    recent = values[400:450].copy()
    recent[20:] *= 1000

    fault = value_fault(values[:400], recent)

    assert fault is not None and fault.kind == "unit-change"
    assert fault.value == pytest.approx(1000, rel=0.4)


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        (lambda celsius: 1.8 * celsius + 32.0, "unit-change"),
        (lambda celsius: celsius + 60.0, "offset"),
    ],
)
def test_a_level_far_beyond_the_range_is_no_process(
    changed: Callable[[np.ndarray], np.ndarray], kind: str
) -> None:
    """Degrees Fahrenheit have another zero, so that no factor fits; the level tells it."""
    rng = np.random.default_rng(11)
    celsius = 20.0 + 2.0 * rng.normal(size=1_000)

    fault = value_fault(celsius[:800], np.concatenate([celsius[800:840], changed(celsius[840:])]))

    assert fault is not None and fault.kind == kind


def test_a_level_that_the_process_may_reach_is_no_fault() -> None:
    """Three standard deviations away, mostly outside the range: drift, but no broken sensor."""
    rng = np.random.default_rng(12)

    assert value_fault(rng.normal(size=800), rng.normal(size=200) + 4.5) is None


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("before", "after"), [(1e-310, 1e307), (1e307, 1e-310), (1e307, 1e307)])
def test_the_largest_and_smallest_numbers_do_no_harm(before: float, after: float) -> None:
    """A jump beyond what doubles can divide is no fault of known size, and no crash."""
    values = np.random.default_rng(0).normal(size=(2, 300))

    found = value_fault(values[0] * before, values[1] * after)

    assert found is None or np.isfinite(found.value)
