"""Four implementations price the same events: ours, dp-accounting's, OpenDP's, the verifier's.

And the comparison is shown to notice what it is there for: the undercounts that dp-accounting
0.6 is known to have.
"""

from __future__ import annotations

import itertools
import math

import dp_accounting as dp
import mpmath
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import SettingError, UnknownEventError
from fedge.privacy import rdp
from fedge.privacy.accounting import (
    Comparison,
    compare,
    epsilon_by_pld,
    pld_estimate,
    rdp_at,
    rdp_epsilon,
)
from fedge.privacy.policy import new_policy
from fedge.records import BlockLength, DiscreteGaussianEvent, PoissonGaussianEvent, PrivacyEvent
from fedge.review.verifier import prices

ALPHAS = (2, 3, 8, 18, 64)
RATES = (1_000, 50_000, 250_000, 900_000)
NOISES = ((1, 1), (4, 100), (9, 2500))
COUNTS = (1, 80, 2000)
DELTA = 1e-5
POLICY = new_policy(epsilon=3.0, delta=DELTA, block=BlockLength(kind="windows", value=1))


def discrete(sensitivity2: int, sigma2: int, count: int) -> DiscreteGaussianEvent:
    return DiscreteGaussianEvent(sensitivity2=sensitivity2, sigma2=sigma2, count=count, dimension=5)


def sampled(rate: int, sensitivity2: int, sigma2: int, count: int) -> PoissonGaussianEvent:
    return PoissonGaussianEvent(
        rate_ppm=rate, sensitivity2=sensitivity2, sigma2=sigma2, count=count, dimension=5
    )


GRID: list[PrivacyEvent] = [
    *(discrete(*noise, count) for noise, count in itertools.product(NOISES, COUNTS)),
    *(
        sampled(rate, *noise, count)
        for rate, noise, count in itertools.product(RATES, NOISES, COUNTS)
    ),
]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_ours_dp_accounting_and_the_verifier_agree_on_a_grid(alpha: int) -> None:
    """The verifier to the last nano-RDP; dp-accounting as far as its floats go."""
    for event in GRID:
        ours = rdp.event_nano(event, alpha)
        theirs = rdp_at([event], alpha) * rdp.NANO

        assert ours == prices.price(event.model_dump(), alpha), event
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1.01 + 1e-4 * event.count), event


events = st.one_of(
    st.builds(
        DiscreteGaussianEvent,
        sensitivity2=st.integers(1, 2**80),
        sigma2=st.integers(1, 2**100),
        count=st.integers(1, 10**6),
        dimension=st.integers(1, 1000),
    ),
    st.builds(
        PoissonGaussianEvent,
        rate_ppm=st.integers(1, 10**6 - 1),
        sensitivity2=st.integers(1, 2**40),
        sigma2=st.integers(2**30, 2**100),
        count=st.integers(1, 10**6),
        dimension=st.integers(1, 1000),
    ),
)


@settings(deadline=None)
@given(event=events, alpha=st.integers(2, 100))
def test_the_verifier_computes_the_same_integer(event: PrivacyEvent, alpha: int) -> None:
    """Decimals on one side, intervals on the other: never a nano-RDP apart."""
    assert rdp.event_nano(event, alpha) == prices.price(event.model_dump(), alpha)


@settings(deadline=None)
@given(
    epsilon=st.floats(0.3, 20),
    delta=st.floats(1e-12, 9e-3),
    alpha=st.integers(2, 1024),
    nano=st.integers(0, 10**12),
)
def test_caps_and_epsilons_are_the_same(
    epsilon: float, delta: float, alpha: int, nano: int
) -> None:
    policy = POLICY.model_copy(update={"epsilon": epsilon, "delta": delta, "alpha": alpha})

    cap = prices.cap(epsilon, delta, alpha)

    if cap > 0:
        assert rdp.cap_nano(policy) == cap
    else:
        with pytest.raises(SettingError):
            rdp.cap_nano(policy)
    assert rdp.epsilon_of(nano, policy) == prices.epsilon_of(nano, delta, alpha)
    assert rdp.telemetry_nano(policy) == prices.share(policy.telemetry_rho, alpha)


