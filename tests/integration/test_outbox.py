"""The outbox on a real server: events written once, deliveries claimed under leases and marked."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from lighthouse.model import (
    NO_CHANNEL,
    OPERATOR,
    AlertType,
    ChannelType,
    DeliveryState,
    Severity,
    event_id,
    from_slot,
    to_slot,
)
from lighthouse.store import outbox
from lighthouse.store.edition import Edition
from lighthouse.store.pool import Pool
from tests.support.history import edition_of

HOOK = "http://127.0.0.1:9/hook"


async def rows(pool: Pool, query: str, *values: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(query, values)
        return await cursor.fetchall() if cursor.description else []


async def add_subscription(pool: Pool, name: str = "Shop") -> UUID:
    found = await rows(
        pool,
        "WITH u AS (INSERT INTO users (wallet_address) VALUES (%s) RETURNING id)"
        " INSERT INTO subscriptions (user_id, name, target_type, target_config, status)"
        " SELECT id, %s, 'http', '{}', 'active' FROM u RETURNING id",
        f"0x{uuid4().hex}{uuid4().hex[:8]}",
        name,
    )
    return found[0][0]


async def add_channel(
    pool: Pool,
    subscription_id: UUID,
    *,
    url: str = HOOK,
    min_severity: str = "warning",
    enabled: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> UUID:
    found = await rows(
        pool,
        "INSERT INTO alert_channels (subscription_id, channel_type, channel_config, min_severity,"
        " enabled, metadata) VALUES (%s, 'webhook', %s, %s, %s, %s) RETURNING id",
        subscription_id,
        Jsonb({"url": url}),
        min_severity,
        enabled,
        Jsonb(dict(metadata or {})),
    )
    return found[0][0]


async def recent_slot(pool: Pool) -> int:
    ((now,),) = await rows(pool, "SELECT now()")
    return to_slot(now) - 1000


async def event(pool: Pool, subscription_id: UUID, **changes: Any) -> outbox.Event:
    values: dict[str, Any] = {
        "subscription_id": subscription_id,
        "slot": await recent_slot(pool),
        "alert_type": AlertType.DOWNTIME,
        "severity": Severity.CRITICAL,
        "title": "Shop is down",
        "message": "status 503",
        "context": {"name": "Shop", "http_status": 503},
    }
    return outbox.Event(**{**values, **changes})


async def enqueue(pool: Pool, given: outbox.Event) -> int:
    async with pool.connection() as connection, connection.transaction():
        return await outbox.enqueue(connection, given)


async def only(pool: Pool) -> outbox.Alert:
    found = await outbox.alerts(pool)
    assert len(found) == 1
    return found[0]


async def test_an_event_becomes_one_pending_row_for_each_channel_that_wants_it(pool: Pool) -> None:
    mine, other = await add_subscription(pool), await add_subscription(pool)
    wanted = {await add_channel(pool, mine), await add_channel(pool, mine, min_severity="info")}
    await add_channel(pool, mine, min_severity="critical")
    await add_channel(pool, mine, enabled=False)
    await add_channel(pool, other)

    given = await event(pool, mine, severity=Severity.WARNING)
    assert await enqueue(pool, given) == 2

    found = await outbox.alerts(pool, mine)
    assert {a.channel_id for a in found} == wanted
    assert {a.event_id for a in found} == {event_id(mine, given.slot, AlertType.DOWNTIME)}
    for alert in found:
        assert alert.time == alert.related_check_time == from_slot(given.slot)
        assert alert.state is DeliveryState.PENDING
        assert alert.next_attempt_at == alert.created_at
        assert (alert.attempt, alert.sent, alert.sent_at) == (0, False, None)
        assert alert.subscription_name == "Shop"
        assert alert.channel_type is ChannelType.WEBHOOK
        assert alert.context == {"name": "Shop", "http_status": 503}


async def test_the_same_event_again_writes_nothing_even_for_a_channel_added_since(
    pool: Pool,
) -> None:
    mine = await add_subscription(pool)
    await add_channel(pool, mine)
    given = await event(pool, mine)
    assert await enqueue(pool, given) == 1
    await add_channel(pool, mine)
    assert await enqueue(pool, given) == 0
    assert len(await outbox.alerts(pool, mine)) == 1


async def test_an_event_without_a_channel_is_stored_as_suppressed(pool: Pool) -> None:
    mine = await add_subscription(pool)
    await add_channel(pool, mine, min_severity="critical")
    assert await enqueue(pool, await event(pool, mine, severity=Severity.INFO)) == 0
    alert = await only(pool)
    assert (alert.channel_id, alert.state) == (NO_CHANNEL, DeliveryState.SUPPRESSED)
    assert (alert.failed_reason, alert.next_attempt_at) == ("no channel", None)
    assert await outbox.claim(pool, 10, 30) == []


async def test_a_transaction_that_rolls_back_leaves_no_alert(pool: Pool) -> None:
    mine = await add_subscription(pool)
    await add_channel(pool, mine)
    given = await event(pool, mine)

    async def fail() -> None:
        async with pool.connection() as connection, connection.transaction():
            await outbox.enqueue(connection, given)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await outbox.alerts(pool) == []


async def test_text_that_postgresql_cannot_store_does_not_lose_the_event(pool: Pool) -> None:
    mine = await add_subscription(pool)
    await add_channel(pool, mine)
    assert await enqueue(pool, await event(pool, mine, message="a\x00b\ud800")) == 1
    assert (await only(pool)).message == "a�b?"


async def test_a_claim_carries_the_channel_and_holds_until_its_lease_runs_out(pool: Pool) -> None:
    mine = await add_subscription(pool)
    channel = await add_channel(pool, mine, metadata={"language": "es"})
    given = await event(pool, mine)
    await enqueue(pool, given)
    assert await outbox.due_count(pool) == 1

    (first,) = await outbox.claim(pool, 10, lease_s=0.3)
    assert first.channel is not None
    assert (first.channel.id, first.channel.language) == (channel, "es")
    assert first.channel.channel_config == {"url": HOOK}
    assert (first.subscription_name, first.slot, first.attempt) == ("Shop", given.slot, 1)
    assert 0 <= first.age_s < 5
    assert await outbox.claim(pool, 10, lease_s=30) == []

    await asyncio.sleep(0.35)
    (second,) = await outbox.claim(pool, 10, lease_s=30)
    assert (second.event_id, second.attempt) == (first.event_id, 2)
    assert second.lease_token != first.lease_token


async def test_who_lost_the_lease_changes_nothing(pool: Pool) -> None:
    mine = await add_subscription(pool)
    await add_channel(pool, mine)
    await enqueue(pool, await event(pool, mine))
    (dead,) = await outbox.claim(pool, 10, lease_s=0.05)
    await asyncio.sleep(0.1)
    (alive,) = await outbox.claim(pool, 10, lease_s=30)

    assert await outbox.mark_sent(pool, dead, "204") is False
    assert await outbox.mark_retry(pool, dead, "503", 5) is False
    assert await outbox.put_back(pool, dead) is False
    assert await outbox.mark_end(pool, dead, DeliveryState.GAVE_UP, "late") is False
    assert (await only(pool)).state is DeliveryState.PENDING
    assert await outbox.mark_sent(pool, alive, "204") is True
    assert await outbox.mark_sent(pool, alive, "204") is False


async def test_claims_at_once_never_take_the_same_delivery(pool: Pool) -> None:
    mine = await add_subscription(pool)
    for _ in range(12):
        await add_channel(pool, mine)
    await enqueue(pool, await event(pool, mine))
    taken = await asyncio.gather(*(outbox.claim(pool, 5, 30) for _ in range(4)))
    channels = [delivery.channel_id for claim in taken for delivery in claim]
    assert len(channels) == len(set(channels))
    rest = await outbox.claim(pool, 50, 30)
    assert len(channels) + len(rest) == 12


async def test_busy_channels_are_left_alone(pool: Pool) -> None:
    mine = await add_subscription(pool)
    slow, quick = await add_channel(pool, mine), await add_channel(pool, mine)
    await enqueue(pool, await event(pool, mine))
    assert [d.channel_id for d in await outbox.claim(pool, 10, 30, busy=[slow])] == [quick]


async def test_a_sent_delivery_marks_its_check_and_its_channel(pool: Pool) -> None:
    mine = await add_subscription(pool)
    one, two = await add_channel(pool, mine), await add_channel(pool, mine)
    given = await event(pool, mine)
    await rows(
        pool,
        "INSERT INTO check_history (time, subscription_id, status) VALUES (%s, %s, 'failure')",
        from_slot(given.slot),
        mine,
    )
    await enqueue(pool, given)
    by_channel = {d.channel_id: d for d in await outbox.claim(pool, 10, 30)}

    assert await outbox.mark_sent(pool, by_channel[one], "HTTP 204")
    ((told,),) = await rows(pool, "SELECT alert_sent_at FROM check_history")
    assert told is not None
    assert await outbox.mark_sent(pool, by_channel[two], "HTTP 204")
    assert await rows(pool, "SELECT alert_sent_at FROM check_history") == [(told,)]

    used = await rows(pool, "SELECT count(*) FROM alert_channels WHERE last_used_at IS NOT NULL")
    assert used == [(2,)]
    for alert in await outbox.alerts(pool, mine):
        assert (alert.state, alert.sent, alert.last_answer) == (
            DeliveryState.SENT,
            True,
            "HTTP 204",
        )
        assert alert.sent_at is not None
        assert alert.next_attempt_at is None
    leases = await rows(pool, "SELECT lease_token, lease_until FROM alert_history")
    assert leases == [(None, None)] * 2
    assert await outbox.due_count(pool) == 0


async def test_a_retry_waits_for_its_time(pool: Pool) -> None:
    mine = await add_subscription(pool)
    await add_channel(pool, mine)
    await enqueue(pool, await event(pool, mine))
    (delivery,) = await outbox.claim(pool, 10, 30)
    assert await outbox.mark_retry(pool, delivery, "HTTP 503", 0.4)
    assert await outbox.claim(pool, 10, 30) == []
    assert await outbox.due_count(pool) == 0
    assert (await only(pool)).last_answer == "HTTP 503"
    await asyncio.sleep(0.45)
    (again,) = await outbox.claim(pool, 10, 30)
    assert again.attempt == 2


async def test_a_claim_put_back_is_due_at_once_and_counts_no_attempt(pool: Pool) -> None:
    mine = await add_subscription(pool)
    await add_channel(pool, mine)
    await enqueue(pool, await event(pool, mine))
    (delivery,) = await outbox.claim(pool, 10, 30)
    assert await outbox.put_back(pool, delivery)
    (again,) = await outbox.claim(pool, 10, 30)
    assert again.attempt == 1


async def test_an_end_state_keeps_its_reason_and_is_never_claimed(pool: Pool) -> None:
    mine = await add_subscription(pool)
    await add_channel(pool, mine)
    await enqueue(pool, await event(pool, mine))
    (delivery,) = await outbox.claim(pool, 10, 30)
    assert await outbox.mark_end(
        pool, delivery, DeliveryState.GAVE_UP, "HTTP 410", answer="HTTP 410"
    )
    alert = await only(pool)
    assert (alert.state, alert.failed_reason, alert.sent) == (
        DeliveryState.GAVE_UP,
        "HTTP 410",
        False,
    )
    assert (alert.next_attempt_at, alert.last_answer) == (None, "HTTP 410")
    assert await outbox.claim(pool, 10, 30) == []


@pytest.mark.parametrize("repaired", [False, True])
async def test_a_channel_is_switched_off_only_as_it_was_when_it_failed(
    pool: Pool, repaired: bool
) -> None:
    mine = await add_subscription(pool)
    await add_channel(pool, mine)
    await enqueue(pool, await event(pool, mine))
    (delivery,) = await outbox.claim(pool, 10, 30)
    if repaired:
        await rows(pool, "UPDATE alert_channels SET channel_config = %s", Jsonb({"url": "new"}))
    await outbox.mark_end(pool, delivery, DeliveryState.GAVE_UP, "HTTP 410", disable_channel=True)
    ((enabled, metadata),) = await rows(pool, "SELECT enabled, metadata FROM alert_channels")
    assert enabled is repaired
    assert metadata == ({} if repaired else {"disabled_reason": "HTTP 410"})


async def test_a_removed_channel_is_claimed_as_none(pool: Pool) -> None:
    mine = await add_subscription(pool)
    channel = await add_channel(pool, mine)
    await enqueue(pool, await event(pool, mine))
    await rows(pool, "DELETE FROM alert_channels")
    (delivery,) = await outbox.claim(pool, 10, 30)
    assert (delivery.channel, delivery.channel_id) == (None, channel)


async def test_an_operator_event_is_one_event_whoever_raises_it(pool: Pool) -> None:
    channels = [uuid4(), uuid4()]

    async def raise_it() -> int:
        async with pool.connection() as connection:
            return await outbox.enqueue_operator(
                connection, channels, "queue_full:2026-11-24T03", "Queue full", "500 wait"
            )

    assert sorted(await asyncio.gather(*(raise_it() for _ in range(4)))) == [0, 0, 0, 2]
    found = await outbox.alerts(pool, OPERATOR)
    assert {a.channel_id for a in found} == set(channels)
    assert {(a.alert_type, a.severity) for a in found} == {(AlertType.OPERATOR, Severity.CRITICAL)}
    claimed = await outbox.claim(pool, 10, 30)
    assert len(claimed) == 2
    # The claim finds the very rows again: their times are whole milliseconds.
    for delivery in claimed:
        assert await outbox.mark_sent(pool, delivery, "204")


async def test_an_operator_event_without_channels_is_stored_as_suppressed(pool: Pool) -> None:
    async with pool.connection() as connection:
        assert await outbox.enqueue_operator(connection, [], "clock", "Clock jumped", "by 1 h") == 0
    alert = await only(pool)
    assert (alert.channel_id, alert.state) == (NO_CHANNEL, DeliveryState.SUPPRESSED)


async def test_alerts_come_newest_first_and_of_one_subscription_if_asked(pool: Pool) -> None:
    one, two = await add_subscription(pool, "one"), await add_subscription(pool, "two")
    slot = await recent_slot(pool)
    await enqueue(pool, await event(pool, one, slot=slot - 60_000))
    await enqueue(pool, await event(pool, two, slot=slot - 30_000))
    await enqueue(pool, await event(pool, one, slot=slot, alert_type=AlertType.RECOVERY))
    assert [a.subscription_name for a in await outbox.alerts(pool)] == ["one", "two", "one"]
    assert [a.alert_type for a in await outbox.alerts(pool, one)] == [
        AlertType.RECOVERY,
        AlertType.DOWNTIME,
    ]
    assert len(await outbox.alerts(pool, limit=1)) == 1


async def test_events_are_written_without_a_look_at_a_years_history(pool: Pool) -> None:
    """Fails when the chunks of other weeks are read: those that are compressed get unpacked."""
    mine = await add_subscription(pool)
    await add_channel(pool, mine)
    await rows(
        pool,
        "INSERT INTO alert_history (time, event_id, channel_id, subscription_id, alert_type,"
        " severity, title, message, state) SELECT now() - g * interval '7 days',"
        " gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'downtime', 'critical', 't',"
        " 'm', 'sent' FROM generate_series(1, 30) g",
    )
    down = await event(pool, mine)
    of = {"incident_id": down.id, "opened_at": from_slot(down.slot)}
    await enqueue(pool, replace(down, **of))
    up = await event(
        pool, mine, slot=down.slot + 1000, alert_type=AlertType.RECOVERY, closes=True, **of
    )
    async with pool.connection() as connection, connection.transaction():
        assert await outbox.enqueue(connection, up) == 1
        cursor = await connection.execute(
            "SELECT count(DISTINCT relation) FROM pg_locks WHERE pid = pg_backend_pid()"
            " AND relation::regclass::text ~ '_hyper_\\d+_\\d+_chunk$'"
        )
        ((chunks,),) = await cursor.fetchall()
    # Debian's TimescaleDB opens them all to plan, and has none that is compressed.
    assert chunks <= 2 or await edition_of(pool) is Edition.APACHE
