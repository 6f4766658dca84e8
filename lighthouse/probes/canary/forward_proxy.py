"""The only way out that a browser has: a proxy on loopback that asks the guard for every socket.

It speaks CONNECT and plain HTTP. Who uses it must show the credential of a flow that is running,
and what a flow has opened ends with it. Names are resolved here, so a browser needs no DNS.
"""

import asyncio
import base64
import binascii
import re
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

from lighthouse import urls
from lighthouse.model import Reason
from lighthouse.probes.wire.dial import DialError, Phases, Place, dial
from lighthouse.probes.wire.equipment import Equipment

#: Bytes of a request's or an answer's head; Chromium itself reads 256 KiB.
MOST_HEAD_BYTES = 64 * 1024
#: Connections of one flow at a time; Chromium opens 32 to a proxy, and WebSockets beside them.
MOST_CONNECTIONS = 100
#: Connections that have not shown a credential yet: this machine's users may open as many as they
#: like.
MOST_STRANGERS = 200
#: Seconds in which a request's head must have come.
HEAD_S = 10.0
#: Seconds for one connection, its name's resolution included.
CONNECT_S = 20.0
#: Seconds that a passage outlives its flow's deadline at the most, for its screenshot.
GRACE_S = 10.0

_CHUNK = 64 * 1024
_MOST_INTERIM = 10
_MOST_FAULTS = 50

#: Headers that belong to the connection with the proxy; the credential above all goes no further.
_OWN = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "upgrade"}
)
_REQUEST = re.compile(r"([A-Z]{1,20}) (\S{1,16384}) HTTP/1\.[01]")
_STATUS = re.compile(r"HTTP/1\.[01] ([1-5]\d\d)(?: .*)?")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*)")

_CHALLENGE = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\n"
    b'Proxy-Authenticate: Basic realm="lighthouse"\r\n'
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)
_NO_TUNNEL = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"


class _Refused(Exception):  # noqa: N818 - ends one connection, and is told nobody
    """A connection that is not served any further."""


@dataclass(slots=True, eq=False, kw_only=True)
class Passage:
    """What one flow may use, and what became of it."""

    left_bytes: int  #: of both directions together
    until: float  #: by the loop's clock, s
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    spent: asyncio.Event = field(default_factory=asyncio.Event)  #: `left_bytes` did not suffice
    #: (host, port) that could not be connected to: whose fault that was.
    faults: dict[tuple[str, int], tuple[Reason, str]] = field(default_factory=dict)
    tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def spend(self, size: int) -> None:
        """Count bytes; ends everything of the flow when they are too many."""
        self.left_bytes -= size
        if self.left_bytes < 0:
            self.spent.set()
            self.end()
            raise _Refused

    def end(self) -> None:
        """Cut off every connection."""
        for task in self.tasks:
            task.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """A request's or an answer's head."""

    first: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def forwarded(self, first: str) -> bytes:
        """Without what belongs to the other connection; each connection serves one exchange."""
        lines = [f"{key}: {value}" for key, value in self.headers if key.lower() not in _OWN]
        return "\r\n".join([first, *lines, "Connection: close", "", ""]).encode("latin-1")


