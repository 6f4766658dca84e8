"""A fleet in one thread: seeded interleavings of everything that beats, workers, servers and
people can do to each other, in simulated time.

Real are beat's rounds, the reconciler's, the Lua of the schedule (in a real Redis, under a clock
of ours) and the rules of floor 1; modelled are the broker, the workers and PostgreSQL. So a seed
means one history, and thousands of them take a minute. What happens inside one transaction of
PostgreSQL, or one process, is the business of the tests on real ones.
"""

import random
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit
from uuid import UUID

import redis.exceptions
import structlog

from lighthouse.errors import LighthouseError, StoreUnavailable
from lighthouse.fleet import beat, reconcile
from lighthouse.local import servers
from lighthouse.model import CheckStatus
from lighthouse.schedule import StartedCheck, claims
from lighthouse.schedule.keys import LEASE_PREFIX, LEASES, META, META_FORMAT, QUEUES
from lighthouse.schedule.leases import LEASE_MS, Token
from lighthouse.settings import Settings, load
from lighthouse.store.changes import Changes
from tests.support.checker import judge
from tests.support.modelled_store import Store
from tests.support.simulated_processes import Beat, Killed, Worker
from tests.support.wire import Port, Wire

#: Where simulated time begins, in ms since the epoch.
BEGINNING = 1_800_000_000_000
#: As LIGHTHOUSE_MISSED_GRACE_S.
GRACE_MS = 20_000
#: In which checks must run again once all faults are over (I6).
RETURN_MS = 30_000
#: The short ones are due within it; the long ones outlast a lease, so that what a worker lost is
#: not too late for another one.
INTERVALS_S = (10, 12, 15, 60, 60)
STEPS = 200


class Violation(AssertionError):  # noqa: N818 - what a test fails with
    """An invariant that did not hold, and how to see it again."""

    def __init__(self, seed: int, what: str) -> None:
        super().__init__(f"seed {seed}: {what}\n  replay: python -m tests.support.simulator {seed}")


class _Turn:
    """Awaited where a coroutine lets others go first."""

    def __await__(self) -> Generator[None, None, None]:
        yield


@dataclass(slots=True)
class _Batch:
    """What is known of a batch's latest start, to tell when another one comes too early."""

    worker: Worker
    attempt: int
    until: int  #: Redis' time to which the lease lasts by what its holder knows


@dataclass(slots=True, kw_only=True)
class Faults:
    """What may go wrong in a run. Few at a time find more than all at once."""

    messages: bool  #: lost, doubled, delayed or delivered again much later
    answers: bool  #: of Redis, which are lost after the call was done
    deaths: bool
    freezes: bool
    flushes: bool
    outages: bool  #: of Redis and PostgreSQL
    clocks: bool
    changes: bool  #: of schedules, by their owners
    leaps: bool  #: everything stands still for minutes
    unacked: bool  #: COMMIT succeeds and its answer is lost

    @classmethod
    def draw(cls, chance: random.Random) -> "Faults":
        return cls(**{name: chance.random() < 0.5 for name in cls.__slots__})


