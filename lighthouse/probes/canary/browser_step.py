"""A canary's `browser` step: a page is opened and used as a person would, in a real Chromium.

One step has one fresh browser context, with the flow's cookies; all its actions share it.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import structlog

from lighthouse import urls
from lighthouse.model import CheckStatus, Finding, Outcome, Reason
from lighthouse.probes.canary import screenshots
from lighthouse.probes.canary.browser import Chromium, Tab
from lighthouse.probes.canary.browser_actions import (
    Action,
    BrowserStep,
    Click,
    ExpectSelector,
    ExpectText,
    ExpectTitle,
    ExpectUrl,
    Fill,
    Open,
    Press,
    WaitFor,
)
from lighthouse.probes.canary.cookies import MOST_COOKIES, Cookie, Jar
from lighthouse.probes.canary.steps import Flow, StepResult, failed
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.faults import one_line

log = structlog.get_logger(__name__)

#: What of a step's time is kept for the screenshot of a failure: a share, and at most so many
#: seconds.
_SHOT_SHARE, _SHOT_S = 0.2, 2.0
#: Seconds between two looks at what is expected.
_LOOK_S = 0.1
#: A browser that took more than this share of a step's time to get ready, and not the target, is
#: to blame when the rest did not suffice.
_READY_SHARE = 0.25
#: Characters of a text that are looked at.
_MOST_TEXT = 1_000_000


@dataclass(frozen=True, slots=True)
class _Fault:
    reason: Reason
    told: str


async def run_step(
    equipment: Equipment, step: BrowserStep, flow: Flow, timeout_s: float
) -> StepResult:
    """All actions on a fresh page; a screenshot is kept when one of them fails."""
    actions = step.filled(flow)
    begun = time.monotonic()
    chromium = equipment.own(Chromium, Chromium)
    findings: list[Finding] = []
    status: int | None = None
    fault: _Fault | None = None
    async with chromium.flow(
        timeout_s=timeout_s, most_bytes=step.max_bytes, verify_tls=step.verify_tls
    ) as tab:
        await _bring_cookies(tab, flow.jar)
        ready_s = time.monotonic() - begun
        end = begun + timeout_s
        usual_end = end - min(_SHOT_SHARE * timeout_s, _SHOT_S)
        seen = _Seen()
        tab.page.on("requestfailed", seen.failed)
        tab.page.on("response", seen.answered)
        for action in actions:
            name = f"{action.do} {_object(action)}"[:120]
            left_s = usual_end - time.monotonic()
            fault = await _tried(action, tab, seen, min(action.timeout, left_s), left_s)
            status = seen.status
            told = "done" if fault is None else fault.told
            findings.append(Finding(name=name, ok=fault is None, found=told[:200]))
            if fault is not None:
                fault = replace(fault, told=f"{name}: {fault.told}")
                break
        if fault is not None and fault.reason is Reason.TIMEOUT:
            late = time.monotonic() >= usual_end - _LOOK_S
            if late and ready_s > _READY_SHARE * timeout_s:
                told = f"the browser took {ready_s:.1f} s to get ready; {fault.told}"
                fault = _Fault(Reason.PROBER_BROWSER, told)
        if fault is None:
            await _take_cookies(tab, flow.jar)
        if fault is not None and not tab.crashed:
            path = await _screenshot(equipment, tab, end - time.monotonic())
            if path is not None:
                findings.append(Finding(name="screenshot", ok=False, found=path[:200]))
                fault = replace(fault, told=f"{fault.told}; screenshot {path.rpartition('/')[2]}")
    took_ms = (time.monotonic() - begun) * 1000
    if fault is None:
        outcome = Outcome(status=CheckStatus.SUCCESS, latency_ms=took_ms, http_status=status)
    else:
        outcome = replace(failed(fault.reason, fault.told, took_ms), http_status=status)
    return StepResult(outcome=replace(outcome, findings=tuple(findings)))


async def _bring_cookies(tab: Tab, jar: Jar) -> None:
    """Let the browser begin with what earlier steps were given."""
    from playwright.async_api import Error

    for cookie in jar.every():
        given: dict[str, Any] = {
            "name": cookie.name,
            "value": cookie.value,
            "domain": cookie.domain if cookie.host_only else f".{cookie.domain}",
            "path": cookie.path,
            "secure": cookie.secure,
        }
        with suppress(Error):  # one that Chromium would not take from a server either
            await tab.context.add_cookies([given])  # type: ignore[list-item]


async def _take_cookies(tab: Tab, jar: Jar) -> None:
    """Keep for later steps what the pages have set; the browser has judged who may."""
    from playwright.async_api import Error

    try:
        async with asyncio.timeout(_LOOK_S):
            found = await tab.context.cookies()
    except (Error, TimeoutError):
        return
    for each in found[:MOST_COOKIES]:
        domain, expires = each.get("domain", ""), each.get("expires", -1)
        jar.put(
            Cookie(
                name=each.get("name", ""),
                value=each.get("value", ""),
                domain=domain.removeprefix("."),
                path=each.get("path", "/"),
                host_only=not domain.startswith("."),
                secure=bool(each.get("secure")),
                expires_at=None if expires < 0 else time.monotonic() + expires - time.time(),
            )
        )


class _Seen:
    """What the main frame's navigations met."""

    def __init__(self) -> None:
        self.failed_url: str | None = None
        self.status: int | None = None

    def failed(self, request: Any) -> None:
        if request.is_navigation_request() and request.frame.parent_frame is None:
            self.failed_url = request.url

    def answered(self, response: Any) -> None:
        request = response.request
        if request.is_navigation_request() and request.frame.parent_frame is None:
            self.status = response.status


