"""The sweep: the only owner of `missed`.

Every due slot up to a watermark has exactly one row in `check_history` or lies in exactly one
record of `history_gaps`. The sweep moves the watermark in steps, each one transaction with the
rows that make it true, so beat's outages, flushed schedules and lost messages all end the same way.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from lighthouse import gaps
from lighthouse.gaps import Run, Told
from lighthouse.model import from_slot
from lighthouse.slots import Epoch
from lighthouse.store import epochs
from lighthouse.store.pool import Connection, Pool, translated
from lighthouse.store.rollups import ROLLUP_LOCK
from lighthouse.store.upkeep import ensure_partitions

#: Advisory lock of the one sweeper.
SWEEP_LOCK = 0x6C68_7377_6565

#: Slots older than this, in ms, can have no rows any more: results so late are refused.
LATE_HORIZON_MS = 7 * 86_400_000

#: Due slots that one step looks for in the history: about half a second of one core.
STEP_SLOTS = 50_000

#: Epochs that are held in memory at a time when a silence is reckoned.
PAGE = 20_000

#: How long the sweep waits for changes of schedules that are being committed, in ms.
SETTLE_TIMEOUT_MS = 5000

#: A step that deadlocks with a flush (both insert the same slots) is tried so often.
MAX_TRIES = 4

WATERMARK = "accounted_to"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What a sweep found missing; all zero when another one was at work."""

    missed_rows: int = 0
    gap_slots: int = 0
    accounted_to: int | None = None  #: ms since the epoch; None when nothing was done


async def sweep(pool: Pool, grace_s: float, now_ms: int | None = None) -> SweepReport:
    """Account for every due slot up to PostgreSQL's now less `grace_s` (`now_ms` replaces now).

    Safe to run twice and at once. Raises StoreError.
    """
    total = SweepReport()
    with translated():
        async with pool.connection() as conn:
            settled = await _settle(conn)
            if settled is None:
                return total
            now = settled if now_ms is None else now_ms
            until = now - int(grace_s * 1000)
            while True:
                done = await _retried(conn, until, now - LATE_HORIZON_MS)
                if done is None:
                    return total
                total = SweepReport(
                    missed_rows=total.missed_rows + done.missed_rows,
                    gap_slots=total.gap_slots + done.gap_slots,
                    accounted_to=done.accounted_to,
                )
                if done.accounted_to is None or done.accounted_to >= until:
                    return total


