"""Label reports in the envelope log."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_INDEX = "ix_envelopes_gateway_labels_window"


def upgrade() -> None:
    op.add_column("envelopes", sa.Column("labels_window", sa.BigInteger(), nullable=True))
    op.create_index(_INDEX, "envelopes", ["gateway", "labels_window"], unique=True)


def downgrade() -> None:
    op.drop_index(_INDEX, "envelopes")
    op.drop_column("envelopes", "labels_window")
