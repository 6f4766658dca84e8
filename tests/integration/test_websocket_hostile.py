"""WebSocket targets that mean harm: none may raise, hang, fill the memory or hold up the others.

The bounds: one deadline; four of the largest messages in bytes, all frames together; 1,000 pings
and pongs; `expect.skip` other messages; 128 header lines of 8 KiB; 100 interim answers.
"""

import asyncio
import resource
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, parse_config
from lighthouse.settings import load
from tests.support.raw_target import Behaviour, endless, raw_target, sending
from tests.support.websocket_target import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    accepted,
    flooding,
    frame,
    header,
    upgrading,
)

MEBIBYTE = 1024 * 1024


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    async with Prober(load({}, egress_allow="127.0.0.0/8")) as running:
        yield running


async def probed(prober: Prober, behave: Behaviour, **keys: Any) -> Outcome:
    """One check, with what no target may do: raise, outlive the deadline, take much memory."""
    async with raw_target(behave) as target:
        given = {"url": target.url().replace("http", "ws", 1), "retries": 0, "timeout": 2, **keys}
        config = parse_config(MonitorType.WEBSOCKET, given)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.monotonic()
        found = await prober.probe(MonitorType.WEBSOCKET, config, 60)
        assert time.monotonic() - begun < config.timeout_s(60) + 1
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB on Linux
        assert grown < 64 * 1024
    if found.message is not None:
        assert found.message.isprintable()
        assert len(found.message) < 400
    return found


EXPECT = {"expect": {"contains": "never"}}


async def test_an_endless_stream_of_messages_ends_with_those_that_may_be_skipped(
    prober: Prober,
) -> None:
    found = await probed(prober, flooding(frame("no") * 1000), **EXPECT)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY)
    assert found.message == "101 messages came, the last: the message lacks the expected text"


async def test_endless_large_messages_end_at_the_limit_of_bytes(prober: Prober) -> None:
    keys = {"expect": {"contains": "never", "skip": 1000}, "max_message_bytes": 65_536}
    found = await probed(prober, flooding(frame("x" * 65_536)), **keys)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY_TOO_LARGE)
    assert found.message == "more than 327680 bytes came"


@pytest.mark.parametrize("opcode", [PING, PONG])
async def test_a_flood_of_pings_ends_at_a_thousand(prober: Prober, opcode: int) -> None:
    found = await probed(prober, flooding(frame(b"x" * 8, opcode) * 1000), **EXPECT)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.PROTOCOL_ERROR)
    assert found.message == "more than 1000 pings and pongs"


async def test_messages_instead_of_a_pong_end_too(prober: Prober) -> None:
    found = await probed(prober, flooding(frame("no") * 1000), ping=True)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY)
    assert found.message == "no pong among 1000 messages"


@pytest.mark.parametrize("size", [300_000, 2**40, 2**62, 2**64 - 1])
async def test_a_huge_frame_is_refused_by_its_header(prober: Prober, size: int) -> None:
    found = await probed(prober, upgrading(header(size, TEXT)), **EXPECT)
    assert found.status is CheckStatus.FAILURE
    assert found.reason in (Reason.BODY_TOO_LARGE, Reason.PROTOCOL_ERROR)


@pytest.mark.option("WebsocketConfig.max_message_bytes")
async def test_the_largest_message_is_what_the_configuration_allows(prober: Prober) -> None:
    behave = upgrading(frame("x" * 5000 + "end"))
    exact = upgrading(frame("x" * 4096))
    keys = {"expect": {}, "max_message_bytes": 4096}
    assert (await probed(prober, exact, **keys)).status is CheckStatus.SUCCESS
    keys = {"expect": {"contains": "end", "skip": 0}}
    assert (await probed(prober, behave, **keys)).status is CheckStatus.SUCCESS
    found = await probed(prober, behave, max_message_bytes=4096, **keys)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY_TOO_LARGE)


async def test_an_endlessly_fragmented_message_is_refused(prober: Prober) -> None:
    part = frame("x" * 1000, 0, last=False)
    found = await probed(prober, flooding(part * 50, frame("x", last=False)), **EXPECT)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY_TOO_LARGE)


async def test_endless_empty_fragments_end_at_the_limit_of_bytes(prober: Prober) -> None:
    part = frame(b"", 0, last=False)
    found = await probed(prober, flooding(part * 20_000, frame("x", last=False)), **EXPECT)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY_TOO_LARGE)


async def test_a_message_that_never_ends_ends_at_the_deadline(prober: Prober) -> None:
    found = await probed(prober, upgrading(header(1000) + b"x" * 10), timeout=0.5, **EXPECT)
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)


