"""The beat scheduler: claims what is due, reaps lost batches, follows PostgreSQL's changes.

Any number of beats may run: claims are atomic, reconciling is idempotent and the fixed tasks are
safe to run twice. All its own timing is monotonic; what is due is decided by Redis' clock.
"""

import time
from typing import Any

import structlog
from celery.beat import Scheduler as CeleryScheduler

from lighthouse.errors import LighthouseError
from lighthouse.fleet.reconcile import Reconciler
from lighthouse.schedule import Claims, Published, check_server, connect
from lighthouse.settings import current

log = structlog.get_logger(__name__)

#: Subscriptions of one claim call: about 2 ms of Redis' time.
CLAIM_LIMIT = 1000
#: The same of the queue `browser`: its messages hold one check each, for a browser's work is what
#: workers should share, and so few of them may wait, for perhaps nobody takes that queue.
BROWSER_LIMIT = 100
BROWSER_BATCH = 1
BROWSER_QUEUED = 100
#: Calls of one tick, so that reaping and fixed tasks get their turn under any load.
CLAIMS_A_TICK = 20
REAP_S = 1.0
#: A difference between Redis' clock and ours that changes by this has been stepped.
CLOCK_JUMP_MS = 5_000
#: Workers have caught up when claiming was not held up for so long.
CAUGHT_UP_S = 10.0
#: Waits after a tick that failed: first, and at the most.
BACKOFF_S = (0.2, 5.0)

#: What is told of a queue whose batches wait too long: its log line, the alert's title and text.
_OVERLOAD = {
    "checks": (
        "beat: overload, claiming waits until workers catch up; add workers",
        "The fleet is overloaded",
        "Checks wait longer for a worker than they may, so some are not run and are accounted for"
        " as missed. Start more workers.",
    ),
    "browser": (
        "beat: browser checks wait for a worker of the queue browser",
        "Browser checks wait for a worker",
        "Canaries with a browser step wait longer for a worker than they may, so some are not run"
        " and are accounted for as missed. Start workers with -Q browser. Other checks go on.",
    ),
}

#: No more fixed tasks are sent to a queue in which so many messages wait: nobody takes them.
FIXED_WAITING = 20
#: Fixed tasks: name, queue, seconds between two runs.
FIXED: tuple[tuple[str, str, float], ...] = (
    ("lighthouse.deliver", "alerts", 5.0),
    ("lighthouse.sweep", "maintenance", 10.0),
    ("lighthouse.expire", "maintenance", 15.0),
    ("lighthouse.tend", "maintenance", 20.0),
    ("lighthouse.rollup", "maintenance", 60.0),
    ("lighthouse.upkeep", "maintenance", 3600.0),
)


