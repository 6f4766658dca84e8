"""A target of our own: one process that answers as its path says, fast enough to be no limit.

    python -m tests.support.target [HOST:]PORT [CERTIFICATE KEY]

/ok answers 200, /fail 500, /hang never, /toggle 200 or 500 as `POST /toggle/up|down` last said.
"""

import asyncio
import ssl
import sys
from typing import ClassVar, cast

import uvloop


def _answer(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body


OK, FAIL = _answer("200 OK", b"fine"), _answer("500 Internal Server Error", b"broken")


class Target(asyncio.Protocol):
    """One connection, one answer."""

    up: ClassVar[bool] = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._seen = b""

    def data_received(self, data: bytes) -> None:
        self._seen += data
        if b"\r\n\r\n" not in self._seen:
            return
        path = self._seen.split(b" ", 2)[1]
        if path.startswith(b"/toggle/"):
            Target.up = path.endswith(b"up")
        elif path.startswith(b"/hang"):
            return
        good = Target.up if path.startswith(b"/toggle") else not path.startswith(b"/fail")
        self._transport.write(OK if good else FAIL)
        self._transport.close()


async def serve(place: str, certificate: str | None = None, key: str | None = None) -> None:
    host, _, port = place.rpartition(":")
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        Target, host or "127.0.0.1", int(port), backlog=4096, ssl=context
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:4]))
