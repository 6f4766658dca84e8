"""From what libcurl and the kernel say to whose fault it is: pure, so every case has a test.

The target's faults become failures; the prober's own (its network, resolver, descriptors, ports,
memory) must never be taken for them.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from lighthouse.model import Reason

Fault = tuple[Reason, str]

# libcurl's codes (curl/curl.h); pycurl does not name them all.
UNSUPPORTED_PROTOCOL = 1
URL_MALFORMAT = 3
COULDNT_RESOLVE_HOST = 6
COULDNT_CONNECT = 7
WEIRD_SERVER_REPLY = 8
HTTP2 = 16
PARTIAL_FILE = 18
WRITE_ERROR = 23
OUT_OF_MEMORY = 27
TIMED_OUT = 28
TLS_CONNECT_ERROR = 35
GOT_NOTHING = 52
SEND_ERROR = 55
RECV_ERROR = 56
PEER_FAILED_VERIFICATION = 60
CACERT_BADFILE = 77
HTTP2_STREAM = 92
PROXY = 97
TOO_LARGE = 100

_CLOSED = (PARTIAL_FILE, GOT_NOTHING, SEND_ERROR, RECV_ERROR)

#: OpenSSL's verification results (openssl/x509_vfy.h) that have a reason of their own.
_VERIFY: dict[int, Fault] = {
    9: (Reason.TLS_EXPIRED, "the certificate is not valid yet"),
    10: (Reason.TLS_EXPIRED, "the certificate has expired"),
    18: (Reason.TLS_SELF_SIGNED, "the certificate is self-signed"),
    62: (Reason.TLS_WRONG_HOST, "the certificate is for another host"),
    64: (Reason.TLS_WRONG_HOST, "the certificate is for another address"),
}

#: Errors of socket() and connect() that are the prober's own.
_PROBER: dict[int, Fault] = {
    errno.EMFILE: (Reason.PROBER_DESCRIPTORS, "the prober has no file descriptor left"),
    errno.ENFILE: (Reason.PROBER_DESCRIPTORS, "the prober's host has no file descriptor left"),
    errno.EADDRNOTAVAIL: (Reason.PROBER_PORTS, "the prober has no local port left"),
    errno.EAGAIN: (Reason.PROBER_PORTS, "the prober has no local port left"),
    errno.EADDRINUSE: (Reason.PROBER_PORTS, "the prober has no local port left"),
    errno.ENOMEM: (Reason.PROBER_MEMORY, "the prober's host is out of memory"),
    errno.ENOBUFS: (Reason.PROBER_MEMORY, "the prober's host is out of buffers"),
    errno.EACCES: (Reason.PROBER_NETWORK, "the prober's own firewall forbids the connection"),
    errno.EPERM: (Reason.PROBER_NETWORK, "the prober's own firewall forbids the connection"),
    errno.ENETDOWN: (Reason.PROBER_NETWORK, "the prober's network is down"),
    errno.EAFNOSUPPORT: (Reason.PROBER_NETWORK, "the prober does not speak this address family"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of an exchange that brought no answer."""

    code: int  #: libcurl's
    text: str = ""  #: libcurl's, may hold bytes of the target
    host: str = ""
    port: int = 0
    timeout_s: float = 0.0
    os_errno: int = 0  #: of the last connect()
    socket_errno: int = 0  #: of a socket() that failed, else 0
    verify_result: int = 0  #: OpenSSL's
    refused: tuple[str, str] | None = None  #: (address, kind) that the guard did not allow
    addresses: Sequence[str] = ()  #: those that a socket was opened for
    routed: bool = True  #: whether this host has a route to any of them
    connected: bool = False  #: TCP
    secured: bool = False  #: TLS, or not wanted
    sent: bool = False  #: the whole request
    proxied: bool = False
    connect_status: int = 0  #: what an HTTP proxy answered to CONNECT
    proxy_error: int = 0  #: libcurl's CURLPX_… of a SOCKS proxy
    proxy_verify_result: int = 0  #: OpenSSL's, of an HTTPS proxy


