"""The part of THE transaction that believes: states, incidents and events of what a flush stored.

A flush whose results are all steady reads and writes nothing here but one query.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from lighthouse import verdict
from lighthouse.alerting import MOST_CERTIFICATE_DAYS, stored_alerting
from lighthouse.model import (
    CheckStatus,
    MonitorType,
    Result,
    Verdict,
    from_slot,
    to_slot,
)
from lighthouse.store.announcing import Decided, State, announce
from lighthouse.store.budgets import Limits
from lighthouse.store.history import target_text
from lighthouse.store.pool import Connection
from lighthouse.verdict import Belief, Found, Judged, Told

#: A result younger than its interval less this cannot have met its successor in another flush.
SUCCESSOR_MARGIN_MS = 5_000

# Whose belief these results may change: no lock, by primary key (slowness by its own small index),
# and no row where all is steady. What a row means for its own kind is compared by the caller.
_UNSTEADY = """
SELECT subscription_id, 'verdict', NULL::jsonb FROM subscription_state
 WHERE subscription_id = ANY(%(up)s::uuid[]) AND verdict <> 'up'
UNION ALL
SELECT subscription_id, 'verdict', NULL FROM subscription_state
 WHERE subscription_id = ANY(%(down)s::uuid[]) AND verdict <> 'down'
UNION ALL
SELECT subscription_id, 'slow', jsonb_build_array(slow, latency_warn_ms) FROM subscription_state
 WHERE latency_warn_ms IS NOT NULL AND subscription_id = ANY(%(up)s::uuid[])
UNION ALL
SELECT subscription_id, 'balance', to_jsonb(balance_level) FROM subscription_state
 WHERE subscription_id = ANY(%(valued)s::uuid[])
UNION ALL
SELECT s.subscription_id, 'certificate', jsonb_build_array(s.certificates, b.alerting)
  FROM subscription_state s JOIN subscriptions b ON b.id = s.subscription_id
 WHERE s.subscription_id = ANY(%(certified)s::uuid[])
"""

# Locked in the order of their ids, so that two recorders cannot wait for each other in a circle.
_LOCK_STATES = """
SELECT s.subscription_id, s.verdict, s.since, s.slow, s.balance_level, s.certificates,
       s.flapping_since, b.name, b.target_type, b.check_interval_seconds, b.alerting, b.user_id,
       s.latency_warn_ms, b.target_config
  FROM subscription_state s JOIN subscriptions b ON b.id = s.subscription_id
 WHERE s.subscription_id = ANY(%s::uuid[])
 ORDER BY s.subscription_id
   FOR UPDATE OF s
"""

_LATEST = """
SELECT i.id, h.time, h.status, h.error_code, h.error_message, h.http_status, h.latency_ms, h.value
  FROM unnest(%s::uuid[], %s::int[]) AS i (id, rows)
 CROSS JOIN LATERAL (
       SELECT * FROM check_history
        WHERE subscription_id = i.id AND time > now() - interval '8 days'
          AND status IN ('success', 'failure', 'timeout')
        ORDER BY time DESC LIMIT i.rows) h
 ORDER BY i.id, h.time DESC
"""

# By idx_incidents_subscription; twelve days, of a target that is checked daily, is the longest time
# that flapping looks back.
_CHANGES = """
SELECT subscription_id, opened_at, closed_at FROM incidents
 WHERE subscription_id = ANY(%s::uuid[]) AND kind = 'downtime'
   AND (opened_at > now() - interval '13 days' OR closed_at > now() - interval '13 days')
"""

_SET_STATES = """
UPDATE subscription_state s
   SET verdict = t.verdict, since = t.since, judged_until = coalesce(t.judged_until,
       s.judged_until), slow = t.slow, balance_level = t.balance_level,
       certificates = t.certificates,
       flapping_since = t.flapping_since
  FROM jsonb_to_recordset(%s) AS t (
       id uuid, verdict verdict, since timestamptz, judged_until timestamptz, slow boolean,
       balance_level smallint, certificates jsonb, flapping_since timestamptz)
 WHERE s.subscription_id = t.id
