"""Pages that try to reach this machine by every way a browser knows: none arrives.

Each way leads to an alarm on 127.0.0.1 and ::1; only 127.0.0.2 may be connected to.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from lighthouse.model import CheckStatus, Reason
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.resolver import Answer, Resolved
from tests.browser.conftest import ALLOWED, Alarm, Run, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Ways out of a page; PLACE is host:port of an alarm. Each may throw.
WAYS = {
    "image": "new Image().src = 'http://PLACE/image'",
    "image over TLS": "new Image().src = 'https://PLACE/image'",
    "fetch": "fetch('http://PLACE/fetch', {mode: 'no-cors'}).catch(() => 0)",
    "post": "fetch('http://PLACE/post', {method: 'POST', mode: 'no-cors', body: 'x'})"
    ".catch(() => 0)",
    "fetch with keepalive": "fetch('http://PLACE/k', {mode: 'no-cors', keepalive: true})"
    ".catch(() => 0)",
    "xhr": "const x = new XMLHttpRequest(); x.open('GET', 'http://PLACE/xhr'); x.send()",
    "beacon": "navigator.sendBeacon('http://PLACE/beacon', 'x')",
    "websocket": "new WebSocket('ws://PLACE/ws')",
    "websocket over TLS": "new WebSocket('wss://PLACE/ws')",
    "event source": "new EventSource('http://PLACE/events')",
    "iframe": "add('iframe', {src: 'http://PLACE/frame'})",
    "object": "add('object', {data: 'http://PLACE/object'})",
    "video": "add('video', {src: 'http://PLACE/video', preload: 'auto'})",
    "script": "add('script', {src: 'http://PLACE/script'})",
    "module": "import('http://PLACE/module').catch(() => 0)",
    "style": "add('link', {rel: 'stylesheet', href: 'http://PLACE/style'})",
    "preload": "add('link', {rel: 'preload', as: 'image', href: 'http://PLACE/preload'})",
    "prefetch": "add('link', {rel: 'prefetch', href: 'http://PLACE/prefetch'})",
    "preconnect": "add('link', {rel: 'preconnect', href: 'http://PLACE'})",
    "dns prefetch": "add('link', {rel: 'dns-prefetch', href: '//PLACE'})",
    "favicon": "add('link', {rel: 'icon', href: 'http://PLACE/icon'})",
    "manifest": "add('link', {rel: 'manifest', href: 'http://PLACE/manifest'})",
    "speculation": "const s = document.createElement('script'); s.type = 'speculationrules';"
    "s.textContent = JSON.stringify({prerender: [{source: 'list', eagerness: 'immediate',"
    "urls: ['http://PLACE/prerender']}]}); document.head.append(s)",
    "font": "new FontFace('f', 'url(http://PLACE/font)').load().catch(() => 0)",
    "worker": "new Worker(URL.createObjectURL(new Blob([`fetch('http://PLACE/worker')`])))",
    "shared worker": "new SharedWorker(URL.createObjectURL(new Blob([`fetch('http://PLACE/w')`])))",
    "service worker": "navigator.serviceWorker.register('/worker.js').catch(() => 0)",
    "popup": "open('http://PLACE/popup')",
    "form": "const f = add('form', {action: 'http://PLACE/form', method: 'post'});"
    "f.target = '_blank'; f.submit()",
    "ping": "const a = add('a', {ping: 'http://PLACE/ping', href: '#x'}); a.click()",
    "redirect": "fetch('/redirect', {mode: 'no-cors'}).catch(() => 0)",
    "redirected frame": "add('iframe', {src: '/redirect'})",
    "WebTransport": "new WebTransport('https://PLACE/wt').ready.catch(() => 0)",
    "WebRTC": "const c = new RTCPeerConnection({iceServers: [{urls: 'stun:PLACE'},"
    "{urls: 'turn:PLACE?transport=udp', username: 'a', credential: 'b'},"
    "{urls: 'turn:PLACE?transport=tcp', username: 'a', credential: 'b'}]});"
    "c.createDataChannel('x'); c.createOffer().then(o => c.setLocalDescription(o))",
    "WebRTC in a frame": "const w = add('iframe', {srcdoc: 'x'}).contentWindow;"
    "const d = new w.RTCPeerConnection({iceServers: [{urls: 'stun:PLACE'}]});"
    "d.createDataChannel('x'); d.createOffer().then(o => d.setLocalDescription(o))",
    "file": "fetch('file:///etc/hostname').then(() => document.title = 'read').catch(() => 0)",
    "file frame": "add('iframe', {src: 'file:///etc/hostname'})",
}


SPELLINGS = ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "0.0.0.0"]
SPELLINGS += [
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::]",
    "127.0.0.1.",
]


@pytest.fixture
def asked(equipment: Equipment) -> Iterator[list[str]]:
    """Every address that the guard was asked for."""
    heard: list[str] = []
    guard = equipment.guard

    def listening(address: str) -> str | None:
        heard.append(address)
        return guard(address)

    equipment.guard = listening
    yield heard
    equipment.guard = guard


async def settled(heard: list[str], least: int) -> None:
    """Wait until so many connections were refused, and then whether more follows."""
    async with asyncio.timeout(15):
        while len(heard) < least:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)


def page(ways: dict[str, str], place: str) -> str:
    tries = "".join(f"try {{ {way} }} catch (e) {{}}\n" for way in ways.values())
    return (
        "<title>x</title><body><script>const add = (name, attributes) => {"
        "const e = Object.assign(document.createElement(name), attributes);"
        "document.body.append(e); return e};\n"
        + "".join(f"{{ {line} }}\n" for line in tries.replace("PLACE", place).splitlines())
        + "setTimeout(() => { add('p', {textContent: 'tried all'}) }, 1000)</script>"
    )


async def redirect(alarm: Alarm) -> web.Response:
    return web.Response(
        status=302, headers={"Location": f"http://127.0.0.1:{alarm.port}/redirected"}
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_nothing_that_a_page_can_do_reaches_this_machine(
    site: Site, run: Run, alarm: Alarm, asked: list[str], host: str
) -> None:
    async def home(_: web.BaseRequest) -> web.Response:
        policy = {"Content-Type": "text/html"}
        return web.Response(text=page(WAYS, f"{host}:{alarm.port}"), headers=policy)

    async def redirected(_: web.BaseRequest) -> web.Response:
        return await redirect(alarm)

    site.pages["/"] = home
    site.pages["/redirect"] = redirected
    outcome = await run(
        {"do": "open", "url": site.url(), "timeout": 10},
        {"do": "expect_text", "text": "tried all", "timeout": 10},
        {"do": "expect_title", "text": "x"},
    )
    assert outcome.status is CheckStatus.SUCCESS, outcome.message
    await asyncio.sleep(0.3)
    assert alarm.heard == []
    refused = [address for address in asked if address != ALLOWED]
    assert len(refused) >= 15  # the ways were really tried, and it was the guard that said no


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_this_machine_is_opened(
    run: Run, alarm: Alarm, asked: list[str], host: str
) -> None:
    for scheme in ("http", "https"):
        outcome = await run({"do": "open", "url": f"{scheme}://{host}:{alarm.port}/"})
        assert outcome.reason is Reason.FORBIDDEN_ADDRESS, outcome.message
    assert alarm.heard == []
    assert asked
    assert ALLOWED not in asked


async def test_a_redirect_of_the_page_itself_leads_nowhere(
    site: Site, run: Run, alarm: Alarm
) -> None:
    async def redirected(_: web.BaseRequest) -> web.Response:
        return await redirect(alarm)

    async def elsewhere(_: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={"Location": "file:///etc/hostname"})

    site.pages["/"] = redirected
    site.pages["/file"] = elsewhere
    site.pages["/script"] = f"<script>location = 'http://127.0.0.1:{alarm.port}/'</script>"
    outcome = await run({"do": "open", "url": site.url()})
    assert outcome.reason is Reason.FORBIDDEN_ADDRESS, outcome.message
    outcome = await run({"do": "open", "url": site.url("/file")})
    assert outcome.status is CheckStatus.FAILURE, outcome.message
    await run({"do": "open", "url": site.url("/script")}, {"do": "wait_for", "selector": "body"})
    assert alarm.heard == []


class Rebinding:
    """Answers with an allowed address first, and then with this machine's."""

    def __init__(self) -> None:
        self.lookups = 0

    async def lookup(self, host: str, timeout_s: float) -> Answer:
        self.lookups += 1
        address = ALLOWED if self.lookups == 1 else "127.0.0.1"
        return Resolved(addresses=(address,), took_ms=0.0)

    def close(self) -> None:
        """Holds nothing."""


