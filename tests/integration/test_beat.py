"""Beat on real servers: the schedule follows the truth, and a round never ends it."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from lighthouse.fleet.beat import BROWSER_QUEUED, FIXED, FIXED_WAITING, Scheduler
from lighthouse.fleet.reconcile import Reconciler
from lighthouse.model import MonitorType, Tier
from lighthouse.schedule import Claims, connect
from lighthouse.schedule.keys import META, SCHEDULE, SCHEDULES, SPEC, SPEC_HEAD
from lighthouse.settings import Settings, current
from lighthouse.store import catalog
from lighthouse.store.creation import NewSubscription
from lighthouse.store.pool import Pool, open_pool


class StubApp:
    """Stands for the Celery application: keeps what would be sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.conf = type("Conf", (), {"beat_max_loop_interval": 1.0, "beat_sync_every": 0})()
        self.amqp = type("Amqp", (), {"Producer": None})()

    def producer_or_acquire(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def send_task(self, name: str, **options: Any) -> None:
        self.sent.append((name, options))


def sent_batches(app: "StubApp") -> list[str]:
    """The queues that batches were sent to."""
    return [options["queue"] for name, options in app.sent if name == "lighthouse.run_batch"]


def on_database(url: str, work: Callable[[Pool], Any]) -> Any:
    async def run() -> Any:
        async with open_pool(url, maximum=1) as pool:
            return await work(pool)

    return asyncio.run(run())


def subscribe(url: str, name: str, **config: Any) -> UUID:
    new = NewSubscription(
        wallet="0x" + "b" * 40,
        type=MonitorType.HTTP,
        config={"url": "http://127.0.0.1/", **config},
        interval_s=3600,  # no second slot comes due while a test looks at the first
        worst_case_s=20.0,
        tier=Tier.ENTERPRISE,
        name=name,
    )
    made: UUID = on_database(
        url, lambda pool: catalog.create_subscription(pool, new, enforce_plans=True)
    )
    return made


@pytest.fixture
def claims(redis_url: str) -> Claims:
    return Claims(connect(redis_url))


@pytest.fixture
def reconciler(settings: Settings, claims: Claims) -> Iterator[Reconciler]:
    made = Reconciler(settings, claims)
    made.start()
    yield made
    made.stop()


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_every_kind_of_change_reaches_the_schedule_within_five_seconds(
    migrated_url: str, claims: Claims, reconciler: Reconciler
) -> None:
    one, two = subscribe(migrated_url, "one"), subscribe(migrated_url, "two")
    assert within(5, lambda: set(claims.members()) == {one, two})
    on_database(migrated_url, lambda pool: catalog.pause(pool, one))
    assert within(5, lambda: set(claims.members()) == {two})
    on_database(migrated_url, lambda pool: catalog.resume(pool, one))
    assert within(5, lambda: set(claims.members()) == {one, two})
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        connection.execute("DELETE FROM users")
    assert within(5, lambda: claims.size() == 0)


def test_beat_hands_on_any_configuration_that_the_database_can_hold(
    migrated_url: str, redis_url: str, claims: Claims, reconciler: Reconciler
) -> None:
    """Fails when beat reads configurations: one integer of a contract would end it for all."""
    amount = 2**256 - 1
    deep: list[Any] = []
    for _ in range(800):
        deep = [deep]
    made = {subscribe(migrated_url, "amount", body={"value": amount})}
    made.add(subscribe(migrated_url, "deep", body=deep))
    assert within(5, lambda: set(claims.members()) == made)
    assert reconciler.refused is None
    specs = connect(redis_url).hvals(SPEC)
    bodies = [json.loads(spec[SPEC_HEAD.size :])["config"]["body"] for spec in specs]
    assert {"value": amount} in bodies


def become_canary(url: str, subscription_id: UUID, *actions: str) -> None:
    config = {"steps": [{"name": f"{n}", "action": action} for n, action in enumerate(actions)]}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE subscriptions SET target_type = 'canary', target_config = %s WHERE id = %s",
            (json.dumps(config), subscription_id),
        )


def queued(redis_url: str) -> list[set[UUID]]:
    """The subscriptions that are scheduled in each queue."""
    with connect(redis_url) as client:
        return [{UUID(bytes=m) for m in client.zrange(key, 0, -1)} for key in SCHEDULES]


def test_a_canary_is_in_the_queue_browser_while_it_has_a_browser_step(
    migrated_url: str, redis_url: str, reconciler: Reconciler
) -> None:
    http, plain, browser = (subscribe(migrated_url, name) for name in ("http", "plain", "browser"))
    become_canary(migrated_url, plain, "GET", "wait")
    become_canary(migrated_url, browser, "GET", "browser")
    with psycopg.connect(migrated_url, autocommit=True) as connection:  # no canary, whatever it has
        connection.execute(
            "UPDATE subscriptions SET target_config = target_config || %s WHERE id = %s",
            ('{"steps": [{"action": "browser"}]}', http),
        )
    assert within(5, lambda: queued(redis_url) == [{http, plain}, {browser}])
    become_canary(migrated_url, browser, "GET")
    become_canary(migrated_url, plain, "browser")
    assert within(5, lambda: queued(redis_url) == [{http, browser}, {plain}])


def test_both_queues_are_made_anew_after_a_flush(
    migrated_url: str, redis_url: str, reconciler: Reconciler
) -> None:
    plain, browser = subscribe(migrated_url, "plain"), subscribe(migrated_url, "browser")
    become_canary(migrated_url, browser, "browser")
    assert within(5, lambda: queued(redis_url) == [{plain}, {browser}])
    with connect(redis_url) as client:
        client.flushdb()
    assert within(5, lambda: queued(redis_url) == [{plain}, {browser}])


