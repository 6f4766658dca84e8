"""The `graphql` monitor: an operation over HTTP, whose errors are failures whatever the status.

The exchange and all its options are those of `http`; here is what GraphQL adds on both sides.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlencode

from pydantic import Field, field_validator, model_validator

from lighthouse.configs import SECRET_JSON
from lighthouse.model import CheckStatus, Finding, Outcome, Reason
from lighthouse.probes import http
from lighthouse.probes.http_config import SNIPPET_BYTES, HttpConfig
from lighthouse.probes.judging import matching
from lighthouse.probes.judging.assertions import SHORT_BYTES, JsonExpectation, parse_json, shown
from lighthouse.probes.judging.work import WorkLimitError, budget, in_turn, same, spend
from lighthouse.probes.wire import evidence
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.transport import HttpRequest, HttpResponse

#: Servers refuse longer request lines, many of them much shorter ones.
_MOST_URL_CHARS = 8000

#: Characters of a server's error message that people are shown.
_ERROR_CHARS = 200

#: A query that changes something: a GET may be repeated by anybody on its way.
_MUTATION = re.compile(r"(?:[\s,\ufeff]|#[^\n]*)*mutation\b")

#: Stands in every document that holds a mutation, if only as some other word.
_MAY_CHANGE = re.compile(r"\bmutation\b")

#: The names of types in a shape, each the answer to whether a value is one.
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "any": lambda _: True,
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
}

_Name = Annotated[str, Field(pattern=r"^[_A-Za-z][_0-9A-Za-z]{0,199}$")]


class GraphqlExpectation(JsonExpectation):
    """What the answer's `data` must be; every key that is given must hold."""

    shape: dict[str, Any] | list[Any] | None = Field(
        default=None,
        description=(
            "What must be present: an object with such values, [shape] for an array of any length, "
            'the name of a type ("string", "integer", "number", "boolean", "object", "array", '
            '"any"; "string?" may be null), or a value itself.'
        ),
    )

    @model_validator(mode="after")
    def _something(self) -> "GraphqlExpectation":
        if self.shape is None and not self.given:
            raise ValueError("give at least one of shape, json_path and json_schema")
        return self


class GraphqlConfig(HttpConfig):
    """Configuration of a `graphql` monitor."""

    method: Literal["POST", "GET"] = Field(default="POST", description="The request's method.")
    query: str = Field(min_length=1, description="The document, with the operation to run.")
    variables: Annotated[dict[str, Any] | None, SECRET_JSON] = Field(
        default=None, description="Values of the operation's variables."
    )
    operation_name: _Name | None = Field(
        default=None, description="Which of several operations of the document to run."
    )
    expect: GraphqlExpectation | None = Field(
        default=None, description="What the answer's data must be."
    )
    #: The operation is the body, and what it must bring is in `expect`.
    body: ClassVar[None] = None  # type: ignore[misc]
    body_validation: ClassVar[None] = None  # type: ignore[misc]

    @field_validator("query")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty")
        return value

    @model_validator(mode="after")
    def _operation(self) -> "GraphqlConfig":
        if self.operation_name is not None and self.operation_name not in self.query:
            raise ValueError("operation_name names no operation of the query")
        if self.method == "GET":
            if _MUTATION.match(self.query):
                raise ValueError("a mutation needs the method POST")
            if len(self.request.url) > _MOST_URL_CHARS:
                raise ValueError("the query is too long for the method GET; use POST")
        return self

    @property
    def repeatable(self) -> bool:
        return _MAY_CHANGE.search(self.query) is None

    @cached_property
    def request(self) -> HttpRequest:
        """The first request; built once, for the same check comes again every interval."""
        plain = super().request
        given = {name.lower() for name, _ in plain.headers}
        headers = list(plain.headers)
        if "accept" not in given:
            accept = "application/graphql-response+json, application/json;q=0.9"
            headers.append(("Accept", accept))
        operation: dict[str, Any] = {"query": self.query}
        if self.variables is not None:
            operation["variables"] = self.variables
        if self.operation_name is not None:
            operation["operationName"] = self.operation_name
        url, body = plain.url, None
        if self.method == "GET":
            texts = {
                key: value if isinstance(value, str) else _json(value)
                for key, value in operation.items()
            }
            url += ("&" if "?" in url else "?") + urlencode(texts)
        else:
            body = _json(operation).encode()
            if "content-type" not in given:
                headers.append(("Content-Type", "application/json"))
        return replace(
            plain, url=url, headers=tuple(headers), body=body, keep_body_bytes=self.max_body_bytes
        )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def probe(equipment: Equipment, config: GraphqlConfig, timeout_s: float) -> Outcome:
    """One attempt, over within `timeout_s`."""
    found = await http.fetched(equipment, config, timeout_s)
    outcome = http.judge(config, found)
    if not isinstance(found, HttpResponse):
        return outcome
    findings: tuple[Finding, ...] = ()
    if equipment.explain:
        findings = http.explain(config, found)
    expensive = config.expect is not None and config.expect.expensive
    if len(found.body) > SHORT_BYTES or expensive:
        return await in_turn(judge, config, found, outcome, findings)
    return judge(config, found, outcome, findings)


