"""The engine on real servers: how it ends while something holds it up."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
import redis

from lighthouse.fleet.engine import Engine
from lighthouse.settings import Settings
from lighthouse.store.pool import Pool
from tests.support.couriers import happen, subscribe
from tests.support.messengers import Slack


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    threshold = gc.get_threshold()
    short = settings.model_copy(update={"shutdown_s": 1})
    opened = Engine.open(short, name="w1", notify=lambda: None)
    yield opened
    opened.close()
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_a_task_that_waits_for_a_lock_does_not_hold_up_the_end(
    engine: Engine, migrated_url: str
) -> None:
    """Fails when `close` leaves a thread waiting for a loop that has stopped: Celery joins it."""
    with psycopg.connect(migrated_url) as holder:
        holder.execute("LOCK TABLE fleet_state IN ACCESS EXCLUSIVE MODE")
        sweeper = threading.Thread(target=engine.sweep, daemon=True)
        sweeper.start()
        time.sleep(0.5)
        assert sweeper.is_alive()
        began = time.monotonic()
        engine.close()
        sweeper.join(5)
        assert not sweeper.is_alive()
        assert time.monotonic() - began < 8


def test_a_message_that_comes_after_the_end_returns(engine: Engine) -> None:
    engine.close()
    late = threading.Thread(target=engine.sweep, daemon=True)
    late.start()
    late.join(5)
    assert not late.is_alive()


async def test_its_alerts_keep_the_pace_that_all_engines_share(
    engine: Engine, pool: Pool, redis_url: str
) -> None:
    async with Slack() as slack:
        await happen(pool, await subscribe(pool, "slack", webhook_url=slack.url()))
        await asyncio.to_thread(engine.deliver)
        assert len(slack.bodies) == 1
        with redis.Redis.from_url(redis_url) as client:
            assert len(client.keys("lh:pace:turn:*")) == 1
