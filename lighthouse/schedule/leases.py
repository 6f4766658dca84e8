"""A worker's side of the schedule: start a batch under its lease, renew it, release it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis.asyncio

from lighthouse.schedule.client import translated
from lighthouse.schedule.keys import (
    COUNTERS,
    LEASE_PREFIX,
    LEASES,
    LUA_CLOCK,
    META,
    NUMBERS,
    QUEUES,
    SPEC,
    SPEC_HEAD,
    STARTED_FORMAT,
    WORKERS,
)

#: A running batch whose lease is this old without renewal has lost its worker.
LEASE_MS = 15_000
#: How often the engine renews: three chances before a lease is lost.
RENEW_S = 4.0

Token = tuple[str, int]  # batch, attempt

# Takes a queued batch under its attempt, drops what is paused, removed, later than its own
# interval or moved to another queue meanwhile (whoever takes this one may have no browser), and
# answers (subscription, slot, version, interval) packed. A doubled or outdated message meets
# another state or attempt, and gets nothing.
_START = (
    LUA_CLOCK
    + "local queues = {"
    + ", ".join(f"'{name}'" for name in QUEUES)
    + "}\n"
    + f"""
local now = clock(false)
local batch, attempt, worker = ARGV[1], ARGV[2], ARGV[3]
local key = '{LEASE_PREFIX}' .. batch
local lease = redis.call('HMGET', key, 's', 'a', 'q', 'n', 'b', 'c')
if lease[1] ~= 'q' or lease[2] ~= attempt then return {{now, 0}} end
local queue = lease[3]
local started = tonumber(redis.call('HGET', '{NUMBERS}', queue .. ':started') or '0')
if tonumber(lease[4]) > started then
  redis.call('HSET', '{NUMBERS}', queue .. ':started', lease[4], queue .. ':at', now,
    queue .. ':waited', now - tonumber(lease[6]))
