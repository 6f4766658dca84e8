"""The offline history checker: what was due against what was stored and told.

It reads the tables alone and knows nothing of how the fleet works; due slots are computed from
`schedule_epochs` by the pure rules.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

from lighthouse.model import AlertType, CheckStatus, event_id
from lighthouse.slots import Epoch

#: Attempts, proof of health, flush, a busy machine: what may lie between a probe and its row.
LONGEST_PROBE_MS = 30_000

_ROWS = """
SELECT subscription_id, (extract(epoch FROM time) * 1000)::bigint, status::text,
       coalesce(delay_ms, 0)
  FROM check_history
"""


@dataclass(slots=True, kw_only=True)
class Verdicts:
    """What was found; empty lists mean that the invariant held."""

    due: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    unaccounted: list[tuple[UUID, int]] = field(default_factory=list)  #: I1
    doubled: list[tuple[UUID, int]] = field(default_factory=list)  #: I2: a row inside a gap
    never_due: list[tuple[UUID, int]] = field(default_factory=list)  #: I2: a row nobody asked for
    untold: list[str] = field(default_factory=list)  #: I3: transitions without their event
    unfounded: list[str] = field(default_factory=list)  #: I3: events without a transition
    undelivered: list[str] = field(default_factory=list)  #: I3: no end state

    @property
    def coverage(self) -> float:
        """Judged over due."""
        judged = sum(self.statuses[s.value] for s in CheckStatus if s.judged)
        return judged / self.due if self.due else 0.0

    def assert_invariants(self, *, delivered: bool = True) -> None:
        """Fails with the first few counterexamples of whichever invariant broke."""
        for name in ("unaccounted", "doubled", "never_due", "untold", "unfounded"):
            found = getattr(self, name)
            assert not found, f"{name}: {len(found)}, for example {found[:5]}"
        if delivered:
            assert not self.undelivered, f"undelivered: {self.undelivered[:5]}"


def check(database_url: str, *, until: int) -> Verdicts:
    """Check every slot up to `until` (ms since the epoch; must have been accounted for).

    The fleet may go on meanwhile: all is read in one snapshot, and what is told and believed is
    held against every row in it, later ones too.
    """
    found = Verdicts()
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        rows: dict[UUID, dict[int, str]] = {}
        began: dict[tuple[UUID, int], int] = {}
        for subscription_id, slot, status, delay in connection.execute(_ROWS):
            rows.setdefault(subscription_id, {})[slot] = status
            began[subscription_id, slot] = slot + delay
        gaps: dict[UUID, set[int]] = {}
        for subscription_id, first, step, number in connection.execute(
            "SELECT subscription_id, first_slot, interval_ms, slots FROM history_gaps"
        ):
            gaps.setdefault(subscription_id, set()).update(
                slot for n in range(number) if (slot := first + n * step) <= until
            )
        due: dict[UUID, set[int]] = {}
        for subscription_id, *epoch in connection.execute(
            "SELECT subscription_id, interval_ms, phase_ms, first_slot, end_slot"
            " FROM schedule_epochs"
        ):
            interval, phase, first, end = epoch
            span = Epoch(interval_ms=interval, phase_ms=phase, first_slot=first, to=end)
            due.setdefault(subscription_id, set()).update(span.due(first - 1, until))
        settled = {
            identity: {slot: status for slot, status in stored.items() if slot <= until}
            for identity, stored in rows.items()
        }
        _account(found, due, settled, gaps)
        _alerts(found, connection, rows, began)
    return found


def _account(
    found: Verdicts,
    due: dict[UUID, set[int]],
    rows: dict[UUID, dict[int, str]],
    gaps: dict[UUID, set[int]],
) -> None:
    for subscription_id, slots in due.items():
        stored = rows.get(subscription_id, {})
        silent = gaps.get(subscription_id, set())
        found.due += len(slots)
        found.unaccounted += [(subscription_id, s) for s in sorted(slots - stored.keys() - silent)]
        found.doubled += [(subscription_id, s) for s in sorted(stored.keys() & silent)]
        found.never_due += [(subscription_id, s) for s in sorted((stored.keys() | silent) - slots)]
        found.statuses.update(stored[s] for s in stored.keys() & slots)
        found.statuses[CheckStatus.MISSED.value] += len(slots & silent)


def _alerts(
    found: Verdicts,
    connection: "psycopg.Connection[Any]",
    rows: dict[UUID, dict[int, str]],
    began: dict[tuple[UUID, int], int],
) -> None:
    """Each run of rows that agree, in slot order, is told by exactly one event on one of its slots.

    Two runs need none: a first one that is up, and one whose every row was run so late that the
    next run could be judged before it (a late result flips nothing newer).
    """
    told = {
        row[0]: row[1]
        for row in connection.execute(
            "SELECT event_id, state::text FROM alert_history WHERE alert_type <> 'operator'"
        )
    }
    believed = dict(
        connection.execute("SELECT subscription_id, verdict::text FROM subscription_state")
    )
    founded: set[UUID] = set()
    for subscription_id, stored in rows.items():
        runs = _runs(stored)
        for number, (down, slots) in enumerate(runs):
            kind = AlertType.DOWNTIME if down else AlertType.RECOVERY
            events = [
                identity
                for slot in slots
                if (identity := event_id(subscription_id, slot, kind)) in told
            ]
            founded.update(events)
            following = runs[number + 1][1][0] if number + 1 < len(runs) else None
            overtaken = following is not None and all(
                began[subscription_id, slot] + LONGEST_PROBE_MS >= following for slot in slots
            )
            needed = 0 if number == 0 and not down else 1
            if len(events) > needed or (len(events) < needed and not overtaken):
                found.untold.append(f"{subscription_id} {kind.value} {slots[0]}: {len(events)}")
        expected = "unknown" if not runs else "down" if runs[-1][0] else "up"
        if believed.get(subscription_id, expected) != expected:
            found.untold.append(f"{subscription_id} is not believed {expected}")
    found.unfounded += [str(identity) for identity in told if identity not in founded]
    found.undelivered += [f"{i} {state}" for i, state in told.items() if state == "pending"]


def _runs(stored: dict[int, str]) -> list[tuple[bool, list[int]]]:
    """Judged slots in order, cut where the verdict changes: (down, slots)."""
    runs: list[tuple[bool, list[int]]] = []
    for slot, text in sorted(stored.items()):
        status = CheckStatus(text)
        if status.judged:
            if not runs or runs[-1][0] != status.down:
                runs.append((status.down, []))
            runs[-1][1].append(slot)
    return runs
