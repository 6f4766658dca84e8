"""The arithmetic of due slots against definitions that walk every millisecond."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from lighthouse.slots import Epoch, grid_count, latest_slot, next_slot, phase

intervals = st.integers(1, 50)
moments = st.integers(0, 500)


@given(moments, intervals, st.data())
def test_the_next_slot_is_the_first_grid_point_later_than_now(
    now: int, interval: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, interval - 1))
    expected = next(t for t in range(now + 1, now + interval + 1) if t % interval == offset)
    assert next_slot(now, interval, offset) == expected


@given(moments, intervals, st.data())
def test_the_latest_slot_is_the_last_grid_point_not_later_than_now(
    now: int, interval: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, interval - 1))
    latest = latest_slot(now, interval, offset)
    assert latest <= now < latest + interval
    assert latest % interval == offset


@given(st.uuids(), st.integers(1, 86_400_000))
def test_a_phase_lies_within_its_interval(subscription_id: UUID, interval: int) -> None:
    assert 0 <= phase(subscription_id, interval) < interval


def test_a_phase_is_the_same_in_every_process() -> None:
    assert phase(UUID("9f1c3a52-7c44-4e6b-8f0d-2b6a1c9de001"), 60_000) == 38_529


@given(intervals, moments, st.none() | st.integers(0, 300), moments, st.integers(0, 500), st.data())
def test_due_are_the_immediate_slot_and_the_grid_after_it(
    interval: int, first: int, length: int | None, after: int, span: int, data: st.DataObject
) -> None:
    offset = data.draw(st.integers(0, interval - 1))
    end = None if length is None else first + length
    epoch = Epoch(interval_ms=interval, phase_ms=offset, first_slot=first, to=end)
    until = after + span
    expected = [
        t
        for t in range(after + 1, until + 1)
        if (t == first or (t > first and t % interval == offset)) and (end is None or t < end)
    ]
    assert list(epoch.due(after, until)) == expected
    assert epoch.count(after, until) == len(expected)


@given(moments, intervals, st.integers(0, 60), moments, moments)
def test_grid_count_counts_the_slots_between_two_bounds(
    first: int, step: int, number: int, low: int, high: int
) -> None:
    walked = [first + n * step for n in range(number)]
    assert grid_count(first, step, number, low, high) == sum(low <= t < high for t in walked)
