"""WebSocket checks against real servers: every phase, every option, each fault with its reason."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, check_once, parse_config
from lighthouse.probes.wire import dial as dial_module
from lighthouse.probes.wire.resolver import Answer, Resolved, Resolver, Unresolved
from lighthouse.settings import load
from tests.support.certificates import Authority
from tests.support.raw_target import HOST, Behaviour, answering, raw_target, resetting, sending
from tests.support.websocket_target import (
    CLOSE,
    PING,
    PONG,
    accepted,
    echo_server,
    frame,
    received,
    upgrading,
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def prober(authority: Authority) -> AsyncIterator[Prober]:
    settings = load({}, egress_allow="127.0.0.0/8,::1/128", ca_file=authority.ca_file)
    async with Prober(settings) as running:
        yield running


async def probed(prober: Prober, url: str, **keys: Any) -> Outcome:
    given = {"url": url, "retries": 0, "timeout": 5, **keys}
    return await prober.probe(MonitorType.WEBSOCKET, parse_config(MonitorType.WEBSOCKET, given), 60)


async def against(prober: Prober, behave: Behaviour, **keys: Any) -> Outcome:
    async with raw_target(behave) as target:
        return await probed(prober, target.url().replace("http", "ws", 1), **keys)


def names(found: Outcome) -> list[str]:
    return [step.name for step in found.steps]


# -- what works ------------------------------------------------------------------------------------


async def test_a_handshake_alone_is_a_success_with_its_times(prober: Prober) -> None:
    async with echo_server() as echo:
        found = await probed(prober, echo.url)
        await asyncio.wait_for(echo.closed.wait(), 5)
    assert (found.status, found.http_status, found.http_version) == (CheckStatus.SUCCESS, 101, 11)
    assert names(found) == ["tcp", "handshake"]
    assert found.timings.tcp_ms is not None
    assert found.timings.ttfb_ms is not None
    assert found.latency_ms is not None
    assert found.latency_ms >= found.timings.tcp_ms + found.timings.ttfb_ms
    assert echo.close_codes == [1000]


async def test_a_name_is_resolved_by_the_probers_own_resolver(prober: Prober) -> None:
    async with echo_server() as echo:
        found = await probed(prober, echo.url.replace(HOST, "localhost"))
    assert found.status is CheckStatus.SUCCESS
    assert names(found)[0] == "dns"
    assert found.timings.dns_ms is not None


@pytest.mark.option("WebsocketConfig.headers", "WebsocketConfig.origin")
async def test_headers_origin_and_agent_reach_the_server_once(prober: Prober) -> None:
    async with echo_server() as echo:
        await probed(
            prober,
            echo.url,
            headers={"Authorization": "Bearer t", "X-One": "1"},
            origin="https://example.com",
        )
    (headers,) = echo.headers
    assert headers["Authorization"] == "Bearer t"
    assert headers["X-One"] == "1"
    assert headers["Origin"] == "https://example.com"
    assert headers["User-Agent"].startswith("Lighthouse/")
    assert "Sec-WebSocket-Extensions" not in headers  # a compressed bomb has no way in


@pytest.mark.option("WebsocketConfig.subprotocols")
async def test_a_subprotocol_must_be_chosen_from_those_offered(prober: Prober) -> None:
    async with echo_server() as echo:
        good = await probed(prober, echo.url, subprotocols=["v3.echo", "v1.echo"])
        bad = await probed(prober, echo.url, subprotocols=["v3.echo"])
    assert good.status is CheckStatus.SUCCESS
    assert (bad.status, bad.reason) == (CheckStatus.FAILURE, Reason.HEADER)
    assert bad.message == "the server chose no subprotocol, expected v3.echo"
    found = await against(prober, upgrading(b"", "Sec-WebSocket-Protocol: other"))
    assert found.reason is Reason.HEADER
    assert found.message == "the server chose a subprotocol that was not offered: other"


@pytest.mark.option("WebsocketConfig.ping")
async def test_a_ping_must_be_answered_by_its_own_pong(prober: Prober) -> None:
    async with echo_server() as echo:
        found = await probed(prober, echo.url, ping=True)
    assert found.status is CheckStatus.SUCCESS
    assert names(found) == ["tcp", "handshake", "ping"]
    silent = await against(prober, upgrading(b""), ping=True, timeout=0.5)
    assert (silent.status, silent.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)
    assert silent.message == "no pong within 0.5 s"
    assert silent.steps[-1].status is CheckStatus.TIMEOUT
    other = await against(prober, upgrading(frame("else", PONG)), ping=True, timeout=0.5)
    assert other.reason is Reason.TIMEOUT


async def test_the_servers_own_ping_is_answered(prober: Prober) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame("are you there", PING))
        answer = await received(reader)
        writer.write(frame("yes" if answer == (PONG, b"are you there") else "no"))
        await received(reader)

    found = await against(prober, upgrading(talk), expect={"contains": "yes"})
    assert found.status is CheckStatus.SUCCESS


@pytest.mark.option("WebsocketConfig.send")
async def test_a_message_is_sent_and_its_answer_awaited(prober: Prober) -> None:
    async with echo_server() as echo:
        keys = {"expect": {"regex": "echo .*(one|7)"}, "timeout": 2}
        found = await probed(prober, echo.url, send="one", **keys)
        assert found.status is CheckStatus.SUCCESS
        await probed(prober, echo.url, send={"id": 7}, **keys)
    assert names(found) == ["tcp", "handshake", "message"]
    assert echo.messages == ["one", '{"id":7}']


async def test_a_greeting_is_found_also_while_a_ping_is_under_way(prober: Prober) -> None:
    async with echo_server() as echo:
        for ping in (False, True):
            found = await probed(prober, echo.url, ping=ping, expect={"json_path": {"$.hello": 1}})
            assert found.status is CheckStatus.SUCCESS
        late = await probed(
            prober, echo.url, ping=True, send="x", expect={"contains": "hello"}, timeout=0.5
        )
    assert (late.status, late.reason) == (CheckStatus.FAILURE, Reason.BODY)


async def test_any_message_will_do_when_nothing_is_asked_of_it(prober: Prober) -> None:
    found = await against(prober, upgrading(frame(b"\xff\x00", 2)), expect={})
    assert found.status is CheckStatus.SUCCESS


async def test_a_fragmented_message_is_one_message(prober: Prober) -> None:
    parts = frame("al", last=False) + frame(b"", PING) + frame("l ", 0, last=False) + frame("ok", 0)
    found = await against(prober, upgrading(parts), expect={"regex": "^all ok$", "skip": 0})
    assert found.status is CheckStatus.SUCCESS


@pytest.mark.option("WebsocketConfig.expect", "MessageExpectation.contains")
async def test_no_message_is_told_from_wrong_ones(prober: Prober) -> None:
    none = await against(prober, upgrading(b""), expect={"contains": "x"}, timeout=0.5)
    assert (none.status, none.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)
    assert none.message == "no message within 0.5 s"
    wrong = await against(
        prober, upgrading(frame("a") + frame("b")), expect={"contains": "x"}, timeout=0.5
    )
    assert (wrong.status, wrong.reason) == (CheckStatus.FAILURE, Reason.BODY)
    assert wrong.message == "2 messages came, the last: the message lacks the expected text"
    assert wrong.snippet == "b"


@pytest.mark.option("MessageExpectation.regex")
async def test_a_message_must_match_the_pattern(prober: Prober) -> None:
    keys = {"expect": {"regex": "^[a-z]+$", "skip": 0}}
    good = await against(prober, upgrading(frame("abc")), **keys)
    bad = await against(prober, upgrading(frame("123")), **keys)
    assert good.status is CheckStatus.SUCCESS
    assert bad.message == "the message does not match the pattern"


@pytest.mark.option("MessageExpectation.skip")
async def test_only_so_many_messages_are_skipped(prober: Prober) -> None:
    behave = upgrading(frame("a") + frame("b") + frame("x"))
    good = await against(prober, behave, expect={"contains": "x", "skip": 2})
    bad = await against(prober, behave, expect={"contains": "x", "skip": 1})
    assert good.status is CheckStatus.SUCCESS
    assert (bad.status, bad.snippet) == (CheckStatus.FAILURE, "b")


@pytest.mark.option("WebsocketConfig.max_latency_ms")
async def test_a_slow_check_is_a_failure(prober: Prober) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(frame("late"))
        await received(reader)

    keys = {"expect": {"contains": "late"}}
    slow = await against(prober, upgrading(talk), max_latency_ms=50, **keys)
    assert (slow.status, slow.reason) == (CheckStatus.FAILURE, Reason.MAX_LATENCY)
    fine = await against(prober, upgrading(talk), max_latency_ms=4000, **keys)
    assert fine.status is CheckStatus.SUCCESS


async def test_whoever_looks_is_told_each_assertion(authority: Authority) -> None:
    settings = load({}, egress_allow="127.0.0.0/8", ca_file=authority.ca_file)
    async with echo_server() as echo:
        given = {
            "url": echo.url,
            "subprotocols": ["v1.echo"],
            "ping": True,
            "send": "x",
            "expect": {"contains": "echo"},
        }
        config = parse_config(MonitorType.WEBSOCKET, given)
        found = await check_once(MonitorType.WEBSOCKET, config, settings)
    assert [(each.name, each.ok) for each in found.findings] == [
        ("subprotocol", True),
        ("pong", True),
        ("message", True),
    ]


# -- what fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 403, 404, 426, 500])
async def test_another_status_than_101_is_a_failure(prober: Prober, status: int) -> None:
    found = await against(prober, answering(status, b""))
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.STATUS_CODE)
    assert found.http_status == status
    assert found.message == f"status {status}, expected 101"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_handshake_is_a_failure(prober: Prober, head: bytes) -> None:
    found = await against(prober, sending(head))
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.PROTOCOL_ERROR)


async def test_a_connection_that_closes_or_breaks(prober: Prober) -> None:
    for behave in (sending(b""), resetting()):
        async with raw_target(behave) as target:
            found = await probed(prober, target.url().replace("http", "ws", 1))
            assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.CONNECTION_RESET)
            assert target.connections == 1  # one check is one connection


async def test_a_close_code_is_told(prober: Prober) -> None:
    behave = upgrading(frame((1008).to_bytes(2, "big") + b"go \xc3\xbc away", CLOSE))
    found = await against(prober, behave, expect={})
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.CLOSED)
    assert found.message == (
        "the server closed the connection with code 1008 (policy violation): go ü away"
    )


async def test_a_refused_connection(prober: Prober) -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        port = closed.getsockname()[1]
        found = await probed(prober, f"ws://{HOST}:{port}/")
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.CONNECTION_REFUSED)
    assert found.message == f"connection refused by {HOST}:{port}"


class _Names(Resolver):
    """A resolver that knows one answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    async def lookup(self, host: str, timeout_s: float) -> Answer:
        return self._answer


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.DNS_NOT_FOUND, CheckStatus.FAILURE),
        (Reason.PROBER_RESOLVER, CheckStatus.ERROR),
    ],
)
async def test_a_name_that_does_not_exist_is_told_from_a_resolver_that_fails(
    prober: Prober, reason: Reason, status: CheckStatus
) -> None:
    equipment = prober._equipment
    assert equipment is not None
    equipment.resolver = _Names(Unresolved(reason=reason, message="so it is", took_ms=1.5))
    found = await probed(prober, "ws://example.com/")
    assert (found.status, found.reason, found.message) == (status, reason, "so it is")
    assert found.timings.dns_ms == 1.5


