"""Batches on the engine's loop: admitted while there is room, run at a pace, released when stored.

Pacing keeps the loop's iterations short, so that a probe's phases are read when they happen: the
next few probes start only after the sockets that are ready have been served.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from lighthouse import probes
from lighthouse.errors import ScheduleError
from lighthouse.fleet.health import Health
from lighthouse.fleet.recorder import Recorder
from lighthouse.fleet.specs import Known, Specs
from lighthouse.model import CheckStatus, Outcome, Reason, Result
from lighthouse.schedule import Leases, StartedCheck
from lighthouse.schedule.leases import RENEW_S, Token
from lighthouse.sealing import Keyring

log = structlog.get_logger(__name__)

#: Probes started in one iteration of the loop.
BURST = 4
#: The log tells of shed checks this often.
SHED_LOG_S = 10.0


@dataclass(slots=True, eq=False)
class _Held:
    """A batch that this worker holds until its last result is committed."""

    token: Token
    left: set[tuple[UUID, int]]  #: (subscription, slot) not committed yet
    started_at: float  #: monotonic, s
    lost: bool = False


@dataclass(slots=True, eq=False)
class _Ready:
    held: _Held
    check: StartedCheck
    known: Known


class Batches:
    """Everything here runs on the engine's loop."""

    def __init__(
        self,
        *,
        leases: Leases,
        prober: probes.Prober,
        max_in_flight: int,
        region: str | None,
        keys: Keyring | None = None,
    ) -> None:
        self._leases = leases
        self._prober = prober
        self._max_in_flight = max_in_flight
        self._region = region
        self._held: dict[Token, _Held] = {}
        self._by_row: dict[tuple[UUID, int], list[_Held]] = {}
        self._released: set[Token] = set()
        self._unread: list[tuple[Token, list[tuple[UUID, int]]]] = []  #: to be given back
        self.specs = Specs(leases, keys or Keyring())
        self._ready: deque[_Ready] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Condition()
        self._door = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0  #: admitted checks without a result
        self._closing = False
        self._shed = 0  #: since the log told of it
        self.recorder: Recorder  # set by the engine: each knows the other
        self.health: Health  # set by the engine

    @property
    def in_flight(self) -> int:
        """Checks that were admitted and have no result yet."""
        return self._in_flight

    async def admit(self, batch: str, attempt: int) -> None:
        """Take a batch; waits while the engine is full. Its lease stays queued until then."""
        # One at a time: those that wait would all see the same room, and fill it many times over.
        async with self._door:
            async with self._room:
                await self._room.wait_for(self._has_room)
            if not self._closing:
                await self._start(batch, attempt)

    async def _start(self, batch: str, attempt: int) -> None:
        try:
            started = await self._leases.start(batch, attempt)
        except ScheduleError as exc:
            # The lease is reaped and its batch published again.
            log.warning("batch not started", batch=batch, why=str(exc))
            return
        try:
            await self.specs.learn((c.subscription_id, c.version) for c in started.checks)
        except ScheduleError as exc:
            # It is ours: nobody else would have it before its lease is over.
            log.warning("batch not read", batch=batch, why=str(exc))
            slots = [(c.subscription_id, c.slot) for c in started.checks]
            self._unread.append(((batch, attempt), slots))
            return
        self._shed += started.shed
        if not started.checks:
            return
        held = _Held(
            token=(batch, attempt),
            left={(c.subscription_id, c.slot) for c in started.checks},
            started_at=time.monotonic(),
        )
        self._held[held.token] = held
        for check in started.checks:
            self._by_row.setdefault((check.subscription_id, check.slot), []).append(held)
            known = self.specs.get(check.subscription_id)
            if known is None:  # removed between the two reads
                self._drop(held, check)
                continue
            self._ready.append(_Ready(held, check, known))
            self._in_flight += 1
        self._wake.set()

    def _has_room(self) -> bool:
        return self._closing or (self._in_flight < self._max_in_flight and not self.recorder.full)

    async def run(self) -> None:
        """Start what is ready, a few probes for each iteration of the loop."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._ready:
                for _ in range(min(BURST, len(self._ready))):
                    ready = self._ready.popleft()
                    if ready.held.lost or self._closing:
                        self._finish()
                        if ready.held.lost:
                            self._drop(ready.held, ready.check)
                        continue
                    task = asyncio.create_task(self._probe(ready))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                await asyncio.sleep(0)

    async def _probe(self, ready: _Ready) -> None:
        check, known = ready.check, ready.known
        late = int((time.monotonic() - ready.held.started_at) * 1000)
        try:
            if known.config is None:
                outcome = Outcome(
                    status=CheckStatus.ERROR, reason=Reason.PROBER_CONFIG, message=known.problem
                )
            else:
                outcome = await self._prober.probe(
                    known.type, known.config, check.interval_ms / 1000
                )
        except Exception:
            # The batch's edge: our own bug must not cost the other checks, nor be called a fault
            # of the target.
            log.exception("probe failed", subscription_id=str(check.subscription_id))
            outcome = Outcome(
                status=CheckStatus.ERROR,
                reason=Reason.PROBER_BUG,
                message="the prober failed; its log has the reason",
            )
        finally:
            self._finish()
        result = Result.of(
            check.subscription_id,
            check.slot,
            outcome,
            delay_ms=check.delay_ms + late,
            region=self._region,
        )
        if known.target is None:
            self.recorder.add(result)
        else:
            self.health.take(known.target, outcome, result, check.interval_ms / 1000)

    def _finish(self) -> None:
        self._in_flight -= 1
        if self._in_flight == self._max_in_flight - 1 or self._in_flight == 0:
            self.look_again()

    def look_again(self) -> None:
        """Let waiting batches see whether there is room now."""
        asyncio.ensure_future(self._notify())  # noqa: RUF006 - ends at once

    async def _notify(self) -> None:
        async with self._room:
            self._room.notify_all()

    def committed(self, results: Sequence[Result]) -> None:
        """Rows are safe: release each batch that has nothing left."""
        for result in results:
            key = (result.subscription_id, result.slot)
            for held in self._by_row.pop(key, ()):
                held.left.discard(key)
                if not held.left:
                    self._let_go(held)
        self.look_again()

    def _drop(self, held: _Held, check: StartedCheck) -> None:
        key = (check.subscription_id, check.slot)
        holders = self._by_row.get(key, [])
        if held in holders:
            holders.remove(held)
        if not holders:
            self._by_row.pop(key, None)
        held.left.discard(key)
        if not held.left:
            self._let_go(held)

    def _let_go(self, held: _Held) -> None:
        if self._held.pop(held.token, None) and not held.lost:
            self._released.add(held.token)

    async def keep(self) -> None:
        """Renew leases and release finished ones until cancelled."""
        renewed = told = 0.0
        while True:
            if self._shed and time.monotonic() - told >= SHED_LOG_S:
                told = time.monotonic()
                log.warning("checks shed: later than their own interval", checks=self._shed)
                self._shed = 0
            try:
                if self._released:
                    done = list(self._released)
                    await self._leases.release(done)
                    self._released.difference_update(done)
                if self._unread:
                    given = self._unread[:]  # while it waits, more may come
                    await self._leases.give_back(given)
                    del self._unread[: len(given)]
                if time.monotonic() - renewed >= RENEW_S:
                    held = [token for token, held in self._held.items() if not held.lost]
                    for token in await self._leases.renew(held):
                        self._lose(token)
                    renewed = time.monotonic()
            except ScheduleError as exc:
                log.warning("leases not renewed", held=len(self._held), why=str(exc))
                await asyncio.sleep(1.0)
            await asyncio.sleep(0.2)

    def _lose(self, token: Token) -> None:
        """Another worker has the batch, or will have it: start nothing more of it.

        It may be this worker, under the next attempt. What is running may end and be stored: the
        first row of a slot stands.
        """
        held = self._held.get(token)
        if held is not None:  # else its last row was committed meanwhile
            held.lost = True
            log.warning("lease lost", batch=token[0], checks=len(held.left))

    async def close(self, deadline_s: float) -> None:
        """Take nothing more, give running probes until the deadline, end the rest."""
        self._closing = True
        self.look_again()
        self._wake.set()
        end = time.monotonic() + deadline_s
        while self._tasks and time.monotonic() < end:
            await asyncio.wait(set(self._tasks), timeout=end - time.monotonic())
        rest = set(self._tasks)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def give_back(self) -> None:
        """After the last flush: hand over what has no row, release what has one."""
        with contextlib.suppress(ScheduleError):
            await self._leases.release(list(self._released))
            await self._leases.give_back(
                [(h.token, list(h.left)) for h in self._held.values() if not h.lost] + self._unread
            )
            await self._leases.leave()
