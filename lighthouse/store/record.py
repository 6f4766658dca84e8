"""THE transaction: results, the verdicts that they change and the alerts that follow, together.

COPY straight into `check_history` is the fast path. A slot that has a row already sends the flush
through `_merge` (a real result replaces `missed`, nothing replaces a real result); a value that
PostgreSQL refuses sends it through bisection, and the culprit is stored as `error`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg
import structlog

from lighthouse.errors import RejectedData, StoreUnavailable
from lighthouse.model import CheckStatus, Reason, Result, from_slot, to_slot
from lighthouse.store.budgets import Limits
from lighthouse.store.judging import NotAloneError, judge
from lighthouse.store.pool import Connection, Pool, translated
from lighthouse.store.rollups import ROLLUP_LOCK
from lighthouse.store.sweep import split_gap
from lighthouse.store.upkeep import ensure_partitions

log = structlog.get_logger(__name__)

#: Results older than this are refused and counted: their chunk may be compressed or rolled up.
LATE_HORIZON_MS = 7 * 86_400_000
#: Beat knows of a changed schedule within seconds, and until then claims slots that are no more
#: due: for so long it may be stopped, or cut off from PostgreSQL while workers are not.
CHANGES_KNOWN_MS = 3_600_000
#: Held by every flush, shared; alone by one whose verdict might overlook rows not yet committed.
JUDGE_LOCK = 0x6C68_6A75_6467
#: Rows that are written to a COPY at a time: about half a millisecond, in which the loop stands.
SLICE_ROWS = 100
#: Milliseconds are kept in 64ths, finer than any probe can tell: the bits that a float then has no
#: use for cost nothing where `community` compresses them, a third of all that a row takes up there.
MS_PARTS = 64
#: A flush that deadlocks or loses a serialization race is tried so often.
MAX_TRIES = 4

COLUMNS = (
    "time",
    "subscription_id",
    "status",
    "latency_ms",
    "dns_ms",
    "tcp_ms",
    "tls_ms",
    "ttfb_ms",
    "delay_ms",
    "http_status",
    "http_version",
    "attempts",
    "cert_expires_at",
    "error_code",
    "error_message",
    "region",
    "value",
    "response_snippet",
)
_LIST = ", ".join(COLUMNS)
DEFAULT_LIMITS = Limits()

# Shared with every other recorder; the rollup job takes it alone for the moment in which it closes
# a bucket, so each row is either seen by the job or marked dirty. Read in statements of their own:
# a snapshot taken before the lock was granted would be stale.
_BEGIN = f"""
BEGIN;
SELECT pg_advisory_xact_lock_shared({ROLLUP_LOCK});
SELECT pg_advisory_xact_lock{{shared}}({JUDGE_LOCK});
SELECT now(),
       (SELECT open_from FROM rollup_state WHERE rollup = 'hourly'),
       (SELECT (value->>'slot')::bigint FROM fleet_state WHERE key = 'accounted_to'),
       EXISTS (SELECT FROM schedule_epochs WHERE end_slot BETWEEN {{since}} AND {{until}})
"""  # noqa: S608 - constants of this program

# By idx_schedule_epochs_subscription; asked only when schedules have changed of late.
_NOT_DUE = """
SELECT t.id, t.slot
  FROM unnest(%s::uuid[], %s::bigint[]) AS t (id, slot)
 WHERE EXISTS (
       SELECT FROM schedule_epochs e WHERE e.subscription_id = t.id AND e.end_slot <= t.slot)
   AND NOT EXISTS (
       SELECT FROM schedule_epochs e
        WHERE e.subscription_id = t.id AND e.first_slot <= t.slot
          AND (e.end_slot IS NULL OR e.end_slot > t.slot)
          AND (e.first_slot = t.slot OR (t.slot - e.phase_ms) %% e.interval_ms = 0))
"""

_COPY = f"COPY check_history ({_LIST}) FROM STDIN"

_MERGE_TABLE = f"""
CREATE TEMPORARY TABLE incoming ON COMMIT DROP AS SELECT {_LIST} FROM check_history WITH NO DATA
"""  # noqa: S608
_MERGE_COPY = f"COPY incoming ({_LIST}) FROM STDIN"
# The losing branch: the slot has a real result, and ours is dropped.
_MERGE = f"""
INSERT INTO check_history ({_LIST})
SELECT {_LIST} FROM incoming ORDER BY subscription_id, time
ON CONFLICT (subscription_id, time) DO UPDATE
   SET ({_LIST}) = ROW({", ".join("excluded." + column for column in COLUMNS)})
 WHERE check_history.status = 'missed'
