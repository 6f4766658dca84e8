"""The engine's batches on a real Redis: admitted, paced, kept, released when stored, given back."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
import redis.asyncio

from lighthouse import slots
from lighthouse.errors import ScheduleUnavailable
from lighthouse.fleet.batches import Batches
from lighthouse.fleet.health import Health
from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason, Result
from lighthouse.probes import Prober
from lighthouse.schedule import Claims, Entry, Leases, connect, connect_async
from lighthouse.schedule.keys import LEASE_PREFIX, LEASES, META, SCHEDULE, SPEC, SPEC_HEAD
from lighthouse.schedule.leases import RENEW_S
from lighthouse.settings import Settings

UP = Outcome(status=CheckStatus.SUCCESS, latency_ms=1.0)


class ScriptedProber(Prober):
    """Answers at once, hangs, or fails, as the path of the target says."""

    async def probe(self, type: MonitorType, config: Any, interval_s: float) -> Outcome:  # noqa: A002
        if config.url.endswith("/hang"):
            await asyncio.Event().wait()
        if config.url.endswith("/bug"):
            raise ZeroDivisionError("our own")
        return UP


class HeldRecorder:
    """Keeps results until the test commits them."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.full = False

    def add(self, result: Result) -> None:
        self.results.append(result)


class Bench:
    """Batches with their neighbours, and a beat to claim what they run."""

    def __init__(self, batches: Batches, recorder: HeldRecorder, claims: Claims) -> None:
        self.batches, self.recorder, self.claims = batches, recorder, claims
        self._numbers = itertools.count(1)

    def schedule(self, *paths: str, type: str = "http") -> list[UUID]:  # noqa: A002
        now = int(time.time() * 1000)
        entries = [
            Entry(
                subscription_id=(subscription_id := uuid4()),
                version=1,
                interval_ms=60_000,
                phase_ms=slots.phase(subscription_id, 60_000),
                first_slot=now - 5,
                epoch=next(self._numbers),
                queue="checks",
                spec=json.dumps({"type": type, "config": {"url": f"http://127.0.0.1{path}"}}),
            )
            for path in paths
        ]
        self.claims.upsert(entries)
        return [entry.subscription_id for entry in entries]

    async def admit(self) -> list[tuple[str, int]]:
        claimed = self.claims.claim(limit=1000, batch_size=1000, max_queued=500)
        for batch in claimed.batches:
            await self.batches.admit(batch.batch, batch.attempt)
        return [(batch.batch, batch.attempt) for batch in claimed.batches]

    async def results(self, number: int) -> Sequence[Result]:
        async with asyncio.timeout(5):
            while len(self.recorder.results) < number:
                await asyncio.sleep(0.01)
        return self.recorder.results


@pytest.fixture
async def bench(redis_url: str, settings: Settings) -> AsyncIterator[Bench]:
    client = connect_async(redis_url)
    recorder = HeldRecorder()
    async with ScriptedProber(settings) as prober:
        batches = Batches(
            leases=Leases(client, "w1"), prober=prober, max_in_flight=10, region="here"
        )
        batches.recorder = recorder  # type: ignore[assignment]
        batches.health = Health(
            prober=prober, references=(), add=recorder.add, alarm=lambda why: None
        )
        tasks = [asyncio.create_task(batches.run()), asyncio.create_task(batches.keep())]
        yield Bench(batches, recorder, Claims(connect(redis_url)))
        for task in tasks:
            task.cancel()
    await client.aclose()


@pytest.fixture
def client(redis_url: str) -> "redis.Redis":
    return connect(redis_url)


async def gone(client: "redis.Redis", batch: str) -> bool:
    async with asyncio.timeout(3):
        while client.exists(f"{LEASE_PREFIX}{batch}"):
            await asyncio.sleep(0.02)
    return True


async def test_a_lease_ends_only_after_the_last_row_is_committed(
    bench: Bench, client: "redis.Redis"
) -> None:
    bench.schedule("/a", "/b", "/c")
    ((batch, _),) = await bench.admit()
    results = await bench.results(3)
    bench.batches.committed(results[:2])
    await asyncio.sleep(0.5)
    assert client.exists(f"{LEASE_PREFIX}{batch}") == 1
    bench.batches.committed(results[2:])
    assert await gone(client, batch)


