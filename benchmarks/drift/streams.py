"""Streams whose drift is known: onset, cause and moved columns come with the rows.

Each family is a function of a random generator and a `Change`; with no change it gives
a normal stream for calibration. Labelled families come with concepts from the drift
literature (SEA: Street & Kim 2001; STAGGER: Schlimmer & Granger 1986; sine: Gama et al.
2004; rotating hyperplane: Hulten et al. 2001; random RBF: Bifet et al. 2009; LED:
Breiman et al. 1984), written anew because the onset must be exact and the marginals known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Speed = Literal["abrupt", "gradual"]

REFERENCE_ROWS, WINDOW = 2_000, 100


@dataclass(frozen=True, slots=True)
class Change:
    """When a stream changes: not before `onset`, wholly from `onset + length` on."""

    onset: int
    length: int = 0

    def share(self, rows: int) -> Floats:
        """How much of the change applies to each row, 0 to 1."""
        if self.length == 0:
            return (np.arange(rows) >= self.onset).astype(np.float64)
        return np.clip((np.arange(rows) - self.onset) / self.length, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows in time order and what is true about them.

    Attributes:
        columns: name -> float64[n], or object[n] of text.
        label: name of the column with the truth; None for an unlabelled stream.
        cause: the cause that a judge should name; `none` for a normal stream.
        moved: the columns that moved (the label's for concept drift).
        onset: first changed row; None for a normal stream.
    """

    family: str
    columns: Mapping[str, NDArray[Any]]
    cause: str
    moved: tuple[str, ...] = ()
    onset: int | None = None
    label: str | None = None
    reference_rows: int = REFERENCE_ROWS
    window: int = WINDOW

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))


Family = Callable[[np.random.Generator, int, "Change | None"], Stream]


def _drawn(rng: np.random.Generator, rows: int, change: Change | None) -> NDArray[np.bool_]:
    """Which rows follow the new law: certain after the change, by chance during it."""
    if change is None:
        return np.zeros(rows, dtype=np.bool_)
    drawn: NDArray[np.bool_] = rng.random(rows) < change.share(rows)
    return drawn


def autoregressive(rng: np.random.Generator, rows: int, columns: int, memory: float) -> Floats:
    """Float64[rows, columns] of independent stationary AR(1) series with unit variance."""
    from scipy.signal import lfilter

    warm = 200
    noise = rng.normal(size=(rows + warm, columns)) * np.sqrt(1 - memory**2)
    series: Floats = lfilter([1.0], [1.0, -memory], noise, axis=0)[warm:]
    return series


def _named(values: Floats, prefix: str = "x") -> dict[str, NDArray[Any]]:
    return {f"{prefix}{index}": values[:, index] for index in range(values.shape[1])}


# --- unlabelled families ------------------------------------------------------------------


