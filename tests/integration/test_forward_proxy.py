"""The browser's proxy, spoken to by hand: who may use it, for how much, and where it leads."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from lighthouse.model import Reason
from lighthouse.probes.canary import forward_proxy
from lighthouse.probes.canary.forward_proxy import ForwardProxy, Passage
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.resolver import Answer, Resolved
from lighthouse.settings import load
from tests.support.raw_target import Target, answering, endless, raw_target, sending

PLENTY = 1 << 20
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nfine"


@pytest.fixture
async def equipment() -> AsyncIterator[Equipment]:
    made = Equipment(load({"LIGHTHOUSE_EGRESS_ALLOW": "127.0.0.1/32"}))
    yield made
    await made.close()


@pytest.fixture
async def proxy(equipment: Equipment) -> AsyncIterator[ForwardProxy]:
    made = ForwardProxy(equipment)
    await made.start()
    yield made
    await made.close()


def credential(passage: Passage) -> str:
    pair = f"{ForwardProxy.USERNAME}:{passage.password}".encode()
    return f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}\r\n"


async def said(proxy: ForwardProxy, request: str, body: bytes = b"") -> bytes:
    """All that the proxy answers to one request, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(request.encode() + b"\r\n" + body)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def get(target: Target, passage: Passage, *lines: str, method: str = "GET") -> str:
    more = "".join(f"{line}\r\n" for line in lines)
    return f"{method} {target.url('/a?b')} HTTP/1.1\r\nHost: x\r\n{credential(passage)}{more}"


