"""What a rule says of an entry that breaks it."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818 - of the entry, not of this program
    """What an entry does that an honest ledger does not."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(kind, what)
        self.kind, self.what = kind, what
