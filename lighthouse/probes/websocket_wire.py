"""What aiohttp's WebSocket client is given and what its faults mean: one bounded connection.

aiohttp follows redirects and tries broken requests again; here it gets a single connection.
"""

import asyncio
import re
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from lighthouse.model import Reason
from lighthouse.probes.wire.faults import one_line

#: Answers that may come before the one to the handshake ("100 Continue", "103 Early Hints").
_MOST_INTERIM = 100

#: Answers that may come before the one to the handshake ("100 Continue", "103 Early Hints").
_MOST_INTERIM = 100

#: What a close code means (RFC 6455, 7.4.1), for people.
_CODES = {
    1000: "normal",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no code",
    1007: "invalid data",
    1008: "policy violation",
    1009: "message too big",
    1010: "extension wanted",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
}


class FaultError(Exception):
    """The end of a check that is no success."""

    def __init__(self, reason: Reason, message: str, snippet: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.snippet = snippet


#: A list of options that names the upgrade (RFC 9110, 7.6.1), where aiohttp knows one name only.
_CONNECTION = re.compile(rb"\r\nconnection:[^\r\n]*\bupgrade\b[^\r\n]*", re.IGNORECASE)


class Wire(ResponseHandler):
    """aiohttp's reader of a connection, with a bound on all that comes over it."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(asyncio.get_running_loop())
        self.opened = False  #: the handshake is over
        self.flood: FaultError | None = None  #: why the connection was ended here
        self._most = self._left = most_bytes
        self._interim = _MOST_INTERIM

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._end(Reason.BODY_TOO_LARGE, f"more than {self._most} bytes came")
            return
        if not self.opened:
            # aiohttp reads all that have come without letting anything else run.
            self._interim -= data.partition(b"HTTP/1.1 101")[0].count(b"HTTP/1.")
            if self._interim < 0:
                told = f"more than {_MOST_INTERIM} answers before that to the handshake"
                self._end(Reason.PROTOCOL_ERROR, told)
                return
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _CONNECTION.sub(b"\r\nConnection: Upgrade", head) + end + rest
        super().data_received(data)

    def _end(self, reason: Reason, message: str) -> None:
        if self.flood is None:
            self.flood = FaultError(reason, message)
        if self.transport is not None:
            self.transport.abort()


class Running:
    """The attempts that run, so that they can be ended."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the running task in."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine asks
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def close(self) -> None:
        """Cancel all that run."""
        for task in tuple(self._tasks):
            task.cancel()


class OneConnection(aiohttp.BaseConnector):
    """Gives a session one connection that is dialled here, and never a second one."""

    def __init__(self, dialled: Wire) -> None:
        super().__init__(force_close=True, limit=0)
        self._dialled: Wire | None = dialled

    async def _create_connection(self, *_: Any) -> ResponseHandler:
        wire, self._dialled = self._dialled, None
        if wire is None:  # aiohttp tries a request again whose connection broke
            raise aiohttp.ServerDisconnectedError
        return wire


async def sending(sent: Awaitable[None]) -> None:
    """Raises FaultError where nothing can be sent any more."""
    try:
        await sent
    except (aiohttp.ClientError, OSError) as exc:
        raise FaultError(Reason.CONNECTION_RESET, "the connection broke while sending") from exc


def closed(code: int, reason: str | None) -> str:
    """A close frame, for people."""
    code = code or 1005
    known = f" ({_CODES[code]})" if code in _CODES else ""
    told = f": {one_line(reason)}" if reason else ""
    return f"the server closed the connection with code {code}{known}{told}"


def broken(error: object, most: int) -> FaultError:
    """What breaks the protocol; the server's text may be any."""
    if (
        isinstance(error, aiohttp.WebSocketError)
        and error.code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
    ):
        return FaultError(Reason.BODY_TOO_LARGE, f"a message is longer than {most} bytes")
    return FaultError(Reason.PROTOCOL_ERROR, f"no WebSocket frames: {one_line(str(error))}")
