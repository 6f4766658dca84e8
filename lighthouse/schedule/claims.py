"""Beat's side of the schedule: claim what is due, reap lost batches, reconcile with PostgreSQL.

Every call is one atomic script, so any number of beats may run at once.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID, uuid4

import redis

from lighthouse.errors import ScheduleError, ScheduleUnavailable
from lighthouse.schedule.keys import (
    COUNTERS,
    DATABASE,
    LEASE_PREFIX,
    LEASES,
    LUA_CLOCK,
    META,
    META_FORMAT,
    NUMBERS,
    QUEUES,
    SCHEDULES,
    SPEC,
    SPEC_HEAD,
    WORKERS,
)

#: A batch that no worker has started is looked at again after this: long enough for a busy worker
#: to get from taking the message to starting the batch.
QUEUED_GRACE_MS = 5_000
#: How soon a queued batch that still waits its turn is looked at again.
RECHECK_MS = 2_000
#: A batch that so many workers lost is given up, for it may be what ends them; its slots become
#: missed. A message that was lost, or that a full worker holds, counts for nothing.
MAX_LOSSES = 5
#: Claiming stops while batches wait longer than this in their queue, a third of the shortest
#: interval, and more than STEADY_QUEUED of them wait for each worker.
MAX_WAIT_MS = 3_000
STEADY_QUEUED = 8
#: Entries of one script call: bounds how long Redis serves nobody else (about 2 ms).
CHUNK = 500

_SCHEDULE_TABLE = "local schedules = {" + ", ".join(f"'{name}'" for name in SCHEDULES) + "}\n"

# Claims at most ARGV[1] due subscriptions of the queue ARGV[5], whose sorted set is ARGV[6], moves
# each to its next slot and writes the leases of the batches. A subscription later than its own
# interval is taken at its latest slot; the slots before it are left to the sweep. Nothing is
# claimed while the queue is at its bound (ARGV[4]), or while its batches wait so long that many
# would be later than their interval when they start: what is not claimed costs nothing, what is
# shed has cost all but the probe.
_CLAIM = (
    LUA_CLOCK
    + f"""
local now, jumped = clock(true)
local limit, size, prefix, bound = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local queue, schedule = ARGV[5], ARGV[6]
redis.call('ZREMRANGEBYSCORE', '{WORKERS}', '-inf', now)
local share = math.max(1, redis.call('ZCARD', '{WORKERS}'))
local queued = redis.call('LLEN', queue)
local waited = tonumber(redis.call('HGET', '{NUMBERS}', queue .. ':waited') or '0')
if queued >= bound or (waited > {MAX_WAIT_MS} and queued > {STEADY_QUEUED} * share) then
  return {{now, jumped, 1, 0}}