def test_a_lost_entry_and_a_stray_one_are_mended(
    migrated_url: str, redis_url: str, claims: Claims, reconciler: Reconciler
) -> None:
    one = subscribe(migrated_url, "one")
    client = connect(redis_url)
    assert within(5, lambda: claims.size() == 1)
    client.delete(SCHEDULE, META)
    assert within(5, lambda: set(claims.members()) == {one})
    stray = UUID(int=7)
    client.zadd(SCHEDULE, {stray.bytes: 1})
    assert within(5, lambda: set(claims.members()) == {one})
    client.close()


def test_a_transaction_that_commits_late_is_not_passed_over(
    migrated_url: str, claims: Claims, reconciler: Reconciler
) -> None:
    slow = subscribe(migrated_url, "slow")
    assert within(5, lambda: claims.size() == 1)
    with psycopg.connect(migrated_url) as connection:
        connection.execute("UPDATE subscriptions SET status = 'paused' WHERE id = %s", (slow,))
        subscribe(migrated_url, "fast")  # commits first, with a later number
        assert within(5, lambda: claims.size() == 2)
    assert within(5, lambda: claims.size() == 1)


@pytest.fixture
def scheduler(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Scheduler, StubApp]]:
    current.cache_clear()
    monkeypatch.setenv("DATABASE_URL", settings.require_database())
    monkeypatch.setenv("REDIS_URL", settings.require_redis())
    app = StubApp()
    yield Scheduler(app, lazy=True), app
    current.cache_clear()


def test_a_round_publishes_a_message_a_batch_and_the_fixed_tasks(
    scheduler: tuple[Scheduler, StubApp], migrated_url: str, claims: Claims, settings: Settings
) -> None:
    beat, app = scheduler
    subscribe(migrated_url, "one")
    reconciler = Reconciler(settings, claims)
    reconciler.start()
    assert within(5, lambda: claims.size() == 1)
    reconciler.stop()
    beat.tick()
    names = [name for name, _ in app.sent]
    assert names.count("lighthouse.run_batch") == 1
    assert set(names) == {"lighthouse.run_batch", *(name for name, _, _ in FIXED)}
    (options,) = (options for name, options in app.sent if name == "lighthouse.run_batch")
    assert options["argsrepr"] == "(1 checks)"
    assert "127.0.0.1" not in str(options)
    before = len(app.sent)
    beat.tick()
    assert len(app.sent) == before  # nothing is due, no fixed task is either


def test_browser_checks_that_nobody_takes_hold_up_nothing_and_the_operator_is_told(
    scheduler: tuple[Scheduler, StubApp],
    migrated_url: str,
    redis_url: str,
    claims: Claims,
    settings: Settings,
) -> None:
    beat, app = scheduler
    subscribe(migrated_url, "plain")
    become_canary(migrated_url, subscribe(migrated_url, "browser"), "browser")
    reconciler = Reconciler(settings, claims)
    reconciler.start()
    assert within(5, lambda: [len(each) for each in queued(redis_url)] == [1, 1])
    reconciler.stop()
    told: list[tuple[str, str, str]] = []
    beat._reconciler = reconciler
    reconciler.tell_operator = lambda *notice: told.append(notice)  # type: ignore[method-assign]
    with connect(redis_url) as client:
        client.rpush("browser", *["message"] * BROWSER_QUEUED)
        beat.tick()
        assert sent_batches(app) == ["checks"]
        assert [title for _, title, _ in told] == ["Browser checks wait for a worker"]
        client.delete("browser")
        beat.tick()
        assert sent_batches(app) == ["checks", "browser"]


def test_fixed_tasks_do_not_pile_up_where_nobody_takes_them(
    scheduler: tuple[Scheduler, StubApp], redis_url: str
) -> None:
    beat, app = scheduler
    client = connect(redis_url)
    client.rpush("maintenance", *["message"] * FIXED_WAITING)
    beat.tick()
    assert {options["queue"] for _, options in app.sent} == {"alerts"}
    client.close()


def test_a_round_that_fails_backs_off_and_the_next_one_works(
    scheduler: tuple[Scheduler, StubApp], redis_url: str
) -> None:
    beat, app = scheduler
    client = connect(redis_url)
    client.set(SCHEDULE, "no sorted set")
    waits = [beat.tick() for _ in range(4)]
    assert waits == sorted(waits)
    assert waits[0] > 0.1
    assert app.sent == []
    client.delete(SCHEDULE)
    assert beat.tick() <= 0.1
    assert app.sent
    client.close()


def test_a_broker_that_takes_no_message_leaves_the_batch_to_the_reaper(
    scheduler: tuple[Scheduler, StubApp],
    migrated_url: str,
    redis_url: str,
    claims: Claims,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    beat, app = scheduler
    subscribe(migrated_url, "one")
    reconciler = Reconciler(settings, claims)
    reconciler.start()
    assert within(5, lambda: claims.size() == 1)
    reconciler.stop()

    def refuse(name: str, **options: Any) -> None:
        raise OSError("broker away")

    monkeypatch.setattr(app, "send_task", refuse)
    assert beat.tick() > 0
    monkeypatch.undo()
    client = connect(redis_url)
    ((batch, _),) = client.zrange("lh:leases", 0, -1, withscores=True)
    client.zadd("lh:leases", {batch: 0})
    client.hset(f"lh:lease:{batch.decode()}", "c", 1)
    assert [again.attempt for again in claims.reap()] == [2]
    client.close()
