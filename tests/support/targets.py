"""Targets with owners, channels and parents, and what checks find of them, for tests of alerts."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from lighthouse.alerting import parse_alerting
from lighthouse.model import CheckStatus, MonitorType, Result, to_slot
from lighthouse.store.pool import Pool
from tests.support.couriers import rows
from tests.support.services import Receiver

UP, DOWN, TIMEOUT = CheckStatus.SUCCESS, CheckStatus.FAILURE, CheckStatus.TIMEOUT
ERROR, MISSED = CheckStatus.ERROR, CheckStatus.MISSED
MINUTE = 60_000


async def a_user(pool: Pool) -> UUID:
    wallet = f"0x{uuid4().hex}{uuid4().hex[:8]}"
    ((found,),) = await rows(
        pool, "INSERT INTO users (wallet_address) VALUES (%s) RETURNING id", wallet
    )
    assert isinstance(found, UUID)
    return found


async def a_target(
    pool: Pool,
    *,
    name: str = "Shop",
    alerting: Mapping[str, Any] | None = None,
    monitor: MonitorType = MonitorType.HTTP,
    interval_s: int = 60,
    owner: UUID | None = None,
    hook: str | None = None,
) -> UUID:
    """An active subscription that nothing has been found of, with a channel to `hook`."""
    given = dict(alerting or {})
    latency = parse_alerting(given).latency
    ((found,),) = await rows(
        pool,
        "INSERT INTO subscriptions (user_id, name, target_type, target_config, status,"
        " check_interval_seconds, alerting) VALUES (%s, %s, %s, '{}', 'active', %s, %s)"
        " RETURNING id",
        *(owner or await a_user(pool), name, monitor.value, interval_s, Jsonb(given)),
    )
    assert isinstance(found, UUID)
    await rows(
        pool,
        "INSERT INTO subscription_state (subscription_id, latency_warn_ms) VALUES (%s, %s)",
        *(found, None if latency is None else latency.warn_ms),
    )
    if hook is not None:
        await a_hook(pool, found, hook)
    return found


async def a_hook(pool: Pool, subscription_id: UUID, url: str, *, escalate_after_s: int = 0) -> UUID:
    """A webhook channel that hears of everything."""
    ((found,),) = await rows(
        pool,
        "INSERT INTO alert_channels (subscription_id, channel_type, channel_config, min_severity,"
        " escalate_after_s) VALUES (%s, 'webhook', %s, 'info', %s) RETURNING id",
        *(subscription_id, Jsonb({"url": url}), escalate_after_s),
    )
    assert isinstance(found, UUID)
    return found


def seen(subscription_id: UUID, slot: int, status: CheckStatus = UP, **fields: Any) -> Result:
    if status is not UP:
        fields = {"error_code": "status_code", "error_message": "status 500", **fields}
    return Result(subscription_id=subscription_id, slot=slot, status=status, **fields)


async def now_slot(pool: Pool) -> int:
    """PostgreSQL's now."""
    ((now,),) = await rows(pool, "SELECT now()")
    assert isinstance(now, datetime)
    return to_slot(now)


def heard(receiver: Receiver, path: str | None = None) -> list[str]:
    """What a receiver heard: the types of the messages, in their order."""
    return [
        json.loads(body)["type"]
        for body, at in zip(receiver.bodies, receiver.paths, strict=True)
        if path in (None, at)
    ]


async def states(pool: Pool, subscription_id: UUID) -> list[tuple[str, str, str | None]]:
    """The target's alerts in their order: type, state and reason."""
    return [
        (kind, state, reason)
        for kind, state, reason in await rows(
            pool,
            "SELECT alert_type::text, state::text, failed_reason FROM alert_history"
            " WHERE subscription_id = %s ORDER BY time, created_at, channel_id",
            subscription_id,
        )
    ]
