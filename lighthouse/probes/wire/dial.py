"""TCP and TLS connections of our own, for protocols that libcurl does not carry.

Every address is guarded, every phase is timed, a refused certificate is read all the same, and
faults get the reasons and texts that an `http` check gives them.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from cryptography import x509

from lighthouse import urls
from lighthouse.model import Reason
from lighthouse.probes.wire import faults
from lighthouse.probes.wire.curl import find_ca_file
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.faults import Evidence
from lighthouse.probes.wire.resolver import Unresolved
from lighthouse.probes.wire.routes import has_route

P = TypeVar("P", bound=asyncio.Protocol)

#: Seconds for the second connection, which reads a certificate that was refused.
_EXPIRY_S = 2.0


@dataclass(slots=True)
class Phases:
    """What is learned while dialling, also when it fails."""

    took_ms: dict[str, float] = field(default_factory=dict)  #: in the order in which they ran
    cert_expires_at: datetime | None = None
    certificate: bytes | None = None  #: DER
    addresses: tuple[str, ...] = ()  #: that the name stood for
    address: str | None = None  #: that was connected to


class DialError(Exception):
    """No connection: whose fault that is, and one line for a person."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Contexts:
    """The TLS settings of all dialling; one object, for a CA bundle takes milliseconds to read."""

    def __init__(self, equipment: Equipment) -> None:
        self.verifying = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.verifying.load_verify_locations(find_ca_file(equipment.settings.ca_file))
        self.blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.blind.check_hostname = False
        self.blind.verify_mode = ssl.CERT_NONE
        for context in (self.verifying, self.blind):
            context.set_alpn_protocols(["http/1.1"])

    async def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to, and how."""

    host: str  #: normalized; an IPv6 literal without its brackets
    port: int
    tls: bool
    verify_tls: bool = True


async def dial(
    equipment: Equipment,
    place: Place,
    protocol: Callable[[], P],
    *,
    timeout_s: float,
    phases: Phases,
) -> P:
    """Connect a protocol to a place, over in `timeout_s`. Raises DialError."""
    deadline = time.monotonic() + timeout_s
    addresses = await _addresses(equipment, place, timeout_s, phases)
    begun = time.monotonic()
    try:
        sock, seen = await _connected(equipment, place, addresses, deadline, timeout_s)
    except DialError as exc:
        if exc.reason is not Reason.FORBIDDEN_ADDRESS:  # which nothing was sent to
            phases.took_ms["tcp"] = (time.monotonic() - begun) * 1000
        raise
    phases.took_ms["tcp"] = (time.monotonic() - begun) * 1000
    phases.address = seen.addresses[-1]
    if not place.tls:
        _, made = await asyncio.get_running_loop().create_connection(protocol, sock=sock)
        return made
    begun = time.monotonic()
    contexts = equipment.own(Contexts, Contexts)
    context = contexts.verifying if place.verify_tls else contexts.blind
    evidence: Evidence
    try:
        transport, made = await _secured(sock, protocol, place.host, context, deadline - begun)
    except ssl.SSLCertVerificationError as exc:
        phases.took_ms["tls"] = (time.monotonic() - begun) * 1000
        left_s = min(_EXPIRY_S, deadline - time.monotonic())
        phases.certificate = await _refused_certificate(
            equipment, place, phases.address, contexts.blind, left_s
        )
        phases.cert_expires_at = _expiry(phases.certificate)
        evidence = replace(
            seen, code=faults.PEER_FAILED_VERIFICATION, verify_result=exc.verify_code
        )
        raise _error(evidence) from exc
    except TimeoutError as exc:
        phases.took_ms["tls"] = (time.monotonic() - begun) * 1000
        raise _error(replace(seen, code=faults.TIMED_OUT)) from exc
    except OSError as exc:  # ssl.SSLError is one
        phases.took_ms["tls"] = (time.monotonic() - begun) * 1000
        evidence = replace(seen, code=faults.TLS_CONNECT_ERROR, text=_handshake_text(exc))
        raise _error(evidence) from exc
    phases.took_ms["tls"] = (time.monotonic() - begun) * 1000
    phases.certificate = _certificate(transport)
    phases.cert_expires_at = _expiry(phases.certificate)
    return made


async def _addresses(
    equipment: Equipment, place: Place, timeout_s: float, phases: Phases
) -> tuple[str, ...]:
    if urls.is_numeric(place.host):
        phases.addresses = (place.host,)
        return phases.addresses
    answer = await equipment.resolver.lookup(place.host, timeout_s)
    phases.took_ms["dns"] = answer.took_ms
    if isinstance(answer, Unresolved):
        raise DialError(answer.reason, answer.message)
    phases.addresses = answer.addresses
    return answer.addresses


async def _connected(
    equipment: Equipment,
    place: Place,
    addresses: tuple[str, ...],
    deadline: float,
    timeout_s: float,
) -> tuple[socket.socket, Evidence]:
    """A socket that is connected to the first address that answers, and what was seen so far."""
    loop = asyncio.get_running_loop()
    seen = Evidence(
        code=faults.COULDNT_CONNECT, host=place.host, port=place.port, timeout_s=timeout_s
    )
    tried: list[str] = []
    for position, address in enumerate(addresses):
        kind = equipment.guard(address)
        if kind is not None:
            seen = replace(seen, refused=(address, kind))
            continue
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as exc:
            raise _error(replace(seen, socket_errno=exc.errno or 0)) from exc
        tried.append(address)
        # A dead address may use its share of the time, so that the next one has its turn.
        share_s = (deadline - time.monotonic()) / (len(addresses) - position)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(max(0.0, share_s)):
                await loop.sock_connect(sock, (address, place.port))
        except TimeoutError as exc:
            sock.close()
            code = faults.COULDNT_CONNECT if exc.errno else faults.TIMED_OUT
            seen = replace(seen, code=code, os_errno=exc.errno or 0, addresses=tuple(tried))
        except OSError as exc:
            sock.close()
            seen = replace(
                seen,
                code=faults.COULDNT_CONNECT,
                os_errno=exc.errno or 0,
                addresses=tuple(tried),
            )
        except BaseException:
            sock.close()
            raise
        else:
            return sock, replace(seen, addresses=tuple(tried), connected=True, os_errno=0)
    routed = not tried or any(has_route(address) for address in tried)
    raise _error(replace(seen, routed=routed))


async def _secured(
    sock: socket.socket,
    protocol: Callable[[], P],
    host: str,
    context: ssl.SSLContext,
    timeout_s: float,
) -> tuple[asyncio.Transport, P]:
    """TLS over a connected socket, which is closed when that fails."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            return await loop.create_connection(
                protocol, sock=sock, ssl=context, server_hostname=host
            )
    except BaseException:
        sock.close()
        raise


