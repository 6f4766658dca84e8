"""The schedule in a real Redis: each script by its effect."""

import asyncio
import time
from collections.abc import Iterator
from uuid import UUID

import pytest
import redis

from lighthouse import slots
from lighthouse.errors import ScheduleMisconfigured, ScheduleUnavailable
from lighthouse.schedule import Claims, Entry, Leases, check_server, connect, connect_async
from lighthouse.schedule import claims as claims_module
from lighthouse.schedule.keys import (
    CLOCK,
    LEASE_PREFIX,
    LEASES,
    META,
    NUMBERS,
    SCHEDULE,
    SCHEDULES,
)

pytestmark = pytest.mark.usefixtures("redis_url")


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    made = connect(redis_url)
    yield made
    made.close()


@pytest.fixture
def claims(client: "redis.Redis") -> Claims:
    return Claims(client)


def now_ms(client: "redis.Redis") -> int:
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def an_entry(
    number: int,
    *,
    first_slot: int,
    version: int = 1,
    interval_s: int = 60,
    queue: str = "checks",
) -> Entry:
    subscription_id = UUID(int=number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % (1 << 128))
    interval_ms = interval_s * 1000
    return Entry(
        subscription_id=subscription_id,
        version=version,
        interval_ms=interval_ms,
        phase_ms=slots.phase(subscription_id, interval_ms),
        first_slot=first_slot,
        epoch=number,
        queue=queue,
        spec=f'{{"type": "http", "config": {{"url": "http://127.0.0.1/{number}"}}}}',
    )


def claim(claims: Claims, *, limit: int = 1000, size: int = 100) -> list[claims_module.Published]:
    return claims.claim(limit=limit, batch_size=size, max_queued=500).batches


async def start(redis_url: str, batch: claims_module.Published, worker: str = "w1") -> list[UUID]:
    client = connect_async(redis_url)
    try:
        started = await Leases(client, worker).start(batch.batch, batch.attempt)
        return [check.subscription_id for check in started.checks]
    finally:
        await client.aclose()


def test_a_new_subscription_is_due_at_its_first_slot_and_then_on_its_grid(
    client: "redis.Redis", claims: Claims
) -> None:
    entry = an_entry(1, first_slot=now_ms(client) - 5)
    assert claims.upsert([entry]) == 1
    assert client.zscore(SCHEDULE, entry.subscription_id.bytes) == entry.first_slot
    (batch,) = claim(claims)
    assert batch.size == 1
    seat = client.zscore(SCHEDULE, entry.subscription_id.bytes)
    assert seat == slots.next_slot(entry.first_slot, entry.interval_ms, entry.phase_ms)


def test_what_is_claimed_is_not_claimed_again(client: "redis.Redis", claims: Claims) -> None:
    first = now_ms(client) - 5
    claims.upsert(an_entry(n, first_slot=first) for n in range(1, 251))
    assert sum(batch.size for batch in claim(claims)) == 250
    late = sum(batch.size for batch in claim(claims))
    assert late < 10  # only those whose grid slot fell into these milliseconds


