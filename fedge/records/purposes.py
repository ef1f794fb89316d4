"""What a record may be used for.

A task's schema says what its records may serve at most; each request may restrict
that further, never extend it. In the ring a record's purposes travel as one byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

Purpose = Literal["inference", "monitoring", "training", "escalation"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

INFERENCE, MONITORING, TRAINING, ESCALATION = (1 << place for place in range(len(PURPOSES)))
"""One bit each, in the order of `PURPOSES`."""


def purpose_bits(purposes: Iterable[Purpose]) -> int:
    """The byte for a set of purposes.

    >>> purpose_bits(["inference", "training"])
    5
    """
    bits = 0
    for purpose in purposes:
        bits |= 1 << PURPOSES.index(purpose)
    return bits


def purpose_names(bits: int) -> tuple[Purpose, ...]:
    """Undo `purpose_bits`; unknown bits are ignored."""
    return tuple(p for place, p in enumerate(PURPOSES) if bits >> place & 1)
