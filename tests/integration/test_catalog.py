"""Subscriptions and their schedules change together or not at all, and beat sees every change."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from lighthouse.errors import NotFoundError, PlanError, UsageError
from lighthouse.model import (
    ChannelType,
    MonitorType,
    Severity,
    SubscriptionStatus,
    Tier,
    to_slot,
)
from lighthouse.slots import next_slot, phase
from lighthouse.store import catalog
from lighthouse.store.pool import Pool

WALLET = "0x" + "aB" * 20
OTHER = "0x" + "cd" * 20
TX = "0x" + "1F" * 32


def new(**changes: Any) -> catalog.NewSubscription:
    values: dict[str, Any] = {
        "wallet": WALLET,
        "type": MonitorType.HTTP,
        "config": {"url": "https://example.com/health"},
        "interval_s": 60,
        "worst_case_s": 20.0,
        "tier": Tier.ENTERPRISE,
    }
    return catalog.NewSubscription(**{**values, **changes})


async def add(pool: Pool, **changes: Any) -> UUID:
    return await catalog.create_subscription(pool, new(**changes), enforce_plans=True)


async def fetch(pool: Pool, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as conn:
        cursor = await conn.execute(query.encode(), arguments)
        return await cursor.fetchall()


async def epochs_of(pool: Pool, subscription_id: UUID) -> list[tuple[int, int, int, int | None]]:
    return [
        (row[0], row[1], row[2], row[3])
        for row in await fetch(
            pool,
            "SELECT interval_ms, phase_ms, first_slot, end_slot FROM schedule_epochs"
            " WHERE subscription_id = %s ORDER BY id",
            subscription_id,
        )
    ]


async def now_ms(pool: Pool) -> int:
    return to_slot((await fetch(pool, "SELECT clock_timestamp()"))[0][0])


async def counts(pool: Pool) -> list[tuple[Any, ...]]:
    return await fetch(
        pool,
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM subscriptions),"
        " (SELECT count(*) FROM subscription_state), (SELECT count(*) FROM schedule_epochs)",
    )


async def test_a_new_subscription_is_active_with_its_user_payment_state_and_schedule(
    pool: Pool,
) -> None:
    before = await now_ms(pool)
    expires = datetime.now(UTC) + timedelta(days=30)
    id_ = await add(
        pool,
        name="The API",
        payment_tx_hash=TX,
        payment_chain="base",
        payment_amount_usdc=20_000_000,
        expires_at=expires,
        metadata={"team": "web3"},
    )
    after = await now_ms(pool)
    found = await catalog.get(pool, id_)
    assert found.wallet_address == WALLET.lower()
    assert found.name == "The API"
    assert found.target_type is MonitorType.HTTP
    assert found.target_config == {"url": "https://example.com/health"}
    assert found.tier is Tier.ENTERPRISE
    assert found.status is SubscriptionStatus.ACTIVE
    assert found.check_interval_seconds == 60
    assert (found.payment_tx_hash, found.payment_chain) == (TX.lower(), "base")
    assert found.payment_amount_usdc == 20_000_000
    assert found.expires_at == expires
    assert found.cancelled_at is None
    assert found.metadata == {"team": "web3"}
    assert found.activated_at == found.created_at
    assert before <= to_slot(found.created_at) <= after
    [(interval, offset, first, end)] = await epochs_of(pool, id_)
    assert (interval, offset, end) == (60_000, phase(id_, 60_000), None)
    assert before <= first <= after
    assert await fetch(
        pool, "SELECT verdict::text, since FROM subscription_state WHERE subscription_id = %s", id_
    ) == [("unknown", None)]


async def test_one_address_in_two_spellings_is_one_user(pool: Pool) -> None:
    await add(pool, wallet="0x" + "AB" * 20)
    await add(pool, wallet="0x" + "ab" * 20)
    assert await fetch(pool, "SELECT wallet_address FROM users") == [("0x" + "ab" * 20,)]
    assert len(await catalog.list_subscriptions(pool, "0x" + "Ab" * 20)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wallet": "0x12"}, "wallet: '0x12' is no address"),
        ({"wallet": "ab" * 21}, "is no address"),
        ({"interval_s": 9, "worst_case_s": 1}, "interval: 9 s is outside 10 to 86400 s"),
        ({"worst_case_s": 60.0}, "timeout: .* does not fit the interval of 60 s"),
        ({"tier": Tier.PRO, "interval_s": 30}, "interval: the pro plan checks every 60 s"),
        ({"tier": Tier.FREE, "interval_s": 900, "type": MonitorType.BALANCE}, "has no balance"),
        ({"name": " "}, "name: 1 to 100 printable"),
        ({"name": "x" * 101}, "name: 1 to 100 printable"),
        ({"name": "a\nb"}, "name: 1 to 100 printable"),
        ({"payment_tx_hash": TX}, "payment: a transaction and its chain"),
        ({"payment_chain": "base"}, "payment: a transaction and its chain"),
        ({"payment_tx_hash": "0x1", "payment_chain": "base"}, "payment_tx: .* 64 hex"),
        ({"payment_tx_hash": TX, "payment_chain": "Base"}, "payment_chain: 'Base' is none of"),
        ({"payment_amount_usdc": 5}, "payment_usdc: an amount needs its transaction"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires_at: .* already passed"),
        ({"expires_at": datetime(2099, 1, 1)}, "expires_at: .* time zone"),  # noqa: DTZ001
        ({"config": {"url": "https://x/", "body": "\x00"}}, "config: cannot be stored"),
        ({"config": {"url": "https://x/", "body": "\ud800"}}, "config: cannot be stored"),
    ],
)
async def test_what_is_wrong_is_one_line_and_leaves_nothing_behind(
    pool: Pool, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        await add(pool, **changes)
    assert "\n" not in str(refused.value)
    assert await counts(pool) == [(0, 0, 0, 0)]


async def test_a_plan_holds_its_number_of_subscriptions_per_wallet(pool: Pool) -> None:
    basic = {"tier": Tier.BASIC, "interval_s": 900}
    first = await add(pool, **basic)
    second = await add(pool, **basic)
    await add(pool, **basic)
    await catalog.pause(pool, second)
    with pytest.raises(PlanError, match="the basic plan holds 3 subscriptions a wallet"):
        await add(pool, **basic)
    await add(pool, wallet=OTHER, **basic)
    await catalog.cancel(pool, first)
    await add(pool, **basic)


async def test_plans_can_be_set_aside(pool: Pool) -> None:
    for _ in range(3):
        await catalog.create_subscription(
            pool,
            new(tier=Tier.FREE, interval_s=10, worst_case_s=5, type=MonitorType.CANARY),
            enforce_plans=False,
        )
    assert await counts(pool) == [(1, 3, 3, 3)]


async def test_two_creations_at_once_cannot_pass_a_plans_limit_together(pool: Pool) -> None:
    free = {"tier": Tier.FREE, "interval_s": 900}
    outcomes = await asyncio.gather(*(add(pool, **free) for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(outcome, UUID) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, PlanError) for outcome in outcomes) == 5


async def test_names_made_from_the_target_are_unique_for_their_wallet(pool: Pool) -> None:
    await catalog.create_subscriptions(
        pool,
        [new(), new(name="example.com-2"), new(), new(type=MonitorType.BALANCE, config={})],
        enforce_plans=True,
    )
    await add(pool)
    await add(pool, wallet=OTHER)
    names = [s.name for s in await catalog.list_subscriptions(pool, WALLET)]
    assert sorted(names) == [
        "balance",
        "example.com",
        "example.com-2",
        "example.com-3",
        "example.com-4",
    ]
    assert [s.name for s in await catalog.list_subscriptions(pool, OTHER)] == ["example.com"]


async def test_a_name_that_is_taken_is_refused(pool: Pool) -> None:
    await add(pool, name="api")
    with pytest.raises(UsageError, match=f"name: wallet {WALLET.lower()} already has .* 'api'"):
        await add(pool, name="api")
    with pytest.raises(UsageError, match="already has a subscription 'twin'"):
        await catalog.create_subscriptions(
            pool, [new(name="twin"), new(name="twin")], enforce_plans=True
        )
    assert await counts(pool) == [(1, 1, 1, 1)]


async def test_one_payment_buys_one_subscription(pool: Pool) -> None:
    payment = {"payment_tx_hash": TX, "payment_chain": "base"}
    await add(pool, **payment)
    with pytest.raises(UsageError, match="this payment has already bought a subscription"):
        await add(
            pool,
            wallet=OTHER,
            payment_tx_hash=TX.upper().replace("X", "x", 1),
            payment_chain="base",
        )
    await add(pool, payment_tx_hash=TX, payment_chain="polygon")
    assert await counts(pool) == [(1, 2, 2, 2)]


async def test_first_checks_of_many_are_spread_and_never_later_than_the_grid(pool: Pool) -> None:
    before = await now_ms(pool)
    ids = await catalog.create_subscriptions(
        pool, [new()] * 500, enforce_plans=True, spacing_ms=100
    )
    after = await now_ms(pool)
    firsts = dict(await fetch(pool, "SELECT subscription_id, first_slot FROM schedule_epochs"))
    spread = 0
    for index, id_ in enumerate(ids):
        earliest, latest = before + index * 100, after + index * 100
        grid = {next_slot(now, 60_000, phase(id_, 60_000)) for now in (before, after)}
        assert firsts[id_] <= max(grid)
        if firsts[id_] not in grid:
            assert earliest <= firsts[id_] <= latest
            spread += 1
    assert spread > 50


async def test_pause_closes_the_schedule_and_resume_opens_one_at_once(pool: Pool) -> None:
    id_ = await add(pool)
    before = await now_ms(pool)
    await catalog.pause(pool, id_)
    middle = await now_ms(pool)
    [(_, _, first, end)] = await epochs_of(pool, id_)
    assert end is not None
    assert first <= before <= end <= middle
    await catalog.resume(pool, id_)
    [_, (interval, offset, again, open_end)] = await epochs_of(pool, id_)
    assert (interval, offset, open_end) == (60_000, phase(id_, 60_000), None)
    assert middle <= again <= await now_ms(pool)
    assert (await catalog.get(pool, id_)).status is SubscriptionStatus.ACTIVE


async def test_a_schedule_that_was_paced_and_has_not_begun_ends_empty(pool: Pool) -> None:
    ids = await catalog.create_subscriptions(
        pool, [new(interval_s=86_400)] * 2, enforce_plans=True, spacing_ms=60_000
    )
    await catalog.pause(pool, ids[1])
    [(_, _, first, end)] = await epochs_of(pool, ids[1])
    assert end == first
    await catalog.resume(pool, ids[1])
    [_, (_, _, again, _)] = await epochs_of(pool, ids[1])
    assert again < first


async def test_after_the_clock_went_back_no_slot_is_due_twice(pool: Pool) -> None:
    id_ = await add(pool)
    await catalog.pause(pool, id_)
    ahead = await now_ms(pool) + 3_600_000
    await fetch(pool, "UPDATE schedule_epochs SET end_slot = %s RETURNING id", ahead)
    await catalog.resume(pool, id_)
    [_, (_, _, first, _)] = await epochs_of(pool, id_)
    assert first == ahead


async def test_another_interval_begins_with_its_own_grid(pool: Pool) -> None:
    id_ = await add(pool)
    before = await now_ms(pool)
    await catalog.set_interval(pool, id_, 300, worst_case_s=20, enforce_plans=True)
    [(_, _, _, end), (interval, offset, first, _)] = await epochs_of(pool, id_)
    assert (interval, offset) == (300_000, phase(id_, 300_000))
    assert end is not None
    assert before <= end <= first < end + 300_000
    assert (first - offset) % 300_000 == 0
    assert (await catalog.get(pool, id_)).check_interval_seconds == 300


async def test_a_paused_subscription_takes_another_interval_without_a_schedule(pool: Pool) -> None:
    id_ = await add(pool)
    await catalog.pause(pool, id_)
    await catalog.set_interval(pool, id_, 300, worst_case_s=20, enforce_plans=True)
    assert len(await epochs_of(pool, id_)) == 1
    await catalog.resume(pool, id_)
    assert (await epochs_of(pool, id_))[1][0] == 300_000


async def test_another_configuration_leaves_the_schedule_alone(pool: Pool) -> None:
    id_ = await add(pool)
    before = await epochs_of(pool, id_)
    await catalog.update_config(pool, id_, {"url": "https://example.org"}, worst_case_s=20)
    assert (await catalog.get(pool, id_)).target_config == {"url": "https://example.org"}
    assert await epochs_of(pool, id_) == before


async def test_a_change_that_breaks_a_limit_changes_nothing(pool: Pool) -> None:
    id_ = await add(pool, tier=Tier.PRO)
    before = await epochs_of(pool, id_)
    with pytest.raises(PlanError, match="the pro plan checks every 60 s"):
        await catalog.set_interval(pool, id_, 30, worst_case_s=20, enforce_plans=True)
    with pytest.raises(UsageError, match="does not fit the interval of 60 s"):
        await catalog.update_config(pool, id_, {"url": "https://example.org"}, worst_case_s=90)
    with pytest.raises(UsageError, match="outside 10 to 86400"):
        await catalog.set_interval(pool, id_, 5, worst_case_s=1, enforce_plans=False)
    assert await epochs_of(pool, id_) == before
    assert (await catalog.get(pool, id_)).target_config == {"url": "https://example.com/health"}


async def test_a_cancelled_subscription_stays_cancelled(pool: Pool) -> None:
    id_ = await add(pool)
    await catalog.cancel(pool, id_)
    found = await catalog.get(pool, id_)
    assert found.status is SubscriptionStatus.CANCELLED
    assert found.cancelled_at is not None
    assert (await epochs_of(pool, id_))[0][3] is not None
    for attempt in (catalog.pause, catalog.resume, catalog.cancel):
        with pytest.raises(UsageError, match=f"subscription {id_} is cancelled and cannot be"):
            await attempt(pool, id_)
    with pytest.raises(UsageError, match="is cancelled and cannot be changed"):
        await catalog.set_interval(pool, id_, 120, worst_case_s=20, enforce_plans=False)


async def test_a_state_that_is_there_already_is_refused(pool: Pool) -> None:
    id_ = await add(pool)
    with pytest.raises(UsageError, match=f"subscription {id_} is active and cannot be resumed"):
        await catalog.resume(pool, id_)
    await catalog.pause(pool, id_)
    with pytest.raises(UsageError, match=f"subscription {id_} is paused and cannot be paused"):
        await catalog.pause(pool, id_)


async def test_of_two_pauses_at_once_one_is_refused(pool: Pool) -> None:
    id_ = await add(pool)
    outcomes = await asyncio.gather(
        *(catalog.pause(pool, id_) for _ in range(4)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(UsageError) == 3
    assert len(await epochs_of(pool, id_)) == 1


async def test_an_unknown_id_is_named(pool: Pool) -> None:
    nobody = uuid4()
    for attempt in (catalog.get, catalog.pause, catalog.resume, catalog.cancel):
        with pytest.raises(NotFoundError, match=f"no subscription {nobody}"):
            await attempt(pool, nobody)


async def test_an_expired_subscription_is_due_no_longer_than_it_was_paid_for(pool: Pool) -> None:
    now = await now_ms(pool)
    id_ = await add(pool, expires_at=datetime.now(UTC) + timedelta(hours=1))
    kept = await add(pool, expires_at=datetime.now(UTC) + timedelta(days=1))
    await fetch(
        pool,
        "UPDATE schedule_epochs SET first_slot = first_slot - 7200000"
        " WHERE subscription_id = %s RETURNING id",
        id_,
    )
    await fetch(
        pool,
        "UPDATE subscriptions SET expires_at = now() - interval '1 hour' WHERE id = %s"
        " RETURNING id",
        id_,
    )
    assert await catalog.expire_due(pool) == [id_]
    assert await catalog.expire_due(pool) == []
    found = await catalog.get(pool, id_)
    assert found.status is SubscriptionStatus.EXPIRED
    assert found.expires_at is not None
    [(_, _, _, end)] = await epochs_of(pool, id_)
    assert end == to_slot(found.expires_at)
    assert end < now
    assert (await catalog.get(pool, kept)).status is SubscriptionStatus.ACTIVE


async def test_a_paused_subscription_past_its_end_is_not_resumed(pool: Pool) -> None:
    id_ = await add(pool, expires_at=datetime.now(UTC) + timedelta(hours=1))
    await catalog.pause(pool, id_)
    await fetch(pool, "UPDATE subscriptions SET expires_at = now() - interval '1 s' RETURNING id")
    with pytest.raises(UsageError, match=f"subscription {id_} expired at"):
        await catalog.resume(pool, id_)


async def test_active_subscriptions_are_those_that_are_checked(pool: Pool) -> None:
    ids = [await add(pool, name=str(n)) for n in range(4)]
    await catalog.pause(pool, ids[1])
    await catalog.cancel(pool, ids[2])
    assert [s.id for s in await catalog.active_subscriptions(pool)] == [ids[0], ids[3]]
    paused = await catalog.list_subscriptions(pool, status=SubscriptionStatus.PAUSED)
    assert [s.id for s in paused] == [ids[1]]
    assert await catalog.list_subscriptions(pool, OTHER) == []


# --- beat's view --------------------------------------------------------------------------------


async def changes(pool: Pool, xid: int) -> tuple[list[catalog.SpecRow], int, int]:
    async with pool.connection() as conn:
        return await catalog.changes_since(conn, xid)


async def test_the_first_look_sees_everything_with_its_open_schedule(pool: Pool) -> None:
    active, paused = await add(pool), await add(pool)
    await catalog.pause(pool, paused)
    rows, _, count = await changes(pool, 0)
    found = {row.id: row for row in rows}
    [(interval, offset, first, _)] = await epochs_of(pool, active)
    assert found.keys() == {active, paused}
    assert found[active].status is SubscriptionStatus.ACTIVE
    assert found[active].target_type is MonitorType.HTTP
    assert json.loads(found[active].target_config) == {"url": "https://example.com/health"}
    assert (found[active].interval_ms, found[active].phase_ms) == (interval, offset)
    assert found[active].first_slot == first
    assert found[active].epoch_id is not None
    assert found[paused].status is SubscriptionStatus.PAUSED
    assert (found[paused].epoch_id, found[paused].interval_ms) == (None, None)
    assert (found[paused].phase_ms, found[paused].first_slot) == (None, None)
    assert count == 1


def fresh(rows: list[catalog.SpecRow], known: dict[UUID, int]) -> list[catalog.SpecRow]:
    """Rows of a version that is not known yet; any other transaction may make one come again."""
    found = [row for row in rows if row.changed_xid > known.get(row.id, 0)]
    known.update({row.id: row.changed_xid for row in found})
    return found


async def test_later_looks_see_what_changed_and_versions_grow(pool: Pool) -> None:
    one, two = await add(pool), await add(pool)
    known: dict[UUID, int] = {}
    rows, xid, _ = await changes(pool, 0)
    assert {row.id for row in fresh(rows, known)} == {one, two}
    rows, xid, _ = await changes(pool, xid)
    assert fresh(rows, known) == []
    await catalog.set_interval(pool, two, 120, worst_case_s=20, enforce_plans=True)
    rows, xid, count = await changes(pool, xid)
    assert [(row.id, row.interval_ms) for row in fresh(rows, known)] == [(two, 120_000)]
    assert count == 2
    await catalog.cancel(pool, one)
    rows, xid, count = await changes(pool, xid)
    assert [(row.id, row.status) for row in fresh(rows, known)] == [
        (one, SubscriptionStatus.CANCELLED)
    ]
    assert count == 1


async def test_a_change_that_commits_late_is_seen_by_the_next_look(pool: Pool) -> None:
    early, late = await add(pool), await add(pool)
    known: dict[UUID, int] = {}
    rows, xid, _ = await changes(pool, 0)
    fresh(rows, known)
    async with pool.connection() as slow, slow.transaction():
        await slow.execute("UPDATE subscriptions SET name = 'late' WHERE id = %s", (late,))
        await catalog.pause(pool, early)
        rows, xid, _ = await changes(pool, xid)
        assert [row.id for row in fresh(rows, known)] == [early]
    rows, xid, _ = await changes(pool, xid)
    assert [row.id for row in fresh(rows, known)] == [late]


async def test_transaction_numbers_of_a_restored_dump_are_told_once(pool: Pool) -> None:
    id_ = await add(pool)
    # As a restored dump has them: written past the trigger.
    async with pool.connection() as conn, conn.transaction():
        await conn.execute("SET LOCAL session_replication_role = 'replica'")
        await conn.execute("UPDATE subscriptions SET changed_xid = 1 << 40")
    rows, xid, count = await changes(pool, 0)
    assert [row.id for row in rows] == [id_]
    assert count == 1
    rows, xid, _ = await changes(pool, xid)
    assert rows == []  # its number is not of this server's time
    await catalog.pause(pool, id_)
    rows, _, _ = await changes(pool, xid)
    assert [(row.id, row.status) for row in rows] == [(id_, SubscriptionStatus.PAUSED)]


async def test_a_look_at_many_comes_in_batches(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lighthouse.store.changes.CHANGES_BATCH", 7)
    ids = await catalog.create_subscriptions(pool, [new()] * 30, enforce_plans=True)
    async with pool.connection() as conn, catalog.changes(conn, 0) as found:
        sizes = [[row.id for row in batch] async for batch in found.batches]
    assert [len(size) for size in sizes] == [7, 7, 7, 7, 2]
    assert {id_ for size in sizes for id_ in size} == set(ids)


# --- channels -----------------------------------------------------------------------------------


async def test_a_channel_is_kept_with_its_language_and_severity(pool: Pool) -> None:
    id_ = await add(pool)
    channel_id = await catalog.add_channel(
        pool,
        id_,
        ChannelType.WEBHOOK,
        {"url": "https://example.com/hook", "secret": "whsec_x"},
        language="es",
        min_severity=Severity.CRITICAL,
        enforce_plans=True,
    )
    found = await catalog.get_channel(pool, channel_id)
    assert found.subscription_id == id_
    assert found.channel_type is ChannelType.WEBHOOK
    assert found.channel_config == {"url": "https://example.com/hook", "secret": "whsec_x"}
    assert found.enabled
    assert found.min_severity is Severity.CRITICAL
    assert found.language == "es"
    assert await catalog.list_channels(pool, id_) == [found]
    assert await catalog.list_channels(pool) == [found]
    assert await catalog.list_channels(pool, uuid4()) == []
    await catalog.remove_channel(pool, channel_id)
    with pytest.raises(NotFoundError, match=f"no channel {channel_id}"):
        await catalog.get_channel(pool, channel_id)
    with pytest.raises(NotFoundError, match=f"no channel {channel_id}"):
        await catalog.remove_channel(pool, channel_id)


async def test_a_channel_needs_a_live_subscription_whose_plan_has_it(pool: Pool) -> None:
    free = await add(pool, tier=Tier.FREE, interval_s=900)
    hook = {"url": "https://example.com"}

    async def attempt(subscription_id: UUID, **changes: Any) -> UUID:
        return await catalog.add_channel(
            pool, subscription_id, ChannelType.WEBHOOK, hook, **{"enforce_plans": True, **changes}
        )

    with pytest.raises(PlanError, match="the free plan has no webhook channel"):
        await attempt(free)
    await attempt(free, enforce_plans=False)
    with pytest.raises(UsageError, match="language: 'fr' is none of en, es"):
        await attempt(free, enforce_plans=False, language="fr")
    nobody = uuid4()
    with pytest.raises(NotFoundError, match=f"no subscription {nobody}"):
        await attempt(nobody)
    await catalog.cancel(pool, free)
    with pytest.raises(UsageError, match="is cancelled"):
        await attempt(free, enforce_plans=False)


async def test_what_is_cancelled_or_expires_leaves_no_incident_open(pool: Pool) -> None:
    first, second = [
        await catalog.create_subscription(pool, new(name=name), enforce_plans=False)
        for name in ("first", "second")
    ]
    async with pool.connection() as conn:
        for id_ in (first, second):
            await conn.execute(
                "INSERT INTO incidents (id, subscription_id, kind, severity, opened_at,"
                " first_failure_at) VALUES (gen_random_uuid(), %s, 'downtime', 'critical', now(),"
                " now())",
                (id_,),
            )
        await conn.execute(
            "UPDATE subscriptions SET expires_at = now() - interval '1 s' WHERE id = %s", (second,)
        )
    await catalog.cancel(pool, first)
    assert await catalog.expire_due(pool) == [second]
    async with pool.connection() as conn:
        cursor = await conn.execute("SELECT count(*) FROM incidents WHERE closed_at IS NULL")
        assert await cursor.fetchone() == (0,)
