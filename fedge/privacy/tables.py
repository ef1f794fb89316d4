"""Policies, blocks and exclusions of the ledger, as rows of a gateway's state file.

Rows in, rows out: every rule about what may be charged or settled is the ledger's.
"""

from __future__ import annotations

from fedge.errors import ReservationError
from fedge.privacy.entries import Exclusion
from fedge.records import PolicyApproval, PrivacyPolicy
from fedge.statefile import StateFile

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS ledger_policies (sha256 TEXT PRIMARY KEY, body BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ledger_adopted (only INTEGER PRIMARY KEY CHECK (only = 1),"
    " policy TEXT NOT NULL REFERENCES ledger_policies, approval BLOB)",
    "CREATE TABLE IF NOT EXISTS ledger_blocks (block INTEGER PRIMARY KEY,"
    " policy TEXT NOT NULL REFERENCES ledger_policies)",
    "CREATE TABLE IF NOT EXISTS ledger_lowered ("
    " block INTEGER PRIMARY KEY REFERENCES ledger_blocks, epsilon REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS ledger_exclusions (block INTEGER NOT NULL, what TEXT NOT NULL,"
    " PRIMARY KEY (block, what)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS ledger_recovered (only INTEGER PRIMARY KEY CHECK (only = 1),"
    " through INTEGER NOT NULL)",
)
_TABLES = ("adopted", "lowered", "blocks", "policies", "exclusions", "recovered")


class LedgerTables:
    """Reads and writes policies, blocks and exclusions; writes join the caller's transaction."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        self._policies: dict[str, PrivacyPolicy] = {}
        state.ensure(*_SCHEMA)

    def clear(self) -> None:
        """Forget everything; what refers to blocks must be gone."""
        with self._state.transaction() as db:
            for table in _TABLES:
                db.execute(f"DELETE FROM ledger_{table}")

    # --- policies ---------------------------------------------------------------------

    def adopt(self, policy: PrivacyPolicy, approval: PolicyApproval | None) -> None:
        """Keep the policy for blocks to be opened, and lower open ones to its epsilon."""
        with self._state.transaction() as db:
            self._add_policy(policy)
            signed = None if approval is None else approval.to_bytes()
            row = (policy.content_sha256, signed)
            db.execute("INSERT OR REPLACE INTO ledger_adopted VALUES (1, ?, ?)", row)
            for block in self.blocks():
                if policy.epsilon < self.epsilon(block):
                    db.execute(
                        "INSERT OR REPLACE INTO ledger_lowered VALUES (?, ?)",
                        (block, policy.epsilon),
                    )

    def adopted(self) -> tuple[PrivacyPolicy | None, PolicyApproval | None]:
        """The policy adopted last, and its approval."""
        rows = self._state.rows("SELECT policy, approval FROM ledger_adopted")
        if not rows:
            return None, None
        sha256, signed = rows[0]
        approval = None if signed is None else PolicyApproval.from_bytes(bytes(signed))
        return self._policy(str(sha256)), approval

    # --- blocks -----------------------------------------------------------------------

    def add_block(self, block: int, policy: PrivacyPolicy) -> None:
        """Keep a block and the policy that it opened under."""
        with self._state.transaction() as db:
            self._add_policy(policy)
            db.execute("INSERT INTO ledger_blocks VALUES (?, ?)", (block, policy.content_sha256))

    def blocks(self) -> list[int]:
        """All open blocks in order."""
        return [
            int(block)
            for (block,) in self._state.rows("SELECT block FROM ledger_blocks ORDER BY block")
        ]

    def policy(self, block: int) -> PrivacyPolicy | None:
        """The policy that `block` was opened under; None if it was never opened."""
        rows = self._state.rows("SELECT policy FROM ledger_blocks WHERE block = ?", block)
        return self._policy(str(rows[0][0])) if rows else None

    def policy_of(self, block: int) -> PrivacyPolicy:
        """The policy that `block` was opened under.

        Raises:
            ReservationError: it was never opened.
        """
        policy = self.policy(block)
        if policy is None:
            raise ReservationError(f"block {block} was never opened in this ledger")
        return policy

    def epsilon(self, block: int) -> float:
        """The smallest epsilon adopted since `block` was opened, its own policy's included.

        Raises:
            ReservationError: it was never opened.
        """
        rows = self._state.rows("SELECT epsilon FROM ledger_lowered WHERE block = ?", block)
        return float(rows[0][0]) if rows else self.policy_of(block).epsilon

    def recover(self, through: int) -> None:
        """Keep that blocks up to this one lost their budget."""
        with self._state.transaction() as db:
            db.execute("INSERT OR REPLACE INTO ledger_recovered VALUES (1, ?)", (through,))

    @property
    def recovered_through(self) -> int:
        """Up to this block nothing is left; -1 before any recovery."""
        rows = self._state.rows("SELECT through FROM ledger_recovered")
        return int(rows[0][0]) if rows else -1

    # --- exclusions -------------------------------------------------------------------

    def add_exclusion(self, block: int, what: Exclusion) -> bool:
        """Keep an exclusion; False where it was kept before."""
        with self._state.transaction() as db:
            added = db.execute(
                "INSERT OR IGNORE INTO ledger_exclusions VALUES (?, ?)", (block, what)
            )
            return added.rowcount == 1

    def exclusions(self) -> set[tuple[int, Exclusion]]:
        """What the guarantee leaves out, by block."""
        return {
            (int(block), what)
            for block, what in self._state.rows("SELECT block, what FROM ledger_exclusions")
        }

    def _add_policy(self, policy: PrivacyPolicy) -> None:
        with self._state.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO ledger_policies VALUES (?, ?)",
                (policy.content_sha256, policy.to_bytes()),
            )

    def _policy(self, sha256: str) -> PrivacyPolicy:
        if sha256 not in self._policies:
            ((body,),) = self._state.rows(
                "SELECT body FROM ledger_policies WHERE sha256 = ?", sha256
            )
            self._policies[sha256] = PrivacyPolicy.from_bytes(bytes(body))
        return self._policies[sha256]
