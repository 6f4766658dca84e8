"""One pace for all alert workers: their rates and closings meet in a real Redis."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from lighthouse.channels import Sender, pacing
from lighthouse.errors import ScheduleError
from lighthouse.local import servers
from lighthouse.local.processes import start, stop
from lighthouse.model import Answer, Delivery, Rate, Turn
from lighthouse.schedule import Pace, connect_async
from lighthouse.schedule.keys import PACE_GATE_PREFIX
from lighthouse.settings import load
from lighthouse.store import outbox
from lighthouse.store.pool import Pool
from tests.integration.test_channel_services import CHAT, to_chat, to_hook
from tests.support.couriers import courier, happen, subscribe, until_all_sent
from tests.support.messengers import Slack, Telegram
from tests.support.services import Discord

Pacing = Callable[[], Awaitable[Pace]]


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
async def pacing_of(redis_url: str) -> AsyncIterator[Pacing]:
    """Makes the pace of one more worker, with connections of its own."""
    async with AsyncExitStack() as stack:

        async def make() -> Pace:
            made = connect_async(redis_url)
            stack.push_async_callback(made.aclose)
            return Pace(made)

        yield make


def sender(service: Telegram | Slack, pacer: pacing.Pacer | None) -> Sender:
    return Sender(
        load(
            {
                "LIGHTHOUSE_EGRESS_ALLOW": "127.0.0.0/8",
                "LIGHTHOUSE_TELEGRAM_API_URL": service.base,
            }
        ),
        pacer=pacer,
    )


async def until_sent(mine: Sender, delivery: Delivery) -> Answer:
    """What courier and store do: come back when told to."""
    while not (answer := await mine.send(delivery)).ok:
        assert not answer.tried, answer
        assert answer.retry_after_s is not None
        await asyncio.sleep(answer.retry_after_s)
    return answer


async def test_workers_together_keep_the_published_rate_of_a_chat(pacing_of: Pacing) -> None:
    async with Telegram() as telegram, AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(sender(telegram, await pacing_of())) for _ in range(4)
        ]
        began = time.monotonic()
        await asyncio.gather(*(until_sent(worker, to_chat()) for worker in workers))
        took_s = time.monotonic() - began
    assert (len(telegram.shown), telegram.limited) == (4, 0)
    assert 3.0 <= took_s < 6.0


async def test_workers_without_a_shared_pace_would_break_it() -> None:
    async with Telegram() as telegram, AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(sender(telegram, None)) for _ in range(4)]
        await asyncio.gather(*(worker.send(to_chat()) for worker in workers))
    assert telegram.limited == 2


async def test_couriers_together_keep_slack_s_rate_and_lose_nothing(
    pool: Pool, pacing_of: Pacing
) -> None:
    async with (
        Slack() as slack,
        courier(pool, pacer=await pacing_of()) as one,
        courier(pool, pacer=await pacing_of()) as two,
        courier(pool, pacer=await pacing_of()) as three,
    ):
        for _ in range(6):
            await happen(pool, await subscribe(pool, "slack", webhook_url=slack.url()))
        await until_all_sent(pool, [one, two, three])
    assert (len(slack.bodies), slack.limited) == (6, 0)
    assert {alert.attempt for alert in await outbox.alerts(pool)} == {1}


async def test_a_retry_after_that_one_worker_was_told_holds_the_others_back(
    pacing_of: Pacing,
) -> None:
    async with Slack() as slack:
        slack.limited_s = 30
        one, two = sender(slack, await pacing_of()), sender(slack, await pacing_of())
        async with one, two:
            first = await one.send(to_hook(slack))
            second = await two.send(to_hook(slack))
            assert (await two.send(to_hook(slack, "other"))).ok
    assert (first.tried, first.retry_after_s) == (True, 30)
    assert (second.ok, second.tried) == (False, False)
    assert second.retry_after_s is not None
    assert 25 < second.retry_after_s <= 30
    assert slack.requests == 2


async def test_couriers_that_share_a_discord_webhook_cause_no_refusal_once_they_know_its_limit(
    pool: Pool, pacing_of: Pacing
) -> None:
    async with (
        Discord(per_window=5, window_s=0.5) as discord,
        courier(pool, pacer=await pacing_of()) as one,
        courier(pool, pacer=await pacing_of()) as two,
    ):
        for _ in range(20):
            await happen(pool, await subscribe(pool, "discord", webhook_url=discord.url()))
        await until_all_sent(pool, [one, two])
    assert len(discord.posted) == 20
    assert discord.refused <= 1  # in the first window


async def test_those_sent_away_come_back_one_after_the_other_whichever_worker_they_asked(
    pacing_of: Pacing,
) -> None:
    one, two = await pacing_of(), await pacing_of()
    rate = (Rate(key="chat", seconds=10.0),)
    assert (await one.turn("a", rate, 1.0)).mine
    waits = [(await worker.turn("a", rate, 1.0)).wait_s for worker in (one, two, one, two)]
    assert waits == pytest.approx([10, 20, 30, 40], abs=0.5)
    # And they took no turn: with enough patience the next one is still the first in the row.
    found = await two.turn("a", rate, 60.0)
    assert (found.mine, found.wait_s) == (True, pytest.approx(10, abs=0.5))


async def test_a_closed_address_opens_for_as_many_a_window_as_the_service_takes(
    pacing_of: Pacing,
) -> None:
    one, two = await pacing_of(), await pacing_of()
    await one.close("a", 10.0, per_window=2)
    await two.close("a", 1.0)  # opens nothing early, but is the window from now on
    waits = [(await worker.turn("a", (), 1.0)).wait_s for worker in (two, one, two, one, two)]
    assert waits == pytest.approx([10, 10, 11, 11, 12], abs=0.5)
    assert (await two.turn("b", (), 1.0)).mine


async def test_the_last_message_that_a_window_takes_closes_the_address_before_it_is_answered(
    pacing_of: Pacing,
) -> None:
    one, two = await pacing_of(), await pacing_of()
    await one.close("a", 0.5, per_window=2)
    await asyncio.sleep(0.5)
    found = [await worker.turn("a", (), 1.0) for worker in (one, two, one, two, one)]
    assert [turn.mine for turn in found] == [True, True, False, False, False]
    assert [turn.wait_s for turn in found[2:]] == pytest.approx([0.5, 0.5, 1.0], abs=0.1)
    await asyncio.sleep(found[2].wait_s)
    assert (await two.turn("a", (), 1.0)).mine


async def test_a_closed_address_costs_no_turn_of_its_rates(pacing_of: Pacing) -> None:
    pace = await pacing_of()
    bot = Rate(key="bot", seconds=10.0)
    await pace.close("a", 10.0)
    assert not (await pace.turn("a", (bot,), 1.0)).mine
    assert await pace.turn("b", (bot,), 1.0) == Turn(mine=True, wait_s=0.0)


async def test_an_absurd_wish_closes_for_a_day(pacing_of: Pacing, client: "redis.Redis") -> None:
    pace = await pacing_of()
    await pace.close("a", 1e300)
    assert (await pace.turn("a", (), 1.0)).wait_s == pytest.approx(24 * 3600, abs=1)
    (key,) = client.keys("lh:pace:*")
    assert client.ttl(key) <= 24 * 3600 + 60


async def test_nobody_is_sent_away_beyond_the_day_after_which_an_alert_is_given_up(
    pacing_of: Pacing,
) -> None:
    pace = await pacing_of()
    await pace.close("a", 3600.0)
    found = [(await pace.turn("a", (), 1.0)).wait_s for _ in range(100)]
    assert 7 * 3600 - 10 < found[-1] <= 7 * 3600


async def test_what_a_clock_left_in_the_future_counts_for_nothing(
    pacing_of: Pacing, client: "redis.Redis"
) -> None:
    pace = await pacing_of()
    rate = (Rate(key="chat", seconds=30.0),)
    assert (await pace.turn("a", rate, 1.0)).mine
    await pace.close("a", 30.0)
    for key in client.keys("lh:pace:*"):  # as if written before a step back of an hour
        for field in ("a", "o" if key.startswith(PACE_GATE_PREFIX.encode()) else "n"):
            client.hincrbyfloat(key, field, 3_600_000)
    assert await pace.turn("a", rate, 1.0) == Turn(mine=True, wait_s=0.0)


async def test_no_key_and_no_value_holds_an_address_and_each_key_expires(
    pacing_of: Pacing, client: "redis.Redis"
) -> None:
    async with Slack() as slack, Telegram() as telegram:
        slack.limited_s = 30
        async with (
            sender(slack, await pacing_of()) as one,
            sender(telegram, await pacing_of()) as two,
        ):
            await one.send(to_hook(slack))
            await one.send(to_hook(slack))
            await two.send(to_chat())
    keys = client.keys()
    assert len(keys) >= 3  # Slack's gate and rate, Telegram's chat, and its bot for 33 ms
    for key in keys:
        shown = f"{key!r} {client.hgetall(key)}"
        for secret in ("s3cr3t", "127.0.0.1", "http", CHAT, Telegram.token.partition(":")[0]):
            assert secret not in shown
        assert client.pttl(key) != -1  # -2 when it has gone meanwhile
        assert client.pttl(key) <= 90_000


async def test_a_message_costs_one_round_trip_and_a_closing_one_more(
    pacing_of: Pacing, client: "redis.Redis"
) -> None:
    def trips() -> int:
        found: Any = client.info("commandstats")
        return sum(found.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))

    async with Slack() as slack, sender(slack, await pacing_of()) as mine:
        await mine.send(to_hook(slack, "loads-the-script"))
        before = trips()
        for number in range(5):
            assert (await mine.send(to_hook(slack, f"hook{number}"))).ok
        assert trips() - before == 5
        slack.limited_s = 30
        before = trips()
        await mine.send(to_hook(slack, "limited"))
    assert trips() - before <= 3  # the closing's script is loaded too


async def test_a_flushed_redis_loses_nothing_and_paces_on(
    pool: Pool, pacing_of: Pacing, client: "redis.Redis"
) -> None:
    async with (
        Slack() as slack,
        courier(pool, pacer=await pacing_of()) as one,
        courier(pool, pacer=await pacing_of()) as two,
    ):
        for _ in range(6):
            await happen(pool, await subscribe(pool, "slack", webhook_url=slack.url()))
        flushing = asyncio.create_task(flush(client))
        await until_all_sent(pool, [one, two])
        flushing.cancel()
    assert len(slack.bodies) == 6
    assert len({str(body["blocks"][-1]) for body in slack.bodies}) == 6


async def flush(client: "redis.Redis") -> None:
    for _ in range(3):
        await asyncio.sleep(0.7)
        client.flushall()
        client.script_flush()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator["OwnRedis"]:
    mine = OwnRedis(tmp_path)
    yield mine
    mine.stop()


class OwnRedis:
    """A Redis that a test may kill, hold and start again."""

    def __init__(self, directory: Path) -> None:
        self._server = servers.prepare_redis(directory, logs=directory)
        self.url = self._server.url
        self.start()

    def start(self) -> None:
        self._process: subprocess.Popen[bytes] = start(self._server.program, self._server.log)
        servers.await_ready(self._server, self._process)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        stop(self._process, self._server.program)


async def test_while_redis_is_dead_alerts_still_go_out_at_each_worker_s_own_pace(
    own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "AWAY_S", 0.2)
    client = connect_async(own_redis.url)
    async with client, Slack() as slack, sender(slack, Pace(client)) as mine:
        assert (await until_sent(mine, to_hook(slack))).ok
        own_redis.kill()
        began = time.monotonic()
        for hook in ("one", "two", "three"):
            assert (await mine.send(to_hook(slack, hook))).ok
        assert time.monotonic() - began < 1.0
        for _ in range(2):  # and the webhook from before keeps its rate
            await until_sent(mine, to_hook(slack))
        own_redis.start()
        await asyncio.sleep(0.3)
        assert (await mine.send(to_hook(slack, "four"))).ok
        assert await client.keys("lh:pace:turn:*")  # it is asked again
    assert slack.limited == 0


async def test_while_redis_hangs_an_alert_waits_a_second_and_those_after_it_not_at_all(
    own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "AWAY_S", 3.0)
    client = connect_async(own_redis.url)
    async with client, Slack() as slack, sender(slack, Pace(client)) as mine:
        assert (await mine.send(to_hook(slack, "zero"))).ok
        own_redis.signal(signal.SIGSTOP)
        began = time.monotonic()
        hooks = [f"hook{number}" for number in range(20)]
        found = await asyncio.gather(*(mine.send(to_hook(slack, hook)) for hook in hooks))
        assert all(answer.ok for answer in found)
        assert time.monotonic() - began < 2.0
        began = time.monotonic()
        assert (await mine.send(to_hook(slack, "late"))).ok
        assert time.monotonic() - began < 0.5
        own_redis.signal(signal.SIGCONT)
        await asyncio.sleep(3.1)
        # What was cut off leaves no answer behind that another question could take for its own.
        for number in range(10):
            assert (await mine.send(to_hook(slack, f"after{number}"))).ok
    assert slack.limited == 0


async def test_a_redis_that_refuses_scripts_is_an_error_of_the_schedule(
    own_redis: OwnRedis,
) -> None:
    client = connect_async(own_redis.url.replace("redis://:", "redis://:not"))
    async with client:
        with pytest.raises(ScheduleError):
            await Pace(client).turn("a", (), 1.0)
