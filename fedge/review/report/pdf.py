"""A document as PDF, by reportlab: pages that can be printed, filed and signed.

Letters come from the fonts that matplotlib brings, because the PDF standard's own fonts lack
Greek ones. Made again from the same document, the file has the same bytes.
"""

from __future__ import annotations

import io
from html import escape
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from fedge.review.report.document import Bullets, Document, Grid, Paragraph, Picture, Tone

if TYPE_CHECKING:
    from reportlab.platypus import Flowable

REGULAR, BOLD = "DejaVuSans", "DejaVuSans-Bold"
INK, SOFT, LINE, MARKED = "#1c2126", "#5b6670", "#d9dee3", "#fdf3ec"
_TONES: dict[Tone, tuple[str, str]] = {
    "good": ("#00694d", "#eef8f4"),
    "warn": ("#7a5600", "#fdf8e8"),
    "bad": ("#a63d00", "#fdf3ec"),
    "plain": (SOFT, "#f5f6f7"),
}


def render_pdf(document: Document) -> bytes:
    """The whole document on A4 pages."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.units import mm
    from reportlab.platypus import SimpleDocTemplate

    _register_fonts()
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
    story = _Story(template.width)
    foot = _foot(document)
    template.build(story.of(document), onFirstPage=foot, onLaterPages=foot)
    return stream.getvalue()


def _register_fonts() -> None:
    from matplotlib import get_data_path
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFont

    for name in (REGULAR, BOLD):
        if name not in pdfmetrics.getRegisteredFontNames():
            pdfmetrics.registerFont(TTFont(name, f"{get_data_path()}/fonts/ttf/{name}.ttf"))


def _foot(document: Document) -> Any:
    def draw(canvas: Any, template: Any) -> None:
        canvas.saveState()
        canvas.setFont(REGULAR, 7)
        canvas.setFillColor(SOFT)
        canvas.drawString(template.leftMargin, 28, f"{document.title}: {document.headline}")
        right = template.leftMargin + template.width
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
        self._soft = style("soft", 7.8, textColor=SOFT, spaceAfter=4)
        self._item = style("item", 8.6, leftIndent=10, bulletIndent=1, spaceAfter=2)
        # Hashes and names have no blanks to break at.
        self._cell = style("cell", 6.8, splitLongWords=1)
        self._head = style("head", 6.8, fontName=BOLD, textColor=SOFT)

    def of(self, document: Document) -> list[Flowable]:
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
                if isinstance(block, Paragraph) and isinstance(following, Grid | Bullets):
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

        widths = grid.widths or (1.0,) * len(grid.heads)
        cells = [[self._paragraph(head, self._head) for head in grid.heads]]
        cells += [[self._paragraph(cell, self._cell) for cell in row] for row in grid.rows]
        table = Table(
            cells,
            colWidths=[self._width * width / sum(widths) for width in widths],
            repeatRows=1,
        )
        marks = [("BACKGROUND", (0, 1 + row), (-1, 1 + row), MARKED) for row in grid.marked]
        table.setStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LINEBELOW", (0, 0), (-1, 0), 1, LINE),
                ("LINEBELOW", (0, 1), (-1, -1), 0.5, LINE),
                ("LEFTPADDING", (0, 0), (-1, -1), 3),
                ("RIGHTPADDING", (0, 0), (-1, -1), 3),
                ("TOPPADDING", (0, 0), (-1, -1), 2),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
                *marks,
            ]
        )
        notes = [grid.note] if grid.note else []
        if grid.hidden:
            notes.insert(0, f"{grid.hidden} more rows are not shown; the CSV files hold them all.")
        return [table, *(self._paragraph(note, self._soft) for note in notes)]

    def _picture(self, picture: Picture) -> list[Flowable]:
        from reportlab.platypus import Image

        height = self._width * picture.height / picture.width
        image = Image(io.BytesIO(picture.png), width=self._width, height=height)
        return [image, self._paragraph(picture.caption, self._soft)]
