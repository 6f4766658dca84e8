"""The simulator's processes: beats whose rounds are the product's own, workers that are little more
than their leases."""

from collections.abc import Coroutine
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock
from uuid import UUID

from lighthouse.errors import LighthouseError, ScheduleError
from lighthouse.fleet import beat, reconcile
from lighthouse.model import Result
from lighthouse.schedule import Claims, Leases, StartedCheck
from lighthouse.schedule.leases import RENEW_S, Token
from tests.support.wire import AsyncPort

if TYPE_CHECKING:
    from tests.support.simulator import World

T = TypeVar("T")


class Killed(BaseException):
    """Ends a process where it stands, like SIGKILL: no handler of errors may see it."""


@dataclass(slots=True, eq=False)
class _Held:
    token: Token
    left: set[tuple[UUID, int]]
    lost: bool = False


class Beat:
    """A process of `celery beat`: the product's own rounds."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.frozen = False
        port = world.port()
        with mock.patch.object(beat, "connect", return_value=port):
            self._scheduler = beat.Scheduler(_App(world), lazy=True)
        self._reconciler = reconcile.Reconciler(world.settings, Claims(port))  # type: ignore[arg-type]
        self._scheduler._reconciler = self._reconciler
        self._round: Coroutine[Any, Any, tuple[int, bool]] | None = None
        self._since = 0
        self._everything = True

    def tick(self) -> None:
        self._scheduler.tick()

    def reconcile(self) -> None:
        """Begin a round, or take the next step of the one that is under way."""
        if self._round is None:
            self._everything = self._since == 0 or self._reconciler._full.is_set()
            self._reconciler._full.clear()
            since = 0 if self._everything else self._since
            self._round = self._reconciler._round(self._world, since)  # type: ignore[arg-type]
        try:
            self._round.send(None)
        except StopIteration as end:
            next_xid, agree = end.value
            self._since = next_xid if agree else 0
        except LighthouseError:
            self._since = 0 if self._everything else self._since
        else:
            return
        self._round = None

    @property
    def busy(self) -> bool:
        return self._round is not None

    def die(self) -> None:
        if self._round is not None:
            self._round.close()


class _App:
    """The Celery application as beat uses it."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.conf = SimpleNamespace(beat_max_loop_interval=1.0, beat_sync_every=0)
        self.amqp = SimpleNamespace(Producer=None)

    def producer_or_acquire(self) -> Any:
        return nullcontext()

    def send_task(
        self, name: str, *, args: tuple[str, int] = ("", 0), queue: str, **_: Any
    ) -> None:
        if name == "lighthouse.run_batch":
            self._world.publish(queue, *args)


class Worker:
    """A worker as engine, batches and recorder have it, without their concurrency."""

    def __init__(self, world: "World", name: str, queues: tuple[str, ...]) -> None:
        self._world = world
        self.name, self.queues = name, queues
        self.frozen = self.dead = False
        self._leases = Leases(AsyncPort(world.port()), name)  # type: ignore[arg-type]
        self._taken: list[tuple[str, int]] = []
        self._held: dict[Token, _Held] = {}
        self._ready: list[tuple[_Held, StartedCheck]] = []
        self._buffer: list[Result] = []
        self._released: set[Token] = set()
        self._renewed_at = 0  #: monotonic, ms

    def take(self) -> None:
        """Take a message off a queue. It has left the broker; only its lease protects it now."""
        for queue in self.queues:
            message = self._world.receive(queue) if len(self._taken) < 3 else None
            if message is not None:
                self._taken.append(message)

    def admit(self) -> None:
        if not self._taken:
            return
        batch, attempt = self._taken.pop(0)
        try:
            started = _run(self._leases.start(batch, attempt))
        except ScheduleError:
            return
        if not started.checks:
            return
        self._world.started(self, batch, attempt, started.checks)
        held = _Held((batch, attempt), {(c.subscription_id, c.slot) for c in started.checks})
        self._held[held.token] = held
        self._ready += [(held, check) for check in started.checks]

    def probe(self) -> None:
        """End one probe; which one is up to its target."""
        if not self._ready or self._world.targets_hang:
            return
        held, check = self._ready.pop(self._world.chance.randrange(len(self._ready)))
        if held.lost:
            self._drop(held, (check.subscription_id, check.slot))
            return
        self._buffer.append(
            Result(
                subscription_id=check.subscription_id,
                slot=check.slot,
                status=self._world.status(check.subscription_id),
                delay_ms=max(0, check.delay_ms),
            )
        )

    def flush(self) -> None:
        if not self._buffer or self._world.postgres_away:
            return
        self._world.store.record(self._buffer)
        if self._world.faults.unacked and self._world.happens(0.2):
            return  # it is recorded once more
        for result in self._buffer:
            for held in list(self._held.values()):
                self._drop(held, (result.subscription_id, result.slot))
        self._buffer = []

    def _drop(self, held: _Held, check: tuple[UUID, int]) -> None:
        if check in held.left:
            held.left.discard(check)
            if not held.left and held.token in self._held:
                del self._held[held.token]
                if not held.lost:
                    self._released.add(held.token)

    def keep(self) -> None:
        """Release what is done, renew what is not."""
        try:
            if self._released:
                done = sorted(self._released)
                self._world.let_go(done)
                _run(self._leases.release(done))
                self._released.difference_update(done)
            if self._world.now - self._renewed_at >= RENEW_S * 1000:
                mine = [token for token, held in self._held.items() if not held.lost]
                lost = _run(self._leases.renew(mine))
                for token in lost:
                    self._held[token].lost = True
                self._world.renewed(self, [token for token in mine if token not in lost])
                self._renewed_at = self._world.now
        except ScheduleError:
            pass

    def close(self) -> None:
        """As at SIGTERM: what is not recorded is another worker's."""
        self.flush()
        rest = [(held.token, sorted(held.left)) for held in self._held.values() if not held.lost]
        self._world.let_go([*self._released, *(token for token, _ in rest)])
        try:
            _run(self._leases.release(sorted(self._released)))
            _run(self._leases.give_back(rest))
            _run(self._leases.leave())
        except ScheduleError:
            pass


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("it waited")
