"""Rows of the history for tests, and the upkeep that the database's edition gives them."""

import asyncio
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from lighthouse.model import CheckStatus, Result, to_slot
from lighthouse.store import migrate, rollups, upkeep
from lighthouse.store.edition import Edition, detect
from lighthouse.store.pool import Connection, Pool

UP, DOWN, TIMEOUT = CheckStatus.SUCCESS, CheckStatus.FAILURE, CheckStatus.TIMEOUT
ERROR, MISSED = CheckStatus.ERROR, CheckStatus.MISSED

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def now() -> datetime:
    return datetime.now(UTC)


def result(
    subscription_id: UUID,
    time: datetime,
    status: CheckStatus = UP,
    latency_ms: float | None = None,
) -> Result:
    return Result(
        subscription_id=subscription_id,
        slot=to_slot(time),
        status=status,
        latency_ms=latency_ms,
        attempts=1,
    )


async def edition_of(pool: Pool) -> Edition:
    async with pool.connection() as conn:
        found = await detect(conn)
    assert found is not None
    return found


async def insert_raw(
    conn: Connection,
    rows: Iterable[tuple[UUID, datetime, CheckStatus, float | None]],
) -> None:
    """Rows of any age, as a restore would bring them: no recorder, no marks."""
    async with conn.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO check_history (subscription_id, time, status, latency_ms)"
            " VALUES (%s, %s, %s, %s)",
            list(rows),
        )


async def settle(pool: Pool, *, at: datetime | None = None) -> None:
    """Bring the rollups up to date as the edition does: our task, or TimescaleDB's own policies.

    A policy goes by the server's clock, so `at` means something to our task only.
    """
    if await edition_of(pool) is not Edition.COMMUNITY:
        await rollups.run(pool, now=at)
        return
    await run_policies(pool, "policy_refresh_continuous_aggregate")


async def settle_all(pool: Pool) -> None:
    """`settle` for rows of any age: a policy reaches back only as far as results may be late."""
    if await edition_of(pool) is Edition.COMMUNITY:
        async with pool.connection() as conn:
            for name in ("hourly_checks", "daily_checks"):
                await conn.execute("CALL refresh_continuous_aggregate(%s, NULL, now())", (name,))
    await settle(pool)


async def run_policies(pool: Pool, kind: str) -> None:
    async with pool.connection() as conn:
        cursor = await conn.execute(
            "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = %s", (kind,)
        )
        for (job,) in await cursor.fetchall():
            await conn.execute("CALL run_job(%s)", (job,))


async def retain(pool: Pool, url: str, raw_history_days: int) -> upkeep.Upkeep:
    """Let old rows go as the edition does: our task, or the policies of `lighthouse db upgrade`."""
    done = await upkeep.run(pool, raw_history_days)
    if await edition_of(pool) is Edition.COMMUNITY:
        await asyncio.to_thread(migrate.upgrade, url, raw_history_days)
        await run_policies(pool, "policy_retention")
    return done


def scattered(
    seed: int, subscriptions: int, start: datetime, end: datetime, count: int
) -> list[Result]:
    """Results at distinct slots all over a span, in no order, of every status."""
    chance = random.Random(seed)
    ids = [uuid4() for _ in range(subscriptions)]
    seconds = int((end - start).total_seconds())
    slots = {(chance.choice(ids), chance.randrange(seconds)) for _ in range(count)}
    found = [
        result(
            subscription_id,
            start + timedelta(seconds=second),
            chance.choices((UP, DOWN, TIMEOUT, ERROR), (70, 12, 10, 8))[0],
            chance.choice((None, chance.uniform(1, 900), chance.uniform(1, 900))),
        )
        for subscription_id, second in sorted(slots)
    ]
    chance.shuffle(found)
    return found


def percentile(values: Sequence[float], share: float) -> float | None:
    """Between neighbours by their distance, as SQL's percentile_cont has it."""
    if not values:
        return None
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
