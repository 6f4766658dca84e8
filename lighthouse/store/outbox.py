"""The outbox's other side: what becomes of each delivery after its claim (`due`).

A row of `alert_history` is one event on its way to one channel. It is claimed under a lease, sent
outside any transaction and then marked, each step by a conditional write; whoever holds no valid
lease token changes nothing. All times that decide are PostgreSQL's.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any
from uuid import uuid5

from psycopg.types.json import Jsonb

from lighthouse.model import (
    EVENT_NAMESPACE,
    NO_CHANNEL,
    AlertType,
    Channel,
    Delivery,
    DeliveryState,
    from_slot,
    storable,
)
from lighthouse.store.alerts import Alert, Try, alerts, due_count
from lighthouse.store.due import claim
from lighthouse.store.events import (
    OLDEST_PENDING,
    TITLE_CHARS,
    Event,
    enqueue,
    enqueue_operator,
    operator_event_id,
)
from lighthouse.store.pool import Connection, Pool, translated

__all__ = ["Alert", "Event", "Overtaken", "Try", "alerts", "claim", "due_count", "enqueue"]
__all__ += ["enqueue_operator", "hold", "mark_end", "mark_retry", "mark_sent"]
__all__ += ["operator_event_id", "overtake", "put_back"]

#: The longest answer of a service that is kept, in characters.
ANSWER_CHARS = 300
#: Tries that are kept of a delivery: the first three and the latest.
TRIES_KEPT = 30

_MARK = """
UPDATE alert_history
   SET lease_until = NULL, lease_token = NULL, {changes}
 WHERE event_id = %(event_id)s AND channel_id = %(channel_id)s AND time = %(time)s
   AND lease_token = %(lease_token)s AND state = 'pending'
"""
_TRIED = f"""
       tries = CASE WHEN jsonb_array_length(tries) >= {TRIES_KEPT} THEN tries - 3
                    ELSE coalesce(tries, '[]') END
            || jsonb_build_object('at', now(), 'ok', {{ok}}, 'answer', %(answer)s::text),
       last_answer = %(answer)s
"""
_MARK_SENT = _MARK.format(
    changes="state = 'sent', sent = true, sent_at = now(), next_attempt_at = NULL, held = NULL,"
    " failed_reason = NULL," + _TRIED.format(ok="true")
)
_MARK_RETRY = _MARK.format(
    changes="next_attempt_at = now() + make_interval(secs => %(delay_s)s), held = NULL,"
    + _TRIED.format(ok="false")
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
_HOLD = _MARK.format(
    changes="next_attempt_at = now() + make_interval(secs => %(delay_s)s), held = %(why)s,"
    " attempt = greatest(attempt - 1, 0)"
)
_END = "state = %(state)s::delivery_state, next_attempt_at = NULL, failed_reason = %(reason)s"
_MARK_END = _MARK.format(changes=f"{_END}, attempt = greatest(attempt - 1, 0)")
_MARK_LAST = _MARK.format(changes=f"{_END}, held = NULL," + _TRIED.format(ok="false"))

# One statement, and so one round trip and one commit, for each message that was sent. Whoever hears
# that a target is down is not told afterwards that it was up before. The check's
# row is found by its primary key, by a join: TimescaleDB cannot plan an UPDATE of a hypertable that
# asks for another CTE's rows by EXISTS.
_TOLD = f"""
WITH marked AS ({_MARK_SENT} RETURNING channel_id, subscription_id, time), used AS (
    UPDATE alert_channels c SET last_used_at = now() FROM marked m WHERE c.id = m.channel_id
), stale AS (
    UPDATE alert_history r
       SET state = 'merged', next_attempt_at = NULL, lease_until = NULL, lease_token = NULL,
           failed_reason = 'it began again before this was told'
      FROM marked m
     WHERE %(begins)s AND r.subscription_id = m.subscription_id AND r.channel_id = m.channel_id
       AND r.time < m.time AND r.time > now() - {OLDEST_PENDING} AND r.state = 'pending'
       AND r.alert_type = 'recovery' AND r.context->>'about' = 'downtime'
       AND (r.lease_until IS NULL OR r.lease_until < now())
), told AS (
    UPDATE check_history h SET alert_sent_at = now() FROM marked m
     WHERE h.subscription_id = m.subscription_id AND h.time = m.time AND h.time = %(time)s
       AND h.alert_sent_at IS NULL
)
SELECT count(*) FROM marked
"""  # noqa: S608
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

# An incident may be told of more than once (a balance that is low, then critical), and two couriers
# may mark at once: the incident is locked, in a statement before the snapshot that looks for a
# reminder which waits already. No row: there is nothing to remind of.
_LOCK_INCIDENT = """
SELECT i.id FROM incidents i JOIN subscriptions s ON s.id = i.subscription_id
 WHERE i.id = %(incident_id)s AND i.closed_at IS NULL AND i.acknowledged_at IS NULL
   AND s.status = 'active' AND s.alerting->>'remind_every_s' IS NOT NULL
   FOR NO KEY UPDATE OF i
