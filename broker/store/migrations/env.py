"""Alembic runs this file for every command; `broker.store.migrations.upgrade` hands it the connection."""

from alembic import context

from broker.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