class Scheduler(CeleryScheduler):  # type: ignore[misc]
    """What `celery beat` runs. `tick` never raises: that would end beat."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._settings = current()
        self._claims = Claims(connect(self._settings.require_redis()))
        self._fixed_at = {name: 0.0 for name, _, _ in FIXED}
        self._reap_at = 0.0
        self._failures = 0
        self._full_at: dict[str, float] = {}  #: queues that are behind: when last seen full, s
        self._offset: int | None = None
        self._reconciler: Reconciler | None = None
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Called once when beat really starts."""
        from lighthouse.fleet.application import fail

        try:
            check_server(self._settings.require_redis())
            self._reconciler = Reconciler(self._settings, self._claims)
            self._reconciler.start()
        except LighthouseError as exc:
            fail(exc)

    def tick(self, *_: Any, **__: Any) -> float:
        """One round; returns the seconds to sleep before the next."""
        from lighthouse.fleet.application import fail

        if self._reconciler is not None and self._reconciler.refused is not None:
            # Half a beat would look healthy: whoever supervises it starts a whole one.
            fail(self._reconciler.refused)
        began = time.monotonic()
        tick_s = self._settings.tick_ms / 1000
        try:
            more = self._round(began)
        except Exception as exc:  # an entrance: the next round may succeed
            if self._failures == 0 or not isinstance(exc, LighthouseError):
                log.warning("beat: round failed", why=str(exc), exc_info=_unexpected(exc))
            first, most = BACKOFF_S
            self._failures += 1
            return float(min(first * 2 ** min(self._failures, 10), most))
        if self._failures:
            log.info("beat: rounds succeed again", failed=self._failures)
            self._failures = 0
        if more:
            return 0.0
        return max(0.0, tick_s - (time.monotonic() - began))

    def _round(self, now: float) -> bool:
        """Claim, reap and send fixed tasks; returns whether more is due at once."""
        more = self._claim_due("checks", CLAIM_LIMIT, self._settings.batch_size)
        more = self._claim_due("browser", BROWSER_LIMIT, BROWSER_BATCH) or more
        if now >= self._reap_at:
            self._reap_at = now + REAP_S
            again = self._claims.reap()
            if again:
                log.warning("beat: lost batches published again", batches=len(again))
                self._publish(again)
        self._send_fixed(now)
        return more

    def _claim_due(self, queue: str, limit: int, batch_size: int) -> bool:
        """Claim and publish what is due of a queue; returns whether more of it is."""
        bound = self._settings.max_queued
        for _ in range(CLAIMS_A_TICK):
            claimed = self._claims.claim(
                queue=queue,
                limit=limit,
                batch_size=batch_size,
                max_queued=min(bound, BROWSER_QUEUED) if queue == "browser" else bound,
            )
            self._publish(claimed.batches)
            self._watch_clock(claimed.now, claimed.jumped)
            self._watch_backlog(queue, claimed.now, claimed.full)
            if claimed.checks < limit:
                return False
        return True

    def _publish(self, batches: list[Published]) -> None:
        """Send a message for each batch. A batch that is not sent is reaped later."""
        if not batches:
            return
        with self.app.producer_or_acquire() as producer:
            for batch in batches:
                self.app.send_task(
                    "lighthouse.run_batch",
                    args=(batch.batch, batch.attempt),
                    queue=batch.queue,
                    producer=producer,
                    retry=False,
                    ignore_result=True,
                    argsrepr=f"({batch.size} checks)",
                )

    def _send_fixed(self, now: float) -> None:
        for name, queue, period in FIXED:
            if now >= self._fixed_at[name]:
                self._fixed_at[name] = now + period
                # Messages that expire would be judged by the workers' clocks; a bound needs none.
                if self._claims.waiting(queue) < FIXED_WAITING:
                    self.app.send_task(name, queue=queue, retry=False, ignore_result=True)

    def _watch_clock(self, now_ms: int, jumped: bool) -> None:
        """Tell of a step of Redis' clock, and have every seat looked at again."""
        offset = now_ms - int(time.monotonic() * 1000)
        step = 0 if self._offset is None else offset - self._offset
        self._offset = offset
        if jumped or abs(step) > CLOCK_JUMP_MS:
            log.error("beat: Redis' clock was stepped", by_ms=step)
            if self._reconciler is not None:
                self._reconciler.look_at_everything()
            self._tell(
                "clock",
                now_ms,
                "Redis' clock was stepped",
                f"The clock that decides what is due moved by {step / 1000:.0f} s at once. Slots it"
                " passed over are accounted for as missed. Keep the host's clock with NTP.",
            )

    def _watch_backlog(self, queue: str, now_ms: int, full: bool) -> None:
        seen = self._full_at.get(queue)
        if full:
            if seen is None:
                line, title, message = _OVERLOAD[queue]
                log.error(line)
                kind = "overload" if queue == "checks" else f"overload_{queue}"
                self._tell(kind, now_ms, title, message)
            self._full_at[queue] = time.monotonic()
        elif seen is not None and time.monotonic() - seen >= CAUGHT_UP_S:
            log.info("beat: workers have caught up", queue=queue)
            del self._full_at[queue]

    def _tell(self, what: str, now_ms: int, title: str, message: str) -> None:
        """Alert the operator, of one kind of trouble once an hour."""
        if self._reconciler is not None:
            self._reconciler.tell_operator(f"{what}:{now_ms // 3_600_000}", title, message)

    def close(self) -> None:
        """Ends the reconciler too."""
        if self._reconciler is not None:
            self._reconciler.stop()
        super().close()

    @property
    def info(self) -> str:
        """A line of beat's banner."""
        return f"    . tick -> {self._settings.tick_ms} ms"


def _unexpected(exc: Exception) -> bool:
    return not isinstance(exc, LighthouseError)
