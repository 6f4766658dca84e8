"""Partitions, retention and expiry: what upkeep does on each edition, and what it must not."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from lighthouse.model import SubscriptionStatus
from lighthouse.store import catalog, metrics, migrate, upkeep
from lighthouse.store.edition import Edition
from lighthouse.store.pool import Pool, open_pool
from lighthouse.store.record import record
from lighthouse.store.upkeep import Upkeep
from tests.support.history import (
    DAY,
    HOUR,
    UP,
    edition_of,
    insert_raw,
    now,
    result,
    retain,
    settle_all,
)


async def fetch(pool: Pool, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(query.encode(), arguments)
        return await cursor.fetchall()


async def execute(pool: Pool, query: str, *arguments: Any) -> None:
    async with pool.connection() as connection:
        await connection.execute(query.encode(), arguments)


async def rows_of_days(pool: Pool, target: UUID, *ages: int) -> None:
    """A row at noon of each day so many days ago."""
    today = metrics.day_of(now())
    async with pool.connection() as connection:
        if await edition_of(pool) is Edition.PLAIN:
            for age in ages:
                day = (today - age * DAY).date()
                await connection.execute("SELECT lighthouse_ensure_partitions(%s, %s)", (day, day))
        await insert_raw(
            connection, ((target, today - age * DAY + 12 * HOUR, UP, 1.0) for age in ages)
        )


async def ages(pool: Pool, table: str = "check_history") -> list[int]:
    """How many days old the rows are, the oldest first."""
    today = metrics.day_of(now())
    found = await fetch(pool, f"SELECT time FROM {table} ORDER BY time")
    return [(today - metrics.day_of(time)).days for (time,) in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What upkeep has to do where TimescaleDB does the rest."""

    partitions: int = 0  #: that stand after the migration
    drops: bool = False  #: raw rows are dropped by our task


EXPECTED = {
    Edition.COMMUNITY: Expected(),
    Edition.APACHE: Expected(drops=True),
    Edition.PLAIN: Expected(partitions=16, drops=True),
}

PARTITIONS = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'check_history'::regclass"


async def test_partitions_stand_from_the_late_horizon_to_a_week_ahead(pool: Pool) -> None:
    wanted = EXPECTED[await edition_of(pool)]
    if wanted.partitions:
        assert await fetch(pool, PARTITIONS) == [(wanted.partitions,)]
    target, today = uuid4(), metrics.day_of(now())
    async with pool.connection() as connection:
        await insert_raw(
            connection,
            ((target, today + age * DAY, UP, 1.0) for age in (-8, 7)),
        )
    assert await ages(pool) == [8, -7]


async def test_missing_partitions_are_made_once_by_whoever_comes(pool: Pool) -> None:
    wanted = EXPECTED[await edition_of(pool)]
    later = now() + 3 * DAY
    missing = 3 if wanted.partitions else 0

    async def ensure() -> int:
        async with pool.connection() as connection:
            return await upkeep.ensure_partitions(connection, now=later)

    made = await asyncio.gather(*(ensure() for _ in range(4)))
    assert sorted(made) == [0, 0, 0, missing]
    async with pool.connection() as connection:
        await insert_raw(connection, [(uuid4(), later + 7 * DAY, UP, 1.0)])
        assert await upkeep.ensure_partitions(connection, now=later) == 0


async def test_a_partition_is_as_its_parent(pool: Pool) -> None:
    """Attached tables take the parent's constraints and indexes, so one slot stays one row."""
    target, time = uuid4(), metrics.day_of(now()) + 10 * DAY
    async with pool.connection() as connection:
        await upkeep.ensure_partitions(connection, ahead_days=12)
        await insert_raw(connection, [(target, time, UP, 1.0)])
        with pytest.raises(psycopg.errors.UniqueViolation):
            await insert_raw(connection, [(target, time, UP, 2.0)])
    if EXPECTED[await edition_of(pool)].partitions:
        counts = await fetch(
            pool,
            "SELECT count(*) FROM pg_index WHERE indrelid IN"
            " (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'check_history'::regclass)"
            " GROUP BY indrelid",
        )
        assert set(counts) == {(3,)}


async def test_the_recorder_makes_the_day_that_it_misses(pool: Pool) -> None:
    today = metrics.day_of(now())
    if EXPECTED[await edition_of(pool)].partitions:
        await execute(pool, f"DROP TABLE check_history_{today:%Y%m%d}")
    stored = await record(pool, [result(uuid4(), today)])
    assert stored.stored == 1
    assert await ages(pool) == [0]


