"""One summary an hour for what a limit withheld, to each address that would have heard of it."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid5

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from lighthouse.model import EVENT_NAMESPACE, AlertType, Channel, ChannelType, Severity, storable
from lighthouse.store.events import TITLE_CHARS, WITHHELD
from lighthouse.store.pool import Connection, Pool, translated

#: Names that a summary gives of what is still down.
MOST_NAMES = 10

# By idx_alert_budgets_withheld; one user's hour at a time, which no other run holds.
_NEXT = """
SELECT b.owner_id, b.hour FROM alert_budgets b JOIN users u ON u.id = b.owner_id
 WHERE b.withheld > 0 AND NOT b.summarised AND b.hour < date_trunc('hour', now(), 'UTC')
 ORDER BY b.hour LIMIT 1 FOR UPDATE OF b SKIP LOCKED
"""
# By idx_alert_history_subscription. A late result's event is up to 7 days older than its writing.
_ROWS = """
SELECT a.event_id, a.alert_type::text, s.id AS subscription_id, s.name,
       i.id IS NOT NULL AND i.closed_at IS NULL AS going_on,
       c.id, c.channel_type::text, c.channel_config, c.enabled, c.min_severity::text, c.metadata
  FROM subscriptions s
  JOIN alert_history a ON a.subscription_id = s.id
   AND a.time > %(hour)s - interval '8 days' AND a.time < %(hour)s + interval '2 hours'
   AND a.created_at >= %(hour)s AND a.created_at < %(hour)s + interval '1 hour'
   AND a.failed_reason = %(withheld)s
  JOIN alert_channels c ON c.id = a.channel_id AND c.enabled
  LEFT JOIN incidents i ON i.id = a.incident_id AND i.kind = 'downtime'
 WHERE s.user_id = %(owner)s
 ORDER BY c.created_at, c.id
"""
_INSERT = """
INSERT INTO alert_history (
       time, event_id, channel_id, subscription_id, alert_type, severity, title, message, context,
       next_attempt_at)
VALUES (date_trunc('milliseconds', now()), %(event_id)s, %(channel_id)s, %(subscription_id)s,
        'summary', 'warning', %(title)s, %(message)s, %(context)s, now())
    ON CONFLICT DO NOTHING
"""
_DONE = """
UPDATE alert_budgets SET summarised = true
 WHERE owner_id = %s AND hour = %s AND NOT summarised
"""


async def summarise(pool: Pool, address: Callable[[Channel], str]) -> int:
    """Write the summaries of the hours that are over; how many messages now wait.

    `address` tells what leads to the same place: of channels that share it one is written to. Safe
    to run twice or at once. Raises StoreError.
    """
    written = 0
    with translated():
        async with pool.connection() as conn:
            while True:
                async with conn.transaction():
                    row = await (await conn.execute(_NEXT)).fetchone()
                    if row is None:
                        return written
                    written += await _summarise(conn, row[0], row[1], address)
                    await conn.execute(_DONE, (row[0], row[1]))


async def _summarise(
    conn: Connection, owner: Any, hour: datetime, address: Callable[[Channel], str]
) -> int:
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_ROWS, {"owner": owner, "hour": hour, "withheld": WITHHELD})
        rows = await cursor.fetchall()
    places: dict[str, list[dict[str, Any]]] = {}
    known: dict[Any, str] = {}
    for row in rows:
        if row["id"] not in known:
            known[row["id"]] = address(_channel(row))
        places.setdefault(known[row["id"]], []).append(row)
    for told in places.values():
        await conn.execute(_INSERT, _summary(owner, hour, told))
    return len(places)


def _summary(owner: Any, hour: datetime, rows: list[dict[str, Any]]) -> dict[str, Any]:
    events = {row["event_id"]: row for row in rows}.values()
    going_on = sorted({row["name"] for row in events if row["going_on"]})
    count = len(events)
    title = f"{count} more alerts in the hour from {hour:%Y-%m-%d %H:%M} UTC"
    return {
        "event_id": uuid5(EVENT_NAMESPACE, f"summary:{owner}:{hour.isoformat()}"),
        "channel_id": rows[0]["id"],
        "subscription_id": rows[0]["subscription_id"],
        "title": storable(title, TITLE_CHARS),
        "message": "more alerts than the limit of an hour",
        "context": Jsonb(
            {
                "about": AlertType.SUMMARY.value,
                "since": hour.isoformat(),
                "until": (hour + timedelta(hours=1)).isoformat(),
                "count": count,
                "kinds": dict(Counter(row["alert_type"] for row in events).most_common()),
                "still_down": going_on[:MOST_NAMES],
                "still_down_count": len(going_on),
            }
        ),
    }


def _channel(row: dict[str, Any]) -> Channel:
    return Channel(
        id=row["id"],
        subscription_id=row["subscription_id"],
        channel_type=ChannelType(row["channel_type"]),
        channel_config=row["channel_config"],
        enabled=row["enabled"],
        min_severity=Severity(row["min_severity"]),
        metadata=row["metadata"],
    )