def judge(
    config: GraphqlConfig,
    found: HttpResponse,
    outcome: Outcome,
    findings: tuple[Finding, ...] = (),
) -> Outcome:
    """What an answer means that `http` has judged already."""
    asserted = list(_assertions(config, found))
    if findings:
        findings += tuple(
            Finding(name=name, ok=wrong is None, found=(wrong or "as expected")[:200])
            for name, _, wrong in asserted
        )
        outcome = replace(outcome, findings=findings)
    broken = next(((reason, wrong) for _, reason, wrong in asserted if wrong is not None), None)
    if broken is None:
        return outcome
    reason, wrong = broken
    if outcome.status is not CheckStatus.SUCCESS:
        # A server may answer 400 or 500 with errors: what it says beside the status helps.
        if outcome.reason is Reason.STATUS_CODE and asserted[0][0] == "errors":
            return replace(outcome, message=f"{outcome.message}; {wrong}")
        return outcome
    failure = replace(
        outcome,
        status=CheckStatus.FAILURE,
        reason=reason,
        message=wrong,
        snippet=matching.text(found.body[:SNIPPET_BYTES], found.content_type),
    )
    return evidence.told(failure, found)


def _assertions(
    config: GraphqlConfig, found: HttpResponse
) -> Iterator[tuple[str, Reason, str | None]]:
    """Each assertion's name, its reason, and what is wrong or None; those that can be judged."""
    wrong: str | None
    if found.truncated:
        wrong = f"the answer is longer than {config.max_body_bytes} bytes"
        yield "answer", Reason.BODY_TOO_LARGE, wrong
        return
    try:
        answer = parse_json(matching.utf8(found.body, found.content_type))
    except ValueError as exc:
        yield "answer", Reason.BODY, f"the answer {exc}"
        return
    if not isinstance(answer, dict) or not ("data" in answer or "errors" in answer):
        yield "answer", Reason.BODY, "the answer is JSON but no GraphQL result"
        return
    yield "errors", Reason.BODY, _errors_fault(answer.get("errors"))
    if "data" not in answer and answer.get("errors"):
        return
    if config.expect is not None:
        data = answer.get("data")
        if config.expect.shape is not None:
            wrong = shape_fault(config.expect.shape, data)
            yield "shape", Reason.BODY, wrong
        if config.expect.given:
            wrong = config.expect.fault(data)
            yield "data", Reason.BODY, None if wrong is None else f"the data: {wrong}"


def _errors_fault(errors: Any) -> str | None:
    """The first error of an answer, in one line."""
    if errors is None or errors == []:
        return None
    if not isinstance(errors, list):
        return "the answer's errors are no list"
    first = errors[0]
    message = first.get("message") if isinstance(first, dict) else None
    told = matching.one_line(message[:_ERROR_CHARS]) if isinstance(message, str) else "no message"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"the answer has an error: {told}{more}"


def shape_fault(shape: Any, value: Any) -> str | None:
    """Where a value differs from a shape, in one line, or None."""
    with budget():
        try:
            return _shape_fault(shape, value, "data")
        except WorkLimitError as exc:
            return f"data {exc}"


def _shape_fault(shape: Any, value: Any, place: str) -> str | None:
    spend()
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{place} is {shown(value)}, expected an object"
        for key, inner in shape.items():
            if key not in value:
                return f"{place}.{key} is missing"
            wrong = _shape_fault(inner, value[key], f"{place}.{key}")
            if wrong is not None:
                return wrong
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} is {shown(value)}, expected an array"
        if len(shape) != 1 and len(shape) != len(value):
            return f"{place} is {shown(value)}, expected an array of {len(shape)}"
        for position, element in enumerate(value):
            inner = shape[0] if len(shape) == 1 else shape[position]
            wrong = _shape_fault(inner, element, f"{place}[{position}]")
            if wrong is not None:
                return wrong
        return None
    if isinstance(shape, str) and shape.removesuffix("?") in _TYPES:
        if value is None and shape.endswith("?"):
            return None
        if value is None or not _TYPES[shape.removesuffix("?")](value):
            return f"{place} is {shown(value)}, expected {shape}"
        return None
    return None if same(shape, value) else f"{place} is {shown(value)}, expected {shown(shape)}"