def _object(action: Any) -> str:
    """What an action is about, for people; never a value that is filled in."""
    if isinstance(action, Open):
        return urls.shown(action.url.partition("#")[0])
    parts = [getattr(action, key, None) for key in ("key", "text", "selector")]
    return one_line(" ".join(part for part in parts if part), 100)


async def _tried(
    action: Any, tab: Tab, seen: _Seen, limit_s: float, left_s: float
) -> _Fault | None:
    """One action within its time, and what was wrong."""
    from playwright.async_api import Error
    from playwright.async_api import TimeoutError as PlaywrightTimeout

    if left_s <= 0:
        return _Fault(Reason.TIMEOUT, "the step's time is over")
    own = limit_s < left_s
    try:
        # A page that is busy answers nothing, and not every question has a timeout of its own.
        async with asyncio.timeout(limit_s + _LOOK_S):
            wrong = await _unless_spent(tab, _WORK[type(action)](tab, action, limit_s))
    except (PlaywrightTimeout, TimeoutError):
        if tab.passage.spent.is_set():
            return _spent()
        if tab.crashed:
            return _crashed()
        return _too_late(action, limit_s, own)
    except Error as exc:
        return _explained(exc.message, action, tab, seen)
    if wrong is not None and wrong.reason is Reason.BODY and not own:
        # It might have come in time that the step does not have.
        return replace(wrong, reason=Reason.TIMEOUT)
    return wrong


async def _unless_spent(tab: Tab, work: Coroutine[Any, Any, _Fault | None]) -> _Fault | None:
    """An action's judgement, or that of the bytes when they are over before."""
    task = asyncio.ensure_future(work)
    spent = asyncio.ensure_future(tab.passage.spent.wait())
    try:
        await asyncio.wait({task, spent}, return_when=asyncio.FIRST_COMPLETED)
        return _spent() if spent.done() else task.result()
    finally:
        task.cancel()
        spent.cancel()
        await asyncio.gather(task, spent, return_exceptions=True)


def _spent() -> _Fault:
    return _Fault(Reason.BODY_TOO_LARGE, "the page moved more than max_bytes")


def _crashed() -> _Fault:
    return _Fault(Reason.PROBER_BROWSER, "the page's process ended")


def _too_late(action: Any, limit_s: float, own: bool) -> _Fault:
    if isinstance(action, Open):
        return _Fault(Reason.TIMEOUT, f"not loaded within {limit_s:.3g} s")
    told = f"not possible within {limit_s:.3g} s"
    return _Fault(Reason.BODY if own else Reason.TIMEOUT, told)


#: What Chromium says of a navigation that failed, by the beginning of its code.
_NET: tuple[tuple[str, Reason, str], ...] = (
    ("ERR_CERT_DATE_INVALID", Reason.TLS_EXPIRED, "the certificate is expired or not valid yet"),
    ("ERR_CERT_COMMON_NAME", Reason.TLS_WRONG_HOST, "the certificate is for another host"),
    ("ERR_CERT_", Reason.TLS_UNTRUSTED, "the certificate is not trusted"),
    ("ERR_SSL_", Reason.TLS_HANDSHAKE, "the TLS handshake failed"),
    ("ERR_TOO_MANY_REDIRECTS", Reason.TOO_MANY_REDIRECTS, "redirected too often"),
    ("ERR_EMPTY_RESPONSE", Reason.CONNECTION_RESET, "the connection closed without an answer"),
    ("ERR_CONNECTION_", Reason.CONNECTION_RESET, "the connection broke"),
    ("ERR_TUNNEL_", Reason.CONNECTION_RESET, "the connection broke"),
    ("ERR_TIMED_OUT", Reason.TIMEOUT, "timed out"),
    ("ERR_PROXY_", Reason.PROBER_BROWSER, "the browser does not reach its proxy"),
    ("ERR_INSUFFICIENT_RESOURCES", Reason.PROBER_MEMORY, "the browser has no memory left"),
)


