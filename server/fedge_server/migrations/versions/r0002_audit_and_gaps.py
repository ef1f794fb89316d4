"""Ledger entries and gap records in the envelope log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COLUMNS = ("audit_first", "audit_last", "given_up")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("envelopes", sa.Column(name, sa.BigInteger(), nullable=True))
    op.create_index("ix_envelopes_gateway_audit_last", "envelopes", ["gateway", "audit_last"])


def downgrade() -> None:
    op.drop_index("ix_envelopes_gateway_audit_last", "envelopes")
    for name in _COLUMNS:
        op.drop_column("envelopes", name)
