"""Runs of due slots that have no row, and how a run is told: rows of `missed`, or a gap record.

A row a slot is exact and reads like any check, so short silences get rows; a silence of days gets
one record, for nobody reads a million rows that all say nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from lighthouse.slots import Epoch, next_slot

#: The most missed slots in a row that get a row each.
LONGEST_IN_ROWS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Consecutive slots of one grid: first, first + interval_ms, … `count` of them."""

    subscription_id: UUID
    first: int  #: ms since the epoch
    interval_ms: int
    count: int  #: at least 1

    @property
    def last(self) -> int:
        return self.first + (self.count - 1) * self.interval_ms


class Told(Enum):
    """How a run enters the history."""

    ROWS = "rows"
    GAP = "gap"
    EXTENDS = "extends"


def due_runs(subscription_id: UUID, epoch: Epoch, after: int, until: int) -> Iterator[Run]:
    """The slots that `epoch.due(after, until)` yields, as one or two runs.

    Two when the epoch's immediate slot lies in the span and off the grid.
    """
    end = until if epoch.to is None else min(until, epoch.to - 1)
    first = next_slot(max(after, epoch.first_slot), epoch.interval_ms, epoch.phase_ms)
    count = max(0, (end - first) // epoch.interval_ms + 1)
    if after < epoch.first_slot <= end:
        if epoch.first_slot + epoch.interval_ms == first:
            first, count = epoch.first_slot, count + 1
        else:
            yield Run(
                subscription_id=subscription_id,
                first=epoch.first_slot,
                interval_ms=epoch.interval_ms,
                count=1,
            )
    if count:
        yield Run(
            subscription_id=subscription_id,
            first=first,
            interval_ms=epoch.interval_ms,
            count=count,
        )


def tell(run: Run, *, continues: bool, follows_rows: bool, horizon: int) -> Told:
    """How to tell a run.

    `continues`: a gap record ends one interval before it; `follows_rows`: LONGEST_IN_ROWS missed
    rows in a row do; `horizon`: slots before it can have no rows, since their chunk is closed.
    """
    if continues:
        return Told.EXTENDS
    if run.count > LONGEST_IN_ROWS or follows_rows or run.first < horizon:
        return Told.GAP
    return Told.ROWS


def without(gap: Run, slot: int) -> list[Run]:
    """The gap less one of its slots: none, one or two runs. A slot not in it changes nothing."""
    position, off_grid = divmod(slot - gap.first, gap.interval_ms)
    if off_grid or not 0 <= position < gap.count:
        return [gap]
    before = (gap.first, position)
    after = (slot + gap.interval_ms, gap.count - position - 1)
    return [
        Run(
            subscription_id=gap.subscription_id,
            first=first,
            interval_ms=gap.interval_ms,
            count=count,
        )
        for first, count in (before, after)
        if count
    ]
