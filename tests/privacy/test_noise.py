"""Grants and the noise that is drawn under them."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedge.errors import RecordError, ReservationError, SettingError
from fedge.privacy.grants import Grant
from fedge.privacy.noise import Noise, OsNoise, SeededNoise, sigma_at_least
from fedge.records import DiscreteGaussianEvent, PoissonGaussianEvent

CHI_SQUARE_LIMIT = 1e-6
"""A right sampler fails this test once in a million runs."""


def granted(sigma2: int, dimension: int, *, count: int = 1, simulated: bool = True) -> Grant:
    event = DiscreteGaussianEvent(sensitivity2=4, sigma2=sigma2, count=count, dimension=dimension)
    return Grant(7, "report/1", event, simulated=simulated)


def parameters(event: PoissonGaussianEvent) -> dict[str, int]:
    """What a draw under `event` is asked for with."""
    return event.model_dump(include={"sensitivity2", "sigma2", "rate_ppm"})


def probabilities(sigma2: int, reach: int) -> np.ndarray:
    """The discrete Gaussian's mass on -reach..reach."""
    at = np.arange(-reach, reach + 1)
    weights = np.exp(-(at**2) / (2 * sigma2))
    return weights / weights.sum()


class NoiseContract:
    """What every noise promises. A subclass says how to build one."""

    draws = 20_000

    def make(self) -> Noise:
        raise NotImplementedError

    @pytest.mark.parametrize("sigma2", [1, 20, 1000])
    def test_it_is_the_discrete_gaussian(self, sigma2: int) -> None:
        """Frequencies of values fit the mass function."""
        noisy = self.make().discrete_gaussian(
            np.zeros(self.draws, dtype=np.int64),
            sensitivity2=4,
            sigma2=sigma2,
            grant=granted(sigma2, self.draws),
        )

        reach = math.ceil(8 * math.sqrt(sigma2))
        expected = probabilities(sigma2, reach) * self.draws
        seen = np.bincount(np.clip(noisy, -reach, reach) + reach, minlength=2 * reach + 1)
        common = expected > 10
        seen_all = np.append(seen[common], seen[~common].sum())
        expected_all = np.append(expected[common], expected[~common].sum())
        expected_all *= seen_all.sum() / expected_all.sum()
        assert chisquare(seen_all, expected_all).pvalue > CHI_SQUARE_LIMIT

    def test_a_fine_grid_gets_its_variance(self) -> None:
        """Also at the size of a gradient's noise, where single values are never seen twice."""
        sigma2 = (10 * 2**40) ** 2
        noisy = self.make().discrete_gaussian(
            np.zeros(4000, dtype=np.int64),
            sensitivity2=4,
            sigma2=sigma2,
            grant=granted(sigma2, 4000),
        )

        assert np.var(noisy / math.sqrt(sigma2)) == pytest.approx(1.0, abs=0.15)
        assert abs(np.mean(noisy / math.sqrt(sigma2))) < 0.1

    def test_it_adds_to_each_cell_by_itself(self) -> None:
        """Shape and type stay, values move by noise only, and cells are not alike."""
        exact = np.arange(60_000, dtype=np.int64).reshape(30, 2000) * 1000
        noisy = self.make().discrete_gaussian(
            exact, sensitivity2=4, sigma2=25, grant=granted(25, exact.size)
        )

        assert noisy.shape == exact.shape
        assert noisy.dtype == np.int64
        assert 0 < np.abs(noisy - exact).max() < 50
        assert np.corrcoef((noisy - exact)[0], (noisy - exact)[1])[0, 1] < 0.2

    def test_a_release_needs_what_is_left_of_a_grant(self) -> None:
        """As many draws as were charged, then none."""
        noise, grant = self.make(), granted(25, 3, count=2)
        exact = np.zeros(3, dtype=np.int64)
        for _ in range(2):
            noise.discrete_gaussian(exact, sensitivity2=4, sigma2=25, grant=grant)

        with pytest.raises(ReservationError):
            noise.discrete_gaussian(exact, sensitivity2=4, sigma2=25, grant=grant)

    @pytest.mark.parametrize(
        ("sensitivity2", "sigma2", "size"), [(5, 25, 3), (4, 24, 3), (4, 25, 4)]
    )
    def test_other_parameters_are_refused(self, sensitivity2: int, sigma2: int, size: int) -> None:
        """Noise is drawn only with what was charged, and a refusal uses nothing up."""
        grant = granted(25, 3)

        with pytest.raises(ReservationError):
            self.make().discrete_gaussian(
                np.zeros(size, dtype=np.int64),
                sensitivity2=sensitivity2,
                sigma2=sigma2,
                grant=grant,
            )
        assert grant.remaining == 1

    @pytest.mark.parametrize(
        "exact", [np.array([math.nan]), np.array([1.5]), np.array([1], dtype=np.int32)]
    )
    def test_what_is_not_on_the_grid_is_refused(self, exact: np.ndarray) -> None:
        """A NaN or a float is never rounded into a release."""
        grant = granted(25, 1)

        with pytest.raises(TypeError):
            self.make().discrete_gaussian(exact, sensitivity2=4, sigma2=25, grant=grant)
        assert grant.remaining == 1

    @pytest.mark.parametrize("value", [2**62, -(2**63)])
    def test_what_could_overflow_is_refused(self, value: int) -> None:
        """A sum that might wrap around would be a release with the wrong sensitivity."""
        grant = granted(25, 1)

        with pytest.raises(SettingError):
            self.make().discrete_gaussian(np.array([value]), sensitivity2=4, sigma2=25, grant=grant)
        assert grant.remaining == 1


