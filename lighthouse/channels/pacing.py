"""Keeps each address within what its service allows, whatever number of channels leads there.

Five hundred subscriptions may share one incoming webhook. When they all go down, sending anyway
and collecting 429s would get the fleet's address banned (Discord: 10,000 in 10 minutes).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Gates that are kept; past it the idle ones are forgotten.
MOST_GATES = 10_000


class Gate:
    """One address: how many messages may be under way, and from when on the next may go."""

    def __init__(self, at_once: int, clock: Callable[[], float]) -> None:
        self.slots = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._clock = clock
        self._open_at = 0.0
        self._window_s = 1.0
        self._per_window = 1
        self._held = 0
        self.users = 0

    @property
    def idle(self) -> bool:
        return self.users == 0 and self._clock() >= self._open_at

    def wait_s(self) -> float:
        """0 when a message may go now; else when to come back.

        Those who are held back get later times in turn, as many a window as the service takes.
        """
        left = self._open_at - self._clock()
        if left <= 0:
            self._held = 0
            return 0.0
        turn = self._held // self._per_window
        self._held += 1
        return left + turn * self._window_s

    def close_for(self, seconds: float, *, per_window: int | None = None) -> None:
        """The service wants nothing more for so long."""
        self._open_at = max(self._open_at, self._clock() + seconds)
        self._window_s = max(seconds, 0.1)
        if per_window is not None:
            self._per_window = max(per_window, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What a service publishes as its limit: one message costs so many seconds of its turn."""

    key: str  #: what is limited: a chat, a bot, a number
    seconds: float


@dataclass(slots=True)
class _Turns:
    """When the next message may go, and how many have been told to come back."""

    next_at: float = 0.0
    held: int = 0


class Pacer:
    """The gates of one sender."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gates: dict[str, Gate] = {}
        self._turns: dict[str, _Turns] = {}

    def turn(self, rates: Sequence[Rate], patience_s: float) -> tuple[bool, float]:
        """(True, seconds to wait first) when the turn is yours; (False, when to come back) if not.

        Those who are sent away get later times in turn, and take no turn from anybody.
        """
        if not rates:
            return True, 0.0
        now = self._clock()
        if len(self._turns) >= MOST_GATES:
            self._turns = {k: t for k, t in self._turns.items() if t.next_at > now}
        turns = [(self._turns.setdefault(rate.key, _Turns()), rate) for rate in rates]
        wait_s = max(0.0, *(turn.next_at - now for turn, _ in turns))
        if wait_s <= patience_s:
            for turn, rate in turns:
                turn.next_at, turn.held = now + wait_s + rate.seconds, 0
            return True, wait_s
        slowest, rate = max(turns, key=lambda found: found[0].next_at)
        later_s = wait_s + slowest.held * rate.seconds
        slowest.held += 1
        return False, later_s

    def gate(self, address: str, at_once: int) -> Gate:
        """The gate of an address, made at its first use."""
        gate = self._gates.get(address)
        if gate is None:
            if len(self._gates) >= MOST_GATES:
                self._gates = {a: g for a, g in self._gates.items() if not g.idle}
            gate = self._gates[address] = Gate(at_once, self._clock)
        return gate
