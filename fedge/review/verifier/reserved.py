"""What a ledger reserved, and what of it was released."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
Release = tuple[str, int, int, int, int]


@dataclass(slots=True)
class Reserved:
    """A reservation, what of it is still to be settled, and what was released of it by hash."""

    entry: Mapping[str, Any]
    blocks: tuple[int, ...]
    purposes: tuple[str, ...]
    nano: Mapping[int, int]
    left: Counter[Release]
    released: list[tuple[str, Event]] = field(default_factory=list)

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
