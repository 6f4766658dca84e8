"""Reading what was found: recent checks, the state of each subscription, the fleet's own state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from psycopg.rows import dict_row

from lighthouse.model import (
    CheckStatus,
    MonitorType,
    SubscriptionStatus,
    Verdict,
    from_slot,
    to_slot,
)
from lighthouse.slots import next_slot
from lighthouse.store.pool import Pool, translated

#: How far back the last judged check is looked for: results older than this are refused anyway.
JUDGED_WITHIN = timedelta(days=8)

#: A belief is stale when two slots and this time have passed without a judged check: the time that
#: a check and its storing may take.
STALE_AFTER = timedelta(seconds=120)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """A row of `check_history`."""

    time: datetime  #: the slot
    subscription_id: UUID
    status: CheckStatus
    http_status: int | None
    latency_ms: float | None
    error_message: str | None
    error_code: str | None
    alert_triggered: bool
    alert_sent_at: datetime | None
    timings: Mapping[str, Any]  #: dns_ms, tcp_ms, tls_ms, ttfb_ms and other monitors' phases
    response_snippet: str | None
    delay_ms: int | None  #: from the slot to the start of its batch
    http_version: int | None  #: 10, 11, 20, 30
    attempts: int
    cert_expires_at: datetime | None
    region: str | None
    value: Decimal | None  #: a balance in the smallest unit


@dataclass(frozen=True, slots=True, kw_only=True)
class GapRow:
    """A row of `history_gaps`: consecutive slots that all passed without a check."""

    subscription_id: UUID
    time: datetime  #: its first slot
    until: datetime  #: its last slot
    interval: timedelta
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One subscription as a table of people shows it."""

    id: UUID
    name: str
    target_type: MonitorType
    target_config: Mapping[str, Any]
    status: SubscriptionStatus
    check_interval_seconds: int
    verdict: Verdict  #: `unknown` also when the belief is stale: nothing was judged of late
    since: datetime | None  #: of the verdict
    last_time: datetime | None  #: slot of the latest row
    last_status: CheckStatus | None
    last_latency_ms: float | None
    last_http_status: int | None
    last_error_code: str | None
    last_error: str | None
    next_due: datetime | None  #: None when it is not active

    @property
    def target(self) -> str:
        """What is watched, in a few words and without secrets."""
        return target_text(self.target_type, self.target_config)


def target_text(monitor: MonitorType, config: Mapping[str, Any]) -> str:
    """A target for people, without credentials, query or fragment."""
    url = config.get("url")
    if isinstance(url, str):
        try:
            parts = urlsplit(url)
            port = f":{parts.port}" if parts.port else ""
            host = parts.hostname or ""
        except ValueError:
            return monitor.value
        path = "" if parts.path == "/" else parts.path
        return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{path}"
    if "address" in config:
        return f"{config.get('chain', '')} {config['address']}".strip()
    return monitor.value


#: By primary key, newest first.
_RECENT = """
SELECT time, subscription_id, status, http_status, latency_ms, error_message, error_code,
       alert_triggered, alert_sent_at, timings, dns_ms, tcp_ms, tls_ms, ttfb_ms, response_snippet,
       delay_ms, http_version, attempts, cert_expires_at, region, value
  FROM check_history
 WHERE subscription_id = %(id)s AND time >= %(since)s
 ORDER BY time DESC LIMIT %(limit)s
"""

_PHASES = ("dns_ms", "tcp_ms", "tls_ms", "ttfb_ms")

#: Before anything was recorded, and still a time that PostgreSQL and Python both have.
_EVER = from_slot(0)


async def recent_checks(
    pool: Pool, subscription_id: UUID, limit: int, since: datetime | None = None
) -> list[CheckRow]:
    """The latest rows of a subscription, newest first, none older than `since`."""
    values = {"id": subscription_id, "limit": limit, "since": since or _EVER}
    with translated():
        async with pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_RECENT, values)
            return [_check_row(row) for row in await cursor.fetchall()]


def _check_row(row: dict[str, Any]) -> CheckRow:
    phases = {name: row.pop(name) for name in _PHASES}
    timings = {name: value for name, value in phases.items() if value is not None}
    return CheckRow(
        **{
            **row,
            "status": CheckStatus(row["status"]),
            "timings": {**timings, **(row["timings"] or {})},
        }
    )


async def recent_gaps(
    pool: Pool, subscription_id: UUID, limit: int, since: datetime | None = None
) -> list[GapRow]:
    """The latest gap records of a subscription, newest first, that reach beyond `since`."""
    with translated():
        async with pool.connection() as conn:
            cursor = await conn.execute(
                "SELECT first_slot, last_slot, interval_ms, slots FROM history_gaps"
                " WHERE subscription_id = %s AND last_slot >= %s"
                " ORDER BY first_slot DESC LIMIT %s",
                (subscription_id, to_slot(since or _EVER), limit),
            )
            rows = await cursor.fetchall()
    return [
        GapRow(
            subscription_id=subscription_id,
            time=from_slot(first),
            until=from_slot(last),
            interval=timedelta(milliseconds=interval),
            slots=slots,
        )
        for first, last, interval, slots in rows
    ]


