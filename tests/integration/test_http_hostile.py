"""Targets that mean harm: none may raise, hang, fill the memory or pass for healthy."""

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any

import pytest

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, parse_config
from lighthouse.probes.wire import easy
from lighthouse.settings import load
from tests.support.raw_target import Behaviour, answering, endless, raw_target, sending

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    async with Prober(load({}, egress_allow="127.0.0.0/8")) as running:
        yield running


async def probed(prober: Prober, behave: Behaviour, **keys: Any) -> Outcome:
    async with raw_target(behave) as target:
        config = parse_config(
            MonitorType.HTTP, {"url": target.url(), "retries": 0, "timeout": 2, **keys}
        )
        begun = time.monotonic()
        found = await prober.probe(MonitorType.HTTP, config, 60)
        assert time.monotonic() - begun < config.timeout_s(60) + 2
    if found.message is not None:
        assert found.message.isprintable()
        assert len(found.message) < 400
    return found


async def test_an_endless_body_is_cut_at_its_limit(prober: Prober) -> None:
    behave = endless(OK + b"\r\n", b"x" * 65_536)
    found = await probed(prober, behave, max_body_bytes=100_000)
    assert found.status is CheckStatus.SUCCESS  # nothing was asked of the body
    found = await probed(prober, behave, body_validation={"contains": "y"}, max_body_bytes=100_000)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY_TOO_LARGE)


async def test_an_announced_length_is_not_believed(prober: Prober) -> None:
    behave = endless(OK + b"Content-Length: 99999999999\r\n\r\n", b"x" * 65_536)
    found = await probed(prober, behave, body_validation={"contains": "y"})
    assert found.reason is Reason.BODY_TOO_LARGE


async def test_a_dripping_body_ends_at_the_deadline(prober: Prober) -> None:
    found = await probed(prober, endless(OK + b"\r\n", b"x", pause_s=0.05), timeout=0.5)
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)


async def test_dripping_headers_end_at_the_deadline(prober: Prober) -> None:
    found = await probed(prober, endless(OK, b"X: y\r\n", pause_s=0.05), timeout=0.5)
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)


@pytest.mark.parametrize(
    "chunk", [b"X-Many: y\r\n" * 1000, b"X" * 65_536, b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 99]
)
async def test_endless_headers_are_refused(prober: Prober, chunk: bytes) -> None:
    found = await probed(prober, endless(OK, chunk), expected_headers={"x-a": None})
    assert found.status in (CheckStatus.FAILURE, CheckStatus.TIMEOUT)
    assert found.reason in (Reason.PROTOCOL_ERROR, Reason.TIMEOUT)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff\xfe garbage \x80\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 smtp.example ESMTP\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        OK + b"Content-Length: -5\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        OK + b"X-Nul: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP",
    ],
)
async def test_what_is_no_http_is_a_failure_of_the_target(prober: Prober, data: bytes) -> None:
    found = await probed(prober, sending(data))
    assert found.status is CheckStatus.FAILURE
    assert found.reason in (Reason.PROTOCOL_ERROR, Reason.CONNECTION_RESET, Reason.STATUS_CODE)


async def test_bytes_that_are_no_text_are_judged_all_the_same(prober: Prober) -> None:
    headers = {"X-Raw": "\xff\xfe", "Content-Type": "text/\xe9; charset=\xff"}
    behave = answering(500, b"\xff\xfe\x00bad\xed\xa0\x80", headers)
    found = await probed(prober, behave, expected_headers={"x-raw": "a"})
    assert found.reason is Reason.STATUS_CODE
    assert found.snippet is not None
    assert "bad" in found.snippet
    found.snippet.encode()  # no lone surrogates


@pytest.mark.parametrize(
    "location", ["http://\xff\xfe/", "//", "http://[::1", "\x01", "http://a b/", "x" * 9000, "?"]
)
async def test_a_nonsense_redirect_is_a_failure(
    prober: Prober, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)  # the network may have no resolver
    behave = answering(302, b"", {"Location": location})
    found = await probed(prober, behave, max_redirects=3)
    assert found.status is CheckStatus.FAILURE


async def test_a_compressed_bomb_is_not_unpacked(prober: Prober) -> None:
    bomb = gzip.compress(b"0" * 50_000_000)
    behave = answering(200, bomb, {"Content-Encoding": "gzip"})
    found = await probed(prober, behave, body_validation={"contains": "000"})
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY)


