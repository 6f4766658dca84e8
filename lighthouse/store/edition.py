"""Which of the three forms of the history a database has, or can have.

`best` looks at what the server offers and is asked once, by the migration; `detect` looks at what
that migration made and is what everything else goes by, so the two can never disagree.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import psycopg

from lighthouse.store.pool import Connection


class Edition(StrEnum):
    """What stands under `check_history` and who keeps the rollups."""

    COMMUNITY = "community"  #: TimescaleDB: hypertables, continuous aggregates, policies
    APACHE = "apache"  #: TimescaleDB without its community features: hypertables, our tasks
    PLAIN = "plain"  #: PostgreSQL alone: daily partitions, our tasks


#: The first TimescaleDB whose columnstore has the names that the migration uses.
OLDEST_TIMESCALEDB = (2, 18)

#: The relations that differ: a partitioned table is `plain`, and only where we keep the rollups
#: ourselves there is a function that says how far they go.
DETECT = """
SELECT (SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('check_history')),
       to_regproc('lighthouse_rolled_to') IS NOT NULL
"""


async def detect(conn: Connection) -> Edition | None:
    """The edition that this database was migrated to; None before that."""
    cursor = await conn.execute(DETECT)
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM always has its row
    return judge(row)


def judge(row: Sequence[Any]) -> Edition | None:
    """What a row of DETECT says."""
    partitioned, own_rollups = row
    if partitioned is None:
        return None
    if partitioned:
        return Edition.PLAIN
    return Edition.APACHE if own_rollups else Edition.COMMUNITY


def best(conn: psycopg.Connection[Any]) -> tuple[Edition, str | None]:
    """The most that the server can do, and why it is less than it seems, if it is.

    Creates the extension where the server has it ready; runs inside the caller's transaction.
    """
    installed, available, preloaded = _one_row(
        conn,
        "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb'),"
        " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb'),"
        # The loader's own setting: readable by everyone, unlike shared_preload_libraries.
        " current_setting('timescaledb.disable_load', true) IS NOT NULL",
    )
    if not installed and not available:
        return Edition.PLAIN, None
    if not preloaded:  # creating it would end the connection
        return Edition.PLAIN, (
            "TimescaleDB is there but not in shared_preload_libraries, so it is not used"
        )
    if not installed:
        try:
            with conn.transaction():
                conn.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        except psycopg.errors.InsufficientPrivilege:
            return Edition.PLAIN, (
                "TimescaleDB is there but this user may not create it, so it is not used;"
                " to use it, let a superuser run CREATE EXTENSION timescaledb first"
            )
    version, license_ = _one_row(
        conn,
        "SELECT extversion, current_setting('timescaledb.license')"
        " FROM pg_extension WHERE extname = 'timescaledb'",
    )
    if license_ != "timescale":
        return Edition.APACHE, None
    if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < OLDEST_TIMESCALEDB:
        oldest = ".".join(str(part) for part in OLDEST_TIMESCALEDB)
        return Edition.APACHE, (
            f"TimescaleDB {version} is older than {oldest}, so its rollups and compression"
            " are not used"
        )
    return Edition.COMMUNITY, None


def _one_row(conn: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None  # noqa: S101 - each of these queries has its row
    return tuple(row)
