"""GraphQL checks against a real server, and against hostile ones."""

import gzip
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, check_once, parse_config
from lighthouse.settings import load
from tests.support.graphql_target import graphql_server
from tests.support.raw_target import Behaviour, answering, endless, raw_target

USER = "query One($id: ID!) { user(id: $id) { id name age tags } } query All { users { name } }"


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    async with Prober(load({}, egress_allow="127.0.0.0/8")) as running:
        yield running


async def probed(prober: Prober, url: str, **keys: Any) -> Outcome:
    given = {"url": url, "retries": 0, "timeout": 5, **keys}
    config = parse_config(MonitorType.GRAPHQL, given)
    begun = time.monotonic()
    found = await prober.probe(MonitorType.GRAPHQL, config, 60)
    assert time.monotonic() - begun < config.timeout_s(60) + 1
    return found


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.option("GraphqlConfig.variables", "GraphqlConfig.operation_name")
async def test_an_operation_is_run_with_its_variables(prober: Prober, method: str) -> None:
    async with graphql_server() as server:
        found = await probed(
            prober,
            server.url,
            method=method,
            query=USER,
            variables={"id": "1"},
            operation_name="One",
            headers={"Authorization": "Bearer t"},
            expect={
                "shape": {"user": {"id": "string", "age": "integer?", "tags": ["string"]}},
                "json_path": {"$.user.name": "Ada", "$.user.tags": {"length": 2}},
                "json_schema": {"type": "object", "required": ["user"]},
            },
        )
    assert (found.status, found.http_status) == (CheckStatus.SUCCESS, 200)
    assert found.latency_ms is not None
    assert found.timings.ttfb_ms is not None
    assert server.methods == [method]
    assert server.headers[0]["Authorization"] == "Bearer t"
    assert server.requests[0]["operationName"] == "One"


@pytest.mark.option("GraphqlConfig.method")
async def test_a_query_may_be_asked_with_get(prober: Prober) -> None:
    async with graphql_server() as server:
        found = await probed(prober, server.url, method="GET", query="{ users { id } }")
    assert found.status is CheckStatus.SUCCESS
    assert server.methods == ["GET"]


async def test_a_mutation_is_run(prober: Prober) -> None:
    async with graphql_server() as server:
        found = await probed(
            prober,
            server.url,
            query='mutation { rename(id: "2", name: "Hopper") { name } }',
            expect={"shape": {"rename": {"name": "Hopper"}}},
        )
    assert found.status is CheckStatus.SUCCESS


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("{ broken }", "the answer has an error: the database�is away"),
        ('{ user(id: "9") { id } }', "the answer has an error: no user 9"),
        ("{ nothing }", "the answer has an error: Cannot query field 'nothing' on type 'Query'."),
        ("{ users {", "the answer has an error: Syntax Error"),
    ],
)
async def test_errors_behind_a_good_status_are_failures(
    prober: Prober, query: str, message: str
) -> None:
    async with graphql_server() as server:
        found = await probed(prober, server.url, query=query)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY)
    assert found.http_status == 200
    assert found.message is not None
    assert found.message.startswith(message)
    assert found.snippet is not None


async def test_a_refused_operation_tells_why(prober: Prober) -> None:
    async with graphql_server() as server:
        found = await probed(prober, server.url + "?strict=1", query="{ nothing }")
    assert (found.reason, found.http_status) == (Reason.STATUS_CODE, 400)
    assert found.message is not None
    assert "Cannot query field 'nothing'" in found.message


@pytest.mark.option("GraphqlConfig.expect", "GraphqlExpectation.shape")
async def test_data_that_is_not_as_expected_is_a_failure(prober: Prober) -> None:
    async with graphql_server() as server:
        for expect, message in (
            ({"shape": {"none": {"id": "string"}}}, "data.none is null, expected an object"),
            ({"json_path": {"$.none.id": 1}}, "the data: $.none.id is missing"),
        ):
            found = await probed(prober, server.url, query="{ none { id } }", expect=expect)
            assert (found.reason, found.message) == (Reason.BODY, message)


async def test_options_of_http_hold(prober: Prober) -> None:
    async with graphql_server() as server:
        keys = {"query": "{ users { id } }"}
        wrong = await probed(prober, server.url, expected_headers={"X-None": None}, **keys)
        assert wrong.reason is Reason.HEADER
        await probed(prober, server.url, bearer_token="t0k3n", **keys)
        assert server.headers[-1]["Authorization"] == "Bearer t0k3n"


async def test_whoever_looks_is_told_each_assertion() -> None:
    async with graphql_server() as server:
        given = {
            "url": server.url,
            "query": "{ users { id } }",
            "expect": {"shape": {"users": ["object"]}, "json_path": {"$.users": {"length": 3}}},
        }
        config = parse_config(MonitorType.GRAPHQL, given)
        settings = load({}, egress_allow="127.0.0.0/8")
        found = await check_once(MonitorType.GRAPHQL, config, settings)
    assert [(each.name, each.ok) for each in found.findings] == [
        ("status", True),
        ("errors", True),
        ("shape", True),
        ("data", False),
    ]


async def test_no_socket_opens_to_a_forbidden_address() -> None:
    async with raw_target(answering()) as target, Prober(load({})) as strict:
        found = await probed(strict, target.url(), query="{ a }")
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.FORBIDDEN_ADDRESS)
        assert target.connections == 0


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DEEP = b'{"data":' * 50_000


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (endless(HEAD + b"\r\n", b'{"data":[' + b"1," * 32_000), Reason.BODY_TOO_LARGE),
        (endless(HEAD, b"X: y\r\n" * 1000), Reason.PROTOCOL_ERROR),
        (answering(200, DEEP), Reason.BODY),
        (answering(200, b'{"data":[' + b"1," * 200_000 + b"1]}"), Reason.BODY),
        (answering(200, b'{"data":"\xff\xfe"}'), Reason.BODY),
        (answering(200, gzip.compress(b"0" * 50_000_000), {"Content-Encoding": "gzip"}), None),
        (answering(200, b'{"errors":[' + b'{"message":"\\u0000"},' * 9000 + b"1]}"), Reason.BODY),
        (answering(200, b'{"data":' + b"9" * 100_000 + b"}"), Reason.BODY),
        (answering(302, b"", {"Location": "http://10.0.0.1/"}), Reason.FORBIDDEN_ADDRESS),
    ],
)
async def test_hostile_answers_are_failures_at_a_bounded_cost(
    prober: Prober, behave: Behaviour, reason: Reason | None
) -> None:
    async with raw_target(behave) as target:
        found = await probed(
            prober, target.url(), query="{ a }", timeout=3, expect={"shape": {"a": "string"}}
        )
    assert found.status in (CheckStatus.FAILURE, CheckStatus.TIMEOUT)
    assert found.message is not None
    assert found.message.isprintable()
    assert len(found.message) < 400
    if reason is not None and found.status is CheckStatus.FAILURE:
        assert found.reason is reason
