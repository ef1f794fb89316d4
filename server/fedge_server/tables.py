"""The tables of the coordinator's database, in types that SQLite and Postgres share.

`envelopes` is an append-only log of what gateways sent, byte for byte; the fleet's state,
verdicts and episodes are derived from it. `runs` holds decisions, `run_states` how they went,
`interventions` what else was done, `ledger_heads` what of the gateways' ledgers was confirmed and
`ledger_refusals` what was not. A change here needs a migration beside it: a test compares
the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    # Named constraints, because a later migration can only drop what it can name.
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the key is declared INTEGER.
_RowNumber = BigInteger().with_variant(Integer, "sqlite")

gateways = Table(
    "gateways",
    metadata,
    Column("fingerprint", String(32), primary_key=True),
    Column("public_key", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("admitted_at", Double, nullable=False),
)

envelopes = Table(
    "envelopes",
    metadata,
    Column("number", _RowNumber, primary_key=True, autoincrement=True),
    Column("gateway", String(32), ForeignKey("gateways.fingerprint"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("payload_sha256", String(64), nullable=False),
    # What the payload is about, for the kinds that have it: the window of a report, the first
    # and last ledger entry of an audit, how many envelopes a gap record counts as given up, the
    # window of a label report.
    Column("report_window", BigInteger, nullable=True),
    Column("received_at", Double, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("audit_first", BigInteger, nullable=True),
    Column("audit_last", BigInteger, nullable=True),
    Column("given_up", BigInteger, nullable=True),
    Column("labels_window", BigInteger, nullable=True),
    UniqueConstraint("gateway", "seq"),
    # Null for other kinds, and nulls are distinct: only reports are held to it.
    UniqueConstraint("gateway", "report_window"),
    Index(None, "gateway", "kind", "seq"),
    Index(None, "gateway", "audit_last"),
    # As above, for label reports; an index, because SQLite adds no constraint to a table.
    Index(None, "gateway", "labels_window", unique=True),
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String(64), primary_key=True),
    Column("spec", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("release", Integer, nullable=True),
)

run_states = Table(
    "run_states",
    metadata,
    Column("number", _RowNumber, primary_key=True, autoincrement=True),
    Column("run_id", String(64), ForeignKey("runs.run_id"), nullable=False),
    Column("state", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index(None, "run_id", "number"),
)

# What was done about drift besides retraining, once for an episode and action: facts from which
# verdicts are derived. `announced_at` is null until the alert that belongs to it was delivered.
interventions = Table(
    "interventions",
    metadata,
    Column("number", _RowNumber, primary_key=True, autoincrement=True),
    Column("episode", String(128), nullable=False),
    Column("action", String(32), nullable=False),
    Column("gateway", String(32), ForeignKey("gateways.fingerprint"), nullable=False),
    Column("window", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("by", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("announced_at", Double, nullable=True),
    UniqueConstraint("episode", "action"),
    Index(None, "gateway", "number"),
)

# What a gateway's ledger amounts to after so many entries. `root` is what its signed `head` says;
# `frontier` and `witnessed` come once all entries below are stored and the root was found to be
# right. A row without a head is an earlier version's batch.
ledger_heads = Table(
    "ledger_heads",
    metadata,
    Column("gateway", String(32), ForeignKey("gateways.fingerprint"), primary_key=True),
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("root", String(64), nullable=False),
    Column("head", LargeBinary, nullable=True),
    Column("frontier", LargeBinary, nullable=True),
    Column("witnessed", LargeBinary, nullable=True),
    Column("at", Double, nullable=False),
)

# Ledger entries and heads that were refused, so that a fork stays visible.
ledger_refusals = Table(
    "ledger_refusals",
    metadata,
    Column("number", _RowNumber, primary_key=True, autoincrement=True),
    Column("gateway", String(32), ForeignKey("gateways.fingerprint"), nullable=False),
    Column("entry", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index(None, "gateway", "number"),
)
