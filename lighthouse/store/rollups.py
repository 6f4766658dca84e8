"""The task that keeps the hourly and daily rollups where TimescaleDB does not.

On `community` continuous aggregates keep the rollups and `run` has nothing to do. On the others it
computes each hour once when it has closed, and again when a late row fell into it. So that no row
is left out, writers of `check_history` and the task keep this protocol:

- A writer takes ROLLUP_LOCK shared in its transaction and then, in another statement, reads
  `rollup_state.open_from` of `hourly`. For its rows before that it marks (hour, subscription) in
  `rollup_dirty`, and locks a mark that is there already (ON CONFLICT DO UPDATE).
- The task takes ROLLUP_LOCK alone to move `open_from` forward: whoever read the old one has ended,
  so the rows of all hours before it can be seen or will be marked.
- It takes marks away only in the transaction that computes their buckets again, and leaves those
  that a writer holds.

On `community` `open_from` stays at the epoch, so writers never mark. Buckets are UTC's.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
import structlog
from psycopg import sql

from lighthouse.store.edition import Edition, detect
from lighthouse.store.metrics import DAY, HOUR, day_of, hour_of
from lighthouse.store.pool import Connection, Pool, translated
from lighthouse.store.upkeep import note_run

log = structlog.get_logger(__name__)

#: Advisory lock between writers of check_history (shared) and the rollup task (alone).
ROLLUP_LOCK = 0x6C68_726F_6C6C

#: An hour closes this long after its end, when its results and missed slots have mostly come:
#: what comes later costs a second computation, not correctness.
CLOSE_AFTER = timedelta(minutes=5)

#: A writer that keeps its transaction open holds the task up, and the task other writers.
LOCK_TIMEOUT = "3s"

#: Dirty buckets of one transaction; a writer that marks one of them again waits for it.
REDO_BATCH = 200

#: Sorts for the percentiles of an hour of 10,000 targets stay in memory.
WORK_MEM = "64MB"

_ORIGIN = "TIMESTAMPTZ '2000-01-01 00:00:00+00'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolled:
    """What one run of the task did."""

    hours: int = 0  #: hours closed and computed
    days: int = 0
    redone: int = 0  #: dirty (hour, subscription) computed again


_JUDGED = "status IN ('success', 'failure', 'timeout')"

_COLUMNS = (
    "total_checks",
    "successful_checks",
    "failures",
    "timeouts",
    "errors",
    "missed",
    "alerts_triggered",
    "latency_count",
    "latency_sum",
    "p50_latency_ms",
    "p95_latency_ms",
    "p99_latency_ms",
    "min_latency_ms",
    "max_latency_ms",
)

#: As the views count the rows that are not rolled up yet (migrations, AGGREGATES).
_AGGREGATES = f"""
    count(*),
    count(*) FILTER (WHERE status = 'success'),
    count(*) FILTER (WHERE status = 'failure'),
    count(*) FILTER (WHERE status = 'timeout'),
    count(*) FILTER (WHERE status = 'error'),
    count(*) FILTER (WHERE status = 'missed'),
    count(*) FILTER (WHERE alert_triggered),
    count(latency_ms) FILTER (WHERE {_JUDGED}),
    sum(latency_ms::double precision) FILTER (WHERE {_JUDGED}),
    percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE {_JUDGED}),
    percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE {_JUDGED}),
    percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE {_JUDGED}),
    min(latency_ms) FILTER (WHERE {_JUDGED}),
    max(latency_ms) FILTER (WHERE {_JUDGED})
"""

# A bucket's rows are replaced, never deleted, so its total only grows. A smaller one means that
# retention has taken raw rows away, and then what was computed from all of them stays.
_UPSERT = """
    ON CONFLICT (subscription_id, {bucket}) DO UPDATE SET ({columns}) = ROW ({excluded})
    WHERE excluded.total_checks >= {rollups}.total_checks
