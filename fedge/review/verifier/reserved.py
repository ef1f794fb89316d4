"""What a ledger reserved, and what of it was released."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedge.review.verifier.faults import Fault

Event = Mapping[str, Any]
Release = tuple[str, int, int, int, int]


_KEPT = (
    *("seq", "at", "kind", "schema_version", "reservation", "window", "run_id", "events"),
    *("purposes", "task", "base_release", "base_sha256"),
)
_EVENT = ("kind", "rate_ppm", "sensitivity2", "sigma2", "count", "dimension")
_SHARED = 10_000
"""Events that are kept once for all reservations of the same; a ledger has a few."""


@dataclass(slots=True)
class Reserved:
    """A reservation, and what was released of it by hash.

    Attributes:
        entry: what of its entry is asked for later.
    """

    entry: Mapping[str, Any]
    blocks: tuple[int, ...]
    purposes: tuple[str, ...]
    nano: Mapping[int, int]
    released: list[tuple[str, Event]] = field(default_factory=list)
    _left: Counter[Release] | None = None

    def take(self, event: Event) -> bool:
        """Take up a part; whether it held so much of it still."""
        if self._left is None:
            self._left = Counter()
            for one in self.entry["events"]:
                self._left[release_of(one)] += one["count"]
        release = release_of(event)
        if self._left[release] < event["count"]:
            return False
        self._left[release] -= event["count"]
        return True

    @property
    def is_run(self) -> bool:
        return bool(self.entry["kind"] == "run")

    def may_be(self, event: Event, purpose: str) -> bool:
        """Whether a part of it may be for `purpose`."""
        # Runs of the first version did not say what their events were for.
        untold = self.is_run and "purposes" not in self.entry
        return untold or purpose in self._purposes_of(event)

    def _purposes_of(self, event: Event) -> set[str]:
        reserved = zip(self.entry["events"], self.purposes, strict=True)
        return {purpose for one, purpose in reserved if release_of(one) == release_of(event)}


@dataclass(slots=True)
class Settlement:
    """One released part."""

    entry: int
    key: str
    event: Event
    reserved: Reserved


def release_of(event: Event) -> Release:
    """What two releases must share to be the same mechanism; full batches have rate 0."""
    return (
        event["kind"],
        event.get("rate_ppm", 0),
        event["sensitivity2"],
        event["sigma2"],
        event["dimension"],
    )


@dataclass
class Book:
    """All reservations of a ledger, and which parts of them were taken up.

    Attributes:
        reservations: by number.
        lost: parts whose noise was lost, by reservation and key.
    """

    reservations: dict[int, Reserved] = field(default_factory=dict)
    lost: set[tuple[int, str]] = field(default_factory=set)
    _subjects: set[tuple[object, ...]] = field(default_factory=set)
    _parts: set[tuple[int, str]] = field(default_factory=set)
    _events: dict[tuple[Release, int], Event] = field(default_factory=dict)

    def once(self, subject: tuple[object, ...], what: str) -> None:
        """Something may be reserved about a subject, once."""
        if subject in self._subjects:
            raise Fault("reserved-twice", f"reserves {what} a second time")
        self._subjects.add(subject)

    def reserve(
        self,
        entry: Event,
        blocks: tuple[int, ...],
        purposes: tuple[str, ...],
        nano: Mapping[int, int],
    ) -> Reserved:
        """Take in a reservation under its number."""
        if entry["reservation"] in self.reservations:
            raise Fault("reserved-twice", f"uses reservation {entry['reservation']} again")
        kept = {name: entry[name] for name in _KEPT if name in entry}
        kept["events"] = [self._shared(event) for event in entry["events"]]
        reserved = Reserved(kept, blocks, purposes, nano)
        self.reservations[entry["reservation"]] = reserved
        return reserved

    def use(self, entry: Event, does: str) -> Reserved:
        """The reservation of which an entry takes up a part, once."""
        number, key, event = entry["reservation"], entry["key"], entry["event"]
        if (number, key) in self.lost:
            raise Fault("lost", f"{does} {key!r}, which was lost before")
        if (number, key) in self._parts:
            raise Fault("settled-twice", f"{does} {key!r} a second time")
        reserved = self.reservations.get(number)
        if reserved is None:
            raise Fault("unreserved", f"{does} {key!r}, for which nothing was reserved")
        if not reserved.take(event):
            raise Fault("unreserved", f"{does} more than reservation {number} holds")
        self._parts.add((number, key))
        return reserved

    def lose(self, entry: Event) -> None:
        """A part may have been noised, and nothing of it was kept."""
        self.use(entry, "loses")
        self.lost.add((entry["reservation"], entry["key"]))

    def _shared(self, event: Event) -> Event:
        """An event like this one: a parsed line holds all its names anew."""
        key = (release_of(event), event["count"])
        known = self._events.get(key)
        if known is None:
            known = {name: event[name] for name in _EVENT if name in event}
            if len(self._events) < _SHARED:
                self._events[key] = known
        return known
