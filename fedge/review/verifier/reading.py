"""Whether a run was charged to the blocks that it read: the plan's windows beside the ledger's.

The gateway charges every block of which it still keeps one of the planned windows. What it does
not keep any more is in no entry, but when old windows were removed is; a file that was damaged
is not, and costs one window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedge.review.verifier.faults import Fault
from fedge.review.verifier.numbering import Numbering
from fedge.review.verifier.replay import Replay
from fedge.review.verifier.reserved import Reserved
from fedge.review.verifier.verdict import Finding

DAMAGED = 2
"""Windows of one block that may be gone without a note."""


def check_reading(
    replay: Replay, reserved: Reserved, part: Mapping[str, Any], run: str
) -> list[Finding]:
    """Findings about one gateway's part in a run.

    Args:
        part: which windows the plan asked it to read. run: its name, for people.

    Raises:
        Fault: no honest gateway charged these blocks for these windows.
    """
    first, last, entry = part["first_window"], part["last_window"], reserved.entry["seq"]
    numbering, span = replay.numbering, f"windows {first} to {last}"
    # Where the house's rules withhold windows, what is in no entry may have been read all the same.
    told = not any(replay.accounts[one].withholds_windows for one in reserved.blocks)
    known = numbering.known_before(entry)
    if told:
        _check_known(numbering, first, last, known, run)
    for block in reserved.blocks:
        if not numbering.may_hold(block, first, last):
            raise Fault("blocks", f"{run} read {span}: none of them lies in block {block}")
    left = _left_out(numbering, reserved, first, last, known)
    if left is not None:
        block, windows = left
        what = f"{run} read {span} and was not charged to block {block}, which holds {windows} of"
        removed = replay.removed_at is not None and replay.removed_at < entry
        if not removed and windows > DAMAGED:
            raise Fault("blocks", f"{what} them")
        why = "the gateway may have removed them" if removed else "they may have been damaged"
        return [_finding(replay, "uncharged-block", f"{what} them: {why}", entry)]
    if told and last > numbering.windows[known - 1]:
        what = f"{run} was to read {span}; at that time its ledger knew of none after "
        return [_finding(replay, "unknown-windows", f"{what}{numbering.windows[known - 1]}", entry)]
    return []


def _check_known(numbering: Numbering, first: int, last: int, known: int, run: str) -> None:
    span = f"windows {first} to {last}"
    if not any(numbering.holding(first, last, known)):
        raise Fault("blocks", f"{run} read {span}, and its ledger knew of none of them")
    later = numbering.windows[known : known + 1]
    if later and later[0] <= last:
        raise Fault("blocks", f"{run} read window {later[0]} before that window was closed")


def _left_out(
    numbering: Numbering, reserved: Reserved, first: int, last: int, known: int
) -> tuple[int, int] | None:
    """The first block with some of the windows to which the run was not charged."""
    charged = set(reserved.blocks)
    found = numbering.holding(first, last, known)
    return next(((block, windows) for block, windows in found if block not in charged), None)


def _finding(replay: Replay, kind: str, what: str, entry: int) -> Finding:
    return Finding(kind=kind, what=what, gateway=replay.gateway, entry=entry, unproven=True)