async def _refused_certificate(
    equipment: Equipment, place: Place, address: str, context: ssl.SSLContext, timeout_s: float
) -> bytes | None:
    """A certificate that failed verification, read over a connection that trusts it.

    Python's ssl lets go of a certificate that it refuses. Nothing is sent here.
    """
    found: bytes | None = None
    with suppress(OSError, DialError):
        sock, _ = await _connected(
            equipment, place, (address,), time.monotonic() + timeout_s, timeout_s
        )
        transport, _ = await _secured(sock, asyncio.Protocol, place.host, context, timeout_s)
        found = _certificate(transport)
        transport.abort()
    return found


def _certificate(transport: asyncio.Transport) -> bytes | None:
    secured = transport.get_extra_info("ssl_object")
    return None if secured is None else secured.getpeercert(binary_form=True)


def _expiry(der: bytes | None) -> datetime | None:
    if der is None:
        return None
    try:
        return x509.load_der_x509_certificate(der).not_valid_after_utc
    except (ValueError, x509.InvalidVersion):  # OpenSSL reads what stricter parsers do not
        return None


def _handshake_text(exc: OSError) -> str:
    if isinstance(exc, ssl.SSLError) and exc.reason:
        return exc.reason.replace("_", " ").lower()
    return "the connection was closed"


def _error(seen: Evidence) -> DialError:
    return DialError(*faults.classify(seen))
