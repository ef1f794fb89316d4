"""Heads of gateways' ledgers, and what was refused of them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_row_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables: a ledger has one head of each size; refusals are kept in their order."""
    op.create_table(
        "ledger_heads",
        sa.Column("gateway", sa.String(32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("root", sa.String(64), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=True),
        sa.Column("frontier", sa.LargeBinary(), nullable=True),
        sa.Column("witnessed", sa.LargeBinary(), nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("gateway", "size", name="pk_ledger_heads"),
        sa.ForeignKeyConstraint(
            ["gateway"], ["gateways.fingerprint"], name="fk_ledger_heads_gateway"
        ),
    )
    op.create_table(
        "ledger_refusals",
        sa.Column("number", _row_number, nullable=False, autoincrement=True),
        sa.Column("gateway", sa.String(32), nullable=False),
        sa.Column("entry", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_ledger_refusals"),
        sa.ForeignKeyConstraint(
            ["gateway"], ["gateways.fingerprint"], name="fk_ledger_refusals_gateway"
        ),
    )
    op.create_index("ix_ledger_refusals_gateway_number", "ledger_refusals", ["gateway", "number"])


def downgrade() -> None:
    op.drop_table("ledger_refusals")
    op.drop_table("ledger_heads")
