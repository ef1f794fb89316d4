"""Texts from a bundle made fit to be shown: nothing hidden in them, none of endless length.

A name may hold characters that turn the reading direction, end a line or a cell, or move a
terminal's cursor. Each is replaced by its number in brackets, in every file of a report.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from fedge.review.report.document import Block, Bullets, Document, Fact, Grid, Paragraph

MOST_NAME = 40
"""Characters of a name; a longer one is cut, and says so by its last character."""

MOST_TEXT = 2_000
"""Characters of a cell or paragraph. Whole texts are in the JSON file."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_BLANK = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
) | frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
"""Letters and marks that show nothing: the rest of Unicode's Default_Ignorable_Code_Point, and the
empty pattern of Braille."""
_START = 8
"""Digits of a fingerprint that tell gateways of the same name apart."""
_CUT = "\N{HORIZONTAL ELLIPSIS}"


def visible(text: str) -> str:
    """The text with each character that hides, or turns others, as its number: `[U+202E]`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"[U+{ord(c):04X}]" if _hides(c) else c for c in text)


def _hides(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN or character in _BLANK


def shortened(text: str, most: int = MOST_NAME) -> str:
    """Made visible, and no longer than `most` characters."""
    shown = visible(text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + _CUT


def visible_document(document: Document) -> Document:
    """The same document, every text of it visible and of a bearable length."""
    return with_texts(document, lambda text: shortened(text, MOST_TEXT))


def with_texts(document: Document, change: Callable[[str], str]) -> Document:
    """The same document, every text in it that a bundle may have a part in changed."""
    return replace(
        document,
        headline=change(document.headline),
        sentences=tuple(map(change, document.sentences)),
        facts=tuple(Fact(one.name, change(one.value)) for one in document.facts),
        sections=tuple(
            replace(one, blocks=tuple(_block(block, change) for block in one.blocks))
            for one in document.sections
        ),
        footer=tuple(map(change, document.footer)),
    )


def _block(block: Block, change: Callable[[str], str]) -> Block:
    match block:
        case Paragraph():
            return replace(block, text=change(block.text))
        case Bullets():
            return Bullets(tuple(map(change, block.items)))
        case Grid():
            rows = tuple(tuple(map(change, row)) for row in block.rows)
            return replace(block, rows=rows, note=change(block.note))
        case _:
            return replace(block, alt=change(block.alt), caption=change(block.caption))


def display_names(gateways: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """What each gateway is called in a report, by fingerprint; no two are called the same.

    Args:
        gateways: fingerprint and name of each. Where a name is empty, cut, shared by two (also in
            other letters that read the same), or made to look like one of these, the start
            of the fingerprint is added.
    """
    named = [(gateway, name, shortened(name)) for gateway, name in gateways]
    times = Counter(_read(shown) for _, _, shown in named)
    starts = {gateway[:_START] for gateway, _, _ in named}
    digits = _START if len(starts) == len(named) else None

    def plain(name: str, shown: str) -> bool:
        return (
            bool(shown)
            and shown == name == name.strip()
            and times[_read(shown)] == 1
            and "(" not in name
        )

    return {
        gateway: shown
        if plain(name, shown)
        else f"{shortened(name, MOST_NAME - _START - 3)} ({gateway[:digits]})".strip()
        for gateway, name, shown in named
    }


def _read(name: str) -> str:
    """A name as somebody reads it: not by its case, nor by the form or width of its letters."""
    return unicodedata.normalize("NFKC", name).casefold().strip()