@pytest.mark.parametrize("alpha", [2, 5, 16])
@pytest.mark.parametrize(("rate", "sigma2"), [(10_000, 1), (250_000, 25), (900_000, 4)])
def test_the_closed_form_is_the_integral(alpha: int, rate: int, sigma2: int) -> None:
    """Renyi divergence from its definition: the mixture's density against the Gaussian's."""
    q, s2 = mpmath.mpf(rate) / 10**6, mpmath.mpf(sigma2)

    def density(x: mpmath.mpf) -> mpmath.mpf:
        ratio = (1 - q) + q * mpmath.exp((2 * x - 1) / (2 * s2))
        return mpmath.exp(-x * x / (2 * s2)) / mpmath.sqrt(2 * mpmath.pi * s2) * ratio**alpha

    width = 40 * math.sqrt(sigma2)
    points = [-width, 0, alpha / 2, alpha, alpha + width]
    moment = mpmath.quad(density, points)

    exact = float(mpmath.log(moment) / (alpha - 1)) * rdp.NANO
    assert rdp.event_nano(sampled(rate, 1, sigma2, 1), alpha) == pytest.approx(
        exact, rel=1e-7, abs=1.01
    )


@pytest.mark.parametrize(("sensitivity2", "sigma2"), [(1, 1), (36, 640), (2**20, 10**9)])
def test_opendp_maps_sensitivity_to_the_same_rho(sensitivity2: int, sigma2: int) -> None:
    """Its own map of the mechanism that draws our noise, rounded up."""
    import opendp.domains as domains
    import opendp.measurements as measurements
    import opendp.metrics as metrics
    from opendp.mod import enable_features

    enable_features("contrib")
    mechanism = measurements.make_gaussian(
        domains.vector_domain(domains.atom_domain(T="i64")),
        metrics.l2_distance(T="f64"),
        scale=math.sqrt(sigma2),
    )
    rho = mechanism.map(math.sqrt(sensitivity2))

    for alpha in ALPHAS:
        ours = rdp.event_nano(discrete(sensitivity2, sigma2, 1), alpha)
        assert ours == pytest.approx(alpha * rho * rdp.NANO, rel=1e-12, abs=1.01)


def test_a_sampled_event_never_costs_more_than_a_full_one() -> None:
    """And less where fewer records are in a sample."""
    for alpha, noise in itertools.product(ALPHAS, NOISES):
        full = rdp.event_nano(discrete(*noise, 10), alpha)
        costs = [rdp.event_nano(sampled(rate, *noise, 10), alpha) for rate in RATES]

        assert costs == sorted(costs) and costs[-1] <= full
        assert costs[0] >= 1


@pytest.mark.parametrize("rate", [1_000, 250_000])
def test_the_smallest_noise_is_the_smallest(rate: int) -> None:
    """One less would cost more than there is."""
    nano = 5 * 10**8
    wanted = {"rate_ppm": rate, "sensitivity2": 2**40, "count": 80, "alpha": 8}

    sigma2 = rdp.smallest_poisson_sigma2(**wanted, nano=nano)

    assert rdp.event_nano(sampled(rate, 2**40, sigma2, 80), 8) <= nano
    assert rdp.event_nano(sampled(rate, 2**40, sigma2 - 1, 80), 8) > nano


def test_no_budget_buys_no_release() -> None:
    with pytest.raises(SettingError):
        rdp.smallest_poisson_sigma2(rate_ppm=1000, sensitivity2=1, count=1, alpha=8, nano=0)


def test_what_costs_more_than_any_number_is_unknown() -> None:
    """Refused by both, instead of a price of infinity or of nothing."""
    event = sampled(1, 10**300, 1, 1)

    with pytest.raises(UnknownEventError):
        rdp.event_nano(event, 8)
    with pytest.raises(prices.PriceError):
        prices.price(event.model_dump(), 8)


def test_the_smallest_release_costs_something() -> None:
    """However large the noise: a charge of 0 would buy any number of releases."""
    event = sampled(1, 1, 10**300, 1)

    assert rdp.event_nano(event, 2) == prices.price(event.model_dump(), 2) == 1


# --- epsilon by RDP and by PLD -------------------------------------------------------------

MIXES: dict[str, list[PrivacyEvent]] = {
    "telemetry": [discrete(9, 250, 1), discrete(1, 100, 1)],
    "full batch": [discrete(1, 100, 80), discrete(9, 250, 1)],
    "sampled": [sampled(250_000, 1, 25, 80), discrete(9, 250, 1)],
    "many small samples": [sampled(10_000, 1, 1, 1000)],
    "little noise": [discrete(1, 1, 2)],
}


