"""Keeps each address within what its service allows, whatever number of channels leads there.

Five hundred subscriptions may share one incoming webhook. When they all go down, sending anyway
and collecting 429s would get the fleet's address banned (Discord: 10,000 in 10 minutes). `Pacer`
is the port: a pacer that all workers share is handed in, and while it is away each process paces
itself, for an alert that comes too fast is better than none.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import structlog

from lighthouse.errors import ScheduleError
from lighthouse.model import Rate, Turn

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Addresses whose pace is kept in this process; past it the idle ones are forgotten.
MOST_KEPT = 10_000
#: The shortest window, in seconds: nobody is sent away to come back at once.
SHORTEST_WINDOW_S = 0.1
#: The longest that a service keeps us away: what waits longer is given up anyway.
LONGEST_CLOSED_S = 24 * 3600.0
#: How much later than the opening anybody is asked to come: of thirty messages to a service that
#: closed for an hour some would else be given up, as if nothing could arrive within a day.
LONGEST_SPREAD_S = 6 * 3600.0
#: Seconds that one question to the shared pacer may take.
SHARED_WAIT_S = 1.0
#: Seconds for which a shared pacer that did not answer is not asked again.
AWAY_S = 5.0


class Pacer(Protocol):
    """Who may send to an address now. Implementations raise nothing but ScheduleError."""

    async def turn(self, address: str, rates: Sequence[Rate], patience_s: float) -> Turn:
        """Take a turn, if the address is open and all `rates` grant one within `patience_s`.

        Those who are sent away get later times in turn, and take no turn from anybody.
        """
        ...

    async def close(self, address: str, seconds: float, per_window: int | None = None) -> None:
        """The service wants nothing more for so long, then `per_window` messages at a time."""
        ...


@dataclass(slots=True)
class _Gate:
    """Until when an address is closed, and how many have been told to come back."""

    open_at: float = 0.0
    window_s: float = 1.0
    per_window: int = 1
    held: int = 0


@dataclass(slots=True)
class _Rated:
    """When the next message of a rate may go, and how many have been told to come back."""

    next_at: float = 0.0
    held: int = 0


class OwnPacer:
    """The pace of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gates: dict[str, _Gate] = {}
        self._rated: dict[str, _Rated] = {}

    async def turn(self, address: str, rates: Sequence[Rate], patience_s: float) -> Turn:
        closed_s = self.closed_s(address)
        if closed_s > 0:
            return Turn(mine=False, wait_s=closed_s)
        if not rates:
            return Turn(mine=True, wait_s=0.0)
        now = self._clock()
        found = [(self._rate(rate.key, now), rate) for rate in rates]
        wait_s = max(0.0, *(rated.next_at - now for rated, _ in found))
        if wait_s <= patience_s:
            self.took(rates, wait_s)
            return Turn(mine=True, wait_s=wait_s)
        slowest, rate = max(found, key=lambda each: each[0].next_at)
        later_s = wait_s + slowest.held * rate.seconds
        slowest.held += 1
        return Turn(mine=False, wait_s=later_s)

    async def close(self, address: str, seconds: float, per_window: int | None = None) -> None:
        now = self._clock()
        if address not in self._gates and len(self._gates) >= MOST_KEPT:
            self._gates = {a: g for a, g in self._gates.items() if g.open_at > now}
        gate = self._gates.setdefault(address, _Gate())
        if gate.open_at <= now:
            gate.held = 0
        gate.open_at = max(gate.open_at, now + min(seconds, LONGEST_CLOSED_S))
        gate.window_s = max(min(seconds, LONGEST_CLOSED_S), SHORTEST_WINDOW_S)
        if per_window is not None:
            gate.per_window = max(per_window, 1)

    def closed_s(self, address: str) -> float:
        """0 when the address is open; else when to come back, later for each who asks."""
        gate = self._gates.get(address)
        left = gate.open_at - self._clock() if gate is not None else 0.0
        if gate is None or left <= 0:
            return 0.0
        turn = gate.held // gate.per_window
        gate.held += 1
        return left + min(turn * gate.window_s, LONGEST_SPREAD_S)

    def took(self, rates: Sequence[Rate], wait_s: float) -> None:
        """A turn was taken that comes in `wait_s` seconds."""
        now = self._clock()
        for rate in rates:
            rated = self._rate(rate.key, now)
            rated.next_at, rated.held = now + wait_s + rate.seconds, 0

    def _rate(self, key: str, now: float) -> _Rated:
        if key not in self._rated and len(self._rated) >= MOST_KEPT:
            self._rated = {k: r for k, r in self._rated.items() if r.next_at > now}
        return self._rated.setdefault(key, _Rated())


class SharedPacer:
    """The pacer that all workers share while it answers, this process' own while it does not.

    What the shared one grants and what services told this process is noted in the own one too, so
    that a server which goes away, or comes back empty, sets nothing free.
    """

    def __init__(self, shared: Pacer, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared = shared
        self._own = OwnPacer(clock)
        self._clock = clock
        self._away_until: float | None = None
        self._asking: set[asyncio.Task[Any]] = set()

    async def turn(self, address: str, rates: Sequence[Rate], patience_s: float) -> Turn:
        turn = await self._asked(lambda: self._shared.turn(address, rates, patience_s))
        if turn is None:
            return await self._own.turn(address, rates, patience_s)
        if turn.mine:
            closed_s = self._own.closed_s(address)
            if closed_s > 0:
                return Turn(mine=False, wait_s=closed_s)
            self._own.took(rates, turn.wait_s)
        return turn

    async def close(self, address: str, seconds: float, per_window: int | None = None) -> None:
        await self._own.close(address, seconds, per_window)
        await self._asked(lambda: self._shared.close(address, seconds, per_window))

    async def _asked(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        if self._away_until is not None and self._clock() < self._away_until:
            return None
        # Who asks in vain goes on and the question ends by itself: cut off, it might leave its
        # answer in a connection for whoever uses that next.
        asking = asyncio.create_task(ask())
        self._asking.add(asking)
        asking.add_done_callback(self._answered)
        await asyncio.wait({asking}, timeout=SHARED_WAIT_S)
        try:
            answer = asking.result()
        except (ScheduleError, asyncio.InvalidStateError) as exc:
            if self._away_until is None:
                why = str(exc) if asking.done() else f"no answer within {SHARED_WAIT_S:g} s"
                log.warning("alerts are paced by each worker alone", why=why)
            self._away_until = self._clock() + AWAY_S
            return None
        if self._away_until is not None:
            log.info("alerts are paced by all workers together again")
            self._away_until = None
        return answer

    def _answered(self, asking: asyncio.Task[Any]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # of one that nobody waits for any more


@dataclass(slots=True)
class _Crowd:
    slots: asyncio.Semaphore
    users: int = 0


@dataclass(slots=True)
class Crowds:
    """How many messages this process has under way to each address."""

    _crowds: dict[str, _Crowd] = field(default_factory=dict)

    @asynccontextmanager
    async def slot(self, address: str, at_once: int, timeout_s: float) -> AsyncIterator[bool]:
        """True with one of the `at_once` places; False when none became free in time."""
        crowd = self._crowds.setdefault(address, _Crowd(asyncio.Semaphore(at_once)))
        crowd.users += 1
        mine = False
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    mine = await crowd.slots.acquire()
            yield mine
        finally:
            if mine:
                crowd.slots.release()
            crowd.users -= 1
            if not crowd.users:
                del self._crowds[address]
