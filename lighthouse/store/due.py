"""Due deliveries, claimed under leases, with what is true of each (lighthouse.telling).

A row of `alert_history` is one event on its way to one channel. Whoever claims it holds its lease's
token; `outbox` has what is done with it then. All times that decide are PostgreSQL's.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from lighthouse.alerting import stored_alerting
from lighthouse.model import (
    OPERATOR,
    AlertType,
    Channel,
    ChannelType,
    Circumstances,
    Delivery,
    Severity,
    to_slot,
)
from lighthouse.store.events import OLDEST_PENDING
from lighthouse.store.pool import Pool, translated
from lighthouse.verdict import calm_ms

#: What is no news of a target itself: neither maintenance nor a parent holds it.
_UNHELD = (AlertType.RECOVERY, AlertType.OPERATOR, AlertType.SUMMARY)
#: Seconds that an alert waits for a parent's first check after its child's failure, and for the
#: child's first check after its parent's recovery: both mostly change what is to be told.
PARENT_S = 150

# Found by idx_alert_history_pending. SKIP LOCKED leaves what another courier is claiming to it; a
# row whose lease has run out is claimed again, because its courier died between claim and mark.
# What is true of each (lighthouse.telling) is read with it, all of it by primary keys and
# idx_maintenance_windows_user.
# Channels of full services are looked up by their primary key, and only when there are any.
_CLAIM = f"""
WITH due AS (
    SELECT event_id, channel_id, time FROM alert_history
     WHERE state = 'pending' AND next_attempt_at <= now()
       AND (lease_until IS NULL OR lease_until < now())
       AND channel_id <> ALL(%(busy)s::uuid[])
       AND (cardinality(%(full)s::text[]) = 0 OR coalesce((
             SELECT c.channel_type::text <> ALL(%(full)s::text[]) FROM alert_channels c
              WHERE c.id = alert_history.channel_id), true))
       AND time > now() - {OLDEST_PENDING}
     ORDER BY next_attempt_at
     LIMIT %(limit)s
       FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE alert_history a
       SET lease_until = now() + make_interval(secs => %(lease_s)s),
           lease_token = gen_random_uuid(),
           attempt = least(a.attempt + 1, 32767)
      FROM due
     WHERE a.event_id = due.event_id AND a.channel_id = due.channel_id AND a.time = due.time
       AND a.time > now() - {OLDEST_PENDING}
 RETURNING a.*
)
SELECT a.event_id, a.channel_id, a.time, a.subscription_id, a.alert_type, a.severity, a.title,
       a.message, a.context, a.attempt, a.lease_token, a.created_at, a.held, a.incident_id,
       extract(epoch FROM now() - coalesce((a.tries->0->>'at')::timestamptz, now()))::float8
           AS age_s,
       now() AS now, s.name AS subscription_name, s.status IN ('active', 'paused') AS watched,
       s.status = 'paused' AS paused, s.alerting,
       s.check_interval_seconds, i.opened_at, i.closed_at IS NOT NULL AS closed,
       i.acknowledged_at IS NOT NULL AS acknowledged, st.since,
       c.id AS found_id, c.channel_type, c.channel_config, c.enabled, c.min_severity,
       c.metadata AS channel_metadata, c.escalate_after_s,
       (SELECT max(w.ends_at) FROM maintenance_windows w
         WHERE w.user_id = s.user_id AND coalesce(w.subscription_id, s.id) = s.id
           AND w.starts_at <= now() AND w.ends_at > now()) AS maintenance_until,
       (SELECT min(p.name) FROM subscription_parents sp
          JOIN subscriptions p ON p.id = sp.parent_id AND p.status = 'active'
          JOIN subscription_state ps ON ps.subscription_id = p.id AND ps.verdict = 'down'
         WHERE sp.subscription_id = s.id) AS down_parent,
       i.id IS NOT NULL AND EXISTS (
           SELECT FROM subscription_parents sp
             JOIN subscriptions p ON p.id = sp.parent_id AND p.status = 'active'
             JOIN subscription_state ps ON ps.subscription_id = p.id
            WHERE sp.subscription_id = s.id AND (
                  (a.created_at > now() - interval '{PARENT_S} s' AND NOT EXISTS (
                      SELECT FROM check_history h
                       WHERE h.subscription_id = p.id AND h.time > i.first_failure_at
                         AND h.status IN ('success', 'failure', 'timeout')))
               OR (ps.since > i.opened_at AND ps.since > now() - interval '{PARENT_S} s'
                   AND NOT EXISTS (
                      SELECT FROM check_history h
                       WHERE h.subscription_id = s.id AND h.time > ps.since
                         AND h.status IN ('success', 'failure', 'timeout'))))) AS unsure_parent,
       EXISTS (SELECT FROM alert_budgets b
                WHERE b.owner_id IN (s.id, s.user_id) AND b.hour = date_trunc('hour', now(), 'UTC')
                  AND b.withheld > 0) AS limited
  FROM claimed a
  LEFT JOIN alert_channels c ON c.id = a.channel_id
  LEFT JOIN subscriptions s ON s.id = a.subscription_id
  LEFT JOIN subscription_state st ON st.subscription_id = a.subscription_id
  LEFT JOIN incidents i ON i.id = a.incident_id
 ORDER BY a.time, a.created_at
