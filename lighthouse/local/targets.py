"""The demo's own targets: a small service that is healthy, slow, flapping, failing and hanging.

It also takes the alerts about itself, at /inbox, so that a demo shows the whole way of an alert.
"""

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from lighthouse.errors import LocalError
from lighthouse.local import interfaces, shop, wallet
from lighthouse.model import MonitorType

HOST = "127.0.0.1"
#: Tried first, so that the targets keep their addresses from run to run; then any free port.
HTTP_PORT, HTTPS_PORT = 18080, 18443

#: The flapping target is up for this long, then down for as long, by the wall clock.
FLAP_S = 40
#: What the slow target takes to answer.
SLOW_S = 0.8
#: Longer than any check's timeout.
_HANG_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An alert that reached the inbox, and by which way."""

    at: datetime
    title: str
    severity: str  #: "" where the message does not tell
    how: Literal["webhook", "mail"] = "webhook"
    event_id: str = ""  #: the same however it came; "" where the message does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The running service: where it is and what it has received."""

    http_port: int
    https_port: int
    inbox: deque[Received] = field(default_factory=lambda: deque(maxlen=50))

    @property
    def inbox_url(self) -> str:
        return f"http://{HOST}:{self.http_port}/inbox"

    @property
    def reference_url(self) -> str:
        """What answers for as long as the demo runs: the way to its targets is there."""
        return f"http://{HOST}:{self.http_port}/healthy"

    def subscriptions(self) -> Mapping[str, tuple[MonitorType, dict[str, Any]]]:
        """Monitors of this service, type and configuration, by the subscription's name."""
        http = {name: (MonitorType.HTTP, config) for name, config in self._http().items()}
        plain, secure = f"http://{HOST}:{self.http_port}", f"https://{HOST}:{self.https_port}"
        shopping = {"shopping": (MonitorType.CANARY, shop.canary(plain))}
        return {
            **http,
            **shopping,
            **interfaces.monitors(plain, secure),
            **wallet.monitors(plain),
        }

    def _http(self) -> Mapping[str, dict[str, Any]]:
        plain, secure = f"http://{HOST}:{self.http_port}", f"https://{HOST}:{self.https_port}"
        return {
            "healthy": {"url": f"{plain}/healthy", "body_validation": {"contains": "all is well"}},
            "healthy, HTTPS": {"url": f"{secure}/healthy"},
            "slow": {"url": f"{plain}/slow", "timeout": 3},
            "slow, HTTPS": {"url": f"{secure}/slow", "timeout": 3},
            "too slow": {"url": f"{plain}/slow", "timeout": 3, "max_latency_ms": 300},
            "flapping": {"url": f"{secure}/flapping"},
            "failing": {"url": f"{plain}/failing"},
            "hanging": {"url": f"{plain}/hanging", "timeout": 2},
        }


@contextlib.asynccontextmanager
async def serving(certificate: Path) -> AsyncIterator[Targets]:
    """Serve the targets on the running loop until the block ends. Raises LocalError."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    inbox: deque[Received] = deque(maxlen=50)
    runner = web.AppRunner(_application(inbox), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        yield Targets(
            http_port=await _listen(runner, HTTP_PORT, None),
            https_port=await _listen(runner, HTTPS_PORT, tls),
            inbox=inbox,
        )
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, port: int, tls: ssl.SSLContext | None) -> int:
    for wanted in (port, 0):
        site = web.TCPSite(runner, HOST, wanted, ssl_context=tls)
        try:
            await site.start()
        except OSError as exc:
            if wanted == 0:
                raise LocalError(f"the demo's targets cannot listen: {exc.strerror}") from exc
            continue
        # The site's server is the newest of the runner's addresses.
        return int(runner.addresses[-1][1])
    raise AssertionError("unreachable")


def _application(inbox: deque[Received]) -> web.Application:
    async def healthy(_: web.Request) -> web.Response:
        return web.Response(text="all is well\n")

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(SLOW_S)
        return web.Response(text="at last\n")

    async def flapping(_: web.Request) -> web.Response:
        if int(time.time()) // FLAP_S % 2 == 0:
            return web.Response(text="up\n")
        return web.Response(status=503, text="down for a moment\n")

    async def failing(_: web.Request) -> web.Response:
        return web.Response(status=500, text="nothing works\n")

    async def hanging(_: web.Request) -> web.Response:
        await asyncio.sleep(_HANG_S)
        return web.Response(text="too late\n")

    async def receive(request: web.Request) -> web.Response:
        document = await request.json()
        data = document.get("data", {})
        inbox.append(
            Received(
                at=datetime.now(UTC),
                title=str(data.get("title", "")),
                severity=str(data.get("severity", "")),
                event_id=str(data.get("event_id", "")),
            )
        )
        return web.Response(status=204)

    application = web.Application()
    application.router.add_get("/healthy", healthy)
    application.router.add_get("/slow", slow)
    application.router.add_get("/flapping", flapping)
    application.router.add_get("/failing", failing)
    application.router.add_get("/hanging", hanging)
    application.router.add_post("/inbox", receive)
    shop.add_routes(application)
    interfaces.add_routes(application)
    wallet.add_routes(application)
    return application
