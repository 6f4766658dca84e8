"""THE transaction on a real database: rows, verdicts and alerts, or nothing."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from lighthouse.model import (
    NO_CHANNEL,
    AlertType,
    CheckStatus,
    Result,
    Timings,
    event_id,
    from_slot,
    to_slot,
)
from lighthouse.store.pool import Pool
from lighthouse.store.record import LATE_HORIZON_MS, Recorded, record

UP, DOWN = CheckStatus.SUCCESS, CheckStatus.FAILURE
MINUTE = 60_000


def base_slot() -> int:
    return to_slot(datetime.now(UTC)) - 30 * MINUTE


async def fetch(pool: Pool, query: str, *args: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(query, args)  # type: ignore[arg-type]
        return await cursor.fetchall()


async def execute(pool: Pool, query: str, *args: Any) -> None:
    async with pool.connection() as connection:
        await connection.execute(query, args)  # type: ignore[arg-type]


async def a_subscription(pool: Pool, name: str = "api") -> UUID:
    rows = await fetch(
        pool,
        """
        WITH u AS (INSERT INTO users (wallet_address) VALUES ('0x' || md5(%s) || '00000000')
                   ON CONFLICT (wallet_address) DO UPDATE SET last_seen_at = now() RETURNING id)
        INSERT INTO subscriptions (user_id, name, target_type, target_config, status)
        SELECT id, %s, 'http', '{"url": "http://127.0.0.1/"}', 'active' FROM u RETURNING id
        """,
        name,
        name,
    )
    subscription_id: UUID = rows[0][0]
    await execute(
        pool, "INSERT INTO subscription_state (subscription_id) VALUES (%s)", subscription_id
    )
    return subscription_id


async def a_channel(pool: Pool, subscription_id: UUID, severity: str = "warning") -> UUID:
    rows = await fetch(
        pool,
        """
        INSERT INTO alert_channels (subscription_id, channel_type, channel_config, min_severity)
        VALUES (%s, 'webhook', '{"url": "http://127.0.0.1/"}', %s) RETURNING id
        """,
        subscription_id,
        severity,
    )
    channel_id: UUID = rows[0][0]
    return channel_id


def result(subscription_id: UUID, slot: int, status: CheckStatus = UP, **fields: Any) -> Result:
    if status is not UP:
        fields = {"error_code": "status_code", "error_message": "status 500", **fields}
    return Result(subscription_id=subscription_id, slot=slot, status=status, **fields)


async def test_every_field_of_a_result_is_stored_as_it_was(pool: Pool) -> None:
    subscription_id, slot = uuid4(), base_slot()
    expires = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    whole = Result(
        subscription_id=subscription_id,
        slot=slot,
        status=DOWN,
        http_status=503,
        latency_ms=12.5,
        error_message="tab\there, line\nthere, back\\slash, \\N, \r and “quotes”",
        error_code="status_code",
        timings=Timings(dns_ms=1.25, tcp_ms=2.5, tls_ms=None, ttfb_ms=4.0),
        response_snippet="<html>\n\\.",
        http_version=20,
        cert_expires_at=expires,
        value=10**30 + 1,
        attempts=2,
        delay_ms=7,
        region="eu-1",
    )
    assert await record(pool, [whole]) == Recorded(stored=1)
    (row,) = await fetch(
        pool,
        """
        SELECT time, status::text, http_status, latency_ms, error_message, error_code, dns_ms,
               tcp_ms, tls_ms, ttfb_ms, response_snippet, http_version, cert_expires_at, value,
               attempts, delay_ms, region, alert_triggered
          FROM check_history WHERE subscription_id = %s
        """,
        subscription_id,
    )
    assert row == (
        from_slot(slot),
        "failure",
        503,
        12.5,
        whole.error_message,
        "status_code",
        1.25,
        2.5,
        None,
        4.0,
        "<html>\n\\.",
        20,
        expires,
        Decimal(10**30 + 1),
        2,
        7,
        "eu-1",
        False,
    )


async def test_a_redelivered_flush_changes_nothing(pool: Pool) -> None:
    subscription_id, slot = await a_subscription(pool), base_slot()
    await a_channel(pool, subscription_id)
    first = [result(subscription_id, slot + n * MINUTE, DOWN) for n in range(3)]
    assert await record(pool, first) == Recorded(stored=3, events=1)
    before = await fetch(pool, "SELECT * FROM check_history ORDER BY time")
    again = [result(subscription_id, slot + n * MINUTE, UP) for n in range(3)]
    assert await record(pool, again) == Recorded(stored=0, duplicates=3)
    assert await fetch(pool, "SELECT * FROM check_history ORDER BY time") == before
    assert await fetch(pool, "SELECT count(*) FROM alert_history") == [(1,)]


async def test_a_late_real_result_replaces_missed_and_nothing_replaces_it(pool: Pool) -> None:
    subscription_id, slot = await a_subscription(pool), base_slot()
    await execute(
        pool,
        "INSERT INTO check_history (time, subscription_id, status) VALUES (%s, %s, 'missed')",
        from_slot(slot),
        subscription_id,
    )
    flush = [result(subscription_id, slot), result(subscription_id, slot + MINUTE)]
    assert await record(pool, flush) == Recorded(stored=2)
    assert await record(pool, [result(subscription_id, slot, DOWN)]) == Recorded(
        stored=0, duplicates=1
    )
    assert await fetch(pool, "SELECT status::text FROM check_history ORDER BY time") == [
        ("success",),
        ("success",),
    ]


async def test_one_slot_twice_in_one_flush_is_one_row(pool: Pool) -> None:
    subscription_id, slot = uuid4(), base_slot()
    flush = [result(subscription_id, slot), result(subscription_id, slot)]
    assert (await record(pool, flush)).stored == 1
    assert await fetch(pool, "SELECT count(*) FROM check_history") == [(1,)]


async def test_going_down_and_coming_back_are_one_event_each(pool: Pool) -> None:
    subscription_id, slot = await a_subscription(pool), base_slot()
    loud, quiet = (
        await a_channel(pool, subscription_id),
        await a_channel(pool, subscription_id, "critical"),
    )
    statuses = [UP, DOWN, DOWN, CheckStatus.TIMEOUT, UP, UP]
    events = [
        (await record(pool, [result(subscription_id, slot + n * MINUTE, status)])).events
        for n, status in enumerate(statuses)
    ]
    assert events == [0, 1, 0, 0, 1, 0]
    rows = await fetch(
        pool,
        "SELECT time, event_id, channel_id, alert_type::text, state::text, related_check_time"
        " FROM alert_history ORDER BY time, channel_id",
    )
    down_at, up_at = slot + MINUTE, slot + 4 * MINUTE
    expected = [
        (
            from_slot(at),
            event_id(subscription_id, at, kind),
            channel,
            kind.value,
            "pending",
            from_slot(at),
        )
        for at, kind in ((down_at, AlertType.DOWNTIME), (up_at, AlertType.RECOVERY))
        for channel in sorted([loud, quiet], key=lambda i: i.bytes)
    ]
    assert rows == expected
    assert await fetch(pool, "SELECT verdict::text, since FROM subscription_state") == [
        ("up", from_slot(up_at))
    ]
    triggered = await fetch(
        pool, "SELECT time FROM check_history WHERE alert_triggered ORDER BY time"
    )
    assert triggered == [(from_slot(down_at),), (from_slot(up_at),)]


async def test_error_and_missed_change_no_verdict(pool: Pool) -> None:
    subscription_id, slot = await a_subscription(pool), base_slot()
    await record(pool, [result(subscription_id, slot, UP)])
    await record(pool, [result(subscription_id, slot + MINUTE, CheckStatus.ERROR)])
    assert await fetch(pool, "SELECT verdict::text FROM subscription_state") == [("up",)]
    assert await fetch(pool, "SELECT count(*) FROM alert_history") == [(0,)]


async def test_a_steady_result_writes_no_state(pool: Pool) -> None:
    subscription_id, slot = await a_subscription(pool), base_slot()
    await record(pool, [result(subscription_id, slot, UP)])
    before = await fetch(pool, "SELECT xmin::text, * FROM subscription_state")
    await record(pool, [result(subscription_id, slot + n * MINUTE, UP) for n in range(1, 9)])
    assert await fetch(pool, "SELECT xmin::text, * FROM subscription_state") == before


async def test_an_event_without_a_channel_is_kept_too(pool: Pool) -> None:
    subscription_id, slot = await a_subscription(pool), base_slot()
    await record(pool, [result(subscription_id, slot, DOWN)])
    assert await fetch(pool, "SELECT channel_id, state::text FROM alert_history") == [
        (NO_CHANNEL, "suppressed")
    ]


async def test_a_refused_row_costs_no_other_and_is_kept_as_error(pool: Pool) -> None:
    subscription_id, slot = await a_subscription(pool), base_slot()
    flush = [result(subscription_id, slot + n * MINUTE) for n in range(9)]
    flush[4] = result(subscription_id, slot + 4 * MINUTE, UP, http_status=10**6)
    assert await record(pool, flush) == Recorded(stored=9)
    rows = await fetch(pool, "SELECT status::text, error_code FROM check_history ORDER BY time")
    assert rows == [("success", None)] * 4 + [("error", "unstorable")] + [("success", None)] * 4


async def test_results_beyond_the_late_horizon_are_refused_and_counted(pool: Pool) -> None:
    now = to_slot(datetime.now(UTC))
    flush = [result(uuid4(), now - LATE_HORIZON_MS - MINUTE), result(uuid4(), now - MINUTE)]
    assert await record(pool, flush) == Recorded(stored=1, refused=1)


async def test_rows_days_apart_are_stored_in_one_flush(pool: Pool) -> None:
    now = to_slot(datetime.now(UTC))
    flush = [result(uuid4(), now - day * 86_400_000 - MINUTE) for day in range(7)]
    assert await record(pool, flush) == Recorded(stored=7)


async def test_a_failed_flush_leaves_nothing_behind(pool: Pool) -> None:
    subscription_id, slot = await a_subscription(pool), base_slot()
    await execute(
        pool,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no alerts today' USING ERRCODE = '57014'; END $$",
    )
    await execute(
        pool,
        "CREATE TRIGGER refuse BEFORE UPDATE ON subscription_state"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    with pytest.raises(Exception, match="no alerts today"):
        await record(pool, [result(subscription_id, slot, DOWN)])
    assert await fetch(pool, "SELECT count(*) FROM check_history") == [(0,)]
    await execute(pool, "DROP TRIGGER refuse ON subscription_state")
    assert await record(pool, [result(subscription_id, slot, DOWN)]) == Recorded(stored=1, events=1)


async def test_recorders_that_meet_on_the_same_targets_end_in_one_verdict(pool: Pool) -> None:
    ids = [await a_subscription(pool, f"target {n}") for n in range(20)]
    slot = base_slot()
    await record(pool, [result(i, slot, UP) for i in ids])
    flushes = [
        record(
            pool,
            [
                result(i, slot + n * MINUTE, DOWN if n % 2 else UP)
                for i in (ids if n % 3 else ids[::-1])
            ],
        )
        for n in range(1, 8)
    ]
    await asyncio.gather(*flushes)
    await record(pool, [result(i, slot + 8 * MINUTE, DOWN) for i in ids])
    assert await fetch(
        pool, "SELECT verdict::text, count(*) FROM subscription_state GROUP BY 1"
    ) == [("down", 20)]
    assert await fetch(pool, "SELECT count(*) FROM check_history") == [(20 * 9,)]
    doubled = await fetch(
        pool,
        "SELECT event_id FROM alert_history GROUP BY event_id, channel_id HAVING count(*) > 1",
    )
    assert doubled == []


async def test_a_late_failure_does_not_overlook_the_success_that_another_recorder_stores(
    pool: Pool,
) -> None:
    subscription_id = await a_subscription(pool)
    slot = base_slot()
    await record(pool, [result(subscription_id, slot)])
    # Held up between its decision and its commit, in which time the other one is done.
    await execute(
        pool,
        """
        CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.6); RETURN new; END $$
        """,
    )
    await execute(
        pool,
        "CREATE TRIGGER linger BEFORE UPDATE ON subscription_state"
        " FOR EACH ROW WHEN (new.verdict = 'down') EXECUTE FUNCTION linger()",
    )
    late = asyncio.create_task(record(pool, [result(subscription_id, slot + MINUTE, DOWN)]))
    await asyncio.sleep(0.3)
    await record(pool, [result(subscription_id, slot + 2 * MINUTE)])
    await late
    await execute(pool, "DROP TRIGGER linger ON subscription_state; DROP FUNCTION linger")
    assert await fetch(pool, "SELECT verdict::text FROM subscription_state") == [("up",)]
    events = await fetch(pool, "SELECT alert_type::text FROM alert_history ORDER BY time")
    assert events == [("downtime",), ("recovery",)]


async def test_late_rows_of_a_closed_hour_are_marked_for_the_rollups(pool: Pool) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    await execute(
        pool,
        """
        INSERT INTO rollup_state (rollup, open_from, rolled_to) VALUES ('hourly', %s, %s)
        ON CONFLICT (rollup) DO UPDATE
           SET open_from = excluded.open_from, rolled_to = excluded.rolled_to
        """,
        hour,
        hour,
    )
    late, fresh = uuid4(), uuid4()
    flush = [result(late, to_slot(hour) - 2 * MINUTE), result(fresh, to_slot(hour) + 1)]
    await record(pool, flush)
    marks = await fetch(pool, "SELECT hour, subscription_id FROM rollup_dirty")
    assert marks == [(hour - timedelta(hours=1), late)]


async def test_a_lost_connection_is_told_as_unavailable(pool: Pool, migrated_url: str) -> None:
    from lighthouse.errors import StoreUnavailable
    from lighthouse.store.pool import open_pool

    async with open_pool("postgresql://127.0.0.1:1/nowhere", maximum=1) as away:
        away.timeout = 0.3
        with pytest.raises(StoreUnavailable):
            await record(away, [result(uuid4(), base_slot())])
    with psycopg.connect(migrated_url) as check:
        row = check.execute("SELECT count(*) FROM check_history").fetchone()
        assert row == (0,)


@pytest.mark.parametrize("statuses", [(UP, DOWN), (DOWN, UP)])
async def test_of_two_results_of_one_slot_in_one_flush_the_stored_one_is_judged(
    pool: Pool, statuses: tuple[CheckStatus, CheckStatus]
) -> None:
    """Fails when the row that stands is chosen by the database, and another one is judged."""
    subscription_id, slot = await a_subscription(pool), base_slot()
    await record(pool, [result(subscription_id, slot - MINUTE)])
    both = [result(subscription_id, slot, status) for status in statuses]
    stored = await record(pool, both)
    assert (stored.stored, stored.duplicates) == (1, 1)
    rows = await fetch(
        pool,
        "SELECT h.status::text, s.verdict::text FROM check_history h"
        " JOIN subscription_state s USING (subscription_id) WHERE h.time = %s",
        from_slot(slot),
    )
    assert rows == [(statuses[0].value, "down" if statuses[0].down else "up")]


async def an_epoch(pool: Pool, id_: UUID, first: int, end: int | None, phase: int = 0) -> None:
    await execute(
        pool,
        "INSERT INTO schedule_epochs (subscription_id, interval_ms, phase_ms, first_slot, end_slot)"
        " VALUES (%s, %s, %s, %s, %s)",
        *(id_, MINUTE, phase, first, end),
    )


async def test_a_check_that_was_claimed_after_its_schedule_had_ended_is_not_told(
    pool: Pool,
) -> None:
    """Fails when a flush asks no epochs: beat hears of a pause a second later than it holds."""
    paused, moved, steady = [await a_subscription(pool, name) for name in ("p", "m", "s")]
    await a_channel(pool, paused)
    slot = base_slot() // MINUTE * MINUTE
    await an_epoch(pool, paused, slot - 10 * MINUTE, slot - 1)
    await an_epoch(pool, moved, slot - 10 * MINUTE, slot - 1)
    await an_epoch(pool, moved, slot, None, phase=7)
    await an_epoch(pool, steady, slot - 10 * MINUTE, None)
    results = [
        result(paused, slot - MINUTE),
        result(paused, slot, DOWN),
        result(moved, slot),  # the first one of the new epoch
        result(moved, slot + MINUTE),  # of the old grid
        result(moved, slot + MINUTE + 7),
        result(steady, slot),
    ]
    assert await record(pool, results) == Recorded(stored=4, not_due=2)
    rows = await fetch(pool, "SELECT subscription_id, time FROM check_history")
    gone = {(paused, from_slot(slot)), (moved, from_slot(slot + MINUTE))}
    assert set(rows) == {(r.subscription_id, from_slot(r.slot)) for r in results} - gone
    assert await fetch(pool, "SELECT 1 FROM alert_history") == []


async def test_a_beat_that_heard_nothing_for_most_of_an_hour_has_nothing_told_of_what_was_paused(
    pool: Pool,
) -> None:
    """Fails when a flush asks only for schedules that ended in the last minutes: a beat that is
    cut off from PostgreSQL, while its workers are not, claims what was paused long ago."""
    paused = await a_subscription(pool)
    await a_channel(pool, paused)
    slot = base_slot() // MINUTE * MINUTE
    await an_epoch(pool, paused, slot - 90 * MINUTE, slot - 50 * MINUTE)
    assert await record(pool, [result(paused, slot, DOWN)]) == Recorded(stored=0, not_due=1)
    assert await fetch(pool, "SELECT 1 FROM alert_history") == []
