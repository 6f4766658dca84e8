"""Hourly and daily metrics: right at any moment, whatever came late, on every edition."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from lighthouse.model import CheckStatus, to_slot
from lighthouse.store import migrate, rollups
from lighthouse.store.edition import Edition
from lighthouse.store.metrics import (
    Metric,
    Uptime,
    daily_metrics,
    day_of,
    hour_of,
    hourly_metrics,
    summaries,
    uptime,
)
from lighthouse.store.pool import Connection, Pool, open_pool
from lighthouse.store.record import record
from lighthouse.store.status import status as status_of
from tests.support.history import (
    DAY,
    DOWN,
    ERROR,
    HOUR,
    MINUTE,
    MISSED,
    TIMEOUT,
    UP,
    edition_of,
    insert_raw,
    now,
    percentile,
    result,
    retain,
    run_policies,
    scattered,
    settle,
    settle_all,
)

JUDGED = (UP, DOWN, TIMEOUT)


async def fetch(pool: Pool, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(query.encode(), arguments)
        return await cursor.fetchall()


async def execute(pool: Pool, query: str, *arguments: Any) -> None:
    async with pool.connection() as connection:
        await connection.execute(query.encode(), arguments)


async def raw_rows(
    pool: Pool,
) -> list[tuple[UUID, datetime, CheckStatus, float | None, bool]]:
    return [
        (subscription_id, time, CheckStatus(status), latency, triggered)
        for subscription_id, time, status, latency, triggered in await fetch(
            pool,
            "SELECT subscription_id, time, status::text, latency_ms, alert_triggered"
            " FROM check_history",
        )
    ]


def expected(
    rows: Iterable[tuple[UUID, datetime, CheckStatus, float | None, bool]], width: timedelta
) -> dict[tuple[UUID, datetime], dict[str, Any]]:
    """What the metrics must be, counted by hand from the raw rows."""
    buckets: dict[tuple[UUID, datetime], list[tuple[CheckStatus, float | None, bool]]] = {}
    for subscription_id, time, status, latency, triggered in rows:
        bucket = hour_of(time) if width == HOUR else day_of(time)
        buckets.setdefault((subscription_id, bucket), []).append((status, latency, triggered))
    return {key: _counted(found) for key, found in buckets.items()}


def _counted(rows: Sequence[tuple[CheckStatus, float | None, bool]]) -> dict[str, Any]:
    count = {status: sum(1 for s, _, _ in rows if s is status) for status in CheckStatus}
    judged = sum(count[status] for status in JUDGED)
    latencies = [ms for status, ms, _ in rows if status in JUDGED and ms is not None]
    return {
        "total_checks": len(rows),
        "successful_checks": count[UP],
        "failures": count[DOWN],
        "timeouts": count[TIMEOUT],
        "errors": count[ERROR],
        "missed": count[MISSED],
        "alerts_triggered": sum(1 for _, _, triggered in rows if triggered),
        "uptime_ratio": count[UP] / judged if judged else None,
        "coverage_ratio": judged / len(rows),
        "avg_latency_ms": sum(latencies) / len(latencies) if latencies else None,
        "p50_latency_ms": percentile(latencies, 0.5),
        "p95_latency_ms": percentile(latencies, 0.95),
        "p99_latency_ms": percentile(latencies, 0.99),
        "min_latency_ms": min(latencies, default=None),
        "max_latency_ms": max(latencies, default=None),
    }


async def shown(pool: Pool, view: str, bucket: str) -> dict[tuple[UUID, datetime], dict[str, Any]]:
    names = [name for name in Metric._fields if name not in ("bucket",)]
    rows = await fetch(pool, f"SELECT {bucket}, {', '.join(names)} FROM {view}")
    found = {}
    for moment, subscription_id, *values in rows:
        key = (subscription_id, moment)
        assert key not in found, "a bucket is one row"
        found[key] = dict(zip(names[1:], values, strict=True))
    return found


async def assert_exact(pool: Pool) -> None:
    """The metrics say what the raw rows say."""
    rows = await raw_rows(pool)
    for view, bucket, width in (("hourly_metrics", "hour", HOUR), ("daily_metrics", "day", DAY)):
        found, wanted = await shown(pool, view, bucket), expected(rows, width)
        assert found.keys() == wanted.keys()
        for key, values in wanted.items():
            assert found[key] == {
                name: value if not isinstance(value, float) else pytest.approx(value, rel=1e-4)
                for name, value in values.items()
            }, (view, key)


async def one_hour(pool: Pool, subscription_id: UUID, hour: datetime) -> Metric:
    (found,) = await hourly_metrics(pool, subscription_id, 1, now=hour)
    return found


async def test_an_hour_tells_what_was_judged_and_what_was_not(pool: Pool) -> None:
    target, hour = uuid4(), hour_of(now()) - 30 * HOUR
    statuses = [UP] * 6 + [DOWN] * 2 + [TIMEOUT] + [ERROR] * 2 + [MISSED]
    latencies: list[float | None] = [10, 20, 30, 40, 50, 60, 70, 80, 90, 5000, 6000, None]
    async with pool.connection() as connection:
        await insert_raw(
            connection,
            (
                (target, hour + index * MINUTE, status, latency)
                for index, (status, latency) in enumerate(zip(statuses, latencies, strict=True))
            ),
        )
    wanted = Metric(
        bucket=hour,
        subscription_id=target,
        total_checks=12,
        successful_checks=6,
        uptime_ratio=pytest.approx(6 / 9),
        coverage_ratio=pytest.approx(9 / 12),
        avg_latency_ms=pytest.approx(50),
        p50_latency_ms=pytest.approx(50),
        p95_latency_ms=pytest.approx(86),
        p99_latency_ms=pytest.approx(89.2),
        min_latency_ms=10,
        max_latency_ms=90,
        failures=2,
        timeouts=1,
        errors=2,
        missed=1,
        alerts_triggered=0,
    )
    assert await one_hour(pool, target, hour) == wanted
    await settle(pool)
    assert await one_hour(pool, target, hour) == wanted


async def test_where_nothing_was_judged_ratios_are_unknown_not_nought(pool: Pool) -> None:
    target, hour = uuid4(), hour_of(now()) - 3 * HOUR
    async with pool.connection() as connection:
        await insert_raw(
            connection, [(target, hour, ERROR, 5.0), (target, hour + MINUTE, MISSED, None)]
        )
    found = await one_hour(pool, target, hour)
    assert (found.uptime_ratio, found.coverage_ratio) == (None, 0)
    assert (found.avg_latency_ms, found.p50_latency_ms, found.max_latency_ms) == (None, None, None)
    over = await uptime(pool, target, 1)
    assert (over.due, over.judged, over.uptime_ratio, over.coverage_ratio) == (2, 0, None, 0.0)
    nothing = await uptime(pool, uuid4(), 30)
    assert (nothing.due, nothing.uptime_ratio, nothing.coverage_ratio) == (0, None, None)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_metrics_are_exact_at_any_moment_however_late_results_come(
    pool: Pool, seed: int
) -> None:
    """Results of a week in no order, the task running in between at a clock that goes on."""
    end = now()
    start = end - timedelta(days=6, hours=20)
    results = scattered(seed, 4, start, end, 1500)
    parts = [results[index::5] for index in range(5)]
    for number, part in enumerate(parts):
        stored = await record(pool, part)
        assert (stored.stored, stored.refused) == (len(part), 0)
        if await edition_of(pool) is Edition.COMMUNITY:
            # A continuous aggregate tells late rows after its next refresh.
            await settle(pool)
        await assert_exact_after(pool, start + (number + 1) * (end - start) / 5)
    await settle(pool)
    await assert_exact(pool)


async def assert_exact_after(pool: Pool, at: datetime) -> None:
    await settle(pool, at=at)
    await assert_exact(pool)
    await settle(pool, at=at)
    await assert_exact(pool)


async def test_a_late_result_changes_its_closed_hour_and_day(pool: Pool) -> None:
    target = uuid4()
    hour = day_of(now()) - 3 * DAY + 5 * HOUR
    await record(pool, [result(target, hour + n * MINUTE, UP, 100) for n in range(10)])
    await settle(pool)
    await record(pool, [result(target, hour + 30 * MINUTE, DOWN, 900)])
    await settle(pool)
    found = await one_hour(pool, target, hour)
    assert (found.total_checks, found.failures, found.max_latency_ms) == (11, 1, 900)
    (day,) = [m for m in await daily_metrics(pool, target, 5) if m.bucket == day_of(hour)]
    assert (day.total_checks, day.failures) == (11, 1)
    assert day.uptime_ratio == pytest.approx(10 / 11)


async def test_a_real_result_takes_the_place_of_missed_in_closed_buckets(pool: Pool) -> None:
    target, hour = uuid4(), hour_of(now()) - 5 * HOUR
    async with pool.connection() as connection:
        await insert_raw(connection, [(target, hour, MISSED, None)])
    await settle(pool)
    assert (await one_hour(pool, target, hour)).coverage_ratio == 0
    await record(pool, [result(target, hour, UP, 10)])
    await settle(pool)
    found = await one_hour(pool, target, hour)
    assert (found.total_checks, found.missed, found.coverage_ratio) == (1, 0, 1)


async def test_slots_inside_a_gap_record_count_as_missed(pool: Pool) -> None:
    target = uuid4()
    # 90-second slots from half past one hour to a quarter past the hour after the next: the first
    # hour has rows as well, the middle one has nothing else, and the gap crosses midnight.
    midnight = day_of(now()) - 2 * DAY
    first = midnight - 90 * MINUTE
    slots = 71
    async with pool.connection() as connection:
        await insert_raw(connection, [(target, first - n * MINUTE, UP, 10.0) for n in range(1, 11)])
        await connection.execute(
            "INSERT INTO history_gaps VALUES (%s, %s, %s, %s, %s)",
            (target, to_slot(first), to_slot(first) + (slots - 1) * 90_000, 90_000, slots),
        )
    for _ in range(2):
        hours = await hourly_metrics(pool, target, 5, now=midnight + HOUR)
        assert [(m.bucket, m.total_checks, m.missed, m.coverage_ratio) for m in hours] == [
            # 20 slots in half an hour, 40 in a full one, and 11 after midnight.
            (midnight, 11, 11, 0),
            (midnight - HOUR, 40, 40, 0),
            (midnight - 2 * HOUR, 30, 20, pytest.approx(10 / 30)),
        ]
        assert hours[-1].uptime_ratio == 1
        assert hours[-1].p50_latency_ms == 10
        assert hours[0].uptime_ratio is None
        days = await daily_metrics(pool, target, 2, now=midnight)
        assert [(m.bucket, m.total_checks, m.missed) for m in days] == [
            (midnight, 11, 11),
            (midnight - DAY, 70, 60),
        ]
        total = await uptime(pool, target, 7)
        assert total == Uptime(due=81, judged=10, success=10)
        await settle(pool)


@pytest.mark.parametrize(
    ("interval_ms", "offset_ms", "slots"),
    [(10_000, 0, 361), (3_600_000, 1, 3), (7_000_000, 3_599_999, 5), (86_400_000, 0, 3)],
)
async def test_every_slot_of_a_gap_is_in_exactly_one_bucket(
    pool: Pool, interval_ms: int, offset_ms: int, slots: int
) -> None:
    target = uuid4()
    first = to_slot(day_of(now()) - 20 * DAY) + offset_ms
    await execute(
        pool,
        "INSERT INTO history_gaps VALUES (%s, %s, %s, %s, %s)",
        *(target, first, first + (slots - 1) * interval_ms, interval_ms, slots),
    )
    all_slots = [first + n * interval_ms for n in range(slots)]
    for view, bucket, width in (("hourly", "hour", 3_600_000), ("daily", "day", 86_400_000)):
        rows = await fetch(
            pool,
            f"SELECT (extract(epoch FROM {bucket}) * 1000)::bigint, missed FROM {view}_metrics"
            " WHERE subscription_id = %s ORDER BY 1",
            target,
        )
        wanted: dict[int, int] = {}
        for slot in all_slots:
            wanted[slot - slot % width] = wanted.get(slot - slot % width, 0) + 1
        assert dict(rows) == wanted


async def test_days_are_utc_whatever_the_sessions_time_zone(pool: Pool, migrated_url: str) -> None:
    target = uuid4()
    midnight = day_of(now()) - 2 * DAY
    async with pool.connection() as connection:
        await insert_raw(
            connection, [(target, midnight - MINUTE, UP, 1.0), (target, midnight, DOWN, 1.0)]
        )
        for _ in range(2):
            await connection.execute("SET timezone TO 'Asia/Kathmandu'")
            cursor = await connection.execute(
                "SELECT day, successful_checks, failures FROM daily_metrics"
                " WHERE subscription_id = %s ORDER BY day",
                (target,),
            )
            found = await cursor.fetchall()
            await connection.execute("SET timezone TO 'UTC'")
            assert [(day.astimezone(UTC), up, down) for day, up, down in found] == [
                (midnight - DAY, 1, 0),
                (midnight, 0, 1),
            ]
            await settle(pool)


async def test_uptime_weighs_by_checks_and_begins_at_its_hour(pool: Pool) -> None:
    target = uuid4()
    moment = day_of(now()) - DAY + 10 * HOUR
    begin = moment - 2 * DAY
    async with pool.connection() as connection:
        await insert_raw(
            connection,
            [
                # Outside: an hour too early.
                (target, begin - MINUTE, DOWN, None),
                # A day with one failed check beside a day with a hundred good ones.
                (target, begin, DOWN, None),
                *((target, begin + DAY + n * MINUTE, UP, None) for n in range(99)),
                (target, moment - MINUTE, ERROR, None),
            ],
        )
    for _ in range(2):
        found = await uptime(pool, target, 2, now=moment)
        assert found == Uptime(due=101, judged=100, success=99)
        assert found.uptime_ratio == pytest.approx(0.99)
        assert found.coverage_ratio == pytest.approx(100 / 101)
        await settle(pool)


async def test_summaries_have_an_entry_for_every_target(pool: Pool) -> None:
    one, two, silent = uuid4(), uuid4(), uuid4()
    hour = hour_of(now())
    async with pool.connection() as connection:
        await insert_raw(
            connection,
            [
                (one, hour - 2 * HOUR, UP, 1.0),
                (one, hour - HOUR, DOWN, 1.0),
                (one, hour - 30 * HOUR, DOWN, 1.0),
                (two, hour, ERROR, None),
            ],
        )
    for _ in range(2):
        assert await summaries(pool, [one, two, silent]) == {
            one: Uptime(due=2, judged=2, success=1),
            two: Uptime(due=1, judged=0, success=0),
            silent: Uptime(due=0, judged=0, success=0),
        }
        await settle(pool)
    assert (await summaries(pool, [one], hours=40))[one].due == 3
    assert await summaries(pool, []) == {}


async def test_lists_are_bounded_and_newest_first(pool: Pool) -> None:
    target, hour = uuid4(), hour_of(now()) - 10 * HOUR
    async with pool.connection() as connection:
        await insert_raw(connection, ((target, hour + n * HOUR, UP, 1.0) for n in range(6)))
    found = await hourly_metrics(pool, target, 3, now=hour + 4 * HOUR + MINUTE)
    assert [m.bucket for m in found] == [hour + 4 * HOUR, hour + 3 * HOUR, hour + 2 * HOUR]


async def test_rollups_outlive_their_raw_rows(pool: Pool, migrated_url: str) -> None:
    target, day = uuid4(), day_of(now()) - 20 * DAY
    async with pool.connection() as connection:
        if await edition_of(pool) is Edition.PLAIN:
            await connection.execute(
                "SELECT lighthouse_ensure_partitions(%s, %s)", (day.date(), day.date())
            )
        await insert_raw(
            connection, ((target, day + n * HOUR, UP if n else DOWN, 10.0) for n in range(24))
        )
    await settle_all(pool)
    before = await hourly_metrics(pool, target, 24, now=day + 23 * HOUR)
    (of_day,) = await daily_metrics(pool, target, 1, now=day)
    await retain(pool, migrated_url, 10)
    assert await fetch(pool, "SELECT 1 FROM check_history") == []
    for _ in range(2):
        assert len(before) == 24
        assert await hourly_metrics(pool, target, 24, now=day + 23 * HOUR) == before
        assert await daily_metrics(pool, target, 1, now=day) == [of_day]
        # A mark that comes after its rows have gone must erase nothing.
        await execute(pool, "INSERT INTO rollup_dirty VALUES (%s, %s)", day + 5 * HOUR, target)
        await settle(pool)
        await execute(pool, "DELETE FROM rollup_dirty")
    assert await uptime(pool, target, 30) == Uptime(due=24, judged=24, success=23)


async def test_rollups_that_are_compressed_read_the_same_and_late_results_still_count(
    pool: Pool, migrated_url: str
) -> None:
    target, day = uuid4(), day_of(now()) - 40 * DAY
    async with pool.connection() as connection:
        if await edition_of(pool) is Edition.PLAIN:
            await connection.execute(
                "SELECT lighthouse_ensure_partitions(%s, %s)", (day.date(), now().date())
            )
        await insert_raw(
            connection,
            ((target, day + n * 5 * HOUR, UP if n % 3 else DOWN, 10.0 + n) for n in range(190)),
        )
    await settle_all(pool)
    before = [await hourly_metrics(pool, target, 45 * 24), await daily_metrics(pool, target, 45)]
    if await edition_of(pool) is Edition.COMMUNITY:
        await run_policies(pool, "policy_compression")
        tables = {table.name: table for table in (await status_of(migrated_url)).tables}
        assert (tables["hourly_checks"].compressed_parts or 0) >= 2
        assert (tables["daily_checks"].compressed_parts or 0) >= 2
    for _ in range(2):
        assert [
            await hourly_metrics(pool, target, 45 * 24),
            await daily_metrics(pool, target, 45),
        ] == before
        await asyncio.to_thread(migrate.downgrade, migrated_url, "0005")
    await asyncio.to_thread(migrate.upgrade, migrated_url)
    await record(pool, [result(target, now() - 6 * DAY, DOWN, 5000.0)])
    await settle(pool)
    await assert_exact(pool)


# --- the task's own protocol: where TimescaleDB keeps the rollups there is no task ---------------

#: What the task does with a closed hour of three rows and a late one.
DONE = {
    Edition.COMMUNITY: (rollups.Rolled(), rollups.Rolled()),
    Edition.APACHE: (rollups.Rolled(hours=6, days=1), rollups.Rolled(redone=1)),
    Edition.PLAIN: (rollups.Rolled(hours=6, days=1), rollups.Rolled(redone=1)),
}


async def test_the_task_computes_what_is_new_and_what_is_dirty_and_nothing_twice(
    pool: Pool,
) -> None:
    target, day = uuid4(), day_of(now()) - 2 * DAY
    first, second = DONE[await edition_of(pool)]
    await record(pool, [result(target, day + n * MINUTE) for n in range(3)])
    close = day + DAY + rollups.CLOSE_AFTER
    # Six hours in one step, then silence to the end.
    assert await rollups.run(pool, now=close) == first
    assert await rollups.run(pool, now=close) == rollups.Rolled()
    await record(pool, [result(target, day + 10 * MINUTE, DOWN)])
    assert await rollups.run(pool, now=close) == second
    assert await rollups.run(pool, now=close) == rollups.Rolled()
    # A clock that went back opens nothing again.
    assert await rollups.run(pool, now=day) == rollups.Rolled()


async def writer(connection: Connection, target: UUID, time: datetime) -> datetime:
    """The writers' half of the protocol, up to before their commit; what they read."""
    await connection.execute("BEGIN")
    await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (rollups.ROLLUP_LOCK,))
    cursor = await connection.execute("SELECT open_from FROM rollup_state WHERE rollup = 'hourly'")
    row = await cursor.fetchone()
    assert row is not None
    await insert_raw(connection, [(target, time, UP, 1.0)])
    open_from: datetime = row[0]
    if time < open_from:
        await connection.execute(
            "INSERT INTO rollup_dirty VALUES (date_bin('1 hour', %s, '2000-01-01 00:00:00+00'), %s)"
            " ON CONFLICT (hour, subscription_id) DO UPDATE SET hour = excluded.hour",
            (time, target),
        )
    return open_from