end
local body, members = lease[5], {{}}
for at = 1, #body, 24 do members[#members + 1] = string.sub(body, at, at + 15) end
local metas = redis.call('HMGET', '{META}', unpack(members))
local kept, answer, shed = {{}}, {{}}, 0
for i, member in ipairs(members) do
  local meta = metas[i]
  if meta then
    local version, interval, _, _, code = struct.unpack('>I8I4I4I8B', meta)
    local slot = struct.unpack('>I8', body, 24 * i - 7)
    if now - slot >= interval then
      shed = shed + 1
    elseif queues[code + 1] == queue then
      kept[#kept + 1] = string.sub(body, 24 * i - 23, 24 * i)
      answer[#answer + 1] = kept[#kept] .. struct.pack('>I8I4', version, interval)
    end
  end
end
if shed > 0 then redis.call('HINCRBY', '{COUNTERS}', 'shed', shed) end
if #kept == 0 then
  redis.call('DEL', key)
  redis.call('ZREM', '{LEASES}', batch)
  return {{now, shed}}
end
redis.call('HSET', key, 's', 'r', 'c', now, 'w', worker, 'b', table.concat(kept))
redis.call('ZADD', '{LEASES}', now + {LEASE_MS}, batch)
return {{now, shed, table.concat(answer)}}
"""
)

# Keeps this worker counted, renews its batches and answers those that it has lost, in twos.
_RENEW = (
    LUA_CLOCK
    + f"""
local now = clock(false)
redis.call('ZADD', '{WORKERS}', now + {LEASE_MS}, ARGV[1])
local lost = {{}}
for i = 2, #ARGV, 2 do
  local batch, attempt = ARGV[i], ARGV[i + 1]
  local lease = redis.call('HMGET', '{LEASE_PREFIX}' .. batch, 's', 'a')
  if lease[1] == 'r' and lease[2] == attempt then
    redis.call('ZADD', '{LEASES}', now + {LEASE_MS}, batch)
  else
    lost[#lost + 1] = batch
    lost[#lost + 1] = attempt
  end
end
return lost
"""
)

# ARGV in twos: batch, attempt. Whoever holds another attempt keeps it.
_RELEASE = f"""
local released = 0
for i = 1, #ARGV, 2 do
  local key = '{LEASE_PREFIX}' .. ARGV[i]
  if redis.call('HGET', key, 'a') == ARGV[i + 1] then
    redis.call('DEL', key)
    redis.call('ZREM', '{LEASES}', ARGV[i])
    released = released + 1
  end
end
return released
"""

# ARGV in threes: batch, attempt, body of what is left. The lease expires at once, so that the next
# reaping publishes the rest.
_GIVE_BACK = (
    LUA_CLOCK
    + f"""
local now = clock(false)
local given = 0
for i = 1, #ARGV, 3 do
  local key = '{LEASE_PREFIX}' .. ARGV[i]
  if redis.call('HGET', key, 'a') == ARGV[i + 1] then
    redis.call('HSET', key, 'b', ARGV[i + 2])
    redis.call('ZADD', '{LEASES}', now, ARGV[i])
    given = given + 1
  end
end
return given
"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedCheck:
    """One check of a batch that this worker now holds."""

    subscription_id: UUID
    slot: int  #: ms since the epoch
    version: int
    interval_ms: int
    delay_ms: int  #: from the slot to the batch's start, by Redis' clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What became of a batch: its checks (none: lost, doubled or all shed), and how many shed."""

    checks: Sequence[StartedCheck]
    shed: int


class Leases:
    """All that an engine asks of the schedule. Errors are ScheduleUnavailable or ScheduleError."""

    def __init__(self, client: "redis.asyncio.Redis", worker: str) -> None:
        self._redis = client
        self._worker = worker
        self._start = client.register_script(_START)
        self._renew = client.register_script(_RENEW)
        self._release = client.register_script(_RELEASE)
        self._give_back = client.register_script(_GIVE_BACK)

    async def start(self, batch: str, attempt: int) -> Start:
        """Take a queued batch; from now on its lease must be renewed."""
        async with translated():
            answer: Any = await self._start(args=[batch, attempt, self._worker])
        now = int(answer[0])
        packed = answer[2] if len(answer) > 2 else b""
        return Start(
            shed=int(answer[1]),
            checks=[
                StartedCheck(
                    subscription_id=UUID(bytes=member),
                    slot=slot,
                    version=version,
                    interval_ms=interval,
                    delay_ms=now - slot,
                )
                for member, slot, version, interval in STARTED_FORMAT.iter_unpack(packed)
            ],
        )

    async def specs(self, ids: Sequence[UUID]) -> dict[UUID, tuple[int, bytes]]:
        """Version and spec (JSON) of each subscription that is still scheduled."""
        if not ids:
            return {}
        async with translated():
            found: Any = await self._redis.hmget(SPEC, [i.bytes for i in ids])
        head = SPEC_HEAD.size
        return {
            subscription_id: (SPEC_HEAD.unpack_from(raw)[0], raw[head:])
            for subscription_id, raw in zip(ids, found, strict=True)
            if raw is not None
        }

    async def renew(self, held: Iterable[Token]) -> list[Token]:
        """Renew what this worker holds; returns what it has lost."""
        args: list[Any] = [self._worker]
        for batch, attempt in held:
            args += (batch, attempt)
        async with translated():
            lost: Any = await self._renew(args=args)
        return [(lost[i].decode(), int(lost[i + 1])) for i in range(0, len(lost), 2)]

    async def release(self, done: Iterable[Token]) -> None:
        """End leases after their results were committed; harmless when repeated."""
        args: list[Any] = []
        for batch, attempt in done:
            args += (batch, attempt)
        if args:
            async with translated():
                await self._release(args=args)

    async def give_back(self, rest: Iterable[tuple[Token, Sequence[tuple[UUID, int]]]]) -> None:
        """Hand unfinished checks, as (subscription, slot), to another worker at once."""
        args: list[Any] = []
        for (batch, attempt), checks in rest:
            body = b"".join(i.bytes + slot.to_bytes(8, "big") for i, slot in checks)
            args += (batch, attempt, body)
        if args:
            async with translated():
                await self._give_back(args=args)

    async def leave(self) -> None:
        """No longer count as a live worker."""
        async with translated():
            await self._redis.zrem(WORKERS, self._worker)
