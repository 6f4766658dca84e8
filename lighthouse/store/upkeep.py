"""What must be done to the histories from time to time, where TimescaleDB does not do it itself.

Every task here may run twice or at once: each step checks what is there and takes its own lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import structlog
from psycopg import sql
from psycopg.types.json import Jsonb

from lighthouse.store import catalog
from lighthouse.store.edition import Edition, detect
from lighthouse.store.migrate import kept_days
from lighthouse.store.pool import Connection, Pool, translated

log = structlog.get_logger(__name__)

#: Partitions stand from the day of the latest late row (7 days, and the day it began in) …
PARTITIONS_BACK_DAYS = 8
#: … to so far ahead that upkeep may fail for a week.
PARTITIONS_AHEAD_DAYS = 7

#: Incidents are kept as long as the alerts that told of them.
ALERTS_KEPT_DAYS = 365
BUDGETS_KEPT_DAYS = 30

#: Dropping a partition stops the history's readers and writers; if it must wait for a long
#: reader it would make them all wait, so it gives up and the next run tries again.
DROP_LOCK_TIMEOUT = "2s"

#: Rows that one statement deletes: short locks, little to undo.
DELETE_ROWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What one run did."""

    partitions_made: int = 0
    dropped: tuple[str, ...] = ()  #: partitions or chunks
    deleted_rows: int = 0


async def run(pool: Pool, raw_history_days: int, *, now: datetime | None = None) -> Upkeep:
    """Make coming partitions and let old rows go; of histories on `community` policies do it.

    `now` is PostgreSQL's clock unless given. Raises StoreError.
    """
    with translated():
        async with pool.connection() as conn:
            edition = await detect(conn)
            moment = await _now(conn) if now is None else now
            done = Upkeep()
            if edition is Edition.PLAIN:
                made = await ensure_partitions(conn, now=moment)
                done = Upkeep(partitions_made=made)
            if edition in (Edition.PLAIN, Edition.APACHE):
                done = await _retain(conn, edition, raw_history_days, moment, done.partitions_made)
            done = replace(done, deleted_rows=done.deleted_rows + await _forget(conn, moment))
            await note_run(
                conn,
                "upkeep",
                {
                    "partitions_made": done.partitions_made,
                    "dropped": len(done.dropped),
                    "deleted_rows": done.deleted_rows,
                },
            )
            return done


async def ensure_partitions(
    conn: Connection,
    *,
    back_days: int = PARTITIONS_BACK_DAYS,
    ahead_days: int = PARTITIONS_AHEAD_DAYS,
    now: datetime | None = None,
) -> int:
    """Make the daily partitions around today that are missing; how many. Nothing but on `plain`.

    For upkeep, and for a recorder that met a day without a partition.
    """
    if await detect(conn) is not Edition.PLAIN:
        return 0
    today = _day(await _now(conn) if now is None else now)
    cursor = await conn.execute(
        "SELECT lighthouse_ensure_partitions(%s, %s)",
        (today - timedelta(days=back_days), today + timedelta(days=ahead_days)),
    )
    row = await cursor.fetchone()
    return 0 if row is None else int(row[0])


async def expire(pool: Pool) -> list[UUID]:
    """End every subscription that is past its `expires_at`, and its schedule with it; the ids."""
    ended: list[UUID] = []
    while some := await catalog.expire_due(pool):
        ended += some
    return ended


async def note_run(conn: Connection, task: str, facts: Mapping[str, Any]) -> None:
    """Keep when a task last ran and what it did, for `lighthouse db status`."""
    await conn.execute(
        "INSERT INTO fleet_state (key, value, updated_at) VALUES (%s, %s, clock_timestamp())"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
        (f"task:{task}", Jsonb(dict(facts))),
    )


async def _retain(
    conn: Connection, edition: Edition, raw_history_days: int, now: datetime, made: int
) -> Upkeep:
    raw_days, hourly_days = kept_days(raw_history_days)
    cutoff = await _raw_cutoff(conn, now - timedelta(days=raw_days))
    alerts = now - timedelta(days=ALERTS_KEPT_DAYS)
    deleted = 0
    if edition is Edition.PLAIN:
        dropped = await _drop_partitions(conn, cutoff)
        deleted += await _delete(conn, "alert_history", "time", alerts)
    else:
        dropped = await _drop_chunks(conn, "check_history", cutoff)
        dropped += await _drop_chunks(conn, "alert_history", alerts)
    deleted += await _delete(conn, "hourly_rollups", "hour", now - timedelta(days=hourly_days))
    return Upkeep(partitions_made=made, dropped=tuple(dropped), deleted_rows=deleted)