async def accounted_to(conn: Connection) -> int | None:
    """The watermark, in ms since the epoch; None before the first sweep."""
    cursor = await conn.execute(
        "SELECT (value->>'slot')::bigint FROM fleet_state WHERE key = %s", (WATERMARK,)
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def split_gap(conn: Connection, subscription_id: UUID, slot: int) -> None:
    """Take one slot out of the gap record that it lies in, if any, for it has got a row.

    Runs in the transaction of the row, which holds ROLLUP_LOCK shared: the sweep writes gap
    records only while it holds that lock alone.
    """
    key = {"id": subscription_id, "slot": slot}
    while True:
        cursor = await conn.execute(_LOCK_GAP, key)
        row = await cursor.fetchone()
        if row is not None:
            break
        # Another transaction may have split the record while we waited for it; its parts are
        # seen by a statement that begins now.
        cursor = await conn.execute(_FIND_GAP, key)
        if await cursor.fetchone() is None:
            return
    gap = Run(subscription_id=subscription_id, first=row[0], interval_ms=row[1], count=row[2])
    await conn.execute(
        "DELETE FROM history_gaps WHERE subscription_id = %s AND first_slot = %s",
        (subscription_id, gap.first),
    )
    await _insert_gaps(conn, gaps.without(gap, slot))


_FIND_GAP = """
SELECT first_slot, interval_ms, slots FROM history_gaps
WHERE subscription_id = %(id)s AND first_slot <= %(slot)s AND last_slot >= %(slot)s
  AND (%(slot)s - first_slot) %% interval_ms = 0
"""
_LOCK_GAP = _FIND_GAP + "FOR UPDATE"


async def _settle(conn: Connection) -> int | None:
    try:
        async with conn.transaction():
            await conn.execute(f"SET LOCAL lock_timeout = {SETTLE_TIMEOUT_MS}")
            return await epochs.settle(conn)
    except psycopg.errors.LockNotAvailable:
        return None  # a long change of schedules is under way; the next sweep will see it


async def _retried(conn: Connection, until: int, horizon: int) -> SweepReport | None:
    for attempt in range(1, MAX_TRIES + 1):
        try:
            async with conn.transaction():
                return await _step(conn, until, horizon)
        except psycopg.errors.DeadlockDetected:
            if attempt == MAX_TRIES:
                raise
        except psycopg.errors.CheckViolation:
            # On the `plain` edition: a day of the outage has no partition yet.
            if attempt == MAX_TRIES:
                raise
            async with conn.transaction():
                await ensure_partitions(conn)
    return None


async def _step(conn: Connection, until: int, horizon: int) -> SweepReport | None:
    """One transaction's part of the way to `until`; None when there is nothing to do."""
    cursor = await conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (SWEEP_LOCK,))
    row = await cursor.fetchone()
    if row is None or not row[0]:
        return None  # another sweeper is at work, and does what we would
    after = await accounted_to(conn)
    if after is None:
        cursor = await conn.execute("SELECT min(first_slot) - 1 FROM schedule_epochs")
        row = await cursor.fetchone()
        after = until if row is None or row[0] is None else min(row[0], until)
    elif after >= until:
        return SweepReport(accounted_to=after)
    end, silent = await _span(conn, after, until)
    done = SweepReport(accounted_to=end)
    if silent:
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (ROLLUP_LOCK,))
        # A flush may have committed before we had the lock.
        silent = not await _anything(conn, after, end)
        if not silent:
            end = min(end, await _dense_end(conn, after, until))
            done = replace(done, accounted_to=end)
    if silent:
        async for page in _silent_runs(conn, after, end):
            done = await _write(conn, await _tell(conn, page, horizon), done)
    elif end > after:
        told = await _tell(conn, await _missing_runs(conn, after, end), horizon)
        if any(how is not Told.ROWS for _, how in told):
            # A late result and a gap record over its slot must not pass each other: behind the
            # lock no flush is under way, so what is missing now stays missing.
            await conn.execute("SELECT pg_advisory_xact_lock(%s)", (ROLLUP_LOCK,))
            told = await _tell(conn, await _missing_runs(conn, after, end), horizon)
        done = await _write(conn, told, done)
    await conn.execute(
        "INSERT INTO fleet_state (key, value) VALUES (%s, %s) ON CONFLICT (key) DO UPDATE"
        " SET value = excluded.value, updated_at = clock_timestamp()",
        (WATERMARK, Jsonb({"slot": end})),
    )
    return done


async def _span(conn: Connection, after: int, until: int) -> tuple[int, bool]:
    """Where the step ends, and whether the span is silent: no row at all, so that what is missing
    can be reckoned instead of looked for."""
    end = await _dense_end(conn, after, until)
    if end <= after or await _anything(conn, after, end):
        return end, False
    while end < until:
        further = min(until, after + 2 * (end - after))
        if await _anything(conn, end, further):
            break
        end = further
    return end, True


async def _dense_end(conn: Connection, after: int, until: int) -> int:
    cursor = await conn.execute(
        "SELECT coalesce(sum(1.0 / interval_ms), 0)::float8 FROM schedule_epochs"
        " WHERE first_slot <= %s AND (end_slot IS NULL OR end_slot > %s)",
        (until, after),
    )
    row = await cursor.fetchone()
    slots_per_ms = row[0] if row else 0.0
    if slots_per_ms * (until - after) <= STEP_SLOTS:
        return until
    return min(until, after + max(1, int(STEP_SLOTS / slots_per_ms)))


#: Served by the BRIN index on time, or by the one chunk or partition that the span lies in.
_ANYTHING = """
SELECT EXISTS (SELECT FROM check_history WHERE time > %(after_t)s AND time <= %(until_t)s)
    OR EXISTS (SELECT FROM history_gaps WHERE last_slot > %(after)s AND first_slot <= %(until)s)
"""


async def _anything(conn: Connection, after: int, until: int) -> bool:
    cursor = await conn.execute(_ANYTHING, _bounds(after, until))
    row = await cursor.fetchone()
    return bool(row and row[0])


