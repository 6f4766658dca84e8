"""A real Chromium, a site for it on 127.0.0.2, and alarms on the addresses that it must not reach.

Run by `make test-browser`, which installs Chromium; `make test` leaves this folder out.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from lighthouse import probes
from lighthouse.model import MonitorType, Outcome
from lighthouse.probes.canary import canary
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.settings import load

#: The only address that the browser may reach.
ALLOWED = "127.0.0.2"

Run = Callable[..., Awaitable[Outcome]]


class Site:
    """Pages by their paths; each is HTML, or a coroutine function that answers a request."""

    def __init__(self) -> None:
        self.port = 0
        self.pages: dict[str, Any] = {}
        self.requests: list[web.BaseRequest] = []

    def url(self, path: str = "/", host: str = ALLOWED, scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        page = self.pages.get(request.path)
        if page is None:
            return web.Response(status=404, text="no such page")
        if isinstance(page, str):
            return web.Response(text=f"<!doctype html>{page}", content_type="text/html")
        answered: web.StreamResponse = await page(request)
        return answered


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept."""
    return tmp_path_factory.mktemp("state") / "screenshots"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def equipment(shots: Path) -> AsyncIterator[Equipment]:
    """One browser for a module: it is started once, and each test gets contexts of its own."""
    made = Equipment(
        load(
            {
                "LIGHTHOUSE_EGRESS_ALLOW": f"{ALLOWED}/32",
                "LIGHTHOUSE_SCREENSHOT_DIR": str(shots),
            }
        )
    )
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Site]:
    made = Site()
    server = web.Server(made.answer)
    runner = web.ServerRunner(server, shutdown_timeout=0)
    await runner.setup()
    place = web.TCPSite(runner, ALLOWED, 0)
    await place.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
def run(equipment: Equipment) -> Run:
    """Runs one attempt of a canary with one browser step of these actions."""

    async def attempt(
        *actions: dict[str, Any],
        timeout_s: float = 30.0,
        secrets: dict[str, str] | None = None,
        before: tuple[dict[str, Any], ...] = (),
        after: tuple[dict[str, Any], ...] = (),
        **step: Any,
    ) -> Outcome:
        config = {
            "steps": [
                *before,
                {"name": "page", "action": "browser", "actions": actions, **step},
                *after,
            ],
            "secrets": secrets or {},
        }
        parsed = probes.parse_config(MonitorType.CANARY, config)
        assert isinstance(parsed, canary.CanaryConfig)
        return await canary.probe(equipment, parsed, timeout_s)

    return attempt


class Alarm(asyncio.DatagramProtocol):
    """Hears whatever comes to a port of this machine that must not be reached, over TCP or UDP."""

    def __init__(self) -> None:
        self.port = 0
        self.heard: list[str] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.heard.append(f"UDP {data[:20]!r}")

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(f"TCP on {writer.get_extra_info('sockname')}")
        writer.close()


@pytest_asyncio.fixture(loop_scope="module")
async def alarm() -> AsyncIterator[Alarm]:
    made = Alarm()
    loop = asyncio.get_running_loop()
    first = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    made.port = first.sockets[0].getsockname()[1]
    second = await asyncio.start_server(made.connected, "::1", made.port)
    transports = [
        (await loop.create_datagram_endpoint(lambda: made, local_addr=(host, made.port)))[0]
        for host in ("127.0.0.1", "::1")
    ]
    yield made
    for server in (first, second):
        server.close()
    for transport in transports:
        transport.close()
