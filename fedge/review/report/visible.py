"""Texts from a bundle made fit to be shown: nothing hidden in them, none of endless length.

A name may hold characters that turn the reading direction, end a line or a cell, or move a
terminal's cursor. Each is replaced by its number in brackets, in every file of a report.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fedge.review.report.document import Block, Bullets, Document, Fact, Grid, Paragraph, Section

MOST_NAME = 40
"""Characters of a name; a longer one is cut, and says so by its last character."""

MOST_TEXT = 2_000
"""Characters of a cell or paragraph. Whole texts are in the JSON file."""

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_START = 8
"""Digits of a fingerprint that tell gateways of the same name apart."""
_CUT = "\N{HORIZONTAL ELLIPSIS}"


def visible(text: str) -> str:
    """The text with control, format, bidirectional and unpaired characters as `[U+202E]`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"[U+{ord(c):04X}]" if unicodedata.category(c) in _HIDDEN else c for c in text)


def shortened(text: str, most: int = MOST_NAME) -> str:
    """Made visible, and no longer than `most` characters."""
    shown = visible(text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + _CUT


def visible_document(document: Document) -> Document:
    """The same document, every text of it visible and of a bearable length."""
    return replace(
        document,
        headline=_text(document.headline),
        sentences=_texts(document.sentences),
        facts=tuple(Fact(one.name, _text(one.value)) for one in document.facts),
        sections=tuple(
            Section(_text(one.heading), one.anchor, tuple(map(_block, one.blocks)))
            for one in document.sections
        ),
        footer=_texts(document.footer),
    )


def _text(text: str) -> str:
    return shortened(text, MOST_TEXT)


def _texts(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(_text, texts))


def _block(block: Block) -> Block:
    match block:
        case Paragraph():
            return replace(block, text=_text(block.text))
        case Bullets():
            return Bullets(_texts(block.items))
        case Grid():
            return replace(block, rows=tuple(map(_texts, block.rows)), note=_text(block.note))
        case _:
            return replace(block, alt=_text(block.alt), caption=_text(block.caption))


def display_names(gateways: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """What each gateway is called in a report, by fingerprint; no two are called the same.

    Args:
        gateways: fingerprint and name of each. Where a name is empty, cut, shared by two, or made
            to look like one of these, the start of the fingerprint is added.
    """
    named = [(gateway, name, shortened(name)) for gateway, name in gateways]
    times = Counter(shown for _, _, shown in named)
    starts = {gateway[:_START] for gateway, _, _ in named}
    digits = _START if len(starts) == len(named) else None

    def plain(name: str, shown: str) -> bool:
        return bool(shown) and shown == name and times[shown] == 1 and "(" not in name

    return {
        gateway: shown
        if plain(name, shown)
        else f"{shortened(name, MOST_NAME - _START - 3)} ({gateway[:digits]})".strip()
        for gateway, name, shown in named
    }
