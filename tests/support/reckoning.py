"""What fault tests share: rows so far, and the reckoning at the end without the sweep's waits."""

import asyncio
import time
from datetime import UTC, datetime

from lighthouse.model import to_slot
from lighthouse.store.pool import open_pool
from lighthouse.store.sweep import sweep
from tests.support.checker import Verdicts, check
from tests.support.fleet import Fleet

#: As short as it may be, so that the sweep writes what is missed while the test watches.
GRACE_S = 5


def now() -> int:
    return to_slot(datetime.now(UTC))


def rows(fleet: Fleet, since: int = 0, status: str = "success", path: str = "%") -> int:
    """Rows of a status for slots after a moment, of subscriptions whose URL ends with a path."""
    count: int = fleet.scalar(
        "SELECT count(*) FROM check_history h JOIN subscriptions s ON s.id = h.subscription_id"
        " WHERE h.status = %s::check_status AND h.time > to_timestamp(%s / 1000.0)"
        " AND s.target_config->>'url' LIKE '%%' || %s",
        status,
        since,
        path,
    )
    return count


def reckon(fleet: Fleet) -> Verdicts:
    """Account for every slot so far, as the fleet's own sweep does, and check the rows."""
    until = now()
    time.sleep(GRACE_S + 1)

    async def account() -> None:
        async with open_pool(fleet.database_url, maximum=1) as pool:
            await sweep(pool, GRACE_S)

    asyncio.run(account())
    accounted = fleet.scalar(
        "SELECT max((value->>'slot')::bigint) FROM fleet_state WHERE key = 'accounted_to'"
    )
    assert accounted >= until
    return check(fleet.database_url, until=until)
