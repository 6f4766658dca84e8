"""Whose fault it is when there is no answer."""

import errno
import socket
from dataclasses import replace
from typing import Any

import pytest

from lighthouse.model import Reason
from lighthouse.probes.wire import faults
from lighthouse.probes.wire.resolver import explain


def fault(code: int, **keys: Any) -> tuple[Reason, str]:
    known = {"host": "example.com", "port": 443, "addresses": ("1.2.3.4",), "timeout_s": 10.0}
    return faults.classify(faults.Evidence(code=code, **{**known, **keys}))


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ECONNREFUSED, Reason.CONNECTION_REFUSED),
        (errno.ECONNRESET, Reason.CONNECTION_RESET),
        (errno.ETIMEDOUT, Reason.TIMEOUT),
        (errno.EHOSTUNREACH, Reason.UNREACHABLE),
        (errno.ENETUNREACH, Reason.UNREACHABLE),
        (errno.EADDRNOTAVAIL, Reason.PROBER_PORTS),
        (errno.EACCES, Reason.PROBER_NETWORK),
        (errno.EPERM, Reason.PROBER_NETWORK),
        (errno.ENETDOWN, Reason.PROBER_NETWORK),
        (errno.ENOMEM, Reason.PROBER_MEMORY),
        (errno.ENOBUFS, Reason.PROBER_MEMORY),
        (0, Reason.UNREACHABLE),
    ],
)
def test_a_failed_connect(number: int, reason: Reason) -> None:
    assert fault(faults.COULDNT_CONNECT, os_errno=number)[0] is reason


def test_a_refused_connection_names_the_address() -> None:
    told = fault(faults.COULDNT_CONNECT, os_errno=errno.ECONNREFUSED)[1]
    assert told == "connection refused by 1.2.3.4:443"
    told = fault(faults.COULDNT_CONNECT, os_errno=errno.ECONNREFUSED, addresses=("::1",))[1]
    assert told == "connection refused by [::1]:443"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_socket_that_cannot_be_opened_is_the_probers_fault(number: int) -> None:
    found = fault(faults.COULDNT_CONNECT, socket_errno=number, addresses=())
    assert found[0] is Reason.PROBER_DESCRIPTORS


def test_a_missing_route_is_the_probers_fault_whatever_libcurl_calls_it() -> None:
    for code in (faults.COULDNT_CONNECT, faults.TIMED_OUT):
        found = fault(code, os_errno=errno.ENETUNREACH, routed=False)
        assert found == (Reason.PROBER_NETWORK, "the prober has no route to 1.2.3.4:443")


def test_an_address_that_was_refused_by_the_guard() -> None:
    refused = ("10.0.0.1", "private")
    found = fault(faults.COULDNT_CONNECT, refused=refused, addresses=())
    assert found == (Reason.FORBIDDEN_ADDRESS, "10.0.0.1 may not be probed (private address)")


def test_an_allowed_address_that_refuses_outweighs_a_forbidden_one_beside_it() -> None:
    found = fault(
        faults.COULDNT_CONNECT, refused=("10.0.0.1", "private"), os_errno=errno.ECONNREFUSED
    )
    assert found[0] is Reason.CONNECTION_REFUSED


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "no connection to 1.2.3.4:443 within 10 s"),
        ({"connected": True}, "the TLS handshake was not over within 10 s"),
        ({"connected": True, "secured": True}, "the request was not taken within 10 s"),
        ({"connected": True, "secured": True, "sent": True}, "no complete answer within 10 s"),
    ],
)
def test_a_timeout_tells_how_far_it_came(keys: dict[str, bool], message: str) -> None:
    assert fault(faults.TIMED_OUT, **keys) == (Reason.TIMEOUT, message)


@pytest.mark.parametrize(
    ("verify", "text", "reason"),
    [
        (10, "SSL certificate problem: certificate has expired", Reason.TLS_EXPIRED),
        (9, "SSL certificate problem: certificate is not yet valid", Reason.TLS_EXPIRED),
        (18, "SSL certificate problem: self-signed certificate", Reason.TLS_SELF_SIGNED),
        (20, "unable to get local issuer certificate", Reason.TLS_UNTRUSTED),
        (19, "self-signed certificate in certificate chain", Reason.TLS_UNTRUSTED),
        (
            0,
            "SSL: no alternative certificate subject name matches target host name 'x'",
            Reason.TLS_WRONG_HOST,
        ),
        (
            0,
            "SSL: no alternative certificate subject name matches target ipv4 address '1.2.3.4'",
            Reason.TLS_WRONG_HOST,
        ),
    ],
)
def test_a_refused_certificate(verify: int, text: str, reason: Reason) -> None:
    found = fault(faults.PEER_FAILED_VERIFICATION, verify_result=verify, text=text, connected=True)
    assert found[0] is reason


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (faults.TLS_CONNECT_ERROR, "TLS connect error: x:SSL routines::y", Reason.TLS_HANDSHAKE),
        (faults.GOT_NOTHING, "Empty reply from server", Reason.CONNECTION_RESET),
        (faults.PARTIAL_FILE, "transfer closed", Reason.CONNECTION_RESET),
        (faults.RECV_ERROR, "Recv failure: Connection reset by peer", Reason.CONNECTION_RESET),
        (faults.RECV_ERROR, "Illegal chunk", Reason.PROTOCOL_ERROR),
        (faults.UNSUPPORTED_PROTOCOL, "Received HTTP/0.9", Reason.PROTOCOL_ERROR),
        (faults.WEIRD_SERVER_REPLY, "Invalid status line", Reason.PROTOCOL_ERROR),
        (faults.TOO_LARGE, "Too large response headers", Reason.PROTOCOL_ERROR),
        (faults.HTTP2_STREAM, "HTTP/2 stream error", Reason.PROTOCOL_ERROR),
        (faults.OUT_OF_MEMORY, "", Reason.PROBER_MEMORY),
        (faults.CACERT_BADFILE, "", Reason.PROBER_CONFIG),
        (faults.COULDNT_RESOLVE_HOST, "", Reason.PROBER_RESOLVER),
        (12345, "something new", Reason.PROTOCOL_ERROR),
    ],
)
def test_the_other_ends_of_an_exchange(code: int, text: str, reason: Reason) -> None:
    assert fault(code, text=text, connected=True)[0] is reason