class ForwardProxy:
    """One per browser, on its loop."""

    #: The user name that goes with every passage's password.
    USERNAME = "flow"

    def __init__(self, equipment: Equipment) -> None:
        self._equipment = equipment
        self._passages: dict[str, Passage] = {}
        self._strangers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port of 127.0.0.1."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, limit=MOST_HEAD_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self, timeout_s: float, most_bytes: int) -> Passage:
        """Let a flow pass, until it is closed or its time is long over."""
        until = asyncio.get_running_loop().time() + timeout_s + GRACE_S
        passage = Passage(left_bytes=most_bytes, until=until)
        self._passages[passage.password] = passage
        return passage

    def shut(self, passage: Passage) -> None:
        """End a flow's passage and all its connections."""
        self._passages.pop(passage.password, None)
        passage.end()

    async def close(self) -> None:
        """End everything."""
        if self._server is not None:
            self._server.close()
        for passage in list(self._passages.values()):
            self.shut(passage)
        for task in self._strangers:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the server runs this as a task
        passage: Passage | None = None
        try:
            if len(self._strangers) >= MOST_STRANGERS:
                return
            self._strangers.add(task)
            async with asyncio.timeout(HEAD_S):
                head = await _read_head(reader)
            self._strangers.discard(task)
            passage = self._passages.get(_password(head))
            if passage is None:
                writer.write(_CHALLENGE)
                await writer.drain()
                return
            if len(passage.tasks) >= MOST_CONNECTIONS:
                return
            passage.tasks.add(task)
            async with asyncio.timeout_at(passage.until):
                await self._pass(passage, head, reader, writer)
        except (_Refused, OSError, EOFError, asyncio.LimitOverrunError, TimeoutError):
            pass  # whoever is at the other end sees it closed
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._strangers.discard(task)
            if passage is not None:
                passage.tasks.discard(task)
            writer.close()

    async def _pass(
        self,
        passage: Passage,
        head: _Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        asked = _REQUEST.fullmatch(head.first)
        if asked is None:
            raise _Refused
        method, target = asked.groups()
        if method == "CONNECT":
            host, port = _place(target, 443)
            upstream = await self._dial(passage, host, port)
            if upstream is None:
                writer.write(_NO_TUNNEL)
                return
            with upstream:
                writer.write(_TUNNEL)
                await _first_of(
                    _pour(reader, upstream.writer, passage), _pour(upstream.reader, writer, passage)
                )
            return
        if not target.lower().startswith("http://") or head.get("transfer-encoding"):
            raise _Refused
        split = re.match(r"([^/?#]*)([^#]*)", target[len("http://") :])
        assert split is not None  # noqa: S101 - it matches anything
        path = split[2] if split[2].startswith("/") else f"/{split[2]}"
        host, port = _place(split[1], 80)
        # No answer of the proxy's own: the browser would show it as the target's page.
        upstream = await self._dial(passage, host, port)
        if upstream is None:
            raise _Refused
        with upstream:
            request = head.forwarded(f"{method} {path} HTTP/1.1")
            passage.spend(len(request))
            upstream.writer.write(request)
            # What follows the body is never sent on: it might be a request to somebody else.
            body = _pour(reader, upstream.writer, passage, _length(head))
            try:
                await _with_beside(_answer(upstream.reader, writer, passage), body)
            except asyncio.LimitOverrunError:
                self._fault(passage, host, port, Reason.PROTOCOL_ERROR, "its header is too long")
            except _BadAnswer:
                self._fault(passage, host, port, Reason.PROTOCOL_ERROR, "not an HTTP answer")

    async def _dial(self, passage: Passage, host: str, port: int) -> "_Upstream | None":
        """A connection to an allowed address, or None and the reason in `faults`."""
        left_s = passage.until - asyncio.get_running_loop().time()
        try:
            return await dial(
                self._equipment,
                Place(host=host, port=port, tls=False),
                _Upstream,
                timeout_s=min(CONNECT_S, left_s),
                phases=Phases(),
            )
        except DialError as exc:
            self._fault(passage, host, port, exc.reason, exc.message)
            return None

    def _fault(self, passage: Passage, host: str, port: int, reason: Reason, told: str) -> None:
        if len(passage.faults) < _MOST_FAULTS:
            passage.faults[host, port] = (reason, told)


class _BadAnswer(Exception):  # noqa: N818 - a judgement
    """What came is no HTTP answer."""


class _Upstream(asyncio.StreamReaderProtocol):
    """The connection to a target; aborted when its `with` ends."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=MOST_HEAD_BYTES, loop=loop)
        super().__init__(self.reader, loop=loop)
        self.writer: asyncio.StreamWriter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        # No check of its type: uvloop's transports are of none that asyncio names.
        self.writer = asyncio.StreamWriter(
            cast(asyncio.WriteTransport, transport), self, self.reader, loop
        )

    def __enter__(self) -> "_Upstream":
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.transport.abort()


async def _read_head(reader: asyncio.StreamReader) -> _Head:
    raw = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1")
    first, *lines = raw.split("\r\n")
    found = [_HEADER.fullmatch(line) for line in lines]
    return _Head(first=first, headers=tuple((each[1], each[2]) for each in found if each))


def _password(head: _Head) -> str:
    scheme, _, encoded = (head.get("proxy-authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        pair = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    return pair.partition(":")[2]


def _place(authority: str, default_port: int) -> tuple[str, int]:
    """Host and port, a numeric host in its one form whatever its spelling. Raises _Refused."""
    try:
        split = urlsplit(f"//{authority}")
        host, port = urls.normalize_host(split.hostname or ""), split.port
    except ValueError:
        raise _Refused from None
    if "@" in authority or port == 0:
        raise _Refused
    return host, port or default_port


def _length(head: _Head) -> int:
    length = head.get("content-length") or "0"
    if not (length.isascii() and length.isdecimal() and len(length) < 16):
        raise _Refused
    return int(length)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: Passage
) -> None:
    """Send a target's answer on, so that the browser uses this connection for nothing else."""
    for _ in range(_MOST_INTERIM):
        try:
            head = await _read_head(reader)
        except asyncio.IncompleteReadError as exc:
            if exc.partial:
                raise _BadAnswer from exc
            raise
        status = _STATUS.fullmatch(head.first)
        # 407 is the proxy's own to say, and nothing was asked to switch protocols.
        if status is None or status[1] in ("101", "407"):
            raise _BadAnswer
        raw = head.forwarded(head.first)
        passage.spend(len(raw))
        writer.write(raw)
        if not status[1].startswith("1"):
            break
    else:
        raise _BadAnswer
    await _pour(reader, writer, passage)
    await writer.drain()


async def _pour(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    passage: Passage,
    size: int | None = None,
) -> None:
    """Send on what comes, `size` bytes or until its end."""
    while size is None or size > 0:
        data = await reader.read(_CHUNK if size is None else min(_CHUNK, size))
        if not data:
            return
        passage.spend(len(data))
        size = None if size is None else size - len(data)
        writer.write(data)
        await writer.drain()


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until the first ends, and end the rest."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _with_beside(main: Coroutine[Any, Any, None], beside: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, with something beside it that may end before."""
    task = asyncio.ensure_future(beside)
    try:
        await main
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
