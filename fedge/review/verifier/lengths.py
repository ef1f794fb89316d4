"""Whether blocks are as long as the policy says that a person approved."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence, Sized
from itertools import pairwise

from fedge.review.verifier.accounts import Account
from fedge.review.verifier.numbering import Numbering
from fedge.review.verifier.verdict import Finding
from fedge.review.verifier.words import counted

SELDOM = 20
"""One block and then one in so many may be short without a word against the bound."""
EXCUSED = 3
"""So many, and then one in `SELDOM`, that a recovery or a changed length cut short, are no news."""


def lengths(
    gateway: str, numbering: Numbering, accounts: Mapping[int, Account], resumed: Sequence[int]
) -> list[Finding]:
    """Findings about blocks that ended, or began, too early.

    Each gives those whose records come again and again a new budget too soon; the bound about a
    block stands. A whole window of dropped records at a block's end, or a clock that was wrong for
    a while, makes one such block of an honest gateway; more than a few are another policy than the
    approved one.

    Args:
        resumed: in order, blocks up to which budgets were lost: numbers go on at a later one.
    """
    findings, cut = [], _cut_short(numbering, accounts, resumed)
    short = [(block, windows) for block, windows, excused in cut if not excused]
    if short:
        block, windows = short[0]
        what = (
            f"{counted(len(short), 'block')} ended before all windows that the policy gives one; "
            f"the first is block {block}, after {windows}"
        )
        findings.append(
            _finding(gateway, "short-block", what, len(short) > _few(numbering.blocks, 1))
        )
    excused = [block for block, _, known in cut if known]
    if len(excused) > _few(numbering.blocks, EXCUSED):
        what = (
            f"{counted(len(excused), 'block')} ended early with a recovery, under a quota or "
            "before a changed length: more than happens to a gateway; the first is block "
            f"{excused[0]}"
        )
        findings.append(_finding(gateway, "short-block", what, True))
    return [*findings, *_untimely(gateway, numbering, accounts)]


def _untimely(
    gateway: str, numbering: Numbering, accounts: Mapping[int, Account]
) -> Iterator[Finding]:
    """Blocks of so many seconds, by the gateway's own clock."""
    for kind, blocks, how in (
        ("short-block", numbering.pace.hasty, "sooner than blocks of this length can follow"),
        ("early-block", numbering.early, "more than a day before the time"),
    ):
        if blocks:
            what = (
                f"{counted(len(blocks), 'block')} opened {how} by the gateway's own clock; "
                f"the first is block {blocks[0]}"
            )
            yield _finding(gateway, kind, what, len(blocks) > _few(accounts, 1))


def _cut_short(
    numbering: Numbering, accounts: Mapping[int, Account], resumed: Sequence[int]
) -> list[tuple[int, int, bool]]:
    """Blocks with another one after them and fewer windows than planned: how many windows, and
    whether something that happens to gateways explains it."""
    found = []
    for place, (block, after) in enumerate(pairwise(numbering.blocks)):
        length, next_length = (accounts[one].policy.values["block"] for one in (block, after))
        windows = numbering.windows_in(place)
        if length["kind"] != "windows" or windows >= length["value"]:
            continue
        cut = bisect_left(resumed, block)
        recovered = cut < len(resumed) and resumed[cut] < after
        known = recovered or length != next_length or accounts[block].withholds_windows
        found.append((block, windows, known))
    return found


def _few(blocks: Sized, at_least: int) -> int:
    return at_least + len(blocks) // SELDOM


def _finding(gateway: str, kind: str, what: str, unproven: bool) -> Finding:
    return Finding(kind=kind, what=what, gateway=gateway, unproven=unproven)