async def test_the_next_address_is_tried_where_one_refuses(prober: Prober) -> None:
    equipment = prober._equipment
    assert equipment is not None
    equipment.resolver = _Names(Resolved(addresses=("127.0.0.9", HOST), took_ms=1.0))
    async with echo_server() as echo:
        found = await probed(prober, echo.url.replace(HOST, "example.com"))
    assert found.status is CheckStatus.SUCCESS


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EMFILE, Reason.PROBER_DESCRIPTORS),
        (errno.ENOBUFS, Reason.PROBER_MEMORY),
        (errno.EAFNOSUPPORT, Reason.PROBER_NETWORK),
    ],
)
async def test_a_prober_that_gets_no_socket_blames_itself(
    prober: Prober, monkeypatch: pytest.MonkeyPatch, number: int, reason: Reason
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(dial_module.socket, "socket", refuse)
    found = await probed(prober, f"ws://{HOST}:1/")
    monkeypatch.undo()
    assert (found.status, found.reason) == (CheckStatus.ERROR, reason)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_descriptor_is_left_whatever_happened(
    prober: Prober, authority: Authority
) -> None:
    async def all_of_them() -> None:
        await against(prober, upgrading(frame("a")), expect={"contains": "x"}, timeout=0.2)
        await against(prober, upgrading(b""), ping=True, timeout=0.2)
        await against(prober, answering(404))
        await against(prober, sending(b"", then_hang=True), timeout=0.2)
        async with raw_target(answering(), authority.issue("example.com")) as target:
            await probed(prober, _wss(target.port))

    await all_of_them()
    await asyncio.sleep(0.1)
    before = descriptors()
    for _ in range(3):
        await all_of_them()
    await asyncio.sleep(0.1)
    assert descriptors() <= before + 1


async def test_closing_the_prober_cancels_who_waits() -> None:
    async with raw_target(sending(b"", then_hang=True)) as target:
        prober = Prober(load({}, egress_allow="127.0.0.0/8"))
        await prober.start()
        running = asyncio.create_task(probed(prober, target.url().replace("http", "ws", 1)))
        await asyncio.wait_for(target.connected.wait(), 5)
        await prober.close()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, 2)


