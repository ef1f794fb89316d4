"""A fleet that speaks in window reports: sites of their own, faults on request, true noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.stats import norm

from fedge.profiles.counts import dyadic, feature_counts, join, window_event
from fedge.records import (
    CategoricalStream,
    NumericStream,
    Reference,
    WindowReport,
)

NUMERIC, CLASSES = 8, 10
SHA = "c" * 64
RHO = 0.0281


def make_reference(numeric: int = NUMERIC, classes: int = CLASSES) -> Reference:
    edges = tuple(norm.ppf(np.arange(1, 16) / 16).tolist())
    streams = [
        NumericStream(name=f"n{index}", edges=edges, histogram=(1 / 16,) * 16)
        for index in range(numeric)
    ]
    cells = (*(1 / classes,) * classes, 0.0)
    klass = CategoricalStream(
        name="class", categories=tuple(str(c) for c in range(classes)), histogram=cells
    )
    return Reference(
        task="digits",
        source="made up",
        rows=1000,
        model_sha256="d" * 64,
        ood_quantile_95=0.0,
        streams=(*streams, klass),
    )


REFERENCE = make_reference()


@dataclass
class Site:
    """One gateway's stream: its own means, spreads and class shares.

    Attributes:
        shift: added to numeric stream i while a fault is on, in reference sd.
        wander: sd of a slow common movement of every numeric stream, in reference sd.
    """

    seed: int
    differ: float = 0.5
    slots: int = 200
    rho: float = RHO
    wander: float = 0.0
    memory: float = 0.9
    shift: tuple[float, ...] = (1.5,) * NUMERIC
    reference: Reference = field(default_factory=lambda: REFERENCE)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.numeric = len(self.reference.streams) - 1
        self.mean = self.rng.normal(0, self.differ, self.numeric)
        self.spread = np.exp(self.rng.normal(0, self.differ / 2, self.numeric))
        cells = len(self.reference.streams[-1].histogram) - 1
        weights = np.exp(self.rng.normal(0, self.differ, cells))
        self.share = np.append(weights / weights.sum() * 0.99, 0.01)
        self.drift = self.rng.normal(0, 1, self.numeric)
        self.event = window_event(self.reference, self.rho)

    def counts(self, faulty: float, rows: int) -> np.ndarray:
        """Noised counts of one window of which a part `faulty` lies after the onset."""
        step = np.sqrt(1 - self.memory**2)
        self.drift = self.memory * self.drift + step * self.rng.normal(0, 1, self.numeric)
        bad = round(faulty * rows)
        parts = []
        for index in range(self.numeric):
            mean = self.mean[index] + self.wander * self.drift[index]
            histogram = self._rows(mean, self.spread[index], rows - bad)
            if bad:
                moved = mean + self.shift[index]
                histogram = histogram + self._rows(moved, self.spread[index], bad)
            parts.append(np.append(dyadic(histogram), 0))
        parts.append(self.rng.multinomial(rows, self.share))
        exact = join(tuple(parts))
        noise = np.rint(self.rng.normal(0, np.sqrt(self.event.sigma2), len(exact)))
        return exact + noise.astype(np.int64)

    def _rows(self, mean: float, spread: float, rows: int) -> np.ndarray:
        cuts = norm.cdf((np.array(self.reference.streams[0].edges) - mean) / spread)
        return self.rng.multinomial(rows, np.diff(cuts, prepend=0.0, append=1.0))

    def report(
        self,
        window: int,
        *,
        faulty: float = 0.0,
        slots: int | None = None,
        dropped: int = 0,
        release: int = 1,
        timed: bool = False,
    ) -> WindowReport:
        """One window; `timed`: the clock closed it, so that what came is all that it planned."""
        covered = self.slots if slots is None else slots
        noised = self.counts(faulty, covered - dropped)
        return WindowReport(
            task="digits",
            window=window,
            block=0,
            release=release,
            reference_sha256=SHA,
            first_slot=window * self.slots,
            slots=covered,
            planned_slots=max(1, covered) if timed else self.slots,
            dropped=dropped,
            opened_at=1000.0 + window,
            closed_at=1001.0 + window,
            features=feature_counts(self.reference, noised, self.event),
        )

    def stream(
        self, windows: int, *, onset: float | None = None, release: int = 1, first: int = 0
    ) -> list[WindowReport]:
        """Full windows; the fault begins at window `onset`, which may be a fraction."""
        at = float("inf") if onset is None else onset
        return [
            self.report(w, faulty=min(1.0, max(0.0, w + 1 - at)), release=release)
            for w in range(first, first + windows)
        ]


def gateway(index: int) -> str:
    return f"{index:032x}"
