"""Whose word about this gateway's ledger counts: the key of the coordinator's witness.

The key comes from the settings, or else is the first one that ever answered, kept in the state
file. Under another key nothing is taken up, and what that key was is kept for the operator,
who alone can say whether the coordinator has a new one or somebody else answers in its place.
"""

from __future__ import annotations

from fedge.errors import WitnessKeyError
from fedge.statefile import StateFile

TABLE = "ledger_witness_key"
WHAT_TO_DO = (
    "if the coordinator has a new key (fedge server witness shows it), set witness_key in"
    " gateway.toml to it; else somebody else answers at coordinator_url"
)


class TrustedWitness:
    """The trusted key, durable.

    Args:
        state: where it is kept.
        pinned: from the settings, 64 hex digits; it replaces a key that was kept. None trusts the
            first that is seen.
    """

    def __init__(self, state: StateFile, pinned: str | None) -> None:
        self._state = state
        state.ensure(
            f"CREATE TABLE IF NOT EXISTS {TABLE} (one INTEGER PRIMARY KEY CHECK (one = 1),"
            " trusted TEXT NOT NULL, refused TEXT)"
        )
        rows = state.rows(f"SELECT trusted, refused FROM {TABLE}")
        self._trusted: str | None = rows[0][0] if rows else None
        self._refused: str | None = rows[0][1] if rows else None
        if pinned is not None and pinned != self._trusted:
            self._keep(pinned, None)

    @property
    def key(self) -> str | None:
        """The trusted key in hex; None where none was seen yet."""
        return self._trusted

    @property
    def refused(self) -> str | None:
        """The key that answered last, where it is not the trusted one."""
        return self._refused

    def accept(self, offered: str) -> None:
        """Trust `offered` if it is the trusted key, or the first one; on the disk by then.

        Raises:
            WitnessKeyError: another key is trusted. The refused one is kept.
            StateError: the disk refused.
        """
        if self._trusted is None:
            self._keep(offered, None)
        if offered == self._trusted:
            if self._refused is not None:
                self._keep(offered, None)
            return
        trusted = str(self._trusted)
        if offered != self._refused:
            self._keep(trusted, offered)
        raise WitnessKeyError(offered, trusted)

    def _keep(self, trusted: str, refused: str | None) -> None:
        with self._state.transaction() as db:
            db.execute(f"INSERT OR REPLACE INTO {TABLE} VALUES (1, ?, ?)", (trusted, refused))
        self._trusted, self._refused = trusted, refused
