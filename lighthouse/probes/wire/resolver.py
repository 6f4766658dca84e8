"""Names to addresses: the system's resolver in threads of our own.

Why not libcurl's: its twenty threads serve all exchanges, so a few dead names would hold up every
other target, and it cannot tell a name that does not exist from a resolver that does not answer.
Why not a DNS client of ours: /etc/hosts, nsswitch and the container's resolver must count, and
c-ares costs no less CPU and caches answers.
"""

import asyncio
import errno
import queue
import socket
import threading
import time
from dataclasses import dataclass

from lighthouse.model import Reason

#: Threads at the most; each that hangs on a dead name is one that nobody else has. They start when
#: needed and end when idle. 256 of them bear 25 dead names a second.
MOST_THREADS = 256

#: Addresses of one name that are tried; an answer may hold thousands.
_MOST_ADDRESSES = 16

#: Seconds after which an idle thread ends.
_IDLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Addresses in the order in which they should be tried."""

    addresses: tuple[str, ...]
    took_ms: float  #: the lookup itself, without the wait for a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Unresolved:
    """No address, and whose fault that is."""

    reason: Reason
    message: str
    took_ms: float


Answer = Resolved | Unresolved


class Resolver:
    """Looks names up for one event loop. Nothing is cached: a check sees what its users see."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wanted: queue.SimpleQueue[tuple[str, asyncio.Future[Answer]] | None] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._idle = 0  #: threads that wait, less the lookups queued for them
        self._threads = 0
        self._done: list[tuple[asyncio.Future[Answer], Answer]] = []
        self._told = False  #: the loop has been asked to fetch `_done`
        self._closed = False
        self._waiting: set[asyncio.Future[Answer]] = set()

    async def lookup(self, host: str, timeout_s: float) -> Answer:
        """The addresses of a host. Never raises for what the name or the resolver does."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        begun = time.monotonic()
        with self._lock:
            if self._idle > 0 or self._threads >= MOST_THREADS:
                self._idle -= 1
                start = False
            else:
                self._threads += 1
                start = True
        self._wanted.put((host, future))
        if start:
            try:
                # Daemons: a lookup that hangs for its full ten seconds must not delay an exit.
                threading.Thread(target=self._serve, name="resolver", daemon=True).start()
            except RuntimeError:  # the host allows no further thread; those that run will do
                with self._lock:
                    self._threads -= 1
                    self._idle -= 1
        self._waiting.add(future)
        timer = self._loop.call_later(timeout_s, _expire, future, host, begun, timeout_s)
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.discard(future)

    def close(self) -> None:
        """Cancel who waits and let the threads end; those inside a lookup do so after it."""
        for future in self._waiting:
            future.cancel()
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._wanted.put(None)

    def _serve(self) -> None:
        while True:
            try:
                wanted = self._wanted.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._idle > 0:  # nobody counts on this thread
                        self._idle -= 1
                        self._threads -= 1
                        return
                continue
            if wanted is None:
                return
            host, future = wanted
            answer = _look_up(host) if not future.done() else None
            with self._lock:
                self._idle += 1
                if answer is None or self._closed:
                    continue
                self._done.append((future, answer))
                if not self._told:
                    self._told = True
                    self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        """On the loop: every answer that has come since, in one wakeup."""
        with self._lock:
            done, self._done, self._told = self._done, [], False
        for future, answer in done:
            if not future.done():
                future.set_result(answer)


def _expire(future: asyncio.Future[Answer], host: str, begun: float, timeout_s: float) -> None:
    if not future.done():
        future.set_result(
            Unresolved(
                reason=Reason.PROBER_RESOLVER,
                message=f"the resolver did not answer for {host} within {timeout_s:g} s",
                took_ms=(time.monotonic() - begun) * 1000,
            )
        )


def _look_up(host: str) -> Answer:
    begun = time.perf_counter()
    try:
        # Bytes: Python would pass text through its slow and stricter IDNA codec.
        found = socket.getaddrinfo(host.encode(), None, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        took_ms = (time.perf_counter() - begun) * 1000
        reason, message = explain(exc, host, _descriptors_left())
        return Unresolved(reason=reason, message=message, took_ms=took_ms)
    took_ms = (time.perf_counter() - begun) * 1000
    addresses = tuple(str(entry[4][0]).partition("%")[0] for entry in found[:_MOST_ADDRESSES])
    return Resolved(addresses=addresses, took_ms=took_ms)


def explain(error: Exception, host: str, descriptors_left: bool) -> tuple[Reason, str]:
    """Whose fault a failed lookup is. `descriptors_left`: whether a socket can still be opened."""
    if not descriptors_left or _number(error) in (errno.EMFILE, errno.ENFILE):
        # The C library then finds no name at all, for it cannot read its own files.
        return Reason.PROBER_DESCRIPTORS, "the prober has no file descriptor left"
    if isinstance(error, UnicodeError):
        return Reason.DNS_NOT_FOUND, f"{host} is no valid name"
    if isinstance(error, socket.gaierror):
        match error.errno:
            case socket.EAI_NONAME:
                return Reason.DNS_NOT_FOUND, f"the name {host} does not exist"
            case socket.EAI_NODATA:
                return Reason.DNS_NOT_FOUND, f"the name {host} has no address"
            case socket.EAI_MEMORY:
                return Reason.PROBER_MEMORY, "the prober is out of memory"
            case socket.EAI_AGAIN:
                return Reason.PROBER_RESOLVER, f"the resolver has no answer for {host} now"
    return Reason.PROBER_RESOLVER, f"the resolver failed for {host}: {error}"


def _number(error: Exception) -> int | None:
    return None if isinstance(error, socket.gaierror) else getattr(error, "errno", None)


def _descriptors_left() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    except OSError as exc:
        return exc.errno not in (errno.EMFILE, errno.ENFILE)
    return True