def test_batches_are_shared_among_the_live_workers(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    async def two_workers() -> None:
        connection = connect_async(redis_url)
        await Leases(connection, "w1").renew([])
        await Leases(connection, "w2").renew([])
        await connection.aclose()

    asyncio.run(two_workers())
    first = now_ms(client) - 5
    claims.upsert(an_entry(n, first_slot=first) for n in range(1, 31))
    assert sorted(batch.size for batch in claim(claims)) == [15, 15]


def test_a_slot_older_than_its_interval_is_skipped_to_the_latest_one(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    entry = an_entry(1, first_slot=now_ms(client) - 10)
    claims.upsert([entry])
    member = entry.subscription_id.bytes
    client.zadd(SCHEDULE, {member: now_ms(client) - 10 * entry.interval_ms})
    before = now_ms(client)
    (batch,) = claim(claims)
    body = client.hget(f"{LEASE_PREFIX}{batch.batch}", "b")
    assert body is not None
    slot = int.from_bytes(body[16:24], "big")
    assert slot in (
        slots.latest_slot(before, entry.interval_ms, entry.phase_ms),
        slots.latest_slot(now_ms(client), entry.interval_ms, entry.phase_ms),
    )
    assert claims.counters()["skipped"] == 1


def test_nothing_is_claimed_while_the_queue_is_at_its_bound(
    client: "redis.Redis", claims: Claims
) -> None:
    claims.upsert([an_entry(1, first_slot=now_ms(client) - 5)])
    client.rpush("checks", "a", "b", "c")
    answer = claims.claim(limit=10, batch_size=10, max_queued=3)
    assert answer.full
    assert answer.batches == []
    client.lpop("checks")
    assert claims.claim(limit=10, batch_size=10, max_queued=3).checks == 1


def test_nothing_is_claimed_while_batches_wait_too_long(
    client: "redis.Redis", claims: Claims
) -> None:
    claims.upsert([an_entry(1, first_slot=now_ms(client) - 5)])
    client.hset(NUMBERS, "checks:waited", claims_module.MAX_WAIT_MS + 1)
    client.rpush("checks", *["message"] * (claims_module.STEADY_QUEUED + 1))
    assert claims.claim(limit=10, batch_size=10, max_queued=500).full
    client.lpop("checks")
    assert claims.claim(limit=10, batch_size=10, max_queued=500).checks == 1


def test_each_queue_is_claimed_alone(client: "redis.Redis", claims: Claims) -> None:
    now = now_ms(client)
    claims.upsert([an_entry(1, first_slot=now - 5)])
    claims.upsert([an_entry(2, first_slot=now - 5, queue="browser")])
    assert claims.size() == 2
    (plain,) = claim(claims)
    assert (plain.queue, plain.size) == ("checks", 1)
    (browser,) = claims.claim(queue="browser", limit=9, batch_size=9, max_queued=9).batches
    assert (browser.queue, browser.size) == ("browser", 1)
    member = an_entry(2, first_slot=0).subscription_id.bytes
    assert client.zscore(SCHEDULE, member) is None
    assert set(claims.members()) == {an_entry(n, first_slot=0).subscription_id for n in (1, 2)}


def test_a_backlog_of_one_queue_holds_up_no_other(client: "redis.Redis", claims: Claims) -> None:
    """Fails when what nobody takes from `browser` counts against `checks`."""
    now = now_ms(client)
    for n in range(1, 21):
        claims.upsert([an_entry(n, first_slot=now - 5, queue="browser")])
    claims.upsert([an_entry(21, first_slot=now - 5)])
    client.rpush("browser", *["message"] * 20)
    assert claims.claim(queue="browser", limit=10, batch_size=1, max_queued=20).full
    answer = claims.claim(limit=10, batch_size=10, max_queued=20)
    assert (answer.full, answer.checks) == (False, 1)
    client.rpush("checks", *["message"] * 20)
    client.delete("browser")
    assert claims.claim(limit=10, batch_size=10, max_queued=20).full
    assert claims.claim(queue="browser", limit=10, batch_size=1, max_queued=20).checks == 10


@pytest.mark.parametrize(("old", "new"), [("checks", "browser"), ("browser", "checks")])
def test_a_subscription_that_moves_to_another_queue_keeps_its_seat(
    client: "redis.Redis", claims: Claims, old: str, new: str
) -> None:
    before = an_entry(1, first_slot=now_ms(client) - 5, queue=old)
    claims.upsert([before])
    claims.claim(queue=old, limit=1, batch_size=1, max_queued=9)
    member = before.subscription_id.bytes
    keys = dict(zip(("checks", "browser"), SCHEDULES, strict=True))
    seat = client.zscore(keys[old], member)
    moved = an_entry(1, first_slot=before.first_slot, version=2, queue=new)
    assert claims.upsert([moved]) == 1
    assert client.zscore(keys[old], member) is None
    assert client.zscore(keys[new], member) == seat
    assert claims.size() == 1
    assert claims.remove([(before.subscription_id, 2)]) == 1
    assert [client.zcard(key) for key in SCHEDULES] == [0, 0]


def test_a_release_that_queues_otherwise_moves_what_has_not_changed(
    client: "redis.Redis", claims: Claims
) -> None:
    first = now_ms(client) - 5
    claims.upsert([an_entry(1, first_slot=first)])
    assert claims.upsert([an_entry(1, first_slot=first, queue="browser")]) == 1
    assert [client.zcard(key) for key in SCHEDULES] == [0, 1]
    assert claims.upsert([an_entry(1, first_slot=first, queue="browser")]) == 0


def test_a_check_that_waits_in_a_queue_it_has_left_does_not_run_there(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    stays, moves = (an_entry(n, first_slot=now_ms(client) - 5) for n in (1, 2))
    claims.upsert([stays, moves])
    (batch,) = claim(claims)
    claims.upsert([an_entry(2, first_slot=moves.first_slot, version=2, queue="browser")])
    assert asyncio.run(start(redis_url, batch)) == [stays.subscription_id]
    assert "shed" not in claims.counters()


def test_a_start_tells_how_long_its_batch_has_waited(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    claims.upsert([an_entry(1, first_slot=now_ms(client) - 5)])
    (batch,) = claim(claims)
    client.hset(f"{LEASE_PREFIX}{batch.batch}", "c", now_ms(client) - 4_000)
    asyncio.run(start(redis_url, batch))
    waited = client.hget(NUMBERS, "checks:waited")
    assert waited is not None
    assert 4_000 <= int(waited) < 9_000


def test_a_batch_starts_once_and_a_doubled_message_gets_nothing(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    entry = an_entry(1, first_slot=now_ms(client) - 5)
    claims.upsert([entry])
    (batch,) = claim(claims)
    assert asyncio.run(start(redis_url, batch)) == [entry.subscription_id]
    assert asyncio.run(start(redis_url, batch, "w2")) == []


def test_a_paused_subscription_is_dropped_when_its_batch_starts(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    one, two = (an_entry(n, first_slot=now_ms(client) - 5) for n in (1, 2))
    claims.upsert([one, two])
    (batch,) = claim(claims)
    assert claims.remove([(one.subscription_id, 2)]) == 1
    assert asyncio.run(start(redis_url, batch)) == [two.subscription_id]


def test_a_slot_that_comes_later_than_its_interval_is_shed(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    entry = an_entry(1, first_slot=now_ms(client) - 5)
    claims.upsert([entry])
    (batch,) = claim(claims)
    key = f"{LEASE_PREFIX}{batch.batch}"
    stale = now_ms(client) - entry.interval_ms - 1
    client.hset(key, "b", entry.subscription_id.bytes + stale.to_bytes(8, "big"))
    assert asyncio.run(start(redis_url, batch)) == []
    assert claims.counters()["shed"] == 1
    assert client.exists(key) == 0


def test_a_dead_workers_batch_is_published_again_and_its_old_attempt_is_worthless(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    claims.upsert([an_entry(1, first_slot=now_ms(client) - 5)])
    (batch,) = claim(claims)
    asyncio.run(start(redis_url, batch))
    assert claims.reap() == []
    client.zadd(LEASES, {batch.batch: now_ms(client) - 1})  # its time runs out
    (again,) = claims.reap()
    assert (again.batch, again.attempt, again.size) == (batch.batch, 2, 1)

    async def old_worker() -> list[tuple[str, int]]:
        connection = connect_async(redis_url)
        leases = Leases(connection, "w1")
        lost = await leases.renew([(batch.batch, 1)])
        await leases.release([(batch.batch, 1)])
        await connection.aclose()
        return lost

    assert asyncio.run(old_worker()) == [(batch.batch, 1)]
    assert client.exists(f"{LEASE_PREFIX}{batch.batch}") == 1
    assert len(asyncio.run(start(redis_url, again, "w2"))) == 1


def test_a_batch_that_merely_waits_its_turn_is_never_doubled(
    client: "redis.Redis", claims: Claims
) -> None:
    claims.upsert([an_entry(1, first_slot=now_ms(client) - 5)])
    (batch,) = claim(claims)
    client.rpush("checks", "its message")
    age = now_ms(client) - 60_000
    client.hset(f"{LEASE_PREFIX}{batch.batch}", "c", age)
    client.zadd(LEASES, {batch.batch: age})
    assert claims.reap() == []


def test_a_batch_overtaken_in_its_queue_has_lost_its_message(
    client: "redis.Redis", claims: Claims
) -> None:
    claims.upsert([an_entry(1, first_slot=now_ms(client) - 5)])
    (batch,) = claim(claims)
    client.rpush("checks", "another message")
    age = now_ms(client) - 60_000
    client.hset(f"{LEASE_PREFIX}{batch.batch}", "c", age)
    client.zadd(LEASES, {batch.batch: age})
    client.hset(NUMBERS, mapping={"checks:started": 99, "checks:at": age})
    (again,) = claims.reap()
    assert again.attempt == 2


def test_a_batch_in_an_empty_queue_has_lost_its_message(
    client: "redis.Redis", claims: Claims
) -> None:
    claims.upsert([an_entry(1, first_slot=now_ms(client) - 5)])
    (batch,) = claim(claims)
    age = now_ms(client) - 60_000
    client.hset(f"{LEASE_PREFIX}{batch.batch}", "c", age)
    client.zadd(LEASES, {batch.batch: age})
    assert [b.batch for b in claims.reap()] == [batch.batch]


def test_a_batch_that_kills_every_worker_is_given_up(client: "redis.Redis", claims: Claims) -> None:
    claims.upsert([an_entry(1, first_slot=now_ms(client) - 5)])
    (batch,) = claim(claims)
    for attempt in range(1, claims_module.MAX_LOSSES):
        client.hset(f"{LEASE_PREFIX}{batch.batch}", "s", "r")
        client.zadd(LEASES, {batch.batch: 0})
        assert [b.attempt for b in claims.reap()] == [attempt + 1]
    client.hset(f"{LEASE_PREFIX}{batch.batch}", "s", "r")
    client.zadd(LEASES, {batch.batch: 0})
    assert claims.reap() == []
    assert client.exists(f"{LEASE_PREFIX}{batch.batch}") == 0
    assert claims.counters()["abandoned"] == 1


def test_a_batch_that_waits_in_a_full_worker_is_not_given_up(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    """Fails when its messages, which the full worker holds, count like lost workers."""
    claims.upsert([an_entry(1, first_slot=now_ms(client) - 5)])
    (batch,) = claim(claims)
    for _ in range(claims_module.MAX_LOSSES + 1):
        client.hset(f"{LEASE_PREFIX}{batch.batch}", "c", 1)  # its message was taken long ago
        client.zadd(LEASES, {batch.batch: 0})
        (batch,) = claims.reap()
    assert len(asyncio.run(start(redis_url, batch))) == 1


def test_unfinished_checks_are_handed_over_at_once(
    client: "redis.Redis", claims: Claims, redis_url: str
) -> None:
    entries = [an_entry(n, first_slot=now_ms(client) - 5) for n in range(1, 4)]
    claims.upsert(entries)
    (batch,) = claim(claims)

    async def work() -> UUID:
        connection = connect_async(redis_url)
        leases = Leases(connection, "w1")
        started = await leases.start(batch.batch, 1)
        rest = started.checks[0]
        await leases.give_back([((batch.batch, 1), [(rest.subscription_id, rest.slot)])])
        await connection.aclose()
        return rest.subscription_id

    rest = asyncio.run(work())
    (again,) = claims.reap()
    assert again.size == 1
    assert asyncio.run(start(redis_url, again, "w2")) == [rest]


def test_an_unchanged_epoch_keeps_its_seat(client: "redis.Redis", claims: Claims) -> None:
    entry = an_entry(1, first_slot=now_ms(client) - 5)
    claims.upsert([entry])
    claim(claims)
    seat = client.zscore(SCHEDULE, entry.subscription_id.bytes)
    changed = an_entry(1, first_slot=entry.first_slot, version=2)
    assert claims.upsert([changed]) == 1
    assert client.zscore(SCHEDULE, entry.subscription_id.bytes) == seat


def test_an_older_version_undoes_nothing(client: "redis.Redis", claims: Claims) -> None:
    new = an_entry(1, first_slot=now_ms(client) - 5, version=7)
    claims.upsert([new])
    meta = client.hget(META, new.subscription_id.bytes)
    assert claims.upsert([an_entry(1, first_slot=0, version=6, interval_s=10)]) == 0
    assert client.hget(META, new.subscription_id.bytes) == meta
    assert claims.remove([(new.subscription_id, 6)]) == 0
    assert claims.size() == 1


def test_a_seat_beyond_the_next_interval_is_taken_back(
    client: "redis.Redis", claims: Claims
) -> None:
    entry = an_entry(1, first_slot=now_ms(client) - 120_000)
    claims.upsert([entry])
    client.zadd(SCHEDULE, {entry.subscription_id.bytes: now_ms(client) + 3_600_000})
    claims.upsert([entry])
    seat = client.zscore(SCHEDULE, entry.subscription_id.bytes)
    assert seat is not None
    assert now_ms(client) < seat <= now_ms(client) + entry.interval_ms


def test_the_clock_waits_out_a_small_step_back_and_takes_a_large_one(
    client: "redis.Redis", claims: Claims
) -> None:
    ahead = now_ms(client) + 5_000
    client.set(CLOCK, ahead)
    held = claims.claim(limit=1, batch_size=1, max_queued=1)
    assert (held.now, held.jumped) == (ahead, False)
    client.set(CLOCK, now_ms(client) + 3_600_000)
    stepped = claims.claim(limit=1, batch_size=1, max_queued=1)
    assert stepped.jumped
    assert abs(stepped.now - now_ms(client)) < 2_000
    assert not claims.claim(limit=1, batch_size=1, max_queued=1).jumped


def test_a_schedule_of_another_database_is_emptied(client: "redis.Redis", claims: Claims) -> None:
    assert claims.belongs_to("one")
    claims.upsert([an_entry(1, first_slot=now_ms(client))])
    claims.upsert([an_entry(2, first_slot=now_ms(client), queue="browser")])
    assert claims.belongs_to("one")
    assert claims.size() == 2
    assert not claims.belongs_to("another")
    assert claims.size() == 0
    assert claims.belongs_to("another")


def test_a_million_times_less_two_beats_claim_each_check_once(
    client: "redis.Redis", redis_url: str
) -> None:
    first = now_ms(client) - 5
    Claims(client).upsert(an_entry(n, first_slot=first, interval_s=3600) for n in range(1, 2001))
    beats = [Claims(connect(redis_url)) for _ in range(2)]
    bodies: list[bytes] = []
    while any(claim(beat, limit=150) for beat in beats):
        pass
    for key in client.scan_iter(f"{LEASE_PREFIX}*"):
        body = client.hget(key, "b")
        assert body is not None
        bodies += [body[at : at + 16] for at in range(0, len(body), 24)]
    assert len(bodies) >= 2000
    assert len(set(bodies)) == 2000


def test_claim_publishes_far_more_than_the_budget_asks(
    client: "redis.Redis", claims: Claims
) -> None:
    first = now_ms(client) - 5
    claims.upsert(an_entry(n, first_slot=first, interval_s=3600) for n in range(1, 20_001))
    began, claimed = time.monotonic(), 0
    while batches := claim(claims):
        claimed += sum(batch.size for batch in batches)
    assert claimed >= 20_000
    assert claimed / (time.monotonic() - began) > 20_000


def test_a_server_that_evicts_is_refused(client: "redis.Redis", redis_url: str) -> None:
    client.config_set("maxmemory", "512mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(ScheduleMisconfigured, match="set maxmemory-policy noeviction"):
            check_server(redis_url)
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "0")
    check_server(redis_url)


def test_a_server_that_is_away_is_named() -> None:
    with pytest.raises(ScheduleUnavailable, match=r"Redis at 127\.0\.0\.1:1 cannot be reached"):
        check_server("redis://127.0.0.1:1/0")
