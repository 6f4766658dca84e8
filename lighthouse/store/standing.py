"""How the fleet stands, as far as PostgreSQL knows: what is down, unknown and unaccounted for."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from lighthouse.model import MonitorType, from_slot
from lighthouse.store.events import OLDEST_PENDING
from lighthouse.store.history import STALE_AFTER, target_text
from lighthouse.store.maintenance import Maintenance, running_windows
from lighthouse.store.pool import Connection, Pool, translated
from lighthouse.store.sweep import WATERMARK
from lighthouse.store.troubles import Down, Trouble, down, troubles

#: The span that coverage is told of.
COVERAGE_SPAN = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """An active subscription of which nothing was judged of late."""

    subscription_id: UUID
    name: str
    target: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A parent that is down, so that its children's alerts are held."""

    subscription_id: UUID
    name: str
    children: int  #: that are watched


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The fleet in figures. Lists are cut at the asked length, counts are not."""

    now: datetime
    subscriptions: dict[str, int]  #: number in each status
    verdicts: dict[str, int]  #: number of active ones of each verdict
    down: list[Down]
    troubles: list[Trouble]  #: slow, low on balance, flapping or uncovered
    trouble_counts: dict[str, int]  #: number of each kind
    unknown: list[Unknown]
    unknown_count: int
    maintenance: list[Maintenance]  #: windows that are running
    maintenance_count: int
    holding: list[Holding]
    holding_count: int
    due: int  #: slots due in the hour that ends at `accounted_to`
    judged: int  #: of these, checked with a judgement
    accounted_to: datetime | None  #: None before the first sweep
    alerts_pending: int  #: held ones too
    alerts_held: dict[str, int]  #: number held for each reason
    alerts_gave_up: int  #: in the last 24 hours

    @property
    def coverage_ratio(self) -> float | None:
        """judged / due; None when nothing was due."""
        return min(1.0, self.judged / self.due) if self.due else None

    @property
    def accounting_lag_s(self) -> float | None:
        """How far the sweep's watermark is behind now, in seconds."""
        return None if self.accounted_to is None else (self.now - self.accounted_to).total_seconds()


#: Never judged, or not for two slots and the time that a check may take. One descent of the primary
#: key a subscription; the upper bound spares those of partitions that are yet to be filled.
_UNKNOWN = """
SELECT s.id, s.name, s.target_type, s.target_config, count(*) OVER () AS total,
       coalesce(h.time, s.activated_at, s.created_at) AS since
  FROM subscriptions s
  LEFT JOIN LATERAL (
       SELECT h.time FROM check_history h
        WHERE h.subscription_id = s.id AND h.status IN ('success', 'failure', 'timeout')
          AND h.time > now() - interval '8 days' AND h.time < now() + interval '1 hour'
        ORDER BY h.time DESC LIMIT 1) h ON true
 WHERE s.status = 'active'
   AND (h.time IS NULL OR h.time < clock_timestamp() - %(stale)s::interval
                                    - 2 * s.check_interval_seconds * interval '1 s')
 ORDER BY since LIMIT %(limit)s
"""

#: How many slots were due, by the arithmetic of slots.Epoch.count, without walking them.
_DUE = """
SELECT coalesce(sum(
         (first_slot > %(after)s AND first_slot <= upper)::int
         + greatest(0, (upper - lower + interval_ms) / interval_ms)), 0)::bigint
  FROM (
    SELECT first_slot, interval_ms::bigint,
           least(%(until)s, coalesce(end_slot - 1, %(until)s)) AS upper,
           greatest(%(after)s, first_slot) + interval_ms
             - mod(greatest(%(after)s, first_slot) - phase_ms, interval_ms) AS lower
      FROM schedule_epochs
     WHERE first_slot <= %(until)s AND (end_slot IS NULL OR end_slot > %(after)s)) e
"""

_JUDGED = """
SELECT count(*) FROM check_history
 WHERE time > %(after_t)s AND time <= %(until_t)s AND status IN ('success', 'failure', 'timeout')
"""