async def recent(
    pool: Pool, subscription_id: UUID, limit: int, since: datetime | None = None
) -> list[CheckRow | GapRow]:
    """`recent_checks` and `recent_gaps` in one list, newest first, `limit` entries in all."""
    checks = await recent_checks(pool, subscription_id, limit, since)
    gaps = await recent_gaps(pool, subscription_id, limit, since)
    both: list[CheckRow | GapRow] = [*checks, *gaps]
    return sorted(both, key=lambda entry: entry.time, reverse=True)[:limit]


#: How far back the fall of a balance is looked at: a week has its quiet days.
BURN_WITHIN = timedelta(days=7)

#: Readings that tell it: every pair of them makes a slope.
_READINGS = 200

#: By primary key; the newest reading and each n-th before it, about as many as are wanted.
_BALANCES = """
SELECT time, value FROM (
       SELECT time, value, count(*) OVER () AS total,
              row_number() OVER (ORDER BY time DESC) - 1 AS n
         FROM check_history
        WHERE subscription_id = %(id)s AND time >= %(since)s AND value IS NOT NULL) r
 WHERE n %% ceil(total / %(readings)s::numeric)::bigint = 0
 ORDER BY time DESC
"""


async def balances(
    pool: Pool, subscription_id: UUID, since: datetime | None = None
) -> list[tuple[datetime, int]]:
    """Balances of the last days in the smallest unit, evenly thinned, newest first."""
    begun = datetime.now(UTC) - BURN_WITHIN
    values = {
        "id": subscription_id,
        "since": begun if since is None else max(begun, since),
        "readings": _READINGS,
    }
    with translated():
        async with pool.connection() as conn:
            cursor = await conn.execute(_BALANCES, values)
            return [(time, int(value)) for time, value in await cursor.fetchall()]


#: One descent of the primary key a subscription, in the newest partition as a rule; the second
#: only where the last row judges nothing.
_OVERVIEW = """
SELECT s.id, s.name, s.target_type, s.target_config, s.status, s.check_interval_seconds,
       coalesce(st.verdict, 'unknown') AS verdict, st.since, s.activated_at, s.created_at,
       e.interval_ms, e.phase_ms, e.first_slot, clock_timestamp() AS now,
       h.time, h.status AS last_status, h.latency_ms, h.http_status, h.error_code, h.error_message,
       CASE WHEN h.status IN ('error', 'missed') THEN j.time ELSE h.time END AS judged
  FROM (
       SELECT * FROM subscriptions
        WHERE {chosen}
        ORDER BY created_at, name LIMIT %(limit)s) s
  LEFT JOIN subscription_state st ON st.subscription_id = s.id
  LEFT JOIN schedule_epochs e
    ON e.subscription_id = s.id AND e.end_slot IS NULL AND s.status = 'active'
  LEFT JOIN LATERAL (
       SELECT * FROM check_history h
        WHERE h.subscription_id = s.id ORDER BY h.time DESC LIMIT 1) h ON true
  LEFT JOIN LATERAL (
       SELECT j.time FROM check_history j
        WHERE j.subscription_id = s.id AND h.status IN ('error', 'missed')
          AND j.status IN ('success', 'failure', 'timeout')
          AND j.time > now() - %(within)s::interval
        ORDER BY j.time DESC LIMIT 1) j ON true
 ORDER BY s.created_at, s.name
"""
_OVERVIEW_OF = _OVERVIEW.format(chosen="id = ANY(%(ids)s)")
_OVERVIEW_ALL = _OVERVIEW.format(chosen="status IN ('active', 'paused', 'pending')")


async def overview(
    pool: Pool, subscription_ids: Sequence[UUID] | None = None, limit: int = 1000
) -> list[Overview]:
    """The state of these subscriptions, or of all that have not ended, oldest first."""
    values = {
        "ids": None if subscription_ids is None else list(subscription_ids),
        "limit": limit,
        "within": JUDGED_WITHIN,
    }
    with translated():
        async with pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            query = _OVERVIEW_ALL if subscription_ids is None else _OVERVIEW_OF
            await cursor.execute(query.encode(), values)
            return [_overview(row) for row in await cursor.fetchall()]


def _overview(row: dict[str, Any]) -> Overview:
    now, judged = row["now"], row["judged"]
    verdict, since = Verdict(row["verdict"]), row["since"]
    patience = 2 * timedelta(seconds=row["check_interval_seconds"]) + STALE_AFTER
    active = row["status"] == SubscriptionStatus.ACTIVE
    if verdict is Verdict.UNKNOWN or (active and (judged is None or now - judged > patience)):
        verdict, since = Verdict.UNKNOWN, judged or row["activated_at"] or row["created_at"]
    next_due = None
    if row["first_slot"] is not None:
        slot = to_slot(now)
        next_due = from_slot(
            row["first_slot"]
            if slot < row["first_slot"]
            else next_slot(slot, row["interval_ms"], row["phase_ms"])
        )
    return Overview(
        id=row["id"],
        name=row["name"],
        target_type=MonitorType(row["target_type"]),
        target_config=row["target_config"],
        status=SubscriptionStatus(row["status"]),
        check_interval_seconds=row["check_interval_seconds"],
        verdict=verdict,
        since=since,
        last_time=row["time"],
        last_status=None if row["last_status"] is None else CheckStatus(row["last_status"]),
        last_latency_ms=row["latency_ms"],
        last_http_status=row["http_status"],
        last_error_code=row["error_code"],
        last_error=row["error_message"],
        next_due=next_due,
    )
