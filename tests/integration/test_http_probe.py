"""HTTP probes against real servers on loopback: what is measured, judged, retried and guarded."""

import asyncio
import gc
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp.web
import pytest

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, check_once, parse_config
from lighthouse.probes.wire import resolver as resolver_module
from lighthouse.settings import load
from tests.support.raw_target import HOST, answering, raw_target, resetting, sending

LOOPBACK = load({}, egress_allow="127.0.0.0/8,::1/128")
STRICT = load({})


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    async with Prober(LOOPBACK) as running:
        yield running


async def probed(prober: Prober, url: str, **keys: Any) -> Outcome:
    config = parse_config(MonitorType.HTTP, {"url": url, "retries": 0, "timeout": 5, **keys})
    return await prober.probe(MonitorType.HTTP, config, 60)


def closed_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_healthy_target_is_a_success_with_its_phases(prober: Prober) -> None:
    async with raw_target(answering(after_s=0.05)) as target:
        found = await probed(prober, target.url())
    assert found.status is CheckStatus.SUCCESS
    assert (found.http_status, found.http_version, found.attempts) == (200, 11, 1)
    assert found.latency_ms is not None
    assert found.timings.ttfb_ms is not None
    assert found.timings.tcp_ms is not None
    assert 50 <= found.timings.ttfb_ms <= found.latency_ms < 4000
    assert 0 < found.timings.tcp_ms < found.timings.ttfb_ms + 1000
    assert found.timings.dns_ms is None  # an address needs no resolver
    assert found.timings.tls_ms is None


async def test_a_name_is_resolved_anew_and_its_time_is_told(prober: Prober) -> None:
    async with raw_target(answering()) as target:
        first = await probed(prober, target.url(host="localhost"))
        second = await probed(prober, target.url(host="localhost"))
    assert (first.status, second.status) == (CheckStatus.SUCCESS, CheckStatus.SUCCESS)
    for found in (first, second):
        assert found.timings.dns_ms is not None
        assert found.latency_ms is not None
        assert 0 < found.timings.dns_ms < found.latency_ms


async def test_a_changed_address_is_followed_at_once(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw_target(answering()) as target:
        for address, status in ((HOST, CheckStatus.SUCCESS), ("127.9.9.9", CheckStatus.FAILURE)):
            monkeypatch.setattr(
                resolver_module.socket,
                "getaddrinfo",
                lambda *_, to=address: [(socket.AF_INET, 1, 6, "", (to, 0))],
            )
            assert (await probed(prober, target.url(host="a.example"))).status is status


async def test_every_check_opens_a_fresh_connection(prober: Prober) -> None:
    async with raw_target(answering()) as target:
        for _ in range(3):
            await probed(prober, target.url())
        assert target.connections == 3


@pytest.mark.option("HttpConfig.headers", "HttpConfig.body")
async def test_the_request_is_sent_as_configured(prober: Prober) -> None:
    async with raw_target(answering()) as target:
        await probed(
            prober,
            target.url("/a?b=c"),
            method="PATCH",
            headers={"X-Key": "käse", "X-Empty": "", "Accept": "text/css", "Host": "other.test"},
            body="hällo",
        )
        head, _, body = target.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"PATCH /a?b=c HTTP/1.1"
    assert "X-Key: käse".encode() in lines
    assert b"X-Empty:" in [line.strip() for line in lines]
    assert b"Accept: text/css" in lines
    assert b"Host: other.test" in lines
    assert b"Accept-Encoding: identity" in lines
    assert not [line for line in lines if line.lower().startswith((b"expect", b"content-type"))]
    assert body == "hällo".encode()


async def test_a_handle_keeps_nothing_of_the_check_before(prober: Prober) -> None:
    async with raw_target(answering(headers={"X-A": "1"})) as target:
        await probed(
            prober,
            target.url(),
            method="POST",
            headers={"Authorization": "secret"},
            body="secret",
            expected_headers={"X-A": "1"},
        )
        await probed(prober, target.url())
        assert target.requests[1].startswith(b"GET / HTTP/1.1")
        assert b"secret" not in target.requests[1]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_every_method_works(prober: Prober, method: str) -> None:
    async def handler(request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text=request.method)

    app = aiohttp.web.Application()
    app.router.add_route("*", "/", handler)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, HOST, 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        validation = None if method == "HEAD" else {"contains": method}
        found = await probed(
            prober, f"http://{HOST}:{port}/", method=method, body_validation=validation
        )
    finally:
        await runner.cleanup()
    assert found.status is CheckStatus.SUCCESS


async def test_an_unexpected_status_is_told_with_a_snippet(prober: Prober) -> None:
    async with raw_target(answering(503, b"we are down\xff")) as target:
        found = await probed(prober, target.url())
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.STATUS_CODE)
    assert found.message == "status 503, expected 200–299"
    assert found.snippet == "we are down�"
    assert found.http_status == 503


