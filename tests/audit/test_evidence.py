"""Evidence as files: facts in, facts out, and a verdict that cannot disagree with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedge.audit.evidence import (
    AuditedCase,
    AuditEvidence,
    evidence_files,
    installed_versions,
    read_evidence,
    write_evidence,
)
from fedge.errors import RecordError

CODE = AuditedCase(name="the code", seeded_bug=False, counted_epsilon=1.4, gaussian_epsilon=7.2)
BUG = AuditedCase(name="halved noise", seeded_bug=True, counted_epsilon=2.6, gaussian_epsilon=15.4)


def evidence(*cases: AuditedCase, claimed: float = 8.0) -> AuditEvidence:
    return AuditEvidence(
        kind="multi-run",
        at=12.5,
        versions=installed_versions(),
        task="audit-toy",
        runs=2000,
        canaries=1,
        claimed_epsilon=claimed,
        delta=1e-5,
        confidence=0.95,
        cases=cases or (CODE, BUG),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Byte for byte the same record; a later audit of its kind takes its place."""
    path = write_evidence(evidence(claimed=9.0), tmp_path / "audit")
    assert write_evidence(evidence(), tmp_path / "audit") == path

    assert read_evidence(path) == evidence()
    other = evidence(CODE).model_copy(update={"kind": "one-run"})
    write_evidence(other, tmp_path / "audit")
    assert evidence_files(tmp_path / "audit") == (evidence(), other)
    assert evidence_files(tmp_path / "nowhere") == ()


def test_a_case_may_have_a_claim_of_its_own() -> None:
    """It is held against that one, in either direction, and says nothing about the audit's own."""
    own = CODE.model_copy(update={"claimed_epsilon": 1.0, "gaussian_epsilon": None})
    found = BUG.model_copy(update={"claimed_epsilon": 1.0, "gaussian_epsilon": None})
    missed = found.model_copy(update={"counted_epsilon": 0.5})

    assert not evidence(CODE, own).passed, "1.4 shown of 1.0 claimed"
    assert evidence(CODE, own.model_copy(update={"counted_epsilon": 0.4}), BUG).passed
    assert evidence(CODE, found).passed and not evidence(CODE, missed).passed
    assert evidence(CODE, own).lower_bound == CODE.lower_bound
    assert not evidence(own.model_copy(update={"counted_epsilon": 0.4})).passed
    assert evidence(CODE, own).claim_of(own) == 1.0 and evidence().claim_of(CODE) == 8.0


def test_evidence_of_an_earlier_version_is_read() -> None:
    """Its cases know no claims of their own."""
    values = evidence().model_dump(mode="json")
    for case in values["cases"]:
        del case["claimed_epsilon"]

    assert AuditEvidence.from_bytes(json.dumps(values).encode()) == evidence()


def test_many_runs_without_a_planted_bug_have_shown_nothing() -> None:
    """An audit that might find nothing at all does not pass; one run plants none."""
    assert not evidence(CODE).passed
    assert evidence(CODE).model_copy(update={"kind": "one-run"}).passed


def test_passed_follows_from_the_numbers() -> None:
    """The code within the claim, and every bug above it."""
    assert evidence().passed
    assert evidence().bugs_flagged == evidence().bugs_seeded == ("halved noise",)
    assert not evidence(claimed=7.0).passed, "the code is above the claim"
    assert not evidence(claimed=16.0).passed, "a planted bug was not found"
    assert not evidence(BUG).passed, "the code itself was not audited"
    assert evidence(BUG).lower_bound is None


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"not json", evidence().to_bytes().replace(b"7.2", b"NaN")]
)
def test_damaged_evidence_is_no_evidence(tmp_path: Path, damage: bytes) -> None:
    """Refused, never read as passed."""
    path = tmp_path / "multi-run.json"
    path.write_bytes(damage)

    with pytest.raises(RecordError):
        read_evidence(path)
    with pytest.raises(RecordError):
        evidence_files(tmp_path)
    with pytest.raises(RecordError):
        read_evidence(tmp_path / "missing.json")


def test_reading_evidence_needs_nothing_heavy() -> None:
    """A report is made where no torch is."""
    program = (
        "import sys, fedge.audit.evidence;"
        "print(sorted({'torch', 'scipy', 'opacus', 'pandas'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
