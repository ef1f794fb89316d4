"""Fleets whose drift is known: rows are drawn, counted, noised, and reported as gateways do.

A world has classes that look different in most features, a model that is right nine
times in ten, and sites that differ and wander. Each trouble changes the rows or the
answers from a known window on, at one gateway or at all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fedge.drift.fleet.labelled import LabelledWindow
from fedge.drift.words import Cause
from fedge.profiles.build import build_reference
from fedge.profiles.counts import count_window, feature_counts, join, window_event
from fedge.records import ModelInput, NumericFeature, Reference, TaskSchema, WindowReport

Floats = NDArray[np.float64]

FEATURES, CLASSES = 8, 5
ROWS, RHO, LABEL_SIGMA2 = 400, 0.028, 18.0
BASELINE, AFTER = 48, 14
"""Windows before the onset, four more than a baseline needs, and after it."""

_MEMORY = 0.9
_LOW, _HIGH = -12.0, 16.0
_RIGHT, _WRONG = (9.0, 1.5), (4.0, 3.0)
"""Confidence where the model is right and where it is wrong: Beta distributions."""


def _schema() -> TaskSchema:
    numbers = tuple(
        NumericFeature(name=f"x{i}", type="float32", low=_LOW, high=_HIGH) for i in range(FEATURES)
    )
    return TaskSchema(
        name="worlds",
        version=1,
        input=ModelInput(name="row", shape=(FEATURES,), low=_LOW, high=_HIGH),
        classes=tuple(f"c{i}" for i in range(CLASSES)),
        features=numbers,
        code="benchmarks.drift.worlds:CODE",
    )


@dataclass(frozen=True)
class Rows:
    """Rows before a model, and what it answered: floats [n, FEATURES] and [n]."""

    values: Floats
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: Floats
    ood: Floats

    def streams(self) -> Floats:
        """float64[n, FEATURES + 3], in the order of a task's streams."""
        values = np.clip(self.values, _LOW, _HIGH)
        return np.column_stack([values, self.predicted, self.confidence, self.ood])


@dataclass
class World:
    """What all sites of a fleet share: how classes look, and the reference made of that."""

    seed: int
    reference: Reference = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 0])
        # Two features say nothing of the class, and all lie away from zero, as measurements do.
        self.level = rng.uniform(2.5, 4.0, FEATURES) * rng.choice([-1, 1], FEATURES)
        self.looks = rng.normal(0, 1.2, (CLASSES, FEATURES)) * (np.arange(FEATURES) < FEATURES - 2)
        public = self.draw(rng, 6000, np.full(CLASSES, 1 / CLASSES), np.zeros(FEATURES))
        self.reference = build_reference(
            _schema(),
            public.streams(),
            ood=public.ood,
            model_sha256="d" * 64,
            source="drawn",
            labels=public.labels,
        )
        self.sha256 = self.reference.content_sha256
        self.event = window_event(self.reference, RHO)

    def draw(self, rng: np.random.Generator, rows: int, mix: Floats, offset: Floats) -> Rows:
        """Rows of a site that mixes classes by `mix` and lies `offset` away from the others."""
        labels = rng.choice(CLASSES, size=rows, p=mix)
        values = self.level + self.looks[labels] + offset + rng.normal(0, 1, (rows, FEATURES))
        return self.answer(rng, values, labels, 0.9)

    def answer(
        self, rng: np.random.Generator, values: Floats, labels: NDArray[np.int64], accuracy: float
    ) -> Rows:
        """A model that is right with probability `accuracy` and knows about it."""
        rows = len(labels)
        right = rng.random(rows) < accuracy
        other = (labels + rng.integers(1, CLASSES, rows)) % CLASSES
        sure = np.where(right, rng.beta(*_RIGHT, rows), rng.beta(*_WRONG, rows))
        score = rng.normal(0, 1, rows) + 2.0 * (0.8 - sure)
        return Rows(values, labels, np.where(right, labels, other), sure, score)


Trouble = Callable[["Site", np.random.Generator, Rows], Rows]


