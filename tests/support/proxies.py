"""Proxies on loopback that note whom they were asked for: HTTP (CONNECT and plain) and SOCKS5."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.support.certificates import Certificate
from tests.support.raw_target import HOST


class Proxy:
    """A running proxy: where it is, what it was asked for and with which credentials."""

    def __init__(self, scheme: str, port: int) -> None:
        self.scheme = scheme
        self.port = port
        self.asked: list[str] = []  #: "host:port" as the prober wrote it, or an absolute URL
        self.credentials: list[bytes] = []

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"


@asynccontextmanager
async def http_proxy(
    certificate: Certificate | None = None, *, refuse: int | None = None
) -> AsyncIterator[Proxy]:
    """An HTTP proxy; every name leads to 127.0.0.1. `refuse`: the status of every answer."""
    proxy = Proxy("http" if certificate is None else "https", 0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            method, place, _ = lines[0].decode().split(" ")
            proxy.asked.append(place)
            proxy.credentials += [
                line.partition(b": ")[2]
                for line in lines
                if line.lower().startswith(b"proxy-authorization:")
            ]
            if refuse is not None:
                writer.write(f"HTTP/1.1 {refuse} No\r\nContent-Length: 0\r\n\r\n".encode())
            elif method == "CONNECT":
                port = int(place.rpartition(":")[2])
                inner = await asyncio.open_connection(HOST, port)
                writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                await _joined((reader, writer), inner)
            else:
                port = int(place.split("/")[2].rpartition(":")[2])
                inner = await asyncio.open_connection(HOST, port)
                inner[1].write(head)
                await _joined((reader, writer), inner)
            await writer.drain()
        writer.close()

    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert_file, certificate.key_file)
    async with _serving(serve, context) as port:
        proxy.port = port
        yield proxy


@asynccontextmanager
async def socks_proxy(
    scheme: str = "socks5", *, password: bool = False, reply: int = 0
) -> AsyncIterator[Proxy]:
    """A SOCKS5 proxy; every name leads to 127.0.0.1. `reply`: its answer (RFC 1928), 0 is good."""
    proxy = Proxy(scheme, 0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            _, count = await reader.readexactly(2)
            await reader.readexactly(count)
            writer.write(b"\x05\x02" if password else b"\x05\x00")
            if password:
                _, length = await reader.readexactly(2)
                name = await reader.readexactly(length)
                (length,) = await reader.readexactly(1)
                proxy.credentials.append(name + b":" + await reader.readexactly(length))
                writer.write(b"\x01\x00")
            _, _, _, kind = await reader.readexactly(4)
            if kind == 3:
                (length,) = await reader.readexactly(1)
                host = (await reader.readexactly(length)).decode()
            else:
                family = socket.AF_INET if kind == 1 else socket.AF_INET6
                host = socket.inet_ntop(family, await reader.readexactly(4 if kind == 1 else 16))
            (port,) = struct.unpack(">H", await reader.readexactly(2))
            proxy.asked.append(f"{host}:{port}")
            writer.write(bytes([5, reply, 0, 1, 127, 0, 0, 1, 0, 0]))
            if reply == 0:
                await _joined((reader, writer), await asyncio.open_connection(HOST, port))
            await writer.drain()
        writer.close()

    async with _serving(serve, None) as port:
        proxy.port = port
        yield proxy


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _joined(one: Streams, other: Streams) -> None:
    """Copy both ways until one side ends."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()

    ways = {
        asyncio.create_task(copy(one[0], other[1])),
        asyncio.create_task(copy(other[0], one[1])),
    }
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        other[1].close()


@asynccontextmanager
async def _serving(serve: object, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def kept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(asyncio.CancelledError):
                await serve(reader, writer)  # type: ignore[operator]
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(kept, HOST, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
