"""One dead service or host never delays the others: real couriers, doubles that hang."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from lighthouse.channels import operator_channels
from lighthouse.fleet.bulkheads import HOST_LANES, SERVICE_LANES
from lighthouse.fleet.delivery import Courier
from lighthouse.model import DeliveryState
from lighthouse.store import outbox
from lighthouse.store.pool import Pool
from tests.support.couriers import (
    courier,
    eventually,
    happen,
    rows,
    settings,
    subscribe,
    until_all_sent,
)
from tests.support.messengers import Telegram
from tests.support.services import Receiver

#: More than all lanes and all who may wait for one.
MANY = 300


class Hanging:
    """Takes each request and answers none until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = True
        self.at_once = 0
        self.taken = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.taken += 1
        self.at_once += 1
        try:
            while self.hangs:
                await asyncio.sleep(0.01)
            return await super().handle(request)  # type: ignore[misc, no-any-return]
        finally:
            self.at_once -= 1


class HangingTelegram(Hanging, Telegram):
    pass


class HangingReceiver(Hanging, Receiver):
    @property
    def other_host(self) -> str:
        """The same under another name, which is another host."""
        return self.base.replace("127.0.0.1", "localhost")


async def to_telegram(pool: Pool, number: int) -> None:
    chat = {"bot_token": Telegram.token, "chat_id": str(number + 1)}
    await happen(pool, await subscribe(pool, "telegram", **chat), ago_ms=9000)


@asynccontextmanager
async def delivering(mine: Courier, under_way: Callable[[], bool]) -> AsyncIterator[None]:
    """A courier that is busy with what hangs; at the end it is cut off."""
    running = asyncio.create_task(mine.deliver_due())
    await eventually(under_way)
    await asyncio.sleep(0.3)
    yield
    assert not running.done()
    await mine.close(0.1)
    await running


async def told_within_s(pool: Pool, mine: Courier, receiver: Receiver) -> float:
    """How long an event that happens now takes to its webhook."""
    subscription = await subscribe(pool, url=f"{receiver.base}/ok")
    began = time.monotonic()
    await happen(pool, subscription)
    assert await mine.deliver_due() == 0  # a hint for the one that runs
    await eventually(lambda: "/ok" in receiver.paths)
    return time.monotonic() - began


async def test_a_service_that_hangs_with_300_due_deliveries_delays_no_other_service(
    pool: Pool,
) -> None:
    async with HangingTelegram() as telegram, Receiver() as receiver:
        api = {"LIGHTHOUSE_TELEGRAM_API_URL": telegram.base}
        for number in range(MANY):
            await to_telegram(pool, number)
        async with (
            courier(pool, 20.0, **api) as mine,
            delivering(mine, lambda: telegram.at_once > 0),
        ):
            assert await told_within_s(pool, mine, receiver) < 2.0
            assert telegram.taken == telegram.at_once <= SERVICE_LANES
    # Nothing was given up, and what was not tried has no attempt.
    states = await rows(
        pool, "SELECT state::text, attempt, count(*) FROM alert_history GROUP BY 1, 2 ORDER BY 2"
    )
    untried, *_ = states
    assert untried[:2] == ("pending", 0)
    assert untried[2] >= MANY - SERVICE_LANES
    assert {state for state, _, _ in states} == {"pending", "sent"}


async def test_an_event_that_is_due_with_all_of_a_dead_service_s_is_not_behind_them(
    pool: Pool,
) -> None:
    async with HangingTelegram() as telegram, Receiver() as receiver:
        for number in range(MANY):
            await to_telegram(pool, number)
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/ok"))
        api = {"LIGHTHOUSE_TELEGRAM_API_URL": telegram.base}
        async with courier(pool, 20.0, **api) as mine:
            began = time.monotonic()
            async with delivering(mine, lambda: "/ok" in receiver.paths):
                assert time.monotonic() - began < 2.0


async def test_a_webhook_host_that_hangs_with_300_due_deliveries_delays_no_other_host(
    pool: Pool,
) -> None:
    async with HangingReceiver() as dead, Receiver() as receiver:
        for number in range(MANY):
            one = await subscribe(pool, url=f"{dead.other_host}/{number}")
            await happen(pool, one, ago_ms=9000)
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/first"))
        async with courier(pool, 20.0) as mine:
            began = time.monotonic()
            async with delivering(mine, lambda: "/first" in receiver.paths):
                assert time.monotonic() - began < 2.0
                assert await told_within_s(pool, mine, receiver) < 2.0
                assert dead.taken == dead.at_once == HOST_LANES


