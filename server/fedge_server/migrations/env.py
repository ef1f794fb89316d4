"""What alembic executes: run the migrations on the connection that was handed in."""

from alembic import context

from fedge_server.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    # Only `alembic upgrade --sql`: prints the statements, touches no database.
    context.configure(
        url=context.config.get_main_option("sqlalchemy.url"),
        target_metadata=metadata,
        literal_binds=True,
    )
else:
    context.configure(connection=connection, target_metadata=metadata)

with context.begin_transaction():
    context.run_migrations()