# -- forbidden addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "localhost",
        "10.0.0.1",
        "169.254.169.254",
        "0",
    ],
)
async def test_no_socket_opens_to_a_forbidden_address(host: str) -> None:
    async with raw_target(answering()) as target, Prober(load({})) as strict:
        for scheme in ("ws", "wss"):
            found = await probed(strict, f"{scheme}://{host}:{target.port}/", timeout=2)
            assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.FORBIDDEN_ADDRESS)
        assert target.connections == 0


async def test_a_name_that_is_rebound_to_loopback_opens_no_socket() -> None:
    async with raw_target(answering()) as target, Prober(load({})) as strict:
        equipment = strict._equipment
        assert equipment is not None
        equipment.resolver = _Names(Resolved(addresses=("127.0.0.1", "::1"), took_ms=1.0))
        found = await probed(strict, f"ws://example.com:{target.port}/")
        assert found.reason is Reason.FORBIDDEN_ADDRESS
        assert target.connections == 0


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(prober: Prober, status: int) -> None:
    async with raw_target(answering()) as inner:
        behave = answering(status, b"", {"Location": inner.url()})
        found = await against(prober, behave, headers={"Authorization": "s3cr3t"})
        assert (found.reason, found.http_status) == (Reason.STATUS_CODE, status)
        assert inner.connections == 0


