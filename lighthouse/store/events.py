"""Events of the outbox: what somebody is to hear of, written in the transaction that makes it.

A row of `alert_history` is one event on its way to one channel. Which channels hear of it is
decided here, whether it may be told yet when it is due (lighthouse.telling).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb

from lighthouse.model import (
    EVENT_NAMESPACE,
    NO_CHANNEL,
    OPERATOR,
    AlertType,
    Severity,
    event_id,
    from_slot,
    storable,
)
from lighthouse.store.pool import Connection

#: Nothing pending is older: results come up to 7 days late, an alert is held for 7 more and tried
#: for one. As a bound on `time` it keeps every query to the newest partitions.
OLDEST_PENDING = "interval '16 days'"
#: The longest title and message that are kept.
TITLE_CHARS = 300
MESSAGE_CHARS = 2000
#: First key of the advisory locks that make operator events single.
OPERATOR_LOCK = 0x4C48
#: Later than anything: no row is as new.
_NEVER = datetime.max.replace(tzinfo=UTC)
#: `alert_history.failed_reason` of what an hour's limit withheld.
WITHHELD = "more alerts than the limit of an hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that somebody is to hear of."""

    subscription_id: UUID
    slot: int  #: of the check that made the event, ms since the epoch
    alert_type: AlertType
    severity: Severity
    title: str
    message: str
    context: Mapping[str, Any] = field(default_factory=dict)  #: facts for templates, JSON values
    about: AlertType = AlertType.DOWNTIME  #: tells recoveries of one slot apart
    incident_id: UUID | None = None  #: of which it tells; the id of the event that opens it
    opened_at: datetime | None = None  #: of the incident
    closes: bool = False  #: it ends the incident: for whom its beginning was told or is on its way
    withheld: bool = False  #: the hour's limit is reached: kept, not told

    @property
    def id(self) -> UUID:
        """The same for every worker that sees the same transition."""
        return event_id(self.subscription_id, self.slot, self.alert_type, self.about)


# Runs inside the recorder's transaction, which holds the subscriptions' state rows: nobody else
# writes these events. Channels come by idx_alert_channels_subscription, unlocked: one that goes
# meanwhile is met again at delivery. An event that has rows already gets no further ones, even
# if channels were added since. Who was told of an incident is found by idx_alert_history_incident.
# The constants beside the joins keep both to few chunks: else each event would read, and where they
# are compressed unpack, the history of a year.
_ENQUEUE = f"""
WITH event AS (
    SELECT e.* FROM jsonb_to_recordset(%(events)s) AS e (
           event_id uuid, subscription_id uuid, time timestamptz, alert_type alert_type,
           severity alert_severity, title text, message text, context jsonb, incident_id uuid,
           opened_at timestamptz, closes boolean, withheld boolean)
     WHERE NOT EXISTS (
           SELECT FROM alert_history h
            WHERE h.event_id = e.event_id AND h.time = e.time
              AND h.time BETWEEN %(first)s AND %(last)s)
), wanted AS (
    SELECT e.event_id, c.id AS channel_id, c.escalate_after_s
      FROM event e JOIN alert_channels c ON c.subscription_id = e.subscription_id
     WHERE NOT e.closes AND c.enabled AND c.min_severity <= e.severity
       AND (c.escalate_after_s = 0 OR e.incident_id IS NOT NULL)
     UNION
    SELECT e.event_id, h.channel_id, 0
      FROM event e JOIN alert_history h ON h.incident_id = e.incident_id AND h.time >= e.opened_at
       AND h.time >= %(opened)s AND h.subscription_id = ANY(%(closing)s::uuid[])
     WHERE e.closes AND h.state IN ('pending', 'sent', 'gave_up')
), rows AS (
    SELECT e.*, w.channel_id,
           CASE WHEN e.withheld THEN 'suppressed' ELSE 'pending' END::delivery_state AS state,
           CASE WHEN e.withheld THEN '{WITHHELD}' END AS failed_reason,
           CASE WHEN NOT e.withheld THEN now() + make_interval(secs => w.escalate_after_s)
                END AS next_attempt_at,
           CASE WHEN w.escalate_after_s > 0 THEN 'escalation' END AS held
      FROM event e JOIN wanted w USING (event_id)
     UNION ALL
    SELECT e.*, %(no_channel)s, 'suppressed',
           CASE WHEN e.closes THEN 'nobody was told that it began' ELSE 'no channel' END, NULL, NULL
      FROM event e WHERE NOT EXISTS (SELECT FROM wanted w WHERE w.event_id = e.event_id)
), written AS (
    INSERT INTO alert_history (
           time, event_id, channel_id, subscription_id, alert_type, severity, title, message,
           context, state, failed_reason, next_attempt_at, related_check_time, incident_id, held)
    SELECT time, event_id, channel_id, subscription_id, alert_type, severity, title, message,
           context, state, failed_reason, next_attempt_at, time, incident_id, held
      FROM rows
        ON CONFLICT DO NOTHING
 RETURNING state
)
SELECT count(*) FILTER (WHERE state = 'pending') FROM written
"""  # noqa: S608 - constants of this program

