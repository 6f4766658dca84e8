"""The `browser` step in a real Chromium: what it can be asked, and what it says of a page."""

import asyncio
import signal
import ssl
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from lighthouse.model import CheckStatus, Reason
from lighthouse.probes.canary import browser
from lighthouse.probes.canary.browser import Chromium
from lighthouse.probes.wire.equipment import Equipment
from tests.browser.conftest import ALLOWED, Run, Site
from tests.support.certificates import Authority

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORM = """<title>Sign in</title>
<form><input id=user><input id=word type=password><button>Go</button></form><p id=out></p>
<script>
document.forms[0].onsubmit = event => {
  event.preventDefault();
  setTimeout(() => {
    out.textContent = `Hello ${user.value}`;
    document.title = "Home of " + word.value.length;
    history.pushState({}, "", "/home");
  }, 200);
}
</script>"""


def opened(site: Site, path: str = "/") -> dict[str, Any]:
    return {"do": "open", "url": site.url(path)}


async def test_a_form_is_filled_in_and_what_comes_of_it_is_expected(site: Site, run: Run) -> None:
    site.pages["/"] = FORM
    outcome = await run(
        opened(site),
        {"do": "fill", "selector": "#user", "value": "Ada"},
        {"do": "fill", "selector": "#word", "value": "${WORD}"},
        {"do": "click", "selector": "text=Go"},
        {"do": "wait_for", "selector": "#out:has-text('Hello')"},
        {"do": "expect_selector", "selector": "p#out"},
        {"do": "expect_text", "text": "Hello Ada"},
        {"do": "expect_title", "text": "Home of 9"},
        {"do": "expect_url", "text": "/home"},
        secrets={"WORD": "kl3op4tra"},
    )
    assert outcome.status is CheckStatus.SUCCESS, outcome.message
    assert outcome.http_status == 200
    (step,) = outcome.steps
    assert [finding.ok for finding in step.findings] == [True] * 9
    assert "kl3op4tra" not in str(outcome)


def pictures(shots: Path) -> set[Path]:
    return set(shots.glob("*"))


def looks(picture: Path) -> tuple[bytes, int, int]:
    """Its first bytes, its mode and its directory's."""
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (picture, picture.parent)]
    return picture.read_bytes()[:3], modes[0], modes[1]


@pytest.mark.parametrize(
    ("action", "found"),
    [
        ({"do": "expect_text", "text": "Welcome", "timeout": 2}, "found 'Go'"),
        ({"do": "expect_title", "text": "Home", "timeout": 2}, "found 'Sign in'"),
        ({"do": "expect_url", "text": "/home", "timeout": 2}, "found 'http://127.0.0.2:"),
        ({"do": "expect_selector", "selector": "#none", "timeout": 0.3}, "within 0.3 s"),
        ({"do": "wait_for", "selector": "#none", "timeout": 0.3}, "within 0.3 s"),
        ({"do": "click", "selector": "#none", "timeout": 0.3}, "within 0.3 s"),
        ({"do": "fill", "selector": "#none", "value": "x", "timeout": 0.3}, "within 0.3 s"),
        ({"do": "press", "key": "NoSuchKey"}, "Unknown key"),
    ],
    ids=lambda value: value["do"] if isinstance(value, dict) else "",
)
async def test_what_a_page_does_not_have_is_its_failure_with_a_screenshot(
    site: Site, run: Run, shots: Path, action: dict[str, Any], found: str
) -> None:
    site.pages["/"] = FORM
    before = pictures(shots)
    outcome = await run(opened(site), action)
    assert (outcome.status, outcome.reason) == (CheckStatus.FAILURE, Reason.BODY)
    assert outcome.message is not None
    assert found in outcome.message
    (picture,) = pictures(shots) - before
    assert picture.name in outcome.message
    assert outcome.steps[0].findings[-1].found == str(picture)
    assert looks(picture) == (b"\xff\xd8\xff", 0o600, 0o700)