RETURNING subscription_id, time
"""  # noqa: S608

#: Locks a mark that is there already (so no DO NOTHING): the rollup job, which skips locked marks,
#: must not take it away before this transaction's rows can be seen. In order, so no two deadlock.
_MARK_DIRTY = """
INSERT INTO rollup_dirty (hour, subscription_id)
SELECT DISTINCT date_trunc('hour', t.time, 'UTC'), t.id
  FROM unnest(%s::timestamptz[], %s::uuid[]) AS t (time, id)
 ORDER BY 1, 2
    ON CONFLICT (hour, subscription_id) DO UPDATE SET hour = excluded.hour
"""

_IN_GAPS = """
SELECT t.id, t.slot
  FROM unnest(%s::uuid[], %s::bigint[]) AS t (id, slot)
  JOIN history_gaps g ON g.subscription_id = t.id AND t.slot BETWEEN g.first_slot AND g.last_slot
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of a flush."""

    stored: int  #: rows written, replaced `missed` ones included
    duplicates: int = 0  #: slots that had a real result already
    refused: int = 0  #: later than the horizon, or not storable even as an error
    not_due: int = 0  #: claimed before beat knew that their schedule had ended
    events: int = 0  #: transitions that somebody is to hear of


async def record(
    pool: Pool, results: Sequence[Result], limits: Limits = DEFAULT_LIMITS
) -> Recorded:
    """Store results, decide verdicts and write alerts, all in one transaction.

    Safe to repeat: a result whose slot has one changes nothing. Raises StoreUnavailable when
    PostgreSQL is away (nothing was stored) and StoreError when the schema is not ours.
    """
    if not results:
        return Recorded(stored=0)
    try:
        return await _retried(pool, results, limits)
    except RejectedData as exc:
        if len(results) > 1:
            middle = len(results) // 2
            return _sum(
                await record(pool, results[:middle], limits),
                await record(pool, results[middle:], limits),
            )
        return await _store_culprit(pool, results[0], exc, limits)


async def _store_culprit(
    pool: Pool, culprit: Result, exc: RejectedData, limits: Limits
) -> Recorded:
    log.error(
        "result refused",
        subscription_id=str(culprit.subscription_id),
        slot=culprit.slot,
        error=str(exc),
    )
    bare = Result(
        subscription_id=culprit.subscription_id,
        slot=culprit.slot,
        status=CheckStatus.ERROR,
        error_code=Reason.UNSTORABLE.value,
        error_message="the result could not be stored as it was; the log has the reason",
        delay_ms=culprit.delay_ms,
    )
    if culprit == bare:
        return Recorded(stored=0, refused=1)
    try:
        return await _retried(pool, [bare], limits)
    except RejectedData:
        return Recorded(stored=0, refused=1)


async def _retried(pool: Pool, results: Sequence[Result], limits: Limits) -> Recorded:
    merge = alone = False
    tries = 0
    while True:
        tries += 1
        try:
            with translated():
                async with pool.connection() as connection:
                    return await _flush(connection, results, limits, merge=merge, alone=alone)
        except NotAloneError:
            alone = True
        except RejectedData as exc:
            cause = exc.__cause__
            if isinstance(cause, psycopg.errors.UniqueViolation) and not merge:
                merge = True
            elif isinstance(cause, psycopg.errors.CheckViolation) and tries == 1:
                # On the `plain` edition: the day has no partition yet.
                with translated():
                    async with pool.connection() as connection, connection.transaction():
                        await ensure_partitions(connection)
            else:
                raise
        except StoreUnavailable as exc:
            retryable = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)
            if not isinstance(exc.__cause__, retryable) or tries >= MAX_TRIES:
                raise


async def _flush(
    connection: Connection,
    results: Sequence[Result],
    limits: Limits,
    *,
    merge: bool,
    alone: bool,
) -> Recorded:
    try:
        now, open_from, accounted_to, changed = await _begin(connection, results, alone)
        horizon = to_slot(now) - LATE_HORIZON_MS
        recent = [r for r in results if r.slot > horizon]
        wanted = await _due(connection, recent) if changed else recent
        stored = await (_merge if merge else _copy)(connection, wanted)
        if accounted_to is not None:
            await _leave_gaps(connection, [r for r in stored if r.slot <= accounted_to])
        if open_from is not None:
            await _mark_dirty(connection, [r for r in stored if r.slot < to_slot(open_from)])
        events = await judge(connection, stored, None if alone else to_slot(now), limits)
        await connection.execute("COMMIT")
    except BaseException:
        # A pooled connection must not go back inside a transaction; a broken one cannot.
        if not connection.closed:
            await connection.rollback()
        raise
    return Recorded(
        stored=len(stored),
        duplicates=len(wanted) - len(stored),
        refused=len(results) - len(recent),
        not_due=len(recent) - len(wanted),
        events=events,
    )


async def _begin(
    connection: Connection, results: Sequence[Result], alone: bool
) -> tuple[datetime, datetime | None, int | None, bool]:
    slots = [r.slot for r in results]
    begin = _BEGIN.format(
        shared="" if alone else "_shared",
        since=min(slots) - CHANGES_KNOWN_MS,
        until=max(slots),
    )
    cursor = await connection.execute(begin.encode())
    while cursor.nextset():
        pass
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return row[0], row[1], row[2], row[3]


async def _due(connection: Connection, results: list[Result]) -> list[Result]:
    """Without what was claimed by a schedule that had ended: nobody is to be told of a target that
    went away after its subscription was paused."""
    cursor = await connection.execute(
        _NOT_DUE, ([r.subscription_id for r in results], [r.slot for r in results])
    )
    not_due = set(await cursor.fetchall())
    return [r for r in results if (r.subscription_id, r.slot) not in not_due]


async def _copy(connection: Connection, results: list[Result]) -> list[Result]:
    async with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        await _write(copy, results)
    return results


async def _write(copy: psycopg.AsyncCopy, results: Sequence[Result]) -> None:
    """The lines in slices: the probes' sockets, which share the loop, are served in between."""
    for first in range(0, len(results), SLICE_ROWS):
        await copy.write("".join(map(copy_line, results[first : first + SLICE_ROWS])))
        await asyncio.sleep(0)


