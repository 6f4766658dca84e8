"""A database that fails at the worst moments: inside COPY, inside COMMIT, with a full disk, with
rows that it does not take, at midnight."""

import asyncio
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import psycopg
import pytest

from lighthouse.model import CheckStatus, MonitorType, Result, Tier, to_slot
from lighthouse.store.creation import NewSubscription, create_subscriptions
from lighthouse.store.pool import Pool, open_pool
from lighthouse.store.record import record
from lighthouse.store.rollups import ROLLUP_LOCK
from tests.support.fleet import Fleet
from tests.support.reckoning import GRACE_S, now, reckon, rows
from tests.support.relay import Relay


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S)) as made:
        yield made


@pytest.fixture
def relay(fleet: Fleet) -> Iterator[Relay]:
    """On the worker's way to PostgreSQL."""
    (directory,) = parse_qs(urlsplit(fleet.database_url).query)["host"]
    with Relay(("127.0.0.1", 0), f"{directory}/.s.PGSQL.5432") as made:
        yield made


def through(relay: Relay) -> str:
    place = f"127.0.0.1:{relay.port}"
    return f"postgresql://lighthouse@{place}/postgres?sslmode=disable&gssencmode=disable"


def toggle(fleet: Fleet, *, up: bool) -> None:
    with suppress(urllib.error.HTTPError):  # it answers as it will from now on
        urllib.request.urlopen(fleet.url(f"/toggle/{'up' if up else 'down'}")).close()


#: What it does to the rows of one subscription, as a constraint that somebody added would.
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.subscription_id = '{id}' AND NEW.status = 'success' THEN
        RAISE numeric_value_out_of_range USING MESSAGE = 'not this one';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON check_history FOR EACH ROW EXECUTE FUNCTION refuse();
