"""One measured figure beside its peer's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A row of an area's table.

    Attributes:
        ours, peer: measured in one run, in `unit`; None where it could not be measured.
        goal: in words.
        holds: whether the goal was reached; never true for something that was not measured.
    """

    id: str
    what: str
    ours: float | None
    peer: float | None
    peer_name: str
    unit: str
    goal: str
    holds: bool

    def __post_init__(self) -> None:
        if self.ours is None and self.holds:
            raise ValueError(f"{self.id}: what was not measured holds nothing")

    @property
    def ratio(self) -> float | None:
        """ours / peer."""
        if self.ours is None or not self.peer:
            return None
        return self.ours / self.peer

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio}

    def line(self) -> str:
        ratio = "" if self.ratio is None else f", ratio {self.ratio:.3g}"
        peer = "" if self.peer is None else f"; {self.peer_name} {self.peer:.4g} {self.unit}"
        ours = "not measured" if self.ours is None else f"{self.ours:.4g} {self.unit}"
        mark = "holds" if self.holds else "MISSED"
        return f"{self.id:10} {self.what}: {ours}{peer}{ratio}  (goal: {self.goal}; {mark})"