# -- TLS -------------------------------------------------------------------------------------------


def _wss(port: int, host: str = HOST) -> str:
    return f"wss://{host}:{port}/"


async def test_a_secure_connection_tells_its_handshake_and_expiry(
    prober: Prober, authority: Authority
) -> None:
    certificate = authority.issue(HOST, "localhost")
    async with raw_target(upgrading(frame("hi")), certificate) as target:
        for host in (HOST, "localhost"):
            found = await probed(prober, _wss(target.port, host), expect={"contains": "hi"})
            assert found.status is CheckStatus.SUCCESS
            assert found.cert_expires_at == certificate.ends
            assert found.timings.tls_ms is not None
    assert names(found) == ["dns", "tcp", "tls", "handshake", "message"]


@pytest.mark.parametrize(
    ("issued", "reason"),
    [
        ({"starts": timedelta(days=-9), "lasts": timedelta(days=8)}, Reason.TLS_EXPIRED),
        ({"starts": timedelta(days=1)}, Reason.TLS_EXPIRED),
        ({"self_signed": True}, Reason.TLS_SELF_SIGNED),
        ({"name": "127.0.0.2"}, Reason.TLS_WRONG_HOST),
        ({"name": "example.com"}, Reason.TLS_WRONG_HOST),
    ],
)
@pytest.mark.option("WebsocketConfig.verify_tls")
async def test_a_bad_certificate_is_refused_and_its_expiry_told(
    prober: Prober, authority: Authority, issued: dict[str, Any], reason: Reason
) -> None:
    rest = {key: value for key, value in issued.items() if key != "name"}
    certificate = authority.issue(issued.get("name", HOST), **rest)
    async with raw_target(upgrading(frame("hi")), certificate) as target:
        found = await probed(prober, _wss(target.port))
        assert (found.status, found.reason) == (CheckStatus.FAILURE, reason)
        assert found.cert_expires_at == certificate.ends
        assert target.requests == []  # nothing is sent to whom is not trusted
        blind = await probed(prober, _wss(target.port), verify_tls=False)
        assert blind.status is CheckStatus.SUCCESS
        assert blind.cert_expires_at == certificate.ends


