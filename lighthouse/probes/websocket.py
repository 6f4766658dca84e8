"""The `websocket` monitor: a handshake, a ping that must come back, a message that must arrive.

The connection is dialled and guarded here; aiohttp speaks the protocol over it. What a target
sends is counted in frames and in bytes, and one deadline ends it all.
"""

import asyncio
import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import aiohttp
from aiohttp import WSMsgType

from lighthouse import __version__
from lighthouse.model import (
    SNIPPET_CHARS,
    CheckStatus,
    Finding,
    Outcome,
    Reason,
    Step,
    Timings,
)
from lighthouse.probes.http import blame, expiry_fault
from lighthouse.probes.judging import matching
from lighthouse.probes.websocket_config import MessageExpectation, WebsocketConfig
from lighthouse.probes.websocket_wire import (
    FaultError,
    OneConnection,
    Running,
    Wire,
    broken,
    closed,
    sending,
)
from lighthouse.probes.wire import evidence
from lighthouse.probes.wire.dial import DialError, Phases, dial
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.faults import one_line

#: Pings and pongs that a target may send in one check: more is a flood.
_MOST_CONTROLS = 1000

#: Bytes that a target may send in one check, in the largest message's size: other messages and
#: frames that carry nothing included.
_MOST_MESSAGES_BYTES = 4

#: Bytes that come on top for the handshake.
_HANDSHAKE_BYTES = 64 * 1024

#: Frames after which other checks get their turn: reading what has come already waits for nothing.
_BREATH = 64

#: Seconds for the closing handshake. What it brings is not judged.
_CLOSE_S = 0.5

_Socket = aiohttp.ClientWebSocketResponse[Literal[True]]


@dataclass(slots=True)
class _Seen:
    """What a handshake was answered with."""

    status: int | None = None
    subprotocol: str | None = None


