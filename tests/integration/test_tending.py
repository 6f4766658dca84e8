"""What alerts need from time to time: coverage told, summaries written, windows moved on."""

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from lighthouse.channels import Sender
from lighthouse.errors import NotFoundError, UsageError
from lighthouse.model import (
    AlertType,
    Channel,
    ChannelType,
    CheckStatus,
    DeliveryState,
    MonitorType,
    Result,
    Severity,
    Tier,
    to_slot,
)
from lighthouse.settings import load
from lighthouse.store import catalog, maintenance, outbox, parents
from lighthouse.store.budgets import Limits, spend
from lighthouse.store.coverage import Told, tell_coverage
from lighthouse.store.creation import NewSubscription, create_subscriptions
from lighthouse.store.pool import Pool
from lighthouse.store.record import record
from lighthouse.store.summaries import summarise
from lighthouse.windows import Window
from tests.support.history import settle_all

WALLET = "0x" + "ab" * 20
FREE = Limits(subscription=0, user=0)
HOUR = timedelta(hours=1)


async def rows(pool: Pool, query: str, *values: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(query, values)
        return await cursor.fetchall() if cursor.description else []


async def subscribe(pool: Pool, *names: str, interval_s: int = 60, **alerting: Any) -> list[UUID]:
    return await create_subscriptions(
        pool,
        [
            NewSubscription(
                wallet=WALLET,
                type=MonitorType.HTTP,
                config={"url": "http://127.0.0.1/"},
                interval_s=interval_s,
                worst_case_s=5.0,
                tier=Tier.ENTERPRISE,
                name=name,
                alerting=alerting,
            )
            for name in names
        ],
        enforce_plans=False,
    )


async def channel(pool: Pool, subscription_id: UUID, url: str = "http://127.0.0.1/hook") -> UUID:
    ((found,),) = await rows(
        pool,
        "INSERT INTO alert_channels (subscription_id, channel_type, channel_config)"
        " VALUES (%s, 'webhook', %s) RETURNING id",
        subscription_id,
        Jsonb({"url": url}),
    )
    assert isinstance(found, UUID)
    return found


def last_hour() -> datetime:
    """The end of the last whole hour."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


async def checked(pool: Pool, id_: UUID, end: datetime, judged: int, lost: int) -> None:
    """Results of the hour before `end`, and the sweep's mark behind it."""
    statuses = [CheckStatus.SUCCESS] * judged + [CheckStatus.ERROR] * lost
    step = HOUR / len(statuses)
    await record(
        pool,
        [
            Result(subscription_id=id_, slot=to_slot(end - HOUR + n * step), status=status)
            for n, status in enumerate(statuses)
        ],
    )
    await rows(
        pool,
        "INSERT INTO fleet_state (key, value) VALUES ('accounted_to', %s)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        Jsonb({"slot": to_slot(end) + 1000}),
    )
    await settle_all(pool)


async def test_low_coverage_is_told_once_and_its_end_too(pool: Pool) -> None:
    (mine,) = await subscribe(pool, "api")
    await channel(pool, mine)
    operator = uuid4()
    end = last_hour()
    await checked(pool, mine, end - HOUR, judged=40, lost=20)
    assert await tell_coverage(pool, [operator], FREE) == Told(low=1)
    assert await tell_coverage(pool, [operator], FREE) == Told()

    (told,) = await outbox.alerts(pool, mine)
    assert (told.alert_type, told.state) == (AlertType.COVERAGE, DeliveryState.PENDING)
    assert (told.context["judged"], told.context["due"]) == (40, 60)
    (to_operator,) = [a for a in await outbox.alerts(pool) if a.channel_id == operator]
    assert to_operator.context == {"subscriptions": 1}

    await checked(pool, mine, end, judged=60, lost=0)
    assert await tell_coverage(pool, [operator], FREE) == Told(enough=1)
    newest = (await outbox.alerts(pool, mine))[0]
    assert newest.context["covered"] is True
    assert len([a for a in await outbox.alerts(pool) if a.channel_id == operator]) == 1


async def test_low_coverage_that_goes_on_is_not_told_again(pool: Pool) -> None:
    (mine,) = await subscribe(pool, "api")
    await channel(pool, mine)
    end = last_hour()
    await checked(pool, mine, end - HOUR, judged=10, lost=50)
    assert (await tell_coverage(pool, [], FREE)).low == 1
    await checked(pool, mine, end, judged=10, lost=50)
    assert await tell_coverage(pool, [], FREE) == Told()


async def test_enough_coverage_and_one_lost_check_are_no_news(pool: Pool) -> None:
    good, one_lost = await subscribe(pool, "good", "seldom", interval_s=900)
    end = last_hour()
    await checked(pool, good, end, judged=4, lost=0)
    await checked(pool, one_lost, end, judged=3, lost=1)
    assert await tell_coverage(pool, [], FREE) == Told()
    assert await outbox.alerts(pool) == []


async def test_the_share_that_is_wanted_is_the_subscriptions_own(pool: Pool) -> None:
    (strict,) = await subscribe(pool, "strict", min_coverage=0.99)
    (never,) = await subscribe(pool, "never", min_coverage=0)
    end = last_hour()
    await checked(pool, strict, end, judged=58, lost=2)
    await checked(pool, never, end, judged=0, lost=60)
    assert (await tell_coverage(pool, [], FREE)).low == 1
    (told,) = await outbox.alerts(pool, strict)
    assert told.context["min_coverage"] == 0.99
    assert await outbox.alerts(pool, never) == []


async def test_a_seldom_checked_target_is_judged_over_several_hours(pool: Pool) -> None:
    (mine,) = await subscribe(pool, "seldom", interval_s=3600)
    end = last_hour()
    for back in (3, 2):
        await checked(pool, mine, end - back * HOUR, judged=1, lost=0)
    await checked(pool, mine, end - HOUR, judged=0, lost=1)
    assert await tell_coverage(pool, [], FREE) == Told()  # one of three
    await checked(pool, mine, end, judged=0, lost=1)
    assert (await tell_coverage(pool, [], FREE)).low == 1
    (told,) = await outbox.alerts(pool, mine)
    assert (told.context["judged"], told.context["due"]) == (2, 4)


def fails(id_: UUID) -> Result:
    return Result(
        subscription_id=id_,
        slot=to_slot(datetime.now(UTC)) - 1000,
        status=CheckStatus.FAILURE,
        error_code="status_code",
        error_message="status 500",
    )


async def an_hour_later(pool: Pool) -> None:
    await rows(pool, "UPDATE alert_budgets SET hour = hour - interval '1 hour'")
    await rows(pool, "UPDATE alert_history SET created_at = created_at - interval '1 hour'")


def address(found: Channel) -> str:
    return str(found.channel_config["url"])


async def test_what_a_limit_withheld_comes_as_one_summary_an_address(pool: Pool) -> None:
    names = [f"site {n:02}" for n in range(15)]
    made = await subscribe(pool, *names)
    for n, id_ in enumerate(made):
        await channel(pool, id_, "http://127.0.0.1/ops" if n % 3 else "http://127.0.0.1/other")
    await record(pool, [fails(id_) for id_ in made], Limits(subscription=0, user=3))
    told = [a for a in await outbox.alerts(pool, limit=100) if a.state is DeliveryState.PENDING]
    assert len(told) == 3
    assert sum("limit_until" in a.context for a in told) == 1

    assert await summarise(pool, address) == 0  # the hour is not over
    await an_hour_later(pool)
    assert await summarise(pool, address) == 2
    assert await summarise(pool, address) == 0

    summaries = [
        a for a in await outbox.alerts(pool, limit=100) if a.alert_type is AlertType.SUMMARY
    ]
    assert len(summaries) == 2
    assert len({a.event_id for a in summaries}) == 1
    assert sum(a.context["count"] for a in summaries) == 12
    for one in summaries:
        assert one.state is DeliveryState.PENDING
        assert one.context["kinds"] == {"downtime": one.context["count"]}
        assert one.context["still_down_count"] == one.context["count"]


async def test_what_has_ended_is_not_told_as_going_on(pool: Pool) -> None:
    first, second = await subscribe(pool, "first", "second")
    for id_ in (first, second):
        await channel(pool, id_)
    limits = Limits(subscription=0, user=1)
    failing = [fails(first), fails(second)]
    await record(pool, failing, limits)
    (withheld,) = [a for a in await outbox.alerts(pool) if a.state is DeliveryState.SUPPRESSED]
    up = Result(
        subscription_id=withheld.subscription_id,
        slot=failing[0].slot + 500,
        status=CheckStatus.SUCCESS,
    )
    await record(pool, [up], limits)
    recovery = (await outbox.alerts(pool, withheld.subscription_id))[0]
    assert (recovery.alert_type, recovery.failed_reason) == (
        AlertType.RECOVERY,
        "nobody was told that it began",
    )
    await an_hour_later(pool)
    assert await summarise(pool, address) == 1
    (summary,) = [a for a in await outbox.alerts(pool) if a.alert_type is AlertType.SUMMARY]
    assert (summary.context["still_down"], summary.context["count"]) == ([], 1)


async def test_one_address_is_one_whatever_channels_lead_there() -> None:
    async with Sender(load({})) as sender:
        one, same, other = (
            sender.address(_webhook(url))
            for url in ("https://a.example/1", "https://a.example/1", "https://a.example/2")
        )
    assert one == same != other
    assert "a.example" not in one


def _webhook(url: str) -> Channel:
    return Channel(
        id=uuid4(),
        subscription_id=uuid4(),
        channel_type=ChannelType.WEBHOOK,
        channel_config={"url": url},
        enabled=True,
        min_severity=Severity.WARNING,
    )


async def test_windows_that_are_over_move_on_or_go(pool: Pool) -> None:
    (mine,) = await subscribe(pool, "api")
    start = (datetime.now(UTC) - timedelta(minutes=30)).replace(tzinfo=None, microsecond=0)
    daily = await maintenance.add_window(
        pool,
        Window(local_start=start, duration_s=3600, timezone="UTC", repeat="FREQ=DAILY"),
        subscription_id=mine,
    )
    once = await maintenance.add_window(
        pool, Window(local_start=start, duration_s=3600, timezone="UTC"), wallet=WALLET
    )
    assert {w.id for w in await maintenance.list_windows(pool, subscription_id=mine)} == {
        daily,
        once,
    }
    assert await maintenance.advance(pool) == 0
    await rows(
        pool,
        "UPDATE maintenance_windows SET ends_at = now() - interval '1 s',"
        " starts_at = now() - interval '1 hour', local_start = local_start - interval '1 hour'",
    )
    assert await maintenance.advance(pool) == 2
    (left,) = await maintenance.list_windows(pool)
    assert left.id == daily
    assert left.starts_at > datetime.now(UTC)
    await maintenance.remove_window(pool, daily)
    with pytest.raises(NotFoundError):
        await maintenance.remove_window(pool, daily)


async def test_a_window_that_is_over_and_of_nobody_is_refused(pool: Pool) -> None:
    past = Window(local_start=datetime.fromisoformat("2020-01-01"), duration_s=60, timezone="UTC")
    (mine,) = await subscribe(pool, "api")
    with pytest.raises(UsageError, match="already over"):
        await maintenance.add_window(pool, past, subscription_id=mine)
    with pytest.raises(NotFoundError):
        await maintenance.add_window(pool, past, subscription_id=uuid4())
    with pytest.raises(UsageError, match="either"):
        await maintenance.add_window(pool, past)


async def test_parents_are_of_the_same_wallet_and_make_no_circle(pool: Pool) -> None:
    a, b, c = await subscribe(pool, "a", "b", "c")
    await parents.set_parents(pool, c, [b])
    await parents.set_parents(pool, b, [a])
    assert await parents.parents_of(pool, [a, b, c]) == {b: [a], c: [b]}
    for child, parent in ((a, c), (a, a), (b, c)):
        with pytest.raises(UsageError, match="own parent"):
            await parents.set_parents(pool, child, [parent])
    with pytest.raises(UsageError, match="same wallet"):
        await parents.set_parents(pool, a, [uuid4()])
    await parents.set_parents(pool, c, [])
    assert await parents.parents_of(pool, [a, b, c]) == {b: [a]}


async def test_coverage_and_recorders_lock_in_one_order(pool: Pool) -> None:
    """All states, then all budgets: fails when the two wait for each other."""
    low, enough = await subscribe(pool, "low", "enough")
    end = last_hour()
    await checked(pool, low, end, judged=40, lost=20)
    await checked(pool, enough, end, judged=60, lost=0)
    await rows(
        pool,
        "UPDATE subscription_state SET uncovered_since = now() WHERE subscription_id = %s",
        enough,
    )
    ((owner,),) = await rows(pool, "SELECT id FROM users")
    async with pool.connection() as recorder, recorder.transaction():
        await recorder.execute(
            "SELECT FROM subscription_state WHERE subscription_id = %s FOR UPDATE", (enough,)
        )
        telling = asyncio.create_task(tell_coverage(pool, [], FREE))
        await asyncio.sleep(0.3)
        assert not telling.done()
        async with asyncio.timeout(0.5):  # PostgreSQL looks for circles after a second
            await spend(recorder, [(enough, owner)], FREE)
    assert await telling == Told(low=1, enough=1)


async def test_a_policy_is_changed_beside_a_change_of_the_same_owners_tree(pool: Pool) -> None:
    """A second write of a row refers to its owner, whom the other change has locked first."""
    one, other = await subscribe(pool, "one", "other")
    async with pool.connection() as changing, changing.transaction():
        await parents.write_parents(changing, one, [other])
        async with asyncio.timeout(2):
            await catalog.change(
                pool, one, worst_case_s=1, enforce_plans=False, alerting={"flapping": None}
            )


async def test_windows_that_take_long_to_move_on_stop_nothing_else(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: Any) -> None:
        time.sleep(0.5)

    await subscribe(pool, "one")
    window = Window(local_start=datetime(2020, 1, 1), duration_s=60, timezone="UTC")  # noqa: DTZ001
    daily = replace(window, repeat="FREQ=DAILY")
    await maintenance.add_window(pool, daily, wallet=WALLET)
    await rows(
        pool,
        "UPDATE maintenance_windows SET starts_at = now() - interval '2 hours',"
        " ends_at = now() - interval '1 hour'",
    )
    monkeypatch.setattr(maintenance, "occurrence", slow)
    moving = asyncio.create_task(maintenance.advance(pool))
    turns = 0
    while not moving.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert (await moving, turns > 10) == (1, True)
