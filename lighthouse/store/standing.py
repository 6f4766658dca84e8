"""How the fleet stands, as far as PostgreSQL knows: what is down, unknown and unaccounted for."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from lighthouse.model import MonitorType, from_slot
from lighthouse.store.history import STALE_AFTER, target_text
from lighthouse.store.pool import Pool, translated
from lighthouse.store.sweep import WATERMARK

#: The span that coverage is told of.
COVERAGE_SPAN = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A subscription that is down, and why."""

    subscription_id: UUID
    name: str
    target: str
    since: datetime
    status: str | None  #: of the latest judged check: failure or timeout
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """An active subscription of which nothing was judged of late."""

    subscription_id: UUID
    name: str
    target: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The fleet in figures. Lists are cut at the asked length, counts are not."""

    now: datetime
    subscriptions: dict[str, int]  #: number in each status
    verdicts: dict[str, int]  #: number of active ones of each verdict
    down: list[Incident]
    unknown: list[Unknown]
    unknown_count: int
    due: int  #: slots due in the hour that ends at `accounted_to`
    judged: int  #: of these, checked with a judgement
    accounted_to: datetime | None  #: None before the first sweep
    alerts_pending: int

    @property
    def coverage_ratio(self) -> float | None:
        """judged / due; None when nothing was due."""
        return min(1.0, self.judged / self.due) if self.due else None

    @property
    def accounting_lag_s(self) -> float | None:
        """How far the sweep's watermark is behind now, in seconds."""
        return None if self.accounted_to is None else (self.now - self.accounted_to).total_seconds()


_DOWN = """
SELECT s.id, s.name, s.target_type, s.target_config, st.since, h.status, h.error_code,
       h.error_message
  FROM subscription_state st JOIN subscriptions s ON s.id = st.subscription_id
  LEFT JOIN LATERAL (
       SELECT * FROM check_history h
        WHERE h.subscription_id = s.id AND h.time >= st.since AND h.status IN ('failure', 'timeout')
        ORDER BY h.time DESC LIMIT 1) h ON true
 WHERE st.verdict = 'down' AND s.status = 'active'
 ORDER BY st.since LIMIT %(limit)s
"""

#: Never judged, or not for two slots and the time that a check may take.
_UNKNOWN = """
SELECT s.id, s.name, s.target_type, s.target_config, count(*) OVER () AS total,
       coalesce(h.time, s.activated_at, s.created_at) AS since
  FROM subscriptions s
  LEFT JOIN LATERAL (
       SELECT h.time FROM check_history h
        WHERE h.subscription_id = s.id AND h.status IN ('success', 'failure', 'timeout')
          AND h.time > now() - interval '8 days'
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

_FIGURES = """
SELECT clock_timestamp(),
       (SELECT (value->>'slot')::bigint FROM fleet_state WHERE key = %(watermark)s),
       (SELECT count(*) FROM alert_history WHERE state = 'pending'),
       (SELECT jsonb_object_agg(status, n) FROM (
            SELECT status, count(*) AS n FROM subscriptions GROUP BY status) c),
       (SELECT jsonb_object_agg(verdict, n) FROM (
            SELECT st.verdict, count(*) AS n FROM subscription_state st
              JOIN subscriptions s ON s.id = st.subscription_id AND s.status = 'active'
             GROUP BY st.verdict) c)
"""


async def standing(pool: Pool, limit: int = 20) -> Standing:
    """The whole, with at most `limit` targets in each list."""
    values: dict[str, Any] = {"limit": limit, "stale": STALE_AFTER, "watermark": WATERMARK}
    with translated():
        async with pool.connection() as conn:
            figures = await (await conn.execute(_FIGURES, values)).fetchone()
            assert figures is not None  # noqa: S101 - a SELECT without FROM has one row
            now, slot, pending, statuses, verdicts = figures
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
            async with conn.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(_UNKNOWN, values)
                unknown = await cursor.fetchall()
    return Standing(
        now=now,
        subscriptions=statuses or {},
        verdicts=verdicts or {},
        down=await incidents(pool, limit),
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
        due=due,
        judged=judged,
        accounted_to=accounted_to,
        alerts_pending=pending,
    )


async def incidents(pool: Pool, limit: int = 100) -> list[Incident]:
    """What is down now, the longest first."""
    with translated():
        async with pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_DOWN, {"limit": limit})
            rows = await cursor.fetchall()
    return [
        Incident(
            subscription_id=row["id"],
            name=row["name"],
            target=target_text(MonitorType(row["target_type"]), row["target_config"]),
            since=row["since"],
            status=row["status"],
            error_code=row["error_code"],
            error_message=row["error_message"],
        )
        for row in rows
    ]


async def _number(conn: Any, query: str, values: dict[str, Any]) -> int:
    row = await (await conn.execute(query, values)).fetchone()
    return int(row[0])
