"""The arithmetic of the budget: charges, caps and conversions at one Renyi order.

A charge is an integer number of nano-RDP (1e-9 of Renyi divergence at the policy's
order), rounded up; a cap is rounded down. Logarithms are taken in decimal arithmetic,
which rounds the same way on every machine, so that whoever reviews a ledger replays
the same integers. Nothing here keeps state: adding up belongs to the ledger.
"""

from __future__ import annotations

import math
from decimal import ROUND_FLOOR, Context, Decimal, localcontext
from fractions import Fraction

from fedge.errors import SettingError, UnknownEventError
from fedge.records import DiscreteGaussianEvent, PrivacyPolicy

NANO = 10**9
LARGEST_ALPHA = 1024
_DIGITS = Context(prec=60)


def conversion(alpha: int, delta: float) -> float:
    """What turning RDP at `alpha` into an epsilon at `delta` adds; may be negative.

    epsilon = rdp + log((alpha - 1) / alpha) - (log delta + log alpha) / (alpha - 1)
    (Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", 2020,
    proposition 12).

    Raises:
        SettingError: `alpha` < 2, or `delta` is not between 0 and 1 (NaN included).
    """
    return float(_conversion(alpha, delta))


def cap_nano(policy: PrivacyPolicy) -> int:
    """Nano-RDP at the policy's order that a block may spend in all, rounded down.

    Raises:
        SettingError: nothing is left at this order; the policy could never release anything.
    """
    cap = _cap(policy.epsilon, policy.delta, policy.alpha)
    if cap <= 0:
        raise SettingError(
            f"epsilon {policy.epsilon:g} at delta {policy.delta:g} leaves nothing at order "
            f"{policy.alpha}; make the policy with `fedge policy new`, which computes the order"
        )
    return cap


def telemetry_nano(policy: PrivacyPolicy) -> int:
    """Nano-RDP that a block reserves for monitoring when it opens, rounded up."""
    return math.ceil(NANO * policy.alpha * Fraction(policy.telemetry_rho))


def event_nano(event: DiscreteGaussianEvent, alpha: int) -> int:
    """Nano-RDP at `alpha` of all releases of `event`, rounded up once; exact integers only.

    One release is rho = sensitivity2 / (2 sigma2) zCDP, which is alpha * rho at order alpha.

    Raises:
        UnknownEventError: `event` is no mechanism that is priced here.
    """
    if type(event) is not DiscreteGaussianEvent:
        raise UnknownEventError(f"no price is known for {type(event).__name__}")
    return -(-NANO * alpha * event.count * event.sensitivity2 // (2 * event.sigma2))


def epsilon_of(nano: int, policy: PrivacyPolicy) -> float:
    """The epsilon, at the policy's order and delta, of `nano` spent; never below 0.

    At most `policy.epsilon` for every `nano` up to the cap.
    """
    with localcontext(_DIGITS):
        epsilon = Decimal(nano) / NANO + _conversion(policy.alpha, policy.delta)
    return max(0.0, float(epsilon))


def choose_alpha(epsilon: float, delta: float) -> int:
    """The order at which (`epsilon`, `delta`) carries the most zCDP.

    All releases are discrete Gaussians, which cost alpha * rho, so the planned mix enters
    only as its total and the best order maximises cap / alpha.

    Raises:
        SettingError: no order up to 1024 leaves anything.
    """
    caps = {alpha: _cap(epsilon, delta, alpha) for alpha in range(2, LARGEST_ALPHA + 1)}
    best = max(caps, key=lambda alpha: Fraction(caps[alpha], alpha))
    if caps[best] <= 0:
        raise SettingError(f"epsilon {epsilon:g} at delta {delta:g} is too small at every order")
    return best


def _cap(epsilon: float, delta: float, alpha: int) -> int:
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise SettingError(f"epsilon is {epsilon}, it must be a positive number")
    with localcontext(_DIGITS):
        cap = (Decimal(epsilon) - _conversion(alpha, delta)) * NANO
        return int(cap.to_integral_value(rounding=ROUND_FLOOR))


def _conversion(alpha: int, delta: float) -> Decimal:
    if alpha < 2 or not 0 < delta < 1:
        raise SettingError(f"need alpha >= 2 and 0 < delta < 1, not {alpha=}, {delta=}")
    with localcontext(_DIGITS):
        a, d = Decimal(alpha), Decimal(delta)
        return ((a - 1) / a).ln() - (d.ln() + a.ln()) / (a - 1)
