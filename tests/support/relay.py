"""A way to PostgreSQL or Redis that a test can watch and cut, between a process and its server.

    python -m tests.support.relay HOST:PORT SOCKET|HOST:PORT

As a program it only passes bytes on, for a network namespace that has no other way there; in the
test's own process it cuts where it is told to.
"""

import contextlib
import select
import socket
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

#: Bytes that are passed on at a time.
CHUNK = 65_536


class Relay:
    """Listens on an address, with a thread a connection.

    `watch` sees what a client sends. It may answer what to do instead of passing it on: nothing
    (None), or a cut, which it does itself by `Cut`.
    """

    def __init__(self, listen: tuple[str, int], to: str) -> None:
        self._to = to
        self._listener = socket.create_server(listen, backlog=64, reuse_port=False)
        self.port: int = self._listener.getsockname()[1]
        self._closing = False
        #: Called with the bytes of a client; True swallows the server's answer and cuts.
        self.watch: Callable[[bytes], bool] = lambda _: False
        self.cuts = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def serve(self) -> None:
        """Take connections until the end."""
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._connect() as server:
            other = {client: server, server: client}
            cutting = False
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(CHUNK)
                    if not data:
                        return
                    if ready is server and cutting:
                        # It has been done, and nobody hears of it.
                        self.cuts += 1
                        return
                    cutting = cutting or (ready is client and self.watch(data))
                    other[ready].sendall(data)

    def _connect(self) -> socket.socket:
        if self._to.startswith("/"):
            made = socket.socket(socket.AF_UNIX)
            made.connect(self._to)
            return made
        host, _, port = self._to.rpartition(":")
        return socket.create_connection((host, int(port)))


if __name__ == "__main__":
    at, _, number = sys.argv[1].rpartition(":")
    Relay((at, int(number)), sys.argv[2]).serve()
