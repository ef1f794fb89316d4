"""A gateway owner's privacy policy: computing its order, and its file.

The file is TOML that a person can read; whether it may be changed, and for which
blocks, is the ledger's business, who allowed it stands in a file beside it.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from fedge.durable import write_file
from fedge.errors import SettingError
from fedge.privacy.quotas import EVERY_TASK, limit_nano
from fedge.privacy.rdp import NANO, cap_nano, choose_alpha, telemetry_nano
from fedge.records import BlockLength, DiscreteGaussianEvent, PrivacyPolicy, Quota
from fedge.texts import is_plain

TELEMETRY_RHO = 0.0281
"""One window's report at (1, 1e-6): enough to see drift in windows of a few hundred rows."""
TELEMETRY_SHARE = Fraction(1, 4)
"""Unless asked for more, monitoring never takes more than this part of a block's budget."""
MOST_NOISE = 10_000
"""Records in a count. Beyond it no window says anything, and under 1,000 records of a subject and
hundreds of statistics the noised counts would leave the range that a report holds."""
LEAST_RHO = 1 / (2 * MOST_NOISE**2)
"""zCDP of one count with that noise, at sensitivity 1."""
LONGEST_BLOCK = {"seconds": 10 * 365 * 86_400, "windows": 10**6}
"""A block has one budget in its whole life: none that is meant to be refilled is that long."""


def new_policy(
    *,
    epsilon: float,
    delta: float,
    block: BlockLength,
    telemetry_rho: float | None = None,
    window_rho: float | None = None,
    label_rho: float | None = None,
    unit: Literal["record", "subject"] = "record",
    max_records: int = 1,
    quotas: Sequence[Quota] = (),
    public: Sequence[str] = (),
) -> PrivacyPolicy:
    """Compute the order alpha* for a bound, and the policy around it.

    Args:
        epsilon, delta: bound on everything ever released about one block.
        block: length of a block.
        telemetry_rho: zCDP that a block reserves for the releases about any one window;
            0.0281, or a quarter of the budget where that is less, unless given.
        window_rho: zCDP of one window's feature report; all of `telemetry_rho` unless given.
        label_rho: zCDP of one window's label report, taken from its feature report; give it or
            `window_rho`.
        unit: whose bound it is: a record's, or a subject's with all its records in a block.
        max_records: records of one subject that count in a block.
        quotas: parts of the cap that purposes may take.
        public: what is declared as not protected, besides what never is.

    Raises:
        SettingError: both were given, a value is out of range or not finite, a text would steer
            the terminal that shows it, or the bound is so small that it leaves nothing, or
            monitoring would use up the block or its own quota. Names the value.
    """
    if not 0 < delta < 1:
        raise SettingError(
            f"delta is {delta}: it must lie between 0 and 1, and should be below 1 divided by the "
            "number of records in a block"
        )
    for text in public:
        if not is_plain(text):
            raise SettingError(f"public: {text!r:.80} holds control characters")
    alpha = choose_alpha(epsilon, delta)
    values: dict[str, object] = {
        "epsilon": float(epsilon),
        "delta": delta,
        "alpha": alpha,
        "telemetry_rho": 1.0,
        "window_rho": 1.0,
        "block": block,
        "unit": unit,
        "max_records": max_records,
        "quotas": tuple(quotas),
        "public": tuple(public),
    }
    if telemetry_rho is None:
        telemetry_rho = _default_telemetry_rho(_validated(values, "policy"))
    values["telemetry_rho"] = telemetry_rho
    values["window_rho"] = telemetry_rho if window_rho is None else window_rho
    if label_rho is not None:
        values["window_rho"] = _without(label_rho, telemetry_rho, window_rho)
    policy = _validated(values, "policy")
    check_policy(policy)
    return policy