@pytest.mark.parametrize(
    "data",
    [
        b"\xfe\xff\x00 garbage",
        b"HTTP/1.1 200 OK\r\n\r\n",
        frame("x", 3),
        frame("x", 0),
        frame("x", TEXT, last=False) + frame("y", TEXT),
        frame(b"x", PING, last=False),
        header(126, PING) + b"x" * 126,
        frame(b"x", CLOSE),
        frame((999).to_bytes(2, "big"), CLOSE),
        frame((1000).to_bytes(2, "big") + b"\xff", CLOSE),
        frame("x", TEXT, reserved=2),
    ],
)
async def test_garbage_after_the_handshake_breaks_the_protocol(prober: Prober, data: bytes) -> None:
    found = await probed(prober, upgrading(data), **EXPECT)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.PROTOCOL_ERROR)


@pytest.mark.parametrize("data", [b"\xff", b"\xed\xa0\x80", b"ok \xc3"])
async def test_a_text_that_is_no_utf8_breaks_the_protocol(prober: Prober, data: bytes) -> None:
    found = await probed(prober, upgrading(frame(data)), expect={})
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.PROTOCOL_ERROR)


async def test_bytes_that_are_no_text_are_shown_all_the_same(prober: Prober) -> None:
    behave = upgrading(frame(b"\xff\x00bad", BINARY))
    found = await probed(prober, behave, expect={"contains": "x", "skip": 0})
    assert found.reason is Reason.BODY
    assert found.snippet is not None
    assert "bad" in found.snippet
    found.snippet.encode()  # no lone surrogates


async def test_a_compressed_bomb_is_not_unpacked(prober: Prober) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(b"0" * 100 * MEBIBYTE) + packer.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < 200_000
    behave = upgrading(frame(bomb, reserved=4), "Sec-WebSocket-Extensions: permessage-deflate")
    found = await probed(prober, behave, **EXPECT)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "chunk", [b"X-Many: y\r\n" * 1000, b"X" * 65_536, b"HTTP/1.1 100 Continue\r\n\r\n" * 9]
)
async def test_endless_headers_are_refused(prober: Prober, chunk: bytes) -> None:
    head = b"" if chunk.startswith(b"HTTP") else b"HTTP/1.1 101 Switching Protocols\r\n"
    found = await probed(prober, endless(head, chunk))
    assert found.status in (CheckStatus.FAILURE, CheckStatus.TIMEOUT)
    assert found.reason in (Reason.PROTOCOL_ERROR, Reason.BODY_TOO_LARGE, Reason.TIMEOUT)


async def test_a_hundred_thousand_headers_are_refused(prober: Prober) -> None:
    async def behave(
        request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        lines = [f"X-{number}: y" for number in range(100_000)]
        writer.write(accepted(request, *lines) + frame("never"))
        await writer.drain()
        await asyncio.Event().wait()

    found = await probed(prober, behave, **EXPECT)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.PROTOCOL_ERROR)


async def test_a_dripping_handshake_ends_at_the_deadline(prober: Prober) -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\n"
    found = await probed(prober, endless(head, b"X: y\r\n", pause_s=0.05), timeout=0.5)
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)
    assert found.message == "no complete handshake within 0.5 s"


async def test_a_silent_server_times_out(prober: Prober) -> None:
    found = await probed(prober, sending(b"", then_hang=True), timeout=0.5)
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)


@pytest.mark.parametrize("data", [b"", frame("more") * 1000])
async def test_a_server_that_never_closes_delays_no_result(prober: Prober, data: bytes) -> None:
    begun = time.monotonic()
    found = await probed(prober, flooding(data, frame("never")), timeout=10, **EXPECT)
    assert found.status is CheckStatus.SUCCESS
    assert time.monotonic() - begun < 5
    assert found.latency_ms is not None
    assert found.latency_ms < 5000  # the closing handshake is not in it


async def test_an_answer_without_end_to_a_refused_handshake_is_not_read(prober: Prober) -> None:
    behave = endless(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 65_536)
    found = await probed(prober, behave)
    assert (found.reason, found.http_status) == (Reason.STATUS_CODE, 500)


async def test_floods_leave_the_loop_to_others(prober: Prober) -> None:
    """While several targets flood, the loop is never away for as long as a slow answer takes."""
    longest = 0.0
    done = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not done.is_set():
            begun = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - begun)

    watching = asyncio.create_task(watch())
    floods = [
        upgrading(frame("no") * 30_000),
        upgrading(frame(b"", PING) * 30_000),
        upgrading(frame("x", last=False) + frame(b"", 0, last=False) * 30_000),
    ]
    await asyncio.gather(*(probed(prober, flood, **EXPECT, timeout=1) for flood in floods))
    done.set()
    await watching
    assert longest < 1.5
