"""The one way out to notification services: posts that reach no forbidden address.

What a tenant names is guarded. A server that the operator names in a setting (the APIs of Telegram
and Twilio, the mail server) is not: its address is the operator's choice and is often a private
one, and nothing of a tenant decides where such a connection goes.

Each message has a connection of its own (a pooled one may have died unseen, and the alert with
it), follows no redirect, carries no cookie, and has one deadline for everything. Nothing that is
answered here names the address: an incoming webhook's URL is a password.
"""

import asyncio
import errno
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from lighthouse import __version__
from lighthouse.addresses import forbidden
from lighthouse.channels.pacing import SHARED_WAIT_S, Crowds, OwnPacer, Pacer, SharedPacer
from lighthouse.errors import SettingsError
from lighthouse.model import Answer, Rate
from lighthouse.settings import Settings

#: Bytes of an answer that are read, and only when it is a refusal.
MOST_BODY_BYTES = 16_384
#: Seconds for the body of a refusal: its status is known already.
BODY_S = 2.0
#: Threads that look names up: a tenant's dead name server must not hold up the process' others.
RESOLVER_THREADS = 16
#: Messages under way to one address, unless its service wants fewer.
AT_ONCE = 8
#: Seconds that a message waits here for a turn that a service's rate gives it; the store is asked
#: to keep it for longer ones.
PATIENCE_S = 1.0

_REFUSED = "forbidden address"
_LIMITED = "held back by the service's rate limit"

