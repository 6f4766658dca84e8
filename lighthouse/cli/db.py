"""`lighthouse db`: the schema, and how the database does."""

import asyncio

import click

from lighthouse import settings
from lighthouse.cli import support
from lighthouse.store import migrate
from lighthouse.store.pool import conninfo, reach
from lighthouse.store.status import DatabaseStatus, status


@click.group()
def db() -> None:
    """Migrate the database, and see how it does."""


@db.command()
def upgrade() -> None:
    """Bring the schema to this Lighthouse's version, and retention to the settings."""
    _tell(migrate.upgrade(_reached(), settings.current().raw_history_days))


@db.command()
@click.argument("revision", metavar="REV")
def downgrade(revision: str) -> None:
    """Take the schema back to REV (`base` for none); the rows that go with it are lost."""
    _tell(migrate.downgrade(_reached(), revision))


def _reached() -> str:
    """DATABASE_URL, once its server has answered. Raises StoreUnavailable naming the server."""
    given = settings.current().require_database()
    asyncio.run(reach(given))
    return given


def _tell(done: migrate.Migrated) -> None:
    before, after = done.before or "none", done.after or "none"
    click.echo(f"schema: {after}" if before == after else f"schema: {before} -> {after}")


@db.command()
def url() -> None:
    """Print DATABASE_URL as psql takes it: psql "$(lighthouse db url)"."""
    given = settings.current().require_database()
    conninfo(given)  # one that cannot be read is refused here, not by psql
    click.echo(given.replace("postgresql+psycopg://", "postgresql://", 1))


@db.command("status")
@support.as_json
def show_status(as_json: bool) -> None:
    """Edition, schema, sizes, rollups, policies and their last runs, slow queries."""
    found = asyncio.run(status(_reached()))
    if as_json:
        support.print_json(found)
        return
    _print_facts(found)
    if found.edition is not None:
        _print_tables(found)


def _print_facts(found: DatabaseStatus) -> None:
    needed = "" if found.revision == found.head else f", {found.head} is needed: run db upgrade"
    support.print_facts(
        (
            ("edition", found.edition or "not migrated"),
            ("postgresql", found.server_version),
            ("timescaledb", found.timescaledb_version),
            ("schema", (found.revision or "none") + needed),
            ("size", _size(found.database_bytes)),
            ("accounted_to", found.accounted_to),
        )
    )


def _print_tables(found: DatabaseStatus) -> None:
    click.echo()
    support.print_table(
        ("table", "size>", "parts>", "compressed>", "ratio>"),
        (
            (t.name, _size(t.bytes), t.parts, t.compressed_parts, t.compression_ratio)
            for t in found.tables
        ),
    )
    click.echo()
    support.print_table(
        ("rollup", "rolled up to", "hours behind>", "to redo>"),
        (
            (r.name, r.rolled_to, None if r.lag_s is None else r.lag_s / 3600, r.dirty)
            for r in found.rollups
        ),
    )
    click.echo()
    support.print_table(
        ("task", "of", "last run", "result", "next run", "settings"),
        (
            (t.name, t.table, t.last_run_at, t.last_result, t.next_run_at, t.settings)
            for t in found.tasks
        ),
        empty="no task has run yet",
    )
    click.echo()
    if found.slow_queries is None:
        click.echo("slow queries: pg_stat_statements is not there")
    else:
        support.print_table(
            ("slow query", "calls>", "mean ms>", "max ms>"),
            ((q.query, q.calls, q.mean_exec_ms, q.max_exec_ms) for q in found.slow_queries),
            empty="no queries yet",
        )


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TB"
