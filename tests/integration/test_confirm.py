"""Two engines on real servers: what one finds down, the other looks at before anybody is told."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis

from lighthouse import slots
from lighthouse.fleet import recorder
from lighthouse.fleet.engine import Engine
from lighthouse.model import CheckStatus, Confirmation, MonitorType, Reason, Result, Tier
from lighthouse.schedule import Claims, Confirmations, Entry, Request, connect, connect_async
from lighthouse.schedule.confirm import MOST_ANSWERS, MOST_WAITING, Answered
from lighthouse.schedule.keys import CONFIRM, CONFIRMED_PREFIX, WORKERS
from lighthouse.settings import Settings
from lighthouse.store.budgets import Limits
from lighthouse.store.creation import NewSubscription, create_subscriptions
from lighthouse.store.pool import Pool
from tests.support.raw_target import Behaviour, Target, answering, raw_target, resetting

#: Seconds after a probe's end within which its alert is to be with its channel.
BUDGET_S = 2.0


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Each connection meets the next behaviour, the last one for ever."""
    left = list(behaviours)

    async def behave(*exchange: Any) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(*exchange)

    return behave


class Bench:
    """Two workers, `one` that gets the checks and `other`, and what comes to be recorded."""

    def __init__(self, one: Engine, other: Engine, pool: Pool, claims: Claims) -> None:
        self.one, self.other, self.pool, self.claims = one, other, pool, claims
        self.recorded: list[tuple[float, Result]] = []  #: when (monotonic) and what

    async def check(
        self, target: Target, monitor: MonitorType = MonitorType.HTTP, **config: Any
    ) -> UUID:
        """Let `one` check a target once, now; returns the subscription."""
        config = {"url": target.url(), "timeout": 3.0, "retries": 0, **config}
        (subscription_id,) = await create_subscriptions(
            self.pool,
            [
                NewSubscription(
                    wallet="0x" + "a" * 40,
                    type=monitor,
                    config=config,
                    tier=Tier.ENTERPRISE,
                    interval_s=60,
                    name=uuid4().hex,
                    worst_case_s=6.0,
                )
            ],
            enforce_plans=False,
        )
        await self.check_again(subscription_id, monitor, config)
        return subscription_id

    async def check_again(self, one: UUID, monitor: MonitorType, config: Any) -> None:
        slot = int(time.time() * 1000) - 5
        self.claims.upsert(
            [
                Entry(
                    subscription_id=one,
                    version=slot,
                    interval_ms=60_000,
                    phase_ms=slots.phase(one, 60_000),
                    first_slot=slot,
                    epoch=slot,
                    queue="checks",
                    spec=json.dumps({"type": monitor.value, "config": config}),
                )
            ]
        )
        for batch in self.claims.claim(limit=10, batch_size=10, max_queued=500).batches:
            await asyncio.to_thread(self.one.run_batch, batch.batch, batch.attempt)

    async def result(self, number: int = 1) -> Result:
        async with asyncio.timeout(10):
            while len(self.recorded) < number:
                await asyncio.sleep(0.01)
        return self.recorded[number - 1][1]

    async def downs(self) -> tuple[int, int]:
        """Subscriptions that are believed down, and events that tell of one."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT (SELECT count(*) FROM subscription_state WHERE verdict = 'down'),"
                " (SELECT count(*) FROM alert_history WHERE alert_type = 'downtime')"
            )
            row = await cursor.fetchone()
        assert row is not None
        return row[0], row[1]

    async def stored(self) -> Sequence[tuple[Any, ...]]:
        async with self.pool.connection() as connection:
            cursor = await connection.execute("SELECT status::text, region FROM check_history")
            return await cursor.fetchall()


@pytest.fixture
def client(redis_url: str) -> "redis.Redis":
    return connect(redis_url)


@pytest.fixture
async def bench(
    settings: Settings, pool: Pool, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    threshold = gc.get_threshold()
    real = recorder.record
    async with _engine(settings, "one") as one, _engine(settings, "other") as other:
        bench = Bench(one, other, pool, Claims(client))

        async def record(into: Pool, results: Sequence[Result], limits: Limits) -> Any:
            done = await real(into, results, limits)
            bench.recorded += [(time.monotonic(), result) for result in results]
            return done

        monkeypatch.setattr(recorder, "record", record)
        await until(lambda: client.zcard(WORKERS) == 2)
        yield bench
    gc.unfreeze()
    gc.set_threshold(*threshold)


@asynccontextmanager
async def _engine(settings: Settings, name: str) -> AsyncIterator[Engine]:
    own = settings.model_copy(update={"shutdown_s": 1, "region": name})
    engine = await asyncio.to_thread(Engine.open, own, name=name, notify=lambda: None)
    try:
        yield engine
    finally:
        await asyncio.to_thread(engine.close)


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


def left(client: "redis.Redis") -> list[bytes]:
    return list(client.keys("lh:confirm*"))


async def test_a_downtime_that_another_worker_sees_too_carries_its_evidence(
    bench: Bench, client: "redis.Redis"
) -> None:
    async with raw_target(answering(500)) as target:
        await bench.check(target)
        result = await bench.result()
    confirmation = result.confirmation
    assert confirmation is not None
    assert confirmation.latency_ms is not None
    assert confirmation == Confirmation(
        worker="other",
        region="other",
        status=CheckStatus.FAILURE,
        reason=Reason.STATUS_CODE,
        message="status 500, expected 200–299",
        latency_ms=confirmation.latency_ms,
        http_status=500,
    )
    assert target.connections == 2
    assert await bench.stored() == [("failure", "one")]  # a look makes no row
    assert await bench.downs() == (1, 1)
    await until(lambda: not left(client))


async def test_a_target_that_stays_down_is_looked_at_once(bench: Bench) -> None:
    async with raw_target(in_turn(*[answering(500)] * 3, answering(200), answering(500))) as target:
        config = {"url": target.url(), "retries": 0}
        one = await bench.check(target)
        await bench.result()
        for number in (2, 3, 4):
            await bench.check_again(one, MonitorType.HTTP, config)
            await bench.result(number)
    assert [r.status.value for _, r in bench.recorded] == [
        *("failure", "failure", "success", "failure")
    ]
    confirmed = [r.confirmation is not None for _, r in bench.recorded]
    assert confirmed == [True, False, False, True]


async def test_what_another_worker_reaches_and_this_one_does_not_is_no_downtime(
    bench: Bench,
) -> None:
    behaviour = in_turn(resetting(), answering(200), resetting())
    async with raw_target(behaviour) as target:
        await bench.check(target)
        result = await bench.result()
    assert target.connections == 3
    assert (result.status, result.error_code) == (CheckStatus.ERROR, "prober_unconfirmed")
    assert "another worker reached it: " in str(result.error_message)
    assert result.attempts == 2
    assert await bench.downs() == (0, 0)


async def test_what_this_worker_reaches_at_its_second_look_was_never_down(bench: Bench) -> None:
    async with raw_target(in_turn(resetting(), answering(200))) as target:
        await bench.check(target)
        result = await bench.result()
    assert target.connections == 3
    assert (result.status, result.attempts) == (CheckStatus.SUCCESS, 2)
    assert await bench.downs() == (0, 0)


async def test_a_wrong_answer_stands_although_another_worker_got_the_right_one(
    bench: Bench,
) -> None:
    async with raw_target(in_turn(answering(500), answering(200))) as target:
        await bench.check(target)
        result = await bench.result()
    assert target.connections == 2
    assert result.status is CheckStatus.FAILURE
    assert result.confirmation is not None
    assert result.confirmation.status is CheckStatus.SUCCESS
    assert await bench.downs() == (1, 1)


async def test_a_worker_that_has_taken_its_own_request_leaves_it_to_others(
    bench: Bench, client: "redis.Redis"
) -> None:
    """Fails when the originator confirms itself, or spins while nobody else takes its request."""
    await asyncio.to_thread(bench.other.close)
    client.zadd(WORKERS, {"ghost": 2e15})  # alive, and never there
    client.config_resetstat()
    async with raw_target(answering(500)) as target:
        await bench.check(target)
        result = await bench.result()
        assert target.connections == 1
    assert (result.status, result.confirmation) == (CheckStatus.FAILURE, None)
    assert 0 < client.info("commandstats")["cmdstat_blpop"]["calls"] < 100
    await until(lambda: not left(client))


async def test_a_request_that_came_back_is_taken_by_the_other_worker(
    bench: Bench, client: "redis.Redis"
) -> None:
    """Fails without `put_back`: one of two requests comes to whoever made it, and ends there."""
    async with raw_target(answering(500)) as target:
        for number in range(1, 13):
            if number % 2:  # then it is `one` that has waited longest, and is given its own request
                client.rpush(f"{CONFIRMED_PREFIX}other", "{}")
                await asyncio.sleep(0.1)
            await bench.check(target)
            await bench.result(number)
    answered = sum(result.confirmation is not None for _, result in bench.recorded)
    assert answered >= 10  # on a busy machine one or two may come too late


async def test_a_worker_that_nothing_answers_is_no_witness(bench: Bench) -> None:
    bench.other._batches.health._alarmed = True
    async with raw_target(answering(500)) as target:
        await bench.check(target)
        result = await bench.result()
    assert (target.connections, result.confirmation) == (1, None)


async def test_where_nobody_else_is_alive_nothing_waits(
    bench: Bench, client: "redis.Redis"
) -> None:
    await asyncio.to_thread(bench.other.close)
    async with raw_target(answering(500)) as target:
        began = time.monotonic()
        await bench.check(target)
        result = await bench.result()
    assert time.monotonic() - began < 1.0
    assert result.confirmation is None
    assert not left(client)


async def test_a_frozen_worker_holds_nothing_up(bench: Bench, client: "redis.Redis") -> None:
    bench.other._loop.call_soon_threadsafe(time.sleep, 4)
    async with raw_target(answering(500)) as target:
        began = time.monotonic()
        await bench.check(target)
        result = await bench.result()
        assert bench.recorded[0][0] - began < BUDGET_S
        assert (result.status, result.confirmation) == (CheckStatus.FAILURE, None)
        assert target.connections == 1
        assert await bench.downs() == (1, 1)
        await asyncio.sleep(3)  # awake again, it finds that the request's time is over
        assert target.connections == 1
    assert not left(client)


async def test_a_redis_that_stands_still_holds_nothing_up(
    bench: Bench, client: "redis.Redis"
) -> None:
    async with raw_target(answering(500, after_s=0.5)) as target:
        await bench.check(target)
        client.execute_command("CLIENT", "PAUSE", 4000)
        began = time.monotonic()
        result = await bench.result()
    assert bench.recorded[0][0] - began < 0.5 + BUDGET_S
    assert (result.status, result.confirmation) == (CheckStatus.FAILURE, None)
    await until(lambda: not left(client), 10)


async def test_a_look_does_not_wait_for_a_slow_target(bench: Bench) -> None:
    behaviour = in_turn(answering(500), answering(200, after_s=5))
    async with raw_target(behaviour) as target:
        began = time.monotonic()
        await bench.check(target)
        result = await bench.result()
    assert bench.recorded[0][0] - began < BUDGET_S
    assert result.confirmation is not None
    assert result.confirmation.status is CheckStatus.TIMEOUT
    assert result.confirmation.message == "no complete answer within 1.2 s"


@pytest.mark.parametrize(
    ("type_", "config"),
    [
        (MonitorType.HTTP, {"method": "POST", "body": "buy"}),
        (MonitorType.GRAPHQL, {"query": "mutation { buy }"}),
        (MonitorType.GRAPHQL, {"query": "fragment f on Q { a } mutation { ...f }"}),
    ],
)
async def test_what_may_do_something_is_done_once(
    bench: Bench, type_: MonitorType, config: dict[str, Any]
) -> None:
    async with raw_target(answering(500)) as target:
        await bench.check(target, type_, **config)
        result = await bench.result()
        await asyncio.sleep(0.3)
    assert (target.connections, result.confirmation) == (1, None)


async def test_a_query_is_no_mutation(bench: Bench) -> None:
    async with raw_target(answering(500)) as target:
        await bench.check(target, MonitorType.GRAPHQL, query="{ users { name } }")
        result = await bench.result()
    assert (target.connections, result.confirmation is None) == (2, False)


async def test_a_stopping_worker_leaves_what_waits_to_another(
    bench: Bench, client: "redis.Redis"
) -> None:
    client.zadd(WORKERS, {"ghost": 2e15})
    await asyncio.to_thread(bench.other.close)
    async with raw_target(answering(500)) as target:
        await bench.check(target)
        await until(lambda: target.connections == 1)
        await asyncio.to_thread(bench.one.close)
    assert bench.recorded == []
    (again,) = bench.claims.reap()
    assert (again.attempt, again.size) == (2, 1)


async def test_what_nobody_takes_is_bounded_and_ends_by_itself(
    client: "redis.Redis", redis_url: str
) -> None:
    client.zadd(WORKERS, {"ghost": 2e15})
    own = connect_async(redis_url)
    mine = Confirmations(own, "mine")
    found = Confirmation(
        worker="mine",
        region=None,
        status=CheckStatus.TIMEOUT,
        reason=Reason.TIMEOUT,
        message=None,
        latency_ms=None,
        http_status=None,
    )
    for number in range(MOST_WAITING + 50):
        request = Request(
            id=str(number), originator="mine", subscription_id=uuid4(), version=number
        )
        assert await mine.ask(request)
        await mine.answer(request, found)
    assert client.llen(CONFIRM) == MOST_WAITING
    assert client.llen(f"{CONFIRMED_PREFIX}mine") == MOST_ANSWERS
    await until(lambda: not left(client), 6)
    await own.aclose()


@pytest.mark.parametrize(
    "nonsense",
    [
        *(b"", b"\xff", b"[]", b"null", b"{}", b"[" * 100_000, b'{"id": 1}'),
        b'{"id": "1", "from": "2", "subscription": 3, "version": 4}',
        b'{"id": "1", "from": "2", "subscription": "%s", "version": Infinity}' % (b"0" * 32),
    ],
)
async def test_bytes_that_are_no_request_cost_nothing(
    bench: Bench, client: "redis.Redis", nonsense: bytes
) -> None:
    for key in (CONFIRM, f"{CONFIRMED_PREFIX}one", f"{CONFIRMED_PREFIX}other"):
        client.rpush(key, nonsense, nonsense)
    async with raw_target(answering(500)) as target:
        await bench.check(target)
        assert (await bench.result()).confirmation is not None
    await until(lambda: not left(client))


async def test_what_a_broken_worker_says_can_be_stored(
    client: "redis.Redis", redis_url: str
) -> None:
    """Evidence that PostgreSQL refuses would cost the result its place, and its alert."""
    told: dict[str, Any] = {
        "id": "1",
        "worker": ["\0"],
        "region": "\ud800",
        "status": "timeout",
        "reason": "timeout",
        "message": "\0" * 5000,
        "latency_ms": float("nan"),
        "http_status": "200",
    }
    client.rpush(f"{CONFIRMED_PREFIX}mine", json.dumps(told), json.dumps({**told, "region": {}}))
    own = connect_async(redis_url)
    for region in ("?", "{}"):
        answered = await Confirmations(own, "mine").next(requests=False)
        assert isinstance(answered, Answered)
        found = answered.confirmation
        assert (found.region, found.latency_ms, found.http_status) == (region, None, 200)
        assert "\0" not in f"{found.worker}{found.message}"
        assert len(found.message or "") == 500
    await own.aclose()
