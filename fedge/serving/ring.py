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
import sys
import time
from collections.abc import Callable
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, LOCK_UN, flock, lockf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.errors import StateError, TaskError
from fedge.records.purposes import MONITORING, TRAINING
from fedge.serving.marks import SUBJECT_BYTES, Marks
from fedge.serving.record_ids import BlockOf, Slots
from fedge.serving.ring_file import (
    FLOOR,
    GENERATION,
    MAGIC,
    ORDERED_STORES,
    PAGE,
    RECORD_HEAD,
    RELEASED,
    STATE,
    STATE_PLACES,
    TAIL,
    VERSION,
    Records,
    RingFile,
    RingState,
    RowLayout,
    Spans,
    create_ring,
)
from fedge.serving.slot_floor import LARGEST_SLOT as LARGEST_SLOT
from fedge.serving.slot_floor import read_floor

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

_CONTENT = RECORD_HEAD.size - SUBJECT_BYTES
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
        # Says that a process writes here, until it ends; `flock` keeps writers from each other.
        lockf(ring.handle, LOCK_SH, 1)
        # Any: the stubs do not know that arrays are buffers.
        self._memory: Any = ring.memory
        self._words, self._handle = ring.words, ring.handle
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
        # Inline and with few look-ups: for one row every tenth of a microsecond shows.
        count = len(logits)
        flock(self._handle, LOCK_EX)
        try:
            words, memory = self._words, self._memory
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
                dropped = self._write_rows(
                    (block_of, release, now, marks), inputs, logits, features
                )
                self._publish(head + count - dropped, first + count, self._dropped + dropped)
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
            flock(self._handle, LOCK_UN)
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
        with self._ring.locked():
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

    def _write_rows(
        self,
        fixed: tuple[BlockOf, int, float, Marks],
        inputs: npt.NDArray[Any],
        logits: npt.NDArray[np.float32],
        features: npt.NDArray[np.float32],
    ) -> int:
        """Write the rows of a batch that are kept behind the head; answers how many are not."""
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
        return count - len(kept)

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
            self._ring.clear(place, start=_CONTENT)
            return
        fields = self._fields
        fields["logits"][place], fields["features"][place] = logits[rows], features[rows]
        if self._ring.layout.inputs:
            wanted = marks.purposes & TRAINING
            fields["inputs"][place] = inputs.reshape(len(inputs), -1)[rows] if wanted else 0

    def _clear_unpublished(self) -> None:
        """Remove what killed producers wrote and did not publish: they told nobody its slots."""
        with self._ring.locked():
            self._look()
            kinds = self._fields["kind"]
            for position in range(self._head, self._words[TAIL] + self._capacity):
                place = position % self._capacity
                if not kinds[place]:
                    break
                self._ring.clear(slice(place, place + 1))


