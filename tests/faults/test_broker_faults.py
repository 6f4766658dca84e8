"""Messages that come twice, late or never, and a Redis that stops, ends and starts again."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.counting import Counting, counting
from tests.support.dying_beat import DYING
from tests.support.fleet import Fleet
from tests.support.reckoning import GRACE_S, now, reckon, rows


@pytest.fixture
def target() -> Iterator[Counting]:
    with counting() as server:
        yield server


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S)) as made:
        yield made


def test_messages_that_come_twice_an_hour_late_or_never_check_each_slot_once(
    fleet: Fleet, target: Counting
) -> None:
    """Fails when `_START` compares no state (slots are checked twice), and when `_REAP` leaves
    queued batches alone (their leases never end)."""
    url = f"http://127.0.0.1:{target.server_port}/"
    fleet.subscribe(40, interval_s=20, urls=[url], retries=0)
    fleet.start_worker("w1")
    # Never: claimed, in one batch, by a beat that died before it had sent anything.
    fleet.start_beat("beat0", scheduler=DYING)
    with redis.Redis.from_url(fleet.redis_url) as client:
        fleet.wait_until_ended("beat0")
        assert client.zcard("lh:leases") >= 1
        assert client.llen("checks") == 0
        fleet.start_beat()
        fleet.wait_for("first results", lambda: rows(fleet) >= 40)

        fleet.signal("w1", signal.SIGSTOP)
        messages = fleet.wait_for("messages", lambda: client.lrange("checks", 0, -1), 30)
        client.lpush("checks", *messages, *messages)
        fleet.signal("w1", signal.SIGCONT)
        fleet.wait_for("all taken", lambda: not client.llen("checks"))
        since = now()
        fleet.wait_for("their results", lambda: rows(fleet, since) >= 20)
        fleet.wait_for("their leases' end", lambda: not client.zcard("lh:leases"))
        # Whoever has waited for an hour finds what is left after a second: no lease.
        client.lpush("checks", *messages)
        fleet.wait_for("all taken again", lambda: not client.llen("checks"))
        found = reckon(fleet)
        fleet.stop("beat")
        fleet.wait_for("the last results", lambda: not client.zcard("lh:leases"))
    found.assert_invariants()
    assert found.statuses["missed"] == 0
    assert target.asked.total() == rows(fleet)


def test_a_redis_that_stops_and_starts_again_and_again_costs_no_check_thirty_seconds_later(
    fleet: Fleet,
) -> None:
    """Fails when beat's tick lets an error through: both beats end."""
    stop_and_restart(fleet, stopped_s=6, restarts=2)


@pytest.mark.long
def test_a_redis_that_stops_for_a_minute_and_starts_twenty_times_costs_no_check_later(
    fleet: Fleet,
) -> None:
    """Fails as the short form does."""
    stop_and_restart(fleet, stopped_s=60, restarts=20)


def stop_and_restart(fleet: Fleet, *, stopped_s: float, restarts: int) -> None:
    fleet.subscribe(60, interval_s=10)
    fleet.subscribe(10, interval_s=10, path="/hang")  # so that batches are held meanwhile
    fleet.start_beat("beat1")
    fleet.start_beat("beat2")
    fleet.start_worker("w1")
    fleet.start_worker("w2")
    fleet.wait_for("first results", lambda: rows(fleet) >= 60)
    fleet.signal("redis", signal.SIGSTOP)
    time.sleep(stopped_s)
    fleet.signal("redis", signal.SIGCONT)
    back = now()
    fleet.wait_for("results after the stop", lambda: rows(fleet, back) >= 60, 30)
    for turn in range(restarts):
        if turn % 2:
            fleet.kill("redis")
        else:
            fleet.stop("redis")
        time.sleep(0.2 * (turn % 3))
        fleet.again("redis")
        time.sleep(1.0)
    back = now()
    fleet.wait_for("results after the restarts", lambda: rows(fleet, back) >= 60, 30)
    reckon(fleet).assert_invariants()
