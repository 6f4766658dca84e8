"""Tells of low coverage: whose checks were not made or not judged, hour by hour.

An hour is judged when the sweep has accounted for all of it. Subscriptions with long intervals are
judged over several hours, so that a ratio of one or two checks alarms nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from lighthouse.alerting import DEFAULT
from lighthouse.model import AlertType, Severity, from_slot, to_slot
from lighthouse.store.budgets import Limits, spend
from lighthouse.store.events import Event, enqueue, enqueue_operator
from lighthouse.store.metrics import HOUR, hour_of
from lighthouse.store.pool import Connection, Pool, translated
from lighthouse.store.sweep import WATERMARK

#: Advisory lock of the one that judges an hour.
COVERAGE_LOCK = 0x6C68_636F_7672
#: Key in `fleet_state`: the end of the last hour that was judged.
TOLD = "coverage_told"
#: Due checks that a judgement wants at least, by the interval alone.
FEWEST_DUE = 4
#: Checks that must be unjudged: one that failed to be made is no news.
FEWEST_LOST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was told of an hour."""

    low: int = 0  #: subscriptions whose coverage has become too low
    enough: int = 0  #: those that have enough again


# The hour's rollup rows, one a subscription; longer spans for those that are seldom checked only.
_CHANGED = f"""
WITH wanted AS (
    SELECT s.id, s.user_id, s.name, s.target_type::text AS target_type, st.uncovered_since,
           coalesce((s.alerting->>'min_coverage')::float8, {DEFAULT.min_coverage}) AS minimum,
           %(until)s - make_interval(hours =>
               greatest(1, ceil({FEWEST_DUE} * s.check_interval_seconds / 3600.0)::int)) AS since
      FROM subscriptions s JOIN subscription_state st ON st.subscription_id = s.id
     WHERE s.status = 'active'
       AND (s.check_interval_seconds <= 3600 / {FEWEST_DUE}) = %(often)s
), counted AS (
    SELECT w.*, m.due, m.judged
      FROM wanted w JOIN (
           SELECT m.subscription_id, w.since, sum(m.total_checks) AS due,
                  sum(m.successful_checks + m.failures + m.timeouts) AS judged
             FROM hourly_metrics m JOIN wanted w ON w.id = m.subscription_id AND m.hour >= w.since
            WHERE m.hour >= %(earliest)s AND m.hour < %(until)s
            GROUP BY 1, 2) m ON m.subscription_id = w.id
)
SELECT id, user_id, name, target_type, uncovered_since IS NOT NULL, since, due, judged, minimum
  FROM counted
 WHERE due > 0 AND CASE WHEN uncovered_since IS NULL
            THEN judged < minimum * due AND due - judged >= {FEWEST_LOST}
            ELSE judged >= minimum * due END
 ORDER BY id
"""  # noqa: S608 - constants of this program

# In the order of their ids and before all budgets, as recorders lock them.
_LOCK = """
SELECT FROM subscription_state WHERE subscription_id = ANY(%s) ORDER BY subscription_id FOR UPDATE
"""
# The losing branch: another run has told of this one.
_SET = """
UPDATE subscription_state SET uncovered_since = CASE WHEN %(low)s THEN %(until)s::timestamptz END
 WHERE subscription_id = ANY(%(ids)s) AND (uncovered_since IS NULL) = %(low)s
RETURNING subscription_id
"""


async def tell_coverage(pool: Pool, operators: Sequence[UUID], limits: Limits) -> Told:
    """Judge the last whole hour that is accounted for, once; what was told.

    Safe to run twice or at once. `operators` are the operator's channels. Raises StoreError.
    """
    with translated():
        async with pool.connection() as conn, conn.transaction():
            until = await _begin(conn)
            if until is None:
                return Told()
            rows: list[Any] = []
            for often, reach in ((True, HOUR), (False, FEWEST_DUE * timedelta(days=1))):
                cursor = await conn.execute(
                    _CHANGED, {"until": until, "often": often, "earliest": until - reach}
                )
                rows += await cursor.fetchall()
            told = await _tell(conn, sorted(rows, key=lambda row: row[4]), until, limits)
            if told.low:
                await _tell_operator(conn, operators, until, told.low)
            await conn.execute(
                "INSERT INTO fleet_state (key, value, updated_at) VALUES (%s, %s, now())"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = now()",
                (TOLD, Jsonb({"slot": to_slot(until)})),
            )
            return told


async def _begin(conn: Connection) -> datetime | None:
    """The end of the hour to be judged; None when there is none or another run is at it."""
    cursor = await conn.execute("SELECT pg_try_advisory_xact_lock(%s)", (COVERAGE_LOCK,))
    locked = await cursor.fetchone()
    if locked is None or not locked[0]:
        return None
    cursor = await conn.execute(
        "SELECT key, (value->>'slot')::bigint FROM fleet_state WHERE key IN (%s, %s)",
        (WATERMARK, TOLD),
    )
    marks = dict(await cursor.fetchall())
    if marks.get(WATERMARK) is None:
        return None
    until = hour_of(from_slot(marks[WATERMARK]))
    told = marks.get(TOLD)
    return None if told is not None and told >= to_slot(until) else until


async def _tell(conn: Connection, rows: Sequence[Any], until: datetime, limits: Limits) -> Told:
    if not rows:
        return Told()
    await conn.execute(_LOCK, ([row[0] for row in rows],))
    mine: set[UUID] = set()
    for low in (True, False):
        ids = [row[0] for row in rows if row[4] is not low]
        cursor = await conn.execute(_SET, {"low": low, "until": until, "ids": ids})
        mine.update(row[0] for row in await cursor.fetchall())
    rows = [row for row in rows if row[0] in mine]
    spent = await spend(conn, [(row[0], row[1]) for row in rows], limits)
    events = [
        _event(row, until, low=not row[4], withheld=not answer.allowed)
        for row, answer in zip(rows, spent, strict=True)
    ]
    await enqueue(conn, *events)
    enough = sum(row[4] for row in rows)
    return Told(low=len(rows) - enough, enough=enough)


def _event(row: Any, until: datetime, *, low: bool, withheld: bool) -> Event:
    id_, _, name, target_type, _, since, due, judged, minimum = row
    return Event(
        subscription_id=id_,
        slot=to_slot(until),
        alert_type=AlertType.COVERAGE,
        about=AlertType.COVERAGE,
        severity=Severity.WARNING,
        title=f"{name}: coverage {int(judged)} of {int(due)}",
        message="too few checks were made" if low else "enough checks are made again",
        context={
            "name": name,
            "target_type": target_type,
            "about": AlertType.COVERAGE.value,
            "covered": not low,
            "since": since.isoformat(),
            "until": until.isoformat(),
            "due": int(due),
            "judged": int(judged),
            "coverage_ratio": int(judged) / int(due),
            "min_coverage": minimum,
        },
        withheld=withheld,
    )


async def _tell_operator(
    conn: Connection, operators: Sequence[UUID], until: datetime, low: int
) -> None:
    await enqueue_operator(
        conn,
        operators,
        f"coverage:{until:%Y-%m-%dT%H}",
        "Too few checks were made",
        f"In the hour to {until:%Y-%m-%d %H:%M} UTC the coverage of {low} subscriptions fell below"
        " what their owners want. `lighthouse status` tells whether workers are missing.",
        {"subscriptions": low},
        Severity.WARNING,
    )
