"""Opening and closing the spans in which a schedule is in force, each inside its caller's
transaction.

The sweep computes `missed` from these rows alone, so it must not pass a time at which an epoch
may still begin: whoever opens or closes one reads the clock behind a shared lock, and the sweep
waits for the holders of that lock before it trusts what it reads (`settle`).
"""

from collections.abc import Sequence
from typing import LiteralString
from uuid import UUID

from lighthouse import slots
from lighthouse.errors import StoreError
from lighthouse.model import to_slot
from lighthouse.store.pool import Connection

#: Advisory lock: shared by transactions that change epochs, taken alone by the sweep to wait.
SCHEDULE_LOCK = 0x6C68_7363_6864


async def now_ms(conn: Connection) -> int:
    """PostgreSQL's clock, in ms since the epoch, read after the schedule's shared lock.

    The lock is kept until the transaction ends, as late as that may be.
    """
    return await _clock(
        conn, "SELECT clock_timestamp() FROM pg_advisory_xact_lock_shared(%s)", SCHEDULE_LOCK
    )


async def settle(conn: Connection) -> int:
    """PostgreSQL's clock; every epoch that begins or ends before it is committed on return.

    To be called in a transaction of its own, which ends at once: it holds the changes up.
    """
    now = await _clock(conn, "SELECT clock_timestamp()")
    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEDULE_LOCK,))
    return now


async def _clock(conn: Connection, query: LiteralString, *arguments: int) -> int:
    cursor = await conn.execute(query, arguments)
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - these queries have one row
    return to_slot(row[0])


async def open_epoch(
    conn: Connection, subscription_id: UUID, seconds: int, now: int, *, at_once: bool
) -> None:
    """Put a schedule in force; `at_once` makes `now` its first slot, else the grid does."""
    # Should the clock have gone back, no slot may be due by the former schedule too.
    cursor = await conn.execute(
        "SELECT max(end_slot) FROM schedule_epochs"
        " WHERE subscription_id = %s AND end_slot > first_slot",
        (subscription_id,),
    )
    row = await cursor.fetchone()
    start = max(now, row[0]) if row and row[0] is not None else now
    interval = seconds * 1000
    phase = slots.phase(subscription_id, interval)
    first = start if at_once else slots.next_slot(start - 1, interval, phase)
    await conn.execute(
        "INSERT INTO schedule_epochs (subscription_id, interval_ms, phase_ms, first_slot)"
        " VALUES (%s, %s, %s, %s)",
        (subscription_id, interval, phase, first),
    )


async def end_incidents(conn: Connection, ids: Sequence[UUID]) -> None:
    """What is no longer watched has no end of its own; nobody is told. By idx_incidents_open."""
    await conn.execute(
        "UPDATE incidents SET closed_at = greatest(clock_timestamp(), opened_at + interval '1 ms')"
        " WHERE subscription_id = ANY(%s) AND closed_at IS NULL",
        (list(ids),),
    )


async def close_epoch(conn: Connection, subscription_id: UUID, end: int) -> None:
    """Nothing is due from `end` on. An epoch that has not begun (it was paced) ends empty.

    Raises StoreError when no epoch is open.
    """
    cursor = await conn.execute(
        "UPDATE schedule_epochs SET end_slot = greatest(first_slot, %s)"
        " WHERE subscription_id = %s AND end_slot IS NULL",
        (end, subscription_id),
    )
    if cursor.rowcount != 1:
        raise StoreError(f"subscription {subscription_id} is active without an open schedule")
