"""Doubles of notification services on loopback: Discord with its published limits, and a webhook
receiver that verifies signatures with code of its own."""

import asyncio
import base64
import hashlib
import hmac
import ssl
import time
from types import TracebackType
from typing import Any, Self

from aiohttp import web

#: Discord's limits, as its documentation states them.
TITLE, DESCRIPTION, FIELDS, NAME, VALUE, FOOTER, TOTAL = 256, 4096, 25, 256, 1024, 2048, 6000


class Server:
    """An HTTP server on a free port of 127.0.0.1."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.base = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()


class Discord(Server):
    """Incoming webhooks: `per_window` messages per `window_s` each, documented bodies and headers.

    `posted` keeps what was accepted, `refused` counts the answers that lead to a ban, `next`
    holds statuses to answer with before anything else, `down` answers 503 to all.
    """

    def __init__(self, *, per_window: int = 5, window_s: float = 2.0) -> None:
        super().__init__()
        self._per_window = per_window
        self._window_s = window_s
        self._windows: dict[str, tuple[float, int]] = {}
        self.posted: list[dict[str, Any]] = []
        self.deleted: set[str] = set()
        self.next: list[int] = []
        self.down = False
        self.requests = 0
        self.refused = 0
        self.most_at_once = 0
        self._at_once = 0
        self.answer_s = 0.0

    def url(self, webhook: str = "1") -> str:
        return f"{self.base}/api/webhooks/{webhook}/token-{webhook}-secret"

    def titles(self) -> list[str]:
        return [body["embeds"][0]["title"] for body in self.posted]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.answer_s)
            return await self._answer(request)
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            return web.Response(status=503, text="upstream connect error")
        if self.next:
            return web.Response(status=self.next.pop(0), text="<html>not JSON</html>")
        webhook = request.path.split("/")[3]
        if webhook in self.deleted:
            return web.json_response({"message": "Unknown Webhook", "code": 10015}, status=404)
        now = time.monotonic()
        start, used = self._windows.get(webhook, (now, 0))
        if now >= start + self._window_s:
            start, used = now, 0
        left_s = start + self._window_s - now
        limits = {
            "X-RateLimit-Limit": str(self._per_window),
            "X-RateLimit-Remaining": str(max(self._per_window - used - 1, 0)),
            "X-RateLimit-Reset": f"{time.time() + left_s:.3f}",
            "X-RateLimit-Reset-After": f"{left_s:.3f}",
            "X-RateLimit-Bucket": f"bucket-{webhook}",
        }
        if used >= self._per_window:
            self.refused += 1
            return web.json_response(
                {"message": "You are being rate limited.", "retry_after": left_s, "global": False},
                status=429,
                headers={**limits, "Retry-After": f"{left_s:.3f}", "X-RateLimit-Scope": "user"},
            )
        self._windows[webhook] = (start, used + 1)
        if request.method != "POST" or request.content_type != "application/json":
            return web.json_response({"message": "405", "code": 0}, status=405, headers=limits)
        body = await request.json()
        fault = discord_fault(body)
        if fault is not None:
            return web.json_response(
                {"message": fault[1], "code": fault[0]}, status=400, headers=limits
            )
        self.posted.append(body)
        if request.query.get("wait") == "true":
            return web.json_response({"id": str(len(self.posted))}, headers=limits)
        return web.Response(status=204, headers=limits)


def _long(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def discord_fault(body: dict[str, Any]) -> tuple[int, str] | None:
    """Why Discord would answer 400 to a message, or None."""
    embeds = body.get("embeds", [])
    if not body.get("content", "").strip() and not embeds:
        return 50006, "Cannot send an empty message"
    total = 0
    for embed in embeds:
        title, text = embed.get("title", ""), embed.get("description", "")
        fields, footer = embed.get("fields", []), embed.get("footer", {}).get("text", "")
        if not (title.strip() or text.strip() or fields):
            return 50006, "Cannot send an empty message"
        if _long(title) > TITLE or _long(text) > DESCRIPTION or _long(footer) > FOOTER:
            return 50035, "Invalid Form Body"
        if len(fields) > FIELDS or not 0 <= embed.get("color", 0) <= 0xFFFFFF:
            return 50035, "Invalid Form Body"
        for item in fields:
            if not 0 < _long(item["name"].strip()) <= NAME:
                return 50035, "Invalid Form Body"
            if not 0 < _long(item["value"].strip()) <= VALUE or _long(item["value"]) > VALUE:
                return 50035, "Invalid Form Body"
            total += _long(item["name"]) + _long(item["value"])
        total += _long(title) + _long(text) + _long(footer)
    return (50035, "Invalid Form Body") if total > TOTAL or len(embeds) > 10 else None


class Receiver(Server):
    """A webhook receiver: the path says how it answers, `verified` keeps what had a right
    signature for `secret`, `bodies` all that came."""

    def __init__(self, secret: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self._secret = secret
        self.ids: list[str] = []
        self.bodies: list[bytes] = []
        self.verified: list[bool] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: dict[str, list[int]] = {}  #: by path: what to answer first

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.paths.append(request.path)
        self.ids.append(request.headers.get("webhook-id", ""))
        self.bodies.append(body)
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        if self._secret is not None:
            self.verified.append(standard_webhooks_verify(self._secret, request.headers, body))
        planned = self.statuses.get(request.path)
        if planned:
            return web.Response(status=planned.pop(0))
        match request.path.strip("/").split("/"):
            case ["status", status]:
                return web.Response(status=int(status), text="x" * 100_000)
            case ["redirect"]:
                return web.Response(status=307, headers={"Location": f"{self.base}/ok"})
            case ["hang"]:
                await asyncio.sleep(30)
            case ["later", seconds]:
                return web.Response(status=503, headers={"Retry-After": seconds})
            case ["endless", status]:
                response = web.StreamResponse(status=int(status))
                await response.prepare(request)
                while True:
                    await response.write(b"more ")
                    await asyncio.sleep(0.01)
            case ["cut"]:
                assert request.transport is not None
                request.transport.abort()
        return web.Response(status=204)


def standard_webhooks_verify(secret: str, headers: Any, body: bytes) -> bool:
    """The specification's verification: id, timestamp within 5 minutes, one matching signature."""
    key = (
        base64.b64decode(secret.removeprefix("whsec_"))
        if secret.startswith("whsec_")
        else secret.encode()
    )
    try:
        sent = headers["webhook-timestamp"]
        if abs(time.time() - int(sent)) > 300:
            return False
        content = headers["webhook-id"].encode() + b"." + sent.encode() + b"." + body
        expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        given = headers["webhook-signature"].split(" ")
    except (KeyError, ValueError):
        return False
    return any(
        version == "v1" and hmac.compare_digest(signature, expected)
        for version, _, signature in (entry.partition(",") for entry in given)
    )