class TestOsNoise(NoiseContract):
    def make(self) -> Noise:
        return OsNoise()

    @pytest.mark.parametrize("shape", [(), (1,), (4, 3)])
    def test_it_leaves_what_it_was_given(self, shape: tuple[int, ...]) -> None:
        """Read-only, or not one piece of memory: noised beside it, not in it."""
        exact = np.full((*shape, 2), 10**9, dtype=np.int64)[..., 0]
        exact.setflags(write=False)

        noisy = OsNoise().discrete_gaussian(
            exact, sensitivity2=4, sigma2=25, grant=granted(25, exact.size)
        )

        assert noisy.shape == exact.shape
        assert (exact == 10**9).all()
        assert (np.abs(noisy - exact) < 100).all()

    def test_it_serves_a_real_grant(self) -> None:
        """The noise of a gateway."""
        noisy = OsNoise().discrete_gaussian(
            np.zeros(2, dtype=np.int64),
            sensitivity2=4,
            sigma2=25,
            grant=granted(25, 2, simulated=False),
        )

        assert noisy.shape == (2,)

    def test_no_two_runs_are_alike(self) -> None:
        """The system's entropy, not a seed."""
        first, second = (
            OsNoise().discrete_gaussian(
                np.zeros(50, dtype=np.int64), sensitivity2=4, sigma2=10**8, grant=granted(10**8, 50)
            )
            for _ in range(2)
        )

        assert (first != second).any()

    def test_no_two_continuous_draws_are_alike(self) -> None:
        """Nor two values of one, nor two samples: noise that is repeated can be subtracted."""
        event = PoissonGaussianEvent(
            rate_ppm=500_000, sensitivity2=4, sigma2=25, count=2, dimension=60
        )
        grant, given = Grant(7, "run/1", event, simulated=False), parameters(event)
        first, second = (
            OsNoise().gaussian(np.zeros(60), unit=1.0, grant=grant, **given) for _ in range(2)
        )
        samples = [OsNoise().poisson_sample(60, 500_000) for _ in range(2)]

        assert np.unique(np.concatenate([first, second])).size == 120
        assert (samples[0] != samples[1]).any()

    def test_a_resident_process_stays_small(self) -> None:
        """Drawing noise loads neither OpenDP's prelude nor what that would pull in."""
        code = (
            "import sys, numpy as np\n"
            "from fedge.privacy import ledger\n"
            "from fedge.privacy.noise import OsNoise\n"
            "from fedge.privacy.grants import Grant\n"
            "from fedge.records import DiscreteGaussianEvent as E\n"
            "import fedge.data.blocks, fedge.data.tables\n"
            "assert 'opendp' not in sys.modules\n"
            "event = E(sensitivity2=1, sigma2=9, count=1, dimension=1)\n"
            "grant = Grant(1, 'k', event, simulated=False)\n"
            "OsNoise().discrete_gaussian(\n"
            "    np.zeros(1, np.int64), sensitivity2=1, sigma2=9, grant=grant)\n"
            "bad = {'opendp.prelude', 'torch', 'scipy', 'pandas', 'sklearn', 'dp_accounting',"
            " 'polars', 'river', 'flwr', 'prefect'} & set(sys.modules)\n"
            "assert not bad, bad\n"
        )

        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class TestSeededNoise(NoiseContract):
    def make(self) -> Noise:
        return SeededNoise(11)

    def test_a_seed_repeats(self) -> None:
        """A simulation can be played again."""
        exact = np.zeros(100, dtype=np.int64)
        first, second, other = (
            SeededNoise(seed).discrete_gaussian(
                exact, sensitivity2=4, sigma2=999, grant=granted(999, 100)
            )
            for seed in (3, 3, 4)
        )

        assert (first == second).all()
        assert (first != other).any()

    def test_a_real_grant_is_refused(self) -> None:
        """Whoever knows the seed could subtract the noise."""
        grant = granted(25, 1, simulated=False)

        with pytest.raises(ReservationError):
            SeededNoise(1).discrete_gaussian(
                np.zeros(1, dtype=np.int64), sensitivity2=4, sigma2=25, grant=grant
            )
        assert grant.remaining == 1


