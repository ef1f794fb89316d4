"""What all reports share: how names and rates are written, and findings about tables."""

from __future__ import annotations

from collections.abc import Sequence

from fedge.drift.report.page import Grid, Section
from fedge.drift.tables.findings import TableFinding


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names with commas; beyond `most` only how many."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def rate_words(rate: float) -> str:
    """A rate with as many digits as mean something."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"


def finding_section(findings: Sequence[TableFinding]) -> Section:
    """What is odd about the tables themselves."""
    rows = tuple(
        (
            finding.kind,
            finding.column or "",
            "" if finding.row is None else f"{finding.row:,}",
            finding.words,
        )
        for finding in findings
    )
    words = ("About the tables themselves; rows are counted from 0.",)
    return Section("Findings", words, table=Grid(("kind", "column", "row", "in words"), rows))
