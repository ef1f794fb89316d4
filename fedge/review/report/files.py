"""Writing a report: one model, four formats, each file whole or absent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
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
from fedge.review.report.tables import csv_files
from fedge.review.report.verdict_words import verdict_facts
from fedge.review.report.visible import visible

Format = Literal["html", "pdf", "json", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)


def write_report(
    report: ComplianceReport, folder: Path, formats: Sequence[str] = FORMATS
) -> tuple[Path, ...]:
    """Write the report into `folder`, over an earlier one; answers the paths.

    `html` and `pdf` are for people, `json` holds everything, with the record of processing and
    the registry entry beside it, `csv` blocks, charges, their parameters and findings.

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
    """Everything in the model, and the verdict that follows from it, with what it rests on."""
    return {"schema": 1, **_plain(report), **verdict_facts(report), **_plain(_derived(report))}


def _derived(report: ComplianceReport) -> Mapping[str, Any]:
    # The deviation keeps its place and number, which the verdict's own words leave out.
    return {"deviation": report.deviation, "excluded": report.excluded}


def _plain(value: Any) -> Any:
    """Records and dataclasses as plain JSON; what is not finite as null, texts with nothing hidden.

    An unpaired surrogate would make the file no UTF-8 at all.
    """
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, str):
        return visible(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {visible(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(_plain(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
