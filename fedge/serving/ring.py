"""The observation ring: from the workers of a model to the agent, without waiting.

Producers (a worker; two of them during a swap) append what they served and the
labels they were given; the one consumer (the agent) reads, and releases what it
no longer needs. A producer never waits for the consumer, which takes no lock:
as the ring fills up fewer rows are handed over, chosen by their arrival slot
alone, and a full ring takes none. Labels have places of their own: which rows are
handed over depends on how many rows wait, never on how many labels came. Every row
gets its slot, and those not handed over are counted. Killing any side at any moment
loses nothing that was appended.

A record's content lies in the file only while it is needed: releasing a place
clears it, and what a row's purposes do not ask for is not written at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.errors import StateError
from fedge.records.purposes import MONITORING, TRAINING
from fedge.serving.marks import SUBJECT_BYTES, Marks
from fedge.serving.record_ids import BlockOf, Slots
from fedge.serving.ring_file import (
    BUSY,
    FLOOR,
    GENERATION,
    ORDERED_STORES,
    PAGE,
    RECORD_HEAD,
    RELEASED,
    SHARED,
    STATE,
    STATE_PLACES,
    TAIL,
    Records,
    RingFile,
    RowLayout,
    Spans,
    create_ring,
)
from fedge.serving.ring_lock import RingLock

log = logging.getLogger(__name__)

OBSERVATION, LABEL = 1, 2
"""Values of a record's `kind`; a place with neither holds nothing."""

NO_LABEL = -1
ANY_BLOCK = -1
"""The block of a label whose caller did not say."""

THINNING = (1, 1, 1, 1, 2, 2, 4, 8, 0)
"""Every n-th slot is kept while rows take so many eighths of their places; 0: none is."""

Match = Callable[[Records], npt.NDArray[np.bool_]]
"""Tells which of some records are meant."""

CONTENT_START = RECORD_HEAD.size - SUBJECT_BYTES
"""Byte of a record at which what the row held begins: its subject, then logits and so on."""


