"""Thousands of targets fail at once because their workers' network does: nobody is woken but the
operator. Real processes, the workers in a network namespace whose route is taken away.

Needs root; what cannot run is not collected (see conftest.py).
"""

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults.test_processes import GRACE_S, now, settle
from tests.support.fleet import Fleet
from tests.support.namespaces import TARGETS, Namespaces

SUBSCRIPTIONS = 3000
INTERVAL_S = 10
#: Where the targets listen: many addresses, as targets have, and one that fails by itself.
PLACES = [f"http://198.19.{n}.1:8080/ok" for n in range(250)]
ALONE = "http://198.19.255.1:8081/ok"


#: The latter half of them.
FAR_HALF = "198.19.128.0/17"


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    with Namespaces(workers=2) as made:
        yield made


@pytest.fixture
def fleet(tmp_path: Path, namespaces: Namespaces) -> Iterator[Fleet]:
    """Two workers, each in a network of its own, and their targets."""
    fleet = Fleet(tmp_path, LIGHTHOUSE_EGRESS_ALLOW=TARGETS, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S))
    hosts = [namespaces.host_address(number) for number in range(2)]
    with (tmp_path / "redis" / "redis.conf").open("a") as lines:
        lines.write(f"bind 127.0.0.1 {' '.join(hosts)}\n")
    with fleet:
        for name, port in (("targets", 8080), ("alone", 8081)):
            target = ("-m", "tests.support.target", f"0.0.0.0:{port}")
            fleet.run(name, *namespaces.within_targets(), sys.executable, *target)
        fleet.start_beat()
        for number, host in enumerate(hosts):
            fleet.start_worker(
                f"w{number + 1}",
                within=namespaces.within_worker(number),
                REDIS_URL=fleet.redis_url.replace("@127.0.0.1:", f"@{host}:"),
            )
        yield fleet


def rows(fleet: Fleet, since: int) -> Counter[str]:
    """Statuses, and the reasons of errors, of the checks that were due after a moment."""
    found = fleet.query(
        "SELECT CASE status WHEN 'error' THEN error_code ELSE status::text END, count(*)"
        " FROM check_history WHERE time > to_timestamp(%s / 1000.0) GROUP BY 1",
        since,
    )
    return Counter(dict(found))


def events(fleet: Fleet) -> dict[str, int]:
    return dict(
        fleet.query(
            "SELECT alert_type::text, count(DISTINCT event_id) FROM alert_history GROUP BY 1"
        )
    )


def down(fleet: Fleet) -> int:
    count: int = fleet.scalar("SELECT count(*) FROM subscription_state WHERE verdict = 'down'")
    return count


def up(fleet: Fleet) -> int:
    count: int = fleet.scalar("SELECT count(*) FROM subscription_state WHERE verdict = 'up'")
    return count


def test_a_route_that_is_lost_is_no_downtime_and_one_alert_to_the_operator(
    fleet: Fleet, namespaces: Namespaces
) -> None:
    """Fails when `Health.take` records silence without proof: thousands are told as down."""
    fleet.subscribe(SUBSCRIPTIONS, interval_s=INTERVAL_S, urls=PLACES, timeout=1.5, retries=0)
    fleet.subscribe(1, interval_s=INTERVAL_S, path="alone", urls=[ALONE], timeout=1.5, retries=0)
    fleet.wait_for("everything up", lambda: up(fleet) == SUBSCRIPTIONS + 1)

    # The contrast: one of them fails while the network is well.
    fleet.signal("alone", signal.SIGSTOP)
    fleet.wait_for("the one downtime", lambda: events(fleet) == {"downtime": 1}, 30)
    assert down(fleet) == 1
    hour = f"{datetime.now(UTC):%H}"

    # The kernel knows no way: the first sign of it is an error at once.
    for worker in (0, 1):
        namespaces.take_route(worker)
    lost = now()
    fleet.wait_for(
        "errors", lambda: rows(fleet, lost)["prober_network"] >= SUBSCRIPTIONS * 2 // 3, 30
    )
    # A way there and none back: nothing is wrong with the host, and everything is silent.
    for worker in (0, 1):
        namespaces.silence(worker)
        namespaces.give_route(worker)
    silent = now()
    fleet.wait_for(
        "silence", lambda: rows(fleet, silent)["prober_unproved"] >= SUBSCRIPTIONS * 2 // 3, 40
    )
    during = rows(fleet, lost + 1000)
    assert during["failure"] == during["timeout"] == 0, during
    assert down(fleet) == 1

    for worker in (0, 1):
        namespaces.end_silence(worker)
    fleet.signal("alone", signal.SIGCONT)
    back = now()
    fleet.wait_for(
        "successes again", lambda: rows(fleet, back)["success"] >= SUBSCRIPTIONS * 2 // 3, 40
    )
    fleet.wait_for("no downtime", lambda: up(fleet) == SUBSCRIPTIONS + 1, 30)
    settle(fleet).assert_invariants(delivered=False)
    told = events(fleet)
    operator = told.pop("operator")
    assert told == {"downtime": 1, "recovery": 1}
    # One an hour: a second one only if the hour ended meanwhile.
    assert operator == 1 or (operator == 2 and f"{datetime.now(UTC):%H}" != hour)


def test_what_one_worker_alone_does_not_reach_is_no_downtime(
    fleet: Fleet, namespaces: Namespaces
) -> None:
    """Fails when `Health` asks no other worker: each target of the far half is told as down, for
    those of the near half prove that the network is there."""
    fleet.subscribe(SUBSCRIPTIONS, interval_s=INTERVAL_S, urls=PLACES, timeout=1.5, retries=0)
    fleet.subscribe(1, interval_s=INTERVAL_S, path="alone", urls=[ALONE], timeout=1.5, retries=0)
    fleet.wait_for("everything up", lambda: up(fleet) == SUBSCRIPTIONS + 1)

    namespaces.silence(0, FAR_HALF)
    lost = now()
    fleet.wait_for("errors", lambda: rows(fleet, lost)["prober_unconfirmed"] >= 800, 40)
    # What nobody reaches is down all the same.
    fleet.signal("alone", signal.SIGSTOP)
    fleet.wait_for("the one downtime", lambda: events(fleet) == {"downtime": 1}, 30)
    assert down(fleet) == 1

    namespaces.end_silence(0, FAR_HALF)
    fleet.signal("alone", signal.SIGCONT)
    fleet.wait_for("no downtime", lambda: down(fleet) == 0, 30)
    assert events(fleet) == {"downtime": 1, "recovery": 1}
