"""Run by Alembic; uses the connection and transaction that `schema_version` passes in."""

from alembic import context

from deployments.ledger.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
