"""Doubles of Telegram's Bot API, Slack's incoming webhooks and Twilio's Messages, on loopback, with
their published limits, error bodies and rates; written from their documentation, not our code."""

import base64
import time
from html import unescape
from html.parser import HTMLParser
from typing import Any

from aiohttp import web

from tests.support.services import Server

#: The tags of Telegram's HTML mode; any other refuses the message.
_TELEGRAM_TAGS = frozenset({"b", "i", "u", "s", "code", "pre", "a", "tg-spoiler", "blockquote"})


def units(text: str) -> int:
    """UTF-16 units."""
    return len(text.encode("utf-16-le")) // 2


class Rates:
    """At most `burst` messages a second for each key; how long to stay away, else None."""

    def __init__(self, burst: int = 2) -> None:
        self._burst = burst
        self._taken: dict[str, list[float]] = {}

    def refuse(self, key: str) -> int | None:
        now = time.monotonic()
        taken = [at for at in self._taken.get(key, []) if at > now - 1]
        if len(taken) >= self._burst:
            return 1
        self._taken[key] = [*taken, now]
        return None


class _Entities(HTMLParser):
    """What Telegram's reader shows, and which tags it met."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.shown = ""
        self.tags: list[str] = []
        self.open: list[str] = []
        self.fault: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _TELEGRAM_TAGS:
            self.fault = f'Unsupported start tag "{tag}"'
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.fault = f'Unmatched end tag, found "{tag}"'

    def handle_data(self, data: str) -> None:
        self.shown += data


class Telegram(Server):
    """The Bot API for one bot. `shown` is what people read; `tags` what was marked up.

    `answers` maps a chat to the refusal (status, description, parameters) that it gets, `flood_s`
    refuses everything for so many seconds from the first message on, `page` answers a page of a
    proxy's with that status.
    """

    token = "123456789:AAE-s3cr3t-s3cr3t-s3cr3t-s3cr3t-s"

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.limited = 0
        self.shown: list[str] = []
        self.tags: list[list[str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.answers: dict[str, tuple[int, str, dict[str, Any]]] = {}
        self.flood_s = 0
        self.page: int | None = None
        self._flooded_until: float | None = None
        self._rates = Rates()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        if self.page is not None:
            return web.Response(status=self.page, text="<html>proxy</html>")
        bot, _, method = request.path.strip("/").partition("/")
        if bot != f"bot{self.token}":
            return _telegram(401, "Unauthorized")
        if method != "sendMessage" or request.method != "POST":
            return _telegram(404, "Not Found")
        body = await request.json()
        now = time.monotonic()
        if self.flood_s:
            if self._flooded_until is None:
                self._flooded_until = now + self.flood_s
            if now < self._flooded_until:
                return self._limit(self.flood_s)
        if (seconds := self._rates.refuse(body["chat_id"])) is not None:
            return self._limit(seconds)
        if body["chat_id"] in self.answers:
            status, told, parameters = self.answers[body["chat_id"]]
            return _telegram(status, told, parameters)
        assert body["parse_mode"] == "HTML"
        read = _Entities()
        read.feed(body["text"])
        read.close()
        if read.fault or read.open:
            return _telegram(400, f"Bad Request: can't parse entities: {read.fault or 'open tag'}")
        if not read.shown.strip():
            return _telegram(400, "Bad Request: message text is empty")
        if units(read.shown) > 4096:
            return _telegram(400, "Bad Request: message is too long")
        self.bodies.append(body)
        self.shown.append(read.shown)
        self.tags.append(read.tags)
        return web.json_response({"ok": True, "result": {"message_id": len(self.shown)}})

    def _limit(self, seconds: int) -> web.Response:
        self.limited += 1
        told = f"Too Many Requests: retry after {seconds}"
        return _telegram(429, told, {"retry_after": seconds})


def _telegram(status: int, told: str, parameters: dict[str, Any] | None = None) -> web.Response:
    body: dict[str, Any] = {"ok": False, "error_code": status, "description": told}
    if parameters:
        body["parameters"] = parameters
    return web.json_response(body, status=status)


class Slack(Server):
    """Incoming webhooks. `shown` keeps each message's texts as a reader sees them, `markup` every
    link, mention or command that Slack would have made of one.

    `answers` maps a webhook's last part to a refusal (status, body), `limited_s` refuses the first
    message with a Retry-After of so many seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.limited = 0
        self.limited_s: int | None = None
        self.bodies: list[dict[str, Any]] = []
        self.shown: list[list[str]] = []
        self.markup: list[str] = []
        self.answers: dict[str, tuple[int, str]] = {}
        self._rates = Rates()

    def url(self, hook: str = "s3cr3t") -> str:
        return f"{self.base}/services/T0/B0/{hook}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        hook = request.path.rpartition("/")[2]
        if self.limited_s is not None:
            seconds, self.limited_s = self.limited_s, None
            return self._limit(seconds)
        if (wait_s := self._rates.refuse(hook)) is not None:
            return self._limit(wait_s)
        if hook in self.answers:
            status, told = self.answers[hook]
            return web.Response(status=status, text=told)
        if request.content_type != "application/json":
            return web.Response(status=400, text="invalid_payload")
        body = await request.json()
        fault = slack_fault(body)
        if fault is not None:
            return web.Response(status=400, text=fault)
        texts = [body["text"], *(text["text"] for text in _slack_texts(body))]
        for text in texts:
            if "<" in text:
                self.markup.append(text)
        self.bodies.append(body)
        self.shown.append([unescape(text) for text in texts])
        return web.Response(text="ok")

    def _limit(self, seconds: int) -> web.Response:
        self.limited += 1
        return web.Response(status=429, text="rate_limited", headers={"Retry-After": str(seconds)})


