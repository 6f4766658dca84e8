"""Walking every stored configuration, a few rows in each transaction: to seal them anew."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from lighthouse.errors import ConfigError
from lighthouse.store.pool import Pool, translated

Table = Literal["subscriptions", "alert_channels"]

#: Rows that one transaction holds: writers wait for it, a few ms at the most.
ROWS_AT_ONCE = 200

#: A configuration's successor by its type and itself; None when it may stay.
#: Raises ConfigError when it cannot be read.
Transform = Callable[[str, Mapping[str, Any]], Mapping[str, Any] | None]


@dataclass(slots=True, kw_only=True)
class Walked:
    """What a walk through a table met, in rows."""

    rows: int = 0
    changed: int = 0  #: or to be changed
    unread: int = 0  #: left as they are


_READ: Mapping[Table, LiteralString] = {
    "subscriptions": "SELECT id, target_type::text, target_config FROM subscriptions",
    "alert_channels": "SELECT id, channel_type::text, channel_config FROM alert_channels",
}
#: By primary key. With the lock, a writer of the same row waits, or we for it and then see its row.
_NEXT: LiteralString = " WHERE id > %s ORDER BY id LIMIT %s"
_LOCK: LiteralString = " FOR NO KEY UPDATE"
_WRITE: Mapping[Table, LiteralString] = {
    "subscriptions": "UPDATE subscriptions SET target_config = %s WHERE id = %s",
    "alert_channels": "UPDATE alert_channels SET channel_config = %s WHERE id = %s",
}


async def walk(pool: Pool, table: Table, transform: Transform, *, write: bool) -> Walked:
    """Give each row's configuration its successor; without `write` only count.

    Ended early it may be run again: what is done stays done. Rows that are made meanwhile may be
    passed over: the newest keys seal them.
    """
    walked, last = Walked(), UUID(int=0)
    query = _READ[table] + _NEXT + (_LOCK if write else "")
    with translated():
        async with pool.connection() as conn:
            while True:
                async with conn.transaction():
                    cursor = await conn.execute(query, (last, ROWS_AT_ONCE))
                    rows = await cursor.fetchall()
                    changed = []
                    for id_, type_, config in rows:
                        try:
                            successor = transform(type_, config)
                        except ConfigError:
                            walked.unread += 1
                            continue
                        if successor is not None:
                            changed.append((Jsonb(dict(successor)), id_))
                    if write and changed:
                        async with conn.cursor() as writing:
                            await writing.executemany(_WRITE[table], changed)
                walked.rows += len(rows)
                walked.changed += len(changed)
                if len(rows) < ROWS_AT_ONCE:
                    return walked
                last = rows[-1][0]
