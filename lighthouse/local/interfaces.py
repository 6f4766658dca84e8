"""The demo's WebSocket and GraphQL targets: a feed that answers, a catalogue, and one that errs."""

from collections.abc import Mapping
from typing import Any

from aiohttp import WSMsgType, web

from lighthouse.model import MonitorType

#: What the catalogue knows; a stand-in, for a demo needs no GraphQL engine.
_BOOKS = [
    {"title": "To the Lighthouse", "year": 1927},
    {"title": "Moominpappa at Sea", "year": 1965},
]

_QUERY = "query Books { books { title year } }"


def monitors(plain: str, secure: str) -> Mapping[str, tuple[MonitorType, dict[str, Any]]]:
    """What watches them, by name; `plain` and `secure` are the service's http and https URLs."""
    shape = {"books": [{"title": "string", "year": "integer"}]}
    return {
        "feed, WebSocket": (
            MonitorType.WEBSOCKET,
            {
                "url": f"ws{secure[4:]}/feed",
                "ping": True,
                "send": {"subscribe": "prices"},
                "expect": {"json_path": {"$.topic": "prices", "$.price": {">": 0}}},
            },
        ),
        "catalogue, GraphQL": (
            MonitorType.GRAPHQL,
            {"url": f"{plain}/graphql", "query": _QUERY, "expect": {"shape": shape}},
        ),
        "errors, GraphQL": (
            MonitorType.GRAPHQL,
            {"url": f"{plain}/graphql", "query": "query Authors { authors { name } }"},
        ),
    }


def add_routes(application: web.Application) -> None:
    """Serve them at /feed and /graphql."""

    async def feed(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=4096)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_json({"subscribed": True})
                await socket.send_json({"topic": "prices", "price": 42})
        return socket

    async def graphql(request: web.Request) -> web.Response:
        asked = await request.json()
        if asked.get("query") == _QUERY:
            return web.json_response({"data": {"books": _BOOKS}})
        return web.json_response(
            {"data": None, "errors": [{"message": "the authors are out for lunch"}]}
        )

    application.router.add_get("/feed", feed)
    application.router.add_post("/graphql", graphql)