@pytest.mark.parametrize("name", MIXES)
def test_pld_and_rdp_suspect_nothing_of_our_events(name: str) -> None:
    """The estimate is below the bound and not far below it."""
    by_rdp, by_pld = rdp_epsilon(MIXES[name], DELTA), pld_estimate(MIXES[name], DELTA)

    assert Comparison(by_rdp, by_pld.epsilon).suspect == "none"
    assert by_pld.epsilon <= by_rdp
    assert "estimate" in by_pld.label


def test_the_stand_in_is_named() -> None:
    """A continuous Gaussian in the place of the discrete one is said to be one."""
    assert "stands in" in pld_estimate([discrete(1, 100, 1)], DELTA).label
    assert "stands in" not in pld_estimate([sampled(1000, 1, 25, 9)], DELTA).label


def test_nothing_costs_nothing_and_is_no_agreement() -> None:
    """Two zeros prove nothing about either."""
    assert rdp_epsilon([], DELTA) == pld_estimate([], DELTA).epsilon == 0.0
    assert compare([], DELTA).suspect == "unknown"


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(SettingError):
        rdp_epsilon([discrete(1, 1, 1)], delta)


# --- undercounts that must be seen ---------------------------------------------------------

ADJACENT = NeighboringRelation.REPLACE_SPECIAL


def raw(accountant: RdpAccountant | PLDAccountant, event: dp.DpEvent) -> float:
    """dp-accounting's own answer to an event as it is."""
    return float(accountant.compose(event).get_epsilon(DELTA))


def test_a_forgotten_count_under_pld_is_seen() -> None:
    """Ten randomised responses, self-composed: PLD counts one. Expanded, it counts ten."""
    one = dp.RandomizedResponseDpEvent(1 / 3, 2)
    ten = dp.SelfComposedDpEvent(one, 10)
    listed = dp.ComposedDpEvent([one] * 10)

    wrong = raw(PLDAccountant(ADJACENT), ten)
    right = raw(PLDAccountant(ADJACENT), listed)

    assert wrong < 0.2 * right
    assert (
        Comparison(raw(RdpAccountant(neighboring_relation=ADJACENT), ten), wrong).suspect == "pld"
    )
    assert epsilon_by_pld([ten], DELTA) == pytest.approx(right, rel=1e-3)
    assert compare([ten], DELTA).suspect == "none"


def test_a_halved_sensitivity_under_replace_one_is_seen() -> None:
    """RDP prices a Gaussian under replace-one as under zero-out; PLD doubles its sensitivity."""
    event = dp.GaussianDpEvent(2.0)
    relation = NeighboringRelation.REPLACE_ONE

    by_rdp = raw(RdpAccountant(neighboring_relation=relation), event)
    by_pld = raw(PLDAccountant(relation), event)

    assert by_pld > 1.5 * by_rdp
    assert Comparison(by_rdp, by_pld).suspect == "rdp"
    assert compare([event], DELTA).suspect == "none"  # ours: zero-out only


@pytest.mark.parametrize(
    ("by_rdp", "by_pld", "suspect"),
    [
        (2.0, 1.8, "none"),
        (2.0, 2.1, "rdp"),
        (2.0, 0.4, "pld"),
        (0.5, 0.01, "unknown"),
        (0.0, 0.0, "unknown"),
        (math.nan, 1.0, "unknown"),
        (1.0, math.nan, "unknown"),
        (math.inf, math.inf, "unknown"),
        (1.0, math.inf, "unknown"),
    ],
)
def test_only_a_ratio_within_the_band_passes(by_rdp: float, by_pld: float, suspect: str) -> None:
    """What is no number, or too small to tell, is never agreement."""
    assert Comparison(by_rdp, by_pld).suspect == suspect


def test_a_wrong_price_of_ours_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a sampled Gaussian priced by the usual shortcut q^2 alpha / z^2, the grid would tell."""

    def shortcut(rate_ppm: int, inverse_z2: object, alpha: int) -> object:
        from decimal import Decimal
        from fractions import Fraction

        assert isinstance(inverse_z2, Fraction)
        value = Fraction(rate_ppm, 10**6) ** 2 * alpha * inverse_z2
        return Decimal(value.numerator) / Decimal(value.denominator)

    monkeypatch.setattr(rdp, "_poisson_rdp", shortcut)
    rdp._poisson_nano.cache_clear()
    try:
        with pytest.raises(AssertionError):
            test_ours_dp_accounting_and_the_verifier_agree_on_a_grid(8)
    finally:
        rdp._poisson_nano.cache_clear()
