"""Texts for a PDF and for pictures, whose one font lacks many scripts and every coloured sign.

A browser looks for another font; there the letters would all be the same empty box, and two names
alike. So what the font lacks is shown by its number, as hidden characters are everywhere.
"""

from __future__ import annotations

from functools import cache

REGULAR, BOLD = "DejaVuSans", "DejaVuSans-Bold"


def font_file(name: str) -> str:
    """Path of a font that matplotlib brings: `REGULAR` or `BOLD`."""
    from matplotlib import get_data_path

    return f"{get_data_path()}/fonts/ttf/{name}.ttf"


def drawable(text: str) -> str:
    """The text, with every character that the font lacks as `[U+6771]`."""
    if text.isascii():
        return text
    known = _letters()
    return "".join(one if ord(one) in known else f"[U+{ord(one):04X}]" for one in text)


@cache
def _letters() -> frozenset[int]:
    """Code points that both weights of the font have."""
    from matplotlib.ft2font import FT2Font

    regular, bold = (FT2Font(font_file(name)).get_charmap() for name in (REGULAR, BOLD))
    return frozenset(regular) & frozenset(bold)
