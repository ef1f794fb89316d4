"""Local change detectors: what each promises, and what river alone would get wrong."""

from __future__ import annotations

import doctest
import math
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fedge.drift.local import detectors
from fedge.drift.local.baseline import BaselineDetector
from fedge.drift.local.detectors import AdwinDetector, Detector, PageHinkleyDetector, Signal
from fedge.errors import NonFiniteValueError, SettingError

numbers = st.floats(allow_nan=False, allow_infinity=False)
few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    # The contract is inherited: each class runs it on a detector of its own.
    suppress_health_check=[HealthCheck.differing_executors],
)


def steps(detector: Detector, values: Sequence[float]) -> list[Signal]:
    return [detector.update(value) for value in values]


class DetectorContract:
    """What every detector promises. A subclass says how to build one.

    Attributes:
        before, after: values on either side of a shift that it must see at once.
        patience: values after the shift within which it is reported.
    """

    before, after, patience = 20.0, 23.0, 40
    quiet = 200
    """Values by which its warm-up is over."""

    def make(self) -> Detector:
        raise NotImplementedError

    def state(self, detector: Any) -> object:
        """What it holds of the stream, to be measured."""
        return detector

    def stream(self, seed: int = 1) -> list[float]:
        """Noise of one spread around `before`, then around `after`."""
        noise = np.random.default_rng(seed).normal(scale=0.5, size=2 * self.quiet)
        level = np.repeat([self.before, self.after], self.quiet)
        return [float(value) for value in noise + level]

    @few
    @given(values=st.lists(numbers, max_size=120))
    def test_the_same_values_always_give_the_same_answers(self, values: list[float]) -> None:
        """A detector depends on nothing but what it was given."""
        assert steps(self.make(), values) == steps(self.make(), values)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_bad_value_changes_nothing(self, bad: float) -> None:
        """A NaN is refused and leaves no trace in later answers."""
        clean, poked = self.make(), self.make()
        first, *rest = self.stream()
        assert clean.update(first) == poked.update(first)

        for value in rest:
            with pytest.raises(NonFiniteValueError):
                poked.update(bad)
            assert clean.update(value) == poked.update(value)

    @few
    @given(value=numbers)
    @example(value=0.1)
    @example(value=1e300)
    @example(value=-5e-324)
    def test_quiet_on_a_constant(self, value: float) -> None:
        """However large the constant is: rounding is no drift."""
        assert Signal.DRIFT not in steps(self.make(), [value] * 2 * self.quiet)

    def test_a_clear_step_is_seen_once(self) -> None:
        """Soon after it came, not before, and not again for the same step."""
        signals = steps(self.make(), self.stream())

        (at,) = [n for n, signal in enumerate(signals) if signal is Signal.DRIFT]
        assert self.quiet <= at < self.quiet + self.patience

    def test_it_warms_up_first_and_is_stable_then(self) -> None:
        """No verdict before there is a baseline, and then one after each value."""
        signals = steps(self.make(), self.stream()[: self.quiet])

        ready = signals.index(Signal.STABLE)
        assert 1 <= ready < self.quiet
        assert set(signals[:ready]) == {Signal.WARMING_UP}
        assert set(signals[ready:]) == {Signal.STABLE}

    def test_after_a_drift_it_is_as_new(self) -> None:
        """The next value starts a baseline that owes nothing to the one before."""
        used, values = self.make(), self.stream()
        steps(used, values[: steps(self.make(), values).index(Signal.DRIFT) + 1])
        again = self.stream(seed=2)

        assert steps(used, again) == steps(self.make(), again)

    def test_a_drift_back_is_a_drift_again(self) -> None:
        """What was normal once is no longer."""
        values = self.stream()
        signals = steps(self.make(), values + values[: self.quiet])
        assert signals.count(Signal.DRIFT) == 2

    @few
    @given(values=st.lists(numbers, min_size=50, max_size=100))
    def test_no_finite_value_breaks_it(self, values: list[float]) -> None:
        """However large, and whatever became of the sums: it goes on answering."""
        detector = self.make()
        assert all(isinstance(signal, Signal) for signal in steps(detector, values * 4))

    def test_memory_does_not_grow_with_the_stream(self) -> None:
        """Ten times the stream takes, at most, the logarithm more."""
        detector = self.make()
        values = np.random.default_rng(3).normal(self.before, 0.5, size=22_000).tolist()
        steps(detector, values[:2000])
        tracemalloc.start()
        size = len(pickle.dumps(self.state(detector)))
        used, _ = tracemalloc.get_traced_memory()

        steps(detector, values[2000:])

        now, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(pickle.dumps(self.state(detector))) <= size + 1024
        assert now - used < 20_000