class RingReader:
    """The one consumer of a ring; not for use by several threads at once.

    It remembers nothing: positions are the caller's to keep. It takes no lock, so that no
    producer waits for it, whatever becomes of it.

    Raises:
        StateError: there is no ring yet (no worker has served), or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._ring = RingFile(path)
        # The last consumer may have been killed before it wrote it.
        self._ring.released = self._rows_before(self._ring.tail)
        self._next_slot = self._slots_before(self._ring.tail)

    def read(self, position: int, limit: int) -> tuple[Records, int]:
        """Copy up to `limit` records from `position` on.

        Args:
            position: 0 at first, then what the last read answered.

        Returns:
            a structured array (fields as in `ring_file.record_dtype`) and the position after
            it. `next_slot` now speaks of exactly these records and those before.

        Raises:
            StateError: the position was released already, or never written: caller and ring
                do not belong together.
        """
        places, end = self._places(position, limit)
        rows = np.concatenate([self._ring.records[place] for place in places])
        self._next_slot = self._slots_before(end)
        return rows, end

    def read_heads(self, position: int, limit: int) -> tuple[Records, int]:
        """Like `read`, without subject, logits, features and inputs: a tenth of the bytes.

        Returns:
            a structured array (fields as in `ring_file.HEAD_DTYPE`) and the position after it.

        Raises:
            StateError: as `read`.
        """
        places, end = self._places(position, limit)
        heads = np.concatenate([self._ring.heads(place) for place in places])
        self._next_slot = self._slots_before(end)
        return heads, end

    def release(self, position: int) -> None:
        """Give up everything before `position`: it is cleared, then producers may overwrite it.

        Call it when nothing will ask for these records again: a reader that is killed in here
        finds some of them empty.
        """
        tail = self._ring.tail
        if position > tail:
            for place in self._ring.places(tail, position - tail):
                self._ring.clear(place)
            self._ring.tail = position
            # Counted from the head, not added up: a kill in here puts nothing wrong for good.
            self._ring.released = self._rows_before(position)

    def wipe(self, match: Match) -> int:
        """Clear the content of matching observations that wait here, and labels given to them.

        Released places hold nothing (`release`), so afterwards the file holds no byte of what
        matched. A wiped observation keeps slot, block, release and time, and has no purpose.

        Args:
            match: told all waiting records (a view: not to be kept), observations and labels.

        Returns:
            how many observations were wiped.
        """
        tail, head = self._ring.tail, self._ring.state().head
        waiting = [
            (place, match(self._ring.records[place]))
            for place in self._ring.places(tail, head - tail)
        ]
        slots = []
        for place, matched in waiting:
            rows = self._ring.records[place]
            chosen = np.flatnonzero(
                matched & (rows["kind"] == OBSERVATION) & (rows["purposes"] > 0)
            )
            slots.append(rows["slot"][chosen])
            rows["purposes"][chosen] = 0  # first: a half wiped record counts no more
            self._ring.clear(chosen + place.start, start=_CONTENT)
        gone = np.concatenate(slots)
        for place, matched in waiting:
            rows = self._ring.records[place]
            theirs = matched | np.isin(rows["slot"], gone)
            chosen = np.flatnonzero(theirs & (rows["kind"] == LABEL))
            self._ring.clear(chosen + place.start)
        return len(gone)

    @property
    def position(self) -> int:
        """The oldest position that can still be read."""
        return self._ring.tail

    @property
    def waiting(self) -> int:
        """Records that were not released yet."""
        return self._ring.state().head - self._ring.tail

    @property
    def next_slot(self) -> int:
        """All slots below were given out, and are in the records read so far or were dropped."""
        return self._next_slot

    @property
    def given_out(self) -> int:
        """The slot that the next row gets, whatever was read so far."""
        return self._ring.state().next_slot

    @property
    def dropped(self) -> int:
        """Rows that were served but not handed over, since the ring was made."""
        return self._ring.state().dropped

    @property
    def dropped_labels(self) -> int:
        """Labels that were turned away, since the ring was made."""
        return self._ring.state().dropped_labels

    def never_below(self, slot: int) -> None:
        """Skip slots so that none below `slot` is given out (again); skipped ones are dropped.

        For a consumer that knows later slots than the ring: one that was lost, or fell back
        in a power failure, must not give two rows one id. An append that has begun already may
        still finish with the slot that it drew.
        """
        before = self._ring.state().next_slot
        if slot > self._ring.floor:
            self._ring.floor = slot
        if self._next_slot == before:
            self._next_slot = max(slot, before)

    def close(self) -> None:
        self._ring.close()

    def _places(self, position: int, limit: int) -> tuple[list[slice], int]:
        """Where up to `limit` records from `position` on lie, and the position after them."""
        head, tail = self._ring.state().head, self._ring.tail
        if not tail <= position <= head:
            raise StateError(
                f"{self._ring.path} holds positions {tail} to {head}, not {position}: "
                "it is another ring than the one read before"
            )
        end = min(position + limit, head)
        return self._ring.places(position, end - position), end

    def _rows_before(self, position: int) -> int:
        """How many observations were handed over before `position`, since the ring was made."""
        state = self._ring.state()
        behind = 0
        for place in self._ring.places(position, state.head - position):
            behind += int(np.count_nonzero(self._ring.records["kind"][place] == OBSERVATION))
        return max(0, state.head - state.labels - behind)

    def _slots_before(self, position: int) -> int:
        """The lowest slot that neither a record before `position` holds nor a dropped row had."""
        state = self._ring.state()
        for place in self._ring.places(position, state.head - position):
            rows = self._ring.records[place]
            observations = np.flatnonzero(rows["kind"] == OBSERVATION)
            if len(observations):
                return int(rows["slot"][observations[0]])
        return state.next_slot


def open_writer(path: Path, layout: RowLayout, capacity: int, *, at_least: int = 0) -> RingWriter:
    """The writer of a ring, made anew where the ring there is damaged or is for other rows.

    Requests must be answered; what such a ring held is lost. An agent that reads it sees another
    file in its place and goes over. No slot is given out twice: where the ring does not tell how
    far it came, the new one starts at what was reserved (`slot_floor`).

    Args:
        at_least: where a ring that is missing or damaged starts at the earliest.

    Raises:
        TaskError: another worker serves rows of another layout with the ring.
        StateError: the disk refused.
    """
    floor = read_floor(path)
    reserved = max(floor.reserved, at_least)
    try:
        ring = RingWriter(path, layout, capacity, first_slot=reserved)
    except StateError as error:
        if isinstance(error.__cause__, OSError):  # the disk, not what lies on it
            raise
        if _in_use(path):
            raise TaskError(f"a worker is writing into the ring there: {error}") from error
        log.error("the ring is replaced, and what waited in it is lost: %s", error)
    else:
        if ring.next_slot < floor.given_out:
            log.error("the ring fell back, as after a power failure: slots are skipped")
            ring.never_below(reserved)
        return ring
    first_slot = _slots_given_out(path)
    if first_slot is None:
        first_slot = reserved or _slots_in_head(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"cannot remove the ring {path}: {error}") from error
    return RingWriter(path, layout, capacity, first_slot=first_slot)


def _in_use(path: Path) -> bool:
    """Whether another process writes into the ring."""
    try:
        with path.open("r+b") as file:
            lockf(file, LOCK_EX | LOCK_NB, 1)
    except (BlockingIOError, PermissionError):
        return True
    except OSError as error:
        raise StateError(f"cannot open the ring {path}: {error}") from error
    return False


def _slots_given_out(path: Path) -> int | None:
    """The next slot of a ring that is for other rows; None where it is damaged."""
    try:
        ring = RingFile(path)
    except StateError:
        return None
    next_slot = ring.state().next_slot
    ring.close()
    return next_slot if next_slot < LARGEST_SLOT else None


def _slots_in_head(path: Path) -> int:
    """The next slot by the first page of a damaged ring; 0 where that cannot be told, either.

    Only for a ring beside which nothing was noted, because no worker of this version opened it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(PAGE)
    except OSError:
        return 0
    if len(head) < PAGE or not head.startswith(MAGIC + VERSION.to_bytes(4, sys.byteorder)):
        return 0
    words = memoryview(head).cast("Q")
    state = RingState(*STATE.unpack_from(head, STATE_PLACES[words[GENERATION] % 2]))
    next_slot = max(state.next_slot, words[FLOOR])
    return next_slot if next_slot < LARGEST_SLOT else 0


def open_reader(path: Path) -> RingReader | None:
    """The reader of a ring, or None before a worker made one."""
    return RingReader(path) if path.exists() else None