async def test_the_operator_hears_while_a_tenant_s_same_service_hangs(pool: Pool) -> None:
    async with HangingReceiver() as dead, Receiver() as receiver:
        text = json.dumps([{"type": "webhook", "config": {"url": f"{receiver.base}/ops"}}])
        operator = {"LIGHTHOUSE_OPERATOR_CHANNELS": text}
        for number in range(50):
            await happen(pool, await subscribe(pool, url=f"{dead.base}/{number}"), ago_ms=9000)
        ids = [channel.id for channel in operator_channels(settings(**operator))]
        async with (
            courier(pool, 20.0, **operator) as mine,
            delivering(mine, lambda: dead.at_once > 0),
        ):
            async with pool.connection() as connection:
                await outbox.enqueue_operator(connection, ids, "clock:1", "Clock", "jumped")
            began = time.monotonic()
            await mine.deliver_due()
            await eventually(lambda: receiver.paths == ["/ops"])
            assert time.monotonic() - began < 2.0


async def test_a_host_that_lets_every_try_time_out_is_tried_by_one_lane_until_it_answers(
    pool: Pool,
) -> None:
    async with HangingReceiver() as dead, courier(pool, 0.4) as mine:
        for number in range(40):
            await happen(pool, await subscribe(pool, url=f"{dead.base}/{number}"))
        running = asyncio.create_task(mine.deliver_due())
        await eventually(lambda: dead.taken > HOST_LANES)
        taken = dead.taken
        await asyncio.sleep(2.0)
        assert 3 <= dead.taken - taken <= 5  # one every 0.4 s; four lanes would be 20
        dead.hangs = False
        began = time.monotonic()
        await until_all_sent(pool, [mine])
        await running
        assert time.monotonic() - began < 10.0
    assert len(set(dead.ids)) == 40


async def test_more_channels_than_a_bulkhead_has_lanes_are_all_sent_to_once(pool: Pool) -> None:
    async with Receiver() as receiver, courier(pool) as mine:
        for number in range(120):
            await happen(pool, await subscribe(pool, url=f"{receiver.base}/{number}"))
        assert await mine.deliver_due() == 120
    assert len(receiver.ids) == len(set(receiver.ids)) == 120
    assert {alert.attempt for alert in await outbox.alerts(pool, limit=200)} == {1}


async def test_closing_gives_back_at_once_who_waited_for_a_lane(pool: Pool) -> None:
    async with HangingReceiver() as dead, courier(pool, 20.0) as mine:
        for number in range(20):
            await happen(pool, await subscribe(pool, url=f"{dead.base}/{number}"))
        async with delivering(mine, lambda: dead.at_once == HOST_LANES):
            pass
    leased: list[Any] = await rows(
        pool, "SELECT attempt, count(*) FROM alert_history WHERE lease_until > now() GROUP BY 1"
    )
    assert leased == [(1, HOST_LANES)]
    assert await rows(
        pool, "SELECT attempt, count(*) FROM alert_history WHERE lease_until IS NULL GROUP BY 1"
    ) == [(0, 20 - HOST_LANES)]


async def test_what_is_given_back_keeps_its_place_and_what_was_taken_over_is_left_alone(
    pool: Pool,
) -> None:
    for number in range(3):
        await happen(pool, await subscribe(pool, url=f"http://127.0.0.1:9/{number}"))
    before = await rows(pool, "SELECT event_id, next_attempt_at FROM alert_history ORDER BY 1")
    claimed = await outbox.claim(pool, 10, lease_s=0.1)
    await asyncio.sleep(0.15)
    (taken_over,) = await outbox.claim(pool, 1, lease_s=30.0)
    await outbox.give_back(pool, claimed)
    found = await rows(
        pool, "SELECT event_id, attempt, lease_token, state FROM alert_history ORDER BY 2, 1"
    )
    assert [row[1] for row in found] == [0, 0, 2]
    assert found[2][0] == taken_over.event_id
    assert found[2][2] == taken_over.lease_token
    assert before == await rows(
        pool, "SELECT event_id, next_attempt_at FROM alert_history ORDER BY 1"
    )
    assert {DeliveryState(row[3]) for row in found} == {DeliveryState.PENDING}


@pytest.mark.parametrize("full", [[], ["telegram"], ["telegram", "webhook"]])
async def test_full_services_are_left_in_the_outbox(pool: Pool, full: list[str]) -> None:
    await to_telegram(pool, 1)
    await happen(pool, await subscribe(pool, url="http://127.0.0.1:9/"))
    async with pool.connection() as connection:
        channel = operator_channels(
            settings(
                LIGHTHOUSE_OPERATOR_CHANNELS='[{"type": "webhook", "config":'
                ' {"url": "http://127.0.0.1:9/"}}]'
            )
        )[0]
        await outbox.enqueue_operator(connection, [channel.id], "clock:1", "Clock", "jumped")
    claimed = await outbox.claim(pool, 10, 30.0, full=full)
    kinds = sorted(
        each.channel.channel_type.value if each.channel else "operator" for each in claimed
    )
    assert kinds == [kind for kind in ("operator", "telegram", "webhook") if kind not in full]
