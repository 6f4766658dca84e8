"""Hourly metrics of one subscription for 30 days, out of the history of many.

    python -m tests.bench.metrics --subscriptions 10000 --queries 1000

Rollups of 30 days are made by SQL, in the order in which the hours would have come (so that the
rows of one subscription lie far apart), and raw rows for the hour that is still open. On
`community` the rollups come of one raw row an hour, and the policy compresses those it would have.
LIGHTHOUSE_TEST_DATABASE_URL names a server to repeat it on.
"""

import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

from lighthouse.store.edition import Edition
from lighthouse.store.metrics import DAY, HOUR, day_of, hour_of, hourly_metrics
from lighthouse.store.pool import Connection, Pool, open_pool
from tests.bench import databases, figures
from tests.bench.figures import Figure, percentile
from tests.support.history import edition_of

DAYS = 30
BUDGET_MS = 10.0
#: Queries before those that count: the first ones plan.
WARM_UP = 20

_IDS = """
CREATE TABLE bench_ids AS SELECT gen_random_uuid() AS id FROM generate_series(1, %s) ORDER BY 1
"""

_ROLLUPS = """
INSERT INTO hourly_rollups (subscription_id, hour, total_checks, successful_checks, failures,
    timeouts, errors, missed, alerts_triggered, latency_count, latency_sum, p50_latency_ms,
    p95_latency_ms, p99_latency_ms, min_latency_ms, max_latency_ms)
SELECT id, hour, 60, 59, 1, 0, 0, 0, 0, 60, 6000 * random(), 100 * random(), 150, 180, 20, 200
  FROM generate_series(%s::timestamptz, %s::timestamptz, '1 hour') AS hour CROSS JOIN bench_ids
 ORDER BY hour, id
"""

_RAW = """
INSERT INTO check_history (subscription_id, time, status, latency_ms, tcp_ms, ttfb_ms, delay_ms,
    http_status, http_version)
SELECT id, time + random() * %s::interval, 'success', 100 * random(), 20, 60, 50, 200, 11
  FROM generate_series(%s::timestamptz, %s::timestamptz, %s) AS time CROSS JOIN bench_ids
 ORDER BY time
"""

_HOURS = b"""
SELECT pg_total_relation_size('hourly_rollups')::float8 / count(*) FROM hourly_rollups
"""

_COMPRESSED_HOURS = b"""
WITH chunks AS (
    SELECT range_start, range_end, format('%I.%I', chunk_schema, chunk_name)::regclass AS chunk
      FROM timescaledb_information.chunks AS c
      JOIN timescaledb_information.continuous_aggregates AS a
        ON (c.hypertable_schema, c.hypertable_name)
           = (a.materialization_hypertable_schema, a.materialization_hypertable_name)
     WHERE a.view_name = 'hourly_checks' AND c.is_compressed
)
SELECT (SELECT sum(total_bytes) FROM chunks AS c
         JOIN LATERAL chunks_detailed_size('hourly_checks') AS d
           ON format('%I.%I', d.chunk_schema, d.chunk_name)::regclass = c.chunk)::float8
       / (SELECT count(*) FROM chunks AS c JOIN hourly_checks AS h
            ON h.hour >= c.range_start AND h.hour < c.range_end)
"""


def measure(*, subscriptions: int, queries: int) -> list[Figure]:
    """Time and room of each database at hand."""
    return [
        figure
        for url in databases.each()
        for figure in asyncio.run(_measure(url, subscriptions, queries))
    ]


async def _measure(url: str, subscriptions: int, queries: int) -> list[Figure]:
    async with open_pool(url, minimum=1, maximum=1) as pool:
        edition = await edition_of(pool)
        began = time.monotonic()
        ids = await _fill(pool, edition, subscriptions)
        filled_s = time.monotonic() - began
        chance = random.Random(1)
        for _ in range(WARM_UP):
            await hourly_metrics(pool, chance.choice(ids), DAYS * 24)
        took: list[float] = []
        cpu_s = time.process_time()
        for _ in range(queries):
            chosen = chance.choice(ids)
            began = time.perf_counter()
            found = await hourly_metrics(pool, chosen, DAYS * 24)
            took.append((time.perf_counter() - began) * 1000)
            assert len(found) >= DAYS * 24 - 1, len(found)
        cpu_s = time.process_time() - cpu_s
        hour_bytes = await _hour_bytes(pool, edition)
    taken = Figure(
        key=f"hourly_metrics_p99_{edition.value}",
        figure=f"hourly metrics of 30 days, {edition.value}, p99",
        value=percentile(took, 0.99),
        unit="ms",
        at_most=BUDGET_MS,
        note=f"p50 {percentile(took, 0.5):.1f} ms, {cpu_s * 1000 / queries:.1f} ms of them our own"
        f" CPU time; of {subscriptions:,} subscriptions"
        f" (made in {filled_s:.0f} s)",
    )
    room = Figure(
        key=f"hour_bytes_{edition.value}",
        figure=f"bytes of a subscription's hour in the rollups, {edition.value}",
        value=hour_bytes,
        unit="bytes",
        note="once compressed" if edition is Edition.COMMUNITY else "with their key",
    )
    return [taken, room]


async def _hour_bytes(pool: Pool, edition: Edition) -> float:
    """With indexes; on `community` of what is compressed, for most of a year's hours will be."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            _COMPRESSED_HOURS if edition is Edition.COMMUNITY else _HOURS
        )
        row = await cursor.fetchone()
    assert row is not None
    return float(row[0])


async def _fill(pool: Pool, edition: Edition, subscriptions: int) -> list[UUID]:
    now = datetime.now(UTC)
    open_from = hour_of(now - timedelta(minutes=5))
    first = open_from - DAYS * DAY
    async with pool.connection() as connection:
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(_IDS, (subscriptions,))
        day = first
        while day < open_from:
            last = min(day + DAY, open_from) - HOUR
            if edition is Edition.COMMUNITY:
                await connection.execute(_RAW, (timedelta(minutes=59), day, last, HOUR))
            else:
                await connection.execute(_ROLLUPS, (day, last))
            day += DAY
        minute = timedelta(minutes=1)
        await connection.execute(_RAW, (timedelta(seconds=59), open_from, now - minute, minute))
        await _close(connection, edition, open_from)
        cursor = await connection.execute("SELECT id FROM bench_ids")
        return [row[0] for row in await cursor.fetchall()]


async def _close(connection: Connection, edition: Edition, open_from: datetime) -> None:
    """Let the rollups be up to date, as the maintenance task or the policies would have them."""
    if edition is Edition.COMMUNITY:
        await connection.execute(
            "CALL refresh_continuous_aggregate('hourly_checks', NULL, %s::timestamptz)",
            (open_from,),
        )
        cursor = await connection.execute(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression'"
            " AND hypertable_name = 'hourly_checks'"
        )
        for (job,) in await cursor.fetchall():
            await connection.execute("CALL run_job(%s)", (job,))
    else:
        for rollup, until in (("hourly", open_from), ("daily", day_of(open_from))):
            await connection.execute(
                "UPDATE rollup_state SET open_from = %s, rolled_to = %s WHERE rollup = %s",
                (until, until, rollup),
            )
            await connection.execute("SELECT lighthouse_read_live_from(%s, 'infinity')", (rollup,))
        await connection.execute("VACUUM ANALYZE hourly_rollups")
    await connection.execute("ANALYZE check_history")
    await connection.execute("CHECKPOINT")


if __name__ == "__main__":
    figures.run(__doc__, measure, subscriptions=10_000, queries=1000)
