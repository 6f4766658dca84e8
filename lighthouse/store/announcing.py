"""What is told of a judgement: incidents opened and closed, and events written for their channels.

Still inside THE transaction, behind the locks of the state rows. The titles and messages here are
for those who read rows; templates have their own words in each language.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from lighthouse import verdict
from lighthouse.alerting import Alerting
from lighthouse.model import AlertType, MonitorType, Result, Severity, event_id, from_slot, to_slot
from lighthouse.store.budgets import Limits, spend
from lighthouse.store.events import Event, enqueue
from lighthouse.store.pool import Connection
from lighthouse.verdict import Belief, Judgement

_SET_TRIGGERED = """
UPDATE check_history h SET alert_triggered = true
  FROM unnest(%s::uuid[], %s::timestamptz[]) AS t (id, time)
 WHERE h.subscription_id = t.id AND h.time = t.time AND h.time BETWEEN %s AND %s
"""

# The losing branch: an incident of that kind is open, which cannot be while the state row is held.
_OPEN = """
INSERT INTO incidents (id, subscription_id, kind, severity, opened_at, first_failure_at, evidence)
SELECT t.* FROM jsonb_to_recordset(%s) AS t (
       id uuid, subscription_id uuid, kind alert_type, severity alert_severity,
       opened_at timestamptz, first_failure_at timestamptz, evidence jsonb)
    ON CONFLICT DO NOTHING
"""
# By idx_incidents_open.
_FIND_OPEN = """
SELECT i.subscription_id, i.kind::text, i.id, i.opened_at
  FROM incidents i JOIN unnest(%s::uuid[], %s::text[]) AS t (id, kind)
    ON i.subscription_id = t.id AND i.kind = t.kind::alert_type
 WHERE i.closed_at IS NULL
"""
_CLOSE = """
UPDATE incidents i SET closed_at = t.closed_at
  FROM unnest(%s::uuid[], %s::timestamptz[]) AS t (id, closed_at)
 WHERE i.id = t.id AND i.closed_at IS NULL
"""
_WORSEN = """
UPDATE incidents SET severity = 'critical' WHERE id = ANY(%s::uuid[]) AND severity <> 'critical'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A locked state row with what decides about it."""

    id: UUID
    belief: Belief
    name: str
    monitor: MonitorType
    interval_ms: int
    alerting: Alerting
    user_id: UUID
    target: str  #: for people, without credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A judgement with the rows that it was made from, newest first."""

    state: State
    judgement: Judgement
    rows: Sequence[Any]


async def announce(
    connection: Connection, decided: Sequence[Decided], stored: Sequence[Result], limits: Limits
) -> int:
    """Open and close incidents and write what is to be told of them; how many events that is."""
    told = [(one, event) for one in decided for event in one.judgement.events]
    if not told:
        return 0
    triggers = [(one.state.id, from_slot(event.slot)) for one, event in told]
    times = [time for _, time in triggers]
    await connection.execute(
        _SET_TRIGGERED, ([id_ for id_, _ in triggers], times, min(times), max(times))
    )
    results = {(r.subscription_id, r.slot): r for r in stored}
    opening = [(one, event) for one, event in told if event.opens]
    if opening:
        rows = [_incident_row(one, event, results) for one, event in opening]
        await connection.execute(_OPEN, (Jsonb(rows),))
    incidents = await _incidents(connection, told)
    closing = [
        (incidents[one.state.id, event.about], from_slot(event.slot))
        for one, event in told
        if event.closes and (one.state.id, event.about) in incidents
    ]
    if closing:
        await connection.execute(
            _CLOSE, ([incident[0] for incident, _ in closing], [at for _, at in closing])
        )
    worse = [
        incidents[one.state.id, event.about][0]
        for one, event in told
        if event.severity is Severity.CRITICAL and (one.state.id, event.about) in incidents
    ]
    if worse:
        await connection.execute(_WORSEN, (worse,))
    # Of a run of changes only the last is ever told: to count each would withhold other alerts.
    counted = [(one, event) for one, event in told if _counts(event)]
    spent = iter(
        await spend(connection, [(one.state.id, one.state.user_id) for one, _ in counted], limits)
    )
    written = []
    for one, event in told:
        answer = next(spent) if _counts(event) else None
        incident = incidents.get((one.state.id, event.about))
        context = _context(one, event)
        if answer is not None and answer.allowed and answer.last:
            context["limit_until"] = answer.until.isoformat()
        written.append(
            Event(
                subscription_id=one.state.id,
                slot=event.slot,
                alert_type=event.alert,
                about=event.about,
                severity=event.severity,
                title=_title(one, event),
                message=_message(one, event),
                context=context,
                incident_id=None if incident is None else incident[0],
                opened_at=None if incident is None else incident[1],
                closes=event.closes,
                withheld=answer is not None and not answer.allowed,
            )
        )
    await enqueue(connection, *written)
    return len(written)