async def test_results_carry_their_slot_their_delay_and_the_region(bench: Bench) -> None:
    (subscription_id,) = bench.schedule("/a")
    await bench.admit()
    (result,) = await bench.results(1)
    assert result.subscription_id == subscription_id
    assert 0 <= result.delay_ms < 2_000
    assert result.region == "here"
    assert result.status is CheckStatus.SUCCESS


async def test_a_bug_of_ours_is_an_error_and_costs_no_other_check(bench: Bench) -> None:
    bench.schedule("/a", "/bug", "/b")
    await bench.admit()
    results = await bench.results(3)
    assert sorted(r.status.value for r in results) == ["error", "success", "success"]
    (error,) = (r for r in results if r.status is CheckStatus.ERROR)
    assert error.error_code == Reason.PROBER_BUG.value


async def test_a_type_that_this_worker_does_not_know_is_an_error(bench: Bench) -> None:
    bench.schedule("/a", type="telepathy")
    await bench.admit()
    (result,) = await bench.results(1)
    assert (result.status, result.error_code) == (CheckStatus.ERROR, "prober_config")


async def test_a_configuration_that_is_refused_is_an_error_with_its_field(bench: Bench) -> None:
    bench.schedule("/\x00nowhere")
    await bench.admit()
    (result,) = await bench.results(1)
    assert result.status is CheckStatus.ERROR
    assert result.error_message is not None
    assert "url" in result.error_message


async def test_a_full_engine_admits_nothing_until_there_is_room(bench: Bench) -> None:
    bench.schedule(*["/hang"] * 12)
    await bench.admit()
    bench.schedule("/a")
    waiting = asyncio.create_task(bench.admit())
    await asyncio.sleep(0.3)
    assert not waiting.done()
    assert bench.recorder.results == []
    await bench.batches.close(0.1)  # a stopping engine lets go of whoever waits
    await asyncio.wait_for(waiting, 2)
    assert bench.recorder.results == []


async def test_batches_that_wait_together_do_not_all_take_the_same_room(bench: Bench) -> None:
    bench.schedule(*["/hang"] * 40)
    claimed = bench.claims.claim(limit=1000, batch_size=4, max_queued=500)
    waiting = [
        asyncio.create_task(bench.batches.admit(batch.batch, batch.attempt))
        for batch in claimed.batches
    ]
    await asyncio.sleep(0.3)
    assert bench.batches.in_flight == 12  # full at 10, and the batch that came last is whole
    assert sum(task.done() for task in waiting) == 3
    for task in waiting:
        task.cancel()


async def test_results_that_nobody_can_store_stop_admission(bench: Bench) -> None:
    bench.recorder.full = True
    bench.schedule("/a")
    waiting = asyncio.create_task(bench.admit())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    bench.recorder.full = False
    bench.batches.committed([])
    await asyncio.wait_for(waiting, 2)
    await bench.results(1)


async def test_what_is_unfinished_at_the_end_is_given_back_and_the_rest_released(
    bench: Bench, client: "redis.Redis"
) -> None:
    hanging = bench.schedule("/hang")[0]
    bench.schedule("/a")
    ((batch, _),) = await bench.admit()
    results = await bench.results(1)
    await bench.batches.close(0.2)
    bench.batches.committed(results)
    await bench.batches.give_back()
    (again,) = bench.claims.reap()
    assert (again.batch, again.attempt, again.size) == (batch, 2, 1)
    body = client.hget(f"{LEASE_PREFIX}{batch}", "b")
    assert body is not None
    assert body[:16] == hanging.bytes
    assert client.zcard("lh:workers") == 0


async def test_a_batch_that_cannot_be_read_is_another_workers_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: Any) -> None:
        raise ScheduleUnavailable("Redis has gone between two commands")

    (one,) = bench.schedule("/a")
    with monkeypatch.context() as patch:
        patch.setattr(bench.batches.specs, "learn", away)
        ((batch, attempt),) = await bench.admit()
    async with asyncio.timeout(3):  # and not when its lease is over
        while not (again := bench.claims.reap()):
            await asyncio.sleep(0.05)
    assert [(a.batch, a.attempt, a.size) for a in again] == [(batch, attempt + 1, 1)]
    await bench.batches.admit(again[0].batch, again[0].attempt)
    (result,) = await bench.results(1)
    assert result.subscription_id == one


