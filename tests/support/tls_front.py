"""TLS in front of a server that speaks none, as a managed PostgreSQL or Redis would."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator

from tests.support.certificates import Authority


class _Front:
    def __init__(self, upstream: tuple[str, int] | str, tls: ssl.SSLContext, postgres: bool):
        self._upstream, self._tls, self._postgres = upstream, tls, postgres
        self.port = 0
        self.ready = threading.Event()

    async def run(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        await self._ended.wait()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled at the end; asyncio would log that as a fault of the callback.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if self._postgres:
                await reader.readexactly(8)  # SSLRequest
                writer.write(b"S")
            await writer.start_tls(self._tls)
            beyond = (
                await asyncio.open_unix_connection(self._upstream)
                if isinstance(self._upstream, str)
                else await asyncio.open_connection(*self._upstream)
            )
            await asyncio.gather(_pump(reader, beyond[1]), _pump(beyond[0], writer))
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@contextlib.contextmanager
def tls_front(
    authority: Authority, upstream: tuple[str, int] | str, *, postgres: bool = False
) -> Iterator[int]:
    """The port of 127.0.0.1 at which a server of plain TCP or of a Unix socket speaks TLS."""
    certificate = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    front = _Front(upstream, context, postgres)
    thread = threading.Thread(target=asyncio.run, args=(front.run(),), daemon=True)
    thread.start()
    assert front.ready.wait(10)
    try:
        yield front.port
    finally:
        front.end()
        thread.join(10)