def near_squares() -> st.SearchStrategy[int]:
    """Where rounding a root is at its edge, and powers of two, where its bits change."""
    roots = st.one_of(st.integers(2, 2**50 - 1), st.integers(1, 49).map(lambda bits: 2**bits))
    return st.builds(lambda root, off: root * root + off, roots, st.sampled_from([-1, 0, 1]))


@given(st.one_of(st.integers(1, 2**100), near_squares(), st.integers(1, 2000)))
@example(2**100)
def test_noise_is_never_smaller_than_charged(sigma2: int) -> None:
    """The float handed to OpenDP is the root rounded up, by no more than anyone would see."""
    drawn2 = Fraction(sigma_at_least(sigma2)) ** 2

    assert sigma2 <= drawn2 <= sigma2 * (1 + Fraction(1, 2**22))


@given(st.integers(1, 2**25))
def test_a_root_of_few_bits_is_drawn_as_it_is(sigma: int) -> None:
    """What is charged for a whole standard deviation is drawn with exactly that."""
    assert sigma_at_least(sigma * sigma) == sigma


class TestHandingOver:
    def test_a_grant_moves(self) -> None:
        """What is left arrives, once, and nothing stays behind."""
        grant = granted(25, 1, count=3)
        grant.take(4, 25, 1)

        taken = Grant.from_bytes(grant.to_bytes())

        assert (taken.reservation, taken.key, taken.event, taken.simulated) == (
            grant.reservation,
            grant.key,
            grant.event,
            True,
        )
        assert (taken.remaining, grant.remaining) == (2, 0)
        with pytest.raises(ReservationError):
            grant.to_bytes()

    def test_the_same_bytes_are_taken_over_once(self) -> None:
        """A replayed message gives no second right."""
        data = granted(25, 1).to_bytes()
        Grant.from_bytes(data)

        with pytest.raises(ReservationError):
            Grant.from_bytes(data)

    def test_more_than_was_charged_is_refused(self) -> None:
        """Bytes that claim more releases than their event are no grant."""
        data = granted(25, 1, count=2).to_bytes().replace(b'"remaining":2', b'"remaining":3')

        with pytest.raises(ReservationError):
            Grant.from_bytes(data)

    @pytest.mark.parametrize("data", [b"", b"{}", b"null", b'{"reservation": 1}', b"\xff"])
    def test_other_bytes_are_refused(self, data: bytes) -> None:
        """Hostile bytes give a typed error."""
        with pytest.raises(RecordError):
            Grant.from_bytes(data)
