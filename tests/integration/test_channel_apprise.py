"""The real apprise library in its child process, against doubles on loopback."""

import asyncio
import contextlib
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psutil
import pytest
from aiohttp import web

from lighthouse.channels import Sender
from lighthouse.model import (
    AlertType,
    Answer,
    Channel,
    ChannelType,
    Circumstances,
    Delivery,
    Severity,
    to_slot,
)
from lighthouse.settings import load
from tests.support.certificates import Authority
from tests.support.services import Server

AT = datetime(2026, 11, 24, 3, 45, 10, tzinfo=UTC)
EVENT = UUID(int=1)
ALLOWED = "127.0.0.0/8,::1/128"


class Service(Server):
    """Takes any request; `hang` never answers one, `redirect` sends all elsewhere."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.hang = False
        self.status = 200
        self.redirect = ""

    @property
    def at(self) -> str:
        return self.base.partition("://")[2]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.paths.append(request.path)
        if self.redirect:
            raise web.HTTPTemporaryRedirect(self.redirect)
        if self.hang:
            await asyncio.sleep(30)
        with contextlib.suppress(ValueError):
            self.bodies.append(json.loads(body))
        return web.json_response({}, status=self.status)


class Forbidden:
    """Listens on loopback, over IPv4 and IPv6 and TCP and UDP, and counts whoever comes."""

    def __init__(self) -> None:
        self.seen = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        for target in (self._accept, self._receive):
            threading.Thread(target=target, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._listening.accept()[0].close()
                self.seen += 1

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while self._udp.recv(1024):
                self.seen += 1

    def close(self) -> None:
        # Until a connection of the test's own is counted, an earlier one might not be yet.
        before = self.seen
        socket.create_connection(("127.0.0.1", self.port)).close()
        end = time.monotonic() + 5
        while self.seen == before and time.monotonic() < end:
            time.sleep(0.01)
        self.seen -= 1
        for opened in (self._listening, self._udp):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service() as running:
        yield running


@pytest.fixture
def forbidden() -> Iterator[Forbidden]:
    running = Forbidden()
    yield running
    running.close()
    assert running.seen == 0


def sender(allow: str = ALLOWED, **more: str) -> Sender:
    return Sender(
        load(
            {
                "LIGHTHOUSE_APPRISE": "on",
                "LIGHTHOUSE_EGRESS_ALLOW": allow,
                "LIGHTHOUSE_ALERT_TIMEOUT_S": "10",
                **more,
            }
        )
    )


def delivery(url: str, **changes: Any) -> Delivery:
    channel = Channel(
        id=UUID(int=2),
        subscription_id=UUID(int=3),
        channel_type=ChannelType.APPRISE,
        channel_config={"url": url},
        enabled=True,
        min_severity=Severity.INFO,
        metadata={"language": "en"},
    )
    values: dict[str, Any] = {
        "event_id": EVENT,
        "channel_id": channel.id,
        "slot": to_slot(AT),
        "subscription_id": channel.subscription_id,
        "subscription_name": "Shop",
        "alert_type": AlertType.DOWNTIME,
        "severity": Severity.CRITICAL,
        "title": "stored title",
        "message": "expected 200, got 503",
        "context": {"name": "Shop", "reason": "status_code", "http_status": 503},
        "attempt": 1,
        "lease_token": uuid4(),
        "created_at": AT,
        "age_s": 0.0,
        "circumstances": Circumstances(now=AT, created_at=AT),
        "channel": channel,
    }
    return Delivery(**{**values, **changes})


def checked(found: Answer) -> Answer:
    """No secret, address or line end is in an answer, and none ends a delivery or channel."""
    for kept_back in ("s3cr3t", "127.0.0.1", "localhost", "\n"):
        assert kept_back not in found.detail
    assert (found.permanent, found.gone) == (False, False)
    return found


async def once(url: str, allow: str = ALLOWED, **more: str) -> Answer:
    async with sender(allow, **more) as mine:
        return checked(await mine.send(delivery(url)))


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "lighthouse.apprised" in process.cmdline():
                found.append(process)
    return found


async def test_a_message_arrives_with_title_text_and_severity(service: Service) -> None:
    found = await once(f"json://{service.at}/s3cr3t")
    assert (found.ok, found.detail) == (True, "taken")
    (body,) = service.bodies
    assert (body["title"], body["type"]) == ("Shop is down", "failure")
    assert "The check of 2026-11-24 03:45:10 UTC failed." in body["message"]
    assert "Detail: expected 200, got 503" in body["message"]
    assert body["message"].endswith(str(EVENT))
    assert service.paths == ["/s3cr3t"]


async def test_a_recovery_is_a_success_and_the_same_child_sends_it(service: Service) -> None:
    async with sender() as mine:
        assert (await mine.send(delivery(f"json://{service.at}"))).ok
        before = children()
        recovery = delivery(f"json://{service.at}", alert_type=AlertType.RECOVERY)
        assert (await mine.send(recovery)).ok
        assert [child.pid for child in children()] == [child.pid for child in before]
    assert [body["type"] for body in service.bodies] == ["failure", "success"]
    assert children() == []


async def test_ntfy_takes_it_too(service: Service) -> None:
    assert (await once(f"ntfy://{service.at}/topic")).ok
    (body,) = service.bodies
    assert (body["topic"], body["title"]) == ("topic", "Shop is down")


async def test_a_refusal_is_a_failure_that_passes_and_tells_no_address(service: Service) -> None:
    service.status = 403
    found = await once(f"json://{service.at}/s3cr3t")
    assert (found.ok, found.detail) == (False, "apprise could not deliver it")


#: One for each way to the network that the library's plugins take without further packages.
REACHING = [
    "json://127.0.0.1:{port}/s3cr3t",
    "json://localhost:{port}/s3cr3t",
    "jsons://127.0.0.1:{port}/s3cr3t",
    "ntfy://127.0.0.1:{port}/s3cr3t",
    "mailto://user:s3cr3t@example.org:{port}?smtp=127.0.0.1&mode=insecure",
    "mailtos://user:s3cr3t@example.org:{port}?smtp=localhost&mode=starttls",
    "rsyslog://127.0.0.1:{port}",
    "rsyslog://localhost:{port}",
    "irc://user@localhost:{port}/#s3cr3t",
]
#: Other spellings, which the library refuses for its own reasons or not.
SPELLINGS = [
    "json://localhost.:{port}/s3cr3t",
    "json://2130706433:{port}/s3cr3t",
    "json://0x7f000001:{port}/s3cr3t",
    "json://127.1:{port}/s3cr3t",
    "json://0:{port}/s3cr3t",
    "json://[::1]:{port}/s3cr3t",
    "kodi://127.0.0.1:{port}",
    "json://[::ffff:127.0.0.1]:{port}/s3cr3t",
]


@pytest.mark.parametrize("url", [*REACHING, *SPELLINGS])
async def test_a_forbidden_address_is_never_connected_to(forbidden: Forbidden, url: str) -> None:
    found = await once(url.format(port=forbidden.port), allow="192.0.2.0/24")
    assert not found.ok


@pytest.mark.parametrize("url", REACHING)
async def test_the_same_urls_lead_there_where_the_operator_allows_it(url: str) -> None:
    there = Forbidden()
    await once(url.format(port=there.port))
    there.close()
    assert there.seen > 0


async def test_the_operator_s_answer_tells_the_kind_of_address(forbidden: Forbidden) -> None:
    found = await once(f"json://localhost:{forbidden.port}/s3cr3t", allow="")
    assert found.detail == "the address may not be connected to (loopback)"


async def test_a_redirect_is_not_followed(service: Service) -> None:
    service.redirect = f"{service.base}/elsewhere"
    assert not (await once(f"json://{service.at}/first")).ok
    assert service.paths == ["/first"]


async def test_a_redirect_that_the_url_wants_followed_leads_to_no_forbidden_address(
    service: Service,
) -> None:
    with socket.create_server(("127.0.0.2", 0)) as inward:
        inward.settimeout(0.2)
        service.redirect = f"http://127.0.0.2:{inward.getsockname()[1]}/"
        url = f"json://{service.at}/?redirect=yes"
        found = await once(url, allow="127.0.0.1/32")
        assert found.detail == "the address may not be connected to (loopback)"
        with pytest.raises(TimeoutError):
            inward.accept()
        sending = asyncio.create_task(once(url, LIGHTHOUSE_ALERT_TIMEOUT_S="3"))
        inward.settimeout(5)
        (await asyncio.to_thread(inward.accept))[0].close()  # allowed, it is followed
        assert not (await sending).ok
    assert service.paths == ["/", "/"]


async def test_the_operator_s_authorities_are_trusted_and_strangers_are_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    async with Service(context) as service:
        assert not (await once(f"jsons://{service.at}")).ok
        assert (await once(f"jsons://{service.at}", LIGHTHOUSE_CA_FILE=str(authority.ca_file))).ok
    assert len(service.bodies) == 1


async def test_proxies_of_the_environment_are_not_asked(
    service: Service, forbidden: Forbidden, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{forbidden.port}")
    assert (await once(f"json://{service.at}")).ok


async def test_no_secret_is_in_the_child_s_arguments_or_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTHOUSE_TEST_WORD", "s3cr3t")
    async with sender() as mine:
        assert (await mine.send(delivery(f"json://{service.at}/s3cr3t"))).ok
        (child,) = children()
        assert "s3cr3t" not in " ".join(child.cmdline())
        assert "s3cr3t" not in " ".join(child.environ().values())
        assert not [name for name in child.environ() if name.startswith("LIGHTHOUSE_")]


async def test_a_server_that_hangs_ends_at_the_deadline_and_the_next_message_works(
    service: Service,
) -> None:
    service.hang = True
    async with sender(LIGHTHOUSE_ALERT_TIMEOUT_S="3") as mine:
        begun = time.monotonic()
        # A longer patience that the URL asks for does not count.
        found = checked(await mine.send(delivery(f"json://{service.at}/?rto=60&cto=60")))
        assert (found.ok, found.tried, found.detail) == (False, True, "no answer within 3 s")
        assert 2.9 < time.monotonic() - begun < 5
        assert children() == []
        service.hang = False
        assert (await mine.send(delivery(f"json://{service.at}"))).ok
    assert len(service.bodies) == 1


async def test_a_killed_child_fails_its_message_and_is_replaced(service: Service) -> None:
    service.hang = True
    async with sender() as mine:
        sending = asyncio.create_task(mine.send(delivery(f"json://{service.at}/?rto=60")))
        while not service.paths:
            await asyncio.sleep(0.05)
        (child,) = children()
        child.kill()
        found = checked(await sending)
        assert (found.ok, found.detail) == (False, "the process that runs apprise ended")
        service.hang = False
        assert (await mine.send(delivery(f"json://{service.at}"))).ok
        (idle,) = children()
        idle.kill()  # between two messages
        idle.wait(5)
        assert (await mine.send(delivery(f"json://{service.at}"))).ok
        assert [found.pid for found in children()] != [idle.pid]


async def test_messages_go_side_by_side_and_what_finds_no_child_free_comes_again(
    service: Service,
) -> None:
    service.hang = True
    async with sender(LIGHTHOUSE_ALERT_TIMEOUT_S="5") as mine:
        hanging = [
            asyncio.create_task(mine.send(delivery(f"json://{service.at}/{n}?rto=60")))
            for n in range(4)
        ]
        await asyncio.sleep(0.5)
        found = checked(await mine.send(delivery(f"json://{service.at}/late")))
        assert (found.ok, found.tried, found.retry_after_s) == (False, False, 2.0)
        assert len(children()) == 4
        for answer in await asyncio.gather(*hanging):
            assert answer.detail == "no answer within 5 s"
    assert children() == []


async def test_closing_ends_a_child_that_hangs(service: Service) -> None:
    service.hang = True
    async with sender() as mine:
        sending = asyncio.create_task(mine.send(delivery(f"json://{service.at}/?rto=60")))
        while not service.paths:
            await asyncio.sleep(0.05)
        sending.cancel()
        await asyncio.wait([sending])
    end = time.monotonic() + 5
    while children() and time.monotonic() < end:
        await asyncio.sleep(0.05)
    assert children() == []


async def test_a_child_whose_worker_dies_ends_too(service: Service) -> None:
    service.hang = True
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "lighthouse.apprised", ALLOWED, ""),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    job = {"url": f"json://{service.at}/?rto=60", "title": "t", "body": "b", "kind": "info"}
    child.stdin.write(json.dumps(job).encode() + b"\n")
    while not service.paths:
        await asyncio.sleep(0.05)
    child.stdin.close()  # what the death of a process does to its pipes
    async with asyncio.timeout(5):
        assert await child.wait() == 0


async def test_a_type_that_is_switched_off_sends_nothing_and_waits(service: Service) -> None:
    found = await once(f"json://{service.at}", LIGHTHOUSE_APPRISE="off")
    assert (found.ok, found.detail) == (
        False,
        "LIGHTHOUSE_APPRISE is not on; apprise channels need it",
    )
    assert service.paths == []


@pytest.mark.parametrize(
    "url", ["discord://1/s3cr3t?template={path}", "fcm://s3cr3t/a?keyfile={path}"]
)
async def test_no_file_of_the_host_is_read(tmp_path: Path, url: str) -> None:
    path = tmp_path / "template.json"
    path.write_text("{}")
    before = path.stat().st_atime_ns
    found = await once(url.format(path=path))
    assert found.detail == "the service would work on this machine"
    assert path.stat().st_atime_ns == before
