"""Labels between the ring and their records.

A label may come before its window is closed; then it waits here, and in the ring, for
the window. It joins its record in the block of prediction, or is refused: where the
record is unknown, expired or erased, was not kept, or where its id names another block.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from fedge.data.blocks import BlockStore
from fedge.serving.ring import ANY_BLOCK
from fedge.serving.ring_file import Records

log = logging.getLogger(__name__)

Integers = npt.NDArray[np.int64]


class LabelTray:
    """Holds labels until the window of their slot is final.

    Attributes:
        refused: labels that joined no record, since the start. It depends on what was erased or
            withdrawn, so it stays on the gateway.
    """

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self.refused = 0
        self.clear()

    def clear(self) -> None:
        """Forget what waits: it is read again."""
        # slot, label, block, position
        self._waiting: Integers = np.empty((0, 4), dtype=np.int64)

    def add(self, records: Records, positions: Integers) -> None:
        """Take in the ring's label records, and where in the ring they lie."""
        if len(records):
            columns = [records[name].astype(np.int64) for name in ("slot", "label", "block")]
            columns.append(positions)
            self._waiting = np.concatenate([self._waiting, np.stack(columns, axis=1)])

    def forget(self, slots: Collection[int]) -> None:
        """Drop labels of rows that were erased."""
        if slots:
            gone = np.isin(self._waiting[:, 0], np.fromiter(slots, np.int64))
            self._waiting = self._waiting[~gone]

    def has_ready(self, *, before: int) -> bool:
        """Whether `file` would do something."""
        return bool((self._waiting[:, 0] < before).any())

    def file(self, *, before: int, until: int | None = None) -> None:
        """Join labels to the rows of closed windows, whose slots end at `before`.

        Joins the caller's transaction; filing one again changes nothing.

        Args:
            until: labels at this position of the ring and after it wait on; None: none does.

        Raises:
            StateError: the disk refused.
        """
        ready = self._waiting[:, 0] < before
        if until is not None:
            ready &= self._waiting[:, 3] < until
        if not ready.any():
            return
        labels, self._waiting = self._waiting[ready], self._waiting[~ready]
        mine = labels[self._in_their_block(labels)]
        stored = self._store.add_labels(mine[:, 0].copy(), mine[:, 1].copy())
        if stored < len(labels):
            self.refused += len(labels) - stored
            log.warning("%d labels belong to no kept record", len(labels) - stored)

    def _in_their_block(self, labels: Integers) -> npt.NDArray[np.bool_]:
        """Which labels name the block of their record, or none."""
        fits: npt.NDArray[np.bool_] = labels[:, 2] == ANY_BLOCK
        blocks: dict[int | None, int | None] = {None: None}
        for index in np.flatnonzero(~fits).tolist():
            window = self._store.window_of(int(labels[index, 0]))
            if window not in blocks and window is not None:
                blocks[window] = next(iter(self._store.blocks_of(window, window)), None)
            fits[index] = blocks[window] == labels[index, 2]
        return fits
