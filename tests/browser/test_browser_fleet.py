"""A whole fleet with browser checks: only a worker of the queue `browser` takes them."""

import asyncio
import time
from pathlib import Path
from uuid import UUID

from lighthouse.model import MonitorType, Tier
from lighthouse.store.creation import NewSubscription, create_subscriptions
from lighthouse.store.pool import open_pool
from tests.support.fleet import Fleet

INTERVAL_S = 10


def watch_page(fleet: Fleet) -> UUID:
    """A canary that opens the fleet's target in a browser."""
    action = {"do": "open", "url": fleet.url("/ok")}
    expect = {"do": "expect_text", "text": "fine"}
    new = NewSubscription(
        wallet="0x" + "b" * 40,
        type=MonitorType.CANARY,
        config={"steps": [{"name": "page", "action": "browser", "actions": [action, expect]}]},
        interval_s=INTERVAL_S,
        worst_case_s=8.5,
        tier=Tier.ENTERPRISE,
        name="page",
    )

    async def create() -> list[UUID]:
        async with open_pool(fleet.database_url, maximum=1) as pool:
            return list(await create_subscriptions(pool, [new], enforce_plans=False))

    return asyncio.run(create())[0]


def test_browser_checks_wait_for_their_own_worker_and_hold_up_no_other(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        page = watch_page(fleet)
        (plain,) = fleet.subscribe(1, interval_s=INTERVAL_S)
        fleet.start_beat()
        fleet.start_worker("w1")

        def statuses(subscription_id: UUID) -> list[str]:
            rows = fleet.query(
                "SELECT status::text FROM check_history WHERE subscription_id = %s ORDER BY time",
                subscription_id,
            )
            return [row[0] for row in rows]

        fleet.wait_for("a plain check", lambda: statuses(plain))
        time.sleep(2.0)
        assert statuses(page) == []
        fleet.start_worker("b1", queues="browser")
        fleet.wait_for("a browser check", lambda: "success" in statuses(page))
        assert set(statuses(page)) == {"success"}
        assert set(statuses(plain)) == {"success"}