@pytest.mark.option("BodyValidation.contains")
async def test_expected_headers_and_body(prober: Prober) -> None:
    async with raw_target(answering(200, b"all systems go", {"X-State": "green"})) as target:
        good = {"expected_headers": {"x-state": "Green"}, "body_validation": {"regex": "s.s"}}
        assert (await probed(prober, target.url(), **good)).status is CheckStatus.SUCCESS
        found = await probed(prober, target.url(), expected_headers={"X-State": "red"})
        assert found.reason is Reason.HEADER
        found = await probed(prober, target.url(), body_validation={"contains": "stop"})
        assert found.reason is Reason.BODY


async def test_a_long_body_is_matched_without_holding_up_the_loop(prober: Prober) -> None:
    body = b"x" * 900_000 + b"needle"
    async with raw_target(answering(200, body)) as target:
        found = await probed(prober, target.url(), body_validation={"regex": "(x+x+)+needle"})
        assert found.status is CheckStatus.SUCCESS


@pytest.mark.option("HttpConfig.max_latency_ms")
async def test_a_slow_answer_fails_its_latency_limit(prober: Prober) -> None:
    async with raw_target(answering(after_s=0.1)) as target:
        found = await probed(prober, target.url(), max_latency_ms=50)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.MAX_LATENCY)
    assert found.http_status == 200


async def test_a_refused_connection_is_a_failure(prober: Prober) -> None:
    port = closed_port()
    found = await probed(prober, f"http://{HOST}:{port}/")
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.CONNECTION_REFUSED)
    assert found.message == f"connection refused by {HOST}:{port}"


async def test_ipv6_and_ipv4_of_one_name_are_both_tried(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        resolver_module.socket,
        "getaddrinfo",
        lambda *_: [
            (socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, 1, 6, "", (HOST, 0)),
        ],
    )
    async with raw_target(answering()) as target:  # listens on IPv4 only
        assert (await probed(prober, target.url(host="b.example"))).status is CheckStatus.SUCCESS


async def test_an_unknown_name_is_a_failure_and_a_silent_resolver_an_error(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(host: bytes, *_: object) -> list[Any]:
        raise socket.gaierror(
            socket.EAI_NONAME if host == b"unknown.example" else socket.EAI_AGAIN, "no"
        )

    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", answer)
    found = await probed(prober, "http://unknown.example/")
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.DNS_NOT_FOUND)
    found = await probed(prober, "http://silent.example/")
    assert (found.status, found.reason) == (CheckStatus.ERROR, Reason.PROBER_RESOLVER)


async def test_dead_names_do_not_hold_up_other_targets(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def answer(host: bytes, *rest: Any) -> list[Any]:
        if host.startswith(b"dead"):
            time.sleep(1.5)
            raise socket.gaierror(socket.EAI_AGAIN, "no")
        return real(host, *rest)  # type: ignore[return-value]

    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", answer)
    dead = [
        asyncio.create_task(probed(prober, f"http://dead{number}.example/", timeout=1))
        for number in range(100)
    ]
    await asyncio.sleep(0.1)
    async with raw_target(answering()) as target:
        begun = time.monotonic()
        found = await probed(prober, target.url(host="localhost"))
        assert found.status is CheckStatus.SUCCESS
        assert time.monotonic() - begun < 1.0  # the dead names take 1.5 s
    for found in await asyncio.gather(*dead):
        assert (found.status, found.reason) == (CheckStatus.ERROR, Reason.PROBER_RESOLVER)


@pytest.mark.option("MonitorConfig.timeout")
async def test_a_target_that_never_answers_is_a_timeout_at_its_deadline(prober: Prober) -> None:
    async with raw_target(sending(b"", then_hang=True)) as target:
        begun = time.monotonic()
        found = await probed(prober, target.url(), timeout=0.3)
        took = time.monotonic() - begun
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)
    assert found.message == "no complete answer within 0.3 s"
    assert 0.28 < took < 2
    assert found.timings.tcp_ms is not None
    assert found.timings.ttfb_ms is None


async def test_a_target_that_does_not_accept_is_a_timeout(prober: Prober) -> None:
    with socket.create_server((HOST, 0), backlog=0) as server:
        port = server.getsockname()[1]
        fillers = []
        for _ in range(4):  # the queue of the kernel is full now
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((HOST, port))
            fillers.append(filler)
        found = await probed(prober, f"http://{HOST}:{port}/", timeout=0.3)
        for filler in fillers:
            filler.close()
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)
    assert found.message == f"no connection to {HOST}:{port} within 0.3 s"


