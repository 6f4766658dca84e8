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


@dataclass(slots=True, kw_only=True)
class History:
    """What is checked, wherever it was read from. Slots and moments are in one unit, such as ms."""

    #: By subscription: the schedules that were in force, rows by slot, gap records' slots.
    epochs: dict[UUID, list[Epoch]] = field(default_factory=dict)
    rows: dict[UUID, dict[int, str]] = field(default_factory=dict)
    gaps: dict[UUID, set[int]] = field(default_factory=dict)
    #: Between which moments a row was judged.
    judged: dict[tuple[UUID, int], tuple[int, int]] = field(default_factory=dict)
    told: dict[UUID, str] = field(default_factory=dict)  #: events about targets: their states
    believed: dict[UUID, str] = field(default_factory=dict)  #: verdicts


def check(database_url: str, *, until: int) -> Verdicts:
    """Check every slot up to `until` (ms since the epoch; must have been accounted for).

    The fleet may go on meanwhile: all is read in one snapshot, and what is told and believed is
    held against every row in it, later ones too.
    """
    with psycopg.connect(database_url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return judge(_read(connection, until), until=until)


def _read(connection: "psycopg.Connection[Any]", until: int) -> History:
    history = History()
    for subscription_id, slot, status, delay in connection.execute(_ROWS):
        history.rows.setdefault(subscription_id, {})[slot] = status
        history.judged[subscription_id, slot] = slot, slot + delay + LONGEST_PROBE_MS
    for subscription_id, first, step, number in connection.execute(
        "SELECT subscription_id, first_slot, interval_ms, slots FROM history_gaps"
    ):
        history.gaps.setdefault(subscription_id, set()).update(
            slot for n in range(number) if (slot := first + n * step) <= until
        )
    for subscription_id, interval, phase, first, end in connection.execute(
        "SELECT subscription_id, interval_ms, phase_ms, first_slot, end_slot FROM schedule_epochs"
    ):
        history.epochs.setdefault(subscription_id, []).append(
            Epoch(interval_ms=interval, phase_ms=phase, first_slot=first, to=end)
        )
    history.told = {
        row[0]: row[1]
        for row in connection.execute(
            "SELECT event_id, state::text FROM alert_history WHERE alert_type <> 'operator'"
        )
    }
    history.believed = dict(
        connection.execute("SELECT subscription_id, verdict::text FROM subscription_state")
    )
    return history


def judge(history: History, *, until: int) -> Verdicts:
    """Which invariants held, for every slot up to `until`."""
    found = Verdicts()
    for subscription_id, epochs in history.epochs.items():
        due = {slot for epoch in epochs for slot in epoch.due(epoch.first_slot - 1, until)}
        stored = {
            slot: status
            for slot, status in history.rows.get(subscription_id, {}).items()
            if slot <= until
        }
        silent = history.gaps.get(subscription_id, set())
        found.due += len(due)
        found.unaccounted += [(subscription_id, s) for s in sorted(due - stored.keys() - silent)]
        found.doubled += [(subscription_id, s) for s in sorted(stored.keys() & silent)]
        found.never_due += [(subscription_id, s) for s in sorted((stored.keys() | silent) - due)]
        found.statuses.update(stored[s] for s in stored.keys() & due)
        found.statuses[CheckStatus.MISSED.value] += len(due & silent)
    _alerts(found, history)
    return found


@dataclass(slots=True, kw_only=True)
class _Run:
    """Judged slots in order that agree, and the events on them."""

    down: bool
    slots: list[int]
    events: list[UUID] = field(default_factory=list)


def _alerts(found: Verdicts, history: History) -> None:
    """Each run of rows that agree, in slot order, is told by exactly one event on one of its slots.

    Two runs need none: a first one that is up, and one whose every row came so late that a later
    row could be judged before it (a late result flips nothing newer). Around the latter, the runs
    before and after it are one.
    """
    founded: set[UUID] = set()
    for subscription_id, stored in history.rows.items():
        runs = _runs(stored)
        for run in runs:
            kind = AlertType.DOWNTIME if run.down else AlertType.RECOVERY
            run.events = [
                identity
                for slot in run.slots
                if (identity := event_id(subscription_id, slot, kind)) in history.told
            ]
            founded.update(run.events)
        known = _without_overtaken(subscription_id, runs, history)
        for number, run in enumerate(known):
            needed = 0 if number == 0 and not run.down else 1
            if len(run.events) != needed:
                verdict = "down" if run.down else "up"
                found.untold.append(
                    f"{subscription_id} {verdict} {run.slots[0]}: {len(run.events)}"
                )
        expected = "unknown" if not runs else "down" if runs[-1].down else "up"
        if history.believed.get(subscription_id, expected) != expected:
            found.untold.append(f"{subscription_id} is not believed {expected}")
    found.unfounded += [str(identity) for identity in history.told if identity not in founded]
    found.undelivered += [f"{i} {state}" for i, state in history.told.items() if state == "pending"]


def _without_overtaken(subscription_id: UUID, runs: list[_Run], history: History) -> list[_Run]:
    known: list[_Run] = []
    for number, run in enumerate(runs):
        later = [
            history.judged[subscription_id, slot][0]
            for following in runs[number + 1 :]
            for slot in following.slots
        ]
        overtaken = bool(later) and all(
            history.judged[subscription_id, slot][1] >= min(later) for slot in run.slots
        )
        if overtaken and not run.events:
            continue
        if known and known[-1].down == run.down:
            known[-1].slots += run.slots
            known[-1].events += run.events
        else:
            known.append(_Run(down=run.down, slots=list(run.slots), events=list(run.events)))
    return known


def _runs(stored: dict[int, str]) -> list[_Run]:
    """Judged slots in order, cut where the verdict changes."""
    runs: list[_Run] = []
    for slot, text in sorted(stored.items()):
        status = CheckStatus(text)
        if status.judged:
            if not runs or runs[-1].down != status.down:
                runs.append(_Run(down=status.down, slots=[]))
            runs[-1].slots.append(slot)
    return runs
