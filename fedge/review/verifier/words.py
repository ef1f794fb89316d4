"""Small words for people."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """A number and its noun, whose plural ends in s unless given."""
    return f"{number} {one if number == 1 else many or one + 's'}"
