"""A flood: ten thousand targets go down at once, and each event reaches its end exactly once."""

import asyncio
import json
import time
from collections import Counter
from uuid import UUID

from lighthouse.store.budgets import Limits
from lighthouse.store.pool import Pool
from lighthouse.store.record import record
from tests.support.couriers import rows
from tests.support.killed import Killer
from tests.support.raw_receiver import RawReceiver
from tests.support.targets import DOWN, MINUTE, now_slot, seen

TARGETS, OWNERS, FLUSH = 10_000, 20, 1000
#: For all of it, on two cores that others use too.
MOST_S = 240.0
NO_LIMITS = Limits(subscription=0, user=0)


async def many_targets(pool: Pool, url: str) -> list[UUID]:
    """Subscriptions of several users, each with a webhook."""
    await rows(
        pool,
        "INSERT INTO users (wallet_address) SELECT '0x' || lpad(to_hex(n), 40, '0')"
        " FROM generate_series(1, %s) n",
        OWNERS,
    )
    found = await rows(
        pool,
        "WITH u AS (SELECT id, row_number() OVER () - 1 AS place FROM users),"
        " s AS (INSERT INTO subscriptions (user_id, name, target_type, target_config, status)"
        " SELECT u.id, 'target ' || n, 'http', '{}', 'active'"
        " FROM generate_series(1, %s) n JOIN u ON u.place = n %% %s RETURNING id),"
        " t AS (INSERT INTO subscription_state (subscription_id, verdict, since)"
        " SELECT id, 'up', now() - interval '1 day' FROM s),"
        " c AS (INSERT INTO alert_channels (subscription_id, channel_type, channel_config)"
        " SELECT id, 'webhook', jsonb_build_object('url', %s || id::text) FROM s)"
        " SELECT id FROM s",
        *(TARGETS, OWNERS, url),
    )
    return [id_ for (id_,) in found]


async def test_ten_thousand_downtimes_are_each_told_once(pool: Pool, migrated_url: str) -> None:
    """Fails when `_CLAIM` in store/due.py takes what another courier has leased: told twice."""
    with RawReceiver() as receiver:
        ids = await many_targets(pool, f"{receiver.base}/")
        slot = await now_slot(pool) - MINUTE // 2

        async def recorder(mine: list[UUID]) -> int:
            events = 0
            for first in range(0, len(mine), FLUSH):
                flush = [seen(id_, slot, DOWN) for id_ in mine[first : first + FLUSH]]
                events += (await record(pool, flush, NO_LIMITS)).events
            return events

        began = time.monotonic()
        events = await asyncio.gather(recorder(ids[::2]), recorder(ids[1::2]))
        recorded = time.monotonic()
        assert sum(events) == TARGETS
        with Killer() as one, Killer() as two:  # couriers in processes of their own, killed never
            killed = await asyncio.gather(
                *(courier.deliver(migrated_url, "never") for courier in (one, two))
            )
        delivered = time.monotonic()

        print(
            f"recorded {TARGETS / (recorded - began):.0f}/s,"
            f" delivered {TARGETS / (delivered - recorded):.0f}/s,"
            f" all in {delivered - began:.1f} s"
        )
        told = receiver.messages()
    assert killed == [False, False]
    assert delivered - began < MOST_S
    assert await rows(pool, "SELECT state::text, count(*) FROM alert_history GROUP BY 1") == [
        ("sent", TARGETS)
    ]
    keys = Counter(key for key, _ in told)
    assert len(keys) == TARGETS
    assert max(keys.values()) == 1
    assert {json.loads(body)["data"]["subscription"]["id"] for _, body in told} == set(
        map(str, ids)
    )
    assert await rows(
        pool,
        "SELECT count(*) FILTER (WHERE alert_triggered), count(alert_sent_at),"
        " (SELECT count(*) FROM incidents WHERE closed_at IS NULL) FROM check_history",
    ) == [(TARGETS, TARGETS, TARGETS)]
