"""How much a verification reads and reckons at most, whoever made the bundle.

Each bound is far beyond what fedge writes; whatever goes beyond one is refused instead of being
waited for. The time that is left grows with the size of the bundle and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MAX_BYTES = 96 * 2**20
"""Of a bundle: some 110,000 entries with their heads and envelopes."""
MAX_FILES = 20_000
MAX_DOCUMENT = 2**22
"""Bytes of one line, or of a file that is a single JSON value."""
MAX_TEXT = 4096
"""Characters of a text for people."""
MAX_WORD = 512
"""Characters of an identifier."""
LARGEST = 2**1024
"""No mechanism has such parameters."""
MAX_EVENTS = 64
"""Of one reservation; fedge writes two at most."""
MAX_BLOCKS = 4096
"""That one run reads."""
MAX_QUOTAS = 64
"""Of one policy."""

_MOST = {
    "lines": 200_000,
    "charges": 2**20,  # an event about a block
    "policies": 1024,  # that differ
    "terms": 2**18,  # of the sums that price sampled events: one event at order 8 has 8
}


class TooMuchError(ValueError):
    """More of something than any honest bundle holds."""


@dataclass(slots=True)
class Work:
    """What one verification has done so far.

    Attributes:
        known_policies: those read before, by their canonical bytes.
    """

    lines: int = 0
    charges: int = 0
    policies: int = 0
    terms: int = 0
    known_policies: dict[bytes, object] = field(default_factory=dict)

    def take(self, kind: str, amount: int = 1) -> None:
        """Count work before it is done.

        Raises:
            TooMuchError: with it, there would be too much.
        """
        total = getattr(self, kind) + amount
        setattr(self, kind, total)
        if total > _MOST[kind]:
            raise TooMuchError(f"more than {_MOST[kind]} {kind} are in the bundle")
