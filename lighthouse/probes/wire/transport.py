"""The port that monitor types speak HTTP through: one request in, one answer or fault out.

A transport opens a fresh connection for every exchange, follows no redirect and reads no more
than it is allowed. Whatever the target does comes back as a value; only cancellation and our own
bugs raise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from lighthouse.model import NO_TIMINGS, Reason, Timings

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """What stands between the prober and the target."""

    kind: str  #: "http", "https", "socks5" (names are looked up here) or "socks5h" (there)
    host: str
    port: int
    numeric: bool = False
    username: str | None = None
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Special:
    """What few exchanges ask for; a plain one has none, which keeps it cheap."""

    proxy: Proxy | None = None
    ip_version: int | None = None  #: 4 or 6
    http_version: int | None = None  #: 11, 20 or 30, and no other
    certificate: bytes | None = None  #: of the client, PEM, with its chain
    key: bytes | None = field(default=None, repr=False)  #: PEM, unencrypted


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One exchange. The URL is ASCII, absolute, without user information or fragment."""

    url: str
    host: str  #: the URL's host, in lower case, an IPv6 literal without its brackets
    port: int
    numeric: bool = False  #: the host is an address, which needs no resolver
    method: str = "GET"
    headers: Headers = ()
    body: bytes | None = None
    verify_tls: bool = True
    max_body_bytes: int = 1024 * 1024  #: the transfer ends there, as `truncated`
    keep_body_bytes: int = 1024  #: how much of the body the answer holds
    want_headers: bool = False  #: without it the answer's headers are empty
    special: Special | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """A complete answer, or its beginning where it was longer than allowed (`truncated`)."""

    status: int
    version: int | None  #: 10, 11, 20 or 30
    body: bytes
    truncated: bool
    total_ms: float
    timings: Timings = NO_TIMINGS
    content_type: str | None = None
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  #: names in lower case
    location: str | None = None  #: where a redirect leads, absolute
    cert_expires_at: datetime | None = None
    certificate: bytes | None = field(default=None, repr=False)  #: the target's own, PEM
    address: str | None = None  #: that answered; None behind a proxy
    addresses: Sequence[str] = ()  #: that the name stood for; empty for a host that is one


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportError:
    """No answer. `reason` tells whose fault it is, `message` is one line without the URL."""

    reason: Reason
    message: str
    total_ms: float | None = None
    timings: Timings = NO_TIMINGS
    cert_expires_at: datetime | None = None
    certificate: bytes | None = field(default=None, repr=False)  #: the target's own, PEM
    addresses: tuple[str, ...] = ()  #: of the target, the connected one first


class Transport(Protocol):
    """What carries exchanges; one per event loop."""

    async def exchange(
        self, request: HttpRequest, timeout_s: float
    ) -> HttpResponse | TransportError:
        """Run one exchange, over in `timeout_s` including the name's resolution."""

    async def close(self) -> None:
        """End every running exchange and let go of all sockets."""
