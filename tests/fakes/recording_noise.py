"""Noise ports for gray-box tests: what was asked of the noise, and the same answers again.

A release is judged on neighbouring data with everything released before it held equal:
`RecordingNoise` draws from a real port and writes down what it was asked, `ReplayedNoise`
answers on the neighbour what was drawn first, and so shows each step the same world.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fedge.privacy.grants import Grant
from fedge.privacy.noise import Noise, NoiseKind
from fedge.records import PrivacyEvent

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Asked:
    """One draw: the exact values, in units of the charged grid, and the parameters."""

    exact: Integers | Floats
    noisy: Integers | Floats
    sensitivity2: int
    sigma2: int
    rate_ppm: int | None
    charged: PrivacyEvent

    @property
    def parameters(self) -> tuple[int, int, int, int | None]:
        """What was executed: squared sensitivity, variance, dimension, rate."""
        return self.sensitivity2, self.sigma2, self.exact.size, self.rate_ppm


@dataclass
class Transcript:
    """All draws and samples of one run, in order; `calls` says which came when."""

    draws: list[Asked] = field(default_factory=list)
    samples: list[Booleans] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    @property
    def flow(self) -> list[tuple[object, ...]]:
        """What may not depend on data: kinds of calls, their order, sizes and parameters."""
        draws, samples = iter(self.draws), iter(self.samples)
        return [
            (call, len(next(samples))) if call == "sample" else (call, *next(draws).parameters)
            for call in self.calls
        ]


class RecordingNoise:
    """Draws from `inner` and writes everything down.

    Args:
        exactly: adds nothing, so that what is released can be read off.
    """

    def __init__(self, inner: Noise, *, exactly: bool = False) -> None:
        self._inner, self._exactly = inner, exactly
        self.kind: NoiseKind = inner.kind
        self.transcript = Transcript()

    def discrete_gaussian(
        self, exact: Integers, *, sensitivity2: int, sigma2: int, grant: Grant
    ) -> Integers:
        noisy = self._answer_discrete(exact, sensitivity2, sigma2, grant)
        self._note("discrete", exact, noisy, sensitivity2, sigma2, None, grant)
        return noisy

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
        noisy = self._answer(exact, unit, sensitivity2, sigma2, rate_ppm, grant)
        self._note("continuous", exact / unit, noisy / unit, sensitivity2, sigma2, rate_ppm, grant)
        return noisy

    def poisson_sample(self, units: int, rate_ppm: int) -> Booleans:
        chosen = self._answer_sample(units, rate_ppm)
        self.transcript.calls.append("sample")
        self.transcript.samples.append(chosen.copy())
        return chosen

    def _answer_discrete(
        self, exact: Integers, sensitivity2: int, sigma2: int, grant: Grant
    ) -> Integers:
        noisy = self._inner.discrete_gaussian(
            exact, sensitivity2=sensitivity2, sigma2=sigma2, grant=grant
        )
        return exact.copy() if self._exactly else noisy

    def _answer(
        self,
        exact: Floats,
        unit: float,
        sensitivity2: int,
        sigma2: int,
        rate_ppm: int,
        grant: Grant,
    ) -> Floats:
        noisy = self._inner.gaussian(
            exact,
            unit=unit,
            sensitivity2=sensitivity2,
            sigma2=sigma2,
            rate_ppm=rate_ppm,
            grant=grant,
        )
        return exact.copy() if self._exactly else noisy

    def _answer_sample(self, units: int, rate_ppm: int) -> Booleans:
        return self._inner.poisson_sample(units, rate_ppm)

    def _note(
        self,
        call: str,
        exact: Integers | Floats,
        noisy: Integers | Floats,
        sensitivity2: int,
        sigma2: int,
        rate_ppm: int | None,
        grant: Grant,
    ) -> None:
        self.transcript.calls.append(call)
        self.transcript.draws.append(
            Asked(exact.copy(), noisy.copy(), sensitivity2, sigma2, rate_ppm, grant.event)
        )


class ReplayedNoise(RecordingNoise):
    """Answers what an earlier transcript holds, whatever the exact values are now.

    Asked more often than then, it fails; the grant is used up like a real port would.
    """

    kind: NoiseKind = "seeded"

    def __init__(self, earlier: Transcript) -> None:
        self._draws, self._samples = iter(earlier.draws), iter(earlier.samples)
        self.transcript = Transcript()

    def _answer_discrete(
        self, exact: Integers, sensitivity2: int, sigma2: int, grant: Grant
    ) -> Integers:
        grant.take(sensitivity2, sigma2, exact.size)
        return next(self._draws).noisy.astype(np.int64)

    def _answer(
        self,
        exact: Floats,
        unit: float,
        sensitivity2: int,
        sigma2: int,
        rate_ppm: int,
        grant: Grant,
    ) -> Floats:
        grant.take(sensitivity2, sigma2, exact.size, rate_ppm=rate_ppm)
        return next(self._draws).noisy.astype(np.float64) * unit

    def _answer_sample(self, units: int, rate_ppm: int) -> Booleans:
        return next(self._samples).copy()
