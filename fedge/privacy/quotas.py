"""Quotas: parts of a block's cap that purposes may take. Rules of the house, no guarantee.

What bounds a block is its cap alone; a quota keeps one purpose or one task from using it
up. The ledger refuses what exceeds one; a review that finds one exceeded reports it,
and the bound holds all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from fedge.errors import QuotaExceededError
from fedge.records import PrivacyPolicy, Quota

EVERY_TASK = "*"


@dataclass(frozen=True, slots=True)
class Use:
    """Nano-RDP that one purpose of one task takes, or took, of one block."""

    purpose: str
    task: str
    nano: int


@dataclass(frozen=True, slots=True)
class Standing:
    """One quota of a block: what it allows and what was used, in nano-RDP."""

    quota: Quota
    limit_nano: int
    used_nano: int

    @property
    def left_nano(self) -> int:
        return max(0, self.limit_nano - self.used_nano)

    @property
    def exceeded(self) -> bool:
        return self.used_nano > self.limit_nano


def standings(policy: PrivacyPolicy, cap_nano: int, uses: Iterable[Use]) -> Iterator[Standing]:
    """How the quotas of a block's policy stand.

    Args:
        cap_nano: the block's cap; a quota's limit is its share of this, rounded down.
        uses: of the block, in any order.
    """
    known = tuple(uses)
    for quota in policy.quotas:
        used = sum(use.nano for use in known if _covers(quota, use))
        yield Standing(quota, limit_nano(quota, cap_nano), used)


def limit_nano(quota: Quota, cap_nano: int) -> int:
    """What a quota allows of a cap, rounded down."""
    return math.floor(Fraction(quota.share) * cap_nano)


def check_quotas(
    policy: PrivacyPolicy, cap_nano: int, block: int, uses: Iterable[Use], asked: Iterable[Use]
) -> None:
    """Refuse what would exceed a quota of the block's policy.

    Args:
        uses: what was taken of the block before.
        asked: what shall be taken, together.

    Raises:
        QuotaExceededError: the first quota that does not hold it.
    """
    wanted = tuple(asked)
    for standing in standings(policy, cap_nano, uses):
        quota = standing.quota
        nano = sum(use.nano for use in wanted if _covers(quota, use))
        if nano > standing.left_nano:
            raise QuotaExceededError(block, quota.purpose, quota.task, nano, standing.left_nano)


def _covers(quota: Quota, use: Use) -> bool:
    return quota.purpose == use.purpose and quota.task in (EVERY_TASK, use.task)
