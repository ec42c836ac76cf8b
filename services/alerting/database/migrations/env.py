"""Run by Alembic, on the connection and in the transaction of :mod:`services.alerting.database.opening`."""

from __future__ import annotations

from alembic import context

from services.alerting.database.opening import VERSION_TABLE
from services.alerting.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    # SQLite changes tables by copying them; its schema is part of the transaction, whatever Alembic assumes.
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
