"""A real server of HTTP/1.1, HTTP/2 and HTTP/3 on loopback (Hypercorn)."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from tests.support.certificates import Certificate
from tests.support.raw_target import HOST


async def _answer(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = f"HTTP/{scope['http_version']}".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _free_port() -> int:
    """A port that is free for TCP and for UDP."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        ):
            stream.bind((HOST, 0))
            port = int(stream.getsockname()[1])
            try:
                datagram.bind((HOST, port))
            except OSError:
                continue
            return port


@asynccontextmanager
async def modern_target(certificate: Certificate | None, *alpn: str) -> AsyncIterator[int]:
    """The port of a server that speaks the named protocols: "http/1.1", "h2", "h3".

    Without a certificate it speaks HTTP/1.1 and, to whom begins with it, HTTP/2 in clear text.
    """
    port = _free_port()
    config = Config()
    config.bind = [f"{HOST}:{port}"]
    config.errorlog = logging.getLogger("hypercorn.none")
    config.errorlog.disabled = True
    config.graceful_timeout = 0.2
    config.shutdown_timeout = 1
    if certificate is not None:
        config.certfile = str(certificate.cert_file)
        config.keyfile = str(certificate.key_file)
        config.alpn_protocols = [each for each in alpn if each != "h3"]
        if "h3" in alpn:
            config.quic_bind = [f"{HOST}:{port}"]
    stop = asyncio.Event()
    server = asyncio.create_task(serve(_answer, config, shutdown_trigger=stop.wait))
    try:
        await _listening(port)
        yield port
    finally:
        stop.set()
        await asyncio.wait({server}, timeout=3)
        server.cancel()


async def _listening(port: int) -> None:
    for _ in range(500):
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return
    raise TimeoutError("the server did not start")