@dataclass
class Site:
    """One gateway: its own mix and place, and a slow wander of every feature."""

    world: World
    number: int
    wander: float = 0.1

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.world.seed, 1, self.number])
        self.offset = self.rng.normal(0, 0.3, FEATURES)
        self.mix = self.rng.dirichlet(np.full(CLASSES, 20.0))
        self.slow = self.rng.normal(0, 1, FEATURES)

    @property
    def gateway(self) -> str:
        return f"{self.number:032x}"

    def windows(
        self, first: int, count: int, trouble: Trouble | None = None
    ) -> list[tuple[WindowReport, LabelledWindow]]:
        """Reports of consecutive windows, and the labelled errors of a quarter of their rows."""
        return [self._window(first + index, trouble) for index in range(count)]

    def _window(self, window: int, trouble: Trouble | None) -> tuple[WindowReport, LabelledWindow]:
        step = np.sqrt(1 - _MEMORY**2)
        self.slow = _MEMORY * self.slow + step * self.rng.normal(0, 1, FEATURES)
        place = self.offset + self.wander * self.slow
        rows = self.world.draw(self.rng, ROWS, self.mix, place)
        if trouble is not None:
            rows = trouble(self, self.rng, rows)
        return self._report(window, rows), self._labelled(window, rows)

    def _report(self, window: int, rows: Rows) -> WindowReport:
        event = self.world.event
        exact = join(count_window(self.world.reference, rows.streams()))
        noise = np.rint(self.rng.normal(0, np.sqrt(event.sigma2), len(exact))).astype(np.int64)
        return WindowReport(
            task="worlds",
            window=window,
            block=0,
            release=1,
            reference_sha256=self.world.sha256,
            first_slot=window * ROWS,
            slots=ROWS,
            planned_slots=ROWS,
            opened_at=3600.0 * window,
            closed_at=3600.0 * (window + 1),
            features=feature_counts(self.world.reference, exact + noise, event),
        )

    def _labelled(self, window: int, rows: Rows) -> LabelledWindow:
        known = slice(None, None, 4)
        right = int((rows.predicted[known] == rows.labels[known]).sum())
        noise = np.rint(self.rng.normal(0, np.sqrt(LABEL_SIGMA2), 2)).astype(int)
        wrong = len(rows.labels[known]) - right
        return LabelledWindow(window, right + int(noise[0]), wrong + int(noise[1]), LABEL_SIGMA2)


@dataclass(frozen=True)
class Kind:
    """A kind of drift: its cause, and how the trouble of a seed is made."""

    name: str
    cause: Cause
    make: Callable[[World, np.random.Generator], Trouble]


def _shift(features: int, low: float, high: float) -> Callable[..., Trouble]:
    """Some features move together with the world; the model suffers."""

    def make(world: World, rng: np.random.Generator) -> Trouble:
        """Draws which features move, and how far: the same at every site and in every window."""
        hit = rng.permutation(FEATURES)[:features]
        move = np.zeros(FEATURES)
        move[hit] = rng.uniform(low, high, features) * rng.choice([-1, 1], features)

        def trouble(_: Site, rng: np.random.Generator, rows: Rows) -> Rows:
            return world.answer(rng, rows.values + move, rows.labels, 0.75)

        return trouble

    return make


def _spread(world: World, rng: np.random.Generator) -> Trouble:
    """Four features scatter more."""
    hit = rng.permutation(FEATURES)[:4]

    def trouble(_: Site, rng: np.random.Generator, rows: Rows) -> Rows:
        values = rows.values.copy()
        values[:, hit] += rng.normal(0, 1.5, (len(values), 4))
        return world.answer(rng, values, rows.labels, 0.75)

    return trouble


def _label(gain: float) -> Callable[..., Trouble]:
    """One class becomes frequent; the others look as ever."""

    def make(world: World, rng: np.random.Generator) -> Trouble:
        """Draws the class that grows: the same at every site."""
        grown = int(rng.integers(CLASSES))

        def trouble(site: Site, rng: np.random.Generator, rows: Rows) -> Rows:
            mix = site.mix * (1 - gain)
            mix[grown] += gain
            return world.draw(rng, len(rows.labels), mix, site.offset + site.wander * site.slow)

        return trouble

    return make


def _ood(world: World, rng: np.random.Generator) -> Trouble:
    """Four rows in ten look unfamiliar, though each feature by itself looks as ever."""

    def trouble(_: Site, rng: np.random.Generator, rows: Rows) -> Rows:
        """The strange rows get a guess, its low confidence, and a score four above their own."""
        strange = rng.random(len(rows.labels)) < 0.4
        guessed = world.answer(rng, rows.values, rows.labels, 0.4)
        return replace(
            rows,
            predicted=np.where(strange, guessed.predicted, rows.predicted),
            confidence=np.where(strange, guessed.confidence, rows.confidence),
            ood=rows.ood + 4.0 * strange,
        )

    return trouble