async def test_success_leaves_no_screenshot(site: Site, run: Run, shots: Path) -> None:
    site.pages["/"] = "fine"
    before = pictures(shots)
    assert (await run(opened(site))).status is CheckStatus.SUCCESS
    assert pictures(shots) == before


async def test_each_flow_has_a_browser_without_a_past(site: Site, run: Run) -> None:
    site.pages["/"] = """<p id=p></p><script>
    p.textContent = `seen ${document.cookie} ${localStorage.seen}`;
    document.cookie = "seen=yes"; localStorage.seen = "yes";
    </script>"""
    for _ in range(2):
        outcome = await run(opened(site), {"do": "expect_text", "text": "seen undefined"})
        assert outcome.status is CheckStatus.SUCCESS, outcome.message


async def test_the_steps_of_a_flow_share_their_cookies_with_its_browser(
    site: Site, run: Run
) -> None:
    async def login(_: web.BaseRequest) -> web.Response:
        return web.Response(text="in", headers={"Set-Cookie": "session=s1; Path=/; HttpOnly"})

    async def page(request: web.BaseRequest) -> web.Response:
        text = (
            f"<p>with {request.headers.get('Cookie')}</p><script>document.cookie='own=2'</script>"
        )
        return web.Response(text=text, content_type="text/html")

    async def after(request: web.BaseRequest) -> web.Response:
        return web.Response(text="then " + request.headers.get("Cookie", ""))

    site.pages.update({"/login": login, "/": page, "/after": after})
    outcome = await run(
        opened(site),
        {"do": "expect_text", "text": "with session=s1"},
        before=({"name": "login", "action": "GET", "url": site.url("/login")},),
        after=(
            {
                "name": "after",
                "action": "GET",
                "url": site.url("/after"),
                "expect": {"body": {"regex": "session=s1.*own=2|own=2.*session=s1"}},
            },
        ),
    )
    assert outcome.status is CheckStatus.SUCCESS, outcome.message


async def test_the_answers_status_is_judged(site: Site, run: Run) -> None:
    outcome = await run(opened(site, "/none"))
    assert (outcome.reason, outcome.http_status) == (Reason.STATUS_CODE, 404)


@pytest.mark.option("Press.selector")
async def test_a_key_goes_to_the_element_that_is_named(site: Site, run: Run) -> None:
    site.pages["/"] = "<input id=a autofocus><input id=b><p id=p></p><script>" + (
        "b.onkeydown = event => p.textContent = `b got ${event.key}`</script>"
    )
    outcome = await run(
        opened(site),
        {"do": "press", "key": "Enter", "selector": "#b"},
        {"do": "expect_text", "text": "b got Enter", "timeout": 0.5},
    )
    assert outcome.status is CheckStatus.SUCCESS, outcome.message


@pytest.mark.option("WaitFor.state")
async def test_an_element_can_be_waited_for_to_vanish(site: Site, run: Run) -> None:
    site.pages["/"] = "<p id=p>busy</p><script>setTimeout(() => p.outerHTML = 'x', 1500)</script>"
    outcome = await run(
        opened(site),
        {"do": "wait_for", "selector": "#p", "state": "detached"},
        {"do": "expect_text", "text": "x", "timeout": 0.3},
    )
    assert outcome.status is CheckStatus.SUCCESS, outcome.message


@pytest.mark.option("ExpectText.selector")
async def test_a_text_elsewhere_on_the_page_does_not_count(site: Site, run: Run) -> None:
    site.pages["/"] = "<h1>Title</h1><p>Text</p>"
    outcome = await run(
        opened(site), {"do": "expect_text", "text": "Text", "selector": "h1", "timeout": 0.3}
    )
    assert outcome.reason is Reason.BODY


@pytest.mark.option("Action.timeout")
async def test_an_action_waits_no_longer_than_it_may(site: Site, run: Run) -> None:
    site.pages["/"] = "<p id=p></p><script>setTimeout(() => p.textContent = 'late', 1500)</script>"
    outcome = await run(opened(site), {"do": "expect_text", "text": "late", "timeout": 0.3})
    assert (outcome.status, outcome.reason) == (CheckStatus.FAILURE, Reason.BODY)


