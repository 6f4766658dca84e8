"""Maintenance windows: made, listed, removed, and moved to their next occurrence."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg.rows import dict_row

from lighthouse.errors import NotFoundError, UsageError
from lighthouse.store.creation import wallet_address
from lighthouse.store.pool import Connection, Pool, translated
from lighthouse.windows import Window, check_window, occurrence

NAME_CHARS = 100
#: Of a window that was given none.
NAME = "maintenance"
#: Windows of one wallet: each alert that is due looks at them.
MOST_WINDOWS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """A row of `maintenance_windows`."""

    id: UUID
    wallet_address: str
    subscription_id: UUID | None  #: None: all of the wallet's
    subscription_name: str | None
    name: str
    window: Window
    starts_at: datetime  #: of the occurrence that is running or comes next
    ends_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnWindow:
    """A subscription's window as it was given, whenever its next occurrence is."""

    id: UUID
    name: str
    window: Window


_LIST = """
SELECT w.id, u.wallet_address, w.subscription_id, s.name AS subscription_name, w.name,
       w.local_start, w.duration_s, w.timezone, w.repeat, w.starts_at, w.ends_at
  FROM maintenance_windows w JOIN users u ON u.id = w.user_id
  LEFT JOIN subscriptions s ON s.id = w.subscription_id
 WHERE (%(wallet)s::text IS NULL OR u.wallet_address = %(wallet)s)
   AND (%(id)s::uuid IS NULL OR w.subscription_id = %(id)s
        OR (w.subscription_id IS NULL
            AND w.user_id = (SELECT user_id FROM subscriptions WHERE id = %(id)s)))
   AND (NOT %(running)s OR (w.starts_at <= now() AND w.ends_at > now()))
 ORDER BY w.starts_at, w.id
"""
_REMOVE = "DELETE FROM maintenance_windows WHERE id = %s"


async def add_window(
    pool: Pool,
    window: Window,
    *,
    wallet: str | None = None,
    subscription_id: UUID | None = None,
    name: str = NAME,
) -> UUID:
    """Hold alerts during a window: of one subscription, or of all of a wallet's; its id.

    Raises UsageError, NotFoundError.
    """
    check_window(window)
    check_name(name)
    if (wallet is None) == (subscription_id is None):
        raise UsageError("maintenance: give either a subscription or a wallet")
    with translated():
        async with pool.connection() as conn, conn.transaction():
            if subscription_id is not None:
                cursor = await conn.execute(
                    "SELECT user_id FROM subscriptions WHERE id = %s", (subscription_id,)
                )
                missing = f"no subscription {subscription_id}"
            else:
                address = wallet_address(wallet or "")
                cursor = await conn.execute(
                    "SELECT id FROM users WHERE wallet_address = %s", (address,)
                )
                missing = f"no subscription of wallet {address}"
            row = await cursor.fetchone()
            if row is None:
                raise NotFoundError(missing)
            return await write_window(conn, row[0], subscription_id, name, window)


def check_name(name: str) -> None:
    """Refuse what cannot be a window's name. Raises UsageError."""
    if not name.strip() or len(name) > NAME_CHARS or not name.isprintable():
        raise UsageError(f"name: 1 to {NAME_CHARS} printable characters")