async def test_an_hour_does_not_close_under_a_writers_hands(pool: Pool, migrated_url: str) -> None:
    target, hour = uuid4(), hour_of(now()) - 6 * HOUR
    close = hour + HOUR + rollups.CLOSE_AFTER
    async with open_pool(migrated_url) as other, other.connection() as connection:
        await writer(connection, target, hour + MINUTE)
        running = asyncio.create_task(rollups.run(pool, now=close))
        await asyncio.sleep(0.5)
        await connection.execute("COMMIT")
        await running
    await settle(pool, at=close)
    assert (await one_hour(pool, target, hour)).total_checks == 1
    await assert_exact(pool)


async def test_a_writer_that_never_ends_stops_only_the_closing(
    pool: Pool, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "LOCK_TIMEOUT", "200ms")
    target, hour = uuid4(), hour_of(now()) - 6 * HOUR
    close = hour + HOUR + rollups.CLOSE_AFTER
    async with open_pool(migrated_url) as other, other.connection() as connection:
        await writer(connection, target, hour + MINUTE)
        assert await rollups.run(pool, now=close) == rollups.Rolled()
        assert await fetch(pool, "SELECT DISTINCT rolled_to > 'epoch' FROM rollup_state") == [
            (False,)
        ]
        await connection.execute("COMMIT")
    await settle(pool, at=close)
    await assert_exact(pool)


