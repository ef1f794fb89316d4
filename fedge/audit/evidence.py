"""Audit evidence as files that a compliance report reads; needs no torch.

The record itself is `fedge.records.AuditEvidence`. A file holds its canonical JSON, so
that its hash means something. What it is evidence of is written by the audits.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from fedge.durable import write_file
from fedge.errors import RecordError, StateError
from fedge.records import AuditedCase, AuditEvidence

__all__ = [
    "FOLDER",
    "ONE_RUN",
    "AuditEvidence",
    "AuditedCase",
    "evidence_files",
    "read_evidence",
    "write_evidence",
]

FOLDER = Path("runs/audit")
"""Where audits leave their evidence unless told otherwise; one file for each kind."""

ONE_RUN = "one-run.json"
"""Name of the evidence about one release, in the folder of the candidate that it became."""

_COMPUTED_BY = ("fedge", "numpy", "scipy", "torch", "opendp")


def installed_versions() -> dict[str, str]:
    """Versions of what an audit computes with, by name."""
    return {name: version(name) for name in _COMPUTED_BY}


def write_evidence(evidence: AuditEvidence, folder: Path = FOLDER) -> Path:
    """Write evidence as `<kind>.json`, over an earlier one of its kind; answers the path.

    Raises:
        StateError: the disk refused.
    """
    path = folder / f"{evidence.kind}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(path, evidence.to_bytes() + b"\n")
    except OSError as error:
        raise StateError(f"cannot write {path}: {error}") from error
    return path


def read_evidence(path: Path) -> AuditEvidence:
    """Read what `write_evidence` wrote.

    Raises:
        RecordError: the file cannot be read or holds no evidence; unknown is never "passed".
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read audit evidence {path}: {error}") from error
    return AuditEvidence.from_bytes(data)


def evidence_files(folder: Path = FOLDER, names: str = "*.json") -> tuple[AuditEvidence, ...]:
    """All evidence in a folder, sorted by name; none where there is no such folder.

    Args:
        names: pattern of the files that are read.

    Raises:
        RecordError: one of the files holds no evidence.
    """
    return tuple(read_evidence(path) for path in sorted(folder.glob(names)))
