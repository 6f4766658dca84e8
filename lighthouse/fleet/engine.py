"""The ONE asyncio engine of a worker process: a loop in its own thread, and all that runs on it.

Celery's threads only decode messages and wait here for admission; a target that hangs pins none.
"""

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog
import uvloop

from lighthouse import probes
from lighthouse.channels import Sender, operator_channels
from lighthouse.errors import LighthouseError, StoreError
from lighthouse.fleet.batches import Batches
from lighthouse.fleet.confirm import Confirmer
from lighthouse.fleet.delivery import Courier
from lighthouse.fleet.health import Health
from lighthouse.fleet.recorder import Recorder
from lighthouse.fleet.targets import references
from lighthouse.schedule import Confirmations, Leases, Pace, check_server, connect_async
from lighthouse.sealing import Keyring
from lighthouse.settings import Settings
from lighthouse.store import maintenance, rollups, upkeep
from lighthouse.store import sweep as sweeping
from lighthouse.store.budgets import Limits
from lighthouse.store.coverage import tell_coverage
from lighthouse.store.migrate import require_migrated
from lighthouse.store.outbox import enqueue_operator
from lighthouse.store.pool import open_pool, reach, translated
from lighthouse.store.summaries import summarise

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Connections of one worker: flush, delivery, upkeep tasks and a spare.
POOL_SIZE = 6
#: Allocations between two collections of the youngest objects (Python's own is 700).
GC_THRESHOLD = 20_000
#: Seconds beyond `shutdown_s` for the last flush and the giving back of leases.
LAST_FLUSH_S = 5.0
#: Seconds in which what is still under way at the end is cut off.
CUT_OFF_S = 2.0
#: Seconds after which a thread that waits for the loop notices that it has ended.
NOTICE_S = 1.0


