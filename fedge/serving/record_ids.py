"""Record ids: what a caller gets per row, and sends back with its label.

An id is `<gateway>-<block>-<slot>`: the first 8 hex digits of the gateway's
fingerprint, the data block and the arrival slot of the row, both decimal. It is
drawn by the worker and says nothing about the row's content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedge.errors import RecordError
from fedge.records import BlockLength

Slots = npt.NDArray[np.int64]
BlockOf = Callable[[int, float], int]
"""`(slot, now)` -> the data block of a slot; `now` in seconds since the epoch."""

PREFIX_LENGTH = 8
_FORM = re.compile(r"([0-9a-f]{8})-(0|[1-9][0-9]{0,15})-(0|[1-9][0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class RecordId:
    """One row of one gateway."""

    gateway: str
    block: int
    slot: int

    def __str__(self) -> str:
        return f"{self.gateway}-{self.block}-{self.slot}"

    @classmethod
    def parse(cls, text: str) -> RecordId:
        """Read an id; `str(RecordId.parse(text)) == text`.

        Raises:
            RecordError: it has another form.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise RecordError(f"{text[:64]!r} is no record id")
        return cls(match[1], int(match[2]), int(match[3]))


def id_prefix(fingerprint: str) -> str:
    """The part of a gateway's fingerprint that its record ids carry."""
    return fingerprint[:PREFIX_LENGTH]


def format_ids(gateway: str, blocks: Iterable[int], first_slot: int) -> list[str]:
    """Ids of consecutive slots from `first_slot`, one per block number given."""
    return [f"{gateway}-{block}-{slot}" for slot, block in enumerate(blocks, first_slot)]


def block_numbering(length: BlockLength, window_slots: int) -> BlockOf:
    """How rows are assigned to blocks: by arrival slot, or by arrival time.

    Either way a row's content has no say in it. A clock that is set back reopens no block: rows
    go on in the latest one until the clock has passed it again.
    """
    if length.kind == "windows":
        slots_per_block = length.value * window_slots
        return lambda slot, now: slot // slots_per_block
    seconds_per_block = length.value
    newest = 0

    def block_of(slot: int, now: float) -> int:
        nonlocal newest
        newest = max(newest, int(now // seconds_per_block))
        return newest

    return block_of
