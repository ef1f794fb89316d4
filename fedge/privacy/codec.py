"""Our events as those of dp-accounting, and both as JSON that names its kind from a closed list.

dp-accounting reads its own events by importing whatever module the bytes name; nothing of that
is used here. Whatever is not on the list is refused, in both directions. dp-accounting itself is
loaded inside the functions: the resident processes never do.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from fedge.errors import RecordError, UnknownEventError
from fedge.records import (
    DiscreteGaussianEvent,
    PoissonGaussianEvent,
    PrivacyEvent,
    canonical,
)

DpEvent: TypeAlias = Any  # dp-accounting ships no types

MAX_RELEASES = 10_000_000
MAX_BYTES = 2**20
"""A longer text is not read."""

_MAX_DEPTH = 8
_COUNTED = ("zcdp", "gaussian", "poisson")


def dp_event(event: PrivacyEvent) -> DpEvent:
    """All releases of `event` as one of dp-accounting's events.

    A discrete Gaussian is rho-zCDP (Canonne, Kamath, Steinke 2020, theorem 4), for which its
    accountant has `ZCDpEvent`.

    Raises:
        UnknownEventError: `event` is of a kind that is not on the list.
    """
    import dp_accounting as dp

    if type(event) is DiscreteGaussianEvent:
        return dp.SelfComposedDpEvent(dp.ZCDpEvent(_rho(event)), event.count)
    if type(event) is PoissonGaussianEvent:
        return dp.SelfComposedDpEvent(
            dp.PoissonSampledDpEvent(
                event.rate_ppm / 10**6, dp.GaussianDpEvent(_noise_multiplier(event))
            ),
            event.count,
        )
    raise UnknownEventError(f"{type(event).__name__} has no counterpart in dp-accounting")


def gaussian_stand_in(event: PrivacyEvent) -> DpEvent:
    """Like `dp_event`, with the continuous Gaussian of the same variance for the discrete one.

    Privacy loss distributions know no discrete Gaussian; what comes of this is an estimate.

    Raises:
        UnknownEventError: as `dp_event`.
    """
    import dp_accounting as dp

    if type(event) is DiscreteGaussianEvent:
        return dp.SelfComposedDpEvent(dp.GaussianDpEvent(_noise_multiplier(event)), event.count)
    return dp_event(event)


def expanded(event: DpEvent) -> Counter[DpEvent]:
    """How often each single release happens in `event`; nothing composed is left in them.

    Raises:
        UnknownEventError: a kind that is not on the list, or more releases than can be added up.
    """
    tally: Counter[DpEvent] = Counter()
    for one, count in _expanded(event, 1, 0):
        tally[one] += count
    if tally.total() > MAX_RELEASES:
        raise UnknownEventError(f"{tally.total()} releases are more than can be added up")
    return tally


def counts_are_honoured(event: DpEvent) -> bool:
    """Whether both accountants may be told how often `event` happens.

    dp-accounting 0.6 forgets that of randomised responses under PLD, and nobody checked other
    kinds: their releases must be composed one by one.
    """
    return _kind(event) in _COUNTED


def to_json(event: DpEvent) -> bytes:
    """Canonical JSON of an event of dp-accounting.

    Raises:
        UnknownEventError: it holds a kind that is not on the list.
    """
    return canonical(_written(event, 0))


def from_json(data: bytes) -> DpEvent:
    """Read what `to_json` wrote; `from_json(to_json(event)) == event`.

    Raises:
        RecordError: no such JSON, or a number out of range (NaN included).
        UnknownEventError: a kind that is not on the list.
    """
    if len(data) > MAX_BYTES:
        raise RecordError(f"privacy event: longer than {MAX_BYTES} bytes")
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"privacy event: {error}") from error
    return _read(value, 0)


# --- the list -----------------------------------------------------------------------------


def _kind(event: DpEvent) -> str:
    import dp_accounting as dp

    kinds: dict[type[Any], str] = {
        dp.ZCDpEvent: "zcdp",
        dp.GaussianDpEvent: "gaussian",
        dp.PoissonSampledDpEvent: "poisson",
        dp.RandomizedResponseDpEvent: "randomised-response",
        dp.SelfComposedDpEvent: "self-composed",
        dp.ComposedDpEvent: "composed",
    }
    kind = kinds.get(type(event))
    if kind == "zcdp" and event.xi != 0:
        kind = None
    if kind == "poisson" and type(event.event) is not dp.GaussianDpEvent:
        kind = None
    if kind is None:
        raise UnknownEventError(f"{type(event).__name__} is not on the list of known events")
    return kind


def _expanded(event: DpEvent, count: int, depth: int) -> Iterator[tuple[DpEvent, int]]:
    if depth > _MAX_DEPTH or not 0 < count <= MAX_RELEASES:
        raise UnknownEventError(f"{count} releases, nested {depth} deep, cannot be added up")
    match _kind(event):
        case "self-composed":
            yield from _expanded(event.event, count * event.count, depth + 1)
        case "composed":
            for part in event.events:
                yield from _expanded(part, count, depth + 1)
        case _:
            yield event, count


def _written(event: DpEvent, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise UnknownEventError("events are nested too deep")
    kind = _kind(event)
    values: dict[str, Callable[[], dict[str, Any]]] = {
        "zcdp": lambda: {"rho": event.rho},
        "gaussian": lambda: {"noise_multiplier": event.noise_multiplier},
        "poisson": lambda: {
            "rate": event.sampling_probability,
            "event": _written(event.event, depth + 1),
        },
        "randomised-response": lambda: {
            "noise_parameter": event.noise_parameter,
            "buckets": event.num_buckets,
        },
        "self-composed": lambda: {
            "count": event.count,
            "event": _written(event.event, depth + 1),
        },
        "composed": lambda: {"events": [_written(one, depth + 1) for one in event.events]},
    }
    return {"kind": kind, **values[kind]()}


def _read(value: Any, depth: int) -> DpEvent:
    import dp_accounting as dp

    if not isinstance(value, dict) or depth > _MAX_DEPTH:
        raise RecordError("privacy event: not an object, or nested too deep")
    match value.get("kind"):
        case "zcdp":
            _fields(value, "rho")
            return dp.ZCDpEvent(_positive(value, "rho"))
        case "gaussian":
            _fields(value, "noise_multiplier")
            return dp.GaussianDpEvent(_positive(value, "noise_multiplier"))
        case "poisson":
            _fields(value, "rate", "event")
            sampled = dp.PoissonSampledDpEvent(
                _positive(value, "rate", below=1.0), _read(value["event"], depth + 1)
            )
            _kind(sampled)  # only of a Gaussian
            return sampled
        case "randomised-response":
            _fields(value, "noise_parameter", "buckets")
            noise = _positive(value, "noise_parameter", below=1.0)
            return dp.RandomizedResponseDpEvent(noise, _whole(value, "buckets"))
        case "self-composed":
            _fields(value, "count", "event")
            return dp.SelfComposedDpEvent(_read(value["event"], depth + 1), _whole(value, "count"))
        case "composed":
            _fields(value, "events")
            return dp.ComposedDpEvent([_read(one, depth + 1) for one in _list(value, "events")])
    raise UnknownEventError("privacy event: its kind is not on the list of known events")


# --- values -------------------------------------------------------------------------------


def _rho(event: DiscreteGaussianEvent) -> float:
    return event.sensitivity2 / (2 * event.sigma2)


def _noise_multiplier(event: PrivacyEvent) -> float:
    return math.sqrt(event.sigma2 / event.sensitivity2)


def _fields(value: Mapping[str, Any], *names: str) -> None:
    if value.keys() != {"kind", *names}:
        raise RecordError(f"privacy event: a {value['kind']} event has the fields {names}")


def _positive(value: Mapping[str, Any], name: str, below: float = math.inf) -> float:
    number = value[name]
    if type(number) not in (int, float) or not 0 < number < below:
        raise RecordError(f"privacy event: {name} is out of range")
    return float(number)


def _whole(value: Mapping[str, Any], name: str) -> int:
    number = value[name]
    if type(number) is not int or not 0 < number <= MAX_RELEASES:
        raise RecordError(f"privacy event: {name} is no whole number in its range")
    return number


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    items = value[name]
    if not isinstance(items, list):
        raise RecordError(f"privacy event: {name} is no list")
    return items


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")
