"""A document of words, tables and pictures: what both HTML and PDF are written from.

So both say the same. Everything is plain text; whoever writes a format escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LONG_WORD = 24
"""Characters that are never broken across lines: numbers, times, ids of runs. What has more without
a blank, such as a hash, may be broken."""

HIDDEN_ROWS = "{:,} more rows are not shown; the JSON file of this report holds them all."

Tone = Literal["good", "warn", "bad", "plain"]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain words. `soft`: an explanation that may be skipped."""

    text: str
    soft: bool = False


@dataclass(frozen=True, slots=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        rows: as many cells in each as there are heads.
        marked: numbers of rows that need attention.
        widths: relative widths of columns; even where empty.
        hidden: rows that were left out; said below.
        note: said below.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    widths: tuple[float, ...] = ()
    hidden: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG. `alt` is for who cannot see it; `width` and `height` are in inches."""

    png: bytes
    alt: str
    caption: str
    width: float
    height: float


Block = Paragraph | Bullets | Grid | Picture


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it. `anchor` is what the table of contents links to."""

    heading: str
    anchor: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Document:
    """All that a reader is told.

    Attributes:
        tone: what colours the verdict.
        headline, sentences: the verdict, in words that need no other part.
        facts: what it is about.
        footer: how to check it without trusting this document.
    """

    title: str
    kind: str
    tone: Tone
    headline: str
    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    footer: tuple[str, ...]


def cut(rows: tuple[tuple[str, ...], ...], most: int) -> tuple[tuple[tuple[str, ...], ...], int]:
    """The first `most` rows, and how many were left out."""
    return rows[:most], max(0, len(rows) - most)
