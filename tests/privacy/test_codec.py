"""Events as JSON: a closed list, in both directions."""

from __future__ import annotations

import json
import math

import dp_accounting as dp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedge.errors import RecordError, UnknownEventError
from fedge.privacy.codec import (
    MAX_BYTES,
    DpEvent,
    counts_are_honoured,
    dp_event,
    expanded,
    from_json,
    gaussian_stand_in,
    to_json,
)
from fedge.records import DiscreteGaussianEvent, PoissonGaussianEvent, PrivacyEvent, canonical

DISCRETE = DiscreteGaussianEvent(sensitivity2=4, sigma2=400, count=7, dimension=3)
SAMPLED = PoissonGaussianEvent(rate_ppm=250_000, sensitivity2=4, sigma2=100, count=80, dimension=3)

positive = st.floats(1e-6, 1e6)
leaves = st.one_of(
    st.builds(dp.ZCDpEvent, positive),
    st.builds(dp.GaussianDpEvent, positive),
    st.builds(
        dp.PoissonSampledDpEvent, st.floats(1e-6, 0.999), st.builds(dp.GaussianDpEvent, positive)
    ),
    st.builds(dp.RandomizedResponseDpEvent, st.floats(1e-6, 0.999), st.integers(2, 9)),
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(dp.SelfComposedDpEvent, inner, st.integers(1, 5)),
        st.builds(dp.ComposedDpEvent, st.lists(inner, max_size=3)),
    ),
    max_leaves=6,
)


@given(event=trees)
def test_what_is_written_is_read_again(event: DpEvent) -> None:
    """Every event of the list, nested as it may be."""
    assert from_json(to_json(event)) == event


def test_our_events_become_those_of_dp_accounting() -> None:
    """rho = 4 / (2 * 400), z = sqrt(100 / 4), a quarter of the records."""
    assert dp_event(DISCRETE) == dp.SelfComposedDpEvent(dp.ZCDpEvent(0.005), 7)
    assert dp_event(SAMPLED) == dp.SelfComposedDpEvent(
        dp.PoissonSampledDpEvent(0.25, dp.GaussianDpEvent(5.0)), 80
    )
    assert gaussian_stand_in(DISCRETE) == dp.SelfComposedDpEvent(dp.GaussianDpEvent(10.0), 7)
    assert gaussian_stand_in(SAMPLED) == dp_event(SAMPLED)


@given(event=trees)
def test_nothing_composed_is_left_after_expanding(event: DpEvent) -> None:
    """And no release is lost or made up."""
    tally = expanded(event)

    assert not {type(one) for one in tally} & {dp.SelfComposedDpEvent, dp.ComposedDpEvent}
    assert tally.total() == _releases(event)


def _releases(event: DpEvent) -> int:
    if isinstance(event, dp.SelfComposedDpEvent):
        return int(event.count) * _releases(event.event)
    if isinstance(event, dp.ComposedDpEvent):
        return sum(map(_releases, event.events))
    return 1


def test_kinds_whose_count_is_forgotten_are_known() -> None:
    """Those are composed one by one."""
    assert not counts_are_honoured(dp.RandomizedResponseDpEvent(0.5, 2))
    assert counts_are_honoured(dp.ZCDpEvent(0.5))


class OwnEvent(DiscreteGaussianEvent):
    """Not ours, though it looks like it."""


@pytest.mark.parametrize(
    "event",
    [
        dp.NonPrivateDpEvent(),
        dp.NoOpDpEvent(),
        dp.UnsupportedDpEvent(),
        dp.LaplaceDpEvent(1.0),
        dp.ZCDpEvent(0.1, 0.2),
        dp.PoissonSampledDpEvent(0.1, dp.LaplaceDpEvent(1.0)),
        dp.SelfComposedDpEvent(dp.NoOpDpEvent(), 2),
        dp.ComposedDpEvent([dp.GaussianDpEvent(1.0), dp.LaplaceDpEvent(1.0)]),
        dp.SampledWithoutReplacementDpEvent(100, 10, dp.GaussianDpEvent(1.0)),
        "an event",
        None,
    ],
)
def test_an_event_that_is_not_listed_is_refused(event: DpEvent) -> None:
    """Also one that would cost nothing; also deep inside another one."""
    with pytest.raises(UnknownEventError):
        expanded(event)
    with pytest.raises(UnknownEventError):
        to_json(event)


def test_a_subclass_of_our_events_has_no_counterpart() -> None:
    event: PrivacyEvent = OwnEvent(sensitivity2=1, sigma2=1, count=1, dimension=1)

    with pytest.raises(UnknownEventError):
        dp_event(event)


@pytest.mark.parametrize("count", [0, -3, 10**12])
def test_a_number_of_releases_out_of_range_is_refused(count: int) -> None:
    """A negative one would be paid back."""
    with pytest.raises(UnknownEventError):
        expanded(dp.SelfComposedDpEvent(dp.ZCDpEvent(0.1), count))


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "laplace", "noise_multiplier": 1.0},
        {"module_name": "os", "class_name": "system"},
        {"kind": "gaussian", "noise_multiplier": 1.0, "module_name": "os"},
        {"kind": "gaussian", "noise_multiplier": -1.0},
        {"kind": "gaussian", "noise_multiplier": 0},
        {"kind": "gaussian", "noise_multiplier": True},
        {"kind": "gaussian", "noise_multiplier": "1.0"},
        {"kind": "gaussian"},
        {"kind": "poisson", "rate": 1.5, "event": {"kind": "gaussian", "noise_multiplier": 1.0}},
        {"kind": "poisson", "rate": 0.5, "event": {"kind": "zcdp", "rho": 1.0}},
        {"kind": "randomised-response", "noise_parameter": 0.5, "buckets": 2.5},
        {"kind": "self-composed", "count": 0, "event": {"kind": "zcdp", "rho": 1.0}},
        {"kind": "self-composed", "count": 2, "event": []},
        {"kind": "composed", "events": {}},
        {"kind": ["zcdp"], "rho": 1.0},
        [],
        3,
        None,
    ],
)
def test_json_that_is_not_of_the_list_is_refused(value: object) -> None:
    """A class is never looked up by name, a value never coerced."""
    with pytest.raises((RecordError, UnknownEventError)):
        from_json(canonical(value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b'{"kind":"zcdp","rho":NaN}',
        b'{"kind":"zcdp","rho":Infinity}',
        b'{"kind":"zcdp","rho":1e999}',
        b"[" * 100_000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_bytes_that_are_no_json_are_refused(data: bytes) -> None:
    with pytest.raises((RecordError, UnknownEventError)):
        from_json(data)


def test_nesting_has_an_end() -> None:
    """A small text must not unfold into a large event."""
    event = dp.ZCDpEvent(0.1)
    value: dict[str, object] = {"kind": "zcdp", "rho": 0.1}
    for _ in range(20):
        event = dp.SelfComposedDpEvent(event, 2)
        value = {"kind": "self-composed", "count": 2, "event": value}

    with pytest.raises(RecordError):
        from_json(json.dumps(value).encode())
    with pytest.raises(UnknownEventError):
        to_json(event)
    with pytest.raises(UnknownEventError):
        expanded(event)


def test_a_price_stays_a_number() -> None:
    assert math.isfinite(dp_event(DISCRETE).event.rho)
