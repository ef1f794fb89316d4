"""Writing a report: one model, four formats, each file whole or absent."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel

from fedge.durable import make_folder, write_file
from fedge.errors import SettingError, StateError
from fedge.review.report.document import Document
from fedge.review.report.exports import processing_record, registry_entry
from fedge.review.report.html import render_html
from fedge.review.report.layout import lay_out
from fedge.review.report.model import ComplianceReport

Format = Literal["html", "pdf", "json", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)


def write_report(
    report: ComplianceReport, folder: Path, formats: Sequence[str] = FORMATS
) -> tuple[Path, ...]:
    """Write the report into `folder`, over an earlier one; answers the paths.

    `html` and `pdf` are for people, `json` holds everything, with the record of processing and
    the registry entry beside it, `csv` blocks, charges and findings.

    Raises:
        SettingError: a format is not one of `FORMATS`, or what it needs is not installed.
        StateError: the disk refused.
    """
    wrong = [name for name in formats if name not in FORMATS]
    if wrong or not formats:
        raise SettingError(f"formats are {', '.join(FORMATS)}, not {', '.join(wrong) or 'none'}")
    files: dict[str, bytes] = {}
    document = lay_out(report) if {"html", "pdf"} & set(formats) else None
    for name in formats:
        files |= _made(name, report, document)
    try:
        make_folder(folder)
        for file, data in files.items():
            write_file(folder / file, data)
    except OSError as error:
        raise StateError(f"cannot write the report into {folder}: {error}") from error
    return tuple(folder / file for file in files)


def _made(name: str, report: ComplianceReport, document: Document | None) -> dict[str, bytes]:
    if name == "json":
        return {
            "compliance.json": _json(report_json(report)),
            "processing-record.json": _json(processing_record(report)),
            "registry-entry.json": _json(registry_entry(report)),
        }
    if name == "csv":
        return csv_files(report)
    assert document is not None
    if name == "html":
        return {"compliance.html": render_html(document).encode()}
    try:
        from fedge.review.report.pdf import render_pdf

        return {"compliance.pdf": render_pdf(document)}
    except ImportError as error:
        raise SettingError(f"PDF needs reportlab: pip install fedge[review] ({error})") from error


def report_json(report: ComplianceReport) -> dict[str, Any]:
    """Everything in the model, and the verdict that follows from it."""
    return {"schema": 1, "verdict": report.verdict, **_plain(report)}


def _plain(value: Any) -> Any:
    """Records and dataclasses as plain JSON; what is not finite as null."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def csv_files(report: ComplianceReport) -> dict[str, bytes]:
    """Tables for a spreadsheet: every block, every charge, every finding."""
    blocks = (
        {
            "gateway": line.budget.gateway,
            "name": line.budget.name,
            "block": line.budget.block,
            "opened_at": line.budget.opened_at,
            "epsilon_cap": line.budget.epsilon_cap,
            "delta": line.budget.policy.delta,
            "order": line.budget.policy.alpha,
            "cap_nano": line.budget.cap_nano,
            "monitoring_nano": line.budget.telemetry_nano,
            "training_nano": line.budget.training_nano,
            "released_nano": line.budget.released_nano,
            "spent_nano": line.budget.spent_nano,
            "remaining_nano": line.budget.remaining_nano,
            "epsilon": line.budget.epsilon,
            "verified_nano": line.verified_nano,
            "verified_epsilon": line.verified_epsilon,
            "recovered": line.budget.recovered,
            "excluded": " ".join(line.budget.excluded),
        }
        for line in report.blocks
    )
    charges = (
        {
            **{name: getattr(charge, name) for name in _CHARGE},
            "blocks": " ".join(map(str, charge.blocks)),
            "noise": " ".join(charge.noise),
            "mechanisms": json.dumps([asdict(one) for one in charge.mechanisms]),
        }
        for charge in report.charges
    )
    remarks = [*([report.deviation] if report.deviation else []), *report.remarks]
    return {
        "compliance-blocks.csv": _csv(blocks),
        "compliance-charges.csv": _csv(charges),
        "compliance-findings.csv": _csv(asdict(remark) for remark in remarks),
    }


_CHARGE = (
    *("gateway", "name", "entry", "at", "kind", "about"),
    *("ledger_nano", "verified_nano", "released"),
)


def _csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    listed = [{name: _cell(value) for name, value in row.items()} for row in rows]
    stream = io.StringIO(newline="")
    if listed:
        writer = csv.DictWriter(stream, listed[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
    return stream.getvalue().encode()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is kept a text."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
