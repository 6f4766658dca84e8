"""A real GraphQL server: graphql-core executes what is asked, over HTTP."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from graphql import GraphQLError, build_schema, graphql

from tests.support.raw_target import HOST

_SCHEMA = build_schema(
    """
    type Query { user(id: ID!): User, users: [User!]!, broken: String, none: User }
    type Mutation { rename(id: ID!, name: String!): User! }
    type User { id: ID!, name: String!, age: Int, tags: [String!]! }
    """
)

_USERS = {
    "1": {"id": "1", "name": "Ada", "age": 36, "tags": ["math", "poetry"]},
    "2": {"id": "2", "name": "Grace", "age": None, "tags": []},
}


class _Root:
    """What the fields of the schema answer."""

    def user(self, _info: Any, id: str) -> dict[str, Any]:  # noqa: A002 - the schema's name
        if id not in _USERS:
            raise GraphQLError(f"no user {id}")
        return _USERS[id]

    def users(self, _info: Any) -> list[dict[str, Any]]:
        return list(_USERS.values())

    def broken(self, _info: Any) -> str:
        raise RuntimeError("the database\nis away")

    def none(self, _info: Any) -> None:
        return None

    def rename(self, _info: Any, id: str, name: str) -> dict[str, Any]:  # noqa: A002
        return {**_USERS[id], "name": name}


class GraphqlServer:
    """Where it is and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.methods: list[str] = []

    async def serve(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        self.methods.append(request.method)
        if request.method == "GET":
            asked: dict[str, Any] = dict(request.query)
            asked["variables"] = json.loads(asked.get("variables", "null"))
        else:
            asked = await request.json()
        self.requests.append(asked)
        found = await graphql(
            _SCHEMA,
            asked["query"],
            _Root(),
            variable_values=asked.get("variables"),
            operation_name=asked.get("operationName"),
        )
        # GraphQL over HTTP: what could not be executed at all has no data and is a bad request,
        # for clients that accept the newer content type.
        refused = found.data is None and request.query.get("strict") is not None
        return web.json_response(found.formatted, status=400 if refused else 200)


@asynccontextmanager
async def graphql_server() -> AsyncIterator[GraphqlServer]:
    """The server at /graphql, for POST and GET."""
    server = GraphqlServer()
    application = web.Application()
    application.router.add_post("/graphql", server.serve)
    application.router.add_get("/graphql", server.serve)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        server.url = f"http://{HOST}:{runner.addresses[0][1]}/graphql"
        yield server
    finally:
        await runner.cleanup()