class TestAdwin(DetectorContract):
    def make(self) -> AdwinDetector:
        return AdwinDetector(scale=1.0)

    def state(self, detector: Any) -> object:
        return detector._river._helper

    @pytest.mark.parametrize(
        "bad",
        [
            *({"delta": value} for value in (0.0, 1.0, math.nan)),
            *({"scale": value} for value in (0.0, -1.0, math.nan, math.inf)),
            *({"warmup": 0}, {"direction": "sideways"}),
        ],
    )
    def test_wrong_settings_are_refused(self, bad: dict[str, Any]) -> None:
        with pytest.raises(SettingError):
            AdwinDetector(**bad)

    def test_only_the_direction_that_was_asked_for_is_told(self) -> None:
        """A fall is no rise; what follows it is compared with the level after it."""
        down = [2 * self.before - value for value in self.stream()]
        rising = AdwinDetector(scale=1.0, direction="up")

        assert Signal.DRIFT not in steps(rising, down)
        assert Signal.DRIFT in steps(rising, [v + 3.0 for v in down[self.quiet :]])
        assert Signal.DRIFT in steps(AdwinDetector(scale=1.0, direction="down"), down)


class TestPageHinkley(DetectorContract):
    def make(self) -> PageHinkleyDetector:
        return PageHinkleyDetector(threshold=6.0, slack=0.25)

    @pytest.mark.parametrize(
        "bad",
        [
            *({"threshold": value} for value in (0.0, -1.0, math.nan, math.inf)),
            *({"slack": value} for value in (-0.1, math.nan, math.inf)),
            *({"warmup": 0}, {"direction": "sideways"}),
        ],
    )
    def test_wrong_settings_are_refused(self, bad: dict[str, Any]) -> None:
        with pytest.raises(SettingError):
            PageHinkleyDetector(**{"threshold": 1.0, "slack": 0.1, **bad})

    def test_only_the_direction_that_was_asked_for_is_told(self) -> None:
        """A drop is not an upward shift, however large."""
        down = [2 * self.before - value for value in self.stream()]
        for direction, told in (("up", False), ("down", True), ("both", True)):
            detector = PageHinkleyDetector(threshold=6.0, slack=0.25, direction=direction)
            assert (Signal.DRIFT in steps(detector, down)) == told, direction

    def test_time_alone_is_no_drift(self) -> None:
        """river's own defaults forget, and alarm on long noise of an ordinary size."""
        values = np.random.default_rng(5).normal(scale=0.3, size=60_000).tolist()
        detector = PageHinkleyDetector(threshold=12 * 0.3, slack=0.5 * 0.3)
        assert Signal.DRIFT not in steps(detector, values)


class GroupedContract(DetectorContract):
    """A detector behind a baseline: a value is a row, a verdict takes a group."""

    patience, quiet = 80, 320

    def inside(self) -> Callable[[], Detector]:
        raise NotImplementedError

    def make(self) -> BaselineDetector:
        return BaselineDetector(self.inside(), rows=8, groups=20, floor=0.05)

    def state(self, detector: Any) -> object:
        return detector._buffer, detector._first, detector._recent

    @few
    @given(cuts=st.lists(st.integers(0, 640), max_size=8))
    def test_rows_at_once_are_rows_one_by_one(self, cuts: list[int]) -> None:
        """How the rows were cut into pieces shows in no answer."""
        values, ends = np.array(self.stream()), [0, *sorted(cuts), 2 * self.quiet]
        one, many = self.make(), self.make()
        for start, end in pairwise(ends):
            told = steps(one, values[start:end].tolist())
            found = many.extend(values[start:end])
            assert (found is Signal.DRIFT) == (Signal.DRIFT in told)
        assert one.baseline == many.baseline and one.level_now == many.level_now

    def test_a_bad_row_spoils_no_piece(self) -> None:
        """Refused as a whole, so that whoever gave it knows what was taken."""
        clean, poked = self.make(), self.make()
        with pytest.raises(NonFiniteValueError):
            poked.extend(np.array([1.0, 2.0, math.nan]))
        assert steps(clean, self.stream()) == steps(poked, self.stream())

    def test_a_known_baseline_is_as_good_as_one_just_taken(self) -> None:
        """A restarted process goes on where its baseline stood."""
        values = self.stream()
        first = self.make()
        steps(first, values[:160])
        second = BaselineDetector(
            self.inside(), rows=8, groups=20, floor=0.05, known=first.baseline
        )
        assert len(first.baseline) == 20 and second.level == first.level
        assert steps(second, values[160:]) == steps(first, values[160:])

    @pytest.mark.parametrize("known", [[1.0] * 19, [math.nan] * 20])
    def test_half_a_baseline_is_none(self, known: list[float]) -> None:
        detector = BaselineDetector(self.inside(), rows=8, groups=20, floor=0.05, known=known)
        assert detector.baseline == () and detector.update(1.0) is Signal.WARMING_UP

    def test_levels_tell_what_moved(self) -> None:
        """Also where rows of the next baseline came in the same piece."""
        detector = self.make()
        assert detector.extend(np.array(self.stream())) is Signal.DRIFT
        assert detector.shift is not None
        before, after = detector.shift
        assert before == pytest.approx(self.before, abs=0.3) and after > self.before + 0.5
        assert detector.level_now == pytest.approx(self.after, abs=0.5)

    def test_a_baseline_that_moved_is_none(self) -> None:
        """A step while it was taken would make every later one look small."""
        noise = np.random.default_rng(4).normal(scale=0.5, size=320)
        detector = self.make()
        detector.extend(noise[:160] + np.repeat([20.0, 23.0], 80))
        assert detector.baseline == () and detector.level is None
        detector.extend(noise[160:] + 23.0)
        assert detector.level == pytest.approx(23.0, abs=0.2) and detector.baselines == 1

    def test_a_stream_that_always_wanders_gets_a_baseline_at_last(self) -> None:
        """After some tries that were in vain: better a dull watch than none for ever."""
        trend = np.linspace(0.0, 400.0, 800)
        detector = self.make()
        assert detector.extend(trend[:479]) is Signal.WARMING_UP
        detector.extend(trend[479:])
        assert detector.baselines == 1

    def test_noise_below_the_floor_is_none(self) -> None:
        """A stream that hardly ever moves does not alarm at its first small move."""
        values = [0.999] * 400 + [0.998] * 400
        assert Signal.DRIFT not in steps(self.make(), values)

    @pytest.mark.parametrize(
        "bad", [{"rows": 0}, {"groups": 3}, {"floor": 0.0}, {"floor": math.nan}]
    )
    def test_wrong_settings_are_refused(self, bad: dict[str, Any]) -> None:
        with pytest.raises(SettingError):
            BaselineDetector(self.inside(), **{"floor": 0.05, **bad})


