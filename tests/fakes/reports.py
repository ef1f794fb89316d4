"""Reports made the way that the command makes them: a file, the verifier, the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fakes.ledger_fleet import CENTRE, REVIEWER, START, gateway_key

from fedge.review.bundle import read_bundle, write_bundle
from fedge.review.report.build import build_report
from fedge.review.report.document import Bullets, Document, Grid, Paragraph
from fedge.review.report.model import ComplianceReport
from fedge.review.source import BundleSource
from fedge.review.verifier import verify_bundle

AT = START + 86_400.0
"""When bundles are made: within a day of what `fakes.ledger_fleet` plays."""

MakeReport = Callable[..., ComplianceReport]

ALL_KEYS: Mapping[str, Any] = {
    "witness_key": CENTRE.public_key.hex(),
    "reviewer_keys": (REVIEWER.public_key.hex(),),
    "gateway_keys": tuple(gateway_key(number).public_key.hex() for number in range(3)),
}
"""Keys of a played fleet of three, as a reviewer has them from elsewhere."""


def report_of(
    path: Path, source: BundleSource, keys: Mapping[str, Any] | None = None, **more: Any
) -> ComplianceReport:
    """The report of a source by way of the bundle `path`; `keys`: what the reviewer gives."""
    write_bundle(path, source, CENTRE, AT)
    return report_of_file(path, keys, **more)


def report_of_file(
    path: Path, keys: Mapping[str, Any] | None = None, **more: Any
) -> ComplianceReport:
    """The report about a file, whatever it holds."""
    verdict = verify_bundle(path, **(keys or {}))
    bundle = read_bundle(path) if verdict.accepted else None
    return build_report(
        bundle, verdict, **{"verified_at": AT + 1, "file": path, "estimate": False, **more}
    )


def texts(document: Document) -> str:
    """Every word of a document."""
    found = [document.title, document.kind, document.headline, *document.sentences]
    found += [f"{fact.name} {fact.value}" for fact in document.facts]
    for section in document.sections:
        found.append(section.heading)
        for block in section.blocks:
            if isinstance(block, Paragraph):
                found.append(block.text)
            elif isinstance(block, Bullets):
                found += block.items
            elif isinstance(block, Grid):
                found += [*block.heads, *(cell for row in block.rows for cell in row), block.note]
            else:
                found += [block.alt, block.caption]
    return "\n".join([*found, *document.footer])


def section_of(document: Document, anchor: str) -> str:
    """Every word of one section."""
    (section,) = (one for one in document.sections if one.anchor == anchor)
    return texts(replace(document, sections=(section,), headline="", sentences=(), footer=()))