@asynccontextmanager
async def tunnel(
    proxy: ForwardProxy, authority: str, passage: Passage
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(f"CONNECT {authority} HTTP/1.1\r\n{credential(passage)}\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    yield reader, writer
    writer.close()


async def test_a_stranger_gets_a_challenge_and_nothing_else(proxy: ForwardProxy) -> None:
    async with raw_target(sending(ANSWER)) as target:
        for wrong in (
            "",
            "Proxy-Authorization: Basic Zmxvdzpmb28=\r\n",
            "Proxy-Authorization: x\r\n",
        ):
            answer = await said(proxy, f"GET {target.url()} HTTP/1.1\r\n{wrong}")
            assert answer.startswith(b"HTTP/1.1 407 ")
        assert target.connections == 0


async def test_a_credential_ends_with_its_flow(proxy: ForwardProxy) -> None:
    passage = proxy.open(30, PLENTY)
    other = proxy.open(30, PLENTY)
    assert passage.password != other.password
    async with raw_target(sending(ANSWER)) as target:
        assert (await said(proxy, get(target, passage))).endswith(b"fine")
        proxy.shut(passage)
        assert (await said(proxy, get(target, passage))).startswith(b"HTTP/1.1 407 ")
        assert (await said(proxy, get(target, other))).endswith(b"fine")


async def test_the_target_sees_neither_the_credential_nor_the_proxy(proxy: ForwardProxy) -> None:
    passage = proxy.open(30, PLENTY)
    async with raw_target(sending(ANSWER)) as target:
        await said(proxy, get(target, passage, "X-Own: 1", "Proxy-Connection: keep-alive"))
        (request,) = target.requests
    assert request.startswith(b"GET /a?b HTTP/1.1\r\n")
    assert b"X-Own: 1\r\n" in request
    assert b"Connection: close\r\n" in request
    assert b"proxy" not in request.lower()


async def test_a_second_request_on_a_connection_goes_nowhere(proxy: ForwardProxy) -> None:
    """Fails when a connection is kept: the next request, to anybody, would go to this target."""
    passage = proxy.open(30, PLENTY)
    seen: list[bytes] = []

    async def greedy(
        request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(ANSWER)
        seen.append(await asyncio.wait_for(reader.read(65536), 0.5))

    async with raw_target(greedy) as target:
        second = f"GET http://another.example/ HTTP/1.1\r\n{credential(passage)}\r\n".encode()
        request = get(target, passage, "Content-Length: 4", method="POST")
        answer = await said(proxy, request, b"body" + second)
        assert target.requests[0].endswith(b"\r\n\r\nbody")
    assert b"Connection: close\r\n" in answer
    assert b"keep-alive" not in answer
    assert all(b"another" not in more for more in seen)


async def test_a_tunnel_carries_bytes_both_ways(proxy: ForwardProxy) -> None:
    passage = proxy.open(30, PLENTY)
    async with (
        raw_target(sending(ANSWER)) as target,
        tunnel(proxy, f"127.0.0.1:{target.port}", passage) as (reader, writer),
    ):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == ANSWER


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2",
        "127.2",
        "0x7f000002",
        "2130706434",
        "[::ffff:127.0.0.2]",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "0177.0.0.2",
        "inner.test",
    ],
)
async def test_no_spelling_of_a_forbidden_address_is_connected_to(
    proxy: ForwardProxy, equipment: Equipment, host: str
) -> None:
    class Stub:
        async def lookup(self, name: str, timeout_s: float) -> Answer:
            return Resolved(addresses=("127.0.0.2",), took_ms=0.0)

        def close(self) -> None:
            pass

    equipment.resolver.close()
    equipment.resolver = Stub()  # type: ignore[assignment]
    connections = 0

    def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.2", 0)
    port = server.sockets[0].getsockname()[1]
    passage = proxy.open(30, PLENTY)
    head = f"HTTP/1.1\r\n{credential(passage)}"
    assert (await said(proxy, f"CONNECT {host}:{port} {head}")).startswith(b"HTTP/1.1 502 ")
    assert await said(proxy, f"GET http://{host}:{port}/ {head}") == b""
    assert connections == 0
    assert {reason for reason, _ in passage.faults.values()} == {Reason.FORBIDDEN_ADDRESS}
    server.close()


async def test_a_flow_moves_no_more_bytes_than_it_may(proxy: ForwardProxy) -> None:
    passage = proxy.open(30, 200_000)
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    async with (
        raw_target(endless(head, b"x" * 65536)) as target,
        tunnel(proxy, f"127.0.0.1:{target.port}", passage) as (idle, _),
    ):
        answer = await said(proxy, get(target, passage))
        assert len(answer) <= 200_000
        assert passage.spent.is_set()
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(idle.read(), 5) == b""  # cut off too
        assert not passage.tasks


async def test_a_flow_has_a_bounded_number_of_connections(
    proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_proxy, "MOST_CONNECTIONS", 1)
    passage = proxy.open(30, PLENTY)
    async with raw_target(sending(ANSWER)) as target:
        async with tunnel(proxy, f"127.0.0.1:{target.port}", passage):
            assert await said(proxy, get(target, passage)) == b""
        while passage.tasks:
            await asyncio.sleep(0.01)
        assert (await said(proxy, get(target, passage))).endswith(b"fine")


async def test_strangers_that_say_nothing_are_few_and_short(
    proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_proxy, "MOST_STRANGERS", 1)
    monkeypatch.setattr(forward_proxy, "HEAD_S", 0.3)
    silent, one = await asyncio.open_connection("127.0.0.1", proxy.port)
    late, two = await asyncio.open_connection("127.0.0.1", proxy.port)
    async with asyncio.timeout(5):
        assert await late.read() == b""
        assert await silent.read() == b""
    one.close()
    two.close()


async def test_a_passage_ends_by_itself_long_after_its_flow(
    proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward_proxy, "GRACE_S", 0.0)
    passage = proxy.open(0.3, PLENTY)
    async with (
        raw_target(sending(b"", then_hang=True)) as target,
        tunnel(proxy, f"127.0.0.1:{target.port}", passage) as (reader, _),
    ):
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 100 Go on\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
    ],
    ids=["ssh", "407", "101", "interim", "header"],
)
async def test_what_is_no_answer_is_the_targets_fault(proxy: ForwardProxy, answer: bytes) -> None:
    passage = proxy.open(30, PLENTY)
    async with raw_target(sending(answer, then_hang=True)) as target:
        assert b"HTTP/1.1 407" not in await said(proxy, get(target, passage))
        reason, _ = passage.faults["127.0.0.1", target.port]
    assert reason is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "line",
    [
        "GET https://127.0.0.1/ HTTP/1.1",
        "GET / HTTP/1.1",
        "GET ftp://127.0.0.1/ HTTP/1.1",
        "GET http://a@127.0.0.1/ HTTP/1.1",
        "CONNECT 127.0.0.1:0 HTTP/1.1",
        "nonsense",
        "CONNECT 127.0.0.1:99999 HTTP/1.1",
        "CONNECT  HTTP/1.1",
        "GET http:/// HTTP/1.1",
    ],
)
async def test_what_is_no_request_to_a_proxy_is_closed(proxy: ForwardProxy, line: str) -> None:
    passage = proxy.open(30, PLENTY)
    assert await said(proxy, f"{line}\r\n{credential(passage)}") == b""
    assert not passage.faults


async def test_a_refused_connection_is_told_as_in_an_http_check(proxy: ForwardProxy) -> None:
    passage = proxy.open(30, PLENTY)
    async with raw_target(answering("200 OK")) as target:
        port = target.port
    await said(proxy, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n{credential(passage)}")
    assert passage.faults["127.0.0.1", port][0] is Reason.CONNECTION_REFUSED
