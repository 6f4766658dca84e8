"""A JSON-RPC node of our own: it answers what a test tells it to, and notes what it was asked."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

HOST = "127.0.0.1"

#: From a method and its parameters to a result, or to an error of JSON-RPC (`{"code", "message"}`).
Answering = Callable[[str, list[Any]], Any]


#: From what was sent and what would be answered to another answer; None leaves it.
Replying = Callable[[Any, Any], Awaitable[web.Response | None]]


class RpcError(Exception):
    """An error of JSON-RPC."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Node:
    """The running node."""

    def __init__(self, answer: Answering) -> None:
        self.port = 0
        self.answer = answer
        self.asked: list[tuple[str, list[Any]]] = []
        self.raw: bytes | None = None  #: sent instead of any answer
        self.status = 200
        self.reply: Replying | None = None
        self.requests: list[int] = []  #: the calls of each request

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/v1/k3y"

    def _one(self, call: dict[str, Any]) -> dict[str, Any]:
        method, params = call["method"], call.get("params", [])
        self.asked.append((method, params))
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": call["id"]}
        try:
            answer["result"] = self.answer(method, params)
        except RpcError as exc:
            answer["error"] = {"code": exc.code, "message": str(exc)}
        return answer

    async def handle(self, request: web.Request) -> web.Response:
        calls = json.loads(await request.text())
        self.requests.append(len(calls) if isinstance(calls, list) else 1)
        if self.raw is not None:
            return web.Response(body=self.raw, status=self.status)
        # In another order than they were asked, as nodes may.
        several = isinstance(calls, list)
        answer = [self._one(call) for call in calls][::-1] if several else self._one(calls)
        other = None if self.reply is None else await self.reply(calls, answer)
        return web.json_response(answer, status=self.status) if other is None else other


@asynccontextmanager
async def node(answer: Answering) -> AsyncIterator[Node]:
    """A node for as long as the block runs."""
    running = Node(answer)
    application = web.Application()
    application.router.add_post("/{tail:.*}", running.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    running.port = int(runner.addresses[0][1])
    try:
        yield running
    finally:
        await runner.cleanup()