"""  # noqa: S608


async def claim(
    pool: Pool,
    limit: int,
    lease_s: float,
    busy: Sequence[UUID] = (),
    full: Sequence[str] = (),
) -> list[Delivery]:
    """Take up to `limit` due deliveries for `lease_s` seconds, the oldest event first.

    `busy` names channels, `full` channel types to leave alone for now. Each delivery must be marked
    with one of the functions below before its lease runs out; otherwise somebody else gets it.
    """
    with translated():
        async with pool.connection() as connection, connection.cursor(row_factory=dict_row) as cur:
            await cur.execute(
                _CLAIM,
                {"limit": limit, "lease_s": lease_s, "busy": list(busy), "full": list(full)},
            )
            return [_delivery(row) for row in await cur.fetchall()]


def _delivery(row: dict[str, Any]) -> Delivery:
    channel = None
    if row["found_id"] is not None:
        channel = Channel(
            id=row["found_id"],
            subscription_id=row["subscription_id"],
            channel_type=ChannelType(row["channel_type"]),
            channel_config=row["channel_config"],
            enabled=row["enabled"],
            min_severity=Severity(row["min_severity"]),
            metadata=row["channel_metadata"],
        )
    return Delivery(
        event_id=row["event_id"],
        channel_id=row["channel_id"],
        slot=to_slot(row["time"]),
        subscription_id=row["subscription_id"],
        subscription_name=row["subscription_name"] or "",
        alert_type=AlertType(row["alert_type"]),
        severity=Severity(row["severity"]),
        title=row["title"],
        message=row["message"],
        context=row["context"],
        attempt=row["attempt"],
        lease_token=row["lease_token"],
        created_at=row["created_at"],
        age_s=row["age_s"],
        channel=channel,
        circumstances=_circumstances(row),
        incident_id=row["incident_id"],
        opened_at=row["opened_at"],
    )


def _circumstances(row: dict[str, Any]) -> Circumstances:
    alert, context = AlertType(row["alert_type"]), row["context"]
    return Circumstances(
        now=row["now"],
        created_at=row["created_at"],
        held=row["held"],
        holdable=row["subscription_id"] != OPERATOR and alert not in _UNHELD,
        begins=row["incident_id"] is not None and alert is not AlertType.RECOVERY,
        reminder="reminder" in context,
        reminds="remind_every_s" in (row["alerting"] or {}),
        escalates=bool(row["escalate_after_s"]),
        uncertain=row["attempt"] > 1,
        closed=row["closed"],
        acknowledged=row["acknowledged"],
        watched=bool(row["watched"]),
        paused=bool(row["paused"]),
        maintenance_until=row["maintenance_until"],
        down_parent=row["down_parent"],
        unsure_parent=row["unsure_parent"],
        changed_since=row["since"] is not None and row["since"] > row["time"],
        still_until=_still_until(row) if context.get("flapping") else None,
        limited=row["limited"],
    )


def _still_until(row: dict[str, Any]) -> datetime | None:
    """Until when a flapping target must hold still; None where that matters no more."""
    flapping = stored_alerting(row["alerting"] or {}).flapping
    if flapping is None or row["since"] is None:
        return None
    calm = calm_ms(flapping, (row["check_interval_seconds"] or 0) * 1000)
    until: datetime = row["since"] + timedelta(milliseconds=calm)
    return until
