"""The outbox: alerts written with the results that caused them, and what became of each delivery.

A row of `alert_history` is one event on its way to one channel. It is claimed under a lease, sent
outside any transaction and then marked, each step by a conditional write; whoever holds no valid
lease token changes nothing. All times that decide are PostgreSQL's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from lighthouse.model import (
    EVENT_NAMESPACE,
    NO_CHANNEL,
    OPERATOR,
    AlertType,
    Channel,
    ChannelType,
    Delivery,
    DeliveryState,
    Severity,
    event_id,
    from_slot,
    storable,
    to_slot,
)
from lighthouse.store.pool import Connection, Pool, translated

#: Nothing pending is older: results come up to 7 days late and a delivery is tried for one more.
#: As a bound on `time` it keeps every query to the newest partitions.
OLDEST_PENDING = "interval '9 days'"
#: The longest title and message that are kept.
TITLE_CHARS = 300
MESSAGE_CHARS = 2000
#: The longest answer of a service that is kept, in characters.
ANSWER_CHARS = 300
#: First key of the advisory locks that make operator events single.
OPERATOR_LOCK = 0x4C48


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A transition that somebody is to hear of."""

    subscription_id: UUID
    slot: int  #: of the check that tipped the verdict, ms since the epoch
    alert_type: AlertType
    severity: Severity
    title: str
    message: str
    context: Mapping[str, Any] = field(default_factory=dict)  #: facts for templates, JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A row of `alert_history`, for readers."""

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


# Runs inside the recorder's transaction, which holds the subscription's state row: nobody else
# writes this event. Channels come by idx_alert_channels_subscription, unlocked: one that goes
# meanwhile is met again at delivery. An event that has rows already gets no further ones, even
# if channels were added since.
_ENQUEUE = """
WITH wanted AS (
    SELECT id FROM alert_channels
     WHERE subscription_id = %(subscription_id)s AND enabled
       AND min_severity <= %(severity)s::alert_severity
), rows (channel_id, state, failed_reason, next_attempt_at) AS (
    SELECT id, 'pending'::delivery_state, NULL, now() FROM wanted
     UNION ALL
    SELECT %(no_channel)s, 'suppressed', 'no channel', NULL WHERE NOT EXISTS (SELECT FROM wanted)
), written AS (
    INSERT INTO alert_history (
           time, event_id, channel_id, subscription_id, alert_type, severity, title, message,
           context, state, failed_reason, next_attempt_at, related_check_time)
    SELECT %(time)s, %(event_id)s, channel_id, %(subscription_id)s, %(alert_type)s::alert_type,
           %(severity)s::alert_severity, %(title)s, %(message)s, %(context)s, state,
           failed_reason, next_attempt_at, %(time)s
      FROM rows
     WHERE NOT EXISTS (
           SELECT FROM alert_history WHERE event_id = %(event_id)s AND time = %(time)s)
        ON CONFLICT DO NOTHING
 RETURNING state
)
SELECT count(*) FILTER (WHERE state = 'pending') FROM written
"""

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

# Found by idx_alert_history_pending. SKIP LOCKED leaves what another courier is claiming to it; a
# row whose lease has run out is claimed again, because its courier died between claim and mark.
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
       a.message, a.context, a.attempt, a.lease_token, a.created_at,
       extract(epoch FROM now() - a.created_at)::float8 AS age_s,
       s.name AS subscription_name,
       c.id AS found_id, c.channel_type, c.channel_config, c.enabled, c.min_severity,
       c.metadata AS channel_metadata
  FROM claimed a
  LEFT JOIN alert_channels c ON c.id = a.channel_id
  LEFT JOIN subscriptions s ON s.id = a.subscription_id
 ORDER BY a.time, a.created_at
"""  # noqa: S608

_MARK = """
UPDATE alert_history
   SET lease_until = NULL, lease_token = NULL, {changes}
 WHERE event_id = %(event_id)s AND channel_id = %(channel_id)s AND time = %(time)s
   AND lease_token = %(lease_token)s AND state = 'pending'
"""
_MARK_SENT = _MARK.format(
    changes="state = 'sent', sent = true, sent_at = now(), next_attempt_at = NULL,"
    " failed_reason = NULL, last_answer = %(answer)s"
)
_MARK_RETRY = _MARK.format(
    changes="next_attempt_at = now() + make_interval(secs => %(delay_s)s), last_answer = %(answer)s"
)
_PUT_BACK = _MARK.format(
    changes="next_attempt_at = now() + make_interval(secs => %(delay_s)s),"
    " attempt = greatest(attempt - 1, 0)"
)
# Their times stay, and with them their order. The bound on `time` is theirs: it keeps the search to
# the partitions that they are in.
_GIVE_BACK = """
UPDATE alert_history a
   SET lease_until = NULL, lease_token = NULL, attempt = greatest(a.attempt - 1, 0)
  FROM unnest(%(event_ids)s::uuid[], %(channel_ids)s::uuid[], %(times)s::timestamptz[],
              %(tokens)s::uuid[]) AS given (event_id, channel_id, time, token)
 WHERE a.event_id = given.event_id AND a.channel_id = given.channel_id AND a.time = given.time
   AND a.time BETWEEN %(first)s AND %(last)s
   AND a.lease_token = given.token AND a.state = 'pending'