def classify(seen: Evidence) -> Fault:
    """The reason and one line for a person. Never raises."""
    if seen.code in (COULDNT_CONNECT, TIMED_OUT) and not seen.connected:
        own = _never_connected(seen)
        if own is not None:
            return own
    if seen.proxied:
        between = _proxy(seen)
        if between is not None:
            return between
    match seen.code:
        case 28:
            return _timed_out(seen)
        case 7:
            return _not_connected(seen)
        case 60:
            return _not_verified(seen)
        case 35:
            return _no_handshake(seen)
        case 27:
            return Reason.PROBER_MEMORY, "the prober is out of memory"
        case 58:
            return Reason.PROBER_CONFIG, "the client certificate and its key cannot be used"
        case 77:
            return Reason.PROBER_CONFIG, "the prober cannot read its CA bundle"
        case 3 if seen.connected:  # ours was good enough: it is one in the answer
            return Reason.PROTOCOL_ERROR, "the answer holds an address that is no URL"
        case 3:
            return Reason.PROBER_CONFIG, "the URL cannot be used"
        case 6:
            return Reason.PROBER_RESOLVER, f"the name {seen.host} could not be resolved"
        case 100:
            return Reason.PROTOCOL_ERROR, "the answer's header is too long"
        case 1 | 8 | 16 | 92:
            return Reason.PROTOCOL_ERROR, f"not an HTTP answer: {one_line(seen.text)}"
    if seen.code in _CLOSED:
        return _closed(seen)
    return Reason.PROTOCOL_ERROR, f"no usable answer: {one_line(seen.text)} ({seen.code})"


def one_line(text: str, limit: int = 200) -> str:
    """Foreign text without control characters, shortened."""
    return "".join(char if char.isprintable() else " " for char in text[:limit]).strip()


def _where(seen: Evidence) -> str:
    address = seen.addresses[-1] if seen.addresses else seen.host
    return f"[{address}]:{seen.port}" if ":" in address else f"{address}:{seen.port}"


def _never_connected(seen: Evidence) -> Fault | None:
    if seen.socket_errno:
        return _PROBER.get(
            seen.socket_errno,
            (Reason.PROBER_NETWORK, f"the prober got no socket: {os.strerror(seen.socket_errno)}"),
        )
    if seen.refused is not None and not seen.addresses:
        address, kind = seen.refused
        return Reason.FORBIDDEN_ADDRESS, f"{address} may not be probed ({kind} address)"
    if seen.addresses and not seen.routed:
        return Reason.PROBER_NETWORK, f"the prober has no route to {_where(seen)}"
    return None


#: SOCKS answers that speak of the target, by libcurl's CURLPX_… (curl/curl.h).
_SOCKS: dict[int, Fault] = {
    19: (Reason.CONNECTION_REFUSED, "connection refused, says the proxy"),
    21: (Reason.UNREACHABLE, "the target is unreachable, says the proxy"),
    22: (Reason.UNREACHABLE, "the target's network is unreachable, says the proxy"),
    24: (Reason.UNREACHABLE, "the way to the target is too long, says the proxy"),
}

#: HTTP proxies' answers to CONNECT that speak of the target.
_GATEWAY = (502, 503, 504)


