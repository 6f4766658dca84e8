"""A service with a login, sessions, orders and paid content: what a canary walks through."""

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

HOST = "127.0.0.1"
PASSWORD = "correct horse battery"
TOKEN = "tok-51f0c2"

#: What paid content costs; `asset` is a token contract's address.
PRICE = {
    "scheme": "exact",
    "network": "base-sepolia",
    "maxAmountRequired": "10000",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
}


class Shop:
    """The running service: where it is, what it was asked and what it holds."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[tuple[str, str, dict[str, str], str]] = []  #: method, path, headers, body
        self.orders: dict[str, Any] = {}
        self.failures_left = 0  #: of /flaky
        self.price: dict[str, Any] = dict(PRICE)
        self.payments: list[dict[str, Any]] = []

    def url(self, path: str = "") -> str:
        return f"http://{HOST}:{self.port}{path}"

    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.asked]

    async def login(self, request: web.Request) -> web.Response:
        given = await request.json()
        if given.get("password") != PASSWORD:
            return web.json_response({"error": f"no such password: {given}"}, status=401)
        answer = web.json_response({"token": TOKEN, "user": {"id": 7, "admin": False}})
        answer.set_cookie("sid", "session-9931", path="/orders", httponly=True)
        return answer

    async def order(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=403, text="no token")
        if request.cookies.get("sid") != "session-9931":
            return web.Response(status=403, text="no session")
        number = f"o/{len(self.orders) + 1}"
        self.orders[number] = await request.json()
        return web.json_response(
            {"id": number}, status=201, headers={"Location": f"/orders/{number}", "X-Left": "3"}
        )

    async def show(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        if number not in self.orders:
            return web.Response(status=404, text="no such order")
        return web.json_response({"id": number, "state": "open", **self.orders[number]})

    async def cancel(self, request: web.Request) -> web.Response:
        return web.Response(status=204 if self.orders.pop(request.match_info["number"], 0) else 404)

    async def flaky(self, request: web.Request) -> web.Response:
        self.failures_left -= 1
        return web.Response(status=503 if self.failures_left >= 0 else 200, text="flaky")

    async def echo(self, request: web.Request) -> web.Response:
        """Say back all that was sent, in the ways that a server might."""
        key = request.headers.get("X-Key", "")
        encoded = base64.b64encode(f"user:{key}".encode()).decode()
        status = int(request.query.get("status", "500"))
        return web.Response(
            status=status, text=f"{key} {encoded} {json.dumps(key)}", headers={"X-Echo": key}
        )

    async def paid(self, request: web.Request) -> web.Response:
        payment = request.headers.get("X-PAYMENT")
        if payment is None:
            return web.json_response({"x402Version": 1, "accepts": [self.price]}, status=402)
        self.payments.append(json.loads(base64.b64decode(payment)))
        return web.json_response({"content": "worth it"})

    async def redirect(self, request: web.Request) -> web.Response:
        to = request.query.get("to", "/ok")
        return web.Response(status=302, headers={"Location": to, "Set-Cookie": "hop=1"})

    async def text(self, request: web.Request) -> web.Response:
        return web.Response(text="build 4711 is live, state=ready")

    async def hostile(self, request: web.Request) -> web.Response:
        """Values that would break out of where a canary puts them."""
        return web.json_response(
            {
                "header": "a\r\nX-Evil: 1",
                "variable": "${PASSWORD}",
                "path": "../admin?x=1#y",
                "host": "evil.example",
                "next": request.query.get("next", "http://127.0.0.2:1/steal"),
                "quote": '"}, {"a": "',
                "huge": "x" * 20_000,
            }
        )


@asynccontextmanager
async def serving() -> AsyncIterator[Shop]:
    shop = Shop()

    @web.middleware
    async def noting(request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.text()
        shop.asked.append((request.method, request.path_qs, dict(request.headers), body))
        answer: web.StreamResponse = await handler(request)
        return answer

    application = web.Application(middlewares=[noting])
    application.router.add_post("/login", shop.login)
    application.router.add_post("/orders", shop.order)
    application.router.add_get("/orders/{number:.+}", shop.show)
    application.router.add_delete("/orders/{number:.+}", shop.cancel)
    application.router.add_get("/flaky", shop.flaky)
    application.router.add_get("/echo", shop.echo)
    application.router.add_get("/paid", shop.paid)
    application.router.add_get("/redirect", shop.redirect)
    application.router.add_get("/hostile", shop.hostile)
    application.router.add_route("*", "/{tail:.*}", shop.text)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    shop.port = int(runner.addresses[0][1])
    try:
        yield shop
    finally:
        await runner.cleanup()
