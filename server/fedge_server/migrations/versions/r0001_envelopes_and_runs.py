"""The first tables: admitted gateways, the envelope log, retraining runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_row_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables of gateways, envelopes, runs and their states; nothing is there before."""
    op.create_table(
        "gateways",
        sa.Column("fingerprint", sa.String(32), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("admitted_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name="pk_gateways"),
    )
    op.create_table(
        "envelopes",
        sa.Column("number", _row_number, nullable=False, autoincrement=True),
        sa.Column("gateway", sa.String(32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("payload_sha256", sa.String(64), nullable=False),
        sa.Column("report_window", sa.BigInteger(), nullable=True),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_envelopes"),
        sa.ForeignKeyConstraint(["gateway"], ["gateways.fingerprint"], name="fk_envelopes_gateway"),
        sa.UniqueConstraint("gateway", "seq", name="uq_envelopes_gateway_seq"),
        sa.UniqueConstraint("gateway", "report_window", name="uq_envelopes_gateway_report_window"),
    )
    op.create_index("ix_envelopes_gateway_kind_seq", "envelopes", ["gateway", "kind", "seq"])
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("spec", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("release", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name="pk_runs"),
    )
    op.create_table(
        "run_states",
        sa.Column("number", _row_number, nullable=False, autoincrement=True),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_run_states"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_run_states_run_id"),
    )
    op.create_index("ix_run_states_run_id_number", "run_states", ["run_id", "number"])


def downgrade() -> None:
    for table in ("run_states", "runs", "envelopes", "gateways"):
        op.drop_table(table)
