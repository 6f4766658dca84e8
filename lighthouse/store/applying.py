"""Subscriptions and channels as a file wants them: what is there, and every change at once.

The changes follow from what was read before; if that is no longer so, nothing is done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from lighthouse import plans
from lighthouse.errors import UsageError
from lighthouse.model import (
    Channel,
    ChannelType,
    MonitorType,
    Severity,
    Subscription,
    SubscriptionStatus,
    Tier,
    to_slot,
)
from lighthouse.store.alert_channels import CHANNEL_COLUMNS, channels_of
from lighthouse.store.catalog import SUBSCRIPTION_COLUMNS, subscription_of
from lighthouse.store.creation import (
    LIVE,
    NewSubscription,
    create_within,
    lock_users,
    mistakes_told,
    write_alerting,
)
from lighthouse.store.epochs import close_epoch, end_incidents, now_ms, open_epoch
from lighthouse.store.maintenance import OwnWindow, own_windows, write_window
from lighthouse.store.parents import clear_parents, read_parents, write_parents
from lighthouse.store.pool import Connection, Pool, translated
from lighthouse.windows import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """Some wallets' live subscriptions and their channels, each in the order of their making."""

    subscriptions: tuple[Subscription, ...]
    channels: tuple[Channel, ...]
    parents: Mapping[UUID, Sequence[UUID]]  #: of those that have any
    windows: Mapping[UUID, Sequence[OwnWindow]]  #: of those that have any of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedChannel:
    """A channel as it shall be; its configuration validated and sealed, None to keep it."""

    type: ChannelType
    config: Mapping[str, Any] | None
    language: str
    min_severity: Severity
    enabled: bool
    timezone: str = "UTC"
    escalate_after_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A subscription as it shall be."""

    id: UUID
    type: MonitorType
    tier: Tier
    interval_s: int
    worst_case_s: float  #: of the configuration that will be in force
    config: Mapping[str, Any] | None  #: validated and sealed; None keeps what is there
    status: SubscriptionStatus  #: active or paused
    alerting: Mapping[str, Any] | None = None  #: as it is stored; None keeps what is there


#: (wallet, name): what a subscription is known by that may be yet to be made.
Key = tuple[str, str]


@dataclass(slots=True, kw_only=True)
class Changes:
    """Everything that is to be done."""

    create: list[tuple[NewSubscription, list[WantedChannel], bool]] = field(default_factory=list)
    """With their channels, and whether they begin paused."""
    change: list[Changed] = field(default_factory=list)
    cancel: list[UUID] = field(default_factory=list)
    add_channels: list[tuple[UUID, WantedChannel]] = field(default_factory=list)
    change_channels: list[tuple[UUID, WantedChannel]] = field(default_factory=list)
    remove_channels: list[UUID] = field(default_factory=list)
    parents: list[tuple[Key, Sequence[Key]]] = field(default_factory=list)
    """All parents of each subscription whose parents change."""
    add_windows: list[tuple[Key, str, Window]] = field(default_factory=list)
    """With their names."""
    remove_windows: list[UUID] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(
            (
                *(self.create, self.change, self.cancel),
                *(self.add_channels, self.change_channels, self.remove_channels),
                *(self.parents, self.add_windows, self.remove_windows),
            )
        )


async def present(pool: Pool, wallets: Sequence[str]) -> Present:
    """What is there now of these wallets (lower case)."""
    with translated():
        async with pool.connection() as conn, conn.transaction():
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return await _present(conn, wallets, lock=False)


async def _present(conn: Connection, wallets: Sequence[str], *, lock: bool) -> Present:
    # By id, as every other that locks several rows: two never wait for each other.
    locking = " FOR NO KEY UPDATE OF s" if lock else ""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"SELECT {SUBSCRIPTION_COLUMNS} FROM subscriptions s"  # noqa: S608 - constants
            " JOIN users u ON u.id = s.user_id WHERE u.wallet_address = ANY(%s)"
            f" AND s.status = ANY(%s::subscription_status[]) ORDER BY s.id{locking}".encode(),
            (list(wallets), [status.value for status in LIVE]),
        )
        found = [subscription_of(row) for row in await cursor.fetchall()]
        locking = " FOR UPDATE" if lock else ""
        await cursor.execute(
            f"SELECT {CHANNEL_COLUMNS} FROM alert_channels"  # noqa: S608 - constants
            f" WHERE subscription_id = ANY(%s) ORDER BY created_at, id{locking}".encode(),
            ([each.id for each in found],),
        )
        channels = channels_of(await cursor.fetchall())
    ids = [each.id for each in found]
    parents = await read_parents(conn, ids)
    windows = await own_windows(conn, ids)
    found.sort(key=lambda each: (each.created_at, each.name))
    return Present(
        subscriptions=tuple(found), channels=tuple(channels), parents=parents, windows=windows
    )


async def apply(
    pool: Pool, wallets: Sequence[str], seen: Present, changes: Changes, *, enforce_plans: bool
) -> None:
    """Make all the changes or none. Raises UsageError when `seen` is no longer so."""
    with translated():
        async with pool.connection() as conn, conn.transaction():
            owners = await lock_users(conn, wallets)
            if await _present(conn, wallets, lock=True) != seen:
                raise UsageError("something changed meanwhile; nothing was done, apply again")
            now = await now_ms(conn)
            by_id = {each.id: each for each in seen.subscriptions}
            for id_ in changes.cancel:
                await _cancel(conn, by_id[id_], now)
            with mistakes_told():
                # By id, as recorders lock the state rows that a policy changes.
                for changed in sorted(changes.change, key=lambda each: each.id):
                    await _change(conn, by_id[changed.id], changed, now, enforce_plans)
                await _remove_channels(conn, changes.remove_channels)
                await _change_channels(conn, changes.change_channels)
                ids: list[UUID] = []
                if changes.create:
                    news = [new for new, _, _ in changes.create]
                    ids = await create_within(conn, news, enforce_plans=enforce_plans)
                await _pause(
                    conn,
                    [i for i, (_, _, paused) in zip(ids, changes.create, strict=True) if paused],
                    now,
                )
                await _add_channels(
                    conn,
                    [
                        *changes.add_channels,
                        *(
                            (id_, channel)
                            for id_, (_, channels, _) in zip(ids, changes.create, strict=True)
                            for channel in channels
                        ),
                    ],
                )
                keys = {(each.wallet_address, each.name): each.id for each in seen.subscriptions}
                for id_, (new, _, _) in zip(ids, changes.create, strict=True):
                    keys[new.wallet, new.name or ""] = id_
                await _set_parents(conn, changes.parents, keys)
                await _set_windows(conn, changes, keys, owners)


async def _cancel(conn: Connection, row: Subscription, now: int) -> None:
    await conn.execute(
        "UPDATE subscriptions SET status = 'cancelled', cancelled_at = clock_timestamp()"
        " WHERE id = %s",
        (row.id,),
    )
    await end_incidents(conn, [row.id])
    if row.status is SubscriptionStatus.ACTIVE:
        await close_epoch(conn, row.id, now)


async def _change(
    conn: Connection, row: Subscription, wanted: Changed, now: int, enforce_plans: bool
) -> None:
    plans.check_interval(wanted.interval_s)
    plans.check_fits(wanted.worst_case_s, wanted.interval_s)
    if enforce_plans:  # the wallet's count does not grow
        plans.check_subscription(wanted.tier, wanted.type, wanted.interval_s, 0)
    active = SubscriptionStatus.ACTIVE
    was_active, is_active = row.status is active, wanted.status is active
    resumed = is_active and not was_active
    if resumed and row.expires_at is not None and to_slot(row.expires_at) <= now:
        raise UsageError(f"subscription {row.id} has expired and cannot be resumed")
    await conn.execute(
        "UPDATE subscriptions SET tier = %s, check_interval_seconds = %s,"
        " target_config = coalesce(%s, target_config), status = %s,"
        " activated_at = coalesce(activated_at,"
        "  CASE WHEN %s THEN clock_timestamp() END) WHERE id = %s",
        (
            wanted.tier.value,
            wanted.interval_s,
            None if wanted.config is None else Jsonb(dict(wanted.config)),
            wanted.status.value,
            is_active,
            row.id,
        ),
    )
    if wanted.alerting is not None:
        await write_alerting(conn, row.id, wanted.alerting)
    moved = wanted.interval_s != row.check_interval_seconds
    if was_active and (moved or not is_active):
        await close_epoch(conn, row.id, now)
    if is_active and (moved or not was_active):
        await open_epoch(conn, row.id, wanted.interval_s, now, at_once=not was_active)


async def _pause(conn: Connection, ids: Sequence[UUID], now: int) -> None:
    """What begins paused: its first epoch ends empty."""
    if ids:
        await conn.execute(
            "UPDATE subscriptions SET status = 'paused' WHERE id = ANY(%s)", (list(ids),)
        )
    for id_ in ids:
        await close_epoch(conn, id_, now)


async def _set_parents(
    conn: Connection, wanted: Sequence[tuple[Key, Sequence[Key]]], keys: Mapping[Key, UUID]
) -> None:
    if wanted:
        await clear_parents(conn, [keys[child] for child, _ in wanted])
    for child, parents in wanted:
        await write_parents(conn, keys[child], [keys[parent] for parent in parents])


async def _set_windows(
    conn: Connection, changes: Changes, keys: Mapping[Key, UUID], owners: Mapping[str, UUID]
) -> None:
    if changes.remove_windows:
        await conn.execute(
            "DELETE FROM maintenance_windows WHERE id = ANY(%s)", (list(changes.remove_windows),)
        )
    for key, name, window in changes.add_windows:
        await write_window(conn, owners[key[0]], keys[key], name, window)


async def _remove_channels(conn: Connection, ids: Sequence[UUID]) -> None:
    if ids:
        await conn.execute("DELETE FROM alert_channels WHERE id = ANY(%s)", (list(ids),))


async def _change_channels(conn: Connection, changed: Sequence[tuple[UUID, WantedChannel]]) -> None:
    async with conn.cursor() as cursor:
        await cursor.executemany(
            "UPDATE alert_channels SET channel_config = coalesce(%s, channel_config),"
            " min_severity = %s, enabled = %s, metadata = metadata || %s, escalate_after_s = %s"
            " WHERE id = %s",
            [
                (
                    None if new.config is None else Jsonb(dict(new.config)),
                    new.min_severity.value,
                    new.enabled,
                    Jsonb({"language": new.language, "timezone": new.timezone}),
                    new.escalate_after_s,
                    id_,
                )
                for id_, new in changed
            ],
        )


async def _add_channels(conn: Connection, added: Sequence[tuple[UUID, WantedChannel]]) -> None:
    async with (
        conn.cursor() as cursor,
        cursor.copy(
            "COPY alert_channels (id, subscription_id, channel_type, channel_config, enabled,"
            " min_severity, metadata, escalate_after_s) FROM STDIN"
        ) as copy,
    ):
        for subscription_id, new in added:
            await copy.write_row(
                (
                    uuid4(),
                    subscription_id,
                    new.type.value,
                    Jsonb(dict(new.config or {})),
                    new.enabled,
                    new.min_severity.value,
                    Jsonb({"language": new.language, "timezone": new.timezone}),
                    new.escalate_after_s,
                )
            )