end
local due = redis.call('ZRANGEBYSCORE', schedule, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)
local n = #due / 2
if n == 0 then return {{now, jumped, 0, 0}} end
local members = {{}}
for i = 1, n do members[i] = due[2 * i - 1] end
local metas = redis.call('HMGET', '{META}', unpack(members))
local seats, gone, body, skipped = {{}}, {{}}, {{}}, 0
for i = 1, n do
  local member, meta = members[i], metas[i]
  if meta then
    local _, interval, phase = struct.unpack('>I8I4I4', meta)
    local slot = tonumber(due[2 * i])
    if now - slot >= interval then
      slot = now - (now - phase) % interval
      skipped = skipped + 1
    end
    seats[#seats + 1] = slot + interval - (slot - phase) % interval
    seats[#seats + 1] = member
    body[#body + 1] = member .. struct.pack('>I8', slot)
  else
    gone[#gone + 1] = member
  end
end
if #gone > 0 then redis.call('ZREM', schedule, unpack(gone)) end
if #seats > 0 then redis.call('ZADD', schedule, unpack(seats)) end
if skipped > 0 then redis.call('HINCRBY', '{COUNTERS}', 'skipped', skipped) end
local answer = {{now, jumped, 0, n}}
local serial = 0
local step = math.max(1, math.min(size, math.ceil(#body / share)))
for first = 1, #body, step do
  local last = math.min(first + step - 1, #body)
  serial = serial + 1
  local batch = prefix .. serial
  local number = redis.call('HINCRBY', '{NUMBERS}', queue, 1)
  redis.call('HSET', '{LEASE_PREFIX}' .. batch, 'q', queue, 's', 'q', 'a', 1, 'n', number,
    'c', now, 'b', table.concat(body, '', first, last))
  redis.call('ZADD', '{LEASES}', now + {QUEUED_GRACE_MS}, batch)
  answer[#answer + 1] = queue
  answer[#answer + 1] = batch
  answer[#answer + 1] = 1
  answer[#answer + 1] = last - first + 1
end
return answer
"""
)

# Finds batches whose holder has died (running, not renewed) or whose message was lost (queued,
# though the queue is empty or a later batch of it has started: queues are FIFO), and makes them
# ready for publishing under a new attempt.
_REAP = (
    LUA_CLOCK
    + f"""
local now = clock(false)
local answer = {{now}}
for _, batch in ipairs(redis.call('ZRANGEBYSCORE', '{LEASES}', '-inf', now, 'LIMIT', 0, 200)) do
  local key = '{LEASE_PREFIX}' .. batch
  local lease = redis.call('HMGET', key, 'q', 's', 'a', 'n', 'c', 'b', 'l')
  local queue = lease[1]
  if not queue then
    redis.call('ZREM', '{LEASES}', batch)
  else
    local lost, losses = lease[2] == 'r', tonumber(lease[7] or '0')
    if lost then losses = losses + 1 end
    if not lost and now - tonumber(lease[5]) >= {QUEUED_GRACE_MS} then
      local started = redis.call('HMGET', '{NUMBERS}', queue .. ':started', queue .. ':at')
      lost = redis.call('LLEN', queue) == 0
        or (tonumber(started[1] or '0') > tonumber(lease[4])
            and now - tonumber(started[2]) >= {RECHECK_MS} / 2)
    end
    local attempt = tonumber(lease[3])
    if not lost then
      redis.call('ZADD', '{LEASES}', now + {RECHECK_MS}, batch)
    elseif losses >= {MAX_LOSSES} then
      redis.call('DEL', key)
      redis.call('ZREM', '{LEASES}', batch)
      redis.call('HINCRBY', '{COUNTERS}', 'abandoned', 1)
    else
      local number = redis.call('HINCRBY', '{NUMBERS}', queue, 1)
      redis.call('HSET', key, 's', 'q', 'a', attempt + 1, 'n', number, 'c', now, 'l', losses)
      redis.call('ZADD', '{LEASES}', now + {QUEUED_GRACE_MS}, batch)
      redis.call('HINCRBY', '{COUNTERS}', 'republished', 1)
      answer[#answer + 1] = queue
      answer[#answer + 1] = batch
      answer[#answer + 1] = attempt + 1
      answer[#answer + 1] = #lease[6] / 24
    end
  end
end
return answer
"""
)

# ARGV in fours: subscription, meta, spec, first slot. An entry older than what is there is
# ignored, so a beat that slept cannot undo a newer change. The seat is kept while the epoch is the
# same and the seat believable, also when it moves to another queue; otherwise it is the first slot,
# or the next one if that is stale.
_UPSERT = (
    LUA_CLOCK
    + _SCHEDULE_TABLE
    + f"""
local now = clock(false)
local changed = 0
for i = 1, #ARGV, 4 do
  local member, meta, spec, first = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local version, interval, phase, epoch, queue = struct.unpack('>I8I4I4I8B', meta)
  local old = redis.call('HGET', '{META}', member)
  local old_version, _, _, old_epoch = -1, 0, 0, -1
  if old then old_version, _, _, old_epoch = struct.unpack('>I8I4I4I8', old) end
  if old_version <= version then
    if old ~= meta then
      redis.call('HSET', '{META}', member, meta)
      redis.call('HSET', '{SPEC}', member, spec)
      changed = changed + 1
    end
    local seat, moved = -1, false
    for code, schedule in ipairs(schedules) do
      local found = redis.call('ZSCORE', schedule, member)
      if found then
        seat = tonumber(found)
        if code ~= queue + 1 then
          redis.call('ZREM', schedule, member)
          moved = true
        end
      end
    end
    if seat < 0 or old_epoch ~= epoch or seat > math.max(now + interval, first) then
      if now - first < interval and old_epoch ~= epoch then
        seat = first
      else
        seat = now + interval - (now - phase) % interval
      end
      moved = true
    end
    if moved then redis.call('ZADD', schedules[queue + 1], seat, member) end
  end
end
return changed
"""
)

# ARGV in twos: subscription, version. What is newer than that version stays.
_REMOVE = (
    _SCHEDULE_TABLE
    + f"""
local removed = 0
for i = 1, #ARGV, 2 do
  local member, version = ARGV[i], tonumber(ARGV[i + 1])
  local meta = redis.call('HGET', '{META}', member)
  if not meta or struct.unpack('>I8', meta) <= version then
    for _, schedule in ipairs(schedules) do
      removed = removed + redis.call('ZREM', schedule, member)
    end
    redis.call('HDEL', '{META}', member)
    redis.call('HDEL', '{SPEC}', member)
  end
end
return removed
"""
)


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A subscription as the schedule knows it."""

    subscription_id: UUID
    version: int
    interval_ms: int
    phase_ms: int
    first_slot: int  #: of its open epoch, ms since the epoch
    epoch: int  #: id of its open epoch
    queue: str  #: one of QUEUES
    spec: str  #: JSON: {"type": …, "config": …}, for the worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A batch whose lease stands and whose message is still to be sent."""

    queue: str
    batch: str
    attempt: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The answer of one claim."""

    now: int  #: Redis' time, ms since the epoch
    jumped: bool  #: its clock went back: seats must be looked at again
    full: bool  #: the queue is at its bound, nothing of it was claimed
    checks: int
    batches: list[Published]


class Claims:
    """All that beat asks of the schedule. Errors are ScheduleUnavailable or ScheduleError."""

    def __init__(self, client: "redis.Redis") -> None:
        self._redis = client
        self._claim = client.register_script(_CLAIM)
        self._reap = client.register_script(_REAP)
        self._upsert = client.register_script(_UPSERT)
        self._remove = client.register_script(_REMOVE)

    def claim(
        self, *, limit: int, batch_size: int, max_queued: int, queue: str = QUEUES[0]
    ) -> Claimed:
        """Claim at most `limit` due checks of a queue, in batches that are shared among workers."""
        schedule = SCHEDULES[QUEUES.index(queue)]
        args: list[Any] = [limit, batch_size, f"{uuid4().hex[:16]}:", max_queued, queue, schedule]
        with _translated():
            answer: Any = self._claim(args=args)
        return Claimed(
            now=int(answer[0]),
            jumped=bool(answer[1]),
            full=bool(answer[2]),
            checks=int(answer[3]),
            batches=_published(answer[4:]),
        )

    def reap(self) -> list[Published]:
        """Batches that must be published again."""
        with _translated():
            answer: Any = self._reap()
        return _published(answer[1:])

    def upsert(self, entries: Iterable[Entry]) -> int:
        """Write subscriptions into the schedule; returns how many were new or changed."""
        changed = 0
        for chunk in _chunks(entries):
            args: list[Any] = []
            for entry in chunk:
                args += (
                    entry.subscription_id.bytes,
                    META_FORMAT.pack(
                        entry.version,
                        entry.interval_ms,
                        entry.phase_ms,
                        entry.epoch,
                        QUEUES.index(entry.queue),
                    ),
                    SPEC_HEAD.pack(entry.version) + entry.spec.encode(),
                    entry.first_slot,
                )
            with _translated():
                changed += int(self._upsert(args=args))
        return changed

    def remove(self, versions: Iterable[tuple[UUID, int]]) -> int:
        """Take subscriptions out, each unless it is newer than the version given with it."""
        removed = 0
        for chunk in _chunks(versions):
            args: list[Any] = []
            for subscription_id, version in chunk:
                args += (subscription_id.bytes, version)
            with _translated():
                removed += int(self._remove(args=args))
        return removed

    def size(self) -> int:
        """How many subscriptions are scheduled."""
        with _translated():
            return sum(int(self._redis.zcard(schedule)) for schedule in SCHEDULES)

    def waiting(self, queue: str) -> int:
        """How many messages wait in a queue."""
        with _translated():
            return int(self._redis.llen(queue))

    def members(self) -> Iterator[UUID]:
        """Every scheduled subscription, and those of which only a part is left."""
        with _translated():
            seats = (self._redis.zscan_iter(schedule, count=1000) for schedule in SCHEDULES)
            for source in (*seats, self._scan_meta()):
                for member, _ in source:
                    yield UUID(bytes=member)

    def _scan_meta(self) -> Iterator[tuple[bytes, bytes]]:
        yield from self._redis.hscan_iter(META, count=1000)

    def counters(self) -> dict[str, int]:
        """What was shed, skipped, republished and abandoned since Redis was last empty."""
        with _translated():
            found: Any = self._redis.hgetall(COUNTERS)
        return {key.decode(): int(value) for key, value in found.items()}

    def belongs_to(self, database: str) -> bool:
        """Whether the schedule was made from that database; if not, it is emptied for it."""
        with _translated():
            owner: Any = self._redis.get(DATABASE)
            if owner == database.encode():
                return True
            with self._redis.pipeline() as pipeline:
                if owner is not None:
                    pipeline.delete(*SCHEDULES, META, SPEC)
                pipeline.set(DATABASE, database)
                pipeline.execute()
            return owner is None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as exc:
        raise ScheduleUnavailable(f"Redis is not available: {exc}") from exc
    except redis.exceptions.RedisError as exc:
        raise ScheduleError(f"Redis: {exc}") from exc


def _published(flat: Sequence[Any]) -> list[Published]:
    return [
        Published(
            queue=flat[i].decode(),
            batch=flat[i + 1].decode(),
            attempt=int(flat[i + 2]),
            size=int(flat[i + 3]),
        )
        for i in range(0, len(flat), 4)
    ]


def _chunks(items: Iterable[_T]) -> Iterator[list[_T]]:
    chunk: list[_T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