# In a statement of its own, before the insert's snapshot: of two that raise the same event the
# second one waits here, then sees the first one's rows.
_LOCK_OPERATOR = "SELECT pg_advisory_xact_lock(%s, hashtext(%s))"
_ENQUEUE_OPERATOR = f"""
WITH rows (channel_id, state, failed_reason, next_attempt_at) AS (
    SELECT id, 'pending'::delivery_state, NULL, now() FROM unnest(%(channel_ids)s::uuid[]) AS c (id)
     UNION ALL
    SELECT %(no_channel)s, 'suppressed', 'no channel', NULL
     WHERE cardinality(%(channel_ids)s::uuid[]) = 0
), written AS (
    INSERT INTO alert_history (
           time, event_id, channel_id, subscription_id, alert_type, severity, title, message,
           context, state, failed_reason, next_attempt_at)
    SELECT date_trunc('milliseconds', now()), %(event_id)s, channel_id, %(subscription_id)s,
           %(alert_type)s::alert_type, %(severity)s::alert_severity, %(title)s, %(message)s,
           %(context)s, state, failed_reason, next_attempt_at
      FROM rows
     WHERE NOT EXISTS (
           SELECT FROM alert_history
            WHERE event_id = %(event_id)s AND time > now() - {OLDEST_PENDING})
        ON CONFLICT DO NOTHING
 RETURNING state
)
SELECT count(*) FILTER (WHERE state = 'pending') FROM written
"""  # noqa: S608 - a constant of this program


async def enqueue(connection: Connection, *events: Event) -> int:
    """Write events for each channel that wants them; returns how many deliveries now wait.

    Belongs inside the transaction that makes the events. Safe to repeat. An event that nobody is
    to hear of is stored too, as one suppressed row. psycopg's errors pass: the caller translates.
    """
    if not events:
        return 0
    rows = [
        {
            "event_id": str(event.id),
            "subscription_id": str(event.subscription_id),
            "time": from_slot(event.slot).isoformat(),
            "alert_type": event.alert_type.value,
            "severity": event.severity.value,
            "title": storable(event.title, TITLE_CHARS),
            "message": storable(event.message, MESSAGE_CHARS),
            "context": dict(event.context),
            "incident_id": None if event.incident_id is None else str(event.incident_id),
            "opened_at": None if event.opened_at is None else event.opened_at.isoformat(),
            "closes": event.closes,
            "withheld": event.withheld,
        }
        for event in events
    ]
    times = [event.slot for event in events]
    closing = [event for event in events if event.closes and event.opened_at is not None]
    cursor = await connection.execute(
        _ENQUEUE,
        {
            "events": Jsonb(rows),
            "no_channel": NO_CHANNEL,
            "first": from_slot(min(times)),
            "last": from_slot(max(times)),
            "opened": min((e.opened_at for e in closing if e.opened_at), default=_NEVER),
            "closing": [event.subscription_id for event in closing],
        },
    )
    return await _count(cursor)


async def enqueue_operator(
    connection: Connection,
    channel_ids: Sequence[UUID],
    key: str,
    title: str,
    message: str,
    context: Mapping[str, Any] | None = None,
    severity: Severity = Severity.CRITICAL,
) -> int:
    """Write an event about the fleet itself, once for each `key`; returns how many now wait.

    `key` names the occurrence, such as "queue_full:2026-11-24T03": the same key within 16 days is
    the same event, whichever process raises it. psycopg's errors pass: the caller translates.
    """
    async with connection.transaction():
        await connection.execute(_LOCK_OPERATOR, (OPERATOR_LOCK, key))
        cursor = await connection.execute(
            _ENQUEUE_OPERATOR,
            {
                "event_id": operator_event_id(key),
                "channel_ids": list(channel_ids),
                "subscription_id": OPERATOR,
                "no_channel": NO_CHANNEL,
                "alert_type": AlertType.OPERATOR.value,
                "severity": severity.value,
                "title": storable(title, TITLE_CHARS),
                "message": storable(message, MESSAGE_CHARS),
                "context": Jsonb(dict(context or {})),
            },
        )
        return await _count(cursor)


def operator_event_id(key: str) -> UUID:
    """The identity of an operator event: the same in every process that raises it."""
    return uuid5(EVENT_NAMESPACE, f"operator:{key}")


async def _count(cursor: Any) -> int:
    row = await cursor.fetchone()
    return int(row[0])