class Engine:
    """Made by `open`, ended by `close`. Its public methods are called from Celery's threads."""

    def __init__(self, settings: Settings, name: str, notify: Callable[[], None]) -> None:
        self._settings = settings
        self._name = name
        self._notify = notify
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine", daemon=True)
        self._stack = contextlib.AsyncExitStack()
        self._background: list[asyncio.Task[None]] = []
        self._closing = False
        self._hints = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hints")

    @classmethod
    def open(cls, settings: Settings, *, name: str, notify: Callable[[], None]) -> "Engine":
        """Start the loop and everything on it.

        `notify` is called, in a thread, when alerts wait in the outbox. Raises StoreUnavailable,
        NotMigrated, ScheduleUnavailable or ScheduleMisconfigured, each one line.
        """
        check_server(settings.require_redis())
        engine = cls(settings, name, notify)
        engine._thread.start()
        try:
            engine._wait(engine._open())
        except BaseException:
            engine.close()
            raise
        # What has been imported stays, and a check leaves no circles behind: collecting rarely
        # keeps pauses out of the loop.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 50)
        return engine

    async def _open(self) -> None:
        settings, stack = self._settings, self._stack
        await reach(settings.require_database())
        self._pool = await stack.enter_async_context(
            open_pool(
                settings.require_database(), minimum=1, maximum=POOL_SIZE, application=self._name
            )
        )
        await require_migrated(self._pool)
        client = connect_async(settings.require_redis())
        stack.push_async_callback(client.aclose)
        prober = await stack.enter_async_context(probes.Prober(settings))
        sender = await stack.enter_async_context(Sender(settings, pacer=Pace(client)))
        self._sender = sender
        self._limits = Limits(
            subscription=settings.alerts_per_subscription, user=settings.alerts_per_user
        )
        self._courier = Courier(self._pool, sender)
        stack.push_async_callback(self._courier.close, settings.shutdown_s)
        self._batches = Batches(
            leases=Leases(client, self._name),
            prober=prober,
            max_in_flight=settings.max_in_flight,
            region=settings.region,
            keys=Keyring(settings.secret_keys),
        )
        self._recorder = Recorder(
            self._pool,
            flush_s=settings.flush_ms / 1000,
            flush_rows=settings.flush_rows,
            max_buffered=settings.max_buffered,
            limits=self._limits,
            committed=self._batches.committed,
            alerted=self._alerted,
        )
        self._batches.recorder = self._recorder
        confirmer = Confirmer(
            Confirmations(client, self._name),
            specs=self._batches.specs,
            prober=prober,
            worker=self._name,
            region=settings.region,
            cut_off=lambda: self._batches.health.cut_off,
        )
        self._batches.health = Health(
            prober=prober,
            references=references(settings.reference_targets),
            add=self._recorder.add,
            alarm=self._network_lost,
            confirm=confirmer.ask,
        )
        self._flushing = asyncio.create_task(self._watched(self._recorder.run()))
        self._background = [
            asyncio.create_task(self._watched(self._batches.run())),
            asyncio.create_task(self._watched(self._batches.keep())),
            asyncio.create_task(self._watched(confirmer.run())),
        ]

    async def _watched(self, part: Coroutine[Any, Any, None]) -> None:
        """A part that dies of a bug must be heard: a worker without it would look healthy."""
        try:
            await part
        except Exception:
            log.exception("a part of the engine died; the worker ends")
            self._die()

    def _die(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def _network_lost(self, why: str) -> None:
        self._telling = asyncio.create_task(self._tell_operator(why))

    async def _tell_operator(self, why: str) -> None:
        """One alert an hour and region, whichever of its workers notices first."""
        region = self._settings.region or "this fleet"
        key = f"self_outage:{region}:{datetime.now(UTC):%Y-%m-%dT%H}"
        title = f"Probes from {region} get no answers"
        operators = [channel.id for channel in operator_channels(self._settings)]
        try:
            with translated():
                async with self._pool.connection() as connection:
                    if await enqueue_operator(connection, operators, key, title, why):
                        self._alerted()
        except StoreError as exc:
            log.warning("the operator was not told", why=str(exc))

    def _alerted(self) -> None:
        self._hints.submit(self._hint)

    def _hint(self) -> None:
        try:
            self._notify()
        except Exception as exc:  # noqa: BLE001 - only a hint: the outbox's sweep is the guarantee
            log.warning("no hint sent on alerts", why=str(exc))

    def run_batch(self, batch: str, attempt: int) -> None:
        """Returns when the batch is admitted; blocks while the engine is full."""
        self._wait(self._batches.admit(batch, attempt))

    def deliver(self) -> None:
        """Send everything due in the outbox."""
        self._upkeep("deliver", self._courier.deliver_due())

    def sweep(self) -> None:
        """Write `missed` for due slots that have no row."""
        self._upkeep("sweep", sweeping.sweep(self._pool, self._settings.missed_grace_s))

    def rollup(self) -> None:
        """Keep the rollup tables (nothing to do on the community edition)."""
        self._upkeep("rollup", rollups.run(self._pool))

    def upkeep(self) -> None:
        """Make coming partitions and drop old ones."""
        self._upkeep("upkeep", upkeep.run(self._pool, self._settings.raw_history_days))

    def expire(self) -> None:
        """End subscriptions whose time is over."""
        self._upkeep("expire", upkeep.expire(self._pool))

    def tend(self) -> None:
        """Move maintenance windows on, summarise what was withheld, tell of low coverage."""
        self._upkeep("tend", self._tend())

    async def _tend(self) -> None:
        await maintenance.advance(self._pool)
        told = await tell_coverage(self._pool, list(self._sender.operator_channels), self._limits)
        if await summarise(self._pool, self._sender.address) or told.low or told.enough:
            self._alerted()

    def _upkeep(self, name: str, work: Coroutine[Any, Any, Any]) -> None:
        """A periodic task: what PostgreSQL's absence prevents, the next run does."""
        try:
            self._wait(work)
        except (StoreError, CancelledError) as exc:
            why = str(exc) or "the worker ends"
            log.warning("task not done, the next run does it", task=name, why=why)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result. Raises CancelledError when the loop ends before it.

        Celery joins its threads without a limit, so that none may wait for what never comes.
        """
        if not self._thread.is_alive():
            work.close()
            raise CancelledError
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            done, _ = wait([future], timeout=NOTICE_S)
            if done:
                return future.result()
            if not self._thread.is_alive():
                raise CancelledError

    def close(self) -> None:
        """End probes inside their deadline, store what they found, give leases back."""
        if self._closing:
            return
        self._closing = True
        if self._thread.is_alive():
            try:
                self._wait(self._close())
            except LighthouseError as exc:
                log.warning("engine closed badly", why=str(exc))
            self._wait(self._cut_off())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5.0)
        self._hints.shutdown(wait=False, cancel_futures=True)

    async def _close(self) -> None:
        if hasattr(self, "_batches") and hasattr(self, "_recorder"):
            await self._batches.close(self._settings.shutdown_s)
            await self._batches.health.close()
            self._recorder.close()
            await asyncio.wait([self._flushing], timeout=LAST_FLUSH_S)
            for task in [*self._background, self._flushing]:
                task.cancel()
            await self._batches.give_back()
        await self._stack.aclose()

    async def _cut_off(self) -> None:
        """End what a thread may still wait for: a long sweep or rollup, which another redoes."""
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=CUT_OFF_S)


_engine: Engine | None = None


def engine_started(engine: Engine) -> None:
    """Make an engine this process' own."""
    global _engine
    _engine = engine


def engine_stopped() -> None:
    """Close this process' engine; twice is harmless."""
    if _engine is not None:
        _engine.close()


def engine() -> Engine:
    """This process' engine. Raises RuntimeError outside a worker."""
    if _engine is None:
        raise RuntimeError("the engine runs in a worker: celery -A lighthouse.fleet worker")
    return _engine