async def test_a_name_that_comes_to_mean_this_machine_is_refused_then(
    site: Site, run: Run, alarm: Alarm, asked: list[str], equipment: Equipment, monkeypatch: Any
) -> None:
    resolver = Rebinding()
    monkeypatch.setattr(equipment, "resolver", resolver)
    site.pages["/"] = f"""<p id=p></p><script>
      fetch("http://rebind.test:{alarm.port}/", {{mode: "no-cors"}})
        .then(() => p.textContent = "reached", () => p.textContent = "refused")
    </script>"""
    outcome = await run(
        {"do": "open", "url": site.url(host="rebind.test")},
        {"do": "expect_text", "text": "refused"},
    )
    assert outcome.status is CheckStatus.SUCCESS, outcome.message
    assert resolver.lookups >= 2
    assert asked[:2] == [ALLOWED, "127.0.0.1"]
    assert alarm.heard == []


async def test_the_browser_does_no_dns_of_its_own(
    site: Site, run: Run, equipment: Equipment, monkeypatch: Any
) -> None:
    """Every name that a page asks for, the proxy looks up; Chromium itself knows none."""
    names: list[str] = []

    class Counting(Rebinding):
        async def lookup(self, host: str, timeout_s: float) -> Answer:
            names.append(host)
            return Resolved(addresses=(ALLOWED,), took_ms=0.0)

    monkeypatch.setattr(equipment, "resolver", Counting())
    site.pages["/"] = f"<img src='http://other.test:{site.port}/x'><p>fine</p>"
    outcome = await run({"do": "open", "url": site.url(host="one.test")})
    assert outcome.status is CheckStatus.SUCCESS, outcome.message
    assert set(names) == {"one.test", "other.test"}
