"""What a `graphql` monitor asks, refuses, and makes of an answer."""

import json
from typing import Any

import pytest
from pydantic import SecretStr

from lighthouse import configs
from lighthouse.errors import ConfigError
from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import graphql, http, parse_config
from lighthouse.probes.graphql import GraphqlConfig, shape_fault
from lighthouse.probes.wire.transport import HttpResponse
from lighthouse.sealing import Keyring


def parsed(**keys: Any) -> GraphqlConfig:
    given = {"url": "https://example.com/graphql", "query": "{ me { id } }", **keys}
    config = parse_config(MonitorType.GRAPHQL, given)
    assert isinstance(config, GraphqlConfig)
    return config


def judged(config: GraphqlConfig, answer: Any, status: int = 200, **keys: Any) -> Outcome:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    found = HttpResponse(
        status=status, version=11, body=body, truncated=False, total_ms=1.0, **keys
    )
    return graphql.judge(config, found, http.judge(config, found))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"query": ""}, "query: "),
        ({"query": " \n"}, "query: is empty"),
        ({"query": None}, "query: "),
        ({"variables": [1]}, "variables: "),
        ({"operation_name": "a b", "query": "query a b"}, "operation_name: "),
        ({"operation_name": "Other"}, "operation_name names no operation of the query"),
        ({"method": "PUT"}, "method: "),
        ({"method": "GET", "query": "# x\n mutation { a }"}, "a mutation needs the method POST"),
        ({"method": "GET", "query": "{a}" + " " * 9000}, "the query is too long for the method"),
        ({"expect": {}}, "expect: give at least one of shape, json_path and json_schema"),
        ({"expect": {"shape": 3}}, "expect.shape"),
        ({"expect": {"json_path": {"$[": 1}}}, "expect.json_path"),
        ({"expect": {"other": 1}}, "expect.other: unknown key"),
        ({"body": "x"}, "body: unknown key"),
        ({"body_validation": {"contains": "x"}}, "body_validation: unknown key"),
        ({"url": "ws://example.com/"}, "url: must start with http:// or https://"),
        ({"headers": {"a b": "c"}}, "headers: a name is no valid header name"),
    ],
)
def test_a_mistake_is_told_with_its_place(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(**keys)
    assert str(refused.value).startswith(told)


def test_the_operation_is_the_body_of_a_post() -> None:
    config = parsed(
        query="query Me($id: ID!) { me }",
        variables={"id": "ü"},
        operation_name="Me",
        headers={"X-One": "1"},
    )
    request = config.request
    assert request.method == "POST"
    assert json.loads(request.body or b"") == {
        "query": "query Me($id: ID!) { me }",
        "variables": {"id": "ü"},
        "operationName": "Me",
    }
    headers = dict(request.headers)
    assert headers["Content-Type"] == "application/json"
    assert headers["Accept"].startswith("application/graphql-response+json")
    assert headers["X-One"] == "1"


def test_what_is_not_given_is_not_sent() -> None:
    assert json.loads(parsed().request.body or b"") == {"query": "{ me { id } }"}


def test_headers_of_the_users_own_come_instead() -> None:
    own = {"accept": "application/json", "content-type": "application/graphql+json"}
    assert dict(parsed(headers=own).request.headers) == own


def test_the_operation_is_the_query_of_a_get() -> None:
    config = parsed(method="GET", url="https://example.com/g?key=1", variables={"a": [1]})
    assert config.request.url == (
        "https://example.com/g?key=1&query=%7B+me+%7B+id+%7D+%7D&variables=%7B%22a%22%3A%5B1%5D%7D"
    )
    assert config.request.body is None
    assert config.target() == "https://example.com/g?…"


def test_what_may_be_secret_is_sealed_and_opened() -> None:
    keys = Keyring((SecretStr("bGlnaHRob3VzZS10ZXN0cy0wMDAwMDAwMDAwMDAwMDA="),))
    config = parsed(variables={"password": "s3cr3t"}, headers={"Authorization": "s3cr3t"})
    sealed = configs.seal(config, keys)
    assert "s3cr3t" not in str(sealed)
    assert parse_config(MonitorType.GRAPHQL, sealed, keys) == config


@pytest.mark.parametrize(
    ("answer", "reason", "message"),
    [
        ({"data": {"me": {"id": 1}}}, None, None),
        ({"data": None}, None, None),
        ({"data": {}, "errors": []}, None, None),
        ({"data": {}, "errors": None}, None, None),
        (
            {"data": {"me": None}, "errors": [{"message": "no\nuser"}, {"message": "b"}]},
            Reason.BODY,
            "the answer has an error: no�user (and 1 more)",
        ),
        ({"errors": [{"message": "x" * 9000}]}, Reason.BODY, "the answer has an error: xxx"),
        ({"errors": [7]}, Reason.BODY, "the answer has an error: no message"),
        ({"errors": "bad"}, Reason.BODY, "the answer's errors are no list"),
        ({"message": "hello"}, Reason.BODY, "the answer is JSON but no GraphQL result"),
        ([1], Reason.BODY, "the answer is JSON but no GraphQL result"),
        (b"<html>", Reason.BODY, "the answer is not JSON"),
        (b"", Reason.BODY, "the answer is empty, not JSON"),
        (b'{"data": ' + b"[" * 5000, Reason.BODY, "the answer is "),
    ],
)
def test_errors_in_a_good_answer_are_a_failure(
    answer: Any, reason: Reason | None, message: str | None
) -> None:
    found = judged(parsed(), answer)
    assert found.reason is reason
    if message is None:
        assert (found.status, found.message) == (CheckStatus.SUCCESS, None)
    else:
        assert found.status is CheckStatus.FAILURE
        assert found.message is not None
        assert found.message.startswith(message)
        assert len(found.message) < 300
        assert found.snippet is not None


def test_what_a_bad_status_comes_with_is_told() -> None:
    found = judged(parsed(), {"errors": [{"message": "Syntax Error"}]}, 400)
    assert (found.status, found.reason, found.http_status) == (
        CheckStatus.FAILURE,
        Reason.STATUS_CODE,
        400,
    )
    assert found.message == "status 400, expected 200–299; the answer has an error: Syntax Error"
    assert judged(parsed(), b"<html>", 502).message == "status 502, expected 200–299"


def test_an_answer_that_was_cut_is_too_large() -> None:
    found = HttpResponse(status=200, version=11, body=b'{"data"', truncated=True, total_ms=1.0)
    config = parsed(max_body_bytes=2048)
    outcome = graphql.judge(config, found, http.judge(config, found))
    assert (outcome.status, outcome.reason) == (CheckStatus.FAILURE, Reason.BODY_TOO_LARGE)
    assert outcome.message == "the answer is longer than 2048 bytes"


def test_the_paths_and_the_schema_are_of_the_data() -> None:
    answer = {"data": {"me": {"id": 7}}}
    assert judged(parsed(expect={"json_path": {"$.me.id": {">": 6}}}), answer).reason is None
    wrong = judged(parsed(expect={"json_path": {"$.me.id": {">": 7}}}), answer)
    assert (wrong.reason, wrong.message) == (
        Reason.BODY,
        "the data: $.me.id is 7, expected more than 7",
    )
    schema = {"type": "object", "required": ["me"]}
    assert judged(parsed(expect={"json_schema": schema}), answer).reason is None
    assert judged(parsed(expect={"json_schema": schema}), {"data": {}}).reason is Reason.BODY


SHAPE = {"me": {"id": "string", "age": "integer?", "tags": ["string"], "kind": "USER", "ok": True}}
ME = {"id": "1", "age": None, "tags": ["a"], "kind": "USER", "ok": True, "more": 1}


@pytest.mark.parametrize(
    ("shape", "value", "wrong"),
    [
        (SHAPE, {"me": ME}, None),
        (SHAPE, {}, "data.me is missing"),
        (SHAPE, None, "data is null, expected an object"),
        (SHAPE, {"me": {**ME, "id": 1}}, "data.me.id is 1, expected string"),
        (SHAPE, {"me": {**ME, "age": "x"}}, 'data.me.age is "x", expected integer?'),
        (SHAPE, {"me": {**ME, "tags": ["a", None]}}, "data.me.tags[1] is null, expected string"),
        (SHAPE, {"me": {**ME, "tags": {}}}, "data.me.tags is {}, expected an array"),
        (SHAPE, {"me": {**ME, "kind": "BOT"}}, 'data.me.kind is "BOT", expected "USER"'),
        (SHAPE, {"me": {**ME, "ok": 1}}, "data.me.ok is 1, expected true"),
        (["integer"], [], None),
        (["integer"], [1, True], "data[1] is true, expected integer"),
        ([1, 2], [1, 2], None),
        ([1, 2], [1], "data is an array of 1, expected an array of 2"),
        ([], [], None),
        ([], [1], "data is an array of 1, expected an array of 0"),
        (["any"], [None], "data[0] is null, expected any"),
        (["any?"], [None, 1], None),
        (["number"], [1, 1.5], None),
        (["boolean"], [0], "data[0] is 0, expected boolean"),
        (["object", "array"], [{}, []], None),
        (["object"], [[]], "data[0] is [], expected object"),
        ({"a": None}, {"a": None}, None),
    ],
)
def test_a_shape_is_what_must_be_present(shape: Any, value: Any, wrong: str | None) -> None:
    assert shape_fault(shape, value) == wrong


def test_a_shape_costs_no_more_than_its_budget() -> None:
    shape = [{f"k{number}": "any" for number in range(200)}]
    value = [{f"k{number}": 1 for number in range(200)}] * 10_000
    assert shape_fault(shape, value) == "data needs too much work on this document"