class TestAdwinOnRows(GroupedContract):
    def inside(self) -> Callable[[], Detector]:
        return lambda: AdwinDetector(scale=1.0, warmup=20)


class TestPageHinkleyOnRows(GroupedContract):
    def inside(self) -> Callable[[], Detector]:
        return lambda: PageHinkleyDetector(threshold=12.0, slack=0.5, warmup=20)


@pytest.mark.parametrize("kind", ["adwin", "page-hinkley"])
def test_rows_that_depend_on_each_other_are_no_drift(kind: str) -> None:
    """An autoregression of 0.9 for 300,000 rows; the bare test on its rows alarms all the time."""
    from fedge.drift.local.alarms import standard_detector

    rng, size = np.random.default_rng(11), 300_000
    noise = 0.3 * math.sqrt(1 - 0.9**2) * rng.normal(size=size)
    rows = np.empty(size)
    state = 0.0
    for n, step in enumerate(noise.tolist()):
        state = 0.9 * state + step
        rows[n] = state
    detector = BaselineDetector(lambda: standard_detector(kind, "both", 30), floor=0.05)
    alarms = sum(
        detector.extend(piece) is Signal.DRIFT for piece in np.array_split(rows, size // 3200)
    )
    bare = AdwinDetector(scale=1.0)
    assert alarms <= 1
    assert steps(bare, rows[:20_000].tolist()).count(Signal.DRIFT) >= 5


def test_the_examples_are_true() -> None:
    """What the docstrings show is what happens."""
    result = doctest.testmod(detectors)
    assert result.failed == 0 and result.attempted >= 6


PROGRAM = """
import sys
from fedge_client.agent.lean import ABSENT, Without
sys.meta_path.insert(0, Without(ABSENT))
from fedge.drift.local.detectors import AdwinDetector, PageHinkleyDetector
assert not any(name.partition(".")[0] == "river" for name in sys.modules)
AdwinDetector(), PageHinkleyDetector(threshold=1.0, slack=0.1)
heavy = {"pandas", "scipy", "sklearn", "narwhals", "polars"}
print("river" in sys.modules, sorted(heavy & set(sys.modules)))
if len(sys.argv) > 1:
    sys.meta_path.pop(0)
    import river.drift, river.stats
    from fedge.drift.local.river_parts import river_class
    assert river.drift.ADWIN is river_class("ADWIN") and river.drift.KSWIN and river.stats.Var
"""


@pytest.mark.parametrize("whole", [False, True], ids=["alone", "river afterwards"])
def test_of_river_only_the_detectors_are_loaded(whole: bool) -> None:
    """Even where pandas is kept out, as in the agent; river as a whole still works afterwards."""
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(["whole"] if whole else [])],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert answer.stdout.strip() == "True []"


def test_without_river_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the message says what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "river"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(SettingError, match=r"fedge\[drift\]"):
        AdwinDetector()