"""
# By idx_alert_history_incident; by the subscription in chunks that are compressed.
_REMINDERS = """
SELECT count(*), count(*) FILTER (WHERE state = 'pending') FROM alert_history
 WHERE incident_id = %(incident_id)s AND time >= %(opened_at)s AND channel_id = %(channel_id)s
   AND subscription_id = %(subscription_id)s
   AND context ? 'reminder'
"""
# In the transaction that ended the one before it, so that a chain of reminders neither breaks nor
# doubles. Its time is when it is due.
_REMIND = """
INSERT INTO alert_history (
       time, event_id, channel_id, subscription_id, alert_type, severity, title, message, context,
       next_attempt_at, incident_id)
SELECT d.at, %(reminder_id)s, %(channel_id)s, s.id, i.kind, i.severity, %(title)s, %(message)s,
       %(context)s, d.at, i.id
  FROM incidents i JOIN subscriptions s ON s.id = i.subscription_id
 CROSS JOIN LATERAL (
       SELECT date_trunc('milliseconds', now() + make_interval(
           secs => (s.alerting->>'remind_every_s')::float8)) AS at) d
 WHERE i.id = %(incident_id)s
    ON CONFLICT DO NOTHING
"""
_SPEND = """
INSERT INTO alert_budgets (owner_id, hour, used)
SELECT id, date_trunc('hour', now(), 'UTC'), 1
  FROM (SELECT id FROM subscriptions WHERE id = %(subscription_id)s
         UNION SELECT user_id FROM subscriptions WHERE id = %(subscription_id)s) owners
 ORDER BY id
    ON CONFLICT (owner_id, hour) DO UPDATE SET used = alert_budgets.used + 1
"""

# A row that nobody holds is overtaken; one on its way right now is waited for. What was tried, or
# was in the hands of a courier that died, may have been told: its end is told as well.
_OVERTAKE = """
UPDATE alert_history
   SET state = CASE WHEN attempt > 0 OR held IS NULL AND NOT context ? 'reminder' THEN 'merged'
                    ELSE 'suppressed' END::delivery_state,
       failed_reason = 'it ended before it was told', next_attempt_at = NULL,
       lease_until = NULL, lease_token = NULL
 WHERE incident_id = %(incident_id)s AND time >= %(opened_at)s AND channel_id = %(channel_id)s
   AND subscription_id = %(subscription_id)s
   AND alert_type <> 'recovery' AND state = 'pending'
   AND (lease_until IS NULL OR lease_until < now())
"""
_BEFORE = """
SELECT coalesce(bool_or(state = 'pending'), false), coalesce(bool_or(state = 'sent'), false),
       coalesce(bool_or(state IN ('merged', 'gave_up')), false)
  FROM alert_history
 WHERE incident_id = %(incident_id)s AND time >= %(opened_at)s AND channel_id = %(channel_id)s
   AND subscription_id = %(subscription_id)s
   AND alert_type <> 'recovery'