class RingWriter:
    """Appends to a ring; made by the first producer. Not for use by several threads at once.

    Args:
        path: the ring file.
        layout: of the rows.
        capacity: observations that a new ring holds; a ring that exists keeps its own.
        first_slot: of a new ring; those below count as dropped.
        steady: seconds of a clock that runs on evenly, the same for all processes of the host.

    Attributes:
        label_places: how many labels may wait at most.

    Raises:
        StateError: the ring there is damaged, or was made for rows of another layout.
    """

    def __init__(
        self,
        path: Path,
        layout: RowLayout,
        capacity: int,
        *,
        first_slot: int = 0,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steady = steady
        create_ring(path, layout, capacity, first_slot=first_slot)
        self._ring = ring = RingFile(path)
        if ring.layout != layout:
            made_for = ring.layout
            ring.close()
            raise StateError(f"{path} holds rows of {made_for}, not {layout}")
        try:
            self._lock = RingLock(ring)
        except OSError as error:
            ring.close()
            raise StateError(f"cannot lock the ring {path}: {error}") from error
        # Any: the stubs do not know that arrays are buffers.
        self._memory: Any = ring.memory
        self._words = ring.words
        self._capacity, self._size = ring.capacity, ring.records.dtype.itemsize
        self._rows, self.label_places = ring.rows, ring.labels
        self._unthinned = (ring.rows - 1) // 2
        # Made once: looking a field up costs as much as writing a row of it.
        records = ring.records
        self._fields = {name: records[name] for name in records.dtype.names or ()}
        self._spans = spans = Spans.of(layout)
        self._no_inputs = bytes(spans.inputs_end - spans.inputs)
        self._generation = -1
        self._head = self._next_slot = self._dropped = self._dropped_labels = self._labels = 0
        self._clear_unpublished()

    def append(
        self,
        block_of: BlockOf,
        release: int,
        now: float,
        marks: Marks,
        inputs: npt.NDArray[Any],
        logits: npt.NDArray[np.float32],
        features: npt.NDArray[np.float32],
    ) -> int:
        """Give n rows their arrival slots and hand them over.

        Args:
            block_of: which block a slot belongs to.
            release: counter of the release that served.
            now: arrival time, seconds since the epoch.
            marks: of all n rows. Without the purpose `training` their inputs are not written,
                without `monitoring` as well nothing of their content is.
            inputs: n x any shape with the layout's number and type of values, or anything of
                length n where the layout has none.
            logits, features: float32, n x classes and n x features. All three in C order.

        Returns:
            the first of n consecutive slots. All are consumed, also where rows are dropped.
        """
        # Inline and with few look-ups: for one row every tenth of a microsecond shows. To write the
        # record in a method of its own would cost 5 % of an append, to publish in `_publish` 11 %.
        count = len(logits)
        lock, words, memory = self._lock, self._words, self._memory
        if lock.alone:  # as `take`, without its price
            words[BUSY] = 1
            if words[SHARED] or not ORDERED_STORES:
                lock.take()
        else:
            lock.take()
        try:
            if words[GENERATION] != self._generation or words[FLOOR] > self._next_slot:
                self._look()
            first, head = self._next_slot, self._head
            waiting = head - words[TAIL]
            purposes = marks.purposes
            if (
                count == 1
                and waiting > self._unthinned  # labels included: a first, quick look
                and not self._keeps(first, self._waiting_rows(), waiting)
            ):
                self._publish(head, first + 1, self._dropped + 1)
                return first
            if count > 1 or not purposes & (MONITORING | TRAINING):
                self._append_rows((block_of, release, now, marks), inputs, logits, features)
                return first
            start = PAGE + head % self._capacity * self._size
            RECORD_HEAD.pack_into(
                memory,
                start,
                OBSERVATION,
                purposes,
                release,
                block_of(first, now),
                first,
                now,
                self._steady(),
                NO_LABEL,
                marks.subject,
            )
            to_logits, to_features, features_end, to_inputs, inputs_end = self._spans
            # A slice of the memory takes whole arrays only, and of exactly its size.
            memory[start + to_logits : start + to_features] = logits
            memory[start + to_features : start + features_end] = features
            if to_inputs < inputs_end:
                kept = inputs if purposes & TRAINING else self._no_inputs
                memory[start + to_inputs : start + inputs_end] = kept
            generation = self._generation + 1  # from here on as `_publish`
            STATE.pack_into(
                memory,
                STATE_PLACES[generation % 2],
                head + 1,
                first + 1,
                self._dropped,
                self._dropped_labels,
                self._labels,
            )
            if not ORDERED_STORES:
                self._ring.fence()
            words[GENERATION] = generation
            self._generation, self._head, self._next_slot = generation, head + 1, first + 1
        finally:
            if lock.alone and ORDERED_STORES:
                words[BUSY] = 0
            else:
                lock.drop()
        return first

    def append_labels(
        self, slots: Slots, labels: npt.NDArray[np.int32], blocks: Slots | None = None
    ) -> bool:
        """Hand over labels (class indices) for slots given out before, all or none.

        Args:
            blocks: which the caller's record ids name; where given, a label whose block is not
                its record's is refused by the agent.

        Returns:
            False where labels' places have no room for them: nothing was taken, they are
            counted as turned away, and the caller may try again.
        """
        count = len(slots)
        with self._lock.held():
            self._look()
            head = self._head
            waiting = head - self._words[TAIL]
            taken = waiting - self._waiting_rows()
            fits = bool(taken + count <= self.label_places and waiting + count <= self._capacity)
            if fits:
                done = 0
                for place in self._ring.places(head, count):
                    part = slice(done, done + place.stop - place.start)
                    self._ring.clear(place)
                    self._fields["slot"][place] = slots[part]
                    self._fields["block"][place] = ANY_BLOCK if blocks is None else blocks[part]
                    self._fields["label"][place] = labels[part]
                    self._fields["kind"][place] = LABEL
                    done = part.stop
                self._labels += count
                self._publish(head + count, self._next_slot, self._dropped)
            else:
                self._dropped_labels += count
                self._publish(head, self._next_slot, self._dropped)
        return fits

    @property
    def next_slot(self) -> int:
        """The slot that the next row gets."""
        return self._ring.state().next_slot

    @property
    def dropped(self) -> int:
        """Rows that were served but not handed over, since the ring was made."""
        return self._ring.state().dropped

    @property
    def in_place(self) -> bool:
        """Whether the file is still the one at its path: what is appended to another is lost."""
        return self._ring.in_place

    def never_below(self, slot: int) -> None:
        """Skip slots so that none below `slot` is given out; for a ring that fell back."""
        self._ring.floor = max(slot, self._ring.floor)

    def close(self) -> None:
        self._fields.clear()
        del self._words, self._memory
        self._lock.close()
        self._ring.close()

    def _look(self) -> None:
        """Take over what was published last, by whomever. Needs the lock."""
        self._generation = self._words[GENERATION]
        state = self._ring.state()
        self._head, self._next_slot, self._dropped, self._dropped_labels, self._labels = state

    def _publish(self, head: int, next_slot: int, dropped: int) -> None:
        """`RingFile.publish` without its look-ups: this runs once per request."""
        generation = self._generation + 1
        STATE.pack_into(
            self._memory,
            STATE_PLACES[generation % 2],
            *(head, next_slot, dropped, self._dropped_labels, self._labels),
        )
        if not ORDERED_STORES:
            self._ring.fence()
        self._words[GENERATION] = generation
        self._generation = generation
        self._head, self._next_slot, self._dropped = head, next_slot, dropped

    def _waiting_rows(self) -> int:
        """Observations that were not released yet. Needs the lock."""
        return max(0, self._head - self._labels - self._words[RELEASED])

    def _keeps(self, slot: int, rows: int, taken: int) -> bool:
        """Whether a slot's row is handed over while so many rows wait and places are taken."""
        step = THINNING[min(8 * rows // self._rows, 8)]
        # Rows and labels with places of their own leave one free, except for the moment between a
        # consumer's two writes in `release`.
        return step > 0 and slot % step == 0 and taken < self._capacity

    def _kept(self, first: int, count: int) -> range | list[int]:
        """Which of `count` rows are handed over."""
        taken = self._head - self._words[TAIL]
        if taken + count - 1 <= self._unthinned:
            return range(count)
        kept: list[int] = []
        rows = self._waiting_rows()
        for row in range(count):
            if self._keeps(first + row, rows + len(kept), taken + len(kept)):
                kept.append(row)
        return kept

    def _append_rows(
        self,
        fixed: tuple[BlockOf, int, float, Marks],
        inputs: npt.NDArray[Any],
        logits: npt.NDArray[np.float32],
        features: npt.NDArray[np.float32],
    ) -> None:
        """Write the rows of a batch that are kept, and publish the batch. Needs the lock."""
        block_of, release, now, marks = fixed
        first, count, steady = self._next_slot, len(logits), self._steady()
        kept = self._kept(first, count)
        slots = [first + row for row in kept]
        blocks = [block_of(slot, now) for slot in slots]
        fields, done = self._fields, 0
        for place in self._ring.places(self._head, len(kept)):
            part = slice(done, done + place.stop - place.start)
            fields["kind"][place], fields["purposes"][place] = OBSERVATION, marks.purposes
            fields["release"][place], fields["time"][place] = release, now
            fields["slot"][place], fields["block"][place] = slots[part], blocks[part]
            fields["label"][place], fields["steady"][place] = NO_LABEL, steady
            fields["subject"][place] = np.frombuffer(marks.subject, np.uint8)
            rows = part if isinstance(kept, range) else kept[part]
            self._write_content(place, rows, marks, inputs, logits, features)
            done = part.stop
        dropped = self._dropped + count - len(kept)
        self._publish(self._head + len(kept), first + count, dropped)

    def _write_content(
        self,
        place: slice,
        rows: slice | list[int],
        marks: Marks,
        inputs: npt.NDArray[Any],
        logits: npt.NDArray[np.float32],
        features: npt.NDArray[np.float32],
    ) -> None:
        """Write what the purposes ask for, and nothing else: zeros where they do not."""
        if not marks.purposes & (MONITORING | TRAINING):
            self._ring.clear(place, start=CONTENT_START)
            return
        fields = self._fields
        fields["logits"][place], fields["features"][place] = logits[rows], features[rows]
        if self._ring.layout.inputs:
            wanted = marks.purposes & TRAINING
            fields["inputs"][place] = inputs.reshape(len(inputs), -1)[rows] if wanted else 0

    def _clear_unpublished(self) -> None:
        """Remove what killed producers wrote and did not publish: they told nobody its slots."""
        with self._lock.held():
            self._look()
            kinds = self._fields["kind"]
            for position in range(self._head, self._words[TAIL] + self._capacity):
                place = position % self._capacity
                if not kinds[place]:
                    break
                self._ring.clear(slice(place, place + 1))