async def test_cookies_are_not_kept(prober: Prober) -> None:
    async with raw_target(answering(headers={"Set-Cookie": "a=b"})) as target:
        config = parse_config(MonitorType.HTTP, {"url": target.url()})
        for _ in range(2):
            await prober.probe(MonitorType.HTTP, config, 60)
        assert b"cookie" not in target.requests[1].lower()


async def test_large_bodies_share_a_memory_budget_and_small_ones_never_feel_it(
    prober: Prober,
) -> None:
    size = 1_000_000
    holding = easy.BUDGET_BYTES // (size - easy.OWN_BYTES)
    data = OK + b"Content-Length: %d\r\n\r\n" % (size + 1) + b"x" * size
    async with raw_target(sending(data, then_hang=True)) as target:
        config = parse_config(
            MonitorType.HTTP,
            {
                "url": target.url(),
                "retries": 0,
                "timeout": 3,
                "body_validation": {"contains": "y"},
            },
        )
        running = [
            asyncio.create_task(prober.probe(MonitorType.HTTP, config, 60))
            for _ in range(holding + 20)
        ]
        for refused in islice(asyncio.as_completed(running), 20):  # they found no room
            assert (await refused).reason is Reason.PROBER_MEMORY
        small = answering(200, b"x" * easy.OWN_BYTES)
        found = await probed(prober, small, body_validation={"contains": "x"})
        assert found.status is CheckStatus.SUCCESS
        reasons = [(await task).reason for task in running]
    assert reasons.count(Reason.TIMEOUT) >= holding - 2  # those that were cut short held some too
    assert set(reasons) == {Reason.PROBER_MEMORY, Reason.TIMEOUT}
    large = answering(200, b"x" * size)  # what they held was given back
    found = await probed(prober, large, body_validation={"contains": "x"})
    assert found.status is CheckStatus.SUCCESS


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" * 500_000, "the body holds more than 100000 JSON values"),
        (b"[" + b"0," * 400_000 + b"0]", "the body holds more than 100000 JSON values"),
        (b"[" * 5000 + b"]" * 5000, "the body is nested more than 64 levels deep"),
        (b'{"a":' * 90 + b"1" + b"}" * 90, "the body is nested more than 64 levels deep"),
        (b"9" * 900_000, "the body is not JSON"),
        (b'"' * 900_000, "the body is not JSON"),
        (b'{"a": "\\ud800"}', "the body is not JSON"),
        (b"\xff\xfe\x00[", "the body is not JSON"),
    ],
)
@pytest.mark.parametrize("wanted", [{"json_path": {"$..a": 1}}, {"json_schema": {"type": "null"}}])
async def test_a_document_that_means_harm_is_a_failure_of_its_body(
    prober: Prober, body: bytes, message: str, wanted: dict[str, Any]
) -> None:
    found = await probed(prober, answering(200, body), body_validation=wanted, timeout=5)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY)
    assert found.message is not None
    assert found.message.startswith(message)


async def test_work_without_end_is_stopped_and_leaves_other_checks_alone(prober: Prober) -> None:
    document = b"[" + b",".join(b'{"a":%d,"b":{"c":[%d]}}' % (n, n) for n in range(9000)) + b"]"
    bomb = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
    wanted: list[dict[str, Any]] = [
        {"json_path": {"$..[?$..[?@..x]]": 1}},
        {"json_schema": {"$ref": "#/$defs/a0", "$defs": {**bomb, "a40": False}}},
    ]
    async with raw_target(answering(200, document)) as hostile, raw_target(answering()) as plain:

        def check(url: str, **keys: Any) -> Any:
            config = parse_config(
                MonitorType.HTTP, {"url": url, "retries": 0, "timeout": 20, **keys}
            )
            return prober.probe(MonitorType.HTTP, config, 60)

        slow = [
            asyncio.ensure_future(check(hostile.url(), body_validation=wanted[n % 2]))
            for n in range(3)
        ]
        quick = []
        while not all(each.done() for each in slow):
            quick.append(await check(plain.url()))
            await asyncio.sleep(0.01)
        for each in slow:
            assert each.result().reason is Reason.BODY
            assert "needs too much work on this document" in each.result().message
    assert len(quick) > 5
    assert all(each.status is CheckStatus.SUCCESS for each in quick)
    latencies = sorted(each.latency_ms for each in quick)
    assert latencies[len(latencies) // 2] < 100  # unbounded, none would ever come back