def _counts(event: verdict.Event) -> bool:
    """Whether an event is one of the alerts that an hour has room for."""
    return not event.closes and not event.flapping


async def _incidents(
    connection: Connection, told: Sequence[tuple[Decided, verdict.Event]]
) -> dict[tuple[UUID, AlertType], tuple[UUID, datetime]]:
    """The open incidents that the events are of: id and opening."""
    cursor = await connection.execute(
        _FIND_OPEN, ([one.state.id for one, _ in told], [event.about.value for _, event in told])
    )
    return {
        (subscription_id, AlertType(kind)): (id_, opened_at)
        for subscription_id, kind, id_, opened_at in await cursor.fetchall()
    }


def _incident_row(
    one: Decided, event: verdict.Event, results: Mapping[tuple[UUID, int], Result]
) -> dict[str, Any]:
    return {
        "id": str(event_id(one.state.id, event.slot, event.alert, event.about)),
        "subscription_id": str(one.state.id),
        "kind": event.about.value,
        "severity": event.severity.value,
        "opened_at": _iso(event.slot),
        "first_failure_at": _iso(event.first_slot),
        "evidence": _evidence(one, event, results),
    }


def _evidence(
    one: Decided, event: verdict.Event, results: Mapping[tuple[UUID, int], Result]
) -> dict[str, Any]:
    """What was seen in the first slot and, where that is another one, who else saw it."""
    first = results.get((one.state.id, event.first_slot))
    tipping = results.get((one.state.id, event.slot))
    seen = first or tipping
    evidence: dict[str, Any] = dict(event.facts)
    row = next((r for r in one.rows if to_slot(r[1]) == event.first_slot), None)
    if row is not None:
        evidence |= {
            "status": row[2],
            "reason": row[3],
            "message": row[4],
            "http_status": row[5],
            "latency_ms": row[6],
        }
    if seen is not None:
        timings = {name: ms for name, ms in asdict(seen.timings).items() if ms is not None}
        evidence |= {
            "timings": timings,
            "addresses": list(seen.addresses),
            "snippet": seen.response_snippet,
            "region": seen.region,
            "attempts": seen.attempts,
            "certificate": None if seen.certificate is None else asdict(seen.certificate),
        }
    confirmed = next(
        (r.confirmation for r in (tipping, first) if r is not None and r.confirmation is not None),
        None,
    )
    evidence["confirmation"] = None if confirmed is None else asdict(confirmed)
    found: dict[str, Any] = json.loads(json.dumps(evidence, default=str))
    return {key: value for key, value in found.items() if value not in (None, [], {})}


def _context(one: Decided, event: verdict.Event) -> dict[str, Any]:
    """The facts that templates speak of."""
    state, believed = one.state, one.state.belief
    context: dict[str, Any] = {
        "name": state.name,
        "target_type": state.monitor.value,
        "target": state.target,
        "verdict": one.judgement.belief.verdict.value,
        "about": event.about.value,
        **event.facts,
    }
    if event.about is AlertType.DOWNTIME:
        _, _, _, code, _, http_status, latency, _ = one.rows[0]
        context |= {
            "since": _iso(event.slot),
            "previous": believed.verdict.value,
            "previous_since": _iso(believed.since),
            "reason": code,
            "http_status": http_status,
            "latency_ms": latency,
        }
    if event.flapping:
        context["flapping"] = True
    return context


_TITLES: Mapping[tuple[AlertType, AlertType], str] = {
    (AlertType.DOWNTIME, AlertType.DOWNTIME): "{name} is down",
    (AlertType.RECOVERY, AlertType.DOWNTIME): "{name} is up",
    (AlertType.HIGH_LATENCY, AlertType.HIGH_LATENCY): "{name} is slow",
    (AlertType.RECOVERY, AlertType.HIGH_LATENCY): "{name} is fast again",
    (AlertType.LOW_BALANCE, AlertType.LOW_BALANCE): "{name}: the balance is low",
    (AlertType.RECOVERY, AlertType.LOW_BALANCE): "{name}: the balance is enough again",
    (AlertType.CERTIFICATE_EXPIRY, AlertType.CERTIFICATE_EXPIRY): "{name}: certificate ends soon",
    (AlertType.FLAPPING, AlertType.FLAPPING): "{name} is flapping",
}


def _title(one: Decided, event: verdict.Event) -> str:
    return _TITLES[event.alert, event.about].format(name=one.state.name)


def _message(one: Decided, event: verdict.Event) -> str:
    """What the target said, where it said something; the templates have the rest."""
    text = one.rows[0][4] if one.rows and event.alert is not AlertType.FLAPPING else None
    return text or _title(one, event)


def _iso(slot: int | None) -> str | None:
    return None if slot is None else from_slot(slot).isoformat()