"""

_CLOSED = """
INSERT INTO {rollups} (subscription_id, {bucket}, {columns})
SELECT subscription_id, date_bin(%(width)s, time, {origin}) AS bucket, {aggregates}
FROM check_history WHERE time >= %(low)s AND time < %(high)s
GROUP BY subscription_id, bucket
"""

# One index range for each bucket, by the primary key.
_REDONE = """
INSERT INTO {rollups} (subscription_id, {bucket}, {columns})
SELECT d.subscription_id, d.low, a.*
FROM (SELECT DISTINCT subscription_id, date_bin(%(width)s, hour, {origin}) AS low
      FROM unnest(%(hours)s::timestamptz[], %(ids)s::uuid[]) AS u (hour, subscription_id)) AS d
CROSS JOIN LATERAL (
    SELECT {aggregates} FROM check_history AS c
    WHERE c.subscription_id = d.subscription_id
      AND c.time >= d.low AND c.time < d.low + %(width)s
    HAVING count(*) > 0) AS a
WHERE d.low < %(rolled_to)s
ORDER BY 1, 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rollup:
    name: LiteralString
    bucket: LiteralString
    width: timedelta
    step: timedelta  #: what one transaction computes

    def query(self, text: LiteralString) -> sql.Composed:
        columns = ", ".join(_COLUMNS)
        parts: dict[str, LiteralString] = {
            "rollups": f"{self.name}_rollups",
            "bucket": self.bucket,
            "columns": columns,
            "excluded": ", ".join(f"excluded.{column}" for column in _COLUMNS),
            "origin": _ORIGIN,
            "aggregates": _AGGREGATES,
        }
        return sql.SQL(text + _UPSERT).format(
            **{key: sql.SQL(value) for key, value in parts.items()}
        )


_HOURLY = _Rollup(name="hourly", bucket="hour", width=HOUR, step=6 * HOUR)
_DAILY = _Rollup(name="daily", bucket="day", width=DAY, step=DAY)


async def run(pool: Pool, *, now: datetime | None = None) -> Rolled:
    """Close what can be closed, compute it, and compute again what late rows fell into.

    Safe to run twice or at once: each step holds the row of its rollup's state, and finds nothing
    left to do if another run was first. `now` is PostgreSQL's clock unless given.
    """
    with translated():
        async with pool.connection() as conn:
            edition = await detect(conn)
            if edition in (None, Edition.COMMUNITY):
                return Rolled()
            try:
                await _close(conn, now)
            except psycopg.errors.LockNotAvailable:
                # Some writer keeps its transaction open: what is closed already can be done.
                log.warning("a writer holds the rollups up, the next run closes the hour")
            hours = await _advance(conn, _HOURLY)
            days = await _advance(conn, _DAILY)
            if days:
                await _read_live_from(conn)
            redone = await _redo(conn)
            done = Rolled(hours=hours, days=days, redone=redone)
            await note_run(
                conn, "rollup", {"hours": done.hours, "days": done.days, "redone": done.redone}
            )
            return done


async def _close(conn: Connection, now: datetime | None) -> None:
    async with conn.transaction():
        await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'".encode())
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (ROLLUP_LOCK,))
        if now is None:
            cursor = await conn.execute("SELECT clock_timestamp()")
            row = await cursor.fetchone()
            now = row[0] if row else None
        for rollup in (_HOURLY, _DAILY):
            # A clock that went back opens nothing again: the mark only moves forward.
            await conn.execute(
                "UPDATE rollup_state SET open_from = greatest(open_from,"
                " date_bin(%s, %s - %s, '2000-01-01 00:00:00+00')) WHERE rollup = %s",
                (rollup.width, now, CLOSE_AFTER, rollup.name),
            )


