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


def classify(seen: Evidence) -> Fault:
    """The reason and one line for a person. Never raises."""
    if seen.code in (COULDNT_CONNECT, TIMED_OUT) and not seen.connected:
        own = _never_connected(seen)
        if own is not None:
            return own
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
        case 77:
            return Reason.PROBER_CONFIG, "the prober cannot read its CA bundle"
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
    if "subject name" in seen.text or "target host" in seen.text:  # libcurl's own comparison
        return Reason.TLS_WRONG_HOST, f"the certificate is not for {seen.host}"
    return Reason.TLS_UNTRUSTED, "the certificate is not from a trusted authority"


def _no_handshake(seen: Evidence) -> Fault:
    text = one_line(seen.text.rpartition("::")[2])  # without OpenSSL's numbers
    return Reason.TLS_HANDSHAKE, f"the TLS handshake failed: {text}"


def _closed(seen: Evidence) -> Fault:
    if seen.code == PARTIAL_FILE:
        return Reason.CONNECTION_RESET, "the connection closed in the middle of the answer"
    if seen.code == GOT_NOTHING:
        return Reason.CONNECTION_RESET, "the connection closed without an answer"
    if seen.os_errno == errno.ECONNRESET or "reset" in seen.text.lower():
        return Reason.CONNECTION_RESET, f"connection reset by {_where(seen)}"
    return Reason.PROTOCOL_ERROR, f"the answer broke off: {one_line(seen.text)}"
