"""Couriers and recorders killed at each step: nothing is lost, and only a kill between the sending
and its mark repeats a message, with the same key."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from uuid import UUID

import pytest
import redis

from lighthouse.channels import Sender
from lighthouse.fleet.delivery import Courier
from lighthouse.store.pool import Pool
from lighthouse.store.record import record
from tests.support.couriers import make_due, rows, settings
from tests.support.fleet import Fleet
from tests.support.killed import Killer
from tests.support.services import Receiver
from tests.support.targets import (
    DOWN,
    MINUTE,
    UP,
    a_hook,
    a_target,
    heard,
    now_slot,
    seen,
    states,
)


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    with Killer() as opened:
        yield opened


async def finish(pool: Pool) -> None:
    """What beat does from then on, with time passing faster: leases end and waits are over."""
    async with Sender(settings()) as sender, asyncio.timeout(20):
        survivor = Courier(pool, sender)
        while await rows(pool, "SELECT 1 FROM alert_history WHERE state = 'pending' LIMIT 1"):
            await rows(
                pool, "UPDATE alert_history SET lease_until = now() WHERE lease_until > now()"
            )
            await make_due(pool)
            await survivor.deliver_due()


async def a_downtime(pool: Pool, url: str) -> UUID:
    one = await a_target(pool, hook=url)
    await record(pool, [seen(one, await now_slot(pool) - MINUTE, DOWN)])
    return one


@pytest.mark.parametrize(
    ("step", "requests"),
    [
        ("before claim", 1),
        ("after claim", 1),
        ("before send", 1),
        ("after send", 2),
        ("before mark", 2),
        ("after mark", 1),
    ],
)
async def test_a_courier_killed_at_any_step_of_a_delivery_loses_nothing(
    pool: Pool, migrated_url: str, killer: Killer, step: str, requests: int
) -> None:
    """Fails when `Courier._one` marks before it sends: killed in between, it has told nobody.

    And when `_CLAIM` in store/due.py passes over leases that have ended: what it held waits on.
    """
    async with Receiver() as receiver:
        one = await a_downtime(pool, f"{receiver.base}/ok")
        assert await killer.deliver(migrated_url, step)
        await finish(pool)
    assert await states(pool, one) == [("downtime", "sent", None)]
    assert len(receiver.ids) == requests
    assert len(set(receiver.ids)) == 1
    assert len(set(receiver.bodies)) == 1
    assert await rows(
        pool, "SELECT alert_triggered, alert_sent_at IS NOT NULL FROM check_history"
    ) == [(True, True)]


@pytest.mark.parametrize(
    ("step", "requests"), [("after mark", 2), ("before commit", 2), ("after commit", 1)]
)
async def test_a_courier_killed_inside_the_marks_transaction_neither_marks_nor_reminds(
    pool: Pool, migrated_url: str, killer: Killer, step: str, requests: int
) -> None:
    """Fails when `mark_sent` opens no transaction: sent, and no reminder follows.

    Only where a reminder is written with the mark are there two statements to come between.
    """
    async with Receiver() as receiver:
        one = await a_target(pool, alerting={"remind_every_s": 3600}, hook=f"{receiver.base}/ok")
        await record(pool, [seen(one, await now_slot(pool) - MINUTE, DOWN)])
        assert await killer.deliver(migrated_url, step)
        marked = [("downtime", "sent", None), ("downtime", "pending", None)]
        assert await states(pool, one) == (marked if step == "after commit" else marked[1:])
        await rows(pool, "UPDATE alert_history SET lease_until = now() WHERE attempt > 0")
        async with Sender(settings()) as sender:
            await Courier(pool, sender).deliver_due()
        assert await states(pool, one) == marked
    assert len(receiver.ids) == requests
    assert len(set(receiver.ids)) == 1


async def test_wherever_a_courier_is_killed_every_event_ends_on_every_channel(
    pool: Pool, migrated_url: str, killer: Killer
) -> None:
    """Fails when `_BEFORE` in store/outbox.py omits what was merged: nobody hears of the end.

    Killed at the first step of a courier, then another one at the second, until one ends.

    Each has a downtime with its reminders to tell on two channels, and then its recovery.
    """
    async with Receiver() as receiver:
        for number in count(1):
            killed = []
            one = await a_target(
                pool,
                name=f"step {number}",
                alerting={"remind_every_s": 3600},
                hook=f"{receiver.base}/{number}/a",
            )
            await a_hook(pool, one, f"{receiver.base}/{number}/b")
            slot = await now_slot(pool) - MINUTE
            await record(pool, [seen(one, slot, DOWN)])
            killed.append(await killer.deliver(migrated_url, number))
            await rows(pool, "UPDATE alert_history SET lease_until = now()")
            await record(pool, [seen(one, slot + 1000, UP)])
            await make_due(pool)
            killed.append(await killer.deliver(migrated_url, number))
            await finish(pool)
            paths = Counter(path for path in receiver.paths if path.startswith(f"/{number}/"))
            for channel in ("a", "b"):
                path = f"/{number}/{channel}"
                assert heard(receiver, path)[-1] == "recovery"
                # Each kill may repeat what was on its way then.
                assert paths[path] <= 4
            told = {(kind, state) for kind, state, _ in await states(pool, one)}
            assert ("recovery", "sent") in told
            assert told <= {
                ("recovery", "sent"),
                ("downtime", "sent"),
                ("downtime", "merged"),
                ("downtime", "suppressed"),  # reminders of what is over
            }
            if not any(killed):
                break
    assert number > 10
    doubled = await rows(
        pool,
        "SELECT event_id FROM alert_history GROUP BY event_id, channel_id HAVING count(*) > 1",
    )
    assert doubled == []


@pytest.mark.parametrize("step", ["before commit", "after commit", "committed", "hinted"])
async def test_a_recorder_killed_around_its_commit_loses_and_doubles_no_event(
    pool: Pool, migrated_url: str, killer: Killer, step: str
) -> None:
    """Fails when `_flush` in store/record.py commits before it judges: rows without their event."""
    async with Receiver() as receiver:
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        slot = await now_slot(pool) - MINUTE
        results = [(one, slot, UP), (one, slot + 1000, DOWN)]
        assert await killer.record(migrated_url, step, results)
        stored = len(await rows(pool, "SELECT 1 FROM check_history"))
        events = len(await rows(pool, "SELECT 1 FROM alert_history"))
        incidents = len(await rows(pool, "SELECT 1 FROM incidents"))
        # All or nothing, and nothing only before the commit.
        assert (stored, events, incidents) == ((0, 0, 0) if step == "before commit" else (2, 1, 1))
        await finish(pool)  # no hint came; beat looks all the same
        # Its lease ends, and the batch is run by another worker.
        await record(pool, [seen(*result) for result in results])
        await finish(pool)
    assert await states(pool, one) == [("downtime", "sent", None)]
    assert heard(receiver) == ["downtime"]


async def test_wherever_a_recorder_is_killed_it_stored_everything_or_nothing(
    pool: Pool, migrated_url: str, killer: Killer
) -> None:
    """Fails when `_flush` in store/record.py commits before it judges: rows and the old verdict."""
    async with Receiver() as receiver:
        for number in count(1):
            one = await a_target(pool, name=f"step {number}", hook=f"{receiver.base}/{number}")
            slot = await now_slot(pool) - MINUTE
            results = [(one, slot, UP), (one, slot + 1000, DOWN)]
            killed = await killer.record(migrated_url, number, results)
            ((verdict, *written),) = await rows(
                pool,
                "SELECT verdict::text,"
                " (SELECT count(*) FROM check_history WHERE subscription_id = i),"
                " (SELECT count(*) FROM alert_history WHERE subscription_id = i),"
                " (SELECT count(*) FROM incidents WHERE subscription_id = i)"
                " FROM subscription_state, LATERAL (SELECT subscription_id AS i) one WHERE i = %s",
                one,
            )
            assert (verdict, written) in [("unknown", [0, 0, 0]), ("down", [2, 1, 1])]
            await record(pool, [seen(*result) for result in results])
            if not killed:
                break
        await finish(pool)
    assert number > 5
    assert len(receiver.ids) == len(set(receiver.ids)) == number


def test_a_hint_that_redis_forgot_is_made_good_by_beat(tmp_path: Path) -> None:
    """Fails when `FIXED` in fleet/beat.py has no `lighthouse.deliver`: nobody is told.

    A downtime is recorded while nobody delivers, and FLUSHALL takes the hint with all else.
    """
    with Fleet(tmp_path) as fleet:
        asyncio.run(_forgotten_hint(fleet))


async def _forgotten_hint(fleet: Fleet) -> None:
    async with Receiver() as receiver:
        await asyncio.to_thread(fleet.subscribe, 3, path="/fail", webhook=f"{receiver.base}/ok")
        fleet.start_beat()
        fleet.start_worker("checks", queues="checks")
        await asyncio.to_thread(
            fleet.wait_for,
            "three downtimes",
            lambda: fleet.scalar("SELECT count(*) FROM alert_history WHERE state = 'pending'") == 3,
        )
        with redis.Redis.from_url(fleet.redis_url) as client:
            client.flushall()
            assert client.llen("alerts") == 0
        assert receiver.ids == []
        fleet.start_worker("alerts", queues="alerts")
        await asyncio.to_thread(
            fleet.wait_for,
            "all to be told",
            lambda: fleet.scalar("SELECT count(*) FROM alert_history WHERE state = 'sent'") == 3,
        )
        fleet.stop("checks")
        fleet.stop("alerts")
        fleet.stop("beat")
    assert len(receiver.ids) == len(set(receiver.ids)) == 3
    assert {json.loads(body)["type"] for body in receiver.bodies} == {"downtime"}
