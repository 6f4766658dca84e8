"""What a fleet does in a span of time under a steady load: costs, delays, coverage, memory."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psutil

from lighthouse.model import to_slot
from lighthouse.slots import Epoch
from tests.support.fleet import Fleet

#: Programs of a fleet that are no part of what is measured.
NOT_OURS = ("target",)
#: Slots of a span that have no row after this will have none.
SETTLED_S = 12.0

_ROWS = """
SELECT count(*), count(*) FILTER (WHERE status IN ('success', 'failure', 'timeout')),
       percentile_disc(ARRAY[0.5, 0.95, 0.99, 1.0]) WITHIN GROUP (ORDER BY delay_ms),
       percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY latency_ms)
  FROM check_history
 WHERE time > to_timestamp(%s / 1000.0) AND time <= to_timestamp(%s / 1000.0)
   AND status <> 'missed'
"""

#: How late the newest checks start once a rush is over, in ms, and how long one is waited for.
CALM_MS, RUSH_S = 500, 60.0

_LATE = """
SELECT coalesce(max(delay_ms), 0) FROM check_history
 WHERE time > now() - interval '5 s' AND status <> 'missed'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A measured span. CPU times are of whole programs, their children included."""

    first: int  #: slots after this, ms since the epoch …
    until: int  #: … up to this belong to it
    seconds: float
    due: int
    checks: int  #: rows that came of a probe
    judged: int
    cpu_s: Mapping[str, float]  #: by program
    memory_mb: Mapping[str, float]  #: at the span's end; pages that several share count once
    delay_ms: Mapping[str, float]  #: slot to start of the probe: p50, p95, p99, max
    latency_ms: Mapping[str, float]  #: p50, p99

    @property
    def rate(self) -> float:
        """Checks a second."""
        return self.checks / self.seconds

    @property
    def coverage(self) -> float:
        """Judged over due."""
        return self.judged / self.due if self.due else 0.0

    @property
    def checks_per_cpu_s(self) -> float:
        """Of the whole system."""
        return self.checks / sum(self.cpu_s.values())

    def us_per_check(self, prefix: str = "") -> float:
        """CPU time of a check, in µs, in the programs whose names begin so."""
        spent = sum(s for name, s in self.cpu_s.items() if name.startswith(prefix))
        return spent * 1e6 / max(1, self.checks)


def measure(fleet: Fleet, seconds: float) -> Span:
    """Let the fleet run for a while, and tell what it did."""
    before, first, began = fleet.cpu_seconds(), now(), time.monotonic()
    time.sleep(seconds)
    return close(fleet, before, first, began)


def close(fleet: Fleet, before: Mapping[str, float], first: int, began: float) -> Span:
    """End a span that began with these readings."""
    after, until, span_s = fleet.cpu_seconds(), now(), time.monotonic() - began
    memory = {name: _memory_mb(fleet.pid(name)) for name in after if name not in NOT_OURS}
    due = _due(fleet, first, until)
    ends = time.monotonic() + SETTLED_S
    while True:
        checks, judged, delays, latencies = fleet.query(_ROWS, first, until)[0]
        if checks >= due or time.monotonic() > ends:
            break
        time.sleep(0.5)
    return Span(
        first=first,
        until=until,
        seconds=span_s,
        due=due,
        checks=checks,
        judged=judged,
        cpu_s={n: s - before.get(n, 0.0) for n, s in after.items() if n not in NOT_OURS},
        memory_mb=memory,
        delay_ms=dict(zip(("p50", "p95", "p99", "max"), delays or [0.0] * 4, strict=True)),
        latency_ms=dict(zip(("p50", "p99"), latencies or [0.0] * 2, strict=True)),
    )


def _memory_mb(pid: int) -> float:
    parent = psutil.Process(pid)
    tree = [parent, *parent.children(recursive=True)]
    if len(tree) == 1:
        return float(parent.memory_info().rss) / 2**20
    total = 0
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 2**20


def _due(fleet: Fleet, first: int, until: int) -> int:
    return sum(
        Epoch(interval_ms=interval, phase_ms=phase, first_slot=slot, to=end).count(first, until)
        for interval, phase, slot, end in fleet.query(
            "SELECT interval_ms, phase_ms, first_slot, end_slot FROM schedule_epochs"
        )
    )


def await_calm(fleet: Fleet, subscriptions: int) -> None:
    """Return when each of so many subscriptions has been checked and the first rush is over.

    First checks are due as fast as subscriptions are made, which no steady load is. A fleet that
    is never on time is measured as it is.
    """
    fleet.wait_for(
        "a first check of every subscription",
        lambda: (
            fleet.scalar("SELECT count(*) FROM subscription_state WHERE verdict <> 'unknown'")
            >= subscriptions
        ),
        120,
    )
    ends = time.monotonic() + RUSH_S
    while time.monotonic() < ends and fleet.scalar(_LATE) > CALM_MS:
        time.sleep(1.0)


def now() -> int:
    """Ms since the epoch."""
    return to_slot(datetime.now(UTC))