def location(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """Ten independent columns; one moves by 0.75 standard deviations."""
    values = rng.normal(size=(rows, 10))
    if change is not None:
        values[:, 3] += 0.75 * change.share(rows)
    return Stream("location", _named(values), *_truth(change, "covariate", ("x3",)))


def spread(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """Ten independent columns; one becomes 1.6 times as wide."""
    values = rng.normal(size=(rows, 10))
    if change is not None:
        values[:, 5] *= 1 + 0.6 * change.share(rows)
    return Stream("spread", _named(values), *_truth(change, "covariate", ("x5",)))


def correlation(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """Eight columns with one common factor; it turns its sign in two of them, margins stay."""
    factor = rng.normal(size=(rows, 1))
    values = 0.8 * factor + 0.6 * rng.normal(size=(rows, 8))
    new = _drawn(rng, rows, change)
    values[np.ix_(new, [2, 6])] *= -1
    return Stream("correlation", _named(values), *_truth(change, "covariate", ("x2", "x6")))


def category(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """Four numbers and two categories; one category's shares move."""
    columns = _named(rng.normal(size=(rows, 4)))
    new = _drawn(rng, rows, change)
    old_law, new_law = (0.5, 0.3, 0.15, 0.05), (0.3, 0.3, 0.25, 0.15)
    texts = np.array(["north", "east", "south", "west"], dtype=object)
    drawn = np.where(new, rng.choice(4, rows, p=new_law), rng.choice(4, rows, p=old_law))
    columns["wind"] = texts[drawn]
    columns["shift"] = np.array(["early", "late"], dtype=object)[rng.integers(0, 2, rows)]
    return Stream("category", columns, *_truth(change, "covariate", ("wind",)))


def process(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """Twelve sensors of a process driven by four AR(0.9) states; one state moves by 1.5 sd."""
    states = autoregressive(rng, rows, 4, 0.9)
    if change is not None:
        states[:, 1] += 1.5 * change.share(rows)
    loads = np.kron(np.eye(4), np.ones((1, 3)))
    values = states @ loads + 0.3 * rng.normal(size=(rows, 12))
    return Stream("process", _named(values, "s"), *_truth(change, "covariate", ("s3", "s4", "s5")))


def stuck(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """The same process; one sensor freezes at its last value."""
    stream = process(rng, rows, None)
    values = stream.columns["s7"]
    if change is not None:
        values[change.onset :] = values[change.onset - 1]
    return Stream("stuck", stream.columns, *_truth(change, "sensor", ("s7",)))


def unit(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """The same process, offset from zero; one sensor reports another unit (degrees F for C)."""
    stream = process(rng, rows, None)
    columns = {name: 20.0 + 2.0 * values for name, values in stream.columns.items()}
    if change is not None:
        new = change.share(rows) > 0
        columns["s4"] = np.where(new, columns["s4"] * 1.8 + 32.0, columns["s4"])
    return Stream("unit", columns, *_truth(change, "sensor", ("s4",)))


# --- labelled families --------------------------------------------------------------------


def sea(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """SEA: label is x0 + x1 <= 7, then <= 9.5; 10 % of labels are wrong."""
    values = rng.uniform(0, 10, size=(rows, 3))
    threshold = np.where(_drawn(rng, rows, change), 9.5, 7.0)
    truth = values[:, 0] + values[:, 1] <= threshold
    return _labelled("sea", rng, _named(values), truth, change, noise=0.1)


def stagger(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """STAGGER: small and red, then green or round; three categories."""
    size, colour, shape = (rng.integers(0, 3, rows) for _ in range(3))
    old_law = (size == 0) & (colour == 0)
    truth = np.where(_drawn(rng, rows, change), (colour == 1) | (shape == 1), old_law)
    columns = {
        "size": np.array(["small", "medium", "large"], dtype=object)[size],
        "colour": np.array(["red", "green", "blue"], dtype=object)[colour],
        "shape": np.array(["square", "round", "long"], dtype=object)[shape],
    }
    return _labelled("stagger", rng, columns, truth.astype(bool), change, noise=0.05)


def sine(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """Sine: below the curve, then turned round in the left half; two columns of noise beside."""
    values = rng.uniform(0, 1, size=(rows, 4))
    below = values[:, 1] < 0.5 + 0.3 * np.sin(3 * np.pi * values[:, 0])
    turned = _drawn(rng, rows, change) & (values[:, 0] < 0.5)
    return _labelled("sine", rng, _named(values), below ^ turned, change, noise=0.05)


def hyperplane(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """A plane in ten dimensions that turns; 5 % of labels are wrong."""
    values = rng.normal(size=(rows, 10))
    old_plane, new_plane = rng.normal(size=10), rng.normal(size=10)
    share = np.zeros(rows) if change is None else change.share(rows)
    weights = np.outer(1 - share, old_plane) + np.outer(share, new_plane)
    truth = (values * weights).sum(axis=1) > 0
    return _labelled("hyperplane", rng, _named(values), truth, change, noise=0.05)


def rbf(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """Two classes of eight clusters in six dimensions; two clusters change their class."""
    centres = rng.uniform(0, 1, size=(8, 6))
    cluster = rng.integers(0, 8, rows)
    values = centres[cluster] + 0.08 * rng.normal(size=(rows, 6))
    moved = _drawn(rng, rows, change) & (cluster < 2)
    return _labelled("rbf", rng, _named(values), (cluster % 2 == 0) ^ moved, change, noise=0.05)


def shares(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """Label shift: three classes of different means, their shares move, nothing else does."""
    means = np.array([[0, 0, 0, 0], [1.5, 0, 1, 0], [0, 1.5, -1, 0]], dtype=np.float64)
    new = _drawn(rng, rows, change)
    klass = np.where(
        new, rng.choice(3, rows, p=(0.2, 0.25, 0.55)), rng.choice(3, rows, p=(0.5, 0.3, 0.2))
    )
    columns = _named(means[klass] + rng.normal(size=(rows, 4)))
    columns["y"] = np.array(["a", "b", "c"], dtype=object)[klass]
    return Stream("shares", columns, *_truth(change, "label", ("y",)), label="y")


def moving_inputs(rng: np.random.Generator, rows: int, change: Change | None) -> Stream:
    """Covariate drift with labels: one input moves by 1 sd, the law of the label stays."""
    values = rng.normal(size=(rows, 6))
    if change is not None:
        values[:, 0] += change.share(rows)
    odds = 1 / (1 + np.exp(-(1.5 * values[:, 0] - values[:, 1] + 0.5 * values[:, 2])))
    columns = _named(values)
    columns["y"] = (rng.random(rows) < odds).astype(np.float64)
    return Stream("moving-inputs", columns, *_truth(change, "covariate", ("x0",)), label="y")


def _labelled(
    family: str,
    rng: np.random.Generator,
    columns: dict[str, NDArray[Any]],
    truth: NDArray[np.bool_],
    change: Change | None,
    noise: float,
) -> Stream:
    columns["y"] = (truth ^ (rng.random(len(truth)) < noise)).astype(np.float64)
    return Stream(family, columns, *_truth(change, "concept", ("y",)), label="y")


def _truth(
    change: Change | None, cause: str, moved: tuple[str, ...]
) -> tuple[str, tuple[str, ...], int | None]:
    return ("none", (), None) if change is None else (cause, moved, change.onset)


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the comparison: a family and how fast it changes."""

    family: Family
    speed: Speed = "abrupt"

    @property
    def name(self) -> str:
        return f"{self.family.__name__.replace('_', '-')}, {self.speed}"

    def drifting(self, seed: int, rows: int = 6_000) -> Stream:
        """A stream that changes a third of the way after the reference, at no round row."""
        rng = np.random.default_rng([seed, 1])
        onset = int(rng.integers(3_300, 3_700))
        return self.family(rng, rows, Change(onset, 0 if self.speed == "abrupt" else 1_500))

    def normal(self, seed: int, rows: int = 6_000) -> Stream:
        """A stream without any change, of other rows than every `drifting` one."""
        return self.family(np.random.default_rng([seed, 0]), rows, None)


SETTINGS = (
    Setting(location),
    Setting(location, "gradual"),
    Setting(spread),
    Setting(correlation),
    Setting(category),
    Setting(process),
    Setting(process, "gradual"),
    Setting(stuck),
    Setting(unit),
    Setting(sea),
    Setting(stagger),
    Setting(sine),
    Setting(sine, "gradual"),
    Setting(hyperplane, "gradual"),
    Setting(rbf),
    Setting(shares),
    Setting(moving_inputs),
)