def _bounds(after: int, until: int) -> dict[str, Any]:
    return {
        "after": after,
        "until": until,
        "after_t": from_slot(after),
        "until_t": from_slot(until),
    }


async def _silent_runs(conn: Connection, after: int, until: int) -> AsyncIterator[list[Run]]:
    async with conn.cursor("lighthouse_epochs") as cursor:
        await cursor.execute(
            "SELECT subscription_id, interval_ms, phase_ms, first_slot, end_slot"
            " FROM schedule_epochs"
            " WHERE first_slot <= %(until)s AND (end_slot IS NULL OR end_slot > %(after)s)",
            {"after": after, "until": until},
        )
        while rows := await cursor.fetchmany(PAGE):
            yield [
                run
                for id_, interval, phase, first, to in rows
                for run in gaps.due_runs(
                    id_,
                    Epoch(interval_ms=interval, phase_ms=phase, first_slot=first, to=to),
                    after,
                    until,
                )
            ]


#: The due slots of (after, until] as `slots.Epoch.due` has them, less those with a row and those
#: in a gap record, gathered into runs. The bounds on h.time let chunks be passed over.
_MISSING = """
WITH epoch AS (
    SELECT id, subscription_id, interval_ms::bigint AS step, first_slot,
           least(%(until)s, coalesce(end_slot - 1, %(until)s)) AS upper,
           greatest(%(after)s, first_slot) + interval_ms
             - mod(mod(greatest(%(after)s, first_slot) - phase_ms, interval_ms) + interval_ms,
                   interval_ms) AS lower
      FROM schedule_epochs
     WHERE first_slot <= %(until)s AND (end_slot IS NULL OR end_slot > %(after)s)
), due AS (
    SELECT id, subscription_id, step, generate_series(lower, upper, step) AS slot FROM epoch
    UNION ALL
    SELECT id, subscription_id, step, first_slot FROM epoch
     WHERE first_slot > %(after)s AND first_slot <= upper
), missing AS (
    SELECT due.*, slot - step * row_number() OVER (PARTITION BY id ORDER BY slot) AS island
      FROM due
     WHERE NOT EXISTS (
               SELECT FROM check_history h
                WHERE h.subscription_id = due.subscription_id
                  AND h.time = timestamptz 'epoch' + due.slot * interval '1 ms'
                  AND h.time > %(after_t)s AND h.time <= %(until_t)s)
       AND NOT EXISTS (
               SELECT FROM history_gaps g
                WHERE g.subscription_id = due.subscription_id
                  AND g.first_slot <= due.slot AND g.last_slot >= due.slot
                  AND (due.slot - g.first_slot) %% g.interval_ms = 0)
)
SELECT subscription_id, min(slot), step, count(*)
  FROM missing GROUP BY id, subscription_id, step, island
"""


async def _missing_runs(conn: Connection, after: int, until: int) -> list[Run]:
    cursor = await conn.execute(_MISSING, _bounds(after, until))
    return [
        Run(subscription_id=row[0], first=row[1], interval_ms=row[2], count=row[3])
        for row in await cursor.fetchall()
    ]


_CONTINUED = """
SELECT r.id, r.first
  FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[]) AS r (id, first, step)
  JOIN history_gaps g ON g.subscription_id = r.id AND g.interval_ms = r.step
                     AND g.last_slot = r.first - r.step
"""

#: Only a run whose sixtieth predecessor is a missed row is worth counting the others for.
_FOLLOWING = """
SELECT r.id, r.first
  FROM unnest(%(ids)s::uuid[], %(firsts)s::bigint[], %(steps)s::bigint[]) AS r (id, first, step)
 CROSS JOIN LATERAL (
       SELECT timestamptz 'epoch' + r.first * interval '1 ms' AS until,
              timestamptz 'epoch' + (r.first - %(rows)s * r.step) * interval '1 ms' AS since
       ) t
 WHERE EXISTS (
           SELECT FROM check_history h
            WHERE h.subscription_id = r.id AND h.time = t.since AND h.status = 'missed')
   AND %(rows)s = (
           SELECT count(*) FROM check_history h
            WHERE h.subscription_id = r.id AND h.time >= t.since AND h.time < t.until
              AND h.status = 'missed'
              AND (extract(epoch FROM t.until - h.time) * 1000)::bigint %% r.step = 0)
"""


