"""A canary's HTTP step: an `http` check whose request is filled in and whose answer is taken apart.

Values that a target has sent are percent-encoded in URLs, and where one decides the host, that must
be an origin which the configuration names: an answer cannot choose who gets the next credentials.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from lighthouse import urls, variables
from lighthouse.configs import SECRET_JSON, Secret
from lighthouse.model import SNIPPET_CHARS, CheckStatus, Reason
from lighthouse.probes import http
from lighthouse.probes.canary.extraction import Answer, Extraction, Missing, extract
from lighthouse.probes.canary.steps import (
    Flow,
    StepConfig,
    StepFault,
    StepResult,
    VariableName,
    at,
)
from lighthouse.probes.http_config import MEBIBYTE, BodyValidation, HttpConfig
from lighthouse.probes.judging import assertions, matching
from lighthouse.probes.judging.assertions import Comparison
from lighthouse.probes.wire import evidence
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.probes.wire.transport import HttpRequest, HttpResponse, Transport, TransportError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class _Zeros(dict[str, Any]):
    """Values for checking a template's form while there are none."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return 0 if name in variables.CLOCKS else "0"


class HttpExpect(BaseModel):
    """What the answer must be; as in an `http` check."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    status: tuple[int | str, ...] = Field(
        default=("2xx",),
        min_length=1,
        max_length=50,
        description='Codes, "2xx" or "200-299"; one of them or a list.',
    )
    headers: dict[str, Comparison | None] = Field(
        default_factory=dict,
        max_length=50,
        description="Values, case and parameters ignored, or operators; null: presence only.",
    )
    body: BodyValidation | None = Field(default=None, description="As body_validation of `http`.")
    max_latency_ms: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="A slower answer is a failure."
    )

    @field_validator("status", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | str) else value


#: Keys of HttpConfig by the place of a step where a person wrote them.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "valid_status_codes": ("expect", "status"),
    "expected_headers": ("expect", "headers"),
    "body_validation": ("expect", "body"),
    "max_latency_ms": ("expect", "max_latency_ms"),
}


class HttpStep(StepConfig):
    """One request, its redirects, what must come back and what is taken from it."""

    action: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "http"] = Field(
        description="The method, or http with `method` beside it."
    )
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] | None = Field(
        default=None, description="The method of an http action; GET unless given."
    )
    url: str = Field(
        min_length=1,
        max_length=urls.MOST_URL_CHARS,
        description="May hold ${NAME}; past the host its value is percent-encoded.",
    )
    headers: dict[str, Secret] = Field(
        default_factory=dict, max_length=50, description="Values may hold ${NAME}."
    )
    body: Annotated[str | dict[str, Any] | list[Any] | None, SECRET_JSON] = Field(
        default=None,
        description='Text, or a JSON value; "${NAME}" as a whole text keeps the value\'s type.',
    )
    expect: HttpExpect = Field(default_factory=HttpExpect, description="What must come back.")
    extract: dict[VariableName, Extraction] = Field(
        default_factory=dict, max_length=20, description="Variables for the steps after this one."
    )
    follow_redirects: bool | Literal["same_origin", "same_host"] = Field(
        default=True,
        description="Which redirects are followed; one that is not is judged as the answer.",
    )
    max_redirects: int = Field(default=10, ge=0, le=20, description="More are a failure.")
    verify_tls: bool = Field(default=True, description="Refuse certificates that prove nothing.")
    max_body_bytes: int = Field(
        default=MEBIBYTE, ge=1024, le=8 * MEBIBYTE, description="The transfer ends there."
    )

    @field_validator("action", "method", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        if isinstance(value, str) and value.upper() in METHODS:
            return value.upper()
        return value

    @model_validator(mode="after")
    def _fits(self) -> "HttpStep":
        if self.method is not None and self.action != "http":
            raise at(("method",), "goes with the action http")
        for key, value in self.templates():
            try:
                variables.names(value)
            except ValueError as exc:
                raise at(tuple(key.split(".")), str(exc)) from None
        zeros = _Zeros()
        head, tail = self.origin_and_rest
        if "${" in head:
            head = "https://0.invalid"
        try:
            self._config(
                head + variables.substitute(tail, zeros, quoted=True),
                {key: variables.substitute(value, zeros) for key, value in self.headers.items()},
                variables.substitute_json(self.body, zeros),
            )
        except ValidationError as exc:
            raise _moved(exc) from None
        return self

    @cached_property
    def origin_and_rest(self) -> tuple[str, str]:
        """The URL's template, cut where its path, query or fragment begins."""
        return urls.cut_origin(self.url)

    def templates(self) -> Iterable[tuple[str, Any]]:
        yield "url", self.url
        for name, value in self.headers.items():
            yield f"headers.{name}", value
        if self.body is not None:
            yield "body", self.body

    def opens(self) -> Iterable[str]:
        yield self.url

    def sets(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.extract, True)

    def _config(self, url: str, headers: Mapping[str, str], body: Any) -> HttpConfig:
        return HttpConfig.model_validate(
            {
                "url": url,
                "method": (self.method or "GET") if self.action == "http" else self.action,
                "headers": dict(headers),
                "body": body,
                "follow_redirects": self.follow_redirects,
                "max_redirects": self.max_redirects,
                "valid_status_codes": self.expect.status,
                "max_latency_ms": self.expect.max_latency_ms,
                "expected_headers": self.expect.headers,
                "body_validation": self.expect.body,
                "verify_tls": self.verify_tls,
                "max_body_bytes": self.max_body_bytes,
            }
        )

    def filled(self, flow: Flow) -> HttpConfig:
        """The request with the flow's values. Raises StepFault and UnsetVariable."""
        head, tail = self.origin_and_rest
        try:
            url = variables.substitute(head, flow.values)
            url += variables.substitute(tail, flow.values, quoted=True)
            headers = {
                name: variables.substitute(value, flow.values)
                for name, value in self.headers.items()
            }
            config = self._config(url, headers, variables.substitute_json(self.body, flow.values))
        except variables.UnsetVariable:
            raise
        except ValidationError as exc:
            fault = _moved(exc).errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in fault["loc"])
            told = str(fault.get("ctx", {}).get("error", fault["msg"]))
            raise StepFault(self._blame(flow), f"{where} with its variables: {told}") from None
        except ValueError as exc:
            raise StepFault(self._blame(flow), f"with its variables it {exc}") from None
        if variables.names(head) & flow.tainted and urls.parts(config.url) not in flow.origins:
            raise StepFault(
                Reason.FORBIDDEN_ADDRESS,
                "an earlier answer leads to a host that the canary does not name",
            )
        for name, value in headers.items():
            if name.lower() in ("authorization", "proxy-authorization", "cookie"):
                flow.redactor.add(value.partition(" ")[2] or value)
        return config

    def _blame(self, flow: Flow) -> Reason:
        """Whose values a request cannot be made with."""
        used = frozenset(
            name for _, template in self.templates() for name in variables.names(template)
        )
        return Reason.PROTOCOL_ERROR if used & flow.tainted else Reason.PROBER_CONFIG


