"""A document of words, tables and pictures, and how it becomes one HTML file.

Everything is escaped where it is put in: names of columns come from files that anybody
may have written. Pictures are PNG inside the file; a content security policy forbids
it to load or run anything. jinja2 and matplotlib are loaded when a page is made.
"""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 200
"""Rows of a table that are written; how many there are more is said."""

_DOTS_PER_INCH, _MOST_INCHES = 140, 40.0
_SHOWN_VERSIONS = ("fedge", "numpy", "scipy", "pyarrow", "matplotlib")

State = Literal["drift", "stable", "unknown"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and its value, such as a setting."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Grid:
    """A table; every row has as many cells as there are heads."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    hidden: int = 0

    def cut(self) -> Grid:
        """The first `MOST_ROWS` rows."""
        return replace(self, rows=self.rows[:MOST_ROWS], hidden=max(0, len(self.rows) - MOST_ROWS))


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG in base64, what it shows for who cannot see it, and what it means."""

    png: str
    alt: str
    caption: str


@dataclass(frozen=True, slots=True)
class Section:
    heading: str
    paragraphs: tuple[str, ...] = ()
    picture: Picture | None = None
    table: Grid | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """All that a reader is told.

    Attributes:
        kind: which sort of report it is.
        state: what colours the verdict.
        headline, sentences: the verdict.
        facts: what was judged, and with which settings.
    """

    title: str
    kind: str
    state: State
    headline: str
    sentences: tuple[str, ...]
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]

    @property
    def made_with(self) -> str:
        return "Made with " + ", ".join(f"{name} {_version(name)}" for name in _SHOWN_VERSIONS)


def render(page: Page) -> str:
    """The page as HTML, complete in itself."""
    from jinja2 import Environment, StrictUndefined, select_autoescape
    from markupsafe import Markup

    templates = files("fedge.drift.report").joinpath("templates")
    environment = Environment(
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
    )
    source = templates.joinpath("page.html.j2").read_text(encoding="utf-8")
    style = Markup(templates.joinpath("page.css").read_text(encoding="utf-8"))  # our own file
    sections = tuple(replace(s, table=s.table.cut() if s.table else None) for s in page.sections)
    shown = replace(page, sections=sections)
    return environment.from_string(source).render(page=shown, style=style)


def picture(figure: Figure, *, alt: str, caption: str) -> Picture:
    """Draw a figure into the page."""
    inches = float(max(figure.get_size_inches()))
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # drawn as a box, named in the tables
        figure.savefig(stream, format="png", dpi=_DOTS_PER_INCH * min(1.0, _MOST_INCHES / inches))
    return Picture(base64.b64encode(stream.getvalue()).decode("ascii"), alt, caption)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
