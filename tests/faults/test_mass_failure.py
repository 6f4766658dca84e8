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
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.faults.test_processes import GRACE_S, now, settle
from tests.support.fleet import Fleet
from tests.support.namespaces import TARGETS, Namespaces

SUBSCRIPTIONS = 3000
INTERVAL_S = 10
#: Where the targets listen: many addresses, as targets have, and one that fails by itself.
PLACES = [f"http://198.19.{n}.1:8080/ok" for n in range(250)]
ALONE = "http://198.19.255.1:8081/ok"


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    with Namespaces() as made:
        yield made


@pytest.fixture
def fleet(tmp_path: Path, namespaces: Namespaces) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, LIGHTHOUSE_EGRESS_ALLOW=TARGETS, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S))
    configuration = tmp_path / "redis" / "redis.conf"
    with configuration.open("a") as lines:
        lines.write(f"bind 127.0.0.1 {namespaces.host_address}\n")
    redis = urlsplit(fleet.redis_url)
    place = redis.netloc.replace("127.0.0.1", namespaces.host_address)
    with fleet:
        target = (*namespaces.within(namespaces.targets), sys.executable)
        for name, port in (("targets", 8080), ("alone", 8081)):
            fleet.run(name, *target, "-m", "tests.support.target", f"0.0.0.0:{port}")
        fleet.start_beat()
        for name in ("w1", "w2"):
            fleet.start_worker(
                name,
                within=namespaces.within(namespaces.workers),
                REDIS_URL=urlunsplit(redis._replace(netloc=place)),
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
    namespaces.take_route()
    lost = now()
    fleet.wait_for(
        "errors", lambda: rows(fleet, lost)["prober_network"] >= SUBSCRIPTIONS * 2 // 3, 30
    )
    # A way there and none back: nothing is wrong with the host, and everything is silent.
    namespaces.answer(dropped=True)
    namespaces.give_route()
    silent = now()
    fleet.wait_for(
        "silence", lambda: rows(fleet, silent)["prober_unproved"] >= SUBSCRIPTIONS * 2 // 3, 40
    )
    during = rows(fleet, lost + 1000)
    assert during["failure"] == during["timeout"] == 0, during
    assert down(fleet) == 1

    namespaces.answer(dropped=False)
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
