"""The names of the keys, the layout of the packed values, and the Lua that every script shares.

    lh:schedule  sorted set  subscription (16 bytes) -> next slot, ms; of the queue `checks`
    lh:schedule:QUEUE        the same of each other queue; a subscription is in one of them
    lh:meta      hash        subscription -> version, interval, phase, epoch, queue (packed)
    lh:spec      hash        subscription -> version (packed) + JSON of type and configuration
    lh:leases    sorted set  batch -> when to look at its lease again, ms
    lh:lease:ID  hash        q queue, s state (q queued, r running), a attempt, n number in its
                             queue, c time of that state, b body: (subscription, slot) packed,
                             l how many workers lost it
    lh:numbers   hash        queue -> number of its newest batch; of the batch that started
                             last: queue:started (its number), queue:at, queue:waited (ms)
    lh:workers   sorted set  worker -> until when it counts as alive, ms
    lh:clock     string      the latest time that a claim has seen, ms
    lh:database  string      identity of the PostgreSQL database that the schedule was made from
    lh:counters  hash        shed, republished, abandoned, skipped: since the last flush
    lh:pace:gate:SHA256      hash of an address: o until when it is closed, w its window, p
                             messages a window if told, h how many were sent away, b and k begin
                             of the window and messages in it, a time of writing; ms, expires
    lh:pace:turn:SHA256      hash of what has a rate: n when the next message may go, h how many
                             were sent away, a time of writing; ms, expires
    lh:confirm   list        requests to look at a target at once (JSON): any worker but the one
                             that asks takes them
    lh:confirm:ID            string: the lease of such a request, which ends by itself
    lh:confirmed:WORKER      list: answers to the requests of a worker (JSON); ends by itself

A batch's attempt is its lease's token: who holds another one has lost the batch.
"""

import struct

SCHEDULE = "lh:schedule"
META = "lh:meta"
SPEC = "lh:spec"
LEASES = "lh:leases"
LEASE_PREFIX = "lh:lease:"
NUMBERS = "lh:numbers"
WORKERS = "lh:workers"
CLOCK = "lh:clock"
COUNTERS = "lh:counters"
DATABASE = "lh:database"
PACE_GATE_PREFIX = "lh:pace:gate:"
PACE_TURN_PREFIX = "lh:pace:turn:"
CONFIRM = "lh:confirm"
CONFIRM_PREFIX = "lh:confirm:"
CONFIRMED_PREFIX = "lh:confirmed:"

#: Queues by their code in `lh:meta`.
QUEUES = ("checks", "browser")
#: The sorted set of each queue, in their order: what waits in one never holds up another.
SCHEDULES = (SCHEDULE, *(f"{SCHEDULE}:{queue}" for queue in QUEUES[1:]))

META_FORMAT = struct.Struct(">QIIQB")  # version, interval ms, phase ms, epoch id, queue code
SPEC_HEAD = struct.Struct(">Q")  # version
STARTED_FORMAT = struct.Struct(">16sQQI")  # subscription, slot, version, interval ms

#: A step back of Redis' clock up to this is waited out; a longer one is taken as the new time.
CLOCK_HOLD_MS = 10_000

#: Redis' time, and 1 where it went back by more than CLOCK_HOLD_MS: by less it never does. Whoever
#: writes a time notes it, so that a clock that was ahead is found out whatever it was written into;
#: only `clock(true)`, which is a claim's, takes the earlier time as the new one.
LUA_CLOCK = f"""
local function clock(accept)
  local t = redis.call('TIME')
  local now = t[1] * 1000 + math.floor(t[2] / 1000)
  local last = tonumber(redis.call('GET', '{CLOCK}') or '0')
  local jumped = 0
  if now < last then
    if last - now <= {CLOCK_HOLD_MS} then return last, 0 end
    if not accept then return now, 1 end
    jumped = 1
  end
  if now ~= last then redis.call('SET', '{CLOCK}', string.format('%.0f', now)) end
  return now, jumped
end
"""