async def test_a_stranger_authority_is_not_trusted(prober: Prober, tmp_path: Path) -> None:
    certificate = Authority(tmp_path, "Stranger").issue(HOST)
    async with raw_target(upgrading(b""), certificate) as target:
        found = await probed(prober, _wss(target.port))
    assert found.reason is Reason.TLS_UNTRUSTED
    assert found.cert_expires_at == certificate.ends


@pytest.mark.option("WebsocketConfig.certificate_expiry")
async def test_a_certificate_that_ends_soon(prober: Prober, authority: Authority) -> None:
    certificate = authority.issue(HOST, lasts=timedelta(days=10))
    async with raw_target(upgrading(b""), certificate) as target:
        url = _wss(target.port)
        fine = await probed(prober, url, certificate_expiry={"days": 5})
        soon = await probed(prober, url, certificate_expiry={"days": 30})
        warned = await probed(prober, url, certificate_expiry={"days": 30, "severity": "warning"})
    assert (fine.status, fine.reason) == (CheckStatus.SUCCESS, None)
    assert (soon.status, soon.reason) == (CheckStatus.FAILURE, Reason.CERTIFICATE_EXPIRY)
    assert (warned.status, warned.reason) == (CheckStatus.SUCCESS, Reason.CERTIFICATE_EXPIRY)


async def test_what_is_no_tls_is_a_failed_handshake(prober: Prober) -> None:
    async with raw_target(answering()) as target:
        server = await asyncio.start_server(_garbage, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        found = await probed(prober, _wss(port))
        server.close()
        assert target.connections == 0
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.TLS_HANDSHAKE)


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def test_a_silent_tls_server_times_out(prober: Prober) -> None:
    server = await asyncio.start_server(_silent, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    found = await probed(prober, _wss(port), timeout=0.5)
    server.close()
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)
    assert found.message == "the TLS handshake was not over within 0.5 s"


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_an_upgrade_among_other_options_of_the_connection_is_one(prober: Prober) -> None:
    async def behave(request: bytes, *rest: Any) -> None:
        listed = accepted(request).replace(
            b"Connection: Upgrade", b"connection: keep-alive, upgrade"
        )
        rest[1].write(listed + frame("Connection: Upgrade\r\n\r\n"))
        await rest[1].drain()
        await received(rest[0])

    async with raw_target(behave) as target:
        url = target.url().replace("http", "ws", 1)
        found = await probed(prober, url, expect={"contains": "Connection: Upgrade\r\n\r\n"})
    assert found.status is CheckStatus.SUCCESS
