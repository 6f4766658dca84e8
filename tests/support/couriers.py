"""Subscriptions, events and couriers for the tests of delivery."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from lighthouse.channels import Sender
from lighthouse.channels.pacing import Pacer
from lighthouse.fleet.delivery import Courier
from lighthouse.model import (
    AlertType,
    DeliveryState,
    Severity,
    to_slot,
)
from lighthouse.settings import Settings, load
from lighthouse.store import outbox
from lighthouse.store.pool import Pool

SENT = DeliveryState.SENT


def settings(timeout_s: float = 2.0, **more: str) -> Settings:
    return load(
        {
            "LIGHTHOUSE_EGRESS_ALLOW": "127.0.0.0/8",
            "LIGHTHOUSE_ALERT_TIMEOUT_S": str(timeout_s),
            **more,
        }
    )


@asynccontextmanager
async def courier(
    pool: Pool, timeout_s: float = 2.0, pacer: Pacer | None = None, **more: str
) -> AsyncIterator[Courier]:
    async with Sender(settings(timeout_s, **more), pacer=pacer) as sender:
        yield Courier(pool, sender)


async def rows(pool: Pool, query: str, *values: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        cursor = await connection.execute(query, values)
        return await cursor.fetchall() if cursor.description else []


async def subscribe(pool: Pool, kind: str = "webhook", **config: str) -> UUID:
    """A subscription with one channel."""
    ((found,),) = await rows(
        pool,
        "WITH u AS (INSERT INTO users (wallet_address) VALUES (%s) RETURNING id),"
        " s AS (INSERT INTO subscriptions (user_id, name, target_type, target_config, status)"
        " SELECT id, 'Shop', 'http', '{}', 'active' FROM u RETURNING id),"
        " c AS (INSERT INTO alert_channels (subscription_id, channel_type, channel_config)"
        " SELECT id, %s, %s FROM s)"
        " SELECT id FROM s",
        f"0x{uuid4().hex}{uuid4().hex[:8]}",
        kind,
        Jsonb(config),
    )
    assert isinstance(found, UUID)
    return found


async def happen(
    pool: Pool, subscription_id: UUID, kind: AlertType = AlertType.DOWNTIME, ago_ms: int = 1000
) -> int:
    """An event of the subscription; its slot."""
    ((now,),) = await rows(pool, "SELECT now()")
    event = outbox.Event(
        subscription_id=subscription_id,
        slot=to_slot(now) - ago_ms,
        alert_type=kind,
        severity=Severity.CRITICAL,
        title="Shop is down",
        message="status 503",
        context={"name": "Shop", "reason": "status_code", "http_status": 503},
    )
    async with pool.connection() as connection, connection.transaction():
        await outbox.enqueue(connection, event)
    return event.slot


async def only(pool: Pool) -> outbox.Alert:
    found = await outbox.alerts(pool)
    assert len(found) == 1
    return found[0]


async def make_due(pool: Pool) -> None:
    await rows(pool, "UPDATE alert_history SET next_attempt_at = now() WHERE state = 'pending'")


async def eventually(seen: Callable[[], bool]) -> None:
    for _ in range(500):
        if seen():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("did not happen within 5 s")


async def until_all_sent(pool: Pool, couriers: list[Courier], deadline_s: float = 15.0) -> None:
    """What beat does: look again and again."""
    ends = time.monotonic() + deadline_s
    while {alert.state for alert in await outbox.alerts(pool, limit=1000)} != {SENT}:
        assert time.monotonic() < ends
        await asyncio.gather(*(one.deliver_due() for one in couriers))
        await asyncio.sleep(0.05)