async def test_a_mark_is_not_taken_before_its_row_can_be_seen(
    pool: Pool, migrated_url: str
) -> None:
    """Two late rows of one hour: the second writer finds the first one's mark, and holds it."""
    target, hour = uuid4(), hour_of(now()) - 6 * HOUR
    close = hour + HOUR + rollups.CLOSE_AFTER
    await record(pool, [result(target, hour)])
    await settle(pool, at=close)
    await record(pool, [result(target, hour + MINUTE)])
    async with open_pool(migrated_url) as other, other.connection() as connection:
        await writer(connection, target, hour + 2 * MINUTE)
        assert (await rollups.run(pool, now=close)).redone == 0
        await connection.execute("COMMIT")
    await settle(pool, at=close)
    assert (await one_hour(pool, target, hour)).total_checks == 3
    assert await fetch(pool, "SELECT * FROM rollup_dirty") == []
    await assert_exact(pool)


async def test_runs_at_once_are_harmless(pool: Pool) -> None:
    end = now()
    results = scattered(7, 5, end - 2 * DAY, end, 600)
    await record(pool, results[:500])
    await asyncio.gather(*(rollups.run(pool) for _ in range(3)))
    await record(pool, results[500:])
    await asyncio.gather(*(rollups.run(pool) for _ in range(3)))
    await settle(pool)
    await assert_exact(pool)