async def test_a_reset_and_an_early_end_are_failures(prober: Prober) -> None:
    async with raw_target(resetting()) as target:
        assert (await probed(prober, target.url())).reason is Reason.CONNECTION_RESET
    async with raw_target(sending(b"")) as target:
        assert (await probed(prober, target.url())).reason is Reason.CONNECTION_RESET
    async with raw_target(sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")) as target:
        found = await probed(prober, target.url())
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.CONNECTION_RESET)


# -- redirects --------------------------------------------------------------------------------


async def test_redirects_are_followed_and_their_time_counts(prober: Prober) -> None:
    async with (
        raw_target(answering(200, b"here")) as last,
        raw_target(answering(302, b"", {"Location": last.url("/end")}, after_s=0.1)) as first,
    ):
        found = await probed(prober, first.url(), body_validation={"contains": "here"})
        assert found.status is CheckStatus.SUCCESS
        assert found.latency_ms is not None
        assert found.latency_ms > 100
        assert found.timings.ttfb_ms is not None
        assert found.timings.ttfb_ms > 100
        assert last.requests[0].startswith(b"GET /end ")


@pytest.mark.option("HttpConfig.valid_status_codes")
async def test_a_redirect_may_be_the_expected_answer(prober: Prober) -> None:
    async with raw_target(answering(301, b"", {"Location": "http://10.0.0.1/"})) as target:
        found = await probed(prober, target.url(), follow_redirects=False, valid_status_codes=[301])
    assert (found.status, found.http_status) == (CheckStatus.SUCCESS, 301)


@pytest.mark.option("HttpConfig.max_redirects")
async def test_a_redirect_loop_ends(prober: Prober) -> None:
    async with raw_target(answering(302, b"", {"Location": "/again"})) as target:
        found = await probed(prober, target.url(), max_redirects=3)
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.TOO_MANY_REDIRECTS)
        assert target.connections == 4


async def test_slow_redirects_share_one_deadline(prober: Prober) -> None:
    async with raw_target(answering(302, b"", {"Location": "/x"}, after_s=0.15)) as target:
        begun = time.monotonic()
        found = await probed(prober, target.url(), timeout=0.4)
        assert time.monotonic() - begun < 2
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)


async def test_credentials_do_not_follow_to_another_origin(prober: Prober) -> None:
    async with (
        raw_target(answering()) as other,
        raw_target(answering(307, b"", {"Location": other.url()})) as first,
    ):
        await probed(
            prober, first.url(), method="POST", headers={"X-Api-Key": "s3cret"}, body="s3cret"
        )
        assert b"s3cret" in first.requests[0]
        assert b"s3cret" not in other.requests[0]


async def test_a_redirect_without_a_usable_address_is_the_targets_fault(prober: Prober) -> None:
    async with raw_target(answering(302, b"", {"Location": "ftp://example.com/"})) as target:
        found = await probed(prober, target.url())
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.PROTOCOL_ERROR)


# -- the guard --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [HOST, "localhost", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0"])
async def test_no_connection_reaches_a_forbidden_address(host: str) -> None:
    async with raw_target(answering()) as target, Prober(STRICT) as prober:
        found = await probed(prober, target.url(host=host))
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.FORBIDDEN_ADDRESS)
        assert target.connections == 0


async def test_a_redirect_does_not_lead_to_a_forbidden_address() -> None:
    allowed = load({}, egress_allow="127.0.0.1/32")
    async with raw_target(answering()) as inner, Prober(allowed) as prober:
        location = inner.url("/latest/meta-data", host="127.0.0.2")
        async with raw_target(answering(302, b"", {"Location": location})) as outer:
            found = await probed(prober, outer.url())
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.FORBIDDEN_ADDRESS)
        assert found.message == "127.0.0.2 may not be probed (loopback address)"
        assert inner.connections == 0


async def test_a_name_that_turns_inward_is_refused_at_the_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        resolver_module.socket,
        "getaddrinfo",
        lambda *_: [(socket.AF_INET, 1, 6, "", ("169.254.169.254", 0))],
    )
    async with Prober(STRICT) as prober:
        found = await probed(prober, "http://rebinding.example/")
    assert found.reason is Reason.FORBIDDEN_ADDRESS