async def write_window(
    conn: Connection, user_id: UUID, subscription_id: UUID | None, name: str, window: Window
) -> UUID:
    """Write a window that has been checked, in the caller's transaction; psycopg's errors pass."""
    # Held until the commit, so that counting and inserting cannot pass the bound together.
    await conn.execute("SELECT FROM users WHERE id = %s FOR NO KEY UPDATE", (user_id,))
    cursor = await conn.execute(
        "SELECT count(*), clock_timestamp() FROM maintenance_windows WHERE user_id = %s", (user_id,)
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - an aggregate always has its row
    count, now = row
    if count >= MOST_WINDOWS:
        raise UsageError(f"maintenance: a wallet has at most {MOST_WINDOWS} windows")
    found = occurrence(window, now)
    if found is None:
        raise UsageError("start: the window is already over, and does not repeat")
    cursor = await conn.execute(
        "INSERT INTO maintenance_windows (user_id, subscription_id, name, local_start,"
        " duration_s, timezone, repeat, starts_at, ends_at)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id",
        (
            user_id,
            subscription_id,
            name,
            window.local_start,
            window.duration_s,
            window.timezone,
            window.repeat,
            *found,
        ),
    )
    added = await cursor.fetchone()
    assert added is not None  # noqa: S101 - RETURNING of one row
    return UUID(str(added[0]))


async def list_windows(
    pool: Pool, *, wallet: str | None = None, subscription_id: UUID | None = None
) -> list[Maintenance]:
    """Windows in the order in which they come; of a subscription, those of its wallet too."""
    address = None if wallet is None else wallet_address(wallet)
    with translated():
        async with pool.connection() as conn:
            return await _read(conn, wallet=address, id_=subscription_id)


async def running_windows(conn: Connection) -> list[Maintenance]:
    """The windows that are running now, the first to begin first; psycopg's errors pass."""
    return await _read(conn, running=True)


async def _read(
    conn: Connection, *, wallet: str | None = None, id_: UUID | None = None, running: bool = False
) -> list[Maintenance]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_LIST, {"wallet": wallet, "id": id_, "running": running})
        return [_maintenance(row) for row in await cursor.fetchall()]


async def own_windows(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, list[OwnWindow]]:
    """The windows of these subscriptions alone, not their wallets'; psycopg's errors pass."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT id, subscription_id, name, local_start, duration_s, timezone, repeat"
            " FROM maintenance_windows WHERE subscription_id = ANY(%s) ORDER BY id",
            (list(ids),),
        )
        found: dict[UUID, list[OwnWindow]] = {}
        for row in await cursor.fetchall():
            own = OwnWindow(id=row["id"], name=row["name"], window=_window(row))
            found.setdefault(row["subscription_id"], []).append(own)
        return found


async def clock(pool: Pool) -> datetime:
    """PostgreSQL's time, by which windows begin and end."""
    with translated():
        async with pool.connection() as conn:
            row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
            assert row is not None  # noqa: S101 - a SELECT without FROM has one row
            found: datetime = row[0]
            return found


async def remove_window(pool: Pool, window_id: UUID) -> None:
    """Remove a window; what it held is told when its turn comes. Raises NotFoundError."""
    with translated():
        async with pool.connection() as conn:
            cursor = await conn.execute(_REMOVE, (window_id,))
            if cursor.rowcount != 1:
                raise NotFoundError(f"no maintenance window {window_id}")


async def advance(pool: Pool, limit: int = 1000) -> int:
    """Move windows that are over to their next occurrence, remove those without; how many.

    Safe to run twice or at once: a row that another run holds is left to it.
    """
    with translated():
        async with pool.connection() as conn, conn.transaction():
            async with conn.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(
                    "SELECT id, local_start, duration_s, timezone, repeat, clock_timestamp() AS now"
                    " FROM maintenance_windows WHERE ends_at <= now()"
                    " ORDER BY ends_at LIMIT %s FOR UPDATE SKIP LOCKED",
                    (limit,),
                )
                rows = await cursor.fetchall()
            for row in rows:
                # A rhythm of many years takes tens of milliseconds to walk through.
                found = await asyncio.to_thread(occurrence, _window(row), row["now"])
                if found is None:
                    await conn.execute(
                        "DELETE FROM maintenance_windows WHERE id = %s", (row["id"],)
                    )
                else:
                    await conn.execute(
                        "UPDATE maintenance_windows SET starts_at = %s, ends_at = %s WHERE id = %s",
                        (*found, row["id"]),
                    )
            return len(rows)


def _window(row: dict[str, object]) -> Window:
    return Window(
        local_start=row["local_start"],  # type: ignore[arg-type]
        duration_s=row["duration_s"],  # type: ignore[arg-type]
        timezone=str(row["timezone"]),
        repeat=None if row["repeat"] is None else str(row["repeat"]),
    )


def _maintenance(row: dict[str, object]) -> Maintenance:
    window = _window(row)
    rest = {
        key: value
        for key, value in row.items()
        if key not in ("local_start", "duration_s", "timezone", "repeat")
    }
    return Maintenance(window=window, **rest)  # type: ignore[arg-type]