async def test_recorders_and_the_task_at_once_lose_nothing(pool: Pool) -> None:
    end = now()
    start = end - 2 * DAY
    results = scattered(11, 6, start, end, 2000)
    batches = [results[index::40] for index in range(40)]

    async def write(mine: Sequence[list[Any]]) -> None:
        for batch in mine:
            await record(pool, batch)

    async def roll() -> None:
        for step in range(20):
            await rollups.run(pool, now=start + (step + 1) * (end - start) / 20)

    await asyncio.gather(write(batches[:20]), write(batches[20:]), roll())
    await settle(pool)
    assert len(await raw_rows(pool)) == len(results)
    await assert_exact(pool)


async def test_old_partitions_and_chunks_are_left_out_by_the_planner(pool: Pool) -> None:
    """A month of raw rows costs the newest hour's metrics nothing."""
    target, end = uuid4(), day_of(now())
    async with pool.connection() as connection:
        if await edition_of(pool) is Edition.PLAIN:
            await connection.execute(
                "SELECT lighthouse_ensure_partitions(%s, %s)",
                ((end - 30 * DAY).date(), end.date()),
            )
        await insert_raw(connection, ((target, end - n * DAY, UP, 1.0) for n in range(30)))
    await settle_all(pool)
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "EXPLAIN SELECT * FROM hourly_metrics WHERE subscription_id = %s AND hour > %s",
            (target, end - 30 * DAY),
        )
        plan = "\n".join(line for (line,) in await cursor.fetchall())
    days = set(re.findall(r"\bcheck_history_(\d{8})\b", plan))
    assert all(day >= f"{end - DAY:%Y%m%d}" for day in days)
    # Chunks of the raw rows, and on `community` those of a month's hours.
    assert len(set(re.findall(r"\b_hyper_\d+_\d+_chunk\b", plan))) <= 8
    assert days or "_chunk" in plan
