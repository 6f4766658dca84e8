"""JSON-RPC of chains: calls that come at about the same time go out in one batch, RPC after RPC.

What is asked for one (chain, RPC URLs) within a few milliseconds shares a request; calls of one
batch may be answered at different blocks, which balances can bear. An RPC that fails, is of
another chain or leaves calls unanswered is followed by the next one.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from lighthouse import urls
from lighthouse.model import Reason
from lighthouse.probes.judging.assertions import parse_json
from lighthouse.probes.judging.matching import one_line
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.transport import HttpRequest, TransportError

#: How long a call waits for others to share its request, in seconds.
GATHER_S = 0.005

#: Calls in one request: public RPCs refuse more, or count them one by one.
MOST_CALLS = 100

#: Requests of one call each that run at the same time, where an RPC refuses batches.
_SINGLES = 8

#: Bytes of an answer: what surrounds the calls, and each call's own.
_ANSWER_BYTES, _CALL_BYTES = 4096, 1024

#: Seconds that an RPC's chain is believed, that its refusal of batches is remembered, and that
#: one that has failed is asked last.
_CHAIN_S, _REFUSAL_S, _AVOIDED_S = 600.0, 600.0, 30.0

#: RPCs that are remembered; the least used goes first.
_MOST_PLACES = 4096

#: An answer that says of a batch that it is none to answer, rather than that the RPC is ill.
_REFUSALS = frozenset({200, 400, 404, 405, 413, 415, 422, 501})

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_REVERT_CODE = 3
_REVERTED = re.compile(r"revert|invalid opcode|out of gas|stack underflow", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of JSON-RPC, its parameters as JSON text so that equal calls are one."""

    method: str
    params: bytes

    @classmethod
    def of(cls, method: str, *params: Any) -> "Call":
        return cls(method=method, params=orjson.dumps(params))


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcFault:
    """No answer, always the prober's side of the matter. `message` holds no URL."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The chain's own answer that a call cannot be made: it was reverted."""

    message: str


Answer = str | Refused | RpcFault

CHAIN_ID = Call.of("eth_chainId")


@dataclass(slots=True)
class _Place:
    """What is known of one RPC as one of a chain; moments of the monotonic clock."""

    chain_until: float = 0.0
    singles_until: float = 0.0
    avoided_until: float = 0.0


@dataclass(slots=True)
class _Waiting:
    """Calls that go out together, each with those who wait for it."""

    deadline: float
    calls: dict[Call, list[asyncio.Future[Answer]]] = field(default_factory=dict)
    full: asyncio.Event = field(default_factory=asyncio.Event)


_Key = tuple[int, tuple[str, ...], float]


