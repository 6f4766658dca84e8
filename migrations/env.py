"""How Alembic reaches the database: `lighthouse db upgrade` and `alembic upgrade head` alike.

Each revision runs in a transaction of its own. An advisory lock lets one migration run at a time,
so that every container of a deployment may run it at its start.
"""

from alembic import context
from sqlalchemy import Connection

from lighthouse import settings
from lighthouse.store import migrate
from lighthouse.store.tables import metadata


def run() -> None:
    """Migrate over the connection that `store.migrate` gives, or one of our own."""
    if context.is_offline_mode():
        raise SystemExit("--sql cannot work: what is made depends on what the server has")
    given = context.config.attributes
    if "connection" in given:
        run_on(given["connection"], given["raw_history_days"])
        return
    ours = settings.current()
    with migrate.connected(ours.require_database()) as connection:
        run_on(connection, ours.raw_history_days)


def run_on(connection: Connection, raw_history_days: int) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    migrate.after_migration(connection, raw_history_days)


run()