async def test_raw_rows_go_when_they_are_old_and_rolled_up(pool: Pool, migrated_url: str) -> None:
    target = uuid4()
    await rows_of_days(pool, target, 40, 31, 28, 3)
    await settle_all(pool)
    done = await retain(pool, migrated_url, 30)
    assert bool(done.dropped) is EXPECTED[await edition_of(pool)].drops
    assert await ages(pool) == [28, 3]
    assert (await metrics.uptime(pool, target, 60)).due == 4
    again = await retain(pool, migrated_url, 30)
    assert again.dropped == ()


async def test_a_short_setting_does_not_undercut_the_late_horizon(
    pool: Pool, migrated_url: str
) -> None:
    await rows_of_days(pool, uuid4(), 20, 8, 1)
    await settle_all(pool)
    await retain(pool, migrated_url, 8)
    assert await ages(pool) == [8, 1]


async def test_our_task_drops_nothing_that_is_not_rolled_up(pool: Pool) -> None:
    """The rollup task has not run at all, or a mark of that time is still waiting."""
    target = uuid4()
    await rows_of_days(pool, target, 40, 35, 3)
    assert (await upkeep.run(pool, 30)).dropped == ()
    assert await ages(pool) == [40, 35, 3]
    await settle_all(pool)
    await execute(
        pool, "INSERT INTO rollup_dirty VALUES (%s, %s)", metrics.hour_of(now()) - 36 * DAY, target
    )
    await upkeep.run(pool, 30)
    assert await ages(pool) == ([35, 3] if EXPECTED[await edition_of(pool)].drops else [40, 35, 3])


async def test_a_reader_is_not_disturbed_and_the_next_run_drops(
    pool: Pool, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "DROP_LOCK_TIMEOUT", "200ms")
    await rows_of_days(pool, uuid4(), 40, 3)
    await settle_all(pool)
    async with (
        open_pool(migrated_url) as other,
        other.connection() as reader,
        reader.transaction(),
    ):
        await reader.execute("SELECT count(*) FROM check_history")
        assert (await upkeep.run(pool, 30)).dropped == ()
        assert await ages(pool) == [40, 3]
    await retain(pool, migrated_url, 30)
    assert await ages(pool) == [3]


async def test_alerts_are_kept_a_year(pool: Pool, migrated_url: str) -> None:
    async with pool.connection() as connection:
        for days in (400, 300):
            await connection.execute(
                "INSERT INTO alert_history (time, event_id, channel_id, subscription_id,"
                " alert_type, severity, title, message, state)"
                " VALUES (%s, %s, %s, %s, 'downtime', 'critical', 'down', 'it is', 'sent')",
                (now() - timedelta(days=days), uuid4(), uuid4(), uuid4()),
            )
    await settle_all(pool)
    await retain(pool, migrated_url, 90)
    assert await ages(pool, "alert_history") == [300]


@pytest.mark.parametrize(("raw_days", "kept"), [(90, [364]), (500, [450, 364])])
async def test_hourly_rollups_outlive_the_year_only_with_their_raw_rows(
    pool: Pool, migrated_url: str, raw_days: int, kept: list[int]
) -> None:
    target = uuid4()
    await rows_of_days(pool, target, 600, 450, 364)
    await settle_all(pool)
    await retain(pool, migrated_url, raw_days)
    today = metrics.day_of(now())
    hours = await metrics.hourly_metrics(pool, target, 24 * 700)
    assert sorted(((today - metrics.day_of(m.bucket)).days for m in hours), reverse=True) == kept
    # Days are kept for good.
    days = await metrics.daily_metrics(pool, target, 700)
    assert [(today - m.bucket).days for m in days] == [364, 450, 600]


async def test_many_rows_are_deleted_in_small_statements(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "DELETE_ROWS", 10)
    await execute(
        pool,
        "INSERT INTO hourly_rollups (subscription_id, hour, total_checks, successful_checks,"
        " failures, timeouts, errors, missed, alerts_triggered, latency_count)"
        " SELECT gen_random_uuid(), now() - interval '400 days', 1, 1, 0, 0, 0, 0, 0, 0"
        " FROM generate_series(1, 25)",
    )
    done = await upkeep.run(pool, 90)
    drops = EXPECTED[await edition_of(pool)].drops
    assert done.deleted_rows == (25 if drops else 0)


