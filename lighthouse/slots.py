"""When a subscription is due: pure arithmetic on integer milliseconds.

A subscription's phase comes from its id, so load spreads evenly over any interval, the same slots
are computed by every process, and a slot that has no row can be named.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID


def phase(subscription_id: UUID, interval_ms: int) -> int:
    """The offset of a subscription's grid within its interval, in ms.

    Never Python's `hash()`: that is salted per process.
    """
    return subscription_id.int % interval_ms


def next_slot(after: int, interval_ms: int, phase_ms: int) -> int:
    """The first grid slot strictly later than `after`."""
    return after + interval_ms - (after - phase_ms) % interval_ms


def latest_slot(until: int, interval_ms: int, phase_ms: int) -> int:
    """The last grid slot not later than `until`."""
    return until - (until - phase_ms) % interval_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """A span in which one schedule was in force.

    Due are `first_slot` (the immediate check after an activation or resume; it may lie off the
    grid) and every grid slot in (first_slot, to). `to` is exclusive; None while in force.
    """

    interval_ms: int
    phase_ms: int
    first_slot: int
    to: int | None = None

    def due(self, after: int, until: int) -> Iterator[int]:
        """The due slots in the half-open span (after, until], in order."""
        end = until if self.to is None else min(until, self.to - 1)
        if after < self.first_slot <= end:
            yield self.first_slot
        slot = next_slot(max(after, self.first_slot), self.interval_ms, self.phase_ms)
        while slot <= end:
            yield slot
            slot += self.interval_ms

    def count(self, after: int, until: int) -> int:
        """How many slots `due` would yield, without walking them."""
        end = until if self.to is None else min(until, self.to - 1)
        total = 1 if after < self.first_slot <= end else 0
        start = next_slot(max(after, self.first_slot), self.interval_ms, self.phase_ms)
        if start <= end:
            total += (end - start) // self.interval_ms + 1
        return total


def grid_count(first: int, step_ms: int, number: int, low: int, high: int) -> int:
    """How many of `number` slots from `first` on, `step_ms` apart, lie in [low, high)."""
    if number <= 0 or high <= low:
        return 0
    begin = max(0, -((first - low) // step_ms))
    end = min(number - 1, (high - 1 - first) // step_ms)
    return max(0, end - begin + 1)