"""


class NotAloneError(Exception):
    """A verdict is to change for a slot whose successor another flush may hold uncommitted.

    That flush would find the old verdict and call itself steady, so this one must be alone.
    """


async def judge(
    connection: Connection, stored: Sequence[Result], now: int | None, limits: Limits
) -> int:
    """Decide what these rows change, and write it; returns how many events were written.

    Several results of one subscription, as they gather while PostgreSQL is away, are judged one
    after another: what began and ended between two flushes is told all the same. `now` (ms since
    the epoch) is None in a flush that is alone. Raises NotAloneError.
    """
    slots: dict[UUID, set[int]] = {}
    if len({r.subscription_id for r in stored}) < len(stored):
        for r in stored:
            slots.setdefault(r.subscription_id, set()).add(r.slot)
    events = 0
    for results in _rounds(stored) if slots else (stored,):
        events += await _judge(connection, results, stored, slots, now, limits)
    return events


def _rounds(stored: Sequence[Result]) -> list[list[Result]]:
    """The results in the order of their slots, of each subscription one a round."""
    mine: dict[UUID, list[Result]] = {}
    for r in sorted(stored, key=lambda r: r.slot):
        mine.setdefault(r.subscription_id, []).append(r)
    deepest = max(map(len, mine.values()))
    return [[results[n] for results in mine.values() if n < len(results)] for n in range(deepest)]


async def _judge(
    connection: Connection,
    results: Sequence[Result],
    stored: Sequence[Result],
    slots: Mapping[UUID, set[int]],
    now: int | None,
    limits: Limits,
) -> int:
    """Judge one result a subscription; `slots` are all of the flush where there are several."""
    unsteady = await _unsteady(connection, results)
    if not unsteady:
        return 0
    cursor = await connection.execute(_LOCK_STATES, (unsteady,))
    states = [_state(row) for row in await cursor.fetchall()]
    cursor = await connection.execute(
        _LATEST,
        (
            [s.id for s in states],
            [s.alerting.rows_needed + len(slots.get(s.id, ())) for s in states],
        ),
    )
    latest: dict[UUID, list[Any]] = {}
    for row in await cursor.fetchall():
        latest.setdefault(row[0], []).append(row)
    for r in results if slots else ():
        if r.subscription_id in latest:
            latest[r.subscription_id] = _known_at(
                r.slot, latest[r.subscription_id], slots[r.subscription_id]
            )
    found = _found(results)
    decided = [_decide(state, latest.get(state.id, ()), found, {}) for state in states]
    changing = [
        d.state.id
        for d in decided
        if d.judgement.transition is not None and d.judgement.transition.alert is not None
    ]
    if changing:
        cursor = await connection.execute(_CHANGES, (changing,))
        changes: dict[UUID, list[int]] = {}
        for subscription_id, *moments in await cursor.fetchall():
            known = changes.setdefault(subscription_id, [])
            known += [to_slot(moment) for moment in moments if moment is not None]
        decided = [
            _decide(d.state, d.rows, found, changes) if d.state.id in changes else d
            for d in decided
        ]
    changed = [d for d in decided if d.judgement.belief != d.state.belief]
    if not changed:
        return 0
    for one in changed:
        transition = one.judgement.transition
        late = 0 if now is None or transition is None else now - transition.slot
        if late > one.state.interval_ms - SUCCESSOR_MARGIN_MS:
            raise NotAloneError
    await connection.execute(_SET_STATES, (Jsonb([_state_row(d) for d in changed]),))
    return await announce(connection, [d for d in changed if d.judgement.events], stored, limits)


def _known_at(slot: int, rows: list[Any], mine: set[int]) -> list[Any]:
    """The rows (newest first) that were there when a result would have come alone."""
    newest_before = max((to_slot(row[1]) for row in rows if to_slot(row[1]) not in mine), default=0)
    if newest_before > slot:  # it is late all the same, and flips nothing newer
        return rows
    return [row for row in rows if to_slot(row[1]) <= slot]


async def _unsteady(connection: Connection, stored: Sequence[Result]) -> list[UUID]:
    # What was not judged may know a certificate all the same, of a step or hop before the fault.
    judged = [r for r in stored if r.status.judged]
    valued = {r.subscription_id: r for r in judged if r.bounds is not None and r.value is not None}
    certified = {
        r.subscription_id: r
        for r in judged
        if r.certificate is not None and _days_left(r) <= MOST_CERTIFICATE_DAYS
    }
    cursor = await connection.execute(
        _UNSTEADY,
        {
            "up": _ids(r.subscription_id for r in stored if r.status is CheckStatus.SUCCESS),
            "down": _ids(r.subscription_id for r in stored if r.status.down),
            "valued": _ids(valued),
            "certified": _ids(certified),
        },
    )
    rows = await cursor.fetchall()
    if not rows:
        return []
    latency: dict[UUID, float] = {}
    if any(kind == "slow" for _, kind, _ in rows):
        for r in sorted(stored, key=lambda r: r.slot):  # the newest one stays
            if r.status is CheckStatus.SUCCESS:
                latency[r.subscription_id] = r.latency_ms or 0.0
    unsteady: dict[UUID, None] = {}
    for subscription_id, kind, believed in rows:
        if kind == "slow":
            slow, warn_ms = believed
            if slow == (latency.get(subscription_id, 0.0) >= warn_ms):
                continue
        elif kind == "balance":
            r = valued[subscription_id]
            assert r.bounds is not None  # noqa: S101 - as it was chosen
            if verdict.level(verdict.ENOUGH, r.value or 0, r.bounds) == believed:
                continue
        elif kind == "certificate":
            r = certified[subscription_id]
            assert r.certificate is not None  # noqa: S101 - as it was chosen
            certificates, alerting = believed
            days = stored_alerting(alerting).certificate_days
            reached = verdict.threshold(days, r.certificate.expires_at - from_slot(r.slot))
            told = certificates.get(r.certificate.fingerprint)
            if reached is None or (told is not None and told[0] <= reached):
                continue
        unsteady[subscription_id] = None
    return list(unsteady)


def _days_left(result: Result) -> float:
    assert result.certificate is not None  # noqa: S101 - the caller looked
    return (result.certificate.expires_at - from_slot(result.slot)).total_seconds() / 86_400


def _ids(ids: Iterable[UUID]) -> str:
    """An array literal: cheaper than a parameter for each id."""
    return "{" + ",".join(map(str, dict.fromkeys(ids))) + "}"


def _state(row: Sequence[Any]) -> State:
    id_, believed, since, slow, level, certificates, flapping, name, monitor, interval_s = row[:10]
    alerting = stored_alerting(row[10])
    # The state is as it was left by whoever held its lock before us, the policy perhaps older:
    # slowness that is no longer looked for would never end.
    if row[12] is None:
        alerting = alerting.model_copy(update={"latency": None})
    return State(
        id=id_,
        belief=Belief(
            verdict=Verdict(believed),
            since=_slot(since),
            slow=slow,
            balance=level,
            certificates={
                fingerprint: Told(days=days, expires_at=expires)
                for fingerprint, (days, expires) in certificates.items()
            },
            flapping_since=_slot(flapping),
        ),
        name=name,
        monitor=MonitorType(monitor),
        interval_ms=interval_s * 1000,
        alerting=alerting,
        user_id=row[11],
        target=target_text(MonitorType(monitor), row[13]),
    )


def _slot(moment: datetime | None) -> int | None:
    return None if moment is None else to_slot(moment)


def _found(stored: Sequence[Result]) -> dict[UUID, Found]:
    """What only these results know, of the newest judged one of each subscription."""
    newest = {r.subscription_id: r for r in sorted(stored, key=lambda r: r.slot) if r.status.judged}
    return {
        id_: Found(slot=r.slot, bounds=r.bounds, certificate=r.certificate)
        for id_, r in newest.items()
    }


def _decide(
    state: State,
    rows: Sequence[Any],
    found: Mapping[UUID, Found],
    changes: Mapping[UUID, Sequence[int]],
) -> Decided:
    judged = [
        Judged(
            slot=to_slot(row[1]),
            status=CheckStatus(row[2]),
            latency_ms=row[6],
            value=None if row[7] is None else int(row[7]),
        )
        for row in rows
    ]
    judgement = verdict.judge(
        state.belief,
        judged,
        found[state.id],
        alerting=state.alerting,
        monitor=state.monitor,
        interval_ms=state.interval_ms,
        changes=changes.get(state.id, ()),
    )
    return Decided(state=state, judgement=judgement, rows=rows)


def _state_row(decided: Decided) -> dict[str, Any]:
    belief, transition = decided.judgement.belief, decided.judgement.transition
    return {
        "id": str(decided.state.id),
        "verdict": belief.verdict.value,
        "since": _iso(belief.since),
        "judged_until": _iso(None if transition is None else transition.slot),
        "slow": belief.slow,
        "balance_level": belief.balance,
        "certificates": {
            fingerprint: [told.days, told.expires_at]
            for fingerprint, told in belief.certificates.items()
        },
        "flapping_since": _iso(belief.flapping_since),
    }


def _iso(slot: int | None) -> str | None:
    return None if slot is None else from_slot(slot).isoformat()
