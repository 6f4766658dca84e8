"""One libcurl easy handle: the options of an exchange, its callbacks and what it found.

Handles are reused: most options stay as they are, and a plain GET sets only its URL and deadline.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pycurl

from lighthouse import __version__
from lighthouse.model import Reason
from lighthouse.probes.wire import evidence, faults
from lighthouse.probes.wire.readings import info_text, leaf, parse_headers, timings
from lighthouse.probes.wire.routes import has_route
from lighthouse.probes.wire.transport import (
    HttpRequest,
    HttpResponse,
    Proxy,
    Special,
    TransportError,
)

#: Memory that the answers of all running exchanges may hold together, in bytes. A thousand hostile
#: targets at the largest body each would otherwise be a gigabyte.
BUDGET_BYTES = 24 * 1024 * 1024

#: What each answer may hold beside that budget, so that a few large ones never starve the small.
OWN_BYTES = 16 * 1024

_USER_AGENT = f"Lighthouse/{__version__}"
_HEADERS = ("Accept: */*", "Accept-Encoding: identity")

_SOCKET_BAD: int = pycurl.SOCKET_BAD

#: What an idle handle carries.
_NO_REQUEST = HttpRequest(url="", host="", port=0)

_NO_HEADERS: Mapping[str, tuple[str, ...]] = {}

_VERSIONS = {
    pycurl.CURL_HTTP_VERSION_1_0: 10,
    pycurl.CURL_HTTP_VERSION_1_1: 11,
    pycurl.CURL_HTTP_VERSION_2_0: 20,
    pycurl.CURL_HTTP_VERSION_3: 30,
}

_DEMANDED = {
    11: pycurl.CURL_HTTP_VERSION_1_1,
    20: pycurl.CURL_HTTP_VERSION_2TLS,
    30: pycurl.CURL_HTTP_VERSION_3ONLY,
}

#: Groups that are offered for the key exchange, every server's among them. OpenSSL's own list
#: begins with a post-quantum one, whose keys cost a tenth of an HTTPS check and protect nothing
#: here: what a probe sends is no secret worth keeping for decades.
_GROUPS = "X25519:P-256:P-384:P-521"


class Shared:
    """What all handles of a transport have in common."""

    def __init__(self, guard: Callable[[str], str | None], ca_file: str) -> None:
        self.guard = guard  #: why an address may not be connected to, or None
        self.ca_file = ca_file
        self.bytes_left = BUDGET_BYTES


class Handle:
    """A reusable easy handle and what its callbacks note during one exchange."""

    __slots__ = (
        "addresses",
        "claimed",
        "dirty",
        "dns_ms",
        "easy",
        "future",
        "headers",
        "held",
        "kept",
        "known",
        "names",
        "out_of_memory",
        "received",
        "refused",
        "request",
        "room",
        "shared",
        "socket_errno",
        "timeout_s",
        "truncated",
    )

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.easy = pycurl.Curl()
        self.dirty = False
        self.names: list[str] = []  #: "-host:port" of what libcurl was last told through it
        self.dns_ms: float | None = None
        self.request = _NO_REQUEST
        self.future: asyncio.Future[HttpResponse | TransportError] | None = None
        self.kept: list[bytes] = []
        self.headers: list[bytes] = []
        self.addresses: list[str] = []
        self.clear()
        self._prepare()

    def clear(self) -> None:
        self.request, self.future = _NO_REQUEST, None
        self.received = self.room = self.held = self.claimed = self.socket_errno = 0
        self.truncated = self.out_of_memory = False
        self.refused: tuple[str, str] | None = None
        self.known: Sequence[str] = ()
        self.timeout_s = 0.0
        if self.kept:
            self.kept = []
        if self.headers:
            self.headers = []
        if self.addresses:
            self.addresses = []

    def open_socket(self, _purpose: int, address: Any) -> int:
        """The guard: libcurl asks here for every socket, and connects to nothing else."""
        family, kind, protocol, target = address
        if family not in (socket.AF_INET, socket.AF_INET6):
            self.refused = ("a local socket", "local")
            return _SOCKET_BAD
        text = target[0]
        why = self.shared.guard(text)
        if why is not None:
            self.refused = (text, why)
            return _SOCKET_BAD
        try:
            opened: int = socket.SocketType(family, kind, protocol).detach()
        except OSError as exc:
            self.socket_errno = exc.errno or 0
            return _SOCKET_BAD
        self.addresses.append(text)
        return opened

    def write(self, data: bytes) -> int | None:
        """Keep as much of the body as was asked for; end the transfer at its limit."""
        size = len(data)
        self.received += size
        if self.room > 0:
            part = data if size <= self.room else data[: self.room]
            if not self._hold(len(part)):
                return -1
            self.room -= len(part)
            self.kept.append(part)
        if self.received > self.request.max_body_bytes:
            self.truncated = True
            return -1
        return None

    def header(self, line: bytes) -> int | None:
        if not self._hold(len(line)):
            return -1
        if line.startswith(b"HTTP/"):  # after an informational answer the real one begins
            self.headers.clear()
        self.headers.append(line)
        return None

    def _hold(self, size: int) -> bool:
        """Account for memory that the target fills; False when too much of it is in use."""
        before = self.held
        self.held += size
        if self.held > OWN_BYTES:
            wanted = self.held - max(before, OWN_BYTES)
            if wanted > self.shared.bytes_left:
                self.out_of_memory = True
                return False
            self.shared.bytes_left -= wanted
            self.claimed += wanted
        return True

    def begin(
        self,
        request: HttpRequest,
        *,
        timeout_s: float,
        left_s: float,
        names: list[str],
        known: Sequence[str],
        dns_ms: float | None,
    ) -> None:
        """Set the exchange up. `names`: what libcurl shall forget and know of names.

        `known`: the target's addresses, which are told where no success comes of it.
        """
        self.request = request
        self.known = known
        self.timeout_s = timeout_s
        self.room = request.keep_body_bytes
        self.dns_ms = dns_ms
        setopt = self.easy.setopt
        if names:
            if self.names:
                names[:0] = self.names
            self.names = [f"-{request.host}:{request.port}"]
            setopt(pycurl.RESOLVE, names)
        setopt(pycurl.URL, request.url)
        setopt(pycurl.TIMEOUT_MS, max(1, int(left_s * 1000)))
        if (
            request.method != "GET"
            or request.headers
            or request.body is not None
            or request.want_headers
            or not request.verify_tls
            or request.special is not None
        ):
            self._vary(request)

    def end(self) -> None:
        """Give back what the exchange held and be ready for the next."""
        self.shared.bytes_left += self.claimed
        if self.dirty:
            self.dirty = False
            self.easy.reset()
            self._prepare()
        self.clear()

    def _prepare(self) -> None:
        """What every exchange has in common."""
        setopt = self.easy.setopt
        setopt(pycurl.NOSIGNAL, 1)
        setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        setopt(pycurl.FOLLOWLOCATION, 0)
        setopt(pycurl.PROXY, "")  # not even the environment's
        setopt(pycurl.NOPROXY, "*")
        setopt(pycurl.NETRC, pycurl.NETRC_IGNORED)
        setopt(pycurl.FRESH_CONNECT, 1)
        setopt(pycurl.FORBID_REUSE, 1)
        setopt(pycurl.DNS_CACHE_TIMEOUT, 0)
        setopt(pycurl.SSL_SESSIONID_CACHE, 0)
        setopt(pycurl.SSL_EC_CURVES, _GROUPS)
        setopt(pycurl.CAINFO, self.shared.ca_file)
        setopt(pycurl.OPT_CERTINFO, 1)
        setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        setopt(pycurl.USERAGENT, _USER_AGENT)
        setopt(pycurl.HTTPHEADER, _HEADERS)
        setopt(pycurl.WRITEFUNCTION, self.write)
        setopt(pycurl.OPENSOCKETFUNCTION, self.open_socket)

    def _vary(self, request: HttpRequest) -> None:
        """What makes an exchange different from a plain GET."""
        self.dirty = True
        setopt = self.easy.setopt
        if request.method == "HEAD":
            setopt(pycurl.NOBODY, 1)
        else:
            if request.body is not None or request.method == "POST":
                setopt(pycurl.POSTFIELDS, request.body or b"")
            setopt(pycurl.CUSTOMREQUEST, request.method)
        if not request.verify_tls:
            setopt(pycurl.SSL_VERIFYPEER, 0)
            setopt(pycurl.SSL_VERIFYHOST, 0)
        if request.want_headers:
            setopt(pycurl.HEADERFUNCTION, self.header)
        if request.special is not None:
            self._specialize(request, request.special)
        given = {name.lower() for name, _ in request.headers}
        lines = [
            # libcurl's way to send an empty value; a bare colon would remove the header
            (f"{name}: {value}" if value else f"{name};").encode()
            for name, value in request.headers
        ]
        lines += [line.encode() for line in _HEADERS if line.partition(":")[0].lower() not in given]
        if request.body is not None:
            lines.append(b"Expect:")  # no waiting for "100 Continue"
            if "content-type" not in given:
                lines.append(b"Content-Type:")
        setopt(pycurl.HTTPHEADER, lines)

    def _specialize(self, request: HttpRequest, special: Special) -> None:
        """A proxy, a certificate of our own, one version of HTTP."""
        setopt = self.easy.setopt
        if special.http_version is not None:
            setopt(pycurl.HTTP_VERSION, _DEMANDED[special.http_version])
            if special.http_version == 20 and request.url.startswith("http:"):
                setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE)
        if special.certificate is not None and special.key is not None:
            setopt(pycurl.SSLCERT_BLOB, special.certificate)
            setopt(pycurl.SSLKEY_BLOB, special.key)
        proxy = special.proxy
        if proxy is not None:
            place = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
            setopt(pycurl.PROXY, f"{proxy.kind}://{place}:{proxy.port}")
            setopt(pycurl.NOPROXY, "")
            if not proxy.numeric:
                self.names.append(f"-{proxy.host}:{proxy.port}")
            if proxy.username is not None:
                setopt(pycurl.PROXYUSERNAME, proxy.username)
                setopt(pycurl.PROXYPASSWORD, proxy.password)
            if proxy.kind == "https":
                setopt(pycurl.PROXY_CAINFO, self.shared.ca_file)

    def response(self) -> HttpResponse | TransportError:
        """The answer that has come; an error where it is not the target's but its proxy's."""
        easy = self.easy
        info = easy.getinfo
        status = info(pycurl.RESPONSE_CODE)
        location = info_text(easy, pycurl.REDIRECT_URL) if 300 <= status < 400 else None
        address = None
        if self.request.special is None or self.request.special.proxy is None:
            opened = self.addresses
            address = opened[0] if len(opened) == 1 else info_text(easy, pycurl.PRIMARY_IP) or None
        elif status == 407:
            return TransportError(
                reason=Reason.PROBER_PROXY,
                message="the proxy refused with status 407",
                timings=timings(easy, self.dns_ms),
                addresses=evidence.addresses((), self.known),
            )
        ends = certificate = None
        if self.request.url.startswith("https"):
            ends, certificate = leaf(easy)
        return HttpResponse(
            status=status,
            version=_VERSIONS.get(info(pycurl.INFO_HTTP_VERSION)),
            body=self.kept[0] if len(self.kept) == 1 else b"".join(self.kept),
            truncated=self.truncated,
            total_ms=info(pycurl.TOTAL_TIME_T) / 1000 + (self.dns_ms or 0.0),
            timings=timings(easy, self.dns_ms),
            content_type=info_text(easy, pycurl.CONTENT_TYPE),
            headers=parse_headers(self.headers) if self.headers else _NO_HEADERS,
            location=location,
            cert_expires_at=ends,
            certificate=certificate,
            address=address,
            addresses=self.known,
        )

    def error(self, code: int, text: str) -> TransportError:
        """Why none has come."""
        easy = self.easy
        request = self.request
        info = easy.getinfo
        total_ms = info(pycurl.TOTAL_TIME_T) / 1000 + (self.dns_ms or 0.0)
        ends, certificate = leaf(easy) if self._shown_certificate(code) else (None, None)
        if self.out_of_memory:
            reason, message = Reason.PROBER_MEMORY, "the prober's memory for bodies is in use"
        else:
            reason, message = faults.classify(
                faults.Evidence(
                    code=code,
                    text=text,
                    host=request.host,
                    port=request.port,
                    timeout_s=self.timeout_s,
                    os_errno=info(pycurl.OS_ERRNO),
                    socket_errno=self.socket_errno,
                    verify_result=info(pycurl.SSL_VERIFYRESULT),
                    refused=self.refused,
                    addresses=tuple(self.addresses),
                    routed=any(has_route(address) for address in self.addresses),
                    connected=info(pycurl.CONNECT_TIME_T) > 0,
                    secured=info(pycurl.APPCONNECT_TIME_T) > 0
                    or not request.url.startswith("https"),
                    sent=info(pycurl.POSTTRANSFER_TIME_T) > 0,
                    proxied=request.special is not None and request.special.proxy is not None,
                    connect_status=info(pycurl.HTTP_CONNECTCODE),
                    proxy_error=info(pycurl.PROXY_ERROR),
                    proxy_verify_result=info(pycurl.PROXY_SSL_VERIFYRESULT),
                )
            )
        return TransportError(
            reason=reason,
            message=message,
            total_ms=total_ms,
            timings=timings(easy, self.dns_ms),
            cert_expires_at=ends,
            certificate=certificate,
            addresses=self._addresses(),
        )

    def _proxy(self) -> Proxy | None:
        special = self.request.special
        return None if special is None else special.proxy

    def _shown_certificate(self, code: int) -> bool:
        """Whether a certificate that came is the target's, and not that of the proxy before it."""
        proxy = self._proxy()
        if not self.request.url.startswith("https"):
            return False
        if proxy is None or proxy.kind != "https":
            return True
        # Which of the two is known only where the tunnel was open when one was refused.
        opened = 200 <= self.easy.getinfo(pycurl.HTTP_CONNECTCODE) < 300
        return opened and code == faults.PEER_FAILED_VERIFICATION

    def _addresses(self) -> tuple[str, ...]:
        """The target's addresses after a fault; its proxy's only where the guard refused that."""
        if self._proxy() is not None:
            if self.refused is not None and not self.addresses:
                return (self.refused[0],)
            return evidence.addresses((), self.known)
        first = tuple(self.addresses)
        if self.easy.getinfo(pycurl.CONNECT_TIME_T) > 0:
            connected = info_text(self.easy, pycurl.PRIMARY_IP)
            first = (connected, *first) if connected else first
        known = self.known or ((self.request.host,) if self.request.numeric else ())
        return evidence.addresses(first, known)