"""
_MARK_END = _MARK.format(
    changes="state = %(state)s::delivery_state, next_attempt_at = NULL,"
    " failed_reason = %(reason)s, last_answer = coalesce(%(answer)s, last_answer)"
)

_CHECK_TOLD = """
UPDATE check_history SET alert_sent_at = now()
 WHERE subscription_id = %(subscription_id)s AND time = %(time)s AND alert_sent_at IS NULL
"""
_CHANNEL_USED = "UPDATE alert_channels SET last_used_at = now() WHERE id = %(channel_id)s"
# Only as it was when it failed: a configuration repaired meanwhile stays on.
_DISABLE = """
UPDATE alert_channels
   SET enabled = false,
       metadata = metadata || jsonb_build_object('disabled_reason', %(reason)s::text)
 WHERE id = %(channel_id)s AND enabled AND channel_config = %(config)s
"""

# In the transaction that switched a channel off, so that it happens once. The other channels of the
# subscription hear of it whatever they want to hear of else: an owner who is not told believes that
# alerts still arrive.
_TELL_OWNER = """
WITH others AS (
    SELECT id FROM alert_channels
     WHERE subscription_id = %(subscription_id)s AND enabled AND id <> %(channel_id)s
), rows (channel_id, state, failed_reason, next_attempt_at) AS (
    SELECT id, 'pending'::delivery_state, NULL, now() FROM others
     UNION ALL
    SELECT %(no_channel)s, 'suppressed', 'no channel', NULL WHERE NOT EXISTS (SELECT FROM others)
)
INSERT INTO alert_history (
       time, event_id, channel_id, subscription_id, alert_type, severity, title, message,
       context, state, failed_reason, next_attempt_at)
SELECT date_trunc('milliseconds', now()), %(lost_event)s, channel_id, %(subscription_id)s,
       'operator'::alert_type, 'warning'::alert_severity, %(title)s, %(reason)s,
       %(context)s, state, failed_reason, next_attempt_at
  FROM rows
    ON CONFLICT DO NOTHING
"""

_DUE_COUNT = f"""
SELECT count(*) FROM alert_history
 WHERE state = 'pending' AND next_attempt_at <= now() AND time > now() - {OLDEST_PENDING}
"""  # noqa: S608

_ALERTS = """
SELECT a.time, a.event_id, a.channel_id, c.channel_type, a.subscription_id,
       coalesce(s.name, '') AS subscription_name, a.alert_type, a.severity, a.title, a.message,
       a.context, a.state, a.sent, a.sent_at, a.failed_reason, a.related_check_time,
       a.created_at, a.attempt, a.next_attempt_at, a.last_answer
  FROM alert_history a
  LEFT JOIN alert_channels c ON c.id = a.channel_id
  LEFT JOIN subscriptions s ON s.id = a.subscription_id
 WHERE {where}
 ORDER BY a.time DESC, a.created_at DESC, a.channel_id
 LIMIT %(limit)s
