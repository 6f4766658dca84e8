"""I1: every due slot ends as exactly one row or inside exactly one gap record."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid4

import pytest

from lighthouse.model import CheckStatus, MonitorType, Result, Tier, from_slot, to_slot
from lighthouse.slots import Epoch, phase
from lighthouse.store import catalog, epochs
from lighthouse.store.pool import Pool
from lighthouse.store.record import record
from lighthouse.store.rollups import ROLLUP_LOCK
from lighthouse.store.sweep import SWEEP_LOCK, split_gap, sweep

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WALLET = "0x" + "5e" * 20


async def fetch(pool: Pool, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as conn:
        cursor = await conn.execute(query.encode(), arguments)
        return await cursor.fetchall()


async def run(pool: Pool, query: str, *arguments: Any) -> None:
    async with pool.connection() as conn:
        await conn.execute(query.encode(), arguments)


async def now_ms(pool: Pool) -> int:
    return to_slot((await fetch(pool, "SELECT clock_timestamp()"))[0][0])


async def subscribe(pool: Pool, *spans: tuple[int, int, int | None]) -> tuple[UUID, list[Epoch]]:
    """A subscription with the given epochs, each (interval_ms, first_slot, end_slot)."""
    subscription_id = await catalog.create_subscription(
        pool,
        catalog.NewSubscription(
            wallet=WALLET,
            type=MonitorType.HTTP,
            config={"url": "https://example.com"},
            tier=Tier.ENTERPRISE,
            interval_s=60,
            worst_case_s=10,
        ),
        enforce_plans=False,
    )
    await run(pool, "DELETE FROM schedule_epochs WHERE subscription_id = %s", subscription_id)
    made = []
    for interval, first, end in spans:
        epoch = Epoch(
            interval_ms=interval,
            phase_ms=phase(subscription_id, interval),
            first_slot=first,
            to=end,
        )
        await run(
            pool,
            "INSERT INTO schedule_epochs (subscription_id, interval_ms, phase_ms, first_slot,"
            " end_slot) VALUES (%s, %s, %s, %s, %s)",
            subscription_id,
            interval,
            epoch.phase_ms,
            first,
            end,
        )
        made.append(epoch)
    return subscription_id, made


async def store(
    pool: Pool, subscription_id: UUID, slots: Iterable[int], status: str = "success"
) -> None:
    async with pool.connection() as conn, conn.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO check_history (time, subscription_id, status) VALUES (%s, %s, %s)",
            [(from_slot(slot), subscription_id, status) for slot in slots],
        )


async def told(pool: Pool, subscription_id: UUID) -> Counter[int]:
    """How often each slot of a subscription is told, by rows and by gap records."""
    found: Counter[int] = Counter()
    for (time,) in await fetch(
        pool, "SELECT time FROM check_history WHERE subscription_id = %s", subscription_id
    ):
        found[to_slot(time)] += 1
    for first, last, interval in await gaps_of(pool, subscription_id):
        found.update(range(first, last + 1, interval))
    return found


async def gaps_of(pool: Pool, subscription_id: UUID) -> list[tuple[int, int, int]]:
    return [
        (first, last, interval)
        for first, last, interval in await fetch(
            pool,
            "SELECT first_slot, last_slot, interval_ms FROM history_gaps"
            " WHERE subscription_id = %s ORDER BY first_slot",
            subscription_id,
        )
    ]


async def missed_of(pool: Pool, subscription_id: UUID) -> list[int]:
    rows = await fetch(
        pool,
        "SELECT time FROM check_history WHERE subscription_id = %s AND status = 'missed'"
        " ORDER BY time",
        subscription_id,
    )
    return [to_slot(time) for (time,) in rows]


def due(spans: Iterable[Epoch], until: int) -> list[int]:
    return [slot for epoch in spans for slot in epoch.due(0, until)]


@pytest.mark.parametrize("seed", range(6))
async def test_after_any_pattern_of_rows_each_due_slot_is_told_exactly_once(
    pool: Pool, seed: int
) -> None:
    chance = random.Random(seed)
    now = await now_ms(pool)
    start = now - 5 * HOUR
    watched: dict[UUID, list[Epoch]] = {}
    for _ in range(6):
        spans: list[tuple[int, int, int | None]] = []
        at = start + chance.randrange(HOUR)
        for _ in range(chance.randrange(1, 4)):
            end = at + chance.randrange(2 * HOUR)
            spans.append((chance.choice([10, 30, 60, 300]) * 1000, at, end))
            at = end + chance.choice([0, 1, chance.randrange(20 * MINUTE)])
        if chance.random() < 0.5:
            spans.append((60_000, at, None))
        subscription_id, made = await subscribe(pool, *spans)
        watched[subscription_id] = made
    # The history fills while sweeps run over it, in steps of random length.
    moments = sorted(chance.randrange(start, now) for _ in range(5))
    swept = start
    for moment in [*moments, now]:
        for subscription_id, made in watched.items():
            slots = [s for s in due(made, moment) if s > swept]
            share = chance.choice([0.0, 0.0, 0.5, 0.95, 1.0])
            await store(pool, subscription_id, [s for s in slots if chance.random() < share])
        report = await sweep(pool, 0, now_ms=moment)
        assert report.accounted_to == moment
        swept = moment
    for subscription_id, made in watched.items():
        expected = due(made, now)
        assert await told(pool, subscription_id) == Counter(expected)


async def test_a_second_sweep_over_the_same_span_changes_nothing(pool: Pool) -> None:
    now = await now_ms(pool)
    one, _ = await subscribe(pool, (60_000, now - 30 * MINUTE, None))
    two, _ = await subscribe(pool, (60_000, now - 5 * HOUR, None))
    first = await sweep(pool, 60, now_ms=now)
    assert first.missed_rows > 0
    assert first.gap_slots > 0
    before = await told(pool, one), await told(pool, two), await gaps_of(pool, two)
    again = await sweep(pool, 60, now_ms=now)
    assert (again.missed_rows, again.gap_slots) == (0, 0)
    await run(pool, "DELETE FROM fleet_state")
    anew = await sweep(pool, 60, now_ms=now)
    assert (anew.missed_rows, anew.gap_slots) == (0, 0)
    assert (await told(pool, one), await told(pool, two), await gaps_of(pool, two)) == before


async def test_the_grace_keeps_recent_slots_open(pool: Pool) -> None:
    now = await now_ms(pool)
    subscription_id, made = await subscribe(pool, (10_000, now - 10 * MINUTE, None))
    report = await sweep(pool, 120, now_ms=now)
    assert report.accounted_to == now - 120_000
    assert max(await missed_of(pool, subscription_id)) <= now - 120_000
    assert await told(pool, subscription_id) == Counter(due(made, now - 120_000))


async def test_sixty_slots_are_rows_and_a_longer_run_is_one_gap(pool: Pool) -> None:
    now = await now_ms(pool)
    begun = now - 2 * HOUR
    short, short_epochs = await subscribe(pool, (60_000, begun, None))
    slots = due(short_epochs, now)[1:]
    sixty, longer = slots[10:70], slots[75 : 75 + 41]
    await store(pool, short, [begun, *(s for s in slots if s not in {*sixty, *longer})])
    long, long_epochs = await subscribe(pool, (60_000, begun, None))
    await store(pool, long, due(long_epochs, now)[:11])
    report = await sweep(pool, 0, now_ms=now)
    assert await missed_of(pool, short) == [*sixty, *longer]
    assert await gaps_of(pool, short) == []
    missing = due(long_epochs, now)[11:]
    assert await gaps_of(pool, long) == [(missing[0], missing[-1], 60_000)]
    assert report.gap_slots == len(missing)


async def test_an_outage_that_goes_on_becomes_one_gap_that_grows(pool: Pool) -> None:
    now = await now_ms(pool)
    subscription_id, made = await subscribe(pool, (60_000, now - 6 * HOUR, None))
    for minutes in range(6 * 60 - 10, -1, -10):
        await sweep(pool, 0, now_ms=now - minutes * MINUTE)
    rows = await missed_of(pool, subscription_id)
    # The immediate slot lies off the grid; the rows before the gap are of the grid.
    slots = due(made, now)
    assert 60 <= len(rows) <= 72
    assert rows == slots[: len(rows)]
    assert await gaps_of(pool, subscription_id) == [(slots[len(rows)], slots[-1], 60_000)]


async def test_missed_slots_on_both_sides_of_a_result_are_not_one_run(pool: Pool) -> None:
    now = await now_ms(pool)
    subscription_id, made = await subscribe(pool, (60_000, now - 3 * HOUR, None))
    slots = due(made, now)
    await store(pool, subscription_id, [slots[0], slots[50], slots[100]])
    report = await sweep(pool, 0, now_ms=now)
    assert report.missed_rows == 49 + 49
    assert report.gap_slots == len(slots) - 101
    assert await told(pool, subscription_id) == Counter(slots)


async def test_a_paused_subscription_misses_nothing_meanwhile(pool: Pool) -> None:
    now = await now_ms(pool)
    paused_at, resumed_at = now - 2 * HOUR, now - HOUR
    subscription_id, made = await subscribe(
        pool, (60_000, now - 3 * HOUR, paused_at), (300_000, resumed_at, None)
    )
    await store(pool, subscription_id, due(made[:1], now))
    await sweep(pool, 0, now_ms=now)
    missed = await missed_of(pool, subscription_id)
    assert missed == due(made[1:], now)
    assert missed[0] == resumed_at
    assert not [slot for slot in missed if paused_at <= slot < resumed_at]


async def test_slots_older_than_the_late_horizon_are_told_by_gap_records_only(pool: Pool) -> None:
    now = await now_ms(pool)
    first = now - 8 * DAY
    subscription_id, made = await subscribe(pool, (3_600_000, first, first + 5 * HOUR))
    report = await sweep(pool, 0, now_ms=now)
    assert report.missed_rows == 0
    assert report.gap_slots == len(due(made, now))
    assert await told(pool, subscription_id) == Counter(due(made, now))


async def test_a_day_of_the_outage_that_has_no_partition_gets_one(pool: Pool) -> None:
    now = await now_ms(pool)
    first = now - 3 * DAY
    subscription_id, made = await subscribe(pool, (3_600_000, first, first + 5 * HOUR))
    # As on the `plain` edition when nothing ran for days; the others have no such table.
    for ago in (2, 3):
        await run(pool, f"DROP TABLE IF EXISTS check_history_{from_slot(now - ago * DAY):%Y%m%d}")
    report = await sweep(pool, 0, now_ms=now)
    assert report.missed_rows == len(due(made, now)) > 0
    assert await missed_of(pool, subscription_id) == due(made, now)


async def test_the_first_sweep_of_an_empty_database_begins_now(pool: Pool) -> None:
    now = await now_ms(pool)
    assert (await sweep(pool, 0, now_ms=now)).accounted_to == now
    assert await fetch(pool, "SELECT value FROM fleet_state WHERE key = 'accounted_to'") == [
        ({"slot": now},)
    ]


async def test_while_another_sweeper_works_nothing_is_done(pool: Pool) -> None:
    now = await now_ms(pool)
    subscription_id, _ = await subscribe(pool, (60_000, now - HOUR, None))
    async with pool.connection() as conn, conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (SWEEP_LOCK,))
        report = await sweep(pool, 0, now_ms=now)
    assert (report.missed_rows, report.gap_slots, report.accounted_to) == (0, 0, None)
    assert await told(pool, subscription_id) == Counter()


async def test_sweepers_at_the_same_time_tell_each_slot_once(pool: Pool) -> None:
    now = await now_ms(pool)
    watched = [await subscribe(pool, (60_000, now - 40 * MINUTE, None)) for _ in range(5)]
    reports = await asyncio.gather(*(sweep(pool, 0, now_ms=now) for _ in range(4)))
    expected = [due(made, now) for _, made in watched]
    assert sum(report.missed_rows for report in reports) == sum(map(len, expected))
    for (subscription_id, _), slots in zip(watched, expected, strict=True):
        assert await told(pool, subscription_id) == Counter(slots)


async def test_results_that_come_during_the_sweep_are_kept(pool: Pool) -> None:
    now = await now_ms(pool)
    watched = [await subscribe(pool, (10_000, now - 9 * MINUTE, None)) for _ in range(8)]

    async def recorder(subscription_id: UUID, slots: list[int]) -> None:
        for slot in slots:
            await run(
                pool,
                "INSERT INTO check_history (time, subscription_id, status) VALUES (%s, %s,"
                " 'success') ON CONFLICT (subscription_id, time) DO UPDATE SET status = 'success'",
                from_slot(slot),
                subscription_id,
            )

    await asyncio.gather(
        *(recorder(id_, due(made, now)[10:20]) for id_, made in watched),
        *(sweep(pool, 0, now_ms=now - minutes * MINUTE) for minutes in (6, 3, 0)),
    )
    await sweep(pool, 0, now_ms=now)
    for subscription_id, made in watched:
        slots = due(made, now)
        assert await told(pool, subscription_id) == Counter(slots)
        missed = set(await missed_of(pool, subscription_id))
        assert missed == set(slots) - set(slots[10:20])


async def test_a_late_result_leaves_its_gap_record(pool: Pool) -> None:
    now = await now_ms(pool)
    subscription_id, made = await subscribe(pool, (60_000, now - 3 * HOUR, None))
    await sweep(pool, 0, now_ms=now)
    slots = due(made, now)
    gap = await gaps_of(pool, subscription_id)
    inside = range(gap[0][0], gap[0][1] + 1, 60_000)
    late = [inside[0], inside[-1], inside[40], inside[41], inside[39]]
    for slot in late:
        await store(pool, subscription_id, [slot])
        async with pool.connection() as conn, conn.transaction():
            await split_gap(conn, subscription_id, slot)
    assert await told(pool, subscription_id) == Counter(slots)
    assert await gaps_of(pool, subscription_id) == [
        (inside[1], inside[38], 60_000),
        (inside[42], inside[-2], 60_000),
    ]


async def test_late_results_of_one_gap_split_it_at_the_same_time(pool: Pool) -> None:
    now = await now_ms(pool)
    subscription_id, made = await subscribe(pool, (60_000, now - 3 * HOUR, None))
    await sweep(pool, 0, now_ms=now)
    late = due(made, now)[60:100:5]

    async def record(slot: int) -> None:
        async with pool.connection() as conn, conn.transaction():
            await conn.execute(
                "INSERT INTO check_history (time, subscription_id, status)"
                " VALUES (%s, %s, 'success')",
                (from_slot(slot), subscription_id),
            )
            await split_gap(conn, subscription_id, slot)
            await asyncio.sleep(0.02)

    await asyncio.gather(*map(record, late))
    assert await told(pool, subscription_id) == Counter(due(made, now))


async def test_splitting_where_there_is_no_gap_changes_nothing(pool: Pool) -> None:
    now = await now_ms(pool)
    subscription_id, _ = await subscribe(pool, (60_000, now - 3 * HOUR, None))
    await sweep(pool, 0, now_ms=now)
    before = await gaps_of(pool, subscription_id)
    async with pool.connection() as conn, conn.transaction():
        await split_gap(conn, subscription_id, before[0][0] + 1)
        await split_gap(conn, uuid4(), before[0][0])
    assert await gaps_of(pool, subscription_id) == before


async def test_a_missed_row_in_a_closed_hour_marks_it_dirty(pool: Pool) -> None:
    now = await now_ms(pool)
    hour = now - now % HOUR
    subscription_id, _ = await subscribe(pool, (600_000, hour - 2 * HOUR, None))
    await run(pool, "DELETE FROM rollup_state")
    await run(
        pool,
        "INSERT INTO rollup_state (rollup, open_from, rolled_to) VALUES ('hourly', %s, %s)",
        from_slot(hour),
        from_slot(hour - DAY),
    )
    await sweep(pool, 0, now_ms=hour + 30 * MINUTE)
    assert await fetch(pool, "SELECT hour, subscription_id FROM rollup_dirty ORDER BY hour") == [
        (from_slot(hour - 2 * HOUR), subscription_id),
        (from_slot(hour - HOUR), subscription_id),
    ]


async def test_the_sweep_waits_for_a_schedule_that_is_being_committed(pool: Pool) -> None:
    subscription_id, _ = await subscribe(pool)
    async with pool.connection() as conn, conn.transaction():
        first = await epochs.now_ms(conn)
        await epochs.open_epoch(conn, subscription_id, 60, first, at_once=True)
        sweeping = asyncio.create_task(sweep(pool, 0))
        await asyncio.sleep(0.3)
        assert not sweeping.done()
    report = await sweeping
    assert report.accounted_to is not None
    assert report.accounted_to >= first
    assert await missed_of(pool, subscription_id) == [first]


async def test_an_outage_of_days_is_reckoned_in_seconds(pool: Pool) -> None:
    now = await now_ms(pool)
    await catalog.create_subscriptions(
        pool,
        [
            catalog.NewSubscription(
                wallet=WALLET,
                type=MonitorType.HTTP,
                config={},
                tier=Tier.ENTERPRISE,
                interval_s=60,
                worst_case_s=10,
            )
        ]
        * 10_000,
        enforce_plans=False,
    )
    await run(pool, "UPDATE schedule_epochs SET first_slot = first_slot - %s", 3 * DAY)
    begun = asyncio.get_running_loop().time()
    report = await sweep(pool, 0, now_ms=now)
    elapsed = asyncio.get_running_loop().time() - begun
    assert report.accounted_to == now
    [(count, slots)] = await fetch(pool, "SELECT count(*), sum(slots) FROM history_gaps")
    assert count == 10_000
    assert report.gap_slots == slots
    every = await fetch(
        pool, "SELECT interval_ms, phase_ms, first_slot, end_slot FROM schedule_epochs"
    )
    assert report.missed_rows + slots == sum(
        Epoch(interval_ms=interval, phase_ms=offset, first_slot=first, to=end).count(0, now)
        for interval, offset, first, end in every
    )
    assert elapsed < 20


def result(subscription_id: UUID, slot: int) -> Result:
    return Result(subscription_id=subscription_id, slot=slot, status=CheckStatus.SUCCESS)


async def test_a_late_result_takes_the_place_of_its_missed_row_or_of_its_part_of_a_gap(
    pool: Pool,
) -> None:
    now = await now_ms(pool)
    subscription_id, made = await subscribe(pool, (60_000, now - 4 * HOUR, None))
    slots = due(made, now)
    await store(pool, subscription_id, [slots[150]])
    await sweep(pool, 0, now_ms=now)
    assert set(slots[151:200]) <= set(await missed_of(pool, subscription_id)) | {
        slot
        for first, last, interval in await gaps_of(pool, subscription_id)
        for slot in range(first, last + 1, interval)
    }
    late = [slots[1], slots[70], slots[149], slots[151], slots[-1]]
    await record(pool, [result(subscription_id, slot) for slot in late])
    await record(pool, [result(subscription_id, slot) for slot in late])
    assert await told(pool, subscription_id) == Counter(slots)
    successes = await fetch(pool, "SELECT time FROM check_history WHERE status = 'success'")
    assert {to_slot(time) for (time,) in successes} == {slots[150], *late}


async def test_late_results_and_sweeps_that_pass_each_other_tell_each_slot_once(
    pool: Pool,
) -> None:
    now = await now_ms(pool)
    watched = [await subscribe(pool, (10_000, now - 2 * HOUR, None)) for _ in range(6)]
    chance = random.Random(7)
    late = {id_: chance.sample(due(made, now), 120) for id_, made in watched}

    async def recorder(part: int) -> None:
        for begin in range(part * 30, part * 30 + 30, 5):
            await record(
                pool,
                [result(id_, s) for id_, all_ in late.items() for s in all_[begin : begin + 5]],
            )

    async def sweeper() -> None:
        for minutes in range(118, -1, -4):
            await sweep(pool, 0, now_ms=now - minutes * MINUTE)

    await asyncio.gather(sweeper(), *map(recorder, range(4)))
    await sweep(pool, 0, now_ms=now)
    for id_, made in watched:
        assert await told(pool, id_) == Counter(due(made, now))
    successes = await fetch(pool, "SELECT count(*) FROM check_history WHERE status = 'success'")
    assert successes == [(6 * 120,)]


@pytest.mark.parametrize("silent", [True, False])
async def test_a_gap_record_waits_for_the_flushes_under_way(pool: Pool, silent: bool) -> None:
    now = await now_ms(pool)
    subscription_id, made = await subscribe(pool, (60_000, now - 4 * HOUR, None))
    slots = due(made, now)
    if not silent:
        await store(pool, subscription_id, [slots[100]])
    async with pool.connection() as conn, conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock_shared(%s)", (ROLLUP_LOCK,))
        await conn.execute(
            "INSERT INTO check_history (time, subscription_id, status) VALUES (%s, %s, 'success')",
            (from_slot(slots[200]), subscription_id),
        )
        sweeping = asyncio.create_task(sweep(pool, 0, now_ms=now))
        await asyncio.sleep(0.3)
        assert not sweeping.done()
    await sweeping
    assert await told(pool, subscription_id) == Counter(slots)
