"""The schema's version: upgrading, downgrading, and refusing to run on another one.

Alembic and SQLAlchemy are imported where they are used: a worker only asks for the version.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

import lighthouse
from lighthouse.errors import NotMigrated, StoreError, UsageError
from lighthouse.store import pool as connections
from lighthouse.store.pool import Pool, translated

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection as AlchemyConnection

#: Key of the session advisory lock under which one migration runs at a time.
MIGRATE_LOCK = 7_246_001

#: `raw_history_days` when the caller has no settings.
RAW_HISTORY_DAYS = 90
#: Raw rows are kept at least this long whatever the setting says: the refresh of a day's rollup
#: reaches back 8 days and 6 hours, and must stay a whole chunk inside what is kept.
RAW_FLOOR_DAYS = 10
#: Hourly rollups are kept at least this long; daily ones for good.
HOURLY_FLOOR_DAYS = 365

#: Rows of a dump that was restored into a younger server carry transaction numbers of its future:
#: beat would take each later change of theirs for an old one. The trigger gives them this one's.
_RESTAMP = """
UPDATE subscriptions SET changed_xid = 0
WHERE changed_xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
"""

_REVISION_FILE = re.compile(r"(\d{4})_\w+\.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Where a database's schema stands; None before the first migration."""

    current: str | None
    head: str  #: what this Lighthouse needs


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What a migration did; None is a database without our schema."""

    before: str | None
    after: str | None


def kept_days(raw_history_days: int) -> tuple[int, int]:
    """For how many days (raw, hourly) rows are kept."""
    raw = max(raw_history_days, RAW_FLOOR_DAYS)
    return raw, max(raw, HOURLY_FLOOR_DAYS)


def upgrade(
    url: str, raw_history_days: int = RAW_HISTORY_DAYS, *, revision: str = "head"
) -> Migrated:
    """Bring the schema to `revision` and the policies to the settings.

    Doing nothing when nothing is to be done; several at once wait for each other. Raises
    StoreError, and UsageError for an unknown revision.
    """
    from alembic import command

    with _alembic(url, raw_history_days) as (config, before):
        command.upgrade(config, revision)
        connection = config.attributes["connection"]
        connection.exec_driver_sql(_RESTAMP)
        connection.commit()
        return Migrated(before=before, after=_read_version(connection))


def downgrade(url: str, revision: str) -> Migrated:
    """Take the schema back to an older revision, `base` for none, with all data that goes with it.

    Raises StoreError, and UsageError for an unknown revision.
    """
    from alembic import command

    with _alembic(url, RAW_HISTORY_DAYS) as (config, before):
        command.downgrade(config, revision)
        return Migrated(before=before, after=_read_version(config.attributes["connection"]))


def current_and_head(url: str) -> Versions:
    """What the database has and what this Lighthouse needs."""
    with connected(url, lock=False) as connection:
        return Versions(current=_read_version(connection), head=head())


async def require_migrated(pool: Pool) -> None:
    """Raise NotMigrated unless the schema is this Lighthouse's; one query."""
    with translated():
        async with pool.connection() as conn:
            try:
                cursor = await conn.execute("SELECT version_num FROM alembic_version")
                row = await cursor.fetchone()
            except psycopg.errors.UndefinedTable:
                row = None
    current = None if row is None else str(row[0])
    if current == head():
        return
    if current is not None and current > head():
        raise NotMigrated(_newer(current))
    was = "has no Lighthouse schema" if current is None else f"has schema {current}"
    raise NotMigrated(f"the database {was}, {head()} is needed; run `lighthouse db upgrade`")


@lru_cache(maxsize=1)
def head() -> str:
    """The newest revision that ships with this Lighthouse."""
    names = (_REVISION_FILE.fullmatch(path.name) for path in (scripts() / "versions").iterdir())
    return max(match[1] for match in names if match)