async def test_a_lost_lease_is_neither_renewed_nor_released(
    bench: Bench, client: "redis.Redis"
) -> None:
    bench.schedule("/hang", "/a")
    ((batch, _),) = await bench.admit()
    results = await bench.results(1)
    client.zadd(LEASES, {batch: 0})
    (again,) = bench.claims.reap()
    assert again.attempt == 2
    await asyncio.sleep(4.6)  # a round of renewals
    bench.batches.committed(results)
    await bench.batches.close(0.1)
    await bench.batches.give_back()
    assert client.hmget(f"{LEASE_PREFIX}{batch}", "s", "a") == [b"q", b"2"]


async def test_a_new_version_of_a_configuration_is_used_at_once(bench: Bench) -> None:
    (subscription_id,) = bench.schedule("/a")
    await bench.admit()
    await bench.results(1)
    now = int(time.time() * 1000)
    bench.claims.upsert(
        [
            Entry(
                subscription_id=subscription_id,
                version=2,
                interval_ms=60_000,
                phase_ms=slots.phase(subscription_id, 60_000),
                first_slot=now - 1,
                epoch=99,
                queue="checks",
                spec='{"type": "http", "config": {"url": "http://127.0.0.1/bug"}}',
            )
        ]
    )
    await bench.admit()
    results = await bench.results(2)
    assert results[1].error_code == Reason.PROBER_BUG.value


async def test_losing_one_attempt_of_a_batch_leaves_the_next_one_of_the_same_worker_alone(
    bench: Bench, client: "redis.Redis"
) -> None:
    """Fails when a lost lease is told of by its batch alone: nobody runs the batch for 15 s."""
    bench.schedule("/hang")
    ((batch, _),) = await bench.admit()
    client.zadd(LEASES, {batch: 1})  # as if Redis had stood still past the lease
    (again,) = bench.claims.reap()
    assert (again.batch, again.attempt) == (batch, 2)
    await bench.batches.admit(again.batch, again.attempt)
    await asyncio.sleep(RENEW_S + 0.5)
    await bench.batches.close(0.1)
    await bench.batches.give_back()
    (handed,) = bench.claims.reap()
    assert (handed.batch, handed.attempt) == (batch, 3)


async def test_no_check_is_dropped_while_room_is_made_for_other_configurations(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when a configuration that is in use ages in the cache as if it were not."""
    monkeypatch.setattr("lighthouse.fleet.specs.MAX_CONFIGS", 3)
    (oldest,) = bench.schedule("/a")
    await bench.admit()
    bench.schedule("/b", "/c")
    await bench.admit()
    await bench.results(3)
    bench.schedule("/d")
    again = int(time.time() * 1000) - 1  # due together with a new one
    bench.claims._redis.zadd(SCHEDULE, {oldest.bytes: again})
    await bench.admit()
    results = await bench.results(5)
    assert oldest in {result.subscription_id for result in results[3:]}


async def test_a_configuration_restored_with_an_older_number_is_read_again(
    bench: Bench,
) -> None:
    """Fails when only higher versions are: a restored dump begins to count anew."""
    (subscription_id,) = bench.schedule("/bug")
    await bench.admit()
    await bench.results(1)
    client = bench.claims._redis
    client.delete(META, SPEC, SCHEDULE)
    now = int(time.time() * 1000)
    bench.claims.upsert(
        [
            Entry(
                subscription_id=subscription_id,
                version=0,
                interval_ms=60_000,
                phase_ms=slots.phase(subscription_id, 60_000),
                first_slot=now - 1,
                epoch=1,
                queue="checks",
                spec='{"type": "http", "config": {"url": "http://127.0.0.1/a"}}',
            )
        ]
    )
    await bench.admit()
    results = await bench.results(2)
    assert results[1].status is CheckStatus.SUCCESS


@pytest.mark.parametrize(
    "spec",
    [
        "[" * 100_000,
        '{"type": "http", "config": {"url": "http://127.0.0.1/", "body": ' + "9" * 5000 + "}}",
        "nonsense",
        "[]",
    ],
)
async def test_a_configuration_that_cannot_be_read_costs_its_own_subscription_alone(
    bench: Bench, spec: str
) -> None:
    good, bad = bench.schedule("/a", "/b")
    bench.claims._redis.hset(SPEC, bad.bytes, SPEC_HEAD.pack(1) + spec.encode())
    await bench.admit()
    results = {result.subscription_id: result for result in await bench.results(2)}
    assert results[good].status is CheckStatus.SUCCESS
    assert results[bad].error_code == Reason.PROBER_CONFIG.value
