"""The arithmetic of the budget: charges, caps and conversions at one Renyi order.

A charge is an integer number of nano-RDP (1e-9 of Renyi divergence at the policy's
order), rounded up; a cap is rounded down. Logarithms are taken in decimal arithmetic,
which rounds the same way on every machine, so that whoever reviews a ledger replays
the same integers. Nothing here keeps state: adding up belongs to the ledger.
"""

from __future__ import annotations

import math
from decimal import MAX_EMAX, MIN_EMIN, ROUND_FLOOR, Context, Decimal, Overflow, localcontext
from fractions import Fraction
from functools import lru_cache

from fedge.errors import SettingError, UnknownEventError
from fedge.records import (
    DiscreteGaussianEvent,
    PoissonGaussianEvent,
    PrivacyEvent,
    PrivacyPolicy,
)

NANO = 10**9
LARGEST_ALPHA = 1024
_DIGITS = Context(prec=60)
_PPM = 10**6
_PRECISIONS = (60, 120, 240, 480)


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


def event_nano(event: PrivacyEvent, alpha: int) -> int:
    """Nano-RDP at `alpha` of all releases of `event`, rounded up once.

    A discrete Gaussian release is rho = sensitivity2 / (2 sigma2) zCDP, which is alpha * rho at
    order alpha: exact integers only. A Poisson sampled Gaussian costs

        log(sum over k of C(alpha, k) (1-q)^(alpha-k) q^k exp(k (k-1) / (2 z^2))) / (alpha - 1)

    with z^2 = sigma2 / sensitivity2 (Mironov, Talwar, Zhang, "Renyi Differential Privacy of the
    Sampled Gaussian Mechanism", 2019, section 3.3), rounded as if it had been known exactly.

    Raises:
        UnknownEventError: `event` is no mechanism that is priced here, or adds so little noise
            that its price is beyond all numbers.
        SettingError: `alpha` < 2.
    """
    if alpha < 2:
        raise SettingError(f"the order is {alpha}, it must be at least 2")
    if type(event) is DiscreteGaussianEvent:
        return -(-NANO * alpha * event.count * event.sensitivity2 // (2 * event.sigma2))
    if type(event) is PoissonGaussianEvent:
        noise = Fraction(event.sensitivity2, event.sigma2)
        return _poisson_nano(event.rate_ppm, noise, event.count, alpha)
    raise UnknownEventError(f"no price is known for {type(event).__name__}")


def smallest_poisson_sigma2(
    *, rate_ppm: int, sensitivity2: int, count: int, alpha: int, nano: int
) -> int:
    """The smallest integer variance whose `count` Poisson sampled releases cost at most `nano`.

    Raises:
        SettingError: `nano` is not positive: every release costs something.
    """
    if nano < 1:
        raise SettingError(f"{nano} nano-RDP pay for no release")

    def fits(sigma2: int) -> bool:
        try:
            return _poisson_nano(rate_ppm, Fraction(sensitivity2, sigma2), count, alpha) <= nano
        except UnknownEventError:
            return False

    enough = 1
    while not fits(enough):
        enough *= 2
    too_little = enough // 2
    while enough - too_little > 1:
        middle = (enough + too_little) // 2
        enough, too_little = (middle, too_little) if fits(middle) else (enough, middle)
    return enough


@lru_cache(maxsize=4096)
def _poisson_nano(rate_ppm: int, inverse_z2: Fraction, count: int, alpha: int) -> int:
    """See `event_nano`; computed again with more digits until the rounding is beyond doubt."""
    for digits in _PRECISIONS:
        with localcontext(Context(prec=digits, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Overflow])):
            try:
                one = _poisson_rdp(rate_ppm, inverse_z2, alpha)
            except Overflow as error:
                raise UnknownEventError("the price of so little noise is unknown") from error
            # Each of the alpha terms and few steps around them is off by less than one digit.
            slack = (1 + one) * (100 * alpha * alpha) * Decimal(10) ** -digits
            low, high = (_nano_above(value, count) for value in (one - slack, one + slack))
            if low == high:
                return high
    return high


def _nano_above(rdp: Decimal, count: int) -> int:
    """At least 1: what is released costs something, however small."""
    return max(1, math.ceil(rdp * count * NANO))


def _poisson_rdp(rate_ppm: int, inverse_z2: Fraction, alpha: int) -> Decimal:
    """RDP of one release, in the present decimal context."""
    half = Decimal(inverse_z2.numerator) / (2 * Decimal(inverse_z2.denominator))
    rest = _PPM - rate_ppm
    total = Decimal(0)
    for k in range(alpha + 1):
        weight = math.comb(alpha, k) * rest ** (alpha - k) * rate_ppm**k
        total += Decimal(weight) * (k * (k - 1) * half).exp()
    return (total / Decimal(_PPM**alpha)).ln() / (alpha - 1)


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