@lru_cache(maxsize=1)
def scripts() -> Path:
    """The directory of the migrations: installed beside this package, or in its checkout."""
    spec = find_spec("lighthouse_migrations")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent
    return Path(lighthouse.__file__).resolve().parent.parent / "migrations"


@contextmanager
def connected(url: str, *, lock: bool = True) -> "Iterator[AlchemyConnection]":
    """A SQLAlchemy connection, with the migrations' lock on its session; errors are ours."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import StaticPool

    with translated():
        raw = psycopg.connect(connections.conninfo(url, application="lighthouse-migrate"))
        try:
            if lock:
                raw.autocommit = True
                raw.execute("SELECT pg_advisory_lock(%s)", (MIGRATE_LOCK,))
                raw.autocommit = False
            engine = create_engine(
                "postgresql+psycopg://", creator=lambda: raw, poolclass=StaticPool
            )
            try:
                with engine.connect() as connection:
                    yield connection
            except DBAPIError as exc:
                if isinstance(exc.orig, psycopg.Error):
                    raise exc.orig from exc
                raise
        finally:
            raw.close()


@contextmanager
def _alembic(url: str, raw_history_days: int) -> "Iterator[tuple[Config, str | None]]":
    from alembic.config import Config
    from alembic.util import CommandError

    with connected(url) as connection:
        config = Config()
        config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
        config.attributes["connection"] = connection
        config.attributes["raw_history_days"] = raw_history_days
        try:
            before = _read_version(connection)
            if before is not None and before > head():
                raise StoreError(_newer(before))
            yield config, before
        except CommandError as exc:
            raise UsageError(f"revision: {' '.join(str(exc).split())}") from exc


def _read_version(connection: "AlchemyConnection") -> str | None:
    there = connection.exec_driver_sql("SELECT to_regclass('alembic_version') IS NOT NULL").scalar()
    version = (
        connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        if there
        else None
    )
    connection.rollback()
    return version


def _newer(current: str) -> str:
    return (
        f"the database has schema {current}, newer than this Lighthouse knows ({head()});"
        " install a newer Lighthouse"
    )


_HAS_RETENTION = """
SELECT EXISTS (SELECT FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'
    AND hypertable_name = '{table}' AND (config->>'drop_after')::interval = '{days} days')
"""
_RETENTION = (
    "SELECT remove_retention_policy('{table}', if_exists => true)",
    "SELECT add_retention_policy('{table}', drop_after => INTERVAL '{days} days')",
)


def after_migration(connection: "AlchemyConnection", raw_history_days: int) -> None:
    """What follows from settings and server, not from a revision; may be done at any time."""
    from lighthouse.store.edition import DETECT, Edition, judge

    edition = judge(connection.exec_driver_sql(DETECT).one())
    if edition is Edition.COMMUNITY:  # on the other editions upkeep takes the setting as it runs
        raw, hourly = kept_days(raw_history_days)
        for table, days in (("check_history", raw), ("hourly_checks", hourly)):
            if connection.exec_driver_sql(_HAS_RETENTION.format(table=table, days=days)).scalar():
                continue
            for statement in _RETENTION:
                connection.exec_driver_sql(statement.format(table=table, days=days))
    if edition is not None:
        _offer_statistics(connection)
    connection.commit()


def _offer_statistics(connection: "AlchemyConnection") -> None:
    """Create pg_stat_statements where the server has it loaded, for `lighthouse db status`."""
    from sqlalchemy.exc import ProgrammingError

    ready = connection.exec_driver_sql(
        "SELECT current_setting('pg_stat_statements.max', true) IS NOT NULL AND EXISTS (SELECT"
        " FROM pg_available_extensions WHERE name = 'pg_stat_statements'"
        " AND installed_version IS NULL)"
    ).scalar()
    if ready:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        except ProgrammingError as exc:
            # Who may not create it does without.
            if not isinstance(exc.orig, psycopg.errors.InsufficientPrivilege):
                raise
