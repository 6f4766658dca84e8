"""Reading uptime, coverage and latencies by the hour and the day.

`hourly_metrics` and `daily_metrics` read the same on every edition and at any moment: what is not
rolled up yet is counted live, and slots inside gap records are missed ones. Buckets are UTC's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import sql
from psycopg.rows import args_row

from lighthouse.store.migrate import HOURLY_FLOOR_DAYS
from lighthouse.store.pool import Pool, translated

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Metric(NamedTuple):
    """One bucket of one subscription. Counts are of due slots, latencies in ms of judged checks.

    A tuple, for a month by the hour is 720 of them: frozen dataclasses took a third of the query.
    """

    bucket: datetime  #: start of the hour or day, UTC
    subscription_id: UUID
    total_checks: int  #: due slots, those inside gap records included
    successful_checks: int
    uptime_ratio: float | None  #: None where nothing was judged
    coverage_ratio: float | None
    avg_latency_ms: float | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    min_latency_ms: float | None
    max_latency_ms: float | None
    failures: int
    timeouts: int
    errors: int
    missed: int
    alerts_triggered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptime:
    """Sums over a span, and their ratios."""

    due: int
    judged: int
    success: int

    @property
    def uptime_ratio(self) -> float | None:
        """Judged up ÷ judged; None where nothing was judged."""
        return self.success / self.judged if self.judged else None

    @property
    def coverage_ratio(self) -> float | None:
        """Judged ÷ due; None where nothing was due."""
        return self.judged / self.due if self.due else None


def hour_of(moment: datetime) -> datetime:
    """The UTC hour that a moment lies in."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def day_of(moment: datetime) -> datetime:
    """The UTC day that a moment lies in."""
    return hour_of(moment).replace(hour=0)


_METRICS = """
SELECT {bucket} AS bucket, {columns}
FROM {metrics} WHERE subscription_id = %s AND {bucket} > %s AND {bucket} <= %s
ORDER BY {bucket} DESC
"""


async def hourly_metrics(
    pool: Pool, subscription_id: UUID, hours: int, now: datetime | None = None
) -> list[Metric]:
    """The hours of a subscription that something was due in, newest first: this one and those
    before it, `hours` in all. `now` is this process' clock unless given. Raises StoreError."""
    until = hour_of(now or datetime.now(UTC))
    return await _metrics(pool, "hourly", "hour", subscription_id, until - hours * HOUR, until)


async def daily_metrics(
    pool: Pool, subscription_id: UUID, days: int, now: datetime | None = None
) -> list[Metric]:
    """As `hourly_metrics`, by UTC days; today so far is the first."""
    until = day_of(now or datetime.now(UTC))
    return await _metrics(pool, "daily", "day", subscription_id, until - days * DAY, until)


async def _metrics(
    pool: Pool, rollup: str, bucket: str, subscription_id: UUID, after: datetime, until: datetime
) -> list[Metric]:
    def made(start: datetime, *rest: Any) -> Metric:
        return Metric(start, subscription_id, *rest)

    query = sql.SQL(_METRICS).format(
        bucket=sql.Identifier(bucket),
        columns=sql.SQL(", ").join(map(sql.Identifier, Metric._fields[2:])),
        metrics=sql.Identifier(f"{rollup}_metrics"),
    )
    with translated():
        async with (
            pool.connection() as conn,
            conn.cursor(row_factory=args_row(made), binary=True) as cursor,
        ):
            await cursor.execute(query, (subscription_id, after, until))
            return await cursor.fetchall()


_SUMS = """
coalesce(sum(total_checks), 0)::bigint,
coalesce(sum(successful_checks + failures + timeouts), 0)::bigint,
coalesce(sum(successful_checks), 0)::bigint
"""

#: Whole days from the daily rollup, and the part of the first day from the hourly one.
_UPTIME = f"""
SELECT {_SUMS} FROM (
    SELECT total_checks, successful_checks, failures, timeouts FROM hourly_metrics
    WHERE subscription_id = %(id)s AND hour >= %(start)s AND hour < %(midnight)s
    UNION ALL
    SELECT total_checks, successful_checks, failures, timeouts FROM daily_metrics
    WHERE subscription_id = %(id)s AND day >= %(midnight)s AND day <= %(now)s
) AS spans
"""  # noqa: S608 - constants of this program


async def uptime(
    pool: Pool, subscription_id: UUID, days: int, now: datetime | None = None
) -> Uptime:
    """The last `days` times 24 hours, from a full hour on; sums are divided, ratios never averaged.

    Beyond what hourly rollups are kept for, the span begins with its first UTC day.
    """
    moment = now or datetime.now(UTC)
    start = hour_of(moment) - days * DAY
    if days >= HOURLY_FLOOR_DAYS:
        start = day_of(start)
    midnight = day_of(start)
    if midnight < start:
        midnight += DAY
    with translated():
        async with pool.connection() as conn:
            cursor = await conn.execute(
                _UPTIME,
                {"id": subscription_id, "start": start, "midnight": midnight, "now": moment},
            )
            row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - an aggregate always has its row
    return Uptime(due=row[0], judged=row[1], success=row[2])


_SUMMARIES = f"""
SELECT subscription_id, {_SUMS} FROM hourly_metrics
WHERE subscription_id = ANY(%s) AND hour > %s AND hour <= %s GROUP BY subscription_id
"""  # noqa: S608 - constants of this program


async def summaries(
    pool: Pool, subscription_ids: Sequence[UUID], hours: int = 24, now: datetime | None = None
) -> dict[UUID, Uptime]:
    """Uptime and coverage of many subscriptions over this hour and those before it, `hours` in
    all, in one query; every id has its entry."""
    until = hour_of(now or datetime.now(UTC))
    found = dict.fromkeys(subscription_ids, Uptime(due=0, judged=0, success=0))
    with translated():
        async with pool.connection() as conn:
            cursor = await conn.execute(
                _SUMMARIES, (list(subscription_ids), until - hours * HOUR, until)
            )
            for subscription_id, due, judged, success in await cursor.fetchall():
                found[subscription_id] = Uptime(due=due, judged=judged, success=success)
    return found
