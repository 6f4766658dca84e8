"""A WebSocket server made of bytes, so that it can break every rule; and one that keeps them."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import WSMsgType, web

from tests.support.raw_target import HOST, Behaviour

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def frame(data: bytes | str, opcode: int = TEXT, *, last: bool = True, reserved: int = 0) -> bytes:
    """A frame as servers send it."""
    data = data.encode() if isinstance(data, str) else data
    return header(len(data), opcode, last=last, reserved=reserved) + data


def header(length: int, opcode: int = TEXT, *, last: bool = True, reserved: int = 0) -> bytes:
    """The beginning of a frame whose data may never come."""
    first = (0x80 if last else 0) | reserved << 4 | opcode
    if length < 126:
        return bytes([first, length])
    if length < 65536:
        return bytes([first, 126]) + length.to_bytes(2, "big")
    return bytes([first, 127]) + length.to_bytes(8, "big")


async def received(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The opcode and data of a client's short frame."""
    first, second = await reader.readexactly(2)
    length = second & 0x7F
    if length == 126:
        length = int.from_bytes(await reader.readexactly(2), "big")
    mask = await reader.readexactly(4)
    data = await reader.readexactly(length)
    return first & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


def accepted(request: bytes, *lines: str) -> bytes:
    """The right answer to a handshake, with further header lines."""
    key = next(
        line.partition(b":")[2].strip()
        for line in request.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    )
    proof = base64.b64encode(
        hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    ).decode()
    head = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*head, f"Sec-WebSocket-Accept: {proof}", *lines, "", ""]).encode("latin-1")


def upgrading(talk: Talk | bytes, *lines: str) -> Behaviour:
    """A proper handshake, then bytes and silence until the client closes, or a conversation."""

    async def behave(
        request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(accepted(request, *lines))
        if isinstance(talk, bytes):
            writer.write(talk)
            await writer.drain()
            while (await received(reader))[0] != CLOSE:
                pass
        else:
            await talk(reader, writer)

    return behave


def flooding(data: bytes, first: bytes = b"") -> Behaviour:
    """A proper handshake, and then the same bytes for ever."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0)

    return upgrading(talk)


class Echo:
    """A well-behaved server: greets, answers pings and echoes; and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: list[dict[str, str]] = []
        self.messages: list[str] = []
        self.close_codes: list[int | None] = []
        self.closed = asyncio.Event()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        self.headers.append(dict(request.headers))
        socket = web.WebSocketResponse(protocols=("v2.echo", "v1.echo"))
        await socket.prepare(request)
        await socket.send_str('{"hello": 1}')
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                self.messages.append(message.data)
                await socket.send_str(f"echo {message.data}")
        self.close_codes.append(socket.close_code)
        self.closed.set()
        return socket


@asynccontextmanager
async def echo_server() -> AsyncIterator[Echo]:
    """Aiohttp's own WebSocket server at /ws."""
    echo = Echo()
    application = web.Application()
    application.router.add_get("/ws", echo.serve)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        echo.url = f"ws://{HOST}:{runner.addresses[0][1]}/ws"
        yield echo
    finally:
        await runner.cleanup()