async def test_what_a_run_did_is_kept_for_the_status(pool: Pool) -> None:
    assert await upkeep.run(pool, 90) == Upkeep()
    ((value, recent),) = await fetch(
        pool,
        "SELECT value, updated_at > now() - interval '1 minute' FROM fleet_state"
        " WHERE key = 'task:upkeep'",
    )
    assert value == {"partitions_made": 0, "dropped": 0, "deleted_rows": 0}
    assert recent


async def subscription(pool: Pool, name: str, expires: str) -> UUID:
    """An active subscription with an open schedule."""
    async with pool.connection() as connection, connection.transaction():
        cursor = await connection.execute(
            "WITH u AS (INSERT INTO users (wallet_address) VALUES ('0x' || repeat('b', 40))"
            " ON CONFLICT (wallet_address) DO UPDATE SET last_seen_at = now() RETURNING id)"
            " INSERT INTO subscriptions (user_id, name, target_type, target_config, status,"
            " activated_at, expires_at) SELECT id, %s, 'http', %s, 'active', now(),"
            " now() + %s::interval FROM u RETURNING id",
            (name, Jsonb({"url": "http://127.0.0.1"}), expires),
        )
        row = await cursor.fetchone()
        assert row is not None
        await connection.execute(
            "INSERT INTO schedule_epochs (subscription_id, interval_ms, phase_ms, first_slot)"
            " VALUES (%s, 900000, 0, 900000)",
            row,
        )
        found: UUID = row[0]
        return found


async def test_a_subscription_ends_with_its_schedule_when_its_time_is_over(pool: Pool) -> None:
    over = await subscription(pool, "over", "-1 second")
    running = await subscription(pool, "running", "1 day")
    assert await upkeep.expire(pool) == [over]
    assert await upkeep.expire(pool) == []
    statuses = {s.id: s.status for s in await catalog.list_subscriptions(pool)}
    assert statuses == {over: SubscriptionStatus.EXPIRED, running: SubscriptionStatus.ACTIVE}
    assert await fetch(
        pool,
        "SELECT subscription_id, end_slot IS NULL FROM schedule_epochs ORDER BY 2",
    ) == [(over, False), (running, True)]


async def test_a_changed_setting_is_in_force_after_the_next_upgrade(
    pool: Pool, migrated_url: str
) -> None:
    await rows_of_days(pool, uuid4(), 40, 20, 3)
    await settle_all(pool)
    migrate.upgrade(migrated_url, 30)
    await retain(pool, migrated_url, 30)
    assert await ages(pool) == [20, 3]
    migrate.upgrade(migrated_url, 15)
    await retain(pool, migrated_url, 15)
    assert await ages(pool) == [3]


async def test_incidents_go_with_the_alerts_that_told_of_them_and_budgets_sooner(
    pool: Pool,
) -> None:
    """Fails when what is no history grows for ever."""
    await execute(
        pool,
        "WITH u AS (INSERT INTO users (wallet_address) VALUES ('0x' || repeat('ab', 20))"
        " RETURNING id), s AS (INSERT INTO subscriptions (user_id, name, target_type,"
        " target_config, status) SELECT u.id, status, 'http', '{}', status::subscription_status"
        " FROM u, unnest('{active,cancelled}'::text[]) AS status RETURNING id, name)"
        " INSERT INTO incidents (id, subscription_id, kind, severity, first_failure_at, opened_at,"
        " closed_at, note) SELECT gen_random_uuid(), s.id, 'downtime', 'critical',"
        " now() - opened, now() - opened, now() - closed, s.name || v.name"
        " FROM s, (VALUES (interval '400 days', interval '366 days', ' old'),"
        " ('399 days', '1 day', ' long'), ('398 days', NULL, ' open'), ('1 day', '1 hour', ' new'))"
        " AS v (opened, closed, name)",
    )
    await execute(
        pool,
        "INSERT INTO alert_budgets (owner_id, hour) SELECT gen_random_uuid(), now() - age"
        " FROM unnest('{29 days,31 days}'::interval[]) AS age",
    )
    assert (await upkeep.run(pool, 90)).deleted_rows == 4
    kept = {note for (note,) in await fetch(pool, "SELECT note FROM incidents")}
    assert kept == {
        *("active long", "active open", "active new", "cancelled long", "cancelled new")
    }
    assert len(await fetch(pool, "SELECT FROM alert_budgets")) == 1
