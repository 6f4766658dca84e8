"""Servers to probe: well-behaved, slow, broken and hostile ones, on loopback."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.certificates import Certificate

HOST = "127.0.0.1"

Behaviour = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Target:
    """A running server: where it is and what it was asked."""

    def __init__(self, port: int, scheme: str) -> None:
        self.port = port
        self.scheme = scheme
        self.requests: list[bytes] = []  #: heads and, where a length was given, bodies
        self.connections = 0
        self.connected = asyncio.Event()

    def url(self, path: str = "/", host: str = HOST) -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def raw_target(
    behave: Behaviour, certificate: Certificate | None = None, *, clients: Path | None = None
) -> AsyncIterator[Target]:
    """A server that reads one request a connection and then does what it is told to.

    `clients`: the authority by which clients must have a certificate.
    """
    target = Target(0, "http" if certificate is None else "https")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        target.connections += 1
        target.connected.set()
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                request = await _request(reader)
                target.requests.append(request)
                await behave(request, reader, writer)
        finally:
            writer.close()
            tasks.discard(task)

    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients)
    server = await asyncio.start_server(serve, HOST, 0, ssl=context, limit=2**20)
    target.port = server.sockets[0].getsockname()[1]
    try:
        yield target
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.partition(b":")[2]))
    return head


def answering(
    status: int = 200,
    body: bytes = b"ok",
    headers: dict[str, str] | None = None,
    *,
    after_s: float = 0.0,
) -> Behaviour:
    """A plain HTTP/1.1 answer."""
    lines = [f"HTTP/1.1 {status} Text", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return sending("\r\n".join([*lines, "", ""]).encode("latin-1") + body, after_s=after_s)


def sending(data: bytes, *, after_s: float = 0.0, then_hang: bool = False) -> Behaviour:
    """Bytes as they are, and then the end of the connection or silence."""

    async def behave(
        request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.sleep(after_s)
        writer.write(data)
        await writer.drain()
        if then_hang:
            await asyncio.Event().wait()

    return behave


def endless(head: bytes, chunk: bytes, *, pause_s: float = 0.0) -> Behaviour:
    """A head, and then the same bytes for ever."""

    async def behave(
        request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(head)
        while True:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return behave


def resetting() -> Behaviour:
    """A TCP reset instead of an answer."""

    async def behave(
        request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.transport.abort()  # with unread input the kernel sends RST
        await asyncio.sleep(0)

    return behave