async def _merge(connection: Connection, results: list[Result]) -> list[Result]:
    # Two batches of one worker may have held the same slot; which row stands must be known here,
    # for verdicts are decided from what is returned.
    kept = {(r.subscription_id, r.slot): r for r in reversed(results)}
    await connection.execute(_MERGE_TABLE)
    async with connection.cursor() as cursor, cursor.copy(_MERGE_COPY) as copy:
        await _write(copy, list(kept.values()))
    cursor = await connection.execute(_MERGE)
    written = {(row[0], to_slot(row[1])) for row in await cursor.fetchall()}
    return [kept[key] for key in written]


async def _leave_gaps(connection: Connection, late: list[Result]) -> None:
    if not late:
        return
    cursor = await connection.execute(
        _IN_GAPS, ([r.subscription_id for r in late], [r.slot for r in late])
    )
    for subscription_id, slot in await cursor.fetchall():
        await split_gap(connection, subscription_id, slot)


async def _mark_dirty(connection: Connection, late: list[Result]) -> None:
    if late:
        await connection.execute(
            _MARK_DIRTY, ([from_slot(r.slot) for r in late], [r.subscription_id for r in late])
        )


def copy_line(result: Result) -> str:
    """One line of COPY's text format, in the order of COLUMNS."""
    timings = result.timings
    return (
        f"{from_slot(result.slot).isoformat()}\t{result.subscription_id}\t{result.status.value}\t"
        f"{_number(result.latency_ms)}\t{_number(timings.dns_ms)}\t{_number(timings.tcp_ms)}\t"
        f"{_number(timings.tls_ms)}\t{_number(timings.ttfb_ms)}\t{result.delay_ms}\t"
        f"{_plain(result.http_status)}\t{_plain(result.http_version)}\t{result.attempts}\t"
        f"{_plain(result.cert_expires_at)}\t{_text(result.error_code)}\t"
        f"{_text(result.error_message)}\t{_text(result.region)}\t{_plain(result.value)}\t"
        f"{_text(result.response_snippet)}\n"
    )


def _number(value: float | None) -> str:
    return "\\N" if value is None else repr(round(value * MS_PARTS) / MS_PARTS)


def _plain(value: object) -> str:
    return "\\N" if value is None else str(value)


def _text(value: str | None) -> str:
    if value is None:
        return "\\N"
    return (
        value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    )


def _sum(one: Recorded, other: Recorded) -> Recorded:
    return replace(
        one,
        stored=one.stored + other.stored,
        duplicates=one.duplicates + other.duplicates,
        refused=one.refused + other.refused,
        not_due=one.not_due + other.not_due,
        events=one.events + other.events,
    )
