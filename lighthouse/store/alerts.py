"""The delivery record, for readers: what was told to whom, each try and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from lighthouse.model import AlertType, ChannelType, DeliveryState, Severity
from lighthouse.store.events import OLDEST_PENDING
from lighthouse.store.pool import Pool, translated


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One try of a delivery."""

    at: datetime
    ok: bool  #: the service took it
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A row of `alert_history`."""

    time: datetime
    event_id: UUID
    channel_id: UUID
    channel_type: ChannelType | None  #: None when there is or was no such channel
    subscription_id: UUID
    subscription_name: str
    alert_type: AlertType
    severity: Severity
    title: str
    message: str
    context: Mapping[str, Any]
    state: DeliveryState
    sent: bool
    sent_at: datetime | None
    failed_reason: str | None
    related_check_time: datetime | None
    created_at: datetime
    attempt: int
    next_attempt_at: datetime | None
    last_answer: str | None
    incident_id: UUID | None
    held: str | None  #: why it is pending and not told yet
    tries: tuple[Try, ...]  #: the first and the latest, oldest first


_ALERTS = """
SELECT a.time, a.event_id, a.channel_id, c.channel_type, a.subscription_id,
       coalesce(s.name, '') AS subscription_name, a.alert_type, a.severity, a.title, a.message,
       a.context, a.state, a.sent, a.sent_at, a.failed_reason, a.related_check_time,
       a.created_at, a.attempt, a.next_attempt_at, a.last_answer, a.incident_id, a.held, a.tries
  FROM alert_history a
  LEFT JOIN alert_channels c ON c.id = a.channel_id
  LEFT JOIN subscriptions s ON s.id = a.subscription_id
 WHERE {where}
 ORDER BY a.time DESC, a.created_at DESC, a.channel_id
 LIMIT %(limit)s
"""
# By idx_alert_history_subscription.
_ALERTS_OF_ONE = _ALERTS.format(where="a.subscription_id = %(subscription_id)s")
# By idx_alert_history_incident.
_ALERTS_OF_INCIDENT = _ALERTS.format(where="a.incident_id = %(incident_id)s")
# No index leads with the time; the bound keeps the scan to some weeks' partitions.
_ALERTS_OF_ALL = _ALERTS.format(where="a.time > now() - make_interval(days => %(days)s)")

_DUE_COUNT = f"""
SELECT count(*) FROM alert_history
 WHERE state = 'pending' AND next_attempt_at <= now() AND time > now() - {OLDEST_PENDING}
"""  # noqa: S608


async def due_count(pool: Pool) -> int:
    """Deliveries that should have been tried by now, those on their way included."""
    with translated():
        async with pool.connection() as connection:
            row = await (await connection.execute(_DUE_COUNT)).fetchone()
            assert row is not None  # noqa: S101 - an aggregate always has its row
            return int(row[0])


async def alerts(
    pool: Pool,
    subscription_id: UUID | None = None,
    limit: int = 50,
    *,
    days: int = 30,
    incident_id: UUID | None = None,
) -> list[Alert]:
    """The latest alerts, newest first: of one subscription, one incident, or all in `days` days."""
    query = _ALERTS_OF_ALL if subscription_id is None else _ALERTS_OF_ONE
    if incident_id is not None:
        query = _ALERTS_OF_INCIDENT
    values = {
        "subscription_id": subscription_id,
        "incident_id": incident_id,
        "limit": limit,
        "days": days,
    }
    with translated():
        async with pool.connection() as connection, connection.cursor(row_factory=dict_row) as cur:
            await cur.execute(query, values)
            return [_alert(row) for row in await cur.fetchall()]


def _alert(row: dict[str, Any]) -> Alert:
    kind = row["channel_type"]
    tries = tuple(
        Try(at=datetime.fromisoformat(one["at"]), ok=one["ok"], answer=one["answer"])
        for one in row["tries"] or ()
    )
    return Alert(
        **{
            **row,
            "channel_type": None if kind is None else ChannelType(kind),
            "alert_type": AlertType(row["alert_type"]),
            "severity": Severity(row["severity"]),
            "state": DeliveryState(row["state"]),
            "tries": tries,
        }
    )