# The newest partitions of alert_history only: nothing pending is older, and what is given up was
# pending until then.
# What was given up is found by idx_alert_history_gave_up, what waits by idx_alert_history_pending.
_FIGURES = f"""
SELECT clock_timestamp(),
       (SELECT (value->>'slot')::bigint FROM fleet_state WHERE key = %(watermark)s),
       (SELECT jsonb_object_agg(status, n) FROM (
            SELECT status, count(*) AS n FROM subscriptions GROUP BY status) c),
       (SELECT jsonb_object_agg(verdict, n) FROM (
            SELECT st.verdict, count(*) AS n FROM subscription_state st
              JOIN subscriptions s ON s.id = st.subscription_id AND s.status = 'active'
             GROUP BY st.verdict) c),
       (SELECT jsonb_object_agg(held, n) FROM (
            SELECT coalesce(held, '') AS held, count(*) AS n FROM alert_history
             WHERE state = 'pending' AND time > now() - {OLDEST_PENDING}
             GROUP BY 1) c),
       (SELECT count(*) FROM alert_history
         WHERE state = 'gave_up' AND time > now() - {OLDEST_PENDING}
           AND (tries->-1->>'at')::timestamptz > now() - interval '24 hours')
"""  # noqa: S608 - a constant of this program

# By idx_subscription_parents_parent_id, for the few that are down.
_HOLDING = """
SELECT p.id, p.name, count(*) AS children, count(*) OVER () AS total
  FROM subscription_state ps
  JOIN subscriptions p ON p.id = ps.subscription_id AND p.status = 'active'
  JOIN subscription_parents sp ON sp.parent_id = p.id
  JOIN subscriptions s ON s.id = sp.subscription_id AND s.status = 'active'
 WHERE ps.verdict = 'down'
 GROUP BY p.id, p.name ORDER BY children DESC, p.name, p.id LIMIT %(limit)s
"""


async def standing(pool: Pool, limit: int = 20) -> Standing:
    """The whole, with at most `limit` entries in each list."""
    values: dict[str, Any] = {"limit": limit, "stale": STALE_AFTER, "watermark": WATERMARK}
    with translated():
        async with pool.connection() as conn:
            figures = await (await conn.execute(_FIGURES, values)).fetchone()
            assert figures is not None  # noqa: S101 - a SELECT without FROM has one row
            now, slot, statuses, verdicts, pending, gave_up = figures
            accounted_to = None if slot is None else from_slot(slot)
            due = judged = 0
            if accounted_to is not None:
                after = accounted_to - COVERAGE_SPAN
                values |= {
                    "until": slot,
                    "after": slot - COVERAGE_SPAN // timedelta(milliseconds=1),
                }
                values |= {"until_t": accounted_to, "after_t": after}
                due = await _number(conn, _DUE, values)
                judged = await _number(conn, _JUDGED, values)
            unknown = await _rows(conn, _UNKNOWN, values)
            holding = await _rows(conn, _HOLDING, values)
            found_down = await down(conn, limit)
            troubled, counts = await troubles(conn, limit)
            windows = await running_windows(conn)
    waiting: dict[str, int] = pending or {}
    return Standing(
        now=now,
        subscriptions=statuses or {},
        verdicts=verdicts or {},
        down=found_down,
        troubles=troubled,
        trouble_counts=counts,
        unknown=[
            Unknown(
                subscription_id=row["id"],
                name=row["name"],
                target=target_text(MonitorType(row["target_type"]), row["target_config"]),
                since=row["since"],
            )
            for row in unknown
        ],
        unknown_count=unknown[0]["total"] if unknown else 0,
        maintenance=windows[:limit],
        maintenance_count=len(windows),
        holding=[
            Holding(subscription_id=row["id"], name=row["name"], children=row["children"])
            for row in holding
        ],
        holding_count=holding[0]["total"] if holding else 0,
        due=due,
        judged=judged,
        accounted_to=accounted_to,
        alerts_pending=sum(waiting.values()),
        alerts_held={why: number for why, number in waiting.items() if why},
        alerts_gave_up=gave_up,
    )


async def _rows(conn: Connection, query: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchall()


async def _number(conn: Connection, query: str, values: dict[str, Any]) -> int:
    row = await (await conn.execute(query.encode(), values)).fetchone()
    assert row is not None  # noqa: S101 - an aggregate always has its row
    return int(row[0])
