"""HTTP over libcurl's multi interface, driven by the running asyncio loop.

Why libcurl: half the CPU of the pure-Python clients, exact phase times, a certificate that can be
read although it was refused, and a callback that sees every address before its socket opens.
tests/bench/transport.py measures the first claim.

Sockets are watched by an epoll of our own, of which the loop sees a single descriptor: one wakeup
of the loop serves every socket that became ready, at two system calls a batch.
"""

import asyncio
import select
import ssl
from functools import lru_cache, partial
from pathlib import Path

import pycurl

from lighthouse.addresses import Network, forbidden
from lighthouse.errors import SettingsError
from lighthouse.model import Timings
from lighthouse.probes.wire import faults
from lighthouse.probes.wire.easy import Handle, Shared
from lighthouse.probes.wire.resolver import Resolver, Unresolved
from lighthouse.probes.wire.routes import find_route
from lighthouse.probes.wire.transport import HttpRequest, HttpResponse, TransportError

#: Easy handles kept for the next exchange; one costs about 20 kB.
_MOST_IDLE = 1024

#: Ready sockets that are served before the loop may do something else: with TLS handshakes among
#: them about 10 ms.
_BATCH = 32

#: Where distributions keep the bundle that OpenSSL itself would read; the first that exists wins.
_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

_IN, _OUT = pycurl.CSELECT_IN, pycurl.CSELECT_OUT
_EPOLL_MASKS = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}
_READY_IN = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_READY_OUT = select.EPOLLOUT | select.EPOLLERR