async def _tell(conn: Connection, runs: Sequence[Run], horizon: int) -> list[tuple[Run, Told]]:
    if not runs:
        return []
    columns = _columns(runs)
    cursor = await conn.execute(_CONTINUED, columns[:3])
    continued = set(await cursor.fetchall())
    cursor = await conn.execute(
        _FOLLOWING,
        {
            "ids": columns[0],
            "firsts": columns[1],
            "steps": columns[2],
            "rows": gaps.LONGEST_IN_ROWS,
        },
    )
    following = set(await cursor.fetchall())
    return [
        (
            run,
            gaps.tell(
                run,
                continues=(run.subscription_id, run.first) in continued,
                follows_rows=(run.subscription_id, run.first) in following,
                horizon=horizon,
            ),
        )
        for run in runs
    ]


def _columns(runs: Sequence[Run]) -> tuple[list[UUID], list[int], list[int], list[int]]:
    return (
        [run.subscription_id for run in runs],
        [run.first for run in runs],
        [run.interval_ms for run in runs],
        [run.count for run in runs],
    )


async def _write(
    conn: Connection, told: Sequence[tuple[Run, Told]], done: SweepReport
) -> SweepReport:
    in_rows = [run for run, how in told if how is Told.ROWS]
    new = [run for run, how in told if how is Told.GAP]
    longer = [run for run, how in told if how is Told.EXTENDS]
    if longer:
        await conn.execute(_EXTEND_GAPS, _columns(longer))
    await _insert_gaps(conn, new)
    rows = await _insert_missed(conn, in_rows) if in_rows else 0
    return replace(
        done,
        missed_rows=done.missed_rows + rows,
        gap_slots=done.gap_slots + sum(run.count for run in (*new, *longer)),
    )


_EXTEND_GAPS = """
UPDATE history_gaps g
   SET last_slot = r.first + (r.count - 1) * r.step, slots = g.slots + r.count
  FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[]) AS r (id, first, step, count)
 WHERE g.subscription_id = r.id AND g.interval_ms = r.step AND g.last_slot = r.first - r.step
"""


async def _insert_gaps(conn: Connection, runs: Sequence[Run]) -> None:
    if runs:
        await conn.execute(
            "INSERT INTO history_gaps (subscription_id, first_slot, last_slot, interval_ms, slots)"
            " SELECT id, first, first + (count - 1) * step, step, count FROM"
            " unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[])"
            " AS r (id, first, step, count)",
            _columns(runs),
        )


#: The losing branch: a result came meanwhile, and stays. A missed row in a closed bucket marks it
#: dirty by the protocol of rollups.py: in a statement that begins behind the lock.
_INSERT_MISSED = """
WITH missed AS (
    INSERT INTO check_history (time, subscription_id, status, attempts)
    SELECT timestamptz 'epoch' + slot * interval '1 ms', r.id, 'missed', 0
      FROM unnest(%s::uuid[], %s::bigint[], %s::bigint[], %s::bigint[])
        AS r (id, first, step, count)
     CROSS JOIN LATERAL generate_series(first, first + (count - 1) * step, step) AS slot
        ON CONFLICT (subscription_id, time) DO NOTHING
    RETURNING time, subscription_id
), dirty AS (
    INSERT INTO rollup_dirty (hour, subscription_id)
    SELECT DISTINCT date_trunc('hour', time, 'UTC'), subscription_id FROM missed
     WHERE time < (SELECT open_from FROM rollup_state WHERE rollup = 'hourly')
     ORDER BY 1, 2
        ON CONFLICT (hour, subscription_id) DO UPDATE SET hour = excluded.hour
)
SELECT count(*) FROM missed
"""


async def _insert_missed(conn: Connection, runs: Sequence[Run]) -> int:
    await conn.execute("SELECT pg_advisory_xact_lock_shared(%s)", (ROLLUP_LOCK,))
    cursor = await conn.execute(_INSERT_MISSED, _columns(runs))
    row = await cursor.fetchone()
    return row[0] if row else 0
