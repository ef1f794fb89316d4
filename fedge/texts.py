"""Texts from elsewhere, on their way to a person's terminal.

A name that somebody chose, or a line of a file, may hold characters that break lines, move the
cursor, or turn the order of what is read around.
"""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"
"""Invisible, and part of how some scripts spell words."""


def is_plain(text: str) -> bool:
    """Whether a text can be shown as it is: on one line, and nothing in it steers a terminal."""
    return all(map(_shows, text))


def escaped(text: object, *, keep: str = "") -> str:
    r"""A text, or what `str` makes of a value, with whatever `is_plain` minds spelt out.

    Args:
        keep: characters that stay as they are, such as a line break.

    >>> escaped("a\x1b[2J" + chr(0x202E))
    'a\\x1b[2J\\u202e'
    """
    return "".join(
        one if one in keep or _shows(one) else one.encode("unicode_escape").decode()
        for one in str(text)
    )


def _shows(character: str) -> bool:
    return (
        character.isprintable()
        or character in _JOINERS
        or unicodedata.category(character) == "Zs"  # blanks of other widths
    )
