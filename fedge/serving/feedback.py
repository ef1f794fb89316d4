"""Labels that callers send back for records they hold ids of.

Whoever takes a label checks here that its record can be one of this gateway's. The ring
carries it to the agent, which joins it to its record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedge.errors import RecordError, RequestError
from fedge.records import TaskSchema
from fedge.serving.record_ids import RecordId

MAX_LABELS = 4096
"""Of one request."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """Labels for records of this gateway: int64 slots, int32 class indices, int64 blocks."""

    slots: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]
    blocks: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Known:
    """Which records can get a label now.

    Attributes:
        gateway: the prefix of this gateway's record ids.
        next_slot: slots from here on were not given out yet.
        feedback_slots: how many slots back a label is still taken.
        block_of: the block of a slot, where blocks are numbered by slot. Where they are numbered
            by time only the agent knows when a slot was given out: None, and an id with another
            block than its record's is left for the agent to drop.
        places: labels that can wait for the agent at most: more at once would never find room.
    """

    gateway: str
    next_slot: int
    feedback_slots: int
    block_of: Callable[[int], int] | None = None
    places: int = MAX_LABELS

    def check(self, record: RecordId, where: str) -> None:
        """Refuse a record that this gateway cannot have served, or served too long ago.

        Raises:
            RequestError: foreign or unknown (404), or expired (410).
        """
        if (
            record.gateway != self.gateway
            or record.slot >= self.next_slot
            or (self.block_of is not None and self.block_of(record.slot) != record.block)
        ):
            raise RequestError(404, where, f"no record {record} was served here")
        if record.slot < self.next_slot - self.feedback_slots:
            raise RequestError(410, where, f"labels for {record} are no longer taken")


def parse_feedback(request: Any, task: TaskSchema, known: Known) -> Feedback:
    """Read labels out of a JSON value; one wrong entry refuses all.

    Raises:
        RequestError: malformed (400), or as `Known.check`; names the entry.
    """
    return checked_labels(_pairs(request), task, known)


def checked_labels(
    pairs: Iterable[tuple[object, object]], task: TaskSchema, known: Known
) -> Feedback:
    """Check pairs of record id and label, both as the caller gave them; one refuses all.

    Raises:
        RequestError: as `parse_feedback`; 400 also for more than can ever wait.
    """
    pairs = list(pairs)
    if len(pairs) > known.places:
        raise RequestError(400, "labels", f"are more than {known.places}: send fewer at once")
    indices = {name: index for index, name in enumerate(task.classes)}
    slots, labels, blocks = [], [], []
    for number, (text, label) in enumerate(pairs):
        where = f"labels[{number}]"
        if not (isinstance(label, str) and label in indices):
            raise RequestError(400, f"{where}.label", "must be one of the task's classes")
        record = _record(text, f"{where}.id")
        known.check(record, f"{where}.id")
        slots.append(record.slot)
        labels.append(indices[label])
        blocks.append(record.block)
    return Feedback(
        np.array(slots, np.int64), np.array(labels, np.int32), np.array(blocks, np.int64)
    )


def named_gateway(request: Any) -> str | None:
    """The gateway of the first record that a JSON value of labels names, if it names one."""
    try:
        return RecordId.parse(request["labels"][0]["id"]).gateway
    except (RecordError, TypeError, LookupError):
        return None


def _pairs(request: Any) -> list[tuple[object, object]]:
    if not isinstance(request, dict):
        raise RequestError(400, "body", "must be a JSON object")
    for name in request.keys() - {"labels"}:
        raise RequestError(400, name[:64], "is unknown; known: labels")
    entries = request.get("labels")
    if not (isinstance(entries, list) and 0 < len(entries) <= MAX_LABELS):
        raise RequestError(400, "labels", f"must be a list of 1 to {MAX_LABELS} entries")
    pairs: list[tuple[object, object]] = []
    for number, entry in enumerate(entries):
        where = f"labels[{number}]"
        if not isinstance(entry, dict):
            raise RequestError(400, where, "must be a JSON object")
        for name in entry.keys() - {"id", "label"}:
            raise RequestError(400, f"{where}.{name[:64]}", "is unknown; known: id, label")
        pairs.append((entry.get("id"), entry.get("label")))
    return pairs


def _record(text: object, where: str) -> RecordId:
    try:
        return RecordId.parse(text if isinstance(text, str) else "")
    except RecordError as error:
        raise RequestError(400, where, "must be a record id that an answer carried") from error
