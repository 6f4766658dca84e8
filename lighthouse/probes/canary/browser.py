"""The one Chromium of a worker: started at the first need, started anew when it has died.

Each flow gets a context of its own (cookies, cache, storage) and its own passage through the
forward proxy, which is the browser's only way to the net. The browser belongs to the prober: its
absence, its death and its lack of room are the prober's faults.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from lighthouse.model import Reason
from lighthouse.probes.canary.forward_proxy import ForwardProxy, Passage
from lighthouse.probes.canary.steps import StepFault
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.settings import Settings

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, Page, Playwright

log = structlog.get_logger(__name__)

#: Executables that serve, in this order, unless LIGHTHOUSE_CHROMIUM names one.
EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

#: Seconds in which Chromium must have started.
LAUNCH_S = 30.0
#: Seconds in which a context must be gone after its flow; a browser that needs more is killed.
DISCARD_S = 5.0
#: Pages of one flow, popups included; what more it opens is closed.
MOST_PAGES = 5
#: Chromium is started anew, between flows, after so many: what it leaks goes then.
MOST_FLOWS = 500
#: JavaScript's memory in one process of Chromium, in MiB. Best effort: a page has more than that.
HEAP_MIB = 512

#: A name for the proxy that only this Chromium knows: every other name, and every address, it
#: fails to resolve, should it ever try to go past the proxy.
_PROXY_NAME = "lighthouse-proxy.invalid"

_SWITCHES = (
    "--disable-quic",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    f"--host-resolver-rules=MAP {_PROXY_NAME} 127.0.0.1,MAP * ~NOTFOUND",
    "--dns-prefetch-disable",
    "--disable-gpu",
    "--disable-notifications",
    f"--js-flags=--max-old-space-size={HEAP_MIB}",
)

#: WebRTC is off altogether: what remains of it behind a proxy checks nothing for anybody.
_NO_WEBRTC = """
for (const name of ["RTCPeerConnection", "webkitRTCPeerConnection", "RTCDataChannel"]) {
  delete globalThis[name];
}
"""


@dataclass(slots=True, eq=False, kw_only=True)
class Tab:
    """What one flow works with."""

    context: "BrowserContext"
    page: "Page"
    passage: Passage
    crashed: bool = False  #: the page's process has died


class Chromium:
    """Owned by the equipment; everything belongs to its loop."""

    def __init__(self, equipment: Equipment) -> None:
        self._settings = equipment.settings
        self._proxy = ForwardProxy(equipment)
        self._starting: asyncio.Task[Browser] | None = None
        self._room = asyncio.Semaphore(self._settings.browser_flows)
        self._driver: Playwright | None = None
        self._browser: Browser | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._flows = 0  #: that the browser has served
        self._open = 0  #: that it is serving
        self._background: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def flow(
        self, *, timeout_s: float, most_bytes: int, verify_tls: bool
    ) -> AsyncIterator[Tab]:
        """A fresh page. Raises StepFault, the prober's, without a browser or room for the flow.

        It is cleared away in the background, so that a page which hangs delays nobody.
        """
        passage = self._proxy.open(timeout_s, most_bytes)
        opened: list[BrowserContext] = []
        admitted = False
        try:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._room.acquire()
                    admitted = True
                    self._open += 1
                    with browser_faults():
                        tab = await self._tab(passage, verify_tls, opened)
            except TimeoutError:
                told = "was not ready" if admitted else "had no room"
                raise StepFault(
                    Reason.PROBER_BROWSER, f"the browser {told} within {timeout_s:.3g} s"
                ) from None
            yield tab
        finally:
            self._proxy.shut(passage)
            if admitted:
                self._later(self._discard(opened))

    async def _tab(self, passage: Passage, verify_tls: bool, opened: "list[BrowserContext]") -> Tab:
        browser = await self._running()
        context = await browser.new_context(
            proxy={
                "server": f"http://{_PROXY_NAME}:{self._proxy.port}",
                "bypass": "<-loopback>",
                "username": ForwardProxy.USERNAME,
                "password": passage.password,
            },
            accept_downloads=False,
            service_workers="block",
            ignore_https_errors=not verify_tls,
        )
        opened.append(context)
        await context.add_init_script(_NO_WEBRTC)
        tab = Tab(context=context, page=await context.new_page(), passage=passage)
        context.on("page", lambda popup: self._count_pages(tab, popup))
        tab.page.on("crash", lambda _: setattr(tab, "crashed", True))
        return tab

    def _count_pages(self, tab: Tab, popup: "Page") -> None:
        if len(tab.context.pages) > MOST_PAGES:
            self._later(_quietly(popup.close()))

    async def _discard(self, opened: "list[BrowserContext]") -> None:
        try:
            for context in opened:
                try:
                    async with asyncio.timeout(DISCARD_S):
                        await _quietly(context.close())
                except TimeoutError:
                    if context.browser is self._browser:
                        log.warning("a page does not end; the browser is started anew")
                        await self._stop()
        finally:
            self._open -= 1
            self._room.release()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _running(self) -> "Browser":
        """The browser; a start goes on for the next flow when this one's time is over."""
        worn = self._flows >= MOST_FLOWS and self._open == 1
        if self._browser is not None and self._browser.is_connected() and not worn:
            self._flows += 1
            return self._browser
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._starting)

    async def _start(self) -> "Browser":
        await self._stop()
        try:
            from playwright.async_api import Error, async_playwright
        except ImportError:
            raise StepFault(
                Reason.PROBER_BROWSER, "playwright is missing: install lighthouse-monitor[browser]"
            ) from None
        executable = find_executable(self._settings)
        if self._proxy.port == 0:
            await self._proxy.start()
        self._home = tempfile.TemporaryDirectory(prefix="lighthouse-browser-")
        self._flows = 0
        try:
            async with asyncio.timeout(LAUNCH_S):
                self._driver = await async_playwright().start()
                self._browser = await self._driver.chromium.launch(
                    executable_path=executable,
                    args=list(_SWITCHES),
                    chromium_sandbox=sandboxed(self._settings),
                    proxy={
                        "server": f"http://{_PROXY_NAME}:{self._proxy.port}",
                        "bypass": "<-loopback>",
                    },
                    # Of the worker's environment it gets nothing: that holds the fleet's secrets.
                    env={
                        "PATH": os.defpath,
                        "HOME": self._home.name,
                        "XDG_CONFIG_HOME": self._home.name,
                        "XDG_CACHE_HOME": self._home.name,
                        "LANG": "C.UTF-8",
                    },
                    handle_sigint=False,
                    handle_sigterm=False,
                    handle_sighup=False,
                )
        except (Error, OSError, TimeoutError) as exc:
            await self._stop()
            log.error("the browser does not start", executable=str(executable), why=str(exc)[:2000])
            raise StepFault(
                Reason.PROBER_BROWSER, "the browser does not start; the worker's log has the reason"
            ) from None
        log.info("browser started", version=self._browser.version)
        return self._browser

    async def _stop(self) -> None:
        """End the browser, its driver and its home, whatever state they are in."""
        browser, driver, home = self._browser, self._driver, self._home
        self._browser = self._driver = self._home = None
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                if browser is not None:
                    await _quietly(browser.close())
        # The driver's end is the end of a browser that did not close.
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                if driver is not None:
                    await _quietly(driver.stop())
        if home is not None:
            with suppress(OSError):
                await asyncio.to_thread(home.cleanup)

    async def close(self) -> None:
        """End all flows and the browser."""
        await self._proxy.close()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self._stop()
        for task in self._background:
            task.cancel()


