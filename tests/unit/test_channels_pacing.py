"""A process paces itself while no pacer is shared, or while that one is away."""

import asyncio
from collections.abc import Sequence

import pytest

from lighthouse.channels import pacing
from lighthouse.channels.pacing import Crowds, OwnPacer, SharedPacer
from lighthouse.errors import ScheduleUnavailable
from lighthouse.model import Rate, Turn


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pacer(clock: Clock) -> OwnPacer:
    return OwnPacer(clock)


def mine(wait_s: float = 0.0) -> Turn:
    return Turn(mine=True, wait_s=wait_s)


def away(wait_s: float) -> Turn:
    return Turn(mine=False, wait_s=wait_s)


async def test_an_address_is_open_until_its_service_closes_it(
    clock: Clock, pacer: OwnPacer
) -> None:
    assert await pacer.turn("a", (), 1.0) == mine()
    await pacer.close("a", 2.0)
    assert await pacer.turn("a", (), 1.0) == away(2.0)
    assert await pacer.turn("b", (), 1.0) == mine()
    clock.now += 2
    assert await pacer.turn("a", (), 1.0) == mine()


async def test_those_sent_away_get_times_as_many_a_window_as_the_service_takes(
    pacer: OwnPacer,
) -> None:
    await pacer.close("a", 2.0, per_window=5)
    found = [(await pacer.turn("a", (), 1.0)).wait_s for _ in range(12)]
    assert found == [2] * 5 + [4] * 5 + [6] * 2


async def test_nobody_is_sent_away_beyond_the_day_after_which_an_alert_is_given_up(
    pacer: OwnPacer,
) -> None:
    """A service that bans for an hour takes more than one message in all the hours after it."""
    await pacer.close("a", 3600.0)
    found = [(await pacer.turn("a", (), 1.0)).wait_s for _ in range(100)]
    assert max(found) == found[-1] == 7 * 3600


async def test_times_start_anew_once_the_address_has_opened(clock: Clock, pacer: OwnPacer) -> None:
    await pacer.close("a", 2.0, per_window=1)
    assert [(await pacer.turn("a", (), 1.0)).wait_s for _ in range(2)] == [2, 4]
    clock.now += 2
    await pacer.close("a", 2.0, per_window=1)
    assert await pacer.turn("a", (), 1.0) == away(2.0)


async def test_a_later_shorter_wish_does_not_open_an_address_early(pacer: OwnPacer) -> None:
    await pacer.close("a", 60)
    await pacer.close("a", 1)
    assert await pacer.turn("a", (), 1.0) == away(60.0)


async def test_no_service_closes_an_address_for_more_than_a_day(pacer: OwnPacer) -> None:
    await pacer.close("a", 1e300)
    assert await pacer.turn("a", (), 1.0) == away(24 * 3600.0)


async def test_a_rate_grants_turns_within_patience_and_sends_the_others_away(
    pacer: OwnPacer,
) -> None:
    rates = (Rate(key="chat", seconds=1.0), Rate(key="bot", seconds=0.1))
    found = [await pacer.turn("a", rates, 1.0) for _ in range(4)]
    assert found == [mine(), mine(1.0), away(2.0), away(3.0)]


async def test_idle_addresses_are_forgotten_and_closed_ones_are_not(
    clock: Clock, pacer: OwnPacer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "MOST_KEPT", 10)
    await pacer.close("closed", 100)
    for number in range(30):
        await pacer.close(str(number), 1.0)
        await pacer.turn(str(number), (Rate(key=str(number), seconds=1.0),), 1.0)
        clock.now += 1
    assert await pacer.turn("closed", (), 1.0) == away(70.0)
    assert len(pacer._gates) <= 10
    assert len(pacer._rated) <= 10


class Shared:
    """A shared pacer that grants everything, or is away, or hangs."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False
        self.hangs = False

    async def turn(self, address: str, rates: Sequence[Rate], patience_s: float) -> Turn:
        await self._answer()
        return mine()

    async def close(self, address: str, seconds: float, per_window: int | None = None) -> None:
        await self._answer()

    async def _answer(self) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(60)
        if self.away:
            raise ScheduleUnavailable("Redis is not available")


async def test_while_the_shared_pacer_is_away_the_process_paces_itself(clock: Clock) -> None:
    shared, rates = Shared(), (Rate(key="chat", seconds=1.0),)
    pacer = SharedPacer(shared, clock)
    shared.away = True
    assert [await pacer.turn("a", rates, 0.5) for _ in range(2)] == [mine(), away(1.0)]
    assert shared.asked == 1  # once, not for each message
    shared.away = False
    clock.now += pacing.AWAY_S
    assert [await pacer.turn("a", rates, 0.5) for _ in range(2)] == [mine(), mine()]
    assert shared.asked == 3


async def test_what_the_shared_pacer_granted_counts_when_it_goes_away(clock: Clock) -> None:
    shared, rates = Shared(), (Rate(key="chat", seconds=1.0),)
    pacer = SharedPacer(shared, clock)
    assert await pacer.turn("a", rates, 0.5) == mine()
    shared.away = True
    assert await pacer.turn("a", rates, 0.5) == away(1.0)


async def test_what_a_service_told_this_process_holds_when_the_shared_pacer_forgets_it(
    clock: Clock,
) -> None:
    pacer = SharedPacer(Shared(), clock)
    await pacer.close("a", 30)
    assert await pacer.turn("a", (), 1.0) == away(30.0)


async def test_a_shared_pacer_that_hangs_costs_one_bounded_wait(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "SHARED_WAIT_S", 0.05)
    shared = Shared()
    shared.hangs = True
    pacer = SharedPacer(shared, clock)
    async with asyncio.timeout(1.0):
        for _ in range(100):
            assert await pacer.turn("a", (), 1.0) == mine()
    assert shared.asked == 1


async def test_an_address_has_so_many_places_and_leaves_nothing_behind() -> None:
    crowds = Crowds()
    async with crowds.slot("a", 1, 0.01) as first, crowds.slot("a", 1, 0.01) as second:
        assert (first, second) == (True, False)
        async with crowds.slot("b", 1, 0.01) as other:
            assert other
    async with crowds.slot("a", 1, 0.01) as again:
        assert again
    assert crowds._crowds == {}
