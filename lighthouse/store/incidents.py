"""Incidents, for readers, and their acknowledgement. They are opened and closed in `announcing`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from lighthouse.errors import NotFoundError, UsageError
from lighthouse.model import AlertType, MonitorType, Severity
from lighthouse.store.events import OLDEST_PENDING
from lighthouse.store.history import target_text
from lighthouse.store.pool import Pool, translated

#: The longest name and note of an acknowledgement.
BY_CHARS, NOTE_CHARS = 100, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A row of `incidents` with what it is of."""

    id: UUID
    subscription_id: UUID
    name: str
    target: str
    kind: AlertType
    severity: Severity  #: the worst that it was
    first_failure_at: datetime
    opened_at: datetime
    closed_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    note: str | None
    evidence: Mapping[str, Any]
    held: str | None  #: why nobody is told yet
    told: int  #: deliveries that arrived
    failed_reason: str | None  #: why nobody was told, where nobody is to be any more


# By idx_incidents_open or idx_incidents_opened_at; what was told by idx_alert_history_incident, of
# those only that are shown: in a great outage many are open.
_INCIDENTS = """
SELECT i.*, a.held, a.told, a.failed_reason
  FROM (
       SELECT i.id, i.subscription_id, s.name, s.target_type, s.target_config, i.kind, i.severity,
              i.first_failure_at, i.opened_at, i.closed_at, i.acknowledged_at, i.acknowledged_by,
              i.note, i.evidence
         FROM incidents i JOIN subscriptions s ON s.id = i.subscription_id
        WHERE {where}
        ORDER BY {order} LIMIT %(limit)s) i
 CROSS JOIN LATERAL (
       SELECT min(held) FILTER (WHERE state = 'pending' AND held <> 'escalation') AS held,
              count(*) FILTER (WHERE sent) AS told,
              CASE WHEN bool_and(state NOT IN ('pending', 'sent'))
                   THEN min(failed_reason) FILTER (WHERE alert_type <> 'recovery')
                   END AS failed_reason
         FROM alert_history h
        WHERE h.incident_id = i.id AND h.time >= i.opened_at
          AND h.subscription_id = i.subscription_id) a
 ORDER BY {order}
"""
_OPEN = _INCIDENTS.format(
    where="i.closed_at IS NULL AND s.status = 'active'"
    " AND (%(subscription_id)s::uuid IS NULL OR i.subscription_id = %(subscription_id)s)",
    order="i.severity DESC, i.opened_at",
)
_ALL = _INCIDENTS.format(
    where="i.opened_at > now() - make_interval(days => %(days)s)"
    " AND (%(subscription_id)s::uuid IS NULL OR i.subscription_id = %(subscription_id)s)",
    order="i.opened_at DESC",
)
_ONE = _INCIDENTS.format(where="i.id = %(id)s", order="i.id")

# The losing branch: it was acknowledged before, by whom it stays; or it is over.
_ACKNOWLEDGE = """
UPDATE incidents SET acknowledged_at = clock_timestamp(), acknowledged_by = %(by)s, note = %(note)s
 WHERE id = %(id)s AND acknowledged_at IS NULL AND closed_at IS NULL
RETURNING subscription_id
"""
# What waited for nobody to have seen it ends now, not when its time comes. The bound on `time`
# keeps it to the newest partitions.
_WAKE = f"""
UPDATE alert_history SET next_attempt_at = now()
 WHERE incident_id = %(id)s AND subscription_id = %(subscription_id)s
   AND time > now() - {OLDEST_PENDING} AND state = 'pending'
   AND (held = 'escalation' OR context ? 'reminder')
   AND (lease_until IS NULL OR lease_until < now())
"""  # noqa: S608 - a constant of this program


async def open_incidents(
    pool: Pool, limit: int = 100, *, subscription_id: UUID | None = None
) -> list[Incident]:
    """What is wrong now with what is watched, the worst and longest first."""
    return await _read(pool, _OPEN, {"limit": limit, "subscription_id": subscription_id})


async def latest_incidents(
    pool: Pool, limit: int = 100, *, days: int = 30, subscription_id: UUID | None = None
) -> list[Incident]:
    """What began in the last `days` days, over or not, newest first."""
    return await _read(
        pool, _ALL, {"limit": limit, "days": days, "subscription_id": subscription_id}
    )


async def get_incident(pool: Pool, incident_id: UUID) -> Incident:
    """One incident. Raises NotFoundError."""
    found = await _read(pool, _ONE, {"id": incident_id, "limit": 1})
    if not found:
        raise NotFoundError(f"no incident {incident_id}")
    return found[0]


async def acknowledge(
    pool: Pool, incident_id: UUID, *, by: str | None = None, note: str | None = None
) -> None:
    """Somebody is at work on it: no reminder and no escalation follows.

    Raises NotFoundError, and UsageError when it is over or was acknowledged before.
    """
    for name, text, limit in (("by", by, BY_CHARS), ("note", note, NOTE_CHARS)):
        if text is not None and (len(text) > limit or not text.replace("\n", " ").isprintable()):
            raise UsageError(f"{name}: at most {limit} printable characters")
    values = {"id": incident_id, "by": by, "note": note}
    with translated():
        async with pool.connection() as conn, conn.transaction():
            cursor = await conn.execute(_ACKNOWLEDGE, values)
            if row := await cursor.fetchone():
                await conn.execute(_WAKE.encode(), {"id": incident_id, "subscription_id": row[0]})
                return
    found = await get_incident(pool, incident_id)
    if found.closed_at is not None:
        raise UsageError(
            f"incident {incident_id} is over since {found.closed_at:%Y-%m-%d %H:%M} UTC"
        )
    by_whom = f" by {found.acknowledged_by}" if found.acknowledged_by else ""
    raise UsageError(f"incident {incident_id} has been acknowledged{by_whom}")


async def _read(pool: Pool, query: str, values: dict[str, Any]) -> list[Incident]:
    with translated():
        async with pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(query.encode(), values)
            rows = await cursor.fetchall()
    return [
        Incident(
            target=target_text(MonitorType(row.pop("target_type")), row.pop("target_config")),
            kind=AlertType(row.pop("kind")),
            severity=Severity(row.pop("severity")),
            **row,
        )
        for row in rows
    ]
