"""Alembic migrations of the coordinator's database; `fedge_server.database` runs them."""