class World:
    """Everything of one run. Its public methods are what beats and workers see of it."""

    def __init__(self, wire: Wire, seed: int, steps: int = STEPS) -> None:
        self._wire, self._seed, self._steps = wire, seed, steps
        self.chance = random.Random(seed)
        self.faults = Faults.draw(self.chance)
        self.settings: Settings = load({"REDIS_URL": "redis://simulated"})
        self.now = BEGINNING  #: true time, ms
        self._redis_off = self._postgres_off = 0  #: what the servers' clocks differ by, ms
        self.postgres_away = self._redis_away = self.targets_hang = self._calm = False
        self.store = Store(lambda: self.now + self._postgres_off, GRACE_MS)
        self._later: list[tuple[int, str, str, int]] = []  #: when, and the message
        self._published: list[tuple[str, str, int]] = []
        self._down: set[UUID] = set()
        self._batches: dict[str, _Batch] = {}
        self._starts: dict[tuple[UUID, int], str] = {}  #: slot -> batch
        self._last_start: dict[UUID, int] = {}
        self._serial = 0
        self._waiting = dict.fromkeys(QUEUES, 0)  #: messages, so that nobody asks for none

    @property
    def redis_now(self) -> int:
        return self.now + self._redis_off

    def happens(self, share: float) -> bool:
        return not self._calm and self.chance.random() < share

    def port(self) -> Port:
        return Port(self._wire, lambda: self.redis_now, self._trouble)

    def _trouble(self, done: bool) -> None:
        if self._redis_away or (done and self.faults.answers and self.happens(0.02)):
            raise redis.exceptions.ConnectionError("no answer")

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[None]:
        """PostgreSQL's pool, as the reconciler has it."""
        if self.postgres_away:
            raise StoreUnavailable("away")
        yield None

    @asynccontextmanager
    async def changes(self, _: object, since: int) -> AsyncIterator[Changes]:
        rows, next_xid, active = self.store.snapshot(since)

        async def batches() -> AsyncIterator[Any]:
            for row in rows:
                yield [row]
                if self.happens(0.5):
                    await _Turn()

        yield Changes(next_xid=next_xid, active_count=active, batches=batches())

    async def identity(self, _: object) -> str:
        return "one"

    def publish(self, queue: str, batch: str, attempt: int) -> None:
        if self.faults.deaths and self.happens(0.03):
            raise Killed  # between claim and publish
        if self._redis_away:
            raise OSError("no broker")
        self._published.append((queue, batch, attempt))
        if self.faults.messages:
            if self.happens(0.1):
                return
            if self.happens(0.1):
                self._later.append((self.now + self.chance.randrange(9000), queue, batch, attempt))
                if self.happens(0.5):
                    return
        self._push(queue, batch, attempt)

    def _push(self, queue: str, batch: str, attempt: int) -> None:
        self._waiting[queue] += 1
        self._wire.command("LPUSH", queue, f"{batch} {attempt}")

    def receive(self, queue: str) -> tuple[str, int] | None:
        if self._redis_away or not self._waiting[queue]:
            return None
        self._waiting[queue] -= 1
        found = self._wire.command("RPOP", queue)
        batch, _, attempt = found.decode().partition(" ")
        return batch, int(attempt)

    def status(self, id_: UUID) -> CheckStatus:
        if self.happens(0.03):
            return CheckStatus.ERROR
        return CheckStatus.FAILURE if id_ in self._down else CheckStatus.SUCCESS

    def started(
        self, worker: Worker, batch: str, attempt: int, checks: "list[StartedCheck] | Any"
    ) -> None:
        """A worker has got a batch. Nobody else may still hold it (I2)."""
        before = self._batches.get(batch)
        if before is not None:
            if before.attempt == attempt:
                self._fail(f"batch {batch} started twice under attempt {attempt}")
            holds = not before.worker.dead and self.redis_now < before.until
            if holds and not self.faults.clocks and not self.faults.flushes:
                self._fail(f"batch {batch} was taken from a worker that renewed it")
        self._batches[batch] = _Batch(worker, attempt, self.redis_now + LEASE_MS)
        for check in checks:
            key = (check.subscription_id, check.slot)
            other = self._starts.setdefault(key, batch)
            rebuilt = self.faults.flushes or self.faults.clocks or self.faults.changes
            if other != batch and not rebuilt:
                self._fail(f"slot {key} was claimed in two batches")
            self._last_start[check.subscription_id] = self.now

    def renewed(self, worker: Worker, tokens: list[Token]) -> None:
        for batch, attempt in tokens:
            known = self._batches[batch]
            if known.worker is worker and known.attempt == attempt:
                known.until = self.redis_now + LEASE_MS

    def let_go(self, tokens: list[Token]) -> None:
        for batch, attempt in tokens:
            if self._batches[batch].attempt == attempt:
                self._batches[batch].until = 0

    def _fail(self, what: str) -> None:
        named = [name for name in Faults.__slots__ if getattr(self.faults, name)]
        raise Violation(self._seed, f"{what}\n  faults: {' '.join(named)}")

    def run(self) -> None:
        """Faults, then calm, then the reckoning. Raises Violation."""
        self._wire.command("FLUSHDB")
        with _patched(self):
            self._begin()
            for _ in range(self._steps):
                self._step()
            self._calm_down()
            self._reckon()

    def _begin(self) -> None:
        for number in range(self.chance.randint(2, 6)):
            self.store.subscribe(
                UUID(int=self.chance.getrandbits(128)),
                self.chance.choice(INTERVALS_S),
                browser=self.chance.random() < 0.2,
                first_slot=self.now + 700 * number,
            )
        self._ids = list(self.store.watched)
        self._beats = [Beat(self) for _ in range(self.chance.randint(1, 2))]
        self._workers = [
            self._new_worker(queues)
            for queues in (QUEUES, *[QUEUES[:1]] * self.chance.randrange(3))
        ]

    def _new_worker(self, queues: tuple[str, ...]) -> Worker:
        self._serial += 1
        return Worker(self, f"w{self._serial}", queues)

    def _step(self) -> None:
        self.now += self.chance.choice((0, 0, 100, 300, 1000, 2500))
        self._deliver_late()
        if self.chance.random() < 0.12:
            self.chance.choice(self._disturbances())()
        elif self.chance.random() < 0.35:
            self._let_beat(self.chance.randrange(len(self._beats)))
        elif self.chance.random() < 0.12:
            if not self.postgres_away:
                self.store.sweep(self.chance.random())
        else:
            worker = self.chance.choice(self._workers)
            if not worker.frozen:
                works = (worker.take, worker.admit, worker.probe, worker.flush, worker.keep)
                for work in self.chance.choices(works, (2, 2, 4, 2, 3), k=4):
                    work()

    def _let_beat(self, number: int) -> None:
        one = self._beats[number]
        if one.frozen:
            return
        try:
            if self.chance.random() < 0.4:
                one.reconcile()
            else:
                one.tick()
        except Killed:
            self._beats[number] = Beat(self)

    def _deliver_late(self) -> None:
        due = [entry for entry in self._later if entry[0] <= self.now]
        for entry in due:
            self._later.remove(entry)
            self._push(*entry[1:])

    def _disturbances(self) -> list[Callable[[], None]]:
        faults = self.faults
        found: list[Callable[[], None]] = [self._toggle]
        for wanted, more in (
            (faults.changes, (self._change, self._change, self._commit)),
            (faults.deaths, (self._kill_worker, self._kill_beat, self._close_worker)),
            (faults.freezes, (self._freeze, self._freeze, self._hang)),
            (faults.flushes, (self._flushall,)),
            (faults.outages, (self._redis_outage, self._postgres_outage)),
            (faults.clocks, (self._step_clock,)),
            (faults.leaps, (self._leap,)),
            (faults.messages, (self._deliver_again,)),
        ):
            found += more if wanted else ()
        return found

    def _toggle(self) -> None:
        self._down ^= {self.chance.choice(self._ids)}

    def _change(self) -> None:
        interval = self.chance.choice((None, *INTERVALS_S))
        self.store.begin_change(self.chance.choice(self._ids), interval)
        if self.chance.random() < 0.7:
            self._commit()

    def _commit(self) -> None:
        if self.store.open:
            self.store.commit_change(self.chance.choice(self.store.open))

    def _close_worker(self) -> None:
        self._kill_worker(close=True)

    def _kill_worker(self, *, close: bool = False) -> None:
        number = self.chance.randrange(len(self._workers))
        if close and not self._workers[number].frozen:
            self._workers[number].close()
        self._workers[number].dead = True
        self._workers[number] = self._new_worker(self._workers[number].queues)

    def _kill_beat(self) -> None:
        number = self.chance.randrange(len(self._beats))
        self._beats[number].die()
        self._beats[number] = Beat(self)

    def _freeze(self) -> None:
        processes: list[Beat | Worker] = [*self._beats, *self._workers]
        one = self.chance.choice(processes)
        one.frozen = not one.frozen

    def _hang(self) -> None:
        self.targets_hang = not self.targets_hang

    def _flushall(self) -> None:
        self._waiting = dict.fromkeys(QUEUES, 0)
        self._wire.command("FLUSHDB")

    def _redis_outage(self) -> None:
        self._redis_away = not self._redis_away

    def _postgres_outage(self) -> None:
        self.postgres_away = not self.postgres_away

    def _step_clock(self) -> None:
        if self.chance.random() < 0.3:  # within the grace, or no server could tell what was due
            self._postgres_off = self.chance.randint(-GRACE_MS // 4, GRACE_MS // 4)
        else:
            self._redis_off += self.chance.choice((-3_600_000, -60_000, -5_000, 3_000, 60_000))

    def _leap(self) -> None:
        self.now += self.chance.choice((30_000, 120_000, 900_000))

    def _deliver_again(self) -> None:
        if self._published:
            self._push(*self.chance.choice(self._published))

    def _calm_down(self) -> None:
        """All faults are over, every process runs: within RETURN_MS so must every check (I6)."""
        self._calm = True
        self._redis_away = self.postgres_away = self.targets_hang = False
        self._redis_off = self._postgres_off = 0
        processes: list[Beat | Worker] = [*self._beats, *self._workers]
        for process in processes:
            process.frozen = False
        while self.store.open:
            self._commit()
        back = self.now
        while self.now < back + RETURN_MS:
            self.now += 1000
            self._deliver_late()
            for number, one in enumerate(self._beats):
                one.tick()
                if number == 0 or one.busy:
                    one.reconcile()
            for worker in self._workers:
                for _ in range(3):
                    worker.take()
                while worker._taken:
                    worker.admit()
                while worker._ready:
                    worker.probe()
                worker.flush()
                worker.keep()
        idle = [
            str(watched.id)
            for watched in self.store.watched.values()
            if watched.active
            and watched.interval_s <= 15
            and self._last_start.get(watched.id, 0) < back
        ]
        if idle:
            self._fail(f"I6: not checked within {RETURN_MS} ms of the return: {idle}")

    def _reckon(self) -> None:
        end = self.now
        self._check_schedule()
        self.now += GRACE_MS * 2
        self.store.sweep()
        assert self.store.watermark is not None
        if self.store.watermark < end:
            self._fail("the sweep did not come to the end")
        found = judge(self.store.history(), until=self.store.watermark)
        if self.faults.clocks:
            # A clock of Redis that is wrong by an hour has checked slots of another time.
            found.never_due.clear()
        # Whoever changes a schedule reads the clock first and commits later; what is recorded
        # between the two is due by all that anybody can know.
        found.never_due = [one for one in found.never_due if one not in self.store.asked_for]
        try:
            found.assert_invariants()
        except AssertionError as exc:
            self._fail(str(exc))

    def _check_schedule(self) -> None:
        """Redis agrees with PostgreSQL, and no batch was left behind."""
        metas = self._wire.command("HGETALL", META)
        scheduled = {}
        for member, meta in zip(metas[::2], metas[1::2], strict=True):
            version, _, _, epoch, queue = META_FORMAT.unpack(meta)
            scheduled[UUID(bytes=member)] = (version, epoch, QUEUES[queue])
        wanted = {
            watched.id: (
                watched.xid,
                self.store.epochs[watched.id][-1][0],
                QUEUES[watched.browser],
            )
            for watched in self.store.watched.values()
            if watched.active
        }
        if scheduled != wanted:
            self._fail(f"the schedule is {scheduled} and ought to be {wanted}")
        if self.faults.clocks:
            return  # what was leased by a clock that was ahead waits until it is reached again
        for batch in self._wire.command("ZRANGE", LEASES, 0, -1):
            since = self._wire.command("HGET", LEASE_PREFIX + batch.decode(), "c")
            if since is not None and self.redis_now - int(since) > RETURN_MS * 2 // 3:
                self._fail(f"batch {batch.decode()} was left behind")


@contextmanager
def _patched(world: World) -> Iterator[None]:
    """The product in a simulated world: its clock, its database, its random names, no log."""
    silent = structlog.wrap_logger(None, processors=[_drop])
    # Where `tick` finds what ends a process; the application itself reads the environment.
    application = SimpleNamespace(fail=_fail)
    with ExitStack() as stack:
        stack.enter_context(
            mock.patch.dict(sys.modules, {"lighthouse.fleet.application": application})
        )
        for module, name, value in (
            (beat, "time", SimpleNamespace(monotonic=lambda: world.now / 1000)),
            (beat, "current", lambda: world.settings),
            (beat, "log", silent),
            (beat, "FIXED", ()),
            (reconcile, "log", silent),
            (reconcile, "changes", world.changes),
            (reconcile, "identity", world.identity),
            (claims, "uuid4", lambda: UUID(int=world.chance.getrandbits(128))),
        ):
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def _drop(*_: Any) -> Any:
    raise structlog.DropEvent


def _fail(error: LighthouseError) -> None:
    raise AssertionError(error)


@contextmanager
def connected() -> Iterator[Wire]:
    """A Redis that nobody else uses, and that keeps nothing."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        server = servers.prepare_redis(directory, logs=directory / "logs")
        with (directory / "redis" / "redis.conf").open("a") as lines:
            lines.write(f"appendonly no\nunixsocket {directory}/socket\n")
        password = unquote(urlsplit(server.url).password or "")
        with servers.running(server), Wire(f"{directory}/socket", password) as wire:
            yield wire


def hunt(wire: Wire, seeds: Iterable[int]) -> str:
    """Run a world for each seed; what the first violation says, or nothing."""
    for seed in seeds:
        try:
            World(wire, seed).run()
        except Violation as exc:
            return str(exc)
    return ""


def explore(seeds: Iterable[int]) -> str:
    """The same on a Redis of its own."""
    with connected() as wire:
        return hunt(wire, seeds)


if __name__ == "__main__":
    sys.exit(explore(map(int, sys.argv[1:])) or 0)
