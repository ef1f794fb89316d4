"""A document as PDF, by reportlab: pages that can be printed, filed and signed.

Letters come from the fonts that matplotlib brings, because the PDF standard's own fonts lack
Greek ones. Made again from the same document, the file has the same bytes.
"""

from __future__ import annotations

import io
from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from fedge.review.report.document import (
    HIDDEN_ROWS,
    LONG_WORD,
    Block,
    Bullets,
    Document,
    Grid,
    Paragraph,
    Picture,
    Tone,
)
from fedge.review.report.letters import BOLD, REGULAR, drawable, font_file
from fedge.review.report.visible import with_texts

if TYPE_CHECKING:
    from reportlab.platypus import Flowable

MOST_FOOT, PADDING, FRAME = 115, 3.0, 6.0
MOST_KEPT = 20
"""Rows of a table that is kept whole with the words before it; a longer one would be taken to a new
page for them, and leave most of one empty."""
_PIECE = 12
"""Characters of a longer word that stay together."""
INK, SOFT, LINE, MARKED = "#1c2126", "#5b6670", "#d9dee3", "#fdf3ec"
_TONES: dict[Tone, tuple[str, str]] = {
    "good": ("#00694d", "#eef8f4"),
    "warn": ("#7a5600", "#fdf8e8"),
    "bad": ("#a63d00", "#fdf3ec"),
    "plain": (SOFT, "#f5f6f7"),
}


def render_pdf(document: Document) -> bytes:
    """The whole document on A4 pages; letters that the font lacks are shown by their numbers."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    _register_fonts()
    document = with_texts(document, drawable)
    stream = io.BytesIO()
    template = SimpleDocTemplate(
        stream,
        pagesize=A4,
        leftMargin=17 * mm,
        rightMargin=17 * mm,
        topMargin=16 * mm,
        bottomMargin=18 * mm,
        title=document.title,
        subject=document.kind,
        author="fedge",
        invariant=1,  # no time of its own
    )
    story = _Story(template.width - 2 * FRAME)
    foot = _foot(document)
    template.build(story.of(document), onFirstPage=foot, onLaterPages=foot)
    return stream.getvalue()


def _register_fonts() -> None:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    for name in (REGULAR, BOLD):
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, font_file(name)))


def _foot(document: Document) -> Any:
    def draw(canvas: Any, template: Any) -> None:
        """Draw one page's foot: title and headline on the left, the page's number on the right."""
        canvas.saveState()
        canvas.setFont(REGULAR, 7)
        canvas.setFillColor(SOFT)
        said = f"{document.title}: {document.headline}"
        canvas.drawString(template.leftMargin + FRAME, 28, said[:MOST_FOOT])
        right = template.leftMargin + template.width - FRAME
        canvas.drawRightString(right, 28, f"page {canvas.getPageNumber()}")
        canvas.restoreState()

    return draw


class _Story:
    """Turns a document into what reportlab places on pages; `width` is that of the text."""

    def __init__(self, width: float) -> None:
        from reportlab.lib.styles import ParagraphStyle

        def style(name: str, size: float, **more: Any) -> ParagraphStyle:
            settings = {"fontName": REGULAR, "textColor": INK, **more}
            return ParagraphStyle(name, fontSize=size, leading=1.35 * size, **settings)

        self._width = width
        self._kind = style("kind", 7.5, textColor=SOFT)
        self._title = style("title", 17, fontName=BOLD, spaceAfter=6)
        self._heading = style("heading", 12, fontName=BOLD, spaceBefore=12, spaceAfter=4)
        self._text = style("text", 8.6, spaceAfter=4)
        self._soft = style("soft", 7.8, textColor=SOFT, spaceBefore=3, spaceAfter=4)
        self._item = style("item", 8.6, leftIndent=10, bulletIndent=1, spaceAfter=2)
        # Hashes and names have no blanks to break at.
        self._cell = style("cell", 6.8, splitLongWords=1)
        self._head = style("head", 6.8, fontName=BOLD, textColor=SOFT)

    def of(self, document: Document) -> list[Flowable]:
        """The document's parts in order; headings, and words before a table, stay with it."""
        from reportlab.platypus import Spacer

        story: list[Any] = [
            self._paragraph(document.kind.upper(), self._kind),
            self._paragraph(document.title, self._title),
            self._verdict(document),
            Spacer(1, 8),
            self._facts(document),
        ]
        for number, section in enumerate(document.sections, 1):
            story.append(self._paragraph(f"{number}. {section.heading}", self._heading))
            story[-1].keepWithNext = 1
            for block, following in zip_longest(section.blocks, section.blocks[1:]):
                story += self._block(block)
                if isinstance(block, Paragraph) and _belongs(following):
                    story[-1].keepWithNext = 1
        story.append(Spacer(1, 10))
        return [*story, *(self._paragraph(line, self._soft) for line in document.footer)]

    def _paragraph(self, text: str, style: Any, **more: Any) -> Any:
        from reportlab.platypus import Paragraph as Words

        return Words(escape(text), style, **more)

    def _verdict(self, document: Document) -> Flowable:
        from reportlab.lib.styles import ParagraphStyle
        from reportlab.platypus import Table

        colour, ground = _TONES[document.tone]
        state = ParagraphStyle(
            "state", fontName=BOLD, fontSize=12, leading=16, textColor=colour, spaceAfter=3
        )
        words = [self._paragraph(document.headline, state)]
        words += [self._paragraph(sentence, self._text) for sentence in document.sentences]
        box = Table([[words]], colWidths=[self._width])
        box.setStyle(
            [
                ("BACKGROUND", (0, 0), (-1, -1), ground),
                ("LINEBEFORE", (0, 0), (0, -1), 4, colour),
                ("LEFTPADDING", (0, 0), (-1, -1), 12),
                ("TOPPADDING", (0, 0), (-1, -1), 6),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 6),
            ]
        )
        return box

    def _facts(self, document: Document) -> Flowable:
        from reportlab.platypus import Table

        cells = [
            [self._paragraph(fact.name, self._soft), self._paragraph(fact.value, self._text)]
            for fact in document.facts
        ]
        columns = 4
        rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
        rows[-1] += [[]] * (columns - len(rows[-1]))
        table = Table(rows, colWidths=[self._width / columns] * columns)
        table.setStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)])
        return table

    def _block(self, block: Paragraph | Bullets | Grid | Picture) -> list[Flowable]:
        match block:
            case Paragraph():
                return [self._paragraph(block.text, self._soft if block.soft else self._text)]
            case Bullets():
                return [
                    self._paragraph(item, self._item, bulletText="\N{BULLET}")
                    for item in block.items
                ]
            case Grid():
                return self._grid(block)
            case Picture():
                return self._picture(block)

    def _grid(self, grid: Grid) -> list[Flowable]:
        from reportlab.platypus import Table

        widths = column_widths(grid, self._width, self._cell, self._head)
        cells = [[self._paragraph(head, self._head) for head in grid.heads]]
        cells += [[self._paragraph(cell, self._cell) for cell in row] for row in grid.rows]
        table = Table(
            cells,
            colWidths=widths,
            repeatRows=1,
        )
        marks: list[tuple[Any, ...]] = []
        for row in (1 + one for one in sorted(grid.marked)):
            # The bar tells it on a grey print, where the ground does not show.
            marks.append(("BACKGROUND", (0, row), (-1, row), MARKED))
            marks.append(("LINEBEFORE", (0, row), (0, row), 2, _TONES["bad"][0]))
        table.setStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LINEBELOW", (0, 0), (-1, 0), 1, LINE),
                ("LINEBELOW", (0, 1), (-1, -1), 0.5, LINE),
                ("LEFTPADDING", (0, 0), (-1, -1), PADDING),
                ("RIGHTPADDING", (0, 0), (-1, -1), PADDING),
                ("TOPPADDING", (0, 0), (-1, -1), 2),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
                *marks,
            ]
        )
        notes = [grid.note] if grid.note else []
        if grid.hidden:
            notes.insert(0, HIDDEN_ROWS.format(grid.hidden))
        return [table, *(self._paragraph(note, self._soft) for note in notes)]

    def _picture(self, picture: Picture) -> list[Flowable]:
        from reportlab.platypus import Image

        height = self._width * picture.height / picture.width
        image = Image(io.BytesIO(picture.png), width=self._width, height=height)
        return [image, self._paragraph(picture.caption, self._soft)]