class Attempt:
    """One check of a WebSocket: what it has learned, and how long each phase took."""

    def __init__(self, equipment: Equipment, config: WebsocketConfig, timeout_s: float) -> None:
        self.equipment = equipment
        self.config = config
        self.timeout_s = timeout_s
        self.phases = Phases()
        self.seen = _Seen()
        self.findings: list[Finding] = []
        self._begun = time.monotonic()
        self._phase = ""
        self._phase_begun: float | None = None  #: while one runs
        self._unmatched: tuple[str, int, bytes] | None = None
        self._wire: Wire | None = None
        self._answer: aiohttp.ClientResponse | None = None
        self._controls = self._frames = 0
        self._early: deque[bytes] = deque()

    async def run(self) -> Outcome:
        """All phases. Takes no longer than the timeout, whatever the target does."""
        fault: FaultError | None = None
        took_ms = None
        end = asyncio.get_running_loop().time() + self.timeout_s
        try:
            wire = await self._dial()
            async with asyncio.timeout_at(end), self._session(wire) as session:
                socket = await self._handshake(session)
                await self._converse(socket)
                took_ms = self._elapsed_ms()
                await self._part(socket)
        except DialError as exc:
            fault = FaultError(exc.reason, exc.message)
        except FaultError as exc:
            fault = exc
        except TimeoutError:
            if took_ms is None:
                fault = self._too_late()
        finally:
            self._let_go()
        if took_ms is None:
            took_ms = self._elapsed_ms()
        if fault is not None and self._phase_begun is not None:
            self._end()
        return self._judged(fault, took_ms)

    def _let_go(self) -> None:
        if self._answer is not None:
            self._answer.close()
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.abort()

    # -- phases ---------------------------------------------------------------------------------

    def _begin(self, phase: str) -> None:
        self._phase, self._phase_begun = phase, time.monotonic()

    def _end(self) -> None:
        if self._phase_begun is not None:
            self.phases.took_ms[self._phase] = (time.monotonic() - self._phase_begun) * 1000
            self._phase_begun = None

    def _elapsed_ms(self) -> float:
        return (time.monotonic() - self._begun) * 1000

    async def _dial(self) -> Wire:
        most = _HANDSHAKE_BYTES + _MOST_MESSAGES_BYTES * self.config.max_message_bytes
        self._wire = await dial(
            self.equipment,
            self.config.place,
            partial(Wire, most),
            timeout_s=self.timeout_s,
            phases=self.phases,
        )
        return self._wire

    def _session(self, wire: Wire) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        trace.on_request_redirect.append(self._answered)
        return aiohttp.ClientSession(
            connector=OneConnection(wire),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": f"Lighthouse/{__version__}"},
            trust_env=False,
            auto_decompress=False,
            trace_configs=[trace],
        )

    async def _answered(self, _session: Any, _context: Any, params: Any) -> None:
        answer = self._answer = params.response
        self.seen = _Seen(
            status=answer.status, subprotocol=answer.headers.get("Sec-WebSocket-Protocol")
        )
        if answer.status != 101:  # a redirect, too: it is not followed
            raise FaultError(Reason.STATUS_CODE, f"status {answer.status}, expected 101")

    async def _handshake(self, session: aiohttp.ClientSession) -> _Socket:
        self._begin("handshake")
        config = self.config
        try:
            socket = await session.ws_connect(
                config.url,
                protocols=config.subprotocols,
                origin=config.origin,
                headers=config.headers,
                autoping=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
                compress=0,
                max_msg_size=config.max_message_bytes + 1,  # aiohttp refuses the limit itself
            )
        except aiohttp.WSServerHandshakeError as exc:
            told = exc.message.lower()
            raise FaultError(Reason.PROTOCOL_ERROR, f"no WebSocket handshake: {told}") from exc
        except aiohttp.ClientResponseError as exc:
            told = one_line(exc.message)
            raise FaultError(Reason.PROTOCOL_ERROR, f"not an HTTP answer: {told}") from exc
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as exc:
            self._drowned()
            message = "the connection closed without an answer"
            raise FaultError(Reason.CONNECTION_RESET, message) from exc
        self._end()
        if self._wire is not None:
            self._wire.opened = True
        self._chosen()
        return socket

    def _chosen(self) -> None:
        """Raise a FaultError for a subprotocol that is none of those that were offered."""
        offered, chosen = self.config.subprotocols, self.seen.subprotocol
        wrong = None
        if offered and chosen is None:
            wrong = f"the server chose no subprotocol, expected {' or '.join(offered)}"
        elif chosen is not None and chosen not in offered:
            wrong = f"the server chose a subprotocol that was not offered: {one_line(chosen, 80)}"
        if offered or wrong:
            self._found("subprotocol", wrong, chosen or "none")
        if wrong:
            raise FaultError(Reason.HEADER, wrong)

    async def _converse(self, socket: _Socket) -> None:
        config = self.config
        if config.ping:
            self._begin("ping")
            await self._pinged(socket)
            self._end()
        if config.message is not None or config.expect is not None:
            self._begin("message")
            if config.message is not None:
                self._early.clear()  # what came before cannot be the answer
                await sending(socket.send_str(config.message))
            if config.expect is not None:
                await self._expected(socket, config.expect)
            self._end()

    async def _pinged(self, socket: _Socket) -> None:
        token = os.urandom(8)
        await sending(socket.ping(token))
        most = 1000 if self.config.expect is None else self.config.expect.skip + 1
        while True:
            kind, data = await self._next(socket)
            if kind is WSMsgType.PONG and data == token:
                self._found("pong", None, "came")
                return
            if kind is not WSMsgType.PONG:
                if len(self._early) >= most:
                    raise FaultError(Reason.BODY, f"no pong among {most} messages")
                self._early.append(data)

    async def _expected(self, socket: _Socket, expect: MessageExpectation) -> None:
        skipped = 0
        while True:
            if self._early:
                message = self._early.popleft()
            else:
                kind, message = await self._next(socket)
                if kind is WSMsgType.PONG:
                    continue
            wrong = await expect.message_fault(message)
            if wrong is None:
                self._found("message", None, f"came after {skipped} others" if skipped else "came")
                return
            skipped += 1
            self._unmatched = (wrong, skipped, message)
            if skipped > expect.skip:
                raise self._mismatch()

    async def _next(self, socket: _Socket) -> tuple[WSMsgType, bytes]:
        """The next message or pong; pings are answered. Raises FaultError at the end."""
        while True:
            self._frames += 1
            if self._frames % _BREATH == 0:
                await asyncio.sleep(0)
            found = await socket.receive()
            match found.type:
                case WSMsgType.TEXT:
                    return found.type, found.data.encode()
                case WSMsgType.BINARY:
                    return found.type, bytes(found.data)
                case WSMsgType.PING | WSMsgType.PONG:
                    self._controls += 1
                    if self._controls > _MOST_CONTROLS:
                        message = f"more than {_MOST_CONTROLS} pings and pongs"
                        raise FaultError(Reason.PROTOCOL_ERROR, message)
                    if found.type is WSMsgType.PONG:
                        return found.type, bytes(found.data)
                    await sending(socket.pong(found.data))
                case WSMsgType.CLOSE:
                    raise FaultError(Reason.CLOSED, closed(found.data, found.extra))
                case WSMsgType.ERROR:
                    raise broken(found.data, self.config.max_message_bytes)
                case _:
                    self._drowned()
                    message = "the connection closed without a closing handshake"
                    raise FaultError(Reason.CONNECTION_RESET, message)

    async def _part(self, socket: _Socket) -> None:
        """The closing handshake, for a little while."""
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_CLOSE_S):
                await socket.close()

    # -- faults ---------------------------------------------------------------------------------

    def _drowned(self) -> None:
        """Raise the FaultError of a connection that was ended here."""
        if self._wire is not None and self._wire.flood is not None:
            raise self._wire.flood

    def _too_late(self) -> FaultError:
        if self._unmatched is not None:
            return self._mismatch()
        what = {
            "handshake": "no complete handshake",
            "ping": "no pong",
            "message": "no message",
        }.get(self._phase, "no connection")
        return FaultError(Reason.TIMEOUT, f"{what} within {self.timeout_s:.3g} s")

    def _mismatch(self) -> FaultError:
        """Messages came, and none of them was the one."""
        wrong, count, last = self._unmatched or ("", 0, b"")
        told = wrong if count == 1 else f"{count} messages came, the last: {wrong}"
        self._found("message", told, "")
        return FaultError(Reason.BODY, told, matching.text(last[:SNIPPET_CHARS], None))

    def _found(self, name: str, wrong: str | None, told: str) -> None:
        if self.equipment.explain:
            self.findings.append(
                Finding(name=name, ok=wrong is None, found=one_line(wrong or told))
            )

    # -- judgement ------------------------------------------------------------------------------

    def _addresses(self) -> tuple[str, ...]:
        first = self.phases.address
        return evidence.addresses(() if first is None else (first,), self.phases.addresses)

    def _judged(self, fault: FaultError | None, took_ms: float) -> Outcome:
        config, phases = self.config, self.phases
        status = CheckStatus.SUCCESS
        broken = fault  # in the phase that was the last one
        limit = config.max_latency_ms
        if fault is None and limit is not None:
            slow = f"took {took_ms:.1f} ms, expected at most {limit} ms"
            if took_ms > limit:
                fault = FaultError(Reason.MAX_LATENCY, slow)
            self._found("latency", slow if took_ms > limit else None, f"{took_ms:.1f} ms")
        if fault is not None:
            status = blame(fault.reason)
        elif config.certificate_expiry is not None:
            ends = phases.cert_expires_at
            soon = expiry_fault(config.certificate_expiry.days, ends, datetime.now(UTC))
            self._found("certificate expiry", soon, f"{ends:%Y-%m-%d}" if ends else "unknown")
            if soon is not None:
                fault = FaultError(Reason.CERTIFICATE_EXPIRY, soon)
                if config.certificate_expiry.severity == "failure":
                    status = CheckStatus.FAILURE
        took = phases.took_ms
        bad = status is not CheckStatus.SUCCESS
        steps = [
            Step(name=name, status=CheckStatus.SUCCESS, latency_ms=ms) for name, ms in took.items()
        ]
        if broken is not None and steps:
            steps[-1] = replace(steps[-1], status=status, message=broken.message)
        return Outcome(
            status=status,
            reason=None if fault is None else fault.reason,
            message=None if fault is None else fault.message,
            latency_ms=took_ms,
            http_status=self.seen.status,
            http_version=None if self.seen.status is None else 11,
            timings=Timings(
                dns_ms=took.get("dns"),
                tcp_ms=took.get("tcp"),
                tls_ms=took.get("tls"),
                ttfb_ms=took.get("handshake"),
            ),
            cert_expires_at=phases.cert_expires_at,
            certificate=evidence.certificate(phases.certificate, phases.cert_expires_at, bad=bad),
            addresses=self._addresses() if bad else (),
            snippet=fault.snippet if fault is not None and bad else None,
            findings=tuple(self.findings),
            steps=tuple(steps),
        )


async def probe(equipment: Equipment, config: WebsocketConfig, timeout_s: float) -> Outcome:
    """One attempt, over within `timeout_s`."""
    running = equipment.own(Running, lambda _: Running())
    with running.counted():
        return await Attempt(equipment, config, timeout_s).run()
