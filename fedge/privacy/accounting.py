"""What a ledger's events cost by dp-accounting: a second opinion on our own closed forms.

For reports and for tests. The ledger's filter never asks here, and the resident processes never
load this: it needs dp-accounting, which is loaded inside the functions. The adjacency is
zero-out (`REPLACE_SPECIAL`), the only one under which all our events compose.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any, Literal

from fedge.errors import SettingError, UnknownEventError
from fedge.privacy.codec import (
    DpEvent,
    counts_are_honoured,
    dp_event,
    expanded,
    gaussian_stand_in,
    to_json,
)
from fedge.records import DiscreteGaussianEvent, PrivacyEvent

SMALLEST_RATIO, LARGEST_RATIO = 0.25, 1.01
"""Between them lies PLD's epsilon over RDP's wherever RDP says at least `TELLING_EPSILON`."""
TELLING_EPSILON = 1.0
"""Below it a few sampled releases may cost a hundredth by PLD of what they cost by RDP."""
ORDERS = (*range(2, 129), 160, 192, 256, 384, 512, 1024)
"""Whole orders, at which the sampled Gaussian has a closed form, too."""

_INTERVAL = 1e-4
"""Discretisation of privacy loss, dp-accounting's own default; it rounds losses up."""

_Method = Literal["rdp", "pld"]


@dataclass(frozen=True, slots=True)
class PldEstimate:
    """An epsilon from privacy loss distributions: shown beside the bound, never enforced.

    Attributes:
        epsilon: at the delta that was asked for.
        label: what it is, in words for a reader.
    """

    epsilon: float
    label: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two accountants' answers about the same events.

    Attributes:
        rdp, pld: epsilon at the same delta.
    """

    rdp: float
    pld: float

    @property
    def ratio(self) -> float:
        """pld / rdp; NaN where that means nothing."""
        return self.pld / self.rdp if self.rdp > 0 and math.isfinite(self.rdp) else math.nan

    @property
    def suspect(self) -> Literal["rdp", "pld", "unknown", "none"]:
        """Which of the two undercounts, as far as the other one shows it.

        PLD's answer is never above RDP's, but for its discretisation, nor far below it. `unknown`
        where one of them gave no number, or where so little is spent that PLD may be far below.
        """
        if math.isnan(self.ratio) or not math.isfinite(self.pld):
            return "unknown"
        if self.ratio > LARGEST_RATIO:
            return "rdp"
        if self.ratio < SMALLEST_RATIO:
            return "pld" if self.rdp >= TELLING_EPSILON else "unknown"
        return "none"


def rdp_at(events: Iterable[PrivacyEvent], alpha: int) -> float:
    """RDP of all `events` together at one order, by dp-accounting.

    Raises:
        UnknownEventError: an event of a kind that is not known.
        SettingError: `alpha` < 2.
    """
    if alpha < 2:
        raise SettingError(f"the order is {alpha}, it must be at least 2")
    tally = _tally(dp_event(event) for event in events)
    return math.fsum(count * _rdp_of_one(one, alpha) for one, count in tally.items())


def rdp_epsilon(events: Iterable[PrivacyEvent], delta: float) -> float:
    """Epsilon of all `events` together at `delta`, at the best of `ORDERS`.

    The best order is chosen after the fact, so this bounds a fixed list of events; the ledger,
    whose events may depend on earlier releases, keeps to one order fixed in advance.

    Raises:
        UnknownEventError: an event of a kind that is not known.
        SettingError: `delta` is not between 0 and 1.
    """
    return epsilon_by_rdp([dp_event(event) for event in events], delta)


def pld_estimate(events: Iterable[PrivacyEvent], delta: float) -> PldEstimate:
    """Epsilon of all `events` at `delta` by privacy loss distributions.

    Raises:
        UnknownEventError: an event of a kind that is not known.
        SettingError: `delta` is not between 0 and 1.
    """
    listed = list(events)
    discrete = any(type(event) is DiscreteGaussianEvent for event in listed)
    label = "PLD estimate, non-adaptive"
    if discrete:
        label += "; a continuous Gaussian stands in for the discrete one"
    return PldEstimate(epsilon_by_pld([gaussian_stand_in(e) for e in listed], delta), label)


def compare(events: Iterable[DpEvent], delta: float) -> Comparison:
    """Both accountants on the same events of dp-accounting, each expanded.

    Raises:
        UnknownEventError: an event of a kind that is not known, or that one of them refuses.
        SettingError: `delta` is not between 0 and 1.
    """
    listed = list(events)
    return Comparison(epsilon_by_rdp(listed, delta), epsilon_by_pld(listed, delta))


def epsilon_by_rdp(events: Iterable[DpEvent], delta: float) -> float:
    """Epsilon by Renyi orders, of events of dp-accounting.

    Raises:
        UnknownEventError, SettingError: as `compare`.
    """
    return _epsilon("rdp", events, delta)


def epsilon_by_pld(events: Iterable[DpEvent], delta: float) -> float:
    """Epsilon by privacy loss distributions, of events of dp-accounting.

    Raises:
        UnknownEventError, SettingError: as `compare`.
    """
    return _epsilon("pld", events, delta)


def _epsilon(method: _Method, events: Iterable[DpEvent], delta: float) -> float:
    if not 0 < delta < 1:
        raise SettingError(f"delta is {delta}, it must be between 0 and 1")
    tally = _tally(events)
    return _epsilon_of(method, frozenset(tally.items()), delta) if tally else 0.0


def _tally(events: Iterable[DpEvent]) -> Counter[DpEvent]:
    total: Counter[DpEvent] = Counter()
    for event in events:
        total.update(expanded(event))
    return total


@lru_cache(maxsize=256)
def _epsilon_of(method: _Method, tally: frozenset[tuple[DpEvent, int]], delta: float) -> float:
    accountant = _accountant(method)
    # The order must not show: sums of floats depend on it.
    for one, count in sorted(tally, key=lambda item: (to_json(item[0]), item[1])):
        _compose(accountant, one, count)
    epsilon = float(accountant.get_epsilon(delta))
    if math.isnan(epsilon):
        raise UnknownEventError(f"{method} gives no number for these events")
    return epsilon


@lru_cache(maxsize=4096)
def _rdp_of_one(one: DpEvent, alpha: int) -> float:
    accountant = _accountant("rdp", (alpha,))
    _compose(accountant, one, 1)
    return float(accountant._rdp[0])


def _compose(accountant: Any, one: DpEvent, count: int) -> None:
    from dp_accounting.privacy_accountant import UnsupportedEventError

    times = (count,) if counts_are_honoured(one) else repeat(1, count)
    try:
        for number in times:
            accountant.compose(one, number)
    except UnsupportedEventError as error:
        raise UnknownEventError(f"dp-accounting refuses {type(one).__name__}: {error}") from error


def _accountant(method: _Method, orders: Sequence[int] = ORDERS) -> Any:
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.privacy_accountant import NeighboringRelation
    from dp_accounting.rdp import RdpAccountant

    adjacency = NeighboringRelation.REPLACE_SPECIAL
    if method == "rdp":
        return RdpAccountant(orders, adjacency)
    return PLDAccountant(adjacency, value_discretization_interval=_INTERVAL)
