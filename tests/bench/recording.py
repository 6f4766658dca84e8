"""The recorder against single-row INSERT, and how many bytes a stored HTTP check takes.

    python -m tests.bench.recording --rows 200000 --singles 2000

`record` stores flushes of 1,000 steady results, as a worker does; the other way is one INSERT and
one commit a check. Rows hold all that an HTTPS check tells. LIGHTHOUSE_TEST_DATABASE_URL names a
server to repeat it on; on `community` the rows are compressed at the end.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from lighthouse.model import CheckStatus, MonitorType, Result, Tier, Timings, from_slot, to_slot
from lighthouse.store.creation import NewSubscription, create_subscriptions
from lighthouse.store.edition import Edition
from lighthouse.store.pool import Pool, open_pool
from lighthouse.store.record import COLUMNS, record
from tests.bench import databases, figures
from tests.bench.figures import Figure
from tests.support.history import edition_of

FLUSH_ROWS = 1000
SUBSCRIPTIONS = 500
INTERVAL_MS = 60_000
BUDGET_RAW, BUDGET_COMPRESSED = 280, 20

#: Bytes of the history, and of them those of its indexes.
_HYPERTABLE = (
    "SELECT sum(total_bytes), sum(index_bytes) FROM hypertable_detailed_size('check_history')"
)
_SIZES = {
    Edition.PLAIN: "SELECT sum(pg_total_relation_size(inhrelid)), sum(pg_indexes_size(inhrelid))"
    " FROM pg_inherits WHERE inhparent = 'check_history'::regclass",
    Edition.APACHE: _HYPERTABLE,
    Edition.COMMUNITY: _HYPERTABLE,
}

_INSERT = (
    f"INSERT INTO check_history ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
)


def measure(*, rows: int, singles: int) -> list[Figure]:
    """Figures of every database at hand."""
    return [f for url in databases.each() for f in asyncio.run(_measure(url, rows, singles))]


async def _measure(url: str, rows: int, singles: int) -> list[Figure]:
    async with open_pool(url, minimum=1, maximum=2) as pool:
        edition = await edition_of(pool)
        ids = await _subscriptions(pool)
        newest = to_slot(datetime.now(UTC))
        empty, bare = await _size(pool, edition)
        spent = 0.0
        for first in range(0, rows, FLUSH_ROWS):
            results = _results(ids, newest, first, min(FLUSH_ROWS, rows - first), rows)
            began = time.monotonic()
            done = await record(pool, results)
            spent += time.monotonic() - began
            assert done.stored == len(results)
        whole, indexes = await _size(pool, edition)
        before = newest - (rows // SUBSCRIPTIONS + 2) * INTERVAL_MS
        single = await _insert(pool, _results(ids, before, 0, singles, singles))
        told = list(_told(edition, rows / spent, singles / single))
        told.append(_raw(edition, (whole - empty) / rows, (indexes - bare) / rows))
        if edition is Edition.COMMUNITY:
            told.append(_compressed(await _compress(pool)))
        return told


def _told(edition: Edition, recorder: float, single: float) -> Sequence[Figure]:
    return (
        Figure(
            key=f"recorder_rows_per_s_{edition.value}",
            figure=f"recorder, {edition.value}: rows a second of one connection",
            value=recorder,
            unit="rows/s",
        ),
        Figure(
            key=f"recorder_times_insert_{edition.value}",
            figure=f"recorder, {edition.value}: × single-row INSERT",
            value=recorder / single,
            unit="×",
            note=f"single rows: {single:,.0f}/s",
        ),
    )


def _raw(edition: Edition, row_bytes: float, index_bytes: float) -> Figure:
    return Figure(
        key=f"row_bytes_{edition.value}",
        figure=f"bytes of a stored HTTPS check with its indexes, {edition.value}",
        value=row_bytes,
        unit="bytes",
        at_most=BUDGET_RAW,
        note=f"{index_bytes:.0f} of them the indexes'",
    )


def _compressed(row_bytes: float) -> Figure:
    return Figure(
        key="row_bytes_compressed",
        figure="bytes of a stored HTTPS check, compressed",
        value=row_bytes,
        unit="bytes",
        at_most=BUDGET_COMPRESSED,
    )


async def _subscriptions(pool: Pool) -> list[UUID]:
    ids = await create_subscriptions(
        pool,
        [
            NewSubscription(
                wallet="0x" + "b" * 40,
                type=MonitorType.HTTP,
                config={"url": "https://example.com/"},
                tier=Tier.ENTERPRISE,
                interval_s=INTERVAL_MS // 1000,
                name=f"target {n}",
                worst_case_s=6.0,
            )
            for n in range(SUBSCRIPTIONS)
        ],
        enforce_plans=False,
    )
    async with pool.connection() as connection:
        # Believed up already, so that every result is a steady one.
        await connection.execute("UPDATE subscription_state SET verdict = 'up', since = now()")
    return ids


def _results(ids: list[UUID], newest: int, first: int, number: int, total: int) -> list[Result]:
    """Rows `first` … of a history that ends at `newest`, in the order in which they would come."""
    chance = random.Random(first)
    rounds = -(-total // len(ids))
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=60)
    results = []
    for place in range(first, first + number):
        turn, which = divmod(place, len(ids))
        tcp, tls, wait = (chance.lognormvariate(mean, 0.3) for mean in (3.0, 3.4, 4.0))
        results.append(
            Result(
                subscription_id=ids[which],
                slot=newest - (rounds - turn) * INTERVAL_MS + which * (INTERVAL_MS // len(ids)),
                status=CheckStatus.SUCCESS,
                latency_ms=tcp + tls + wait,
                timings=Timings(dns_ms=1.0, tcp_ms=tcp, tls_ms=tls, ttfb_ms=wait),
                delay_ms=chance.randrange(20, 110),
                http_status=200,
                http_version=20,
                cert_expires_at=expires,
            )
        )
    return results


async def _insert(pool: Pool, results: list[Result]) -> float:
    """Store each result by a statement and a commit of its own; the seconds that it took."""
    rows = [_row(result) for result in results]
    async with pool.connection() as connection:
        began = time.monotonic()
        for row in rows:
            await connection.execute(_INSERT, row)
        return time.monotonic() - began


def _row(result: Result) -> tuple[Any, ...]:
    phases = ("dns_ms", "tcp_ms", "tls_ms", "ttfb_ms")
    values: dict[str, Any] = {name: getattr(result.timings, name) for name in phases}
    values |= {"time": from_slot(result.slot), "status": result.status.value}
    return tuple(values[c] if c in values else getattr(result, c) for c in COLUMNS)


async def _compress(pool: Pool) -> float:
    """Bytes of a row when every chunk is compressed, as the policy does it."""
    async with pool.connection() as connection:
        await connection.execute(
            "SELECT compress_chunk(c, true) FROM show_chunks('check_history') AS c"
        )
        cursor = await connection.execute("SELECT count(*) FROM check_history")
        row = await cursor.fetchone()
    assert row is not None
    whole, _ = await _size(pool, Edition.COMMUNITY)
    return whole / int(row[0])


async def _size(pool: Pool, edition: Edition) -> tuple[float, float]:
    async with pool.connection() as connection:
        cursor = await connection.execute(_SIZES[edition].encode())
        row = await cursor.fetchone()
    assert row is not None
    return float(row[0] or 0), float(row[1] or 0)


if __name__ == "__main__":
    figures.run(__doc__, measure, rows=200_000, singles=2000)