@pytest.mark.option("Open.timeout")
async def test_a_page_that_does_not_load_in_time_is_a_timeout(site: Site, run: Run) -> None:
    async def slow(_: web.BaseRequest) -> web.Response:
        await asyncio.sleep(1.5)
        return web.Response(text="late")

    site.pages["/"] = slow
    outcome = await run({**opened(site), "timeout": 0.5})
    assert (outcome.status, outcome.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)
    assert "0.5 s" in str(outcome.message)


@pytest.mark.option("BrowserStep.max_bytes")
async def test_a_page_moves_no_more_than_it_may(site: Site, run: Run) -> None:
    site.pages["/big"] = lambda _: answered(web.Response(body=b"x" * 400_000))
    site.pages["/"] = "<p id=p>small</p><script>fetch('/big').then(() => 0)</script>"
    outcome = await run(
        opened(site), {"do": "expect_text", "text": "never", "timeout": 1.0}, max_bytes=200_000
    )
    assert outcome.reason is Reason.BODY_TOO_LARGE


async def answered(response: web.Response) -> web.Response:
    return response


async def test_an_endless_page_is_cut_off_and_a_download_is_refused(site: Site, run: Run) -> None:
    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/html"})
        if request.path == "/file":
            response.headers["Content-Disposition"] = "attachment; filename=x.bin"
        await response.prepare(request)
        while True:
            await response.write(b"<p>x</p>" * 8192)

    site.pages["/"] = site.pages["/file"] = endless
    outcome = await run(opened(site), max_bytes=500_000)
    assert outcome.reason is Reason.BODY_TOO_LARGE
    outcome = await run(opened(site, "/file"))
    assert (outcome.reason, "ownload" in str(outcome.message)) == (Reason.PROTOCOL_ERROR, True)


async def test_a_page_that_hangs_ends_at_its_deadline_and_delays_nobody(
    site: Site, run: Run
) -> None:
    site.pages["/hang"] = "<p>x</p><script>setTimeout(() => { while (true) {} }, 50)</script>"
    site.pages["/"] = "<p>fine</p>"
    begun = time.monotonic()
    hanging = asyncio.create_task(
        run(opened(site, "/hang"), {"do": "expect_text", "text": "never"}, timeout_s=3.0)
    )
    for _ in range(3):
        fine = await run(opened(site), {"do": "expect_text", "text": "fine"})
        assert fine.status is CheckStatus.SUCCESS, fine.message
    outcome = await hanging
    assert (outcome.status, outcome.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)
    assert time.monotonic() - begun < 20


async def test_dialogs_hold_nothing_up(site: Site, run: Run) -> None:
    site.pages["/"] = """<button onclick="
      alert('a'); p.textContent = `${confirm('b')} ${prompt('c')}`">Go</button><p id=p></p>
    <script>
      alert("at once"); onbeforeunload = event => { event.preventDefault(); return "stay"; }
    </script>"""
    site.pages["/next"] = "<p>left</p>"
    outcome = await run(
        opened(site),
        {"do": "click", "selector": "button"},
        {"do": "expect_text", "text": "false null"},
        opened(site, "/next"),
        {"do": "expect_text", "text": "left"},
    )
    assert outcome.status is CheckStatus.SUCCESS, outcome.message


async def test_popups_are_few(site: Site, run: Run, equipment: Equipment) -> None:
    site.pages["/pop"] = "popup"
    site.pages["/"] = """<p id=p></p><script>
      for (let n = 0; n < 30; n++) open("/pop?" + n);
      setTimeout(() => p.textContent = "done", 1500);
    </script>"""
    task = asyncio.create_task(run(opened(site), {"do": "expect_text", "text": "done"}))
    chromium = equipment.own(Chromium, Chromium)
    counts: list[int] = []
    while not task.done():
        await asyncio.sleep(0.05)
        running = chromium._browser
        assert running is not None
        counts += [len(context.pages) for context in running.contexts]
    assert task.result().status is CheckStatus.SUCCESS, task.result().message
    assert min(counts[-3:]) <= browser.MOST_PAGES