def _moved(exc: ValidationError) -> ValidationError:
    """The faults of an HttpConfig, at the keys of the step that it was made from."""
    faults = []
    for fault in exc.errors(include_url=False, include_input=False):
        loc = fault["loc"]
        told = str(fault.get("ctx", {}).get("error", fault["msg"]))
        error = PydanticCustomError("value_error", "{error}", {"error": told})
        place = (*_KEYS.get(str(loc[0]), loc[:1]), *loc[1:]) if loc else ()
        faults.append(InitErrorDetails(type=error, loc=place, input=None))
    return ValidationError.from_exception_data("HttpStep", faults, hide_input=True)


async def run_step(
    equipment: Equipment, step: HttpStep, flow: Flow, timeout_s: float
) -> StepResult:
    """One request with its redirects and the flow's cookies, judged and taken apart."""
    config = step.filled(flow)
    found = await _exchange(equipment.transport, config, step, flow, timeout_s)
    if equipment.explain or http.is_long(config, found) or _is_long(step, found):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            None, _judged, config, step, flow, found, equipment.explain
        )
    return _judged(config, step, flow, found, False)


def _is_long(step: HttpStep, found: HttpResponse | TransportError) -> bool:
    """Whether taking the answer apart would hold the loop up."""
    if isinstance(found, TransportError):
        return False
    return bool(step.extract) and (
        len(found.body) > assertions.SHORT_BYTES
        or any(wanted.expensive for wanted in step.extract.values())
    )