def label_event(policy: PrivacyPolicy) -> DiscreteGaussianEvent | None:
    """The release of one window's right and wrong labelled answers; None where nothing is left.

    It may spend what the feature report leaves of monitoring's share. A record is in one of two
    cells or in none, so that without it one of them changes by one; all of a subject's records
    that count may be in one cell. The variance is the smallest integer whose charge fits.
    """
    spent = math.ceil(NANO * policy.alpha * Fraction(policy.window_rho))
    left = telemetry_nano(policy) - spent
    if left <= 0:
        return None
    sensitivity2 = policy.max_records**2
    sigma2 = -(-NANO * policy.alpha * sensitivity2 // (2 * left))
    return DiscreteGaussianEvent(sensitivity2=sensitivity2, sigma2=sigma2, count=1, dimension=2)


def check_policy(policy: PrivacyPolicy) -> None:
    """Refuse a policy under which a block could not even be monitored.

    Raises:
        SettingError: the cap is <= 0 at the policy's order, monitoring's share exceeds it, a
            quota leaves no room for a report of a window, its noise would drown everything, or a
            block would be longer than `LONGEST_BLOCK`.
    """
    _check_length(policy.block)
    for name in ("telemetry_rho", "window_rho"):
        _check_noise(name, getattr(policy, name))
    cap, telemetry = cap_nano(policy), telemetry_nano(policy)
    if telemetry > cap:
        raise SettingError(
            f"monitoring would reserve {telemetry / NANO:.3f} of a cap of {cap / NANO:.3f} at "
            f"order {policy.alpha}; lower telemetry_rho or raise epsilon"
        )
    for quota in policy.quotas:
        if quota.purpose in ("features", "labels"):
            _check_monitoring_quota(policy, cap, quota)


def _check_length(block: BlockLength) -> None:
    longest = LONGEST_BLOCK[block.kind]
    if block.value > longest:
        raise SettingError(f"a block of {block.value} {block.kind} is too long: {longest} at most")


def _check_noise(name: str, rho: float) -> None:
    if rho < LEAST_RHO:
        raise SettingError(
            f"{name} is {rho:g}: with noise of {count_noise(rho):.3g} records in each count no "
            f"window would say anything; give {LEAST_RHO:g} ({MOST_NOISE} records) or more"
        )


def count_noise(rho: float) -> float:
    """Standard deviation, in records, of a count that one record changes by one, for `rho` zCDP."""
    return math.sqrt(1 / (2 * rho))


def _check_monitoring_quota(policy: PrivacyPolicy, cap: int, quota: Quota) -> None:
    if quota.task != EVERY_TASK:
        raise SettingError(
            f"the quota of {quota.purpose} is for {quota.task!r}, but a gateway's windows are of "
            "one task: leave it out"
        )
    rho = Fraction(policy.window_rho)
    if quota.purpose == "labels":
        rho = Fraction(policy.telemetry_rho) - rho
    limit, price = limit_nano(quota, cap), math.ceil(NANO * policy.alpha * rho)
    if limit < price:
        raise SettingError(
            f"the quota of {quota.purpose}, {quota.share:g} of the cap, is less than the "
            f"{price / cap:.3f} that one window's report takes"
        )


def write_policy(policy: PrivacyPolicy, path: Path) -> None:
    """Write a policy as TOML, all or nothing; `read_policy(path) == policy`.

    Raises:
        SettingError: it cannot be written.
    """
    try:
        write_file(path, ("\n".join(_lines(policy)) + "\n").encode())
    except OSError as error:
        raise SettingError(f"cannot write the policy {path}: {error}") from error


def _lines(policy: PrivacyPolicy) -> list[str]:
    lines = [
        "# Bounds everything that is ever released about one block of one gateway's data.",
        f"schema_version = {policy.schema_version}",
        f"epsilon = {policy.epsilon!r}",
        f"delta = {policy.delta!r}",
        "# The one Renyi order at which the ledger adds up; computed, not chosen.",
        f"alpha = {policy.alpha}",
        f"telemetry_rho = {policy.telemetry_rho!r}",
        f"window_rho = {policy.window_rho!r}",
        f'unit = "{policy.unit}"',
        f'adjacency = "{policy.adjacency}"',
    ]
    if policy.schema_version >= policy.since["max_records"]:
        lines += [
            f"max_records = {policy.max_records}",
            f"public = [{', '.join(map(_string, policy.public))}]",
        ]
    lines += ["", "[block]", f'kind = "{policy.block.kind}"', f"value = {policy.block.value}"]
    for quota in policy.quotas:
        lines += [
            *("", "[[quotas]]", f'purpose = "{quota.purpose}"', f"task = {_string(quota.task)}"),
            f"share = {quota.share!r}",
        ]
    return lines


def _string(text: str) -> str:
    """A basic string of TOML: as in JSON, but for the one control character that JSON leaves."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_policy(path: Path) -> PrivacyPolicy:
    """Read a policy file.

    Raises:
        SettingError: it cannot be read, a value is wrong (NaN included), or the policy could
            never release anything. Names the value.
    """
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"cannot read the policy {path}: {error}") from error
    for name in ("quotas", "public"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    policy = _validated(values, str(path))
    check_policy(policy)
    return policy


def _without(label_rho: float, telemetry_rho: float, window_rho: float | None) -> float:
    """What a label report leaves for the feature report, as a number that people can read."""
    if window_rho is not None:
        raise SettingError("policy: give label_rho or window_rho, one follows from the other")
    if not 0 <= label_rho < telemetry_rho:
        raise SettingError(
            f"policy: label_rho is {label_rho}, it must be at least 0 and below telemetry_rho, "
            f"{telemetry_rho}"
        )
    if label_rho > 0:
        _check_noise("label_rho", label_rho)
    return float(Decimal(repr(telemetry_rho)) - Decimal(repr(label_rho)))


def _default_telemetry_rho(policy: PrivacyPolicy) -> float:
    share = TELEMETRY_SHARE * Fraction(cap_nano(policy), NANO * policy.alpha)
    # Rounded down, so that the file shows a short number and the share stays within its part.
    return min(TELEMETRY_RHO, int(share * 10**6) / 10**6 or float(share))


def _validated(values: dict[str, object], name: str) -> PrivacyPolicy:
    try:
        return PrivacyPolicy.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        found = f"{where} is {first['input']!r:.80}: " if where else ""
        raise SettingError(f"{name}: {found}{first['msg']}") from error
