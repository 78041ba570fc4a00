"""Run by alembic: migrates the connection that `storage.database.migrate` hands over, in its transaction."""

from alembic import context

from steelyard.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
