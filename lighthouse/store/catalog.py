"""Subscriptions: what is watched, how often and for whom.

A subscription and its schedule's epoch change in the same transaction, so the due slots that
`missed` is computed from are never in doubt. All clocks here are PostgreSQL's.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from lighthouse import plans
from lighthouse.errors import NotFoundError, UsageError
from lighthouse.model import MonitorType, Subscription, SubscriptionStatus, Tier, to_slot
from lighthouse.store.alert_channels import (
    add_channel,
    change_channel,
    get_channel,
    list_channels,
    remove_channel,
)
from lighthouse.store.changes import SpecRow, changes, changes_since
from lighthouse.store.creation import (
    LIVE,
    PAYMENT_CHAINS,
    NewSubscription,
    create_subscription,
    create_subscriptions,
    wallet_address,
    write_alerting,
)
from lighthouse.store.epochs import close_epoch, end_incidents, now_ms, open_epoch
from lighthouse.store.parents import write_parents
from lighthouse.store.pool import Connection, Pool, translated

__all__ = [
    "LIVE",
    "PAYMENT_CHAINS",
    "NewSubscription",
    "SpecRow",
    "active_subscriptions",
    "add_channel",
    "cancel",
    "change",
    "change_channel",
    "changes",
    "changes_since",
    "create_subscription",
    "create_subscriptions",
    "expire_due",
    "get",
    "get_channel",
    "list_channels",
    "list_subscriptions",
    "pause",
    "remove_channel",
    "resume",
    "set_interval",
    "update_config",
    "wallet_address",
]

SUBSCRIPTION_COLUMNS = """
s.id, u.wallet_address, s.name, s.target_type, s.target_config, s.tier, s.check_interval_seconds,
s.status, s.payment_tx_hash, s.payment_chain, s.payment_amount_usdc, s.created_at, s.activated_at,
s.expires_at, s.cancelled_at, s.metadata, s.alerting
"""


async def get(pool: Pool, subscription_id: UUID) -> Subscription:
    """One subscription. Raises NotFoundError."""
    found = await _read(pool, "WHERE s.id = %s", (subscription_id,))
    if not found:
        raise _not_found(subscription_id)
    return found[0]


async def list_subscriptions(
    pool: Pool, wallet: str | None = None, status: SubscriptionStatus | None = None
) -> list[Subscription]:
    """Subscriptions in the order of their making, of one wallet or in one status if given."""
    return await _read(
        pool,
        "WHERE (%(wallet)s::text IS NULL OR u.wallet_address = %(wallet)s)"
        " AND (%(status)s::subscription_status IS NULL OR s.status = %(status)s)"
        " ORDER BY s.created_at, s.name",
        {
            "wallet": None if wallet is None else wallet_address(wallet),
            "status": None if status is None else status.value,
        },
    )


async def active_subscriptions(pool: Pool) -> list[Subscription]:
    """All that are being checked now, in the order of their activation."""
    return await _read(pool, "WHERE s.status = 'active' ORDER BY s.activated_at, s.name", ())


async def _read(
    pool: Pool, where: str, arguments: Sequence[Any] | Mapping[str, Any]
) -> list[Subscription]:
    query = (
        f"SELECT {SUBSCRIPTION_COLUMNS} FROM subscriptions s"  # noqa: S608 - constants
        f" JOIN users u ON u.id = s.user_id {where}"
    )
    with translated():
        async with pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), arguments)
            return [subscription_of(row) for row in await cursor.fetchall()]


def subscription_of(row: dict[str, Any]) -> Subscription:
    return Subscription(
        **{
            **row,
            "target_type": MonitorType(row["target_type"]),
            "tier": Tier(row["tier"]),
            "status": SubscriptionStatus(row["status"]),
        }
    )


def _not_found(subscription_id: UUID) -> NotFoundError:
    return NotFoundError(f"no subscription {subscription_id}")


async def pause(pool: Pool, subscription_id: UUID) -> None:
    """Stop the checks until `resume`. Raises UsageError unless the subscription is active."""
    async with _changing(pool, subscription_id) as (conn, row):
        if row["status"] != SubscriptionStatus.ACTIVE:
            raise _cannot("paused", row)
        now = await now_ms(conn)
        await _set_status(conn, row, SubscriptionStatus.PAUSED)
        await close_epoch(conn, subscription_id, now)


async def resume(pool: Pool, subscription_id: UUID) -> None:
    """Check again, at once and then by the grid. Raises UsageError unless it is paused."""
    async with _changing(pool, subscription_id) as (conn, row):
        if row["status"] not in (SubscriptionStatus.PAUSED, SubscriptionStatus.PENDING):
            raise _cannot("resumed", row)
        now = await now_ms(conn)
        if row["expires_at"] is not None and to_slot(row["expires_at"]) <= now:
            raise UsageError(
                f"subscription {subscription_id} expired at {row['expires_at']:%Y-%m-%d %H:%M} UTC"
            )
        await _set_status(conn, row, SubscriptionStatus.ACTIVE)
        await open_epoch(conn, subscription_id, row["check_interval_seconds"], now, at_once=True)


async def cancel(pool: Pool, subscription_id: UUID) -> None:
    """End a subscription for good; its history stays. Raises UsageError when it has ended."""
    async with _changing(pool, subscription_id) as (conn, row):
        if row["status"] == SubscriptionStatus.CANCELLED:
            raise _cannot("cancelled", row)
        now = await now_ms(conn)
        await _set_status(conn, row, SubscriptionStatus.CANCELLED)
        await end_incidents(conn, [subscription_id])
        if row["status"] == SubscriptionStatus.ACTIVE:
            await close_epoch(conn, subscription_id, now)


async def expire_due(pool: Pool, limit: int = 1000) -> list[UUID]:
    """End what is past its `expires_at`; the ids. Nothing is due after that time.

    Safe to run twice or at once: rows that another run holds are left to it.
    """
    with translated():
        async with pool.connection() as conn, conn.transaction():
            cursor = await conn.execute(
                "UPDATE subscriptions SET status = 'expired' WHERE id IN ("
                " SELECT id FROM subscriptions WHERE status = 'active'"
                " AND expires_at <= clock_timestamp()"
                " ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING id, expires_at",
                (limit,),
            )
            expired = await cursor.fetchall()
            await end_incidents(conn, [subscription_id for subscription_id, _ in expired])
            for subscription_id, expires_at in expired:
                await close_epoch(conn, subscription_id, to_slot(expires_at))
            return [subscription_id for subscription_id, _ in expired]


async def set_interval(
    pool: Pool,
    subscription_id: UUID,
    seconds: int,
    *,
    worst_case_s: float,
    enforce_plans: bool,
) -> None:
    """Check every `seconds` from now on, by the new interval's grid.

    Raises UsageError, PlanError for an interval that the tier does not sell.
    """
    await change(
        pool,
        subscription_id,
        interval_s=seconds,
        worst_case_s=worst_case_s,
        enforce_plans=enforce_plans,
    )


async def update_config(
    pool: Pool, subscription_id: UUID, config: Mapping[str, Any], *, worst_case_s: float
) -> None:
    """Put another (validated) configuration in force; the schedule stays. Raises UsageError."""
    await change(
        pool, subscription_id, config=config, worst_case_s=worst_case_s, enforce_plans=False
    )


async def change(
    pool: Pool,
    subscription_id: UUID,
    *,
    worst_case_s: float,
    enforce_plans: bool,
    interval_s: int | None = None,
    config: Mapping[str, Any] | None = None,
    alerting: Mapping[str, Any] | None = None,
    parents: Sequence[UUID] | None = None,
) -> None:
    """`set_interval`, `update_config` and the like in one transaction; None keeps what is.

    `alerting` is what lighthouse.alerting has read, as it is stored. `worst_case_s` is of the
    configuration that will be in force, at the new interval.
    """
    async with _changing(pool, subscription_id, with_owner=parents is not None) as (conn, row):
        if row["status"] in (SubscriptionStatus.CANCELLED, SubscriptionStatus.EXPIRED):
            raise _cannot("changed", row)
        seconds = row["check_interval_seconds"] if interval_s is None else interval_s
        plans.check_interval(seconds)
        plans.check_fits(worst_case_s, seconds)
        if enforce_plans:
            # The wallet's count does not grow, so only the interval and the type are judged.
            plans.check_subscription(Tier(row["tier"]), MonitorType(row["target_type"]), seconds, 0)
        now = await now_ms(conn)
        await conn.execute(
            "UPDATE subscriptions SET check_interval_seconds = %s,"
            " target_config = coalesce(%s, target_config) WHERE id = %s",
            (seconds, None if config is None else Jsonb(dict(config)), subscription_id),
        )
        if alerting is not None:
            await write_alerting(conn, subscription_id, alerting)
        if parents is not None:
            await write_parents(conn, subscription_id, parents)
        moved = seconds != row["check_interval_seconds"]
        if moved and row["status"] == SubscriptionStatus.ACTIVE:
            await close_epoch(conn, subscription_id, now)
            await open_epoch(conn, subscription_id, seconds, now, at_once=False)


@asynccontextmanager
async def _changing(
    pool: Pool, subscription_id: UUID, *, with_owner: bool = False
) -> AsyncIterator[tuple[Connection, dict[str, Any]]]:
    """A transaction that holds the subscription's row lock; gives the row as it now is.

    `with_owner` locks the owner's row too, before it, as all do that need both. Not FOR UPDATE:
    who writes a subscription twice in a transaction refers to its owner the second time.
    """
    with translated():
        async with pool.connection() as conn, conn.transaction():
            if with_owner:
                await conn.execute(
                    "SELECT FROM users u JOIN subscriptions s ON s.user_id = u.id"
                    " WHERE s.id = %s FOR NO KEY UPDATE OF u",
                    (subscription_id,),
                )
            async with conn.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(
                    "SELECT id, status, tier, target_type, check_interval_seconds, expires_at"
                    # Not FOR UPDATE: a recorder that opens an incident refers to this row.
                    " FROM subscriptions WHERE id = %s FOR NO KEY UPDATE",
                    (subscription_id,),
                )
                row = await cursor.fetchone()
            if row is None:
                raise _not_found(subscription_id)
            yield conn, row


def _cannot(verb: str, row: Mapping[str, Any]) -> UsageError:
    return UsageError(f"subscription {row['id']} is {row['status']} and cannot be {verb}")


async def _set_status(conn: Connection, row: Mapping[str, Any], status: SubscriptionStatus) -> None:
    cursor = await conn.execute(
        "UPDATE subscriptions SET status = %(new)s::subscription_status,"
        " activated_at = CASE WHEN %(new)s::text = 'active' THEN coalesce(activated_at,"
        " clock_timestamp()) ELSE activated_at END,"
        " cancelled_at = CASE WHEN %(new)s::text = 'cancelled' THEN clock_timestamp() END"
        " WHERE id = %(id)s AND status = %(old)s::subscription_status",
        {"new": status.value, "id": row["id"], "old": row["status"]},
    )
    if cursor.rowcount != 1:  # held by our row lock, so only a trigger could do this
        raise _cannot(status.value, row)
