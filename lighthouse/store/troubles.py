"""What is wrong with the targets right now: down, slow, low on balance, flapping, uncovered."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row

from lighthouse.alerting import Flapping
from lighthouse.model import AlertType, MonitorType
from lighthouse.store.history import target_text
from lighthouse.store.pool import Connection
from lighthouse.verdict import FLAPPING_INTERVALS


@dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """A subscription that is down, and why."""

    subscription_id: UUID
    name: str
    target: str
    since: datetime
    status: str | None  #: of the latest judged check: failure or timeout
    error_code: str | None
    error_message: str | None
    incident_id: UUID | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something else that is to be told of a subscription and goes on."""

    kind: AlertType  #: high_latency, low_balance, flapping or coverage
    subscription_id: UUID
    name: str
    target: str
    since: datetime
    incident_id: UUID | None  #: of slowness and low balances
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    evidence: Mapping[str, Any]  #: of the incident


# A balance that is critical is down by an incident of its own kind. One pass over the states, which
# hold a row for each subscription; the rest by primary keys, idx_incidents_open and
# idx_check_history_failed, of those only that are shown.
_DOWN = """
SELECT s.*, h.status, h.error_code, h.error_message,
       i.id AS incident_id, i.acknowledged_at, i.acknowledged_by
  FROM (
       SELECT s.id, s.name, s.target_type, s.target_config, st.since
         FROM subscription_state st JOIN subscriptions s ON s.id = st.subscription_id
        WHERE st.verdict = 'down' AND s.status = 'active'
        ORDER BY st.since, s.id LIMIT %(limit)s) s
  LEFT JOIN LATERAL (
       SELECT * FROM check_history h
        WHERE h.subscription_id = s.id AND h.status IN ('failure', 'timeout')
          AND h.time >= s.since AND h.time < now() + interval '1 hour'
        ORDER BY h.time DESC LIMIT 1) h ON true
  LEFT JOIN incidents i ON i.subscription_id = s.id AND i.closed_at IS NULL
   AND i.kind = CASE s.target_type WHEN 'balance' THEN 'low_balance' ELSE 'downtime' END::alert_type
 ORDER BY s.since, s.id
"""

# `flapping_since` stays until the change after the calm; what holds still flaps no more.
_TROUBLES = f"""
WITH found AS (
    SELECT st.subscription_id, t.kind, t.since
      FROM subscription_state st JOIN subscriptions s ON s.id = st.subscription_id
     CROSS JOIN LATERAL (VALUES
           ('high_latency'::alert_type, st.slow, NULL::timestamptz),
           ('low_balance', st.balance_level > 0 AND st.verdict <> 'down', NULL),
           ('flapping', st.flapping_since IS NOT NULL
                AND s.alerting->'flapping' IS DISTINCT FROM 'null'
                AND st.since > now() - make_interval(secs => greatest(
                    coalesce((s.alerting->'flapping'->>'within_s')::float8, %(within_s)s),
                    {FLAPPING_INTERVALS} * s.check_interval_seconds) / 2), st.flapping_since),
           ('coverage', st.uncovered_since IS NOT NULL, st.uncovered_since)
           ) AS t (kind, holds, since)
     WHERE s.status = 'active' AND t.holds
       AND (st.slow OR st.balance_level > 0 OR st.flapping_since IS NOT NULL
            OR st.uncovered_since IS NOT NULL)
)
SELECT * FROM (
       SELECT t.*, count(*) OVER (PARTITION BY kind) AS total,
              row_number() OVER (PARTITION BY kind ORDER BY since, subscription_id) AS place
         FROM (
              SELECT f.kind::text, s.id AS subscription_id, s.name, s.target_type::text,
                     s.target_config, i.id AS incident_id, i.acknowledged_at, i.acknowledged_by,
                     coalesce(i.evidence, '{{}}') AS evidence,
                     coalesce(f.since, i.first_failure_at, st.since, s.created_at) AS since
                FROM found f JOIN subscriptions s ON s.id = f.subscription_id
                JOIN subscription_state st ON st.subscription_id = s.id
                LEFT JOIN incidents i ON i.subscription_id = s.id AND i.kind = f.kind
                 AND i.closed_at IS NULL) t) t
 WHERE place <= %(limit)s ORDER BY kind, place
"""  # noqa: S608 - a constant of this program


async def down(conn: Connection, limit: int) -> list[Down]:
    """What is down now, the longest first; psycopg's errors pass."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_DOWN, {"limit": limit})
        return [Down(**_named(row)) for row in await cursor.fetchall()]


async def troubles(conn: Connection, limit: int) -> tuple[list[Trouble], dict[str, int]]:
    """Everything else that goes on, `limit` of each kind, and how many of each there are.

    psycopg's errors pass.
    """
    values = {"within_s": Flapping().within_s, "limit": limit}
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_TROUBLES.encode(), values)
        rows = await cursor.fetchall()
    counts: dict[str, int] = {}
    found = []
    for row in rows:
        counts[row["kind"]] = row.pop("total")
        del row["place"]
        found.append(Trouble(**{**_named(row), "kind": AlertType(row["kind"])}))
    return found, counts


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its target in words instead of its configuration."""
    target = target_text(MonitorType(row.pop("target_type")), row.pop("target_config"))
    if "id" in row:
        row["subscription_id"] = row.pop("id")
    return {**row, "target": target}
