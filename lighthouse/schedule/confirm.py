"""What workers ask of each other: one look at a target, now. Requests, their leases, the answers.

Nobody has to take a request, nor to wait for an answer: all that is written here ends by itself.
"""

import json
from dataclasses import dataclass
from math import isfinite
from typing import Any
from uuid import UUID

import redis.asyncio
import structlog

from lighthouse.model import ERROR_MESSAGE_CHARS, CheckStatus, Confirmation, Reason, storable
from lighthouse.schedule.client import SOCKET_TIMEOUT_S, translated
from lighthouse.schedule.keys import (
    CONFIRM,
    CONFIRM_PREFIX,
    CONFIRMED_PREFIX,
    LUA_CLOCK,
    WORKERS,
)

log = structlog.get_logger(__name__)

#: A request is of no use to anybody after this: its alert is to be handed to its channel by then.
REQUEST_MS = 2_000
#: Requests that wait; the oldest ones make room, for they are the next to end.
MOST_WAITING = 256
#: Answers that wait for a worker that stands still, and for how long.
MOST_ANSWERS, ANSWERS_MS = 256, 5_000
#: Seconds that a worker waits in one command; more, and the socket would be taken for dead.
BLOCK_S = SOCKET_TIMEOUT_S - 1.0

# Keys end with the last request in them, whoever is there to take it.
_PUSH = f"""
redis.call('RPUSH', '{CONFIRM}', ARGV[2])
redis.call('LTRIM', '{CONFIRM}', -{MOST_WAITING}, -1)
redis.call('PEXPIRE', '{CONFIRM}', {REQUEST_MS})
return 1
"""

# ARGV: id, request, worker. Answers 0, and asks nobody, where no other worker is alive.
_ASK = (
    LUA_CLOCK
    + f"""
local now = clock(false)
local others = redis.call('ZCOUNT', '{WORKERS}', now, '+inf')
local own = redis.call('ZSCORE', '{WORKERS}', ARGV[3])
if own and tonumber(own) >= now then others = others - 1 end
if others < 1 then return 0 end
redis.call('SET', '{CONFIRM_PREFIX}' .. ARGV[1], '1', 'PX', {REQUEST_MS})
"""
    + _PUSH
)

# ARGV: id, request. The losing branch: its time is over, and it is dropped.
_PUT_BACK = (
    f"""
if redis.call('EXISTS', '{CONFIRM_PREFIX}' .. ARGV[1]) == 0 then return 0 end
"""
    + _PUSH
)


#: What reading something else than a request or an answer may raise.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A worker's wish that another one looks at a target."""

    id: str
    originator: str  #: the worker that asks, and must not answer itself
    subscription_id: UUID
    version: int  #: of the spec that was checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What another worker found, for the request that asked for it."""

    id: str
    confirmation: Confirmation


class Confirmations:
    """One worker's view of all requests. Errors are ScheduleUnavailable or ScheduleError."""

    def __init__(self, client: "redis.asyncio.Redis", worker: str) -> None:
        self._redis = client
        self._worker = worker
        self._answers = f"{CONFIRMED_PREFIX}{worker}"
        self._ask = client.register_script(_ASK)
        self._put_back = client.register_script(_PUT_BACK)

    async def ask(self, request: Request) -> bool:
        """Ask all others. False: nobody else is alive."""
        async with translated():
            asked: Any = await self._ask(args=[request.id, _written(request), self._worker])
        return bool(asked)

    async def put_back(self, request: Request) -> None:
        """Leave a request to others, while there is time."""
        async with translated():
            await self._put_back(args=[request.id, _written(request)])

    async def take(self, request: Request) -> bool:
        """Become the one that answers. False: its time is over, or another one did."""
        async with translated():
            gone: Any = await self._redis.delete(f"{CONFIRM_PREFIX}{request.id}")
        return bool(gone)

    async def answer(self, request: Request, confirmation: Confirmation) -> None:
        """Tell the worker that asked."""
        key = f"{CONFIRMED_PREFIX}{request.originator}"
        told = json.dumps(
            {
                "id": request.id,
                "worker": confirmation.worker,
                "region": confirmation.region,
                "status": confirmation.status.value,
                "reason": None if confirmation.reason is None else confirmation.reason.value,
                "message": confirmation.message,
                "latency_ms": confirmation.latency_ms,
                "http_status": confirmation.http_status,
            }
        )
        async with translated(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.rpush(key, told)
            pipeline.ltrim(key, -MOST_ANSWERS, -1)
            pipeline.pexpire(key, ANSWERS_MS)
            await pipeline.execute()

    async def next(
        self, *, requests: bool = True, timeout_s: float = BLOCK_S
    ) -> Request | Answered | None:
        """The next answer to this worker, or request of any. Blocks a connection of its own."""
        keys = [self._answers, CONFIRM] if requests else [self._answers]
        async with translated():
            popped: Any = await self._redis.blpop(keys, timeout=timeout_s)
        if popped is None:
            return None
        try:
            return _read_request(popped[1]) if popped[0] == CONFIRM.encode() else _read(popped[1])
        except _UNREADABLE as exc:
            log.warning("a confirmation cannot be read", why=type(exc).__name__)
            return None


def _written(request: Request) -> str:
    return json.dumps(
        {
            "id": request.id,
            "from": request.originator,
            "subscription": str(request.subscription_id),
            "version": request.version,
        }
    )


def _read_request(raw: bytes) -> Request:
    told = json.loads(raw)
    return Request(
        id=str(told["id"]),
        originator=str(told["from"]),
        subscription_id=UUID(told["subscription"]),
        version=int(told["version"]),
    )


def _read(raw: bytes) -> Answered:
    told = json.loads(raw)
    return Answered(
        id=str(told["id"]),
        confirmation=Confirmation(
            worker=_text(told["worker"]) or "",
            region=_text(told["region"]),
            status=CheckStatus(told["status"]),
            reason=None if told["reason"] is None else Reason(told["reason"]),
            message=_text(told["message"]),
            latency_ms=_number(told["latency_ms"]),
            http_status=None if told["http_status"] is None else int(told["http_status"]),
        ),
    )


def _text(value: object) -> str | None:
    """It becomes evidence: what another worker says must not cost the result its place."""
    return None if value is None else storable(str(value), ERROR_MESSAGE_CHARS)


def _number(value: Any) -> float | None:
    found = None if value is None else float(value)
    return found if found is None or isfinite(found) else None
