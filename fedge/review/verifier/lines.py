"""The lines of a file, one after the other, without a second copy of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines of `data`; what follows the last line break is none."""

    data: bytes = b""

    def __len__(self) -> int:
        return self.data.count(b"\n")

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        while (end := self.data.find(b"\n", start)) >= 0:
            yield self.data[start:end]
            start = end + 1