def processes(kind: str) -> Iterator[psutil.Process]:
    """Chromium's processes below this one: "" for the browser itself, or "renderer"."""
    for process in psutil.Process().children(recursive=True):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        types = [part.partition("=")[2] for part in line if part.startswith("--type=")]
        if "chrom" in " ".join(line[:1]) and (types or [""])[0] == kind:
            yield process


@pytest.mark.parametrize("kind", ["", "renderer"], ids=["browser", "page"])
async def test_a_chromium_that_dies_is_the_probers_fault_and_the_next_flow_has_another(
    site: Site, run: Run, kind: str
) -> None:
    site.pages["/"] = "<p>fine</p>"
    task = asyncio.create_task(
        run(opened(site), {"do": "expect_text", "text": "never", "timeout": 20})
    )
    while not site.requests:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    victims = list(processes(kind))
    assert victims
    for process in victims:
        process.send_signal(signal.SIGKILL)
    outcome = await asyncio.wait_for(task, 15)
    assert (outcome.status, outcome.reason) == (CheckStatus.ERROR, Reason.PROBER_BROWSER)
    fine = await run(opened(site), {"do": "expect_text", "text": "fine"})
    assert fine.status is CheckStatus.SUCCESS, fine.message


async def test_more_flows_than_there_is_room_for_wait_their_turn(
    site: Site, run: Run, equipment: Equipment
) -> None:
    site.pages["/"] = "<p>fine</p>"
    room = equipment.settings.browser_flows
    outcomes = await asyncio.gather(
        *(run(opened(site), {"do": "expect_text", "text": "fine"}) for _ in range(room + 2))
    )
    assert [outcome.status for outcome in outcomes] == [CheckStatus.SUCCESS] * (room + 2)


async def test_chromium_gets_nothing_of_the_workers_environment(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch, equipment: Equipment
) -> None:
    site.pages["/"] = "<p>fine</p>"
    chromium = equipment.own(Chromium, Chromium)
    await chromium._stop()
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret@127.0.0.1/none")
    await run(opened(site))
    (process,) = processes("")
    assert "secret" not in str(process.environ())


async def test_a_worker_without_chromium_says_so(equipment: Equipment, site: Site) -> None:
    from lighthouse.probes.canary import canary
    from lighthouse.settings import load

    bare = Equipment(load({"LIGHTHOUSE_CHROMIUM": "/nonexistent"}))
    step = {"name": "page", "action": "browser", "actions": [opened(site)]}
    config = canary.CanaryConfig.model_validate({"steps": [step]})
    outcome = await canary.probe(bare, config, 5)
    await bare.close()
    assert (outcome.status, outcome.reason) == (CheckStatus.ERROR, Reason.PROBER_BROWSER)
    assert "LIGHTHOUSE_CHROMIUM" in str(outcome.message)


@pytest.mark.option("BrowserStep.verify_tls")
async def test_a_certificate_that_proves_nothing_is_refused_unless_it_is_wanted(
    run: Run, tmp_path: Path
) -> None:
    async def fine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine")
            await writer.drain()
        writer.close()

    certificate = Authority(tmp_path).issue(ALLOWED)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    server = await asyncio.start_server(fine, ALLOWED, 0, ssl=context)
    page = {"do": "open", "url": f"https://{ALLOWED}:{server.sockets[0].getsockname()[1]}/"}
    outcome = await run(page)
    assert (outcome.status, outcome.reason) == (CheckStatus.FAILURE, Reason.TLS_UNTRUSTED)
    outcome = await run(page, verify_tls=False)
    server.close()
    assert outcome.status is CheckStatus.SUCCESS, outcome.message
