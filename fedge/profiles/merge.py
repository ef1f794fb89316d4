"""Many reports as one: their counts added up, however many they are.

Counts on frozen bins merge by addition, so a fleet's month is one small table. Only
reports on one reference can be added; each reference gets a sum of its own. The bytes
are read as they came, one report at a time: memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedge.errors import RecordError
from fedge.profiles.wire import CountTable, read_counts


@dataclass(slots=True)
class MergedCounts:
    """The sum of all reports on one reference.

    Attributes:
        names: of the streams, in the reference's order.
        categorical: bool[S].
        widths: int64[S], how many counts each stream has.
        counts: int64[sum of widths], noised counts added up.
        noise: float64[S], variance of the noise in each count of a stream: noise adds up, too.
        reports: how many were added.
        slots, dropped: arrival slots that they cover, and how many of these were lost.
        first_at, last_at: when the earliest window opened and the latest closed.
    """

    names: tuple[str, ...]
    categorical: NDArray[np.bool_]
    widths: NDArray[np.int64]
    counts: NDArray[np.int64]
    noise: NDArray[np.float64]
    reports: int = 0
    slots: int = 0
    dropped: int = 0
    first_at: float = np.inf
    last_at: float = 0.0

    @classmethod
    def like(cls, table: CountTable) -> MergedCounts:
        """An empty sum for reports such as `table`."""
        return cls(
            names=table.names,
            categorical=table.categorical,
            widths=table.widths,
            counts=np.zeros(len(table.counts), dtype=np.int64),
            noise=np.zeros(len(table.names)),
        )

    def add(self, table: CountTable) -> None:
        """Add one report.

        Raises:
            RecordError: its streams are not those of the reports before. Nothing was added.
        """
        if table.names != self.names or not np.array_equal(table.widths, self.widths):
            raise RecordError(
                f"a report of reference {table.reference_sha256[:12]} has other streams than "
                f"those before it"
            )
        self.counts += table.counts
        self.noise += table.sigma2
        self.reports += 1
        self.slots += table.slots
        self.dropped += table.dropped
        self.first_at = min(self.first_at, table.opened_at)
        self.last_at = max(self.last_at, table.closed_at)

    def stream(self, name: str) -> NDArray[np.int64]:
        """The counts of one stream.

        Raises:
            RecordError: there is no such stream.
        """
        if name not in self.names:
            raise RecordError(f"no stream {name!r} among {', '.join(self.names[:8])}")
        index = self.names.index(name)
        start = int(self.widths[:index].sum())
        return self.counts[start : start + int(self.widths[index])]


def merge_reports(payloads: Iterable[bytes]) -> dict[str, MergedCounts]:
    """Add up reports, as they came over the wire.

    Returns:
        sha256 of a reference -> the sum of the reports on it.

    Raises:
        RecordError: one of them cannot be read, or contradicts the others; says which, counted
            from 0.
    """
    merged: dict[str, MergedCounts] = {}
    for number, payload in enumerate(payloads):
        try:
            table = read_counts(payload)
            known = merged.get(table.reference_sha256)
            if known is None:
                known = merged[table.reference_sha256] = MergedCounts.like(table)
            known.add(table)
        except RecordError as error:
            raise RecordError(f"report {number}: {error}") from error
    return merged
