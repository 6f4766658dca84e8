"""Runs of due slots against the slots that an epoch yields one by one."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from lighthouse.gaps import LONGEST_IN_ROWS, Run, Told, due_runs, tell, without
from lighthouse.slots import Epoch

ID = UUID("00000000-0000-4000-8000-00000000002a")

intervals = st.integers(1, 40)
moments = st.integers(0, 400)


@st.composite
def epochs(draw: st.DrawFn) -> Epoch:
    interval = draw(intervals)
    first = draw(moments)
    return Epoch(
        interval_ms=interval,
        phase_ms=draw(st.integers(0, interval - 1)),
        first_slot=first,
        to=draw(st.none() | st.integers(first, first + 400)),
    )


@st.composite
def runs(draw: st.DrawFn) -> Run:
    return Run(
        subscription_id=ID,
        first=draw(moments),
        interval_ms=draw(intervals),
        count=draw(st.integers(1, 100)),
    )


def slots_of(run: Run) -> list[int]:
    return [run.first + n * run.interval_ms for n in range(run.count)]


@given(epochs(), moments, st.integers(0, 500))
def test_the_runs_of_an_epoch_are_its_due_slots_in_order(
    epoch: Epoch, after: int, length: int
) -> None:
    until = after + length
    found = list(due_runs(ID, epoch, after, until))
    assert [slot for run in found for slot in slots_of(run)] == list(epoch.due(after, until))
    assert len(found) <= 2
    assert all(run.interval_ms == epoch.interval_ms for run in found)


@given(epochs(), moments, st.integers(0, 200), st.integers(0, 200))
def test_two_spans_that_meet_hold_the_slots_of_the_whole(
    epoch: Epoch, after: int, one: int, two: int
) -> None:
    def walk(a: int, b: int) -> list[int]:
        return [slot for run in due_runs(ID, epoch, a, b) for slot in slots_of(run)]

    middle, end = after + one, after + one + two
    assert walk(after, middle) + walk(middle, end) == walk(after, end)
    assert len(walk(after, end)) == epoch.count(after, end)


@given(runs(), st.integers(-50, 5000))
def test_a_gap_without_a_slot_holds_all_the_others(gap: Run, slot: int) -> None:
    parts = without(gap, slot)
    assert [s for part in parts for s in slots_of(part)] == [s for s in slots_of(gap) if s != slot]


@given(runs(), st.data())
def test_a_gap_falls_into_two_at_most(gap: Run, data: st.DataObject) -> None:
    slot = data.draw(st.sampled_from(slots_of(gap)))
    assert len(without(gap, slot)) == (slot != gap.first) + (slot != gap.last)


def run_of(count: int) -> Run:
    return Run(subscription_id=ID, first=1000, interval_ms=10, count=count)


def test_sixty_missed_slots_are_rows_and_one_more_is_a_gap() -> None:
    def told(count: int) -> Told:
        return tell(run_of(count), continues=False, follows_rows=False, horizon=0)

    assert told(LONGEST_IN_ROWS) is Told.ROWS
    assert told(LONGEST_IN_ROWS + 1) is Told.GAP


def test_a_slot_after_sixty_missed_rows_begins_a_gap() -> None:
    assert tell(run_of(1), continues=False, follows_rows=True, horizon=0) is Told.GAP


def test_a_slot_after_a_gap_extends_it_however_old_it_is() -> None:
    assert tell(run_of(1), continues=True, follows_rows=False, horizon=0) is Told.EXTENDS
    assert tell(run_of(1), continues=True, follows_rows=False, horizon=2000) is Told.EXTENDS


def test_slots_older_than_the_horizon_are_never_rows() -> None:
    assert tell(run_of(2), continues=False, follows_rows=False, horizon=1001) is Told.GAP
    assert tell(run_of(2), continues=False, follows_rows=False, horizon=1000) is Told.ROWS