#: OpenSSL's codes for a host name, mail or IP address mismatch; their texts name the host.
_MISMATCHES = (62, 63, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a service answered."""

    status: int
    headers: Mapping[str, str]  #: case-insensitive
    body: bytes  #: the beginning, of a refusal only

    def number(self, header: str) -> float | None:
        """A header that holds a number not below 0."""
        return number(self.headers.get(header))

    def retry_after_s(self) -> float | None:
        """Retry-After in seconds, from seconds or a date."""
        seconds = self.number("Retry-After")
        if seconds is not None:
            return seconds
        with suppress(TypeError, ValueError, OverflowError):  # no date, or one without a zone
            date = parsedate_to_datetime(self.headers.get("Retry-After", ""))
            return max((date - datetime.now(UTC)).total_seconds(), 0.0)
        return None


def number(value: object) -> float | None:
    """A finite number not below 0, or None."""
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and found >= 0 else None


class Closing(Protocol):
    """What can be closed."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closing)


class Http:
    """Posts messages on the event loop that it was opened on."""

    def __init__(self, settings: Settings, pacer: Pacer | None = None) -> None:
        self.settings = settings
        self.timeout_s = settings.alert_timeout_s
        #: A place, a turn, the exchange, the body of a refusal and what the pacer is asked.
        self.longest_s = 2 * self.timeout_s + PATIENCE_S + BODY_S + 3 * SHARED_WAIT_S
        self._pacer: Pacer = OwnPacer() if pacer is None else SharedPacer(pacer)
        self._crowds = Crowds()
        self._guarded_session: aiohttp.ClientSession | None = None
        self._own_session: aiohttp.ClientSession | None = None
        self.trust = trust(settings.ca_file)
        self._kept: dict[Callable[[Settings], Any], Closing] = {}

    async def __aenter__(self) -> "Http":
        self._guarded_session = self._session(self._guarded)
        self._own_session = self._session(None)
        return self

    def keep(self, make: Callable[[Settings], C]) -> C:
        """What a channel type keeps over messages: made at its first use, closed with this."""
        if make not in self._kept:
            self._kept[make] = make(self.settings)
        return cast(C, self._kept[make])

    def _session(self, make_socket: Callable[[Any], socket.socket] | None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self.trust,
                resolver=_Resolver(),
                use_dns_cache=False,
                socket_factory=make_socket,
                force_close=True,
                limit=0,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": f"Lighthouse/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for session in (self._guarded_session, self._own_session):
            if session is not None:
                await session.close()
        self._guarded_session = self._own_session = None
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()

    def _guarded(self, info: Any) -> socket.socket:
        """Make a socket, unless for an address that may not be connected to.

        aiohttp calls this for every address, numeric ones included, right before it connects.
        """
        family, kind, protocol, _, address = info
        reason = forbidden(str(address[0]), self.settings.egress_allow)
        if reason is not None:
            raise OSError(errno.EACCES, f"{_REFUSED}: {reason}")
        return socket.socket(family, kind, protocol)

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        at_once: int = AT_ONCE,
        key: str | None = None,
        rates: Sequence[Rate] = (),
        wish: Callable[[Reply], float | None] = Reply.retry_after_s,
        own: bool = False,
    ) -> Reply | Answer:
        """Post to an address in its turn. An Answer tells why there was no reply.

        `key` stands for the address where one address serves many (the URL when None), `rates` are
        its service's, `wish` reads how long a 429 keeps us away. `own` is for the operator's own
        servers alone: it sets the guard aside. Takes `longest_s` at the most.
        """
        async with self.turn(key or url, at_once=at_once, rates=rates) as refused:
            if refused is not None:
                return refused
            reply = await self._exchange(url, body, headers, own=own)
            if isinstance(reply, Reply):
                await self._learn(key or url, reply, wish(reply))
            return reply

    @asynccontextmanager
    async def turn(
        self, key: str, *, at_once: int = AT_ONCE, rates: Sequence[Rate] = ()
    ) -> AsyncIterator[Answer | None]:
        """None when it is our turn at an address, else an Answer: nothing may be sent now."""
        async with self._crowds.slot(key, at_once, self.timeout_s) as mine:
            if mine:
                yield await self._turn(key, rates)
            else:
                why = "waits for earlier messages to the same address"
                yield held(why, self.timeout_s)

    async def _turn(self, key: str, rates: Sequence[Rate]) -> Answer | None:
        turn = await self._pacer.turn(key, rates, PATIENCE_S)
        if turn.mine and turn.wait_s > 0:
            await asyncio.sleep(turn.wait_s)
            # Another message may have met a refusal meanwhile.
            turn = await self._pacer.turn(key, (), PATIENCE_S)
        return None if turn.mine else held(_LIMITED, turn.wait_s)

    async def _learn(self, key: str, reply: Reply, wish: float | None) -> None:
        """Keep away for as long as the service says, whether it refused or just ran out."""
        limit = reply.number("X-RateLimit-Limit")
        per_window = None if limit is None else int(limit)
        reset_s = reply.number("X-RateLimit-Reset-After")
        if reply.status == 429:
            closed_s = wish if wish is not None else reset_s or 1.0
            await self._pacer.close(key, closed_s, per_window)
        elif reply.number("X-RateLimit-Remaining") == 0 and reset_s is not None:
            await self._pacer.close(key, reset_s, per_window)

    async def _exchange(
        self, url: str, body: bytes, headers: Mapping[str, str], *, own: bool
    ) -> Reply | Answer:
        session = self._own_session if own else self._guarded_session
        if session is None:
            raise RuntimeError("the sender is not open")
        # The operator's address can be repaired in time; no delivery ends for it.
        invalid = Answer(ok=False, detail="the address is no valid URL", permanent=not own)
        try:
            address = URL(url)
        except ValueError:  # its text holds the address
            return invalid
        try:
            async with (
                asyncio.timeout(self.timeout_s) as deadline,
                session.post(
                    address, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                deadline.reschedule(None)  # the status is known: what follows has its own bound
                received = b"" if 200 <= response.status < 300 else await _beginning(response)
                return Reply(status=response.status, headers=response.headers, body=received)
        except TimeoutError:
            return silent(f"no answer within {self.timeout_s:g} s")
        except aiohttp.ClientConnectorDNSError:
            return silent("the host's name cannot be resolved")
        except aiohttp.ClientConnectorCertificateError as exc:
            return failed(f"TLS: {certificate_fault(exc.certificate_error)}")
        except aiohttp.ClientConnectorSSLError:
            return failed("TLS: the handshake failed")
        except aiohttp.ClientConnectorError as exc:
            return silent(connect_fault(exc.os_error))
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):  # their texts hold it
            return invalid
        except aiohttp.ClientError as exc:
            return failed(f"the connection broke ({type(exc).__name__})")
        except OSError as exc:
            return silent(connect_fault(exc))


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    received = bytearray()
    with suppress(TimeoutError, aiohttp.ClientError, OSError):
        async with asyncio.timeout(BODY_S):
            while len(received) < MOST_BODY_BYTES:
                chunk = await response.content.read(MOST_BODY_BYTES - len(received))
                if not chunk:
                    break
                received += chunk
    return bytes(received)


def failed(detail: str) -> Answer:
    """An answer after which the same may be tried again."""
    return Answer(ok=False, detail=detail)


def silent(detail: str) -> Answer:
    """The same from a host that did not answer at all."""
    return Answer(ok=False, detail=detail, silent=True)


def held(detail: str, seconds: float) -> Answer:
    return Answer(ok=False, detail=detail, retry_after_s=seconds, tried=False)


def connect_fault(exc: OSError) -> str:
    """A connection's failure without its address."""
    text = str(exc)
    if _REFUSED in text:
        kind = text.partition(f"{_REFUSED}: ")[2].partition(",")[0].rstrip("'\" ")
        return f"the address may not be connected to ({kind})"
    if isinstance(exc, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(exc, ConnectionError):
        return "the connection was reset"
    code = errno.errorcode.get(exc.errno or 0)
    return f"cannot connect ({code})" if code else "cannot connect"


def certificate_fault(exc: Exception) -> str:
    """A certificate's fault without the host's name."""
    if not isinstance(exc, ssl.SSLCertVerificationError):
        return "the certificate is not valid"
    if exc.verify_code in _MISMATCHES:
        return "the certificate is for another host"
    return f"the certificate is not valid ({exc.verify_message})"


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """The system's authorities, and the operator's own beside them."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise SettingsError(f"LIGHTHOUSE_CA_FILE: {exc.strerror or 'no certificates'}") from exc
    return context


class _Resolver(AbstractResolver):
    """getaddrinfo in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._lookup, host, port, family
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family, _, protocol, _, address in found
        ]

    @staticmethod
    def _lookup(host: str, port: int, family: socket.AddressFamily) -> list[Any]:
        try:
            return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        except UnicodeError as exc:  # a label that no name may hold
            raise OSError(errno.EINVAL, "no valid host name") from exc

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