class CurlTransport:
    """A Transport for the loop that is running when it is made; used from that loop only."""

    def __init__(
        self,
        *,
        allow: tuple[Network, ...] = (),
        ca_file: Path | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        """`allow`: networks that may be reached although forbidden. Raises SettingsError."""
        # The same addresses come again every interval.
        guard = lru_cache(maxsize=65_536)(partial(forbidden, allow=allow))
        self._shared = Shared(guard, find_ca_file(ca_file))
        self._loop = asyncio.get_running_loop()
        self._resolver = resolver or Resolver()
        self._free: list[Handle] = []
        self._stale: list[str] = []  #: names of closed handles, to be forgotten by libcurl
        self._busy: dict[pycurl.Curl, Handle] = {}
        self._epoll = select.epoll()
        self._watched: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  #: when the loop's timer fires, by the loop's clock
        self._due: float | None = None  #: when libcurl wants to be called
        self._kicked = False
        self._closed = False
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._loop.add_reader(self._epoll.fileno(), self._on_ready)

    # -- the port ---------------------------------------------------------------------------

    async def exchange(
        self, request: HttpRequest, timeout_s: float
    ) -> HttpResponse | TransportError:
        names: list[str] = []
        known: tuple[str, ...] = ()
        dns_ms = None
        left_s = timeout_s
        if request.special is not None:
            begun = self._loop.time()
            route = await find_route(
                request, request.special, self._resolver, self._shared.guard, timeout_s
            )
            if isinstance(route, TransportError):
                return route
            names, known, dns_ms = list(route.names), route.addresses, route.dns_ms
            left_s -= self._loop.time() - begun
        elif not request.numeric:
            begun = self._loop.time()
            answer = await self._resolver.lookup(request.host, timeout_s)
            dns_ms = answer.took_ms
            if isinstance(answer, Unresolved):
                return TransportError(
                    reason=answer.reason,
                    message=answer.message,
                    total_ms=answer.took_ms,
                    timings=Timings(dns_ms=answer.took_ms),
                )
            left_s -= self._loop.time() - begun
            known = answer.addresses
            names.append(f"{request.host}:{request.port}:{','.join(known)}")
        if self._closed:
            raise asyncio.CancelledError("the transport is closed")
        if names:  # libcurl keeps them in a table
            names[:0] = self._stale
            self._stale.clear()
        handle = self._free.pop() if self._free else Handle(self._shared)
        handle.begin(
            request, timeout_s=timeout_s, left_s=left_s, names=names, known=known, dns_ms=dns_ms
        )
        future = handle.future = self._loop.create_future()
        self._busy[handle.easy] = handle
        self._multi.add_handle(handle.easy)
        try:
            found: HttpResponse | TransportError = await future
        except asyncio.CancelledError:
            if handle.future is future:  # still ours: not finished meanwhile
                self._release(handle)
            raise
        return found

    async def close(self) -> None:
        """End every running exchange, whose callers are cancelled, and close all sockets."""
        if self._closed:
            return
        self._closed = True
        for handle in list(self._busy.values()):
            if handle.future is not None:
                handle.future.cancel()
            self._release(handle)
        self._resolver.close()
        self._loop.remove_reader(self._epoll.fileno())
        if self._timer is not None:
            self._timer.cancel()
        for handle in self._free:
            handle.easy.close()
        self._free.clear()
        self._multi.close()
        self._epoll.close()

    def _release(self, handle: Handle) -> None:
        """Take the handle out of its exchange and keep it for the next."""
        easy = handle.easy
        del self._busy[easy]
        self._multi.remove_handle(easy)
        handle.end()
        if len(self._free) >= _MOST_IDLE:
            self._stale += handle.names
            easy.close()
            return
        self._free.append(handle)

    # -- libcurl asks -----------------------------------------------------------------------

    def _on_socket(self, what: int, fd: int, _multi: object, _data: object) -> None:
        if what == pycurl.POLL_REMOVE:
            if fd in self._watched:
                self._watched.discard(fd)
                self._epoll.unregister(fd)
        elif fd in self._watched:
            self._epoll.modify(fd, _EPOLL_MASKS[what])
        else:
            self._epoll.register(fd, _EPOLL_MASKS[what])
            self._watched.add(fd)

    def _on_timer(self, timeout_ms: int) -> None:
        if timeout_ms < 0:
            self._due = None
        elif timeout_ms == 0:
            self._due = None
            if not self._kicked:
                self._kicked = True
                self._loop.call_soon(self._on_kick)
        else:
            # A timer that fires early finds that it is early: cheaper than replacing it each time.
            due = self._due = self._loop.time() + timeout_ms / 1000
            if self._timer is None or due < self._timer_at:
                self._arm(due)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._on_time)

    # -- the loop calls ---------------------------------------------------------------------

    def _on_ready(self) -> None:
        action = self._multi.socket_action
        for fd, ready in self._epoll.poll(0, _BATCH):
            action(fd, (_IN if ready & _READY_IN else 0) | (_OUT if ready & _READY_OUT else 0))
        self._collect()

    def _on_kick(self) -> None:
        self._kicked = False
        if not self._closed:
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            self._collect()

    def _on_time(self) -> None:
        self._timer = None
        due = self._due
        if due is None:
            return
        if self._loop.time() < due:
            self._arm(due)
            return
        self._due = None
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._collect()

    def _collect(self) -> None:
        """Hand every finished exchange to its caller."""
        queued = 1
        while queued:
            queued, done, failed = self._multi.info_read()
            for easy in done:
                self._finish(self._busy[easy], 0, "")
            for easy, code, text in failed:
                self._finish(self._busy[easy], code, text)

    def _finish(self, handle: Handle, code: int, text: str) -> None:
        future = handle.future
        found: HttpResponse | TransportError | None = None
        bug: Exception | None = None
        try:
            cut = code == faults.WRITE_ERROR and handle.truncated
            found = handle.response() if code == 0 or cut else handle.error(code, text)
        except Exception as exc:  # noqa: BLE001 - a bug is its own caller's, not the batch's
            bug = exc
        self._release(handle)
        if future is None or future.done():
            return
        if found is not None:
            future.set_result(found)
        elif bug is not None:
            future.set_exception(bug)


def find_ca_file(chosen: Path | None) -> str:
    """The CA bundle: the operator's, else the system's. Raises SettingsError."""
    if chosen is not None:
        if not chosen.is_file():
            raise SettingsError(f"LIGHTHOUSE_CA_FILE: there is no file {chosen}")
        return str(chosen)
    for candidate in (ssl.get_default_verify_paths().cafile, *_CA_FILES):
        if candidate and Path(candidate).is_file():
            return candidate
    try:
        import certifi
    except ImportError:
        raise SettingsError(
            "no CA bundle found; install ca-certificates or set LIGHTHOUSE_CA_FILE"
        ) from None
    return certifi.where()