def _slack_texts(body: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for block in body["blocks"]:
        found.extend([block["text"]] if "text" in block else block["elements"])
    return found


def slack_fault(body: dict[str, Any]) -> str | None:
    """Why Slack would answer 400 to a message, or None."""
    if not body.get("text"):
        return "no_text"
    blocks = body.get("blocks", [])
    if not 0 < len(blocks) <= 50:
        return "invalid_blocks"
    limits = {"header": 150, "section": 3000, "context": 3000}
    for block in blocks:
        texts = [block["text"]] if block["type"] in ("header", "section") else block["elements"]
        if not 0 < len(texts) <= 10:
            return "invalid_blocks"
        for text in texts:
            if text["type"] not in ("plain_text", "mrkdwn"):
                return "invalid_blocks"
            if block["type"] == "header" and text["type"] != "plain_text":
                return "invalid_blocks"
            if not 0 < units(text["text"]) <= limits[block["type"]]:
                return "invalid_blocks"
    return None


class Twilio(Server):
    """Messages of one account. `texts` are what was taken, `forms` whole.

    `answers` maps a number to the refusal (status, code) that it gets, `pages` are answered first:
    (status, headers) of bodies that are no JSON.
    """

    sid, token, number = "AC00000000000000000000000000000001", "tw-s3cr3t", "+15005550006"

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.texts: list[str] = []
        self.forms: list[dict[str, str]] = []
        self.answers: dict[str, tuple[int, int]] = {}
        self.pages: list[tuple[int, dict[str, str]]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        form = {key: str(value) for key, value in (await request.post()).items()}
        if self.pages:
            status, headers = self.pages.pop(0)
            return web.Response(status=status, headers=headers, text="<html>gateway</html>")
        login = base64.b64encode(f"{self.sid}:{self.token}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {login}":
            return _twilio(401, 20003)
        if request.path != f"/2010-04-01/Accounts/{self.sid}/Messages.json":
            return _twilio(404, 20404)
        if ("From" in form) == ("MessagingServiceSid" in form):
            return _twilio(400, 21603)
        if form.get("To", "") in self.answers:
            return _twilio(*self.answers[form["To"]])
        if not form.get("Body"):
            return _twilio(400, 21602)
        if len(form["Body"]) > 1600:
            return _twilio(400, 21617)
        if not 1 <= int(form["ValidityPeriod"]) <= 36_000:
            return _twilio(400, 21633)
        self.texts.append(form["Body"])
        self.forms.append(form)
        return web.json_response(
            {"sid": f"SM{len(self.texts):032}", "status": "queued"}, status=201
        )


def _twilio(status: int, code: int) -> web.Response:
    return web.json_response(
        {
            "code": code,
            "message": "told by Twilio",
            "more_info": f"https://www.twilio.com/docs/errors/{code}",
            "status": status,
        },
        status=status,
    )
