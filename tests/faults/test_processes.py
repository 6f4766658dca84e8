"""Real processes killed at the worst moment; the rows alone say whether anything was lost."""

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from lighthouse.model import to_slot
from lighthouse.schedule.keys import LEASE_PREFIX, LEASES
from tests.support.checker import Verdicts, check
from tests.support.counting import counting
from tests.support.dying_beat import DYING
from tests.support.fleet import Fleet

#: Short, so that the sweep writes what is missed while the test watches.
GRACE_S = 15


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S)) as made:
        yield made


def real_rows(fleet: Fleet, since: int = 0) -> int:
    count: int = fleet.scalar(
        "SELECT count(*) FROM check_history WHERE status IN ('success', 'failure', 'timeout')"
        " AND time > to_timestamp(%s / 1000.0)",
        since,
    )
    return count


def now() -> int:
    return to_slot(datetime.now(UTC))


def lease_states(fleet: Fleet) -> set[bytes | None]:
    """The states of all leases: q queued, r running."""
    with redis.Redis.from_url(fleet.redis_url) as client:
        batches = client.zrange(LEASES, 0, -1)
        return {client.hget(LEASE_PREFIX + batch.decode(), "s") for batch in batches}


def settle(fleet: Fleet) -> Verdicts:
    """Wait until every slot so far is accounted for, then check the rows."""
    until = now()
    fleet.wait_for(
        "the watermark",
        lambda: (
            fleet.scalar(
                "SELECT max((value->>'slot')::bigint) FROM fleet_state WHERE key = 'accounted_to'"
            )
            >= until
        ),
        GRACE_S + 60,
    )
    return check(fleet.database_url, until=until)


def test_a_worker_killed_mid_batch_costs_no_slot(fleet: Fleet) -> None:
    """Fails when `_REAP` in schedule/claims.py ignores running leases: slots end as missed."""
    fleet.subscribe(40, interval_s=40)
    fleet.subscribe(20, interval_s=40, path="/hang")  # so that it dies with probes in flight
    fleet.start_beat()
    fleet.start_worker("w1")
    fleet.wait_for("first results", lambda: real_rows(fleet) >= 20)
    assert b"r" in lease_states(fleet)
    fleet.kill("w1")
    killed = now()
    fleet.start_worker("w2")
    fleet.wait_for("results after the kill", lambda: real_rows(fleet, killed) >= 60)
    found = settle(fleet)
    found.assert_invariants()
    # The slots are 40 s apart, a lease is reaped 15 s after its last renewal, and a busy machine
    # needs 10 s for the probe and the second worker's start: nothing needs to be missed.
    assert found.statuses["missed"] == 0
    assert found.statuses["success"] >= 80


def test_a_beat_killed_between_a_claim_and_its_messages_costs_no_slot(fleet: Fleet) -> None:
    """Fails when `_REAP` in schedule/claims.py ignores queued leases: slots end as missed."""
    fleet.subscribe(60, interval_s=40)  # their first slots are due at once: one claim has them all
    fleet.start_worker("w1")
    fleet.start_beat("beat1", scheduler=DYING, LIGHTHOUSE_BATCH_SIZE="10")
    fleet.wait_until_ended("beat1")
    fleet.wait_for("results of the half that was sent", lambda: real_rows(fleet) == 30)
    with redis.Redis.from_url(fleet.redis_url) as client:
        assert client.llen("checks") == 0
        assert client.zcard(LEASES) >= 3  # nobody will start these
    fleet.start_beat("beat2")
    fleet.wait_for("results of the other half", lambda: real_rows(fleet) >= 60)
    found = settle(fleet)
    found.assert_invariants()
    assert found.statuses["missed"] == 0


def test_checks_go_on_within_thirty_seconds_of_each_servers_return(fleet: Fleet) -> None:
    """Fails when beat's tick lets an error through: beat ends."""
    fleet.subscribe(50, interval_s=10)
    fleet.start_beat()
    fleet.start_worker("w1")
    fleet.wait_for("first results", lambda: real_rows(fleet) >= 50)
    for server in ("redis", "postgres"):
        fleet.kill(server)
        time.sleep(3)
        fleet.again(server)
        back = now()
        fleet.wait_for(
            f"results after {server}'s return",
            lambda since=back: real_rows(fleet, since) >= 25,
            30,
        )
    settle(fleet).assert_invariants()


