"""What a request says about its rows besides their values."""

from __future__ import annotations

from dataclasses import dataclass

SUBJECT_BYTES = 16
NOBODY = bytes(SUBJECT_BYTES)
"""The subject of rows that are about nobody in particular."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks of all rows of one request.

    Attributes:
        purposes: what they may be used for, bits of `fedge.records.purposes`.
        subject: pseudonym of who they are about, `SUBJECT_BYTES` bytes; `NOBODY` for none.
    """

    purposes: int
    subject: bytes = NOBODY