# By idx_incidents_opened_at. One that is open may still be told of, unless nothing is watched.
_OLD_INCIDENTS = """
DELETE FROM incidents WHERE id = ANY(ARRAY(
    SELECT i.id FROM incidents i JOIN subscriptions s ON s.id = i.subscription_id
     WHERE i.opened_at < %s
       AND (i.closed_at < %s OR i.closed_at IS NULL AND s.status IN ('cancelled', 'expired'))
     LIMIT %s))
"""


async def _forget(conn: Connection, now: datetime) -> int:
    """Let go of what tables hold that are no histories."""
    deleted = await _delete(conn, "alert_budgets", "hour", now - timedelta(days=BUDGETS_KEPT_DAYS))
    cutoff = now - timedelta(days=ALERTS_KEPT_DAYS)
    while True:
        cursor = await conn.execute(_OLD_INCIDENTS, (cutoff, cutoff, DELETE_ROWS))
        deleted += cursor.rowcount
        if cursor.rowcount < DELETE_ROWS:
            return deleted


async def _raw_cutoff(conn: Connection, wanted: datetime) -> datetime:
    """Raw rows before this may go: old enough, and no rollup still needs them."""
    cursor = await conn.execute(
        "SELECT least(%s::timestamptz, (SELECT min(rolled_to) FROM rollup_state),"
        " (SELECT date_bin('1 day', min(hour), '2000-01-01 00:00:00+00') FROM rollup_dirty))",
        (wanted,),
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM always has its row
    cutoff: datetime = row[0]
    return cutoff


_PARTITIONS = """
SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'check_history'::regclass ORDER BY c.relname
"""


async def _drop_partitions(conn: Connection, cutoff: datetime) -> list[str]:
    """Drop the days that end before the cutoff, each in a transaction of its own."""
    cursor = await conn.execute(_PARTITIONS)
    dropped = []
    for (name,) in await cursor.fetchall():
        day = datetime.strptime(name.removeprefix("check_history_"), "%Y%m%d").replace(tzinfo=UTC)
        if day + timedelta(days=1) > cutoff:
            break
        try:
            async with conn.transaction():
                await conn.execute(f"SET LOCAL lock_timeout = '{DROP_LOCK_TIMEOUT}'".encode())
                await conn.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(name)))
        except psycopg.errors.LockNotAvailable:
            log.info("partition is being read, the next run drops it", partition=name)
            break
        dropped.append(name)
    return dropped


async def _drop_chunks(conn: Connection, table: str, cutoff: datetime) -> list[str]:
    try:
        async with conn.transaction():
            await conn.execute(f"SET LOCAL lock_timeout = '{DROP_LOCK_TIMEOUT}'".encode())
            cursor = await conn.execute(
                "SELECT drop_chunks(%s::regclass, older_than => %s::timestamptz)", (table, cutoff)
            )
            return [name for (name,) in await cursor.fetchall()]
    except psycopg.errors.LockNotAvailable:
        log.info("chunks are being read, the next run drops them", table=table)
        return []


async def _delete(conn: Connection, table: str, column: str, cutoff: datetime) -> int:
    """Delete old rows in small statements."""
    query = sql.SQL(
        "DELETE FROM {table} WHERE ctid = ANY(ARRAY("
        "SELECT ctid FROM {table} WHERE {column} < %s LIMIT %s))"
    ).format(table=sql.Identifier(table), column=sql.Identifier(column))
    deleted = 0
    while True:
        cursor = await conn.execute(query, (cutoff, DELETE_ROWS))
        deleted += cursor.rowcount
        if cursor.rowcount < DELETE_ROWS:
            return deleted


async def _now(conn: Connection) -> datetime:
    cursor = await conn.execute("SELECT clock_timestamp()")
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM always has its row
    moment: datetime = row[0]
    return moment


def _day(moment: datetime) -> date:
    return moment.astimezone(UTC).date()