"""


class Overtaken(Enum):
    """What a channel has heard of an incident whose end is to be told there."""

    TOLD = "told"  #: that it began
    UNTOLD = "untold"  #: nothing: its end tells the whole story
    WITHHELD = "withheld"  #: nothing, on purpose
    WAIT = "wait"  #: the news of its beginning is on its way right now


async def overtake(pool: Pool, delivery: Delivery) -> Overtaken:
    """Let go what of an ended incident still waits for the same channel; what it was told."""
    values = {**_key(delivery), "opened_at": delivery.opened_at}
    with translated():
        async with pool.connection() as connection, connection.transaction():
            await connection.execute(_OVERTAKE, values)
            row = await (await connection.execute(_BEFORE, values)).fetchone()
            assert row is not None  # noqa: S101 - an aggregate always has its row
    waiting, told, untold = row
    if waiting:
        return Overtaken.WAIT
    if told:
        return Overtaken.TOLD
    return Overtaken.UNTOLD if untold else Overtaken.WITHHELD


async def mark_sent(pool: Pool, delivery: Delivery, detail: str) -> bool:
    """The service took the message. False: the lease was lost, and another process decides.

    What goes on and is not acknowledged is told again, where its owner wants that.
    """
    begins = delivery.alert_type is AlertType.DOWNTIME and not delivery.circumstances.reminder
    values = {**_key(delivery), "answer": _answer(detail), "begins": begins}
    reminds = delivery.circumstances.begins and delivery.circumstances.reminds
    with translated():
        if not reminds:
            async with pool.connection() as connection:
                cursor = await connection.execute(_TOLD.encode(), values)
                return bool(await cursor.fetchone() == (1,))
        async with pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(_TOLD.encode(), values)
            if await cursor.fetchone() == (0,):
                return False
            await _remind(connection, delivery)
            if delivery.circumstances.reminder:
                await connection.execute(_SPEND, values)
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


async def hold(pool: Pool, delivery: Delivery, why: str, next_in_s: float) -> bool:
    """Keep a claim back that may not be told yet; it does not count as an attempt."""
    return await _mark(pool, _HOLD, delivery, {"why": why, "delay_s": next_in_s})


async def mark_end(
    pool: Pool,
    delivery: Delivery,
    state: DeliveryState,
    reason: str,
    *,
    answer: str | None = None,
    disable_channel: bool = False,
) -> bool:
    """End a delivery that was not sent. False: the lease was lost, another process decides.

    `answer` is what the service said to the last try, None where nothing was sent.
    `disable_channel` also switches its channel off, unless it was changed since the claim, and
    tells the owner on the subscription's other channels.
    """
    values = {
        **_key(delivery),
        "state": state.value,
        "reason": _answer(reason),
        "answer": None if answer is None else _answer(answer),
    }
    query = _MARK_END if answer is None else _MARK_LAST
    with translated():
        async with pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(query.encode(), values)
            if cursor.rowcount != 1:
                return False
            again = state is DeliveryState.GAVE_UP and not disable_channel
            if again and delivery.circumstances.begins:
                await _remind(connection, delivery)
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


def _key(delivery: Delivery) -> dict[str, Any]:
    return {
        "event_id": delivery.event_id,
        "channel_id": delivery.channel_id,
        "time": from_slot(delivery.slot),
        "lease_token": delivery.lease_token,
        "subscription_id": delivery.subscription_id,
        "incident_id": delivery.incident_id,
    }


async def _remind(connection: Connection, delivery: Delivery) -> None:
    """Write the next reminder of a delivery's incident, where its owner wants one."""
    values = {**_key(delivery), "opened_at": delivery.opened_at}
    cursor = await connection.execute(_LOCK_INCIDENT, values)
    if cursor.rowcount != 1:
        return
    row = await (await connection.execute(_REMINDERS, values)).fetchone()
    assert row is not None  # noqa: S101 - an aggregate always has its row
    reminders, waiting = row
    if waiting:
        return
    number = reminders + 1
    key = f"reminder:{delivery.incident_id}:{number}"
    await connection.execute(
        _REMIND,
        {
            **values,
            "reminder_id": uuid5(EVENT_NAMESPACE, key),
            "title": delivery.title,
            "message": delivery.message,
            "context": Jsonb({**delivery.context, "reminder": number}),
        },
    )


async def _mark(pool: Pool, query: str, delivery: Delivery, values: dict[str, Any]) -> bool:
    with translated():
        async with pool.connection() as connection:
            cursor = await connection.execute(query.encode(), {**_key(delivery), **values})
            return cursor.rowcount == 1


def _answer(text: str) -> str:
    return storable(" ".join(text.split()), ANSWER_CHARS) or ""