async def _advance(conn: Connection, rollup: _Rollup) -> int:
    """Compute the closed buckets that are not in the table yet; how many buckets of time."""
    total = 0
    while True:
        async with conn.transaction():
            await _prepare(conn)
            cursor = await conn.execute(
                "SELECT open_from, rolled_to FROM rollup_state WHERE rollup = %s"
                " FOR UPDATE SKIP LOCKED",
                (rollup.name,),
            )
            state = await cursor.fetchone()
            if state is None:  # another run is at it
                return total
            open_from, rolled_to = state
            if rolled_to >= open_from:
                return total
            low = await _first_bucket(conn, rollup, rolled_to, open_from)
            high = min(open_from, low + rollup.step)
            if low < high:
                await conn.execute(
                    rollup.query(_CLOSED), {"width": rollup.width, "low": low, "high": high}
                )
                total += (high - low) // rollup.width
            await conn.execute(
                "UPDATE rollup_state SET rolled_to = %s WHERE rollup = %s", (high, rollup.name)
            )


async def _first_bucket(
    conn: Connection, rollup: _Rollup, rolled_to: datetime, open_from: datetime
) -> datetime:
    """Where to go on: a silent time, such as that before the first row, is passed in one step."""
    if await _first(conn, "time", rolled_to, min(open_from, rolled_to + rollup.step)):
        return rolled_to
    first = await _first(conn, "min(time)", rolled_to, open_from)
    if first is None:
        return open_from
    return hour_of(first) if rollup.width == HOUR else day_of(first)


async def _first(
    conn: Connection, what: LiteralString, low: datetime, high: datetime
) -> datetime | None:
    cursor = await conn.execute(
        f"SELECT {what} FROM check_history WHERE time >= %s AND time < %s LIMIT 1",  # noqa: S608
        (low, high),
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def _read_live_from(conn: Connection) -> None:
    """Tell the planner of the views how far the rollups go, roughly: whole partitions matter."""
    for rollup in (_HOURLY, _DAILY):
        try:
            async with conn.transaction():
                # Behind a long reader of the view, other readers would queue up.
                await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'".encode())
                await conn.execute(
                    "SELECT lighthouse_read_live_from(%s, 'infinity')", (rollup.name,)
                )
        except psycopg.errors.LockNotAvailable:
            log.info("view is being read, tomorrow's run narrows it", rollup=rollup.name)


async def _redo(conn: Connection) -> int:
    """Compute dirty buckets again; the number of marks that were taken away.

    Marks in hours that are closed but not computed yet go as well: `_advance` sees their rows.
    """
    total = 0
    while True:
        async with conn.transaction():
            await _prepare(conn)
            cursor = await conn.execute(
                "SELECT (SELECT rolled_to FROM rollup_state WHERE rollup = 'hourly' FOR SHARE),"
                " (SELECT rolled_to FROM rollup_state WHERE rollup = 'daily' FOR SHARE)"
            )
            row = await cursor.fetchone()
            assert row is not None  # noqa: S101 - a SELECT without FROM always has its row
            hourly_to, daily_to = row
            cursor = await conn.execute(
                "DELETE FROM rollup_dirty WHERE ctid = ANY(ARRAY(SELECT ctid FROM rollup_dirty"
                " WHERE hour < %s ORDER BY hour, subscription_id LIMIT %s FOR UPDATE SKIP LOCKED))"
                " RETURNING hour, subscription_id",
                (hourly_to, REDO_BATCH),
            )
            marks = await cursor.fetchall()
            if not marks:
                return total
            where: dict[str, Any] = {
                "hours": [hour for hour, _ in marks],
                "ids": [subscription_id for _, subscription_id in marks],
            }
            for rollup, rolled_to in ((_HOURLY, hourly_to), (_DAILY, daily_to)):
                await conn.execute(
                    rollup.query(_REDONE),
                    {**where, "width": rollup.width, "rolled_to": rolled_to},
                )
            total += len(marks)


async def _prepare(conn: Connection) -> None:
    await conn.execute(f"SET LOCAL work_mem = '{WORK_MEM}'".encode())
