"""Collects results of all batches and flushes them: every 200 ms or 1,000 rows by default.

While PostgreSQL is away results wait here up to a bound; past it `full` stops admission.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from lighthouse.errors import StoreError
from lighthouse.model import Result
from lighthouse.store.budgets import Limits
from lighthouse.store.pool import Pool
from lighthouse.store.record import DEFAULT_LIMITS, Recorded, record

log = structlog.get_logger(__name__)

#: Rows of one transaction at the most: 5,000 gained a third over 1,000, more gains nothing.
MAX_ROWS = 5000
#: Waits between tries while PostgreSQL is away.
BACKOFF_S = (0.2, 0.5, 1.0, 2.0)


@dataclass(slots=True)
class Totals:
    """What this recorder has done since its start."""

    stored: int = 0
    duplicates: int = 0
    refused: int = 0
    events: int = 0


class Recorder:
    """One per engine; everything but `full` belongs to the engine's loop."""

    def __init__(
        self,
        pool: Pool,
        *,
        flush_s: float,
        flush_rows: int,
        max_buffered: int,
        limits: Limits = DEFAULT_LIMITS,
        committed: Callable[[Sequence[Result]], None],
        alerted: Callable[[], None],
    ) -> None:
        """`committed` hears of rows that are safe, `alerted` of alerts that wait in the outbox."""
        self._pool = pool
        self._flush_s = flush_s
        self._flush_rows = flush_rows
        self._max_buffered = max_buffered
        self._limits = limits
        self._committed = committed
        self._alerted = alerted
        self._buffer: list[Result] = []
        self._some = asyncio.Event()
        self._enough = asyncio.Event()
        self._closing = False
        self.totals = Totals()

    @property
    def full(self) -> bool:
        """Whether no more results should be made."""
        return len(self._buffer) >= self._max_buffered

    @property
    def waiting(self) -> int:
        """Results not committed yet."""
        return len(self._buffer)

    def add(self, result: Result) -> None:
        """Take a result; it is committed within the flush time while PostgreSQL answers."""
        self._buffer.append(result)
        self._some.set()
        if len(self._buffer) >= self._flush_rows:
            self._enough.set()

    async def run(self) -> None:
        """Flush until `close`; then flush what is left, once more while PostgreSQL answers."""
        failures = 0
        while True:
            if not self._closing:
                await self._some.wait()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._enough.wait(), self._flush_s)
            rows = self._buffer[:MAX_ROWS]
            if rows:
                try:
                    # A cancelled flush might have been committed: never cut it off.
                    done = await asyncio.shield(record(self._pool, rows, self._limits))
                except StoreError as exc:
                    if failures == 0:
                        log.warning("results wait for PostgreSQL", rows=self.waiting, why=str(exc))
                    if self._closing and failures:
                        return
                    await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                    failures += 1
                    continue
                if failures:
                    log.info("PostgreSQL is back", rows=self.waiting)
                    failures = 0
                del self._buffer[: len(rows)]
                self._count(done)
                self._committed(rows)
                if done.events:
                    self._alerted()
            if not self._buffer:
                self._some.clear()
                if self._closing:
                    return
            if len(self._buffer) < self._flush_rows:
                self._enough.clear()

    def close(self) -> None:
        """Let `run` end after what has been added."""
        self._closing = True
        self._some.set()
        self._enough.set()

    def _count(self, done: Recorded) -> None:
        self.totals.stored += done.stored
        self.totals.duplicates += done.duplicates
        self.totals.refused += done.refused
        self.totals.events += done.events
        if done.refused:
            log.error("results refused", rows=done.refused)
