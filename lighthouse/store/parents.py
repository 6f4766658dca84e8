"""Which subscriptions others depend on: while a parent is down, its children's alerts are held."""

from collections.abc import Sequence
from uuid import UUID

from lighthouse.errors import NotFoundError, UsageError
from lighthouse.store.pool import Connection, Pool, translated

#: Parents of one subscription: each alert of a child looks at them.
MOST_PARENTS = 20

# Whoever is above one of the given parents, themselves included.
_ABOVE = """
WITH RECURSIVE above (id) AS (
    SELECT unnest(%s::uuid[])
     UNION
    SELECT sp.parent_id FROM subscription_parents sp JOIN above a ON sp.subscription_id = a.id
)
SELECT EXISTS (SELECT FROM above WHERE id = %s)
"""


async def set_parents(pool: Pool, subscription_id: UUID, parents: Sequence[UUID]) -> None:
    """Make these the subscription's parents, instead of those that it had.

    Raises NotFoundError, UsageError for another wallet's, for itself and for a circle.
    """
    with translated():
        async with pool.connection() as conn, conn.transaction():
            await write_parents(conn, subscription_id, parents)


async def write_parents(conn: Connection, subscription_id: UUID, parents: Sequence[UUID]) -> None:
    """`set_parents` inside the caller's transaction; psycopg's errors pass."""
    wanted = sorted(set(parents))
    if len(wanted) > MOST_PARENTS:
        raise UsageError(f"parents: at most {MOST_PARENTS}")
    cursor = await conn.execute(
        "SELECT user_id FROM subscriptions WHERE id = %s", (subscription_id,)
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"no subscription {subscription_id}")
    # One change of a wallet's tree at a time, so that no two make a circle together.
    await conn.execute("SELECT FROM users WHERE id = %s FOR NO KEY UPDATE", (row[0],))
    cursor = await conn.execute(
        "SELECT id FROM subscriptions WHERE id = ANY(%s) AND user_id = %s", (wanted, row[0])
    )
    known = {found[0] for found in await cursor.fetchall()}
    for parent in wanted:
        if parent not in known:
            raise UsageError(f"parents: {parent} is no subscription of the same wallet")
    cursor = await conn.execute(_ABOVE, (wanted, subscription_id))
    circle = await cursor.fetchone()
    if circle is not None and circle[0]:
        raise UsageError(f"parents: {subscription_id} would be its own parent")
    await conn.execute(
        "DELETE FROM subscription_parents WHERE subscription_id = %s AND parent_id <> ALL(%s)",
        (subscription_id, wanted),
    )
    await conn.execute(
        "INSERT INTO subscription_parents (subscription_id, parent_id)"
        " SELECT %s, unnest(%s::uuid[]) ON CONFLICT DO NOTHING",
        (subscription_id, wanted),
    )


async def parents_of(pool: Pool, ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
    """The parents of each of these subscriptions that has any."""
    with translated():
        async with pool.connection() as conn:
            return await read_parents(conn, ids)


async def read_parents(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
    """`parents_of` inside the caller's transaction; psycopg's errors pass."""
    cursor = await conn.execute(
        "SELECT subscription_id, array_agg(parent_id ORDER BY parent_id)"
        " FROM subscription_parents WHERE subscription_id = ANY(%s) GROUP BY 1",
        (list(ids),),
    )
    return dict(await cursor.fetchall())


async def clear_parents(conn: Connection, ids: Sequence[UUID]) -> None:
    """Take all parents from these, so that new ones make no circle with old; errors pass."""
    await conn.execute(
        "DELETE FROM subscription_parents WHERE subscription_id = ANY(%s)", (list(ids),)
    )
