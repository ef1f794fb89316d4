"""What was done about drift besides retraining."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_row_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table: an episode asks for each action once."""
    op.create_table(
        "interventions",
        sa.Column("number", _row_number, nullable=False, autoincrement=True),
        sa.Column("episode", sa.String(128), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("gateway", sa.String(32), nullable=False),
        sa.Column("window", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("announced_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_interventions"),
        sa.ForeignKeyConstraint(
            ["gateway"], ["gateways.fingerprint"], name="fk_interventions_gateway"
        ),
        sa.UniqueConstraint("episode", "action", name="uq_interventions_episode_action"),
    )
    op.create_index("ix_interventions_gateway_number", "interventions", ["gateway", "number"])


def downgrade() -> None:
    op.drop_table("interventions")