def test_a_message_is_one_clean_line() -> None:
    message = fault(faults.WEIRD_SERVER_REPLY, text="bad\r\nline\x00\udcff" + "x" * 999)[1]
    assert message.isprintable()
    assert len(message) < 250


@pytest.mark.parametrize(
    ("error", "left", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), True, Reason.DNS_NOT_FOUND),
        (socket.gaierror(socket.EAI_NODATA, "x"), True, Reason.DNS_NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, "x"), True, Reason.PROBER_RESOLVER),
        (socket.gaierror(socket.EAI_FAIL, "x"), True, Reason.PROBER_RESOLVER),
        (socket.gaierror(socket.EAI_MEMORY, "x"), True, Reason.PROBER_MEMORY),
        (socket.gaierror(socket.EAI_NONAME, "x"), False, Reason.PROBER_DESCRIPTORS),
        (OSError(errno.EMFILE, "x"), True, Reason.PROBER_DESCRIPTORS),
        (OSError(errno.EIO, "x"), True, Reason.PROBER_RESOLVER),
    ],
)
def test_a_failed_lookup(error: Exception, left: bool, reason: Reason) -> None:
    assert explain(error, "example.com", left)[0] is reason


def test_an_address_in_an_answer_that_is_no_url_is_the_targets_fault() -> None:
    seen = faults.Evidence(code=3, connected=True, secured=True, sent=True)
    assert faults.classify(seen)[0] is Reason.PROTOCOL_ERROR
    assert faults.classify(replace(seen, connected=False))[0] is Reason.PROBER_CONFIG


@pytest.mark.parametrize(
    ("code", "seen", "reason"),
    [
        (faults.COULDNT_CONNECT, {"os_errno": errno.ECONNREFUSED}, Reason.PROBER_PROXY),
        (faults.COULDNT_CONNECT, {"socket_errno": errno.EMFILE}, Reason.PROBER_DESCRIPTORS),
        (faults.TIMED_OUT, {}, Reason.PROBER_PROXY),
        (faults.TIMED_OUT, {"connected": True}, Reason.TIMEOUT),
        (faults.TIMED_OUT, {"connected": True, "secured": True, "sent": True}, Reason.TIMEOUT),
        (faults.RECV_ERROR, {"connect_status": 407}, Reason.PROBER_PROXY),
        (faults.RECV_ERROR, {"connect_status": 403}, Reason.PROBER_PROXY),
        (faults.RECV_ERROR, {"connect_status": 504}, Reason.UNREACHABLE),
        (faults.GOT_NOTHING, {"connect_status": 200}, Reason.CONNECTION_RESET),
        (faults.PROXY, {"proxy_error": 19}, Reason.CONNECTION_REFUSED),
        (faults.PROXY, {"proxy_error": 21}, Reason.UNREACHABLE),
        (faults.PROXY, {"proxy_error": 33}, Reason.PROBER_PROXY),
        (60, {"proxy_verify_result": 20}, Reason.PROBER_PROXY),
        (60, {"verify_result": 10}, Reason.TLS_EXPIRED),
    ],
)
def test_a_proxys_fault_is_told_from_its_targets(
    code: int, seen: dict[str, Any], reason: Reason
) -> None:
    assert fault(code, proxied=True, **seen)[0] is reason


def test_a_server_that_refuses_the_clients_certificate_is_understood() -> None:
    text = "OpenSSL SSL_read: error:0A00045C:SSL routines::tlsv13 alert certificate required"
    assert fault(faults.RECV_ERROR, text=text) == (
        Reason.TLS_HANDSHAKE,
        "the TLS handshake failed: tlsv13 alert certificate required",
    )
    text = "OpenSSL SSL_read: error:0A000126:SSL routines::unexpected eof while reading"
    assert fault(faults.RECV_ERROR, text=text)[0] is Reason.CONNECTION_RESET
    assert fault(58)[0] is Reason.PROBER_CONFIG