def test_a_flushed_redis_is_rebuilt_from_postgresql(fleet: Fleet) -> None:
    """Fails when the reconciler compares no numbers: nothing is scheduled any more."""
    fleet.subscribe(50, interval_s=10)
    fleet.start_beat()
    fleet.start_worker("w1")
    fleet.wait_for("first results", lambda: real_rows(fleet) >= 50)
    with redis.Redis.from_url(fleet.redis_url) as client:
        client.flushall()
    flushed = now()
    fleet.wait_for("results after FLUSHALL", lambda: real_rows(fleet, flushed) >= 50, 30)
    settle(fleet).assert_invariants()


def test_a_stopped_worker_that_wakes_up_starts_nothing_that_another_has(fleet: Fleet) -> None:
    """Fails when `_RENEW` compares no attempts, and when `Batches._lose` marks nothing as lost: all
    that was left of the batch is checked twice, which the target counts and the rows' key hides.
    Was seen to fail when `Batches._lose` raises too: the worker ends."""
    with counting() as target:
        urls = [f"http://127.0.0.1:{target.server_port}/{n}" for n in range(900)]
        fleet.subscribe(900, interval_s=60, urls=urls, retries=0)
        fleet.subscribe(20, interval_s=60, path="/hang")  # so that the second worker has it longer
        fleet.start_worker("w1")
        fleet.start_beat(LIGHTHOUSE_BATCH_SIZE="1000")
        assert target.first.wait(60)
        fleet.signal("w1", signal.SIGSTOP)
        fleet.start_worker("w2")
        time.sleep(1)
        begun = set(target.asked)
        fleet.wait_for("the other worker's checks", lambda: len(target.asked) >= 900, 60)
        assert b"r" in lease_states(fleet)
        fleet.signal("w1", signal.SIGCONT)
        fleet.wait_for("results of all", lambda: real_rows(fleet) >= 920)
        found = settle(fleet)
        fleet.stop("beat")
        time.sleep(1)
        # What beat had claimed as it ended, and nobody was told of, starts no probe.
        fleet.wait_for("the last results", lambda: b"r" not in lease_states(fleet))
        twice = 0
        for url, number in fleet.query(
            "SELECT s.target_config->>'url', count(*) FROM check_history h JOIN subscriptions s"
            " ON s.id = h.subscription_id WHERE h.status = 'success' GROUP BY 1"
        ):
            path = "/" + url.rpartition("/")[2]
            twice += path not in begun and target.asked[path] > number
    # What it starts until it has heard that its lease is gone, about 200, is not held against it.
    assert twice < (900 - len(begun)) * 2 / 3
    found.assert_invariants()
    assert found.statuses["missed"] == 0


def test_a_clean_stop_leaves_its_unfinished_checks_to_another_worker(fleet: Fleet) -> None:
    """Fails when the engine's close does not give leases back: nobody may have them for 15 s."""
    fleet.subscribe(30, interval_s=30)
    # Over within the grace, both attempts: later a slot is `missed` until its result comes.
    fleet.subscribe(10, interval_s=30, path="/hang", timeout=4.0)
    fleet.start_beat()
    fleet.start_worker("w1", LIGHTHOUSE_SHUTDOWN_S="1")
    fleet.wait_for("first results", lambda: real_rows(fleet) >= 20)
    began = time.monotonic()
    fleet.stop("w1")
    assert time.monotonic() - began < 10
    fleet.wait_for("what it gave back", lambda: lease_states(fleet) == {b"q"}, 5)
    fleet.start_worker("w2")
    stopped = now()
    fleet.wait_for("results after the stop", lambda: real_rows(fleet, stopped) >= 40, 90)
    found = settle(fleet)
    found.assert_invariants()
    assert found.statuses["missed"] == 0


def test_two_beats_double_nothing(fleet: Fleet) -> None:
    """Fails when `_CLAIM` is given what another call found due: slots are checked twice."""
    with counting() as target:
        url = f"http://127.0.0.1:{target.server_port}/"
        fleet.subscribe(200, interval_s=10, urls=[url], retries=0)
        for beat in ("beat1", "beat2"):
            fleet.start_beat(beat, LIGHTHOUSE_TICK_MS="10")  # so that they meet often
        fleet.start_worker("w1")
        fleet.wait_for("results", lambda: real_rows(fleet) >= 600)
        fleet.kill("beat1")
        later = now()
        fleet.wait_for("results of the other beat", lambda: real_rows(fleet, later) >= 200)
        found = settle(fleet)
        fleet.stop("beat2")
        time.sleep(1)
        # What beat had claimed as it ended, and nobody was told of, starts no probe.
        fleet.wait_for("the last results", lambda: b"r" not in lease_states(fleet))
        assert target.asked.total() == real_rows(fleet)
    found.assert_invariants()
    assert found.statuses["missed"] == 0
