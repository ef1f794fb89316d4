"""Whether blocks are as long as the policy says that a person approved."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise

from fedge.review.verifier.accounts import Account
from fedge.review.verifier.numbering import Numbering
from fedge.review.verifier.verdict import Finding
from fedge.review.verifier.words import counted

SELDOM = 20
"""One block and then one in so many may be short without a word against the bound."""


def lengths(
    gateway: str, numbering: Numbering, accounts: Mapping[int, Account], resumed: Sequence[int]
) -> list[Finding]:
    """Findings about blocks that ended, or began, too early.

    Each gives those whose records come again and again a new budget too soon; the bound about a
    block stands. A whole window of dropped records at a block's end, or a changed setting, makes
    one short block of an honest gateway; more than a few are another policy than the approved one.

    Args:
        resumed: in order, blocks up to which budgets were lost: numbers go on at a later one.
    """
    short = [
        (block, windows)
        for block, windows, length in _full(numbering, accounts, resumed)
        if windows < length
    ]
    findings = []
    if short:
        block, windows = short[0]
        findings.append(
            Finding(
                kind="short-block",
                what=f"{counted(len(short), 'block')} ended before all windows that the policy "
                f"gives one; the first is block {block}, after {windows}",
                gateway=gateway,
                unproven=len(short) > 1 + len(numbering.blocks) // SELDOM,
            )
        )
    if numbering.early:
        findings.append(
            Finding(
                kind="early-block",
                what=f"{counted(len(numbering.early), 'block')} opened more than a day before the "
                f"time by the gateway's own clock; the first is block {numbering.early[0]}",
                gateway=gateway,
                unproven=True,
            )
        )
    return findings


def _full(
    numbering: Numbering, accounts: Mapping[int, Account], resumed: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Blocks that lie wholly between two others under one rule: windows in them, and planned."""
    found = []
    for place, (block, after) in enumerate(pairwise(numbering.blocks)):
        policy = accounts[block].policy
        length, next_length = policy.values["block"], accounts[after].policy.values["block"]
        if length != next_length or length["kind"] != "windows" or policy.withholds_windows:
            continue
        cut = bisect_left(resumed, block)
        if cut < len(resumed) and resumed[cut] < after:
            continue
        windows = numbering.first_window(place + 1) - numbering.first_window(place)
        found.append((block, windows, length["value"]))
    return found
