"""What beat reads of the catalog, on tables that PostgreSQL has no statistics of yet."""

import time

from lighthouse.model import MonitorType, Tier
from lighthouse.store.changes import changes_since
from lighthouse.store.creation import NewSubscription, create_subscriptions
from lighthouse.store.pool import Pool

NUMBER = 20_000  #: with half of them the planner still chooses well
#: Row by row against every epoch it took 15 s, by index 0.3 s.
MOST_S = 5.0


async def test_many_first_subscriptions_are_read_in_linear_time(pool: Pool) -> None:
    async with pool.connection() as connection:
        await connection.execute("ALTER TABLE subscriptions SET (autovacuum_enabled = off)")
        await connection.execute("ALTER TABLE schedule_epochs SET (autovacuum_enabled = off)")
        _, since, _ = await changes_since(connection, 0)
    news = [
        NewSubscription(
            wallet="0x" + "c" * 40,
            type=MonitorType.HTTP,
            config={"url": "https://example.com/"},
            tier=Tier.ENTERPRISE,
            interval_s=60,
            name=f"target {n}",
            worst_case_s=6.0,
        )
        for n in range(NUMBER)
    ]
    await create_subscriptions(pool, news, enforce_plans=False)
    async with pool.connection() as connection:
        began = time.monotonic()
        rows, _, active = await changes_since(connection, since)
        seconds = time.monotonic() - began
    assert (len(rows), active) == (NUMBER, NUMBER)
    assert all(row.epoch_id is not None for row in rows)
    assert seconds < MOST_S
