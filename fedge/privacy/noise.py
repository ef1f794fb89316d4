"""Noise, a port with two adapters: the only place where noise is drawn.

Both draw from the same discrete Gaussian, and for sums over a sample from the same
Poisson sampler and continuous Gaussian. Each draw takes from a grant first, so that
nothing is noised that was not charged with exactly these parameters. Rounding values to
the integer grid and bounding their sensitivity is the caller's part.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from fedge.errors import ReservationError, SettingError
from fedge.privacy.grants import Grant

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
NoiseKind = Literal["os", "seeded"]

LARGEST_VALUE = 2**61
LARGEST_SIGMA2 = 2**100
"""Beyond these a sum of value and noise might leave 64 bits."""
SIGMA_BITS = 25
"""Significant bits of the standard deviation that noise is drawn with."""


class Noise(Protocol):
    """Draws noise under a grant, and samples.

    Attributes:
        kind: where randomness comes from; every settlement records it.
    """

    kind: NoiseKind

    def discrete_gaussian(
        self, exact: Integers, *, sensitivity2: int, sigma2: int, grant: Grant
    ) -> Integers:
        """`exact` plus independent discrete Gaussian noise of parameter `sigma2` on each cell.

        Args:
            exact: int64, any shape; `exact.size` is the dimension that was charged.
            sensitivity2: squared L2 sensitivity of `exact`, as charged.
            sigma2: variance parameter of the noise, as charged.
            grant: loses one release.

        Raises:
            TypeError: `exact` is not an int64 array (a float, NaN or not, is never rounded here).
            SettingError: values or noise are too large for 64 bits.
            ReservationError: the grant is used up or was given for other parameters, or the
                system's randomness failed. Nothing was noised in all these cases.
        """

    def poisson_sample(self, units: int, rate_ppm: int) -> Booleans:
        """Which of `units` enter a sample, bool [units].

        Each by itself, with probability `rate_ppm` millionths or a 2^-64 less; no other unit,
        and no size that a batch should have, plays a part.
        """

    def gaussian(
        self,
        exact: Floats,
        *,
        unit: float,
        sensitivity2: int,
        sigma2: int,
        rate_ppm: int,
        grant: Grant,
    ) -> Floats:
        """`exact` plus independent continuous Gaussian noise of variance `sigma2` units squared.

        In floating point: what is proven about it is proven up to that.

        Args:
            exact: float64, finite, any shape: a sum over a Poisson sample.
            unit: what one step of the charged grid is worth in `exact`.
            sensitivity2, sigma2, rate_ppm: as charged.
            grant: loses one release.

        Raises:
            TypeError: `exact` is not a float64 array.
            SettingError: a value is not finite, or the noise is too large.
            ReservationError: as for `discrete_gaussian`.
        """


class OsNoise:
    """Exact sampling by OpenDP with the operating system's entropy: what a gateway uses."""

    kind: NoiseKind = "os"

    def discrete_gaussian(
        self, exact: Integers, *, sensitivity2: int, sigma2: int, grant: Grant
    ) -> Integers:
        """See `Noise.discrete_gaussian`."""
        _check(exact, sigma2)
        draw = _opendp_gaussian(sigma2)
        grant.take(sensitivity2, sigma2, exact.size)
        # A copy: OpenDP reads the array's memory itself, and takes none that is read-only.
        noisy = np.array(draw(exact.flatten()), dtype=np.int64)
        return noisy.reshape(exact.shape)

    def poisson_sample(self, units: int, rate_ppm: int) -> Booleans:
        """See `Noise.poisson_sample`."""
        drawn = np.frombuffer(os.urandom(8 * units), dtype="<u8")
        chosen: Booleans = drawn < np.uint64((rate_ppm << 64) // 10**6)
        return chosen

    def gaussian(
        self,
        exact: Floats,
        *,
        unit: float,
        sensitivity2: int,
        sigma2: int,
        rate_ppm: int,
        grant: Grant,
    ) -> Floats:
        """See `Noise.gaussian`."""
        _check_floats(exact, sigma2)
        grant.take(sensitivity2, sigma2, exact.size, rate_ppm=rate_ppm)
        noise = os_normals(exact.size) * (sigma_at_least(sigma2) * unit)
        return exact + noise.reshape(exact.shape)


class SeededNoise:
    """The same distribution from a seed, for simulations and tests; refuses real grants.

    Args:
        seed: the same seed and the same calls give the same noise.
    """

    kind: NoiseKind = "seeded"

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def discrete_gaussian(
        self, exact: Integers, *, sensitivity2: int, sigma2: int, grant: Grant
    ) -> Integers:
        """See `Noise.discrete_gaussian`.

        Raises:
            ReservationError: also when the grant is a real ledger's.
        """
        _check(exact, sigma2)
        if not grant.simulated:
            raise ReservationError("seeded noise was asked for under a real ledger's grant")
        grant.take(sensitivity2, sigma2, exact.size)
        return exact + self._draw(exact.size, sigma2).reshape(exact.shape)

    def poisson_sample(self, units: int, rate_ppm: int) -> Booleans:
        """See `Noise.poisson_sample`."""
        return self._random.random(units) < rate_ppm / 10**6

    def gaussian(
        self,
        exact: Floats,
        *,
        unit: float,
        sensitivity2: int,
        sigma2: int,
        rate_ppm: int,
        grant: Grant,
    ) -> Floats:
        """See `Noise.gaussian`.

        Raises:
            ReservationError: also when the grant is a real ledger's.
        """
        _check_floats(exact, sigma2)
        if not grant.simulated:
            raise ReservationError("seeded noise was asked for under a real ledger's grant")
        grant.take(sensitivity2, sigma2, exact.size, rate_ppm=rate_ppm)
        noise = self._random.standard_normal(exact.size) * (sigma_at_least(sigma2) * unit)
        return exact + noise.reshape(exact.shape)

    def _draw(self, size: int, sigma2: int) -> Integers:
        """Rejection from a discrete Laplace (Canonne, Kamath, Steinke 2020, algorithm 3).

        About two in three proposals are accepted, whatever sigma2 is.
        """
        scale = math.isqrt(sigma2) + 1
        success = -math.expm1(-1.0 / scale)
        drawn = np.empty(0, dtype=np.int64)
        while drawn.size < size:
            proposals = 2 * (size - drawn.size) + 8
            # The difference of two geometric variables is a discrete Laplace one.
            values = self._random.geometric(success, proposals) - self._random.geometric(
                success, proposals
            )
            excess = np.abs(values) - sigma2 / scale
            accepted = self._random.random(proposals) < np.exp(-excess * excess / (2.0 * sigma2))
            drawn = np.concatenate([drawn, values[accepted]])
        return drawn[:size]


def _check(exact: Integers, sigma2: int) -> None:
    if not isinstance(exact, np.ndarray) or exact.dtype != np.int64:
        raise TypeError(
            f"exact values must be an int64 array, not {getattr(exact, 'dtype', exact)}"
        )
    if exact.size and not -LARGEST_VALUE <= exact.min() <= exact.max() <= LARGEST_VALUE:
        raise SettingError("values exceed 2^61; choose a coarser grid")
    if not 0 < sigma2 <= LARGEST_SIGMA2:
        raise SettingError(f"sigma2 is {sigma2}; it must be positive and at most 2^100")


def _check_floats(exact: Floats, sigma2: int) -> None:
    if not isinstance(exact, np.ndarray) or exact.dtype != np.float64:
        raise TypeError(
            f"exact values must be a float64 array, not {getattr(exact, 'dtype', exact)}"
        )
    if not np.isfinite(exact).all():
        raise SettingError("a value is not finite")
    if not 0 < sigma2 <= LARGEST_SIGMA2:
        raise SettingError(f"sigma2 is {sigma2}; it must be positive and at most 2^100")


def os_normals(size: int) -> Floats:
    """Standard normal values from the system's entropy alone, float64 [size].

    Each is the sum of four Box-Muller values over two: the low bits of a single one give away
    what it was added to (Holohan and Braghin, "Secure Random Sampling in Differential Privacy",
    2021, section 4).
    """
    pairs = 2 * size
    drawn = np.frombuffer(os.urandom(16 * pairs), dtype="<u8").reshape(2, pairs)
    # 53 bits each; the first never 0, whose logarithm is infinite.
    radius = np.sqrt(-2.0 * np.log(((drawn[0] >> np.uint64(11)) + 1.0) * 2.0**-53))
    angle = (2.0 * np.pi * 2.0**-53) * (drawn[1] >> np.uint64(11))
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    summed: Floats = normals.reshape(4, size).sum(axis=0) / 2.0
    return summed


@lru_cache(maxsize=16)
def _opendp_gaussian(sigma2: int) -> Callable[[Integers], list[int]]:
    # OpenDP's prelude would load scikit-learn and pandas where present; these parts do not.
    import opendp.domains as domains
    import opendp.measurements as measurements
    import opendp.metrics as metrics
    from opendp.mod import OpenDPException, enable_features

    enable_features("contrib")
    try:
        mechanism: Any = measurements.make_gaussian(
            domains.vector_domain(domains.atom_domain(T="i64")),
            metrics.l2_distance(T="f64"),
            scale=sigma_at_least(sigma2),
        )
    except OpenDPException as error:
        raise SettingError(f"OpenDP refuses sigma2 = {sigma2}: {error}") from error

    def draw(exact: Integers) -> list[int]:
        try:
            noisy: list[int] = mechanism(exact)
        except OpenDPException as error:
            raise ReservationError(f"OpenDP could not draw noise: {error}") from error
        return noisy

    return draw


def sigma_at_least(sigma2: int) -> float:
    """The square root rounded up to `SIGMA_BITS`: noise is never smaller than what was charged.

    In integers, so exact; a root of so few bits is returned as it is. Exact sampling computes with
    this number as a fraction, and a short one costs it a tenth less time.

    Args:
        sigma2: at least 1.

    Returns:
        A float whose square is `sigma2` or more, by at most 2^-22 of it.
    """
    root_bits = (sigma2.bit_length() + 1) // 2
    shift = root_bits - SIGMA_BITS
    # Both roundings are upward: of what is cut off here, and of the root.
    scaled = -(-sigma2 >> 2 * shift) if shift >= 0 else sigma2 << -2 * shift
    return math.ldexp(math.isqrt(scaled - 1) + 1, shift)
