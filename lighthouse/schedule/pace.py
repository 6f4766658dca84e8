"""The pace of all alert workers together: which address is closed, and whose turn comes when.

Losing it costs a service's refusal or two and is learnt anew, so each key expires with what it
says. No key holds an address: an incoming webhook's URL is a password.
"""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import redis.asyncio

from lighthouse.model import Rate, Turn
from lighthouse.schedule.client import translated
from lighthouse.schedule.keys import PACE_GATE_PREFIX, PACE_TURN_PREFIX

#: Questions at the same time: each holds a connection for a fraction of a millisecond.
AT_ONCE = 4
#: The shortest window: nobody is sent away to come back at once.
SHORTEST_WINDOW_MS = 100
#: The longest that a service keeps us away: what waits longer is given up anyway.
LONGEST_CLOSED_MS = 24 * 3600 * 1000
#: The longest window in which messages are counted; in a longer one the service's answers serve.
LONGEST_COUNTED_MS = 10_000
#: How much later than the opening anybody is asked to come: after a day a message is given up.
LONGEST_SPREAD_MS = 6 * 3600 * 1000
#: How long a gate outlasts its opening: what is known of its window serves the next closing.
KEPT_MS = 60_000

# What was written later than now is from before a clock's step back, and counts for nothing: it
# would hold alerts for as long as the step was.
_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local function read(key, first, ...)
  local found = redis.call('HMGET', key, 'a', first, ...)
  if found[1] and tonumber(found[1]) <= now then return unpack(found, 2) end
end
"""

# KEYS: the address' gate, then what has a rate. ARGV: patience, then what a message costs of each
# rate; ms. Answers {1, wait before sending} or {0, when to come back}; who is sent away changes
# nobody's turn, only how many were sent away. Where a service tells how many it takes a window, the
# last of them closes the address before its answer can: other workers would send meanwhile.
_TURN = (
    _NOW
    + f"""
local open, window, limit, held, began, taken = read(KEYS[1], 'o', 'w', 'p', 'h', 'b', 'k')
if open and tonumber(open) > now then
  redis.call('HINCRBY', KEYS[1], 'h', 1)
  local later = math.floor(held / (tonumber(limit) or 1)) * window
  return {{0, math.ceil(open - now + math.min(later, {LONGEST_SPREAD_MS}))}}
end
local wait, slowest, sent_away = 0, 0, 0
for i = 2, #KEYS do
  local next, away = read(KEYS[i], 'n', 'h')
  if next and next - now > wait then
    wait, slowest, sent_away = next - now, i, tonumber(away)
  end
end
if wait > tonumber(ARGV[1]) then
  redis.call('HINCRBY', KEYS[slowest], 'h', 1)
  return {{0, math.ceil(wait + sent_away * ARGV[slowest])}}
end
for i = 2, #KEYS do
  redis.call('HSET', KEYS[i], 'n', now + wait + ARGV[i], 'h', 0, 'a', now)
  redis.call('PEXPIRE', KEYS[i], math.ceil(wait + ARGV[i]))
end
limit = tonumber(limit)
if limit then
  window = math.min(window, {LONGEST_COUNTED_MS})
  began, taken = tonumber(began) or 0, tonumber(taken) or 0
  if now - began >= window then began, taken = now, 0 end
  redis.call('HSET', KEYS[1], 'b', began, 'k', taken + 1)
  if taken + 1 >= limit then redis.call('HSET', KEYS[1], 'o', began + window, 'h', 0) end
  redis.call('PEXPIRE', KEYS[1], math.ceil(window) + {KEPT_MS})
end
return {{1, math.ceil(wait)}}
"""
)

# KEYS: the gate. ARGV: for how long in ms, messages a window or ''. A shorter wish opens no gate
# early. A window that was counted lasts from its first message to the opening.
_CLOSE = (
    _NOW
    + f"""
local seconds, given = tonumber(ARGV[1]), ARGV[2]
local open, _, limit, held, began = read(KEYS[1], 'o', 'w', 'p', 'h', 'b')
if not open or tonumber(open) <= now then open, held = now, 0 end
open = math.max(open, now + seconds)
if given ~= '' then limit = given end
local counted = began and now - began < {LONGEST_COUNTED_MS} and now - began or 0
redis.call('HSET', KEYS[1], 'o', open, 'w', math.max(seconds + counted, {SHORTEST_WINDOW_MS}),
  'p', limit or '', 'h', held, 'a', now)
redis.call('PEXPIRE', KEYS[1], math.ceil(open - now) + {KEPT_MS})
return 1
"""
)


class Pace:
    """The pacer that the senders of all workers share. Errors are those of `translated`."""

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._turn = client.register_script(_TURN)
        self._close = client.register_script(_CLOSE)
        self._at_once = asyncio.Semaphore(AT_ONCE)

    async def turn(self, address: str, rates: Sequence[Rate], patience_s: float) -> Turn:
        """Take a turn, or hear when to come back: one round trip."""
        keys = [_key(PACE_GATE_PREFIX, address)]
        keys += [_key(PACE_TURN_PREFIX, rate.key) for rate in rates]
        args = [patience_s * 1000, *(rate.seconds * 1000 for rate in rates)]
        async with self._at_once, translated():
            answer: Any = await self._turn(keys=keys, args=args)
        return Turn(mine=bool(answer[0]), wait_s=int(answer[1]) / 1000)

    async def close(self, address: str, seconds: float, per_window: int | None = None) -> None:
        """Keep everybody away from an address for so long."""
        closed_ms = min(seconds * 1000, LONGEST_CLOSED_MS)
        args = [closed_ms, "" if per_window is None else max(per_window, 1)]
        async with self._at_once, translated():
            await self._close(keys=[_key(PACE_GATE_PREFIX, address)], args=args)


def _key(prefix: str, address: str) -> str:
    return prefix + sha256(address.encode("utf-8", "surrogatepass")).hexdigest()
