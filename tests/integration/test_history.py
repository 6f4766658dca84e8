"""Reading back: recent checks, each subscription's state, and how the fleet stands."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from lighthouse.model import (
    CheckStatus,
    MonitorType,
    SubscriptionStatus,
    Tier,
    Verdict,
    from_slot,
    to_slot,
)
from lighthouse.slots import latest_slot, phase
from lighthouse.store import catalog, history
from lighthouse.store.pool import Pool
from lighthouse.store.standing import standing
from lighthouse.store.sweep import sweep

WALLET = "0x" + "5e" * 20
MINUTE = 60_000
HOUR = 60 * MINUTE


async def run(pool: Pool, query: str, *arguments: Any) -> None:
    async with pool.connection() as conn:
        await conn.execute(query.encode(), arguments)


async def now_ms(pool: Pool) -> int:
    async with pool.connection() as conn:
        row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    return to_slot(row[0])


async def add(pool: Pool, name: str, **changes: Any) -> UUID:
    values: dict[str, Any] = {
        "type": MonitorType.HTTP,
        "config": {"url": "https://user:pass@example.com:8443/health?token=secret#x"},
    }
    return await catalog.create_subscription(
        pool,
        catalog.NewSubscription(
            wallet=WALLET,
            name=name,
            tier=Tier.ENTERPRISE,
            interval_s=60,
            worst_case_s=10,
            **{**values, **changes},
        ),
        enforce_plans=False,
    )


async def store(pool: Pool, subscription_id: UUID, slot: int, status: str, **values: Any) -> None:
    columns = {"time": from_slot(slot), "subscription_id": subscription_id, "status": status}
    columns |= values
    await run(
        pool,
        f"INSERT INTO check_history ({', '.join(columns)})"
        f" VALUES ({', '.join(['%s'] * len(columns))})",
        *columns.values(),
    )


async def believe(pool: Pool, subscription_id: UUID, verdict: str, since: int) -> None:
    await run(
        pool,
        "UPDATE subscription_state SET verdict = %s, since = %s WHERE subscription_id = %s",
        verdict,
        from_slot(since),
        subscription_id,
    )


async def begin_at(pool: Pool, subscription_id: UUID, first_slot: int) -> None:
    await run(
        pool,
        "UPDATE schedule_epochs SET first_slot = %s WHERE subscription_id = %s",
        first_slot,
        subscription_id,
    )


async def test_recent_checks_are_the_newest_first_with_every_column(pool: Pool) -> None:
    now = await now_ms(pool)
    id_, other = await add(pool, "a"), await add(pool, "b")
    expiry = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
    await store(pool, id_, now - 3000, "success", latency_ms=5.5)
    await store(
        pool,
        id_,
        now - 1000,
        "failure",
        http_status=503,
        latency_ms=12.5,
        error_message="HTTP 503",
        error_code="status_code",
        alert_triggered=True,
        dns_ms=1.5,
        tcp_ms=2.5,
        ttfb_ms=8.0,
        timings='{"step_ms": 3}',
        response_snippet="oops",
        delay_ms=7,
        http_version=20,
        attempts=2,
        cert_expires_at=expiry,
        region="eu",
        value=Decimal(10**30),
    )
    await store(pool, id_, now - 2000, "timeout")
    await store(pool, other, now - 1000, "success")
    found = await history.recent_checks(pool, id_, 2)
    assert [row.status for row in found] == [CheckStatus.FAILURE, CheckStatus.TIMEOUT]
    assert found[0] == history.CheckRow(
        time=from_slot(now - 1000),
        subscription_id=id_,
        status=CheckStatus.FAILURE,
        http_status=503,
        latency_ms=12.5,
        error_message="HTTP 503",
        error_code="status_code",
        alert_triggered=True,
        alert_sent_at=None,
        timings={"dns_ms": 1.5, "tcp_ms": 2.5, "ttfb_ms": 8.0, "step_ms": 3},
        response_snippet="oops",
        delay_ms=7,
        http_version=20,
        attempts=2,
        cert_expires_at=expiry,
        region="eu",
        value=Decimal(10**30),
    )
    assert found[1].timings == {}
    since = await history.recent_checks(pool, id_, 10, since=from_slot(now - 1500))
    assert [row.time for row in since] == [from_slot(now - 1000)]
    assert await history.recent_checks(pool, uuid4(), 10) == []


async def test_a_gap_record_stands_among_the_checks_as_one_entry(pool: Pool) -> None:
    now = await now_ms(pool)
    id_ = await add(pool, "a")
    await begin_at(pool, id_, now - 4 * HOUR)
    grid = latest_slot(now, MINUTE, phase(id_, MINUTE))
    await store(pool, id_, grid, "success")
    await sweep(pool, 0, now_ms=now)
    newest, gap, oldest = await history.recent(pool, id_, 10)
    assert isinstance(newest, history.CheckRow)
    assert newest.time == from_slot(grid)
    assert isinstance(gap, history.GapRow)
    assert gap.until == from_slot(grid - MINUTE)
    assert gap.interval == timedelta(minutes=1)
    assert gap.slots == (to_slot(gap.until) - to_slot(gap.time)) // MINUTE + 1
    assert gap.slots in (238, 239)
    assert isinstance(oldest, history.CheckRow)
    assert (oldest.time, oldest.status) == (from_slot(now - 4 * HOUR), CheckStatus.MISSED)
    assert await history.recent(pool, id_, 2) == [newest, gap]
    assert await history.recent(pool, id_, 9, since=from_slot(now - 2 * HOUR)) == [newest, gap]
    assert await history.recent(pool, id_, 9, since=from_slot(grid)) == [newest]


async def test_the_overview_has_the_last_check_and_the_next(pool: Pool) -> None:
    now = await now_ms(pool)
    up, down, paused = [await add(pool, name) for name in ("up", "down", "paused")]
    balance = await add(
        pool,
        "wallet",
        type=MonitorType.BALANCE,
        config={"chain": "base", "address": "0xabc"},
    )
    await store(pool, up, now - 60_000, "failure", latency_ms=1.0)
    await store(pool, up, now - 1000, "success", latency_ms=21.5, http_status=200)
    await believe(pool, up, "up", now - HOUR)
    await store(
        pool, down, now - 2000, "timeout", error_code="timeout", error_message="no answer in 10 s"
    )
    await believe(pool, down, "down", now - 2000)
    await believe(pool, paused, "up", now - 5 * HOUR)
    await store(pool, paused, now - 3 * HOUR, "success")
    await catalog.pause(pool, paused)
    found = {row.name: row for row in await history.overview(pool)}
    assert list(found) == ["up", "down", "paused", "wallet"]

    one = found["up"]
    assert (one.id, one.status) == (up, SubscriptionStatus.ACTIVE)
    assert one.target == "https://example.com:8443/health"
    assert (one.verdict, one.since) == (Verdict.UP, from_slot(now - HOUR))
    assert (one.last_time, one.last_status) == (from_slot(now - 1000), CheckStatus.SUCCESS)
    assert (one.last_latency_ms, one.last_http_status) == (21.5, 200)
    assert one.next_due is not None
    assert (to_slot(one.next_due) - phase(up, MINUTE)) % MINUTE == 0
    assert now < to_slot(one.next_due) <= now + MINUTE + 5000

    two = found["down"]
    assert (two.verdict, two.since) == (Verdict.DOWN, from_slot(now - 2000))
    assert (two.last_error_code, two.last_error) == ("timeout", "no answer in 10 s")

    # What is paused is believed to be as it was.
    assert (found["paused"].verdict, found["paused"].next_due) == (Verdict.UP, None)
    assert found["wallet"].target == "base 0xabc"
    assert [row.id for row in await history.overview(pool, [balance, up])] == [up, balance]
    assert [row.name for row in await history.overview(pool, limit=2)] == ["up", "down"]


async def test_where_nothing_was_judged_the_verdict_is_unknown_since_then(pool: Pool) -> None:
    now = await now_ms(pool)
    never = await add(pool, "never")
    silent = await add(pool, "silent")
    await believe(pool, silent, "up", now - 5 * HOUR)
    await store(pool, silent, now - 2 * HOUR, "success")
    for minutes in (30, 20, 10, 0):
        await store(pool, silent, now - minutes * MINUTE, "error", error_code="prober_network")
    recent = await add(pool, "recent")
    await believe(pool, recent, "down", now - 5 * HOUR)
    await store(pool, recent, now - 2 * MINUTE, "failure")
    await store(pool, recent, now - MINUTE, "missed")
    found = {row.id: row for row in await history.overview(pool)}
    assert (found[never].verdict, found[never].last_time) == (Verdict.UNKNOWN, None)
    assert found[never].since == (await catalog.get(pool, never)).activated_at
    assert found[silent].verdict is Verdict.UNKNOWN
    assert found[silent].since == from_slot(now - 2 * HOUR)
    assert found[silent].last_status is CheckStatus.ERROR
    assert found[recent].verdict is Verdict.DOWN
    assert found[recent].since == from_slot(now - 5 * HOUR)


async def test_the_fleets_standing_tells_what_is_down_unknown_and_covered(pool: Pool) -> None:
    now = await now_ms(pool)
    up, down, silent = [await add(pool, name) for name in ("up", "down", "silent")]
    cancelled = await add(pool, "cancelled")
    await believe(pool, cancelled, "down", now - HOUR)
    await catalog.cancel(pool, cancelled)
    await run(pool, "DELETE FROM schedule_epochs WHERE subscription_id = %s", cancelled)
    for id_ in (up, down, silent):
        await begin_at(pool, id_, now - HOUR + 1)
    for id_, status in ((up, "success"), (down, "failure"), (silent, "error")):
        await store(pool, id_, now - HOUR + 1, status)
        slot = latest_slot(now, MINUTE, phase(id_, MINUTE))
        while slot > now - HOUR + 1:
            await store(pool, id_, slot, status, error_code="why", error_message=f"of {slot}")
            slot -= MINUTE
    await believe(pool, up, "up", now - HOUR)
    await believe(pool, down, "down", now - HOUR)
    assert (await standing(pool)).coverage_ratio is None
    assert (await sweep(pool, 0, now_ms=now)).missed_rows == 0

    found = await standing(pool)
    assert found.subscriptions == {"active": 3, "cancelled": 1}
    assert found.verdicts == {"up": 1, "down": 1, "unknown": 1}
    [incident] = found.down
    assert (incident.subscription_id, incident.name) == (down, "down")
    assert incident.since == from_slot(now - HOUR)
    newest = latest_slot(now, MINUTE, phase(down, MINUTE))
    assert (incident.status, incident.error_code) == ("failure", "why")
    assert incident.error_message == f"of {newest}"
    assert [unknown.subscription_id for unknown in found.unknown] == [silent]
    assert found.unknown_count == 1
    assert found.accounted_to == from_slot(now)
    lag = found.accounting_lag_s
    assert lag is not None
    assert 0 <= lag < 60
    rows = [len(await history.recent_checks(pool, id_, 1000)) for id_ in (up, down, silent)]
    assert found.due == sum(rows)
    assert found.judged == rows[0] + rows[1]
    assert found.coverage_ratio == found.judged / found.due
    assert (incident.incident_id, incident.acknowledged_at) == (None, None)