class Reader:
    """All calls of one event loop. Ask `Equipment.own` for it."""

    def __init__(self, equipment: Equipment) -> None:
        self._transport = equipment.transport
        self._waiting: dict[_Key, _Waiting] = {}
        self._places: OrderedDict[tuple[int, str], _Place] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what runs; those who wait are cancelled."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def ask(
        self, chain_id: int, rpc_urls: tuple[str, ...], calls: Sequence[Call], timeout_s: float
    ) -> list[Answer]:
        """The answers in the calls' order, over within `timeout_s`."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = []
        key = (chain_id, rpc_urls, timeout_s)
        for call in calls:
            waiting = self._waiting.get(key)
            if waiting is None or (len(waiting.calls) >= MOST_CALLS and call not in waiting.calls):
                waiting = _Waiting(deadline=time.monotonic() + timeout_s)
                self._waiting[key] = waiting
                self._start(self._gathered(key, waiting))
            future: asyncio.Future[Answer] = loop.create_future()
            waiting.calls.setdefault(call, []).append(future)
            if len(waiting.calls) >= MOST_CALLS:
                waiting.full.set()
            futures.append(future)
        return list(await asyncio.gather(*futures))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _gathered(self, key: _Key, waiting: _Waiting) -> None:
        try:
            try:
                async with asyncio.timeout(GATHER_S):
                    await waiting.full.wait()
            except TimeoutError:
                pass
            if self._waiting.get(key) is waiting:
                del self._waiting[key]
            chain_id, rpc_urls, _ = key
            answers = await self._answers(chain_id, rpc_urls, list(waiting.calls), waiting.deadline)
            for call, futures in waiting.calls.items():
                for future in futures:
                    if not future.done():
                        future.set_result(answers[call])
        except Exception as exc:  # noqa: BLE001 - handed on
            # A bug of ours: raised where the calls were made, as any other of a probe's.
            for future in [each for futures in waiting.calls.values() for each in futures]:
                if not future.done():
                    future.set_exception(exc)
        finally:
            for future in [each for futures in waiting.calls.values() for each in futures]:
                future.cancel()

    async def _answers(
        self, chain_id: int, rpc_urls: tuple[str, ...], calls: list[Call], deadline: float
    ) -> dict[Call, Answer]:
        """Ask RPC after RPC until each call is answered or the time is over."""
        answers: dict[Call, Answer] = {}
        now = time.monotonic()
        order = sorted(
            enumerate(rpc_urls, 1),
            key=lambda each: self._place(chain_id, each[1]).avoided_until > now,
        )
        for asked, (number, url) in enumerate(order):
            left = [call for call in calls if not isinstance(answers.get(call), str | Refused)]
            left_s = deadline - time.monotonic()
            if not left or left_s <= 0:
                break
            # An RPC that hangs leaves the others their share.
            share_s = left_s / (len(order) - asked)
            place = self._place(chain_id, url)
            found = await self._asked(place, url, chain_id, left, share_s)
            if isinstance(found, RpcFault):
                place.avoided_until = time.monotonic() + _AVOIDED_S
                found = dict.fromkeys(left, found)
            for call in left:
                answer = found.get(call) or _fault("left the call unanswered")
                if isinstance(answer, RpcFault):
                    which = f"RPC {number} of {len(rpc_urls)}" if len(rpc_urls) > 1 else "the RPC"
                    answer = RpcFault(reason=answer.reason, message=f"{which} {answer.message}")
                answers[call] = answer
        late = _fault("the RPCs took too long")
        return {call: answers.get(call, late) for call in calls}

    async def _asked(
        self, place: _Place, url: str, chain_id: int, calls: list[Call], timeout_s: float
    ) -> Mapping[Call, Answer] | RpcFault:
        """What one RPC answers, its chain included where that was not asked of late."""
        deadline = time.monotonic() + timeout_s
        unproved = place.chain_until <= time.monotonic()
        if place.singles_until <= time.monotonic():
            batch = [CHAIN_ID, *calls] if unproved else calls
            found = await self._request(url, batch, timeout_s)
            if found is not None:
                return self._proved(place, chain_id, found) if unproved else found
            place.singles_until = time.monotonic() + _REFUSAL_S
        if unproved:
            found = await self._request(url, [CHAIN_ID], deadline - time.monotonic())
            proved = self._proved(place, chain_id, found or {})
            if isinstance(proved, RpcFault):
                return proved
        return await self._singly(url, calls, deadline)

    def _proved(
        self, place: _Place, chain_id: int, found: Mapping[Call, Answer] | RpcFault
    ) -> Mapping[Call, Answer] | RpcFault:
        """The answers, if they are of the right chain."""
        if isinstance(found, RpcFault):
            return found
        told = found.get(CHAIN_ID)
        if isinstance(told, RpcFault):
            return told
        if not isinstance(told, str) or not _QUANTITY.fullmatch(told):
            return _fault("does not tell its chain")
        if int(told, 16) != chain_id:
            return RpcFault(
                reason=Reason.PROBER_CHAIN, message=f"is of chain {int(told, 16)}, not {chain_id}"
            )
        place.chain_until = time.monotonic() + _CHAIN_S
        return found

    async def _singly(self, url: str, calls: list[Call], deadline: float) -> dict[Call, Answer]:
        answers: dict[Call, Answer] = {}
        left = iter(calls)

        async def work() -> None:
            for call in left:
                found = await self._request(url, [call], deadline - time.monotonic())
                if isinstance(found, RpcFault):
                    answers[call] = found
                elif found:
                    answers.update(found)

        await asyncio.gather(*(work() for _ in range(min(_SINGLES, len(calls)))))
        return answers

    async def _request(
        self, url: str, calls: list[Call], timeout_s: float
    ) -> Mapping[Call, Answer] | RpcFault | None:
        """One request; None where it is the batch that is refused."""
        if timeout_s <= 0:
            return _fault("took too long")
        found = await self._transport.exchange(request(url, calls), timeout_s)
        if isinstance(found, TransportError):
            own = found.reason.value.startswith("prober_")
            return RpcFault(
                reason=found.reason if own else Reason.PROBER_RPC,
                message=f"gave no answer: {found.message}",
            )
        if found.truncated:
            return _fault(f"answered more than {_most_bytes(len(calls))} bytes")
        return read(found.status, found.body, calls)

    def _place(self, chain_id: int, url: str) -> _Place:
        key = (chain_id, url)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place()
            if len(self._places) > _MOST_PLACES:
                self._places.popitem(last=False)
        else:
            self._places.move_to_end(key)
        return place


def request(url: str, calls: Sequence[Call]) -> HttpRequest:
    """What is sent for calls: an object for one, an array for more. No redirect is followed."""
    _, host, port = urls.parts(url)
    bodies = [
        b'{"jsonrpc":"2.0","id":%d,"method":"%b","params":%b}'
        % (number, call.method.encode(), call.params)
        for number, call in enumerate(calls)
    ]
    return HttpRequest(
        url=url,
        host=host,
        port=port,
        numeric=urls.is_numeric(host),
        method="POST",
        headers=(("Content-Type", "application/json"), ("Accept", "application/json")),
        body=bodies[0] if len(bodies) == 1 else b"[%b]" % b",".join(bodies),
        max_body_bytes=_most_bytes(len(calls)),
        keep_body_bytes=_most_bytes(len(calls)),
    )


def _most_bytes(calls: int) -> int:
    return _ANSWER_BYTES + calls * _CALL_BYTES


def read(
    status: int, body: bytes, calls: Sequence[Call]
) -> Mapping[Call, Answer] | RpcFault | None:
    """What an answer says of each call that it answers; None where it refuses the batch.

    Answers may come in any order and be too few; of two that differ, neither is believed.
    """
    several = len(calls) > 1
    try:
        document = parse_json(body)
    except ValueError as exc:
        if several and status in _REFUSALS - {200}:
            return None
        return _fault(f"answered with status {status}" if status != 200 else f"answered: {exc}")
    if several and isinstance(document, dict) and status in _REFUSALS:
        if _limited(document.get("error")):
            return _fault("limits its use: " + _text(document["error"]))
        return None
    if several and status in _REFUSALS - {200}:
        return None
    items = document if several else [document]
    if not isinstance(items, list) or not (status == 200 or (status < 500 and not several)):
        return _fault(f"answered with status {status}")
    seen: dict[Call, Any] = {}
    for item in items:
        number = item.get("id") if isinstance(item, dict) else None
        if type(number) is not int or not 0 <= number < len(calls):
            continue
        call = calls[number]
        if seen.setdefault(call, item) != item:
            seen[call] = {}
    if not several and not seen:
        error = document.get("error") if isinstance(document, dict) else None
        return _fault(_text(error) if error else f"answered with status {status}, but not the call")
    return {call: _answer(item) for call, item in seen.items()}


def _answer(item: Mapping[str, Any]) -> Answer:
    error = item.get("error")
    if error is not None:
        code = error.get("code") if isinstance(error, dict) else None
        told = _text(error)
        if not _limited(error) and (code == _REVERT_CODE or _REVERTED.search(told)):
            return Refused(message=told)
        return _fault(f"answered an error: {told}")
    result = item.get("result")
    return result if isinstance(result, str) and result else _fault("gave no result")


def _limited(error: object) -> bool:
    """Whether an error speaks of too many requests rather than of this one."""
    code = error.get("code") if isinstance(error, dict) else None
    return code in (429, -32005) or "rate limit" in _text(error).lower()


def _text(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    return one_line(str(message)[:500])[:200] or "no message"


def quantity(answer: str) -> int | None:
    """A number of JSON-RPC, at most 256 bits; None where it is none."""
    return int(answer, 16) if _QUANTITY.fullmatch(answer) else None


def word(answer: str) -> int | None:
    """A uint256 that a contract returned; None where it is none."""
    return int(answer, 16) if len(answer) == 66 and _QUANTITY.fullmatch(answer) else None


def _fault(message: str) -> RpcFault:
    return RpcFault(reason=Reason.PROBER_RPC, message=message)
