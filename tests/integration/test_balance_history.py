"""A balance's history as people and programs read it."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import psycopg

from lighthouse.chains import Burn, burn
from lighthouse.store import history
from lighthouse.store.pool import open_pool
from tests.conftest import Command

USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)


def good(command: Command, *arguments: object) -> str:
    status, out, err = command(*arguments)
    assert status == 0, err
    return out


def add(command: Command, **keys: Any) -> str:
    config = {"chain": "base", "address": "0x" + "ab" * 20, **keys}
    return good(
        command,
        *("subscriptions", "add", "--wallet", "0x" + "5e" * 20, "--type", "balance"),
        *("--config", json.dumps(config), "--interval", 300, "--tier", "pro"),
    ).strip()


def store(url: str, id_: str, values: Sequence[int | None], step: timedelta = HOUR) -> None:
    """Readings, the oldest first, the last one now; None is an RPC's failure."""
    times = [NOW - step * number for number in range(len(values))][::-1]
    with psycopg.connect(url, autocommit=True) as conn, conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO check_history (time, subscription_id, status, error_code, value)"
            " VALUES (%s, %s, %s, %s, %s)",
            [
                (
                    time,
                    id_,
                    *(("error", "prober_rpc") if value is None else ("success", None)),
                    value,
                )
                for time, value in zip(times, values, strict=True)
            ],
        )


def test_a_falling_balance_tells_its_units_and_how_long_it_lasts(
    lighthouse: Command, migrated_url: str
) -> None:
    id_ = add(lighthouse)
    ether = 10**18
    store(migrated_url, id_, [5 * ether, 4 * ether, 3 * ether, 2 * ether + 1, None])
    told = json.loads(good(lighthouse, "history", id_, "--json"))
    checks = [entry for entry in told if "slots" not in entry]
    assert checks[0]["balance"] is None
    assert checks[1]["value"] == "2000000000000000001"
    newest = checks[1]["balance"]
    assert (newest["amount"], newest["symbol"], newest["decimals"]) == (
        *("2.000000000000000001", "ETH"),
        18,
    )
    assert newest["lasts_seconds"] == 7200
    assert datetime.fromisoformat(newest["runs_out_at"]) - NOW == HOUR
    assert float(newest["burn_per_day"]) == 24
    assert [check["balance"]["amount"] for check in checks[2:]] == ["3", "4", "5"]
    assert checks[2]["balance"]["runs_out_at"] is None

    shown = good(lighthouse, "history", id_, "--limit", 3)
    assert "2.000000000000000001 ETH" in shown
    assert "prober_rpc" in shown
    assert "5 ETH" not in shown
    assert f"lasts 2 h, until {NOW + HOUR:%Y-%m-%d %H:%M:%S}" in shown.splitlines()[-1]
    assert shown.splitlines()[-1].startswith("falls by 2")


def test_a_token_is_told_in_its_own_units_and_a_level_balance_has_no_end(
    lighthouse: Command, migrated_url: str
) -> None:
    other = "0x" + "70" * 20
    for keys, units in (
        ({"token": USDC}, "1.25 USDC"),
        ({"token": other, "decimals": 2}, "12500 0x7070…7070"),
        ({"token": other}, "1250000 units of 0x7070…7070"),
    ):
        id_ = add(lighthouse, **keys)
        store(migrated_url, id_, [1_250_000] * 4)
        shown = good(lighthouse, "history", id_)
        assert units in shown
        assert "falls" not in shown


def test_a_slow_fall_has_no_date(lighthouse: Command, migrated_url: str) -> None:
    id_ = add(lighthouse)
    store(migrated_url, id_, [10**24 - number for number in range(4)])
    assert "lasts for more than ten years" in good(lighthouse, "history", id_)


def test_readings_of_a_week_are_thinned_evenly_and_older_ones_left_out(
    lighthouse: Command, migrated_url: str
) -> None:
    id_ = add(lighthouse)
    store(migrated_url, id_, list(range(169 * 12, 0, -1)), timedelta(minutes=5))

    async def read(since: datetime | None) -> list[tuple[datetime, int]]:
        async with open_pool(migrated_url) as pool:
            return await history.balances(pool, UUID(id_), since)

    found = asyncio.run(read(None))
    assert found[0] == (NOW, 1)
    assert 150 <= len(found) <= 200
    assert {old[1] - new[1] for new, old in pairwise(found)} == {11}
    assert NOW - timedelta(days=7) <= found[-1][0] < NOW - timedelta(days=6.9)
    assert burn(found) == Burn(per_day=288, lasts=timedelta(minutes=5))
    assert len(asyncio.run(read(NOW - HOUR))) == 13
