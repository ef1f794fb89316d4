"""Which windows lie in which block, and whether blocks are cut as their policy says.

A gateway numbers blocks by arrival slot or by arrival time, windows in the order in which they
close, and cuts a window at a block's end. So both numbers only ever rise, together. A block of
so many windows may hold more: where another release answers, or time is up, a window is cut
early. It never holds fewer, except next to a whole window of dropped records, one of a release that
the agent did not know, or a changed setting: numbers without an entry are no windows.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from fedge.review.verifier.clocks import DAY
from fedge.review.verifier.faults import Fault
from fedge.review.verifier.pace import Pace
from fedge.review.verifier.policies import Policy


@dataclass(slots=True)
class Numbering:
    """Windows and blocks of one ledger, in the order of its entries, which is that of numbers.

    Attributes:
        windows: about which something was reserved; their blocks and first entries beside them.
        blocks: with such a window, and where in `windows` each begins.
        early: those that were opened long before their time. pace: those that came too fast.
    """

    windows: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    early: list[int] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    _block_of: dict[int, int] = field(default_factory=dict)
    _newest: int = -1

    def open(self, block: int, policy: Policy, at: float, began: float) -> None:
        """A block is opened, at a time of the gateway's clock; its ledger began earlier.

        Raises:
            Fault: a later one was opened before.
        """
        if block < self._newest:
            raise Fault("order", f"opens block {block} after block {self._newest}: none comes back")
        self._newest = block
        length = policy.values["block"]
        seconds = length["value"] if length["kind"] == "seconds" else None
        self.pace.open(block, seconds, at, began)
        if seconds is not None and block * seconds > at + DAY:
            self.early.append(block)

    def place(self, window: int, block: int, entry: int) -> None:
        """Something is reserved about a window of a block.

        Raises:
            Fault: the window lies in another block, or either of them comes too late.
        """
        known = self._block_of.get(window)
        if known == block:
            return
        if known is not None:
            raise Fault("window", f"puts window {window} into a second block")
        if self.windows and window < self.windows[-1]:
            raise Fault("order", f"reserves window {window} after window {self.windows[-1]}")
        if self.blocks and block < self.blocks[-1]:
            raise Fault(
                "order", f"puts window {window} into block {block}, after block {self.blocks[-1]}"
            )
        if not self.blocks or block > self.blocks[-1]:
            self.blocks.append(block)
            self.starts.append(len(self.windows))
        self._block_of[window] = block
        self.windows.append(window)
        self.entries.append(entry)

    # --- what runs read -------------------------------------------------------------------

    def known_before(self, entry: int) -> int:
        """How many windows were known when an entry was written."""
        return bisect_left(self.entries, entry)

    def may_hold(self, block: int, first: int, last: int) -> bool:
        """Whether a block may hold one of these windows: none that is known lies between."""
        place, after = bisect_left(self.blocks, block), bisect_right(self.blocks, block)
        low = self._last_window(place - 1) + 1 if place else 0
        high = self.first_window(after) - 1 if after < len(self.blocks) else last
        return max(low, first) <= min(high, last)

    def holding(self, first: int, last: int, known: int) -> Iterator[tuple[int, int]]:
        """Blocks that hold some of these among the first `known` windows, and how many of them."""
        low = bisect_left(self.windows, first)
        high = min(bisect_right(self.windows, last), known)
        while low < high:
            place = bisect_right(self.starts, low) - 1
            end = self.starts[place + 1] if place + 1 < len(self.starts) else len(self.windows)
            yield self.blocks[place], min(end, high) - low
            low = end

    def windows_in(self, place: int) -> int:
        """How many windows are known of the block at a place of `blocks` that is not the last."""
        return self.starts[place + 1] - self.starts[place]

    def first_window(self, place: int) -> int:
        """The first window that is known of the block at a place of `blocks`."""
        return self.windows[self.starts[place]]

    def _last_window(self, place: int) -> int:
        end = self.starts[place + 1] if place + 1 < len(self.starts) else len(self.windows)
        return self.windows[end - 1]