def find_executable(settings: Settings) -> Path:
    """The Chromium to start. Raises StepFault where there is none."""
    if settings.chromium is not None:
        if os.access(settings.chromium, os.X_OK):
            return settings.chromium
        raise StepFault(
            Reason.PROBER_BROWSER, f"LIGHTHOUSE_CHROMIUM: {settings.chromium} is no executable"
        )
    for name in EXECUTABLES:
        found = shutil.which(name)
        if found:
            return Path(found)
    raise StepFault(
        Reason.PROBER_BROWSER, "Chromium is missing: install chromium or set LIGHTHOUSE_CHROMIUM"
    )


def sandboxed(settings: Settings) -> bool:
    """Whether Chromium confines its pages' processes; as root it cannot."""
    return settings.browser_sandbox == "on" and os.geteuid() != 0


@contextmanager
def browser_faults() -> Iterator[None]:
    """Turn what Playwright raises for a browser that dies into the prober's fault."""
    from playwright.async_api import Error

    try:
        yield
    except (Error, OSError) as exc:
        log.warning("the browser failed", why=str(exc)[:500])
        raise StepFault(Reason.PROBER_BROWSER, "the browser ended while it was used") from None


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    """Ending what is gone already is no fault."""
    from playwright.async_api import Error

    with suppress(Error, OSError):
        await work