def _concept(world: World, rng: np.random.Generator) -> Trouble:
    """The same inputs and answers, another truth for half of the rows of two classes."""
    first, second = rng.permutation(CLASSES)[:2]

    def trouble(_: Site, rng: np.random.Generator, rows: Rows) -> Rows:
        other = rng.random(len(rows.labels)) < 0.8
        labels = rows.labels.copy()
        labels[(rows.labels == first) & other] = second
        labels[(rows.labels == second) & other] = first
        return replace(rows, labels=labels)

    return trouble


def _sensor(fault: Callable[[Floats, np.random.Generator], Floats]) -> Callable[..., Trouble]:
    """One feature breaks; the model is a little less right."""

    def make(world: World, rng: np.random.Generator) -> Trouble:
        """Draws the feature that breaks; whatever its fault draws is the same in every window."""
        column = int(rng.integers(FEATURES))
        seed = int(rng.integers(2**31))

        def trouble(_: Site, rng: np.random.Generator, rows: Rows) -> Rows:
            values = rows.values.copy()
            values[:, column] = fault(values[:, column], np.random.default_rng(seed))
            return world.answer(rng, values, rows.labels, 0.85)

        return trouble

    return make


def _amid_weather(fault: Callable[[Floats, np.random.Generator], Floats]) -> Callable[..., Trouble]:
    """One feature breaks while three others move as they do from season to season."""

    def make(world: World, rng: np.random.Generator) -> Trouble:
        """Draws the broken feature and three to move, which may be the broken one, too."""
        broken = _sensor(fault)(world, rng)
        hit = rng.permutation(FEATURES)[:3]
        move = np.zeros(FEATURES)
        move[hit] = rng.uniform(0.4, 0.8, 3) * rng.choice([-1, 1], 3)

        def trouble(site: Site, rng: np.random.Generator, rows: Rows) -> Rows:
            return broken(site, rng, replace(rows, values=rows.values + move))

        return trouble

    return make


def _stuck_at(values: Floats, rng: np.random.Generator) -> float:
    """A value that the feature may well have: the same in every window."""
    return float(np.sign(values.mean()) * (3.25 + rng.normal(0, 0.7)))


def _saturated(values: Floats, rng: np.random.Generator) -> Floats:
    """Whatever is more than a little above the middle reads as the highest value there is."""
    return np.where(values > values.mean() + 0.1 * values.std(), _HIGH, values)


KINDS: tuple[Kind, ...] = (
    Kind("shift of three", "covariate", _shift(3, 0.8, 1.6)),
    Kind("shift of all", "covariate", _shift(FEATURES, 0.5, 1.2)),
    Kind("small shift of one", "covariate", _shift(1, 0.6, 0.9)),
    Kind("scatter", "covariate", _spread),
    Kind("one class grows by half", "label", _label(0.5)),
    Kind("one class grows by a third", "label", _label(0.33)),
    Kind("unfamiliar rows", "ood", _ood),
    Kind("another truth", "concept", _concept),
    Kind("stuck", "sensor", _sensor(lambda x, rng: np.full_like(x, _stuck_at(x, rng)))),
    Kind("dead", "sensor", _sensor(lambda x, rng: np.full_like(x, _LOW))),
    Kind("silent", "sensor", _sensor(lambda x, rng: np.full_like(x, np.nan))),
    Kind("saturated", "sensor", _sensor(_saturated)),
    Kind("offset", "sensor", _sensor(lambda x, rng: x + 3.5 * rng.choice([-1, 1]))),
    Kind("unit change", "sensor", _sensor(lambda x, rng: x * 1.8)),
    Kind("dead amid weather", "sensor", _amid_weather(lambda x, rng: np.full_like(x, _LOW))),
    Kind(
        "stuck amid weather",
        "sensor",
        _amid_weather(lambda x, rng: np.full_like(x, _stuck_at(x, rng))),
    ),
    Kind("other unit amid weather", "sensor", _amid_weather(lambda x, rng: 1.8 * x + 32)),
)
"""The suite. `silent` and `dead` are both dead sensors: without a value, and at the lowest."""
