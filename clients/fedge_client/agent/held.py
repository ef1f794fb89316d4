"""What was noised and could not be stored: it is stored later as it is, never noised again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Held(Generic[T]):
    """Keeps the latest thing that was made, by name, until it is forgotten."""

    def __init__(self) -> None:
        self._made: tuple[Hashable, T] | None = None

    def of(self, name: Hashable, make: Callable[[], T]) -> T:
        """What was made under `name`; made now if the latest thing has another name."""
        if self._made is None or self._made[0] != name:
            self._made = None
            self._made = (name, make())
        return self._made[1]

    def forget(self) -> None:
        """Keep nothing: it was stored, or it never can be."""
        self._made = None
