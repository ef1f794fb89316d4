"""A document as one HTML file that loads nothing, reads well on a screen and prints well."""

from __future__ import annotations

import base64
from importlib.resources import files

from fedge.review.report.document import Bullets, Document, Grid, Paragraph, Picture


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
    source = templates.joinpath("compliance.html.j2").read_text(encoding="utf-8")
    style = Markup(templates.joinpath("compliance.css").read_text(encoding="utf-8"))  # our own file
    return environment.from_string(source).render(document=document, style=style)


def _png(picture: Picture) -> str:
    return base64.b64encode(picture.png).decode("ascii")