def _judged(
    config: HttpConfig,
    step: HttpStep,
    flow: Flow,
    found: HttpResponse | TransportError,
    explain: bool,
) -> StepResult:
    outcome = http.judge(config, found)
    if explain:
        outcome = replace(outcome, findings=http.explain(config, found))
    if isinstance(found, TransportError):
        return StepResult(outcome=outcome)
    values: dict[str, Any] | Missing = {}
    if outcome.status is CheckStatus.SUCCESS and step.extract:
        answer = Answer(
            body=found.body,
            content_type=found.content_type,
            headers=found.headers,
            cookies=flow.jar.by_name(),
        )
        values = extract(step.extract, answer)
    if isinstance(values, Missing):
        outcome = replace(
            outcome, status=CheckStatus.FAILURE, reason=values.reason, message=values.message
        )
        values = {}
    if outcome.status is not CheckStatus.SUCCESS:
        outcome = replace(evidence.told(outcome, found), snippet=_snippet(found, flow))
    secret = frozenset(name for name, wanted in step.extract.items() if wanted.secret)
    return StepResult(outcome=outcome, values=values, secret=secret)


def _snippet(found: HttpResponse, flow: Flow) -> str:
    """The body's beginning; more is read than is kept, so that no secret is cut unseen."""
    size = SNIPPET_CHARS + 4 * flow.redactor.longest
    text = matching.text(found.body[:size], found.content_type)
    return (flow.redactor.text(text) or "")[:SNIPPET_CHARS]


async def _exchange(
    transport: Transport, config: HttpConfig, step: HttpStep, flow: Flow, timeout_s: float
) -> HttpResponse | TransportError:
    """As http.probe does it, with each hop's own cookies."""
    deadline = time.monotonic() + timeout_s
    keep = SNIPPET_CHARS + 4 * flow.redactor.longest
    if step.extract or step.expect.body is not None:
        keep = config.max_body_bytes
    request = replace(
        config.request, want_headers=True, keep_body_bytes=min(keep, config.max_body_bytes)
    )
    found = await _hop(transport, request, flow, timeout_s)
    if isinstance(found, TransportError):
        return found
    way = http.Way(total_ms=found.total_ms, timings=found.timings)
    hops = 0
    while config.follow_redirects and isinstance(found, HttpResponse):
        following = http.next_hop(request, found)
        if following is None or (
            isinstance(following, HttpRequest) and not http.allowed(config, request, following)
        ):
            break
        left_s = deadline - time.monotonic()
        if isinstance(following, TransportError):
            found = following
        elif hops >= config.max_redirects:
            told = f"more than {config.max_redirects} redirects"
            found = evidence.misled(found, Reason.TOO_MANY_REDIRECTS, told)
        elif left_s <= 0:
            told = http.too_late(timeout_s, hops)
            found = evidence.misled(found, Reason.TIMEOUT, told)
        else:
            hops += 1
            request = following
            found = await _hop(transport, request, flow, left_s)
            way = way.plus(found)
    return way.over(found)


async def _hop(
    transport: Transport, request: HttpRequest, flow: Flow, timeout_s: float
) -> HttpResponse | TransportError:
    cookies = flow.jar.header(request.url)
    if cookies is not None:
        own = [value for name, value in request.headers if name.lower() == "cookie"]
        headers = tuple(pair for pair in request.headers if pair[0].lower() != "cookie")
        request = replace(request, headers=(*headers, ("Cookie", "; ".join([*own, cookies]))))
    found = await transport.exchange(request, timeout_s)
    if isinstance(found, HttpResponse):
        flow.jar.store(request.url, found.headers.get("set-cookie", ()))
    return found