"""


def test_a_cut_in_commit_a_crash_in_copy_and_a_row_that_is_refused_cost_nothing(
    fleet: Fleet, relay: Relay
) -> None:
    """Fails when the recorder forgets what it could not flush (slots are missed), and when what
    PostgreSQL refuses is not bisected (nothing is stored any more)."""
    fleet.subscribe(60, interval_s=10)
    fleet.subscribe(10, interval_s=10, path="/toggle")
    (refused,) = fleet.subscribe(1, interval_s=10, path="/ok?refused")
    fleet.start_beat()
    fleet.start_worker("w1", DATABASE_URL=through(relay))
    fleet.wait_for("first results", lambda: rows(fleet) >= 60)

    # COMMIT is done and its answer lost: of transactions that tell ten targets down.
    relay.watch = lambda data: relay.cuts < 5 and b"COMMIT" in data
    toggle(fleet, up=False)
    fleet.wait_for("cuts", lambda: relay.cuts >= 5, 30)
    fleet.wait_for("the downtimes", lambda: rows(fleet, status="failure", path="/toggle") >= 10, 30)
    toggle(fleet, up=True)

    with psycopg.connect(fleet.database_url, autocommit=True) as connection:
        connection.execute(REFUSE.format(id=refused))

    # The server dies with half of a COPY in hand.
    copying, dead = threading.Event(), threading.Event()

    def stall(data: bytes) -> bool:
        if not copying.is_set() and b"COPY check_history" in data:
            copying.set()
            dead.wait(30)
        return False

    relay.watch = stall
    fleet.wait_for("a COPY", copying.is_set, 30)
    fleet.kill("postgres")
    dead.set()
    time.sleep(1)
    fleet.again("postgres")
    back = now()
    fleet.wait_for("results after the return", lambda: rows(fleet, back) >= 60, 30)
    fleet.wait_for("the recoveries", lambda: rows(fleet, back, path="/toggle") >= 10, 30)
    found = reckon(fleet)
    found.assert_invariants()
    assert found.statuses["missed"] == 0
    stored = fleet.query(
        "SELECT DISTINCT status::text, error_code FROM check_history"
        " WHERE subscription_id = %s AND time > to_timestamp(%s / 1000.0)",
        refused,
        back,
    )
    assert stored == [("error", "unstorable")]


def test_a_worker_that_stands_still_inside_its_transaction_holds_up_nobody_else(
    fleet: Fleet, relay: Relay
) -> None:
    """Fails when PostgreSQL may wait for it for ever: what a rollup wants alone, all flushes wait
    for behind it."""
    fleet.subscribe(60, interval_s=10)
    fleet.start_beat()
    fleet.start_worker("w1", DATABASE_URL=through(relay))
    fleet.wait_for("first results", lambda: rows(fleet) >= 60)
    still, over = threading.Event(), threading.Event()

    def stand_still(data: bytes) -> bool:
        if b"COMMIT" in data:
            still.set()
        if still.is_set():
            over.wait(60)
        return False

    relay.watch = stand_still
    fleet.wait_for("a flush", still.is_set)
    fleet.signal("w1", signal.SIGSTOP)
    began = time.monotonic()
    fleet.start_worker("w2")
    with fleet.connection() as connection:
        connection.execute("SET lock_timeout TO '25s'")
        connection.execute("SELECT pg_advisory_lock(%s)", (ROLLUP_LOCK,))
        assert time.monotonic() - began < 25
        connection.execute("SELECT pg_advisory_unlock(%s)", (ROLLUP_LOCK,))
    fleet.wait_for("results of the other worker", lambda: rows(fleet, now() - 10_000) >= 30, 30)
    fleet.signal("w1", signal.SIGCONT)
    over.set()
    found = reckon(fleet)
    found.assert_invariants()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk for PostgreSQL's data alone; root only, see conftest.py."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_costs_no_slot_once_there_is_room_again(
    tmp_path: Path, small_disk: Path
) -> None:
    """Fails when DiskFull counts as refused data: rows are bisected down and dropped."""
    fleet = Fleet(tmp_path, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S))
    data = tmp_path / "postgres"
    shutil.copystat(data, small_disk)
    subprocess.run(["cp", "-a", f"{data}/.", str(small_disk)], check=True)
    shutil.rmtree(data)
    data.symlink_to(small_disk)
    with fleet:
        fleet.subscribe(400, interval_s=10)
        fleet.start_beat()
        fleet.start_worker("w1")
        fleet.wait_for("first results", lambda: rows(fleet) >= 100)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * 65_536)
        log = fleet.log("w1")
        troubles = ("results wait", "results refused")
        fleet.wait_for(
            "no room", lambda: any(t in log.read_text(errors="replace") for t in troubles), 30
        )
        time.sleep(2)
        ballast.unlink()
        if fleet.ended("postgres"):  # nothing could be logged either
            fleet.again("postgres")
        back = now()
        fleet.wait_for("results after the return", lambda: rows(fleet, back) >= 300, 30)
        found = reckon(fleet)
        found.assert_invariants()
        assert found.statuses["missed"] == found.statuses["error"] == 0


async def test_midnight_under_load_costs_no_row(pool: Pool, migrated_url: str) -> None:
    """The day's partition is missing, or the chunk is still to be made, when many recorders and
    the day's first rows come at once. Fails when a flush makes no partitions: rows are refused."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    tomorrow = to_slot(midnight + timedelta(days=1))
    await _drop_day(pool, midnight + timedelta(days=1))
    ids = await _subscriptions(pool, 40)
    async with open_pool(migrated_url, minimum=8, maximum=8) as many:

        async def one(first: int) -> int:
            stored = 0
            for n in range(-10, 10):
                slot = tomorrow + n * 10_000
                results = [
                    Result(subscription_id=i, slot=slot, status=CheckStatus.SUCCESS)
                    for i in ids[first : first + 5]
                ]
                stored += (await record(many, results)).stored
            return stored

        stored = await asyncio.gather(*(one(first) for first in range(0, 40, 5)))
    assert stored == [100] * 8
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT count(*), count(DISTINCT (time, subscription_id)),"
            " count(*) FILTER (WHERE time >= %s) FROM check_history",
            (midnight + timedelta(days=1),),
        )
        assert await cursor.fetchone() == (800, 800, 400)


async def _subscriptions(pool: Pool, number: int) -> list[UUID]:
    news = [
        NewSubscription(
            wallet="0x" + "a" * 40,
            type=MonitorType.HTTP,
            config={"url": "http://127.0.0.1/"},
            tier=Tier.ENTERPRISE,
            interval_s=10,
            name=str(n),
            worst_case_s=6.0,
        )
        for n in range(number)
    ]
    return await create_subscriptions(pool, news, enforce_plans=False)


async def _drop_day(pool: Pool, day: datetime) -> None:
    """On `plain`, where upkeep makes days ahead; elsewhere a chunk is made with its first row."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " JOIN pg_class c ON c.oid = inhparent"
            " WHERE inhparent = 'check_history'::regclass AND c.relkind = 'p'"
            " AND pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = inhrelid), inhrelid)"
            " LIKE %s",
            (f"FOR VALUES FROM (''{day:%Y-%m-%d}%".replace("''", "'"),),
        )
        for (name,) in await cursor.fetchall():
            await connection.execute(f"DROP TABLE {name}")


if os.geteuid() != 0:  # what cannot run is not collected
    del test_a_full_disk_costs_no_slot_once_there_is_room_again
