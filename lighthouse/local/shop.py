"""A shop for the demo's canary: log in, order, look at the order, cancel it."""

import secrets
from collections import OrderedDict
from typing import Any

from aiohttp import web

#: What the demo's canary logs in with.
PASSWORD = "demo-password"  # noqa: S105 - guards nothing

#: Sessions and orders that are kept; the oldest go, should a canary not clean up.
_MOST = 100


def add_routes(application: web.Application) -> None:
    """Serve the shop under /shop."""
    sessions: OrderedDict[str, str] = OrderedDict()  # cookie: token
    orders: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def allowed(request: web.Request) -> bool:
        token = sessions.get(request.cookies.get("session", ""))
        return token is not None and request.headers.get("Authorization") == f"Bearer {token}"

    async def login(request: web.Request) -> web.Response:
        given = await request.json()
        if given.get("password") != PASSWORD:
            return web.json_response({"error": "wrong password"}, status=401)
        session, token = secrets.token_hex(8), secrets.token_hex(16)
        _keep(sessions, session, token)
        answer = web.json_response({"token": token})
        answer.set_cookie("session", session, path="/shop", httponly=True)
        return answer

    async def order(request: web.Request) -> web.Response:
        if not allowed(request):
            return web.json_response({"error": "log in first"}, status=403)
        number = secrets.token_hex(4)
        _keep(orders, number, {"id": number, "state": "open", "item": await request.json()})
        return web.json_response(orders[number], status=201)

    async def show(request: web.Request) -> web.Response:
        found = orders.get(request.match_info["number"])
        if found is None or not allowed(request):
            return web.json_response({"error": "no such order"}, status=404)
        return web.json_response(found)

    async def cancel(request: web.Request) -> web.Response:
        gone = orders.pop(request.match_info["number"], None) if allowed(request) else None
        return web.Response(status=404 if gone is None else 204)

    application.router.add_post("/shop/login", login)
    application.router.add_post("/shop/orders", order)
    application.router.add_get("/shop/orders/{number}", show)
    application.router.add_delete("/shop/orders/{number}", cancel)


def _keep(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    if len(kept) > _MOST:
        kept.popitem(last=False)


def canary(base: str) -> dict[str, Any]:
    """The configuration of a canary that walks through the shop at a base URL."""
    order = {"url": f"{base}/shop/orders/${{ORDER}}", "headers": _BEARER}
    return {
        "timeout": 3,
        "secrets": {"PASSWORD": PASSWORD},
        "steps": [
            {
                "name": "log in",
                "action": "POST",
                "url": f"{base}/shop/login",
                "body": {"user": "demo", "password": "${PASSWORD}"},
                "extract": {"TOKEN": {"json_path": "$.token", "secret": True}},
            },
            {
                "name": "order",
                "action": "POST",
                "url": f"{base}/shop/orders",
                "headers": _BEARER,
                "body": {"lamp": 1, "run": "${RUN_ID}"},
                "expect": {"status": 201},
                "extract": {"ORDER": "$.id"},
            },
            {
                "name": "look",
                "action": "GET",
                **order,
                "expect": {"body": {"json_path": {"$.state": "open", "$.item.lamp": {">=": 1}}}},
            },
            {"name": "cancel", "action": "DELETE", **order, "always": True},
        ],
    }


_BEARER = {"Authorization": "Bearer ${TOKEN}"}
