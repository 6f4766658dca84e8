"""A worker whose network loses the database alone: nothing is refused and nothing is closed, it
only falls silent.

Needs root; what cannot run is not collected (see conftest.py).
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.fleet import Fleet
from tests.support.namespaces import TARGETS, Namespaces
from tests.support.reckoning import GRACE_S, now, reckon, rows

#: In the targets' namespace, as is the database's door.
TARGET, DATABASE = "198.19.1.1", "198.19.2.1"


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    with Namespaces() as made:
        yield made


@pytest.fixture
def fleet(tmp_path: Path, namespaces: Namespaces) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, LIGHTHOUSE_EGRESS_ALLOW=TARGETS, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S))
    host = namespaces.host_address(0)
    with (tmp_path / "redis" / "redis.conf").open("a") as lines:
        lines.write(f"bind 127.0.0.1 {host}\n")
    (directory,) = parse_qs(urlsplit(fleet.database_url).query)["host"]
    socket = f"{directory}/.s.PGSQL.5432"
    with fleet:
        there = namespaces.within_targets()
        fleet.run("web", *there, sys.executable, "-m", "tests.support.target", f"{TARGET}:8080")
        fleet.run(
            "door", *there, sys.executable, "-m", "tests.support.relay", f"{DATABASE}:5432", socket
        )
        fleet.start_beat()
        # The kernel gives a silent peer up after 4 s instead of 20.
        options = "sslmode=disable&gssencmode=disable&tcp_user_timeout=4000"
        fleet.start_worker(
            "w1",
            within=namespaces.within_worker(0),
            REDIS_URL=fleet.redis_url.replace("@127.0.0.1:", f"@{host}:"),
            DATABASE_URL=f"postgresql://lighthouse@{DATABASE}:5432/postgres?{options}",
        )
        yield fleet


def test_a_worker_that_hears_nothing_of_its_database_keeps_what_it_finds(
    fleet: Fleet, namespaces: Namespaces
) -> None:
    """Fails when the recorder forgets what it could not flush: slots are missed."""
    fleet.subscribe(60, interval_s=10, urls=[f"http://{TARGET}:8080/ok"])
    fleet.wait_for("first results", lambda: rows(fleet) >= 60)
    namespaces.silence(0, f"{DATABASE}/32")
    time.sleep(2)
    cut = now()
    time.sleep(13)
    assert rows(fleet, cut) == 0
    namespaces.end_silence(0, f"{DATABASE}/32")
    back = now()
    fleet.wait_for("results after the cut", lambda: rows(fleet, back) >= 60, 30)
    found = reckon(fleet)
    found.assert_invariants()
    assert found.statuses["missed"] == 0