async def test_proxies_of_the_environment_are_not_used(
    prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw_target(answering()) as target, raw_target(answering(502)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        assert (await probed(prober, target.url())).http_status == 200
        assert proxy.connections == 0


# -- attempts, ends, exhaustion ---------------------------------------------------------------


async def test_one_failure_is_retried_inside_the_slot(prober: Prober) -> None:
    answers = iter([answering(500), answering(200)])

    async def behave(*args: Any) -> None:
        await next(answers)(*args)

    async with raw_target(behave) as target:
        found = await probed(prober, target.url(), retries=1)
        assert (found.status, found.attempts) == (CheckStatus.SUCCESS, 2)
        assert target.connections == 2


@pytest.mark.option("MonitorConfig.retries")
async def test_a_failure_that_stays_is_believed_after_its_retries(prober: Prober) -> None:
    async with raw_target(answering(500)) as target:
        found = await probed(prober, target.url(), retries=2)
        assert (found.status, found.attempts) == (CheckStatus.FAILURE, 3)
        assert target.connections == 3


async def test_a_cancelled_probe_lets_go_of_its_connection(prober: Prober) -> None:
    gone = asyncio.Event()

    async def behave(_: bytes, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await reader.read()
        gone.set()

    async with raw_target(behave) as target:
        task = asyncio.create_task(probed(prober, target.url()))
        await target.connected.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), 1)
    async with raw_target(answering()) as target:
        assert (await probed(prober, target.url())).status is CheckStatus.SUCCESS


async def test_closing_ends_lookups_and_pauses_before_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolver_module.socket, "getaddrinfo", lambda *_: time.sleep(3) or [])
    begun = time.monotonic()
    async with Prober(LOOPBACK) as prober:
        looking_up = asyncio.create_task(probed(prober, "http://slow.example/"))
        pausing = asyncio.create_task(probed(prober, f"http://{HOST}:{closed_port()}/", retries=1))
        await asyncio.sleep(0.1)
    for task in (looking_up, pausing):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert time.monotonic() - begun < 2.5


async def test_closing_ends_what_is_running() -> None:
    async with raw_target(sending(b"", then_hang=True)) as target:
        async with Prober(LOOPBACK) as prober:
            task = asyncio.create_task(probed(prober, target.url()))
            await target.connected.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_one_check_needs_no_prober_of_its_callers() -> None:
    async with raw_target(answering()) as target:
        config = parse_config(MonitorType.HTTP, {"url": target.url()})
        assert (await check_once(MonitorType.HTTP, config, LOOPBACK)).http_status == 200


async def test_hundreds_of_probes_at_once_leave_no_descriptor_behind() -> None:
    gc.collect()
    before = descriptors()
    async with Prober(LOOPBACK) as prober, raw_target(answering(after_s=0.05)) as target:
        refused = f"http://{HOST}:{closed_port()}/"
        urls = [target.url(), target.url(host="localhost"), refused] * 100
        outcomes = await asyncio.gather(*(probed(prober, url, timeout=10) for url in urls))
    statuses = [outcome.status for outcome in outcomes]
    assert statuses.count(CheckStatus.SUCCESS) == 200
    assert statuses.count(CheckStatus.FAILURE) == 100
    await asyncio.sleep(0.1)
    assert descriptors() <= before + 1


def test_a_prober_without_descriptors_blames_itself() -> None:
    script = textwrap.dedent(
        """
        import asyncio, os, resource, sys
        from lighthouse.model import MonitorType
        from lighthouse.probes import Prober, parse_config
        from lighthouse.settings import load

        async def main():
            async with Prober(load({}, egress_allow="127.0.0.0/8,::1/128")) as prober:
                async def reason(url):
                    config = parse_config(MonitorType.HTTP, {"url": url, "retries": 0})
                    outcome = await prober.probe(MonitorType.HTTP, config, 60)
                    return f"{outcome.status.value} {outcome.reason.value}"
                urls = ["http://127.0.0.1:9/", "http://localhost:9/"]
                print(await reason(urls[0]))
                resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
                try:
                    while True:
                        os.dup(0)
                except OSError:
                    pass
                print([await reason(url) for url in urls])

        asyncio.run(main())
        """
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "failure connection_refused",
        "['error prober_descriptors', 'error prober_descriptors']",
    ], done.stderr


async def test_a_target_that_sent_nothing_has_no_first_byte(prober: Prober) -> None:
    """Fails when libcurl's last two marks are believed: they may differ by a microsecond after a
    timeout, and the silent target would count as heard."""
    with socket.socket() as full, socket.socket() as mute:
        for server, backlog in ((full, 0), (mute, 1000)):
            server.bind((HOST, 0))
            server.listen(backlog)
        filling = [socket.socket() for _ in range(3)]
        for one in filling:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        urls = [
            f"{scheme}://{HOST}:{server.getsockname()[1]}/"
            for scheme, server in (("http", full), ("https", mute))
        ]
        found = await asyncio.gather(*(probed(prober, url, timeout=0.3) for url in urls * 200))
        for one in filling:
            one.close()
    assert {outcome.reason for outcome in found} == {Reason.TIMEOUT}
    assert {outcome.timings.ttfb_ms for outcome in found} == {None}
