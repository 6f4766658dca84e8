"""How many alerts an hour a subscription and its owner are told: the rest comes as one summary.

Ends of what was told are not counted: whoever heard that something began hears that it is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from lighthouse.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Alerts an hour, by PostgreSQL's clock; 0: no limit."""

    subscription: int = 20
    user: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What became of one wish to tell."""

    allowed: bool
    last: bool  #: the limit is reached with it
    until: datetime  #: the hour's end


# Locks the owners' rows in the order of their ids, after all state rows, until the transaction
# ends: of two recorders the second one counts behind the first one's commit.
_OPEN = """
INSERT INTO alert_budgets (owner_id, hour)
SELECT DISTINCT id, date_trunc('hour', now(), 'UTC') FROM unnest(%s::uuid[]) AS id ORDER BY id
    ON CONFLICT (owner_id, hour) DO UPDATE SET used = alert_budgets.used
RETURNING owner_id, used, hour + interval '1 hour'
"""
_WRITE = """
UPDATE alert_budgets b SET used = b.used + t.used, withheld = b.withheld + t.withheld
  FROM unnest(%s::uuid[], %s::int[], %s::int[]) AS t (id, used, withheld)
 WHERE b.owner_id = t.id AND b.hour = date_trunc('hour', now(), 'UTC')
"""


async def spend(
    connection: Connection, wishes: Sequence[tuple[UUID, UUID]], limits: Limits
) -> list[Spent]:
    """Whether each wish, as (subscription, user), may be told; in their order.

    Belongs inside the transaction that writes the events. psycopg's errors pass.
    """
    if not wishes:
        return []
    owners = sorted({owner for wish in wishes for owner in wish})
    cursor = await connection.execute(_OPEN, (owners,))
    rows: list[Any] = await cursor.fetchall()
    used = {owner: count for owner, count, _ in rows}
    until = rows[0][2]
    spent, more, withheld = [], dict.fromkeys(owners, 0), dict.fromkeys(owners, 0)
    for subscription_id, user_id in wishes:
        room = min(
            _left(limits.subscription, used[subscription_id]), _left(limits.user, used[user_id])
        )
        counts = more if room > 0 else withheld
        for owner in (subscription_id, user_id):
            counts[owner] += 1
            if room > 0:
                used[owner] += 1
        spent.append(Spent(allowed=room > 0, last=room == 1, until=until))
    await connection.execute(
        _WRITE, (owners, [more[o] for o in owners], [withheld[o] for o in owners])
    )
    return spent


def _left(limit: int, used: int) -> float:
    return limit - used if limit else float("inf")
