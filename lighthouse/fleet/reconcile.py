"""Keeps the schedule in Redis equal to PostgreSQL, which is the truth.

Every second it applies what has changed since its last snapshot and compares the number of active
subscriptions with the number scheduled; where they differ (FLUSHALL, a deleted row, a beat that
slept) everything is read again. So whatever happened, the two agree within seconds.
"""

import asyncio
import threading
from collections import deque
from uuid import UUID

import structlog

from lighthouse.channels import operator_channels
from lighthouse.errors import LighthouseError, NotMigrated
from lighthouse.model import SubscriptionStatus
from lighthouse.schedule import Claims, Entry
from lighthouse.settings import Settings
from lighthouse.store.changes import SpecRow, changes, identity
from lighthouse.store.migrate import require_migrated
from lighthouse.store.outbox import enqueue_operator
from lighthouse.store.pool import Connection, Pool, open_pool, reach, translated

log = structlog.get_logger(__name__)

#: How often PostgreSQL is asked for changes.
POLL_S = 1.0
#: Everything is read again this often even if the numbers agree.
FULL_S = 600.0
#: Waits while PostgreSQL or Redis is away.
BACKOFF_S = 2.0
#: Notices to the operator that wait for PostgreSQL at the most; the oldest go first.
MOST_NOTICES = 100
#: A start waits so long for PostgreSQL and its schema.
START_S = 30.0


class Reconciler:
    """Runs in a thread of its own, so that a slow database never delays a claim."""

    def __init__(self, settings: Settings, claims: Claims) -> None:
        self._settings = settings
        self._claims = claims
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._stopping = threading.Event()
        self._full = threading.Event()
        self._ready = threading.Event()
        #: Why the thread ended by itself; None while it runs.
        self.refused: LighthouseError | None = None
        self._notices: deque[tuple[str, str, str]] = deque(maxlen=MOST_NOTICES)
        self._operators = [channel.id for channel in operator_channels(settings)]

    def start(self) -> None:
        """Returns when the database was found migrated.

        Raises StoreUnavailable or NotMigrated, one line.
        """
        self._thread.start()
        self._ready.wait(START_S)
        if self.refused is not None:
            raise self.refused

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def tell_operator(self, key: str, title: str, message: str) -> None:
        """Raise an alert to the operator's channels, once for each `key`."""
        self._notices.append((key, title, message))

    def look_at_everything(self) -> None:
        """Have the next round read and re-seat every subscription."""
        self._full.set()

    def _run(self) -> None:
        try:
            asyncio.run(self._follow())
        except LighthouseError as exc:
            self.refused = exc
        except Exception as exc:
            log.exception("reconciler died")
            self.refused = LighthouseError(f"reconciler died: {exc}")
        finally:
            self._ready.set()

    async def _follow(self) -> None:
        await reach(self._settings.require_database())
        async with open_pool(
            self._settings.require_database(), minimum=1, maximum=1, application="lighthouse beat"
        ) as pool:
            await require_migrated(pool)
            self._ready.set()
            since, failed, full_at = 0, False, 0.0
            loop = asyncio.get_running_loop()
            while not self._stopping.is_set():
                everything = since == 0 or self._full.is_set() or loop.time() >= full_at
                try:
                    self._full.clear()
                    await self._send_notices(pool)
                    next_xid, agree = await self._round(pool, 0 if everything else since)
                    if everything:
                        full_at = loop.time() + FULL_S
                    since = next_xid if agree else 0
                    if failed:
                        log.info("beat: reconciling again")
                    failed = False
                    # Numbers that differ right after everything was read change by themselves.
                    await asyncio.sleep(POLL_S if agree or everything else 0)
                except NotMigrated:
                    raise
                except LighthouseError as exc:
                    if not failed:
                        log.warning("beat: cannot reconcile", why=str(exc))
                    failed = True
                    if everything:
                        since = 0
                    await asyncio.sleep(BACKOFF_S)

    async def _round(self, pool: Pool, since: int) -> tuple[int, bool]:
        """Apply changes; returns the next round's start, and whether the numbers agree."""
        with translated():
            async with pool.connection() as connection:
                if since == 0:
                    await self._check_identity(connection)
                seen: set[UUID] = set()
                async with changes(connection, since) as found:
                    async for rows in found.batches:
                        changed = self._claims.upsert(
                            _entry(row) for row in rows if row.epoch_id is not None
                        )
                        removed = self._claims.remove(
                            (row.id, row.changed_xid) for row in rows if row.epoch_id is None
                        )
                        if changed or removed:
                            log.info("beat: schedule follows", changed=changed, removed=removed)
                        if since == 0:
                            seen.update(row.id for row in rows if row.epoch_id is not None)
                if since == 0:
                    gone = [i for i in set(self._claims.members()) if i not in seen]
                    # What is newer than this snapshot is none of its business.
                    removed = self._claims.remove((i, found.next_xid - 1) for i in gone)
                    if removed:
                        log.info("beat: schedule follows", removed=removed)
        return found.next_xid, self._claims.size() == found.active_count

    async def _send_notices(self, pool: Pool) -> None:
        """Put what waits into the outbox; a notice that cannot be written waits on."""
        while self._notices:
            with translated():
                async with pool.connection() as connection:
                    await enqueue_operator(connection, self._operators, *self._notices[0])
            self._notices.popleft()

    async def _check_identity(self, connection: Connection) -> None:
        """Versions of another database mean nothing here: start from nothing."""
        if self._claims.belongs_to(await identity(connection)):
            return
        log.warning("beat: the schedule was made from another database; made anew")


def _entry(row: SpecRow) -> Entry:
    assert row.epoch_id is not None  # noqa: S101 - the caller asked for it
    assert row.interval_ms is not None  # noqa: S101
    assert row.phase_ms is not None  # noqa: S101
    assert row.first_slot is not None  # noqa: S101
    assert row.status is SubscriptionStatus.ACTIVE  # noqa: S101
    return Entry(
        subscription_id=row.id,
        version=row.changed_xid,
        interval_ms=row.interval_ms,
        phase_ms=row.phase_ms,
        first_slot=row.first_slot,
        epoch=row.epoch_id,
        queue="browser" if row.browser else "checks",
        spec=f'{{"type": "{row.target_type.value}", "config": {row.target_config}}}',
    )
