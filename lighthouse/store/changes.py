"""Beat's view of the catalog: which subscriptions changed since its last look.

Every change carries the number of its transaction, so a look costs what has changed, and nothing
that commits late is passed over.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg

from lighthouse.model import MonitorType, SubscriptionStatus
from lighthouse.store.pool import Connection, translated

#: Rows that are held at a time; a million subscriptions never stand in memory at once.
CHANGES_BATCH = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecRow:
    """A changed subscription as beat needs it; the schedule is None unless it is active."""

    id: UUID
    changed_xid: int  #: grows with every change: the version of the spec
    target_type: MonitorType
    target_config: str  #: its JSON as it is stored: beat hands it on and need not understand it
    status: SubscriptionStatus
    epoch_id: int | None
    interval_ms: int | None
    phase_ms: int | None
    first_slot: int | None  #: ms since the epoch
    browser: bool  #: whether running it takes a browser


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one snapshot shows; `rows` can be walked once, inside the context that gave it."""

    next_xid: int  #: to be given to the next call
    active_count: int
    batches: AsyncIterator[list[SpecRow]]


# A step's action is in clear even where the configuration's secrets are encrypted, so PostgreSQL
# can tell what needs a browser and beat passes configurations on unread.
_CHANGES = """
SELECT s.id, s.changed_xid, s.target_type::text, s.target_config::text, s.status::text,
       e.id, e.interval_ms, e.phase_ms, e.first_slot,
       s.target_type = 'canary'
         AND jsonb_path_exists(s.target_config, '$.steps[*].action ? (@ == "browser")')
FROM subscriptions s
LEFT JOIN schedule_epochs e
    ON e.subscription_id = s.id AND e.end_slot IS NULL AND s.status = 'active'
WHERE s.changed_xid >= %(since)s AND (%(since)s = 0 OR s.changed_xid < %(end)s)
"""

# Where nothing has been analysed yet, the planner takes thousands of new rows for a few and would
# hold each one against every open epoch, kept at hand: 16 s for 20,000 subscriptions, 0.3 s by
# idx_schedule_epochs_open. Other plans do without keeping.
_BY_INDEX = "SET LOCAL enable_material = off"


@asynccontextmanager
async def changes(conn: Connection, xid: int) -> AsyncIterator[Changes]:
    """All subscriptions changed since a call that gave `xid` as its `next_xid`; 0 for every one.

    One snapshot, read through a server-side cursor. A change may be told twice, never not at all:
    `next_xid` is the oldest transaction still running, so one that commits later is seen next
    time. Rows of a restored dump carry transaction numbers of the future; they are told with 0.
    """
    with translated():
        async with conn.transaction():
            await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            await conn.execute(_BY_INDEX)
            cursor = await conn.execute(
                "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint,"
                " (SELECT count(*) FROM subscriptions WHERE status = 'active')"
                " FROM pg_current_snapshot() AS s"
            )
            row = await cursor.fetchone()
            assert row is not None  # noqa: S101 - an aggregate always has its row
            next_xid, end, active = row
            async with conn.cursor("lighthouse_changes") as named:
                await named.execute(_CHANGES, {"since": xid, "end": end})
                yield Changes(next_xid=next_xid, active_count=active, batches=_batches(named))


async def _batches(cursor: psycopg.AsyncServerCursor[Any]) -> AsyncIterator[list[SpecRow]]:
    while rows := await cursor.fetchmany(CHANGES_BATCH):
        yield [
            SpecRow(
                id=row[0],
                changed_xid=row[1],
                target_type=MonitorType(row[2]),
                target_config=row[3],
                status=SubscriptionStatus(row[4]),
                epoch_id=row[5],
                interval_ms=row[6],
                phase_ms=row[7],
                first_slot=row[8],
                browser=row[9],
            )
            for row in rows
        ]


async def changes_since(conn: Connection, xid: int) -> tuple[list[SpecRow], int, int]:
    """`changes` in one list: (rows, the next call's xid, number of active subscriptions)."""
    async with changes(conn, xid) as found:
        rows = [row async for batch in found.batches for row in batch]
    return rows, found.next_xid, found.active_count


async def identity(conn: Connection) -> str:
    """Tells this database from any other, a restored copy included."""
    with translated():
        cursor = await conn.execute(
            "SELECT c.system_identifier || ':' || d.oid"
            " FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()"
        )
        row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - one row each
    return str(row[0])
