"""A document as one HTML file that loads nothing, reads well on a screen and prints well."""

from __future__ import annotations

import base64
import re
from importlib.resources import files
from typing import TYPE_CHECKING

from fedge.review.report.document import (
    HIDDEN_ROWS,
    LONG_WORD,
    Bullets,
    Document,
    Grid,
    Paragraph,
    Picture,
)

if TYPE_CHECKING:
    from markupsafe import Markup

_WORDS = re.compile(r"(\s+)")
_WHOLE = re.compile(r"-.*\d|\d.*-")
_PIECE = 8


def render_html(document: Document) -> str:
    """The whole document; every text is escaped where it is put in."""
    from jinja2 import Environment, StrictUndefined, select_autoescape
    from markupsafe import Markup

    templates = files("fedge.review.report").joinpath("templates")
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["paragraph"] = lambda block: isinstance(block, Paragraph)
    environment.tests["bullets"] = lambda block: isinstance(block, Bullets)
    environment.tests["grid"] = lambda block: isinstance(block, Grid)
    environment.filters["png"] = _png
    environment.filters["hidden"] = HIDDEN_ROWS.format
    environment.filters["breakable"] = _breakable
    source = templates.joinpath("compliance.html.j2").read_text(encoding="utf-8")
    style = Markup(templates.joinpath("compliance.css").read_text(encoding="utf-8"))  # our own file
    return environment.from_string(source).render(document=document, style=style)


def _png(picture: Picture) -> str:
    return base64.b64encode(picture.png).decode("ascii")


def _breakable(text: str) -> Markup:
    """The text escaped; words of more than `LONG_WORD` characters may be broken between pieces.

    `<wbr>` adds nothing to what is copied, so that a hash is still itself. A shorter word with a
    hyphen and a digit, such as a time or the id of a run, stays whole.
    """
    from markupsafe import Markup, escape

    parts = []
    for word in _WORDS.split(text):
        if len(word) > LONG_WORD and not word.isspace():
            pieces = (word[start : start + _PIECE] for start in range(0, len(word), _PIECE))
            parts.append(Markup("<wbr>").join(pieces))
        elif _WHOLE.search(word):
            parts.append(Markup('<span class="whole">{}</span>').format(word))
        else:
            parts.append(escape(word))
    return Markup().join(parts)