def _explained(message: str, action: Any, tab: Tab, seen: _Seen) -> _Fault:
    """Whose fault it is that an action failed."""
    browser = tab.context.browser
    if tab.passage.spent.is_set():
        return _spent()
    if tab.crashed or "Target crashed" in message:
        return _crashed()
    if browser is None or not browser.is_connected():
        return _Fault(Reason.PROBER_BROWSER, "the browser ended while it was used")
    if "has been closed" in message:
        return _Fault(Reason.PROTOCOL_ERROR, "the page closed itself")
    _, found, code = message.partition("net::")
    if found:
        code = code.split()[0] if code.split() else ""
        for url in (seen.failed_url, getattr(action, "url", None)):
            known = None if url is None else tab.passage.faults.get(_host_port(url))
            if known is not None and not code.startswith(("ERR_CERT_", "ERR_SSL_")):
                return _Fault(*known)
        for beginning, reason, told in _NET:
            if code.startswith(beginning):
                return _Fault(reason, told)
        return _Fault(Reason.PROTOCOL_ERROR, f"the browser says {one_line(code, 60)}")
    if isinstance(action, Open):
        return _Fault(Reason.PROTOCOL_ERROR, one_line(message.partition("\n")[0]))
    return _Fault(Reason.BODY, one_line(message.partition("\n")[0]))


def _host_port(url: str) -> tuple[str, int]:
    split = urlsplit(url)
    try:
        host = urls.normalize_host(split.hostname or "")
        return host, split.port or (443 if split.scheme in ("https", "wss") else 80)
    except ValueError:
        return "", 0


async def _screenshot(equipment: Equipment, tab: Tab, left_s: float) -> str | None:
    """Where the picture of the page is kept; None where there is none."""
    from playwright.async_api import Error

    try:
        async with asyncio.timeout(left_s):
            image = await tab.page.screenshot(type="jpeg", quality=60, timeout=left_s * 1000)
            return str(await asyncio.to_thread(screenshots.save, equipment.settings, image))
    except (Error, TimeoutError):
        return None  # a page that is busy cannot be painted
    except OSError as exc:
        log.warning("a screenshot cannot be kept", why=str(exc))
        return None


async def _open(tab: Tab, action: Open, limit_s: float) -> _Fault | None:
    response = await tab.page.goto(action.url, timeout=limit_s * 1000)
    if response is not None and response.status >= 400:
        return _Fault(Reason.STATUS_CODE, f"status {response.status}")
    return None


async def _click(tab: Tab, action: Click, limit_s: float) -> None:
    await tab.page.locator(action.selector).first.click(timeout=limit_s * 1000)


async def _fill(tab: Tab, action: Fill, limit_s: float) -> None:
    await tab.page.locator(action.selector).first.fill(action.value, timeout=limit_s * 1000)


async def _press(tab: Tab, action: Press, limit_s: float) -> None:
    if action.selector is None:
        await tab.page.keyboard.press(action.key)
    else:
        await tab.page.locator(action.selector).first.press(action.key, timeout=limit_s * 1000)


async def _wait_for(tab: Tab, action: WaitFor, limit_s: float) -> None:
    await tab.page.locator(action.selector).first.wait_for(
        state=action.state, timeout=limit_s * 1000
    )


async def _expect_selector(tab: Tab, action: ExpectSelector, limit_s: float) -> None:
    await tab.page.locator(action.selector).first.wait_for(state="visible", timeout=limit_s * 1000)


async def _expect_text(tab: Tab, action: ExpectText, limit_s: float) -> _Fault | None:
    async def shown() -> str:
        element = tab.page.locator(action.selector).first
        return await element.inner_text(timeout=limit_s * 1000)

    return await _looked(shown, action.text, limit_s)


async def _expect_url(tab: Tab, action: ExpectUrl, limit_s: float) -> _Fault | None:
    async def address() -> str:
        return str(tab.page.url)

    return await _looked(address, action.text, limit_s)


async def _expect_title(tab: Tab, action: ExpectTitle, limit_s: float) -> _Fault | None:
    return await _looked(tab.page.title, action.text, limit_s)


async def _looked(
    look: Callable[[], Coroutine[Any, Any, str]], text: str, limit_s: float
) -> _Fault | None:
    """Look again and again until the text is there."""
    end = time.monotonic() + limit_s
    while True:
        found = (await look())[:_MOST_TEXT]
        if text in found:
            return None
        if time.monotonic() + _LOOK_S >= end:
            return _Fault(Reason.BODY, f"found {one_line(found, 120)!r}")
        await asyncio.sleep(_LOOK_S)


_WORK: Mapping[type[Action], Callable[[Tab, Any, float], Coroutine[Any, Any, _Fault | None]]] = {
    Open: _open,
    Click: _click,
    Fill: _fill,
    Press: _press,
    WaitFor: _wait_for,
    ExpectText: _expect_text,
    ExpectSelector: _expect_selector,
    ExpectUrl: _expect_url,
    ExpectTitle: _expect_title,
}
