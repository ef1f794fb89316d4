"""The size of what is added: a hundred thousand draws against the variance that was charged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import chi2

from fedge.privacy.grants import Grant
from fedge.privacy.noise import Noise, OsNoise, SeededNoise
from fedge.records import DiscreteGaussianEvent, PoissonGaussianEvent

DRAWS = 100_000
LEAST_P = 1e-6
"""A right noise fails once in a million runs; one that is 3 % too small hardly ever passes."""

SENSITIVITY2, SIGMA2 = 2**30, 37 * 2**30
RATE_PPM, UNIT = 250_000, 2.0**-16
NOISES: list[Callable[[], Noise]] = [OsNoise, lambda: SeededNoise(11)]


def p_of_scale(noise: np.ndarray, sigma: float) -> float:
    """Two-sided: how likely a sum of squares as far off is, were the deviation `sigma`."""
    squares = float(((noise / sigma) ** 2).sum())
    return 2 * float(min(chi2.cdf(squares, noise.size), chi2.sf(squares, noise.size)))


def discrete(noise: Noise, sigma2: int = SIGMA2) -> np.ndarray:
    event = DiscreteGaussianEvent(
        sensitivity2=SENSITIVITY2, sigma2=sigma2, count=1, dimension=DRAWS
    )
    exact = np.arange(DRAWS, dtype=np.int64) * 1000
    noisy = noise.discrete_gaussian(
        exact,
        sensitivity2=SENSITIVITY2,
        sigma2=sigma2,
        grant=Grant(1, "scale", event, simulated=True),
    )
    return (noisy - exact).astype(np.float64)


def continuous(noise: Noise) -> np.ndarray:
    event = PoissonGaussianEvent(
        rate_ppm=RATE_PPM, sensitivity2=SENSITIVITY2, sigma2=SIGMA2, count=1, dimension=DRAWS
    )
    noisy = noise.gaussian(
        np.zeros(DRAWS),
        unit=UNIT,
        sensitivity2=SENSITIVITY2,
        sigma2=SIGMA2,
        rate_ppm=RATE_PPM,
        grant=Grant(1, "scale", event, simulated=True),
    )
    return noisy / UNIT


@pytest.mark.parametrize("make", NOISES, ids=["os", "seeded"])
@pytest.mark.parametrize("draw", [discrete, continuous])
def test_noise_has_the_variance_that_was_charged(
    make: Callable[[], Noise], draw: Callable[[Noise], np.ndarray]
) -> None:
    """By chi-square, around zero, and no draw like the one before."""
    noise = draw(make())
    sigma = SIGMA2**0.5

    assert p_of_scale(noise, sigma) > LEAST_P
    assert abs(noise.mean()) < 5 * sigma / DRAWS**0.5
    lag = float((noise[1:] * noise[:-1]).mean()) / SIGMA2
    assert abs(lag) < 5 / DRAWS**0.5


@pytest.mark.parametrize("factor", [0.97, 1.03, 0.5])
def test_a_little_less_or_more_would_be_noticed(factor: float) -> None:
    """The same test on noise of another size."""
    noise = discrete(SeededNoise(12))

    assert p_of_scale(noise * factor, SIGMA2**0.5) < LEAST_P


@pytest.mark.parametrize("make", NOISES, ids=["os", "seeded"])
def test_small_noise_has_its_variance_too(make: Callable[[], Noise]) -> None:
    """A discrete Gaussian of parameter 4: from its mass function, as far as it reaches."""
    at = np.arange(-30, 31)
    mass = np.exp(-(at**2) / 8.0)
    variance = float((mass * at**2).sum() / mass.sum())

    assert p_of_scale(discrete(make(), 4), variance**0.5) > LEAST_P