def _proxy(seen: Evidence) -> Fault | None:
    """A fault of the proxy's, after which nothing is known of the target; or what it says of it."""
    if seen.connect_status in _GATEWAY:
        told = f"the proxy cannot reach the target, it answered {seen.connect_status}"
        return Reason.UNREACHABLE, told
    if seen.connect_status and not 200 <= seen.connect_status < 300:
        return Reason.PROBER_PROXY, f"the proxy refused with status {seen.connect_status}"
    if seen.code == PROXY:
        failed = (Reason.PROBER_PROXY, f"the proxy failed: {one_line(seen.text)}")
        return _SOCKS.get(seen.proxy_error, failed)
    if seen.code == COULDNT_CONNECT:
        return Reason.PROBER_PROXY, f"no connection to the proxy: {one_line(seen.text)}"
    if seen.code == PEER_FAILED_VERIFICATION and seen.proxy_verify_result:
        return Reason.PROBER_PROXY, "the proxy's certificate is not trusted"
    if seen.code == TIMED_OUT and not seen.connected:
        return Reason.PROBER_PROXY, f"no connection to the proxy within {seen.timeout_s:.3g} s"
    if seen.code == TIMED_OUT and not seen.sent:  # mostly the proxy waits for the target itself
        return Reason.TIMEOUT, f"nothing came through the proxy within {seen.timeout_s:.3g} s"
    return None


def _timed_out(seen: Evidence) -> Fault:
    limit = f"{seen.timeout_s:.3g} s"
    if not seen.connected:
        return Reason.TIMEOUT, f"no connection to {_where(seen)} within {limit}"
    if not seen.secured:
        return Reason.TIMEOUT, f"the TLS handshake was not over within {limit}"
    if not seen.sent:
        return Reason.TIMEOUT, f"the request was not taken within {limit}"
    return Reason.TIMEOUT, f"no complete answer within {limit}"


def _not_connected(seen: Evidence) -> Fault:
    if seen.os_errno == errno.ECONNREFUSED:
        return Reason.CONNECTION_REFUSED, f"connection refused by {_where(seen)}"
    if seen.os_errno in _PROBER:
        return _PROBER[seen.os_errno]
    if seen.os_errno == errno.ECONNRESET:
        return Reason.CONNECTION_RESET, f"connection reset by {_where(seen)}"
    if seen.os_errno == errno.ETIMEDOUT:
        return Reason.TIMEOUT, f"no connection to {_where(seen)}: the network gave up"
    if seen.os_errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return Reason.UNREACHABLE, f"the network reports {_where(seen)} as unreachable"
    detail = os.strerror(seen.os_errno) if seen.os_errno else one_line(seen.text)
    return Reason.UNREACHABLE, f"no connection to {_where(seen)}: {detail}"


def _not_verified(seen: Evidence) -> Fault:
    if seen.verify_result in _VERIFY:
        return _VERIFY[seen.verify_result]
    # libcurl compares the name itself; over QUIC it leaves only OpenSSL's "unspecified".
    if "subject name" in seen.text or "target host" in seen.text or seen.verify_result == 1:
        return Reason.TLS_WRONG_HOST, f"the certificate is not for {seen.host}"
    return Reason.TLS_UNTRUSTED, "the certificate is not from a trusted authority"


def _no_handshake(seen: Evidence) -> Fault:
    text = one_line(seen.text.rpartition("::")[2])  # without OpenSSL's numbers
    return Reason.TLS_HANDSHAKE, f"the TLS handshake failed: {text}"


def _closed(seen: Evidence) -> Fault:
    if "alert" in seen.text and "SSL" in seen.text:
        # In TLS 1.3 a server judges the client's certificate after the client's handshake.
        return _no_handshake(seen)
    if "unexpected eof" in seen.text:  # OpenSSL's word for an end without a farewell
        return Reason.CONNECTION_RESET, "the connection closed without an answer"
    if seen.code == PARTIAL_FILE:
        return Reason.CONNECTION_RESET, "the connection closed in the middle of the answer"
    if seen.code == GOT_NOTHING:
        return Reason.CONNECTION_RESET, "the connection closed without an answer"
    if seen.os_errno == errno.ECONNRESET or "reset" in seen.text.lower():
        return Reason.CONNECTION_RESET, f"connection reset by {_where(seen)}"
    return Reason.PROTOCOL_ERROR, f"the answer broke off: {one_line(seen.text)}"