"""
# By idx_alert_history_subscription.
_ALERTS_OF_ONE = _ALERTS.format(where="a.subscription_id = %(subscription_id)s")
# No index leads with the time; the bound keeps the scan to some weeks' partitions.
_ALERTS_OF_ALL = _ALERTS.format(where="a.time > now() - make_interval(days => %(days)s)")


async def enqueue(connection: Connection, event: Event) -> int:
    """Write an event for each channel that wants it; returns how many deliveries now wait.

    Belongs inside the transaction that makes the event. Safe to repeat. An event that nobody is
    to hear of is stored too, as one suppressed row. psycopg's errors pass: the caller translates.
    """
    cursor = await connection.execute(
        _ENQUEUE,
        {
            "time": from_slot(event.slot),
            "event_id": event_id(event.subscription_id, event.slot, event.alert_type),
            "subscription_id": event.subscription_id,
            "no_channel": NO_CHANNEL,
            "alert_type": event.alert_type.value,
            "severity": event.severity.value,
            "title": storable(event.title, TITLE_CHARS),
            "message": storable(event.message, MESSAGE_CHARS),
            "context": Jsonb(dict(event.context)),
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

    `key` names the occurrence, such as "queue_full:2026-11-24T03": the same key within 9 days is
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
    )


async def mark_sent(pool: Pool, delivery: Delivery, detail: str) -> bool:
    """The service took the message. False: the lease was lost, and another process decides."""
    values = {**_key(delivery), "answer": _answer(detail)}
    with translated():
        async with pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(_MARK_SENT, values)
            if cursor.rowcount != 1:
                return False
            await connection.execute(_CHANNEL_USED, values)
            await connection.execute(_CHECK_TOLD, values)
            return True


async def mark_retry(pool: Pool, delivery: Delivery, detail: str, next_in_s: float) -> bool:
    """Try again in `next_in_s` seconds. False: the lease was lost, another process decides."""
    return await _mark(
        pool, _MARK_RETRY, delivery, {"answer": _answer(detail), "delay_s": next_in_s}
    )


async def put_back(pool: Pool, delivery: Delivery, next_in_s: float = 0.0) -> bool:
    """Give a claim back that was never tried; it does not count as an attempt."""
    return await _mark(pool, _PUT_BACK, delivery, {"delay_s": next_in_s})


async def give_back(pool: Pool, deliveries: Sequence[Delivery]) -> None:
    """Give claims back that nobody has room for; they stay due and do not count as attempts.

    What another process has taken over meanwhile is left to it.
    """
    times = [from_slot(delivery.slot) for delivery in deliveries]
    values = {
        "event_ids": [delivery.event_id for delivery in deliveries],
        "channel_ids": [delivery.channel_id for delivery in deliveries],
        "times": times,
        "tokens": [delivery.lease_token for delivery in deliveries],
        "first": min(times),
        "last": max(times),
    }
    with translated():
        async with pool.connection() as connection:
            await connection.execute(_GIVE_BACK, values)


async def mark_end(
    pool: Pool,
    delivery: Delivery,
    state: DeliveryState,
    reason: str,
    *,
    detail: str | None = None,
    disable_channel: bool = False,
) -> bool:
    """End a delivery that was not sent. False: the lease was lost, another process decides.

    `disable_channel` also switches its channel off, unless it was changed since the claim, and
    tells the owner on the subscription's other channels.
    """
    values = {
        **_key(delivery),
        "state": state.value,
        "reason": _answer(reason),
        "answer": None if detail is None else _answer(detail),
    }
    with translated():
        async with pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(_MARK_END, values)
            if cursor.rowcount != 1:
                return False
            if disable_channel and delivery.channel is not None:
                config = Jsonb(dict(delivery.channel.channel_config))
                cursor = await connection.execute(_DISABLE, {**values, "config": config})
                if cursor.rowcount == 1:  # else it was repaired or switched off meanwhile
                    await connection.execute(
                        _TELL_OWNER, {**values, **_lost(delivery, delivery.channel)}
                    )
            return True


def _lost(delivery: Delivery, channel: Channel) -> dict[str, Any]:
    kind = channel.channel_type.value
    return {
        "no_channel": NO_CHANNEL,
        "subscription_id": delivery.subscription_id,
        "lost_event": uuid5(EVENT_NAMESPACE, f"lost:{channel.id}:{delivery.event_id}"),
        "title": storable(
            f"{delivery.subscription_name}: the {kind} channel has been switched off", TITLE_CHARS
        ),
        "context": Jsonb({"lost_channel": kind, "channel_id": str(channel.id)}),
    }


async def due_count(pool: Pool) -> int:
    """Deliveries that should have been tried by now, those on their way included."""
    with translated():
        async with pool.connection() as connection:
            return await _count(await connection.execute(_DUE_COUNT))


async def alerts(
    pool: Pool, subscription_id: UUID | None = None, limit: int = 50, *, days: int = 30
) -> list[Alert]:
    """The latest alerts, newest first: of one subscription, or of all in the last `days` days."""
    query = _ALERTS_OF_ALL if subscription_id is None else _ALERTS_OF_ONE
    values = {"subscription_id": subscription_id, "limit": limit, "days": days}
    with translated():
        async with pool.connection() as connection, connection.cursor(row_factory=dict_row) as cur:
            await cur.execute(query, values)
            return [_alert(row) for row in await cur.fetchall()]


def _alert(row: dict[str, Any]) -> Alert:
    kind = row["channel_type"]
    return Alert(
        **{
            **row,
            "channel_type": None if kind is None else ChannelType(kind),
            "alert_type": AlertType(row["alert_type"]),
            "severity": Severity(row["severity"]),
            "state": DeliveryState(row["state"]),
        }
    )


def _key(delivery: Delivery) -> dict[str, Any]:
    return {
        "event_id": delivery.event_id,
        "channel_id": delivery.channel_id,
        "time": from_slot(delivery.slot),
        "lease_token": delivery.lease_token,
        "subscription_id": delivery.subscription_id,
    }


async def _mark(pool: Pool, query: str, delivery: Delivery, values: dict[str, Any]) -> bool:
    with translated():
        async with pool.connection() as connection:
            cursor = await connection.execute(query.encode(), {**_key(delivery), **values})
            return cursor.rowcount == 1


def _answer(text: str) -> str:
    return storable(" ".join(text.split()), ANSWER_CHARS) or ""


async def _count(cursor: Any) -> int:
    row = await cursor.fetchone()
    return int(row[0])
