"""Charges, caps and conversions, against other implementations."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from dp_accounting import SelfComposedDpEvent, ZCDpEvent
from dp_accounting.privacy_accountant import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from fedge.errors import SettingError, UnknownEventError
from fedge.privacy.policy import new_policy
from fedge.privacy.rdp import NANO, cap_nano, choose_alpha, conversion, epsilon_of, event_nano
from fedge.records import BlockLength, DiscreteGaussianEvent, PrivacyPolicy

BLOCK = BlockLength(kind="windows", value=10)
events = st.builds(
    DiscreteGaussianEvent,
    sensitivity2=st.integers(1, 2**80),
    sigma2=st.integers(1, 2**100),
    count=st.integers(1, 10**6),
    dimension=st.integers(1, 1000),
)


@given(event=events, alpha=st.integers(2, 64))
def test_a_charge_is_the_exact_cost_rounded_up(event: DiscreteGaussianEvent, alpha: int) -> None:
    """Never below the closed form, never a whole nano-RDP above it."""
    exact = NANO * alpha * event.count * Fraction(event.sensitivity2, 2 * event.sigma2)

    assert 0 <= event_nano(event, alpha) - exact < 1


@settings(max_examples=25, deadline=None)
@given(
    rho=st.floats(1e-4, 0.2),
    count=st.integers(1, 60),
    delta=st.sampled_from([1e-5, 1e-6]),
    alpha=st.integers(2, 40),
)
def test_epsilon_agrees_with_dp_accounting(
    rho: float, count: int, delta: float, alpha: int
) -> None:
    """The same events, composed by Google's accountant at the same order, cost the same."""
    event = DiscreteGaussianEvent(
        sensitivity2=10**6, sigma2=int(10**6 / (2 * rho)) + 1, count=count, dimension=5
    )
    accountant = RdpAccountant([alpha], NeighboringRelation.REPLACE_SPECIAL)
    one = ZCDpEvent(event.sensitivity2 / (2 * event.sigma2))
    accountant.compose(SelfComposedDpEvent(one, count))
    policy = PrivacyPolicy(
        epsilon=3.0, delta=delta, alpha=alpha, telemetry_rho=0.01, window_rho=0.01, block=BLOCK
    )

    ours = epsilon_of(event_nano(event, alpha), policy)

    # Below delta^2 + exp(-rdp) > 1 it answers 0 by another bound; ours is never smaller.
    theirs = accountant.get_epsilon(delta)
    assert ours == pytest.approx(theirs, abs=2e-9) or (theirs == 0.0 <= ours)


def test_one_release_agrees_with_opendp() -> None:
    """OpenDP's own map from sensitivity to zCDP gives the same rho for the same mechanism."""
    import opendp.domains as domains
    import opendp.measurements as measurements
    import opendp.metrics as metrics
    from opendp.mod import enable_features

    enable_features("contrib")
    event = DiscreteGaussianEvent(sensitivity2=36, sigma2=640, count=1, dimension=9)
    mechanism = measurements.make_gaussian(
        domains.vector_domain(domains.atom_domain(T="i64")),
        metrics.l2_distance(T="f64"),
        scale=math.sqrt(event.sigma2),
    )

    rho = mechanism.map(math.sqrt(event.sensitivity2))

    assert event_nano(event, 8) == pytest.approx(8 * rho * NANO, abs=1.01)


@pytest.mark.parametrize(("alpha", "delta"), [(2, 1e-5), (8, 1e-5), (18, 1e-6), (100, 1e-3)])
def test_conversion_is_the_published_formula(alpha: int, delta: float) -> None:
    """Canonne, Kamath and Steinke, proposition 12."""
    expected = math.log((alpha - 1) / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1)

    assert conversion(alpha, delta) == pytest.approx(expected, abs=1e-12)


@given(
    epsilon=st.floats(0.3, 20),
    delta=st.floats(1e-9, 1e-3),
    below=st.integers(0, 10**9),
)
@settings(max_examples=20, deadline=None)
def test_what_stays_under_the_cap_stays_under_epsilon(
    epsilon: float, delta: float, below: int
) -> None:
    """Any total up to the cap converts to at most the policy's epsilon, and no more does."""
    policy = new_policy(epsilon=epsilon, delta=delta, block=BLOCK)
    cap = cap_nano(policy)

    assert epsilon_of(max(0, cap - below), policy) <= epsilon
    assert epsilon_of(cap + 2, policy) > epsilon


@pytest.mark.parametrize(
    ("epsilon", "alphas", "cap"), [(3.0, (8, 8), 1.786), (1.0, (16, 20), 0.55)]
)
def test_the_order_fits_the_bound(epsilon: float, alphas: tuple[int, int], cap: float) -> None:
    """The orders and caps known for the two usual bounds at delta 1e-5."""
    policy = new_policy(epsilon=epsilon, delta=1e-5, block=BLOCK)

    assert alphas[0] <= choose_alpha(epsilon, 1e-5) <= alphas[1]
    assert cap_nano(policy) / NANO == pytest.approx(cap, abs=5e-4)


def test_no_other_order_carries_more() -> None:
    """The chosen order is the best one, not only a good one."""
    best = choose_alpha(3.0, 1e-5)
    room = {a: (3.0 - conversion(a, 1e-5)) / a for a in range(2, 200)}

    assert max(room, key=lambda a: room[a]) == best


@pytest.mark.parametrize("alpha", [6, 8])
def test_an_order_that_leaves_nothing_is_refused(alpha: int) -> None:
    """At the wrong order a policy could never release anything: an error, not a cap of 0."""
    policy = PrivacyPolicy(
        epsilon=1.0, delta=1e-5, alpha=alpha, telemetry_rho=1e-4, window_rho=1e-4, block=BLOCK
    )

    with pytest.raises(SettingError):
        cap_nano(policy)


@pytest.mark.parametrize("delta", [math.nan, 0.0, 1.0, -1e-5])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    """NaN compares false with everything and must not pass for a small delta."""
    with pytest.raises(SettingError):
        conversion(8, delta)


def test_an_unknown_event_has_no_price() -> None:
    """What the accountant does not know costs an error, never 0."""

    class Laplace(DiscreteGaussianEvent):
        pass

    with pytest.raises(UnknownEventError):
        event_nano(Laplace(sensitivity2=1, sigma2=1, count=1, dimension=1), 8)