def _belongs(following: Block | None) -> bool:
    """Whether what follows words is to stand on the same page."""
    return isinstance(following, Bullets) or (
        isinstance(following, Grid) and len(following.rows) <= MOST_KEPT
    )


def column_widths(grid: Grid, width: float, cell: Any, head: Any) -> list[float]:
    """Widths of a table's columns, in points.

    By the grid's relative widths, but none narrower than its longest word needs, so that no
    number and no head is broken; words of more than `LONG_WORD` characters may be. Where even
    that does not fit, all are narrowed alike.

    Args:
        width: of the whole table.
        cell, head: the styles of its texts.
    """
    least = [
        2 * PADDING + 0.5 + max(map(_longest, [head, *(cell,) * len(texts)], [title, *texts]))
        for title, *texts in zip(grid.heads, *grid.rows, strict=True)
    ]
    if sum(least) >= width:
        return [width * one / sum(least) for one in least]
    wanted = grid.widths or (1.0,) * len(grid.heads)
    shares = [width * one / sum(wanted) for one in wanted]
    # What wider columns can spare makes up for what narrow ones lack.
    lack = sum(max(0.0, low - share) for low, share in zip(least, shares, strict=True))
    spare = sum(max(0.0, share - low) for low, share in zip(least, shares, strict=True))
    return [
        low if share <= low else share - (share - low) * lack / spare
        for low, share in zip(least, shares, strict=True)
    ]


def _longest(style: Any, text: str) -> float:
    """Width in points of the longest word that must not be broken."""
    from reportlab.pdfbase.pdfmetrics import stringWidth

    words = (word if len(word) <= LONG_WORD else word[:_PIECE] for word in text.split())
    return max((stringWidth(word, style.fontName, style.fontSize) for word in words), default=0.0)
