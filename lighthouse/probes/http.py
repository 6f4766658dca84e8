"""The `http` monitor: one request, its redirects, and a judgement of what came back.

`judge` and `next_hop` are the rules and touch nothing; `probe` is all that does I/O.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lighthouse import urls
from lighthouse.model import SNIPPET_CHARS, CheckStatus, Outcome, Reason, Timings
from lighthouse.probes import matching
from lighthouse.probes.config import MonitorConfig
from lighthouse.probes.equipment import Equipment
from lighthouse.probes.transport import (
    Headers,
    HttpRequest,
    HttpResponse,
    TransportError,
)

MEBIBYTE = 1024 * 1024

#: Bytes of the body that an answer's snippet is made of.
_SNIPPET_BYTES = SNIPPET_CHARS

#: A pattern runs in a thread on bodies longer than this, in bytes: RE2 lets go of the interpreter,
#: and the loop would stand still for milliseconds otherwise.
_LONG_BODY_BYTES = 64 * 1024

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_CODES = re.compile(r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?", re.IGNORECASE)

#: Headers that belong to the connection; set by hand they would break the exchange.
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "http2-settings"}
)
_MOST_HEADERS = 50
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class BodyValidation(BaseModel):
    """What the body must hold. One of the two."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    contains: str | None = Field(default=None, min_length=1, max_length=4096)
    regex: str | None = Field(
        default=None, min_length=1, max_length=1000, description="RE2 syntax, found anywhere."
    )

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            matching.compile_pattern(value)
        return value

    @model_validator(mode="after")
    def _one(self) -> "BodyValidation":
        if (self.contains is None) == (self.regex is None):
            raise ValueError("give exactly one of contains and regex")
        return self


class HttpConfig(MonitorConfig):
    """Configuration of an `http` monitor."""

    url: str = Field(description="http:// or https:// with a host; without credentials.")
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    headers: dict[str, str] = Field(default_factory=dict, max_length=_MOST_HEADERS)
    body: str | dict[str, Any] | list[Any] | None = Field(
        default=None, description="Text, or a JSON value that is sent as application/json."
    )
    follow_redirects: bool = True
    max_redirects: int = Field(default=10, ge=0, le=20)
    valid_status_codes: tuple[int | str, ...] = Field(
        default=("2xx",), min_length=1, max_length=50, description='Codes, "2xx" or "200-299".'
    )
    max_latency_ms: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="A slower answer is a failure."
    )
    expected_headers: dict[str, str | None] = Field(
        default_factory=dict,
        max_length=_MOST_HEADERS,
        description="Values, case and parameters ignored; null asks for presence only.",
    )
    body_validation: BodyValidation | None = None
    verify_tls: bool = True
    max_body_bytes: int = Field(
        default=MEBIBYTE,
        ge=1024,
        le=8 * MEBIBYTE,
        description="The transfer ends there; body_validation sees no more.",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        return urls.normalize(value)

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("headers", "expected_headers")
    @classmethod
    def _names(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for name, text in value.items():
            if not _TOKEN.fullmatch(name):
                raise ValueError("a name is no valid header name")
            if text is not None and (_CONTROL.search(text) or len(text) > 8192):
                raise ValueError(f"the value of {name} holds a line break or is too long")
        return value

    @field_validator("headers")
    @classmethod
    def _no_framing(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name.lower() in _FRAMING:
                raise ValueError(f"{name} belongs to the connection and cannot be set")
        if len({name.lower() for name in value}) < len(value):
            raise ValueError("a name is given twice")
        return value

    @field_validator("valid_status_codes")
    @classmethod
    def _codes(cls, value: tuple[int | str, ...]) -> tuple[int | str, ...]:
        for code in value:
            code_range(code)
        return value

    @model_validator(mode="after")
    def _body_fits(self) -> "HttpConfig":
        if self.body is not None and self.method == "HEAD":
            raise ValueError("a HEAD request has no body")
        if self.body_validation is not None and self.method == "HEAD":
            raise ValueError("the answer to a HEAD request has no body to validate")
        return self

    def target(self) -> str:
        return urls.shown(self.url)

    @cached_property
    def accepted(self) -> frozenset[int]:
        """The status codes that are no failure."""
        return _accepted(self.valid_status_codes)

    @cached_property
    def expected(self) -> tuple[tuple[str, str | None], ...]:
        return tuple(self.expected_headers.items())

    @cached_property
    def request(self) -> HttpRequest:
        """The first request; built once, for the same check comes again every interval."""
        _, host, port = urls.parts(self.url)
        headers: Headers = tuple(self.headers.items())
        body = None
        if isinstance(self.body, str):
            body = self.body.encode()
        elif self.body is not None:
            body = json.dumps(self.body, ensure_ascii=False, separators=(",", ":")).encode()
            if not any(name.lower() == "content-type" for name, _ in headers):
                headers = (*headers, ("Content-Type", "application/json"))
        return HttpRequest(
            url=self.url,
            host=host,
            port=port,
            numeric=urls.is_numeric(host),
            method=self.method,
            headers=headers,
            body=body,
            verify_tls=self.verify_tls,
            max_body_bytes=self.max_body_bytes,
            keep_body_bytes=_SNIPPET_BYTES if self.body_validation is None else self.max_body_bytes,
            want_headers=bool(self.expected_headers),
        )


@lru_cache(maxsize=1024)
def _accepted(entries: tuple[int | str, ...]) -> frozenset[int]:
    """One set of codes for all that ask for the same: a set of their own took 10 KB each."""
    return frozenset(code for entry in entries for code in code_range(entry))


def code_range(entry: int | str) -> range:
    """The codes that one entry of valid_status_codes stands for. Raises ValueError."""
    found = _CODES.fullmatch(str(entry).strip())
    if found is None:
        raise ValueError(f'{str(entry)[:20]!r} is no status code; write 204, "2xx" or "200-299"')
    family, first, last = found.groups()
    if family:
        return range(int(family) * 100, int(family) * 100 + 100)
    return range(int(first), int(last or first) + 1)


async def probe(equipment: Equipment, config: HttpConfig, timeout_s: float) -> Outcome:
    """One attempt, redirects included, over within `timeout_s`."""
    transport = equipment.transport
    request = config.request
    found = await transport.exchange(request, timeout_s)
    if not config.follow_redirects or isinstance(found, TransportError) or found.location is None:
        return judge(config, found) if not _is_long(config, found) else await _judged(config, found)

    # Each hop is an exchange of its own within what is left of the one deadline.
    deadline = time.monotonic() + timeout_s - found.total_ms / 1000
    way = Way(total_ms=found.total_ms, timings=found.timings)
    hops = 0
    while isinstance(found, HttpResponse) and found.location is not None:
        following = next_hop(request, found)
        if following is None:
            break
        if isinstance(following, TransportError):
            found = following
            break
        if hops >= config.max_redirects:
            found = TransportError(
                reason=Reason.TOO_MANY_REDIRECTS,
                message=f"more than {config.max_redirects} redirects",
            )
            break
        hops += 1
        request = following
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            found = TransportError(
                reason=Reason.TIMEOUT,
                message=f"no final answer within {timeout_s:g} s, after {hops - 1} redirects",
            )
            break
        found = await transport.exchange(request, left_s)
        way = way.plus(found)
    found = way.over(found)
    return await _judged(config, found) if _is_long(config, found) else judge(config, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The time that all hops of a redirected exchange took together."""

    total_ms: float
    timings: Timings

    def plus(self, hop: HttpResponse | TransportError) -> "Way":
        mine, its = self.timings, hop.timings
        return Way(
            total_ms=self.total_ms + (hop.total_ms or 0.0),
            timings=Timings(
                dns_ms=_sum(mine.dns_ms, its.dns_ms),
                tcp_ms=_sum(mine.tcp_ms, its.tcp_ms),
                tls_ms=_sum(mine.tls_ms, its.tls_ms),
                ttfb_ms=_sum(mine.ttfb_ms, its.ttfb_ms),
            ),
        )

    def over(self, last: HttpResponse | TransportError) -> HttpResponse | TransportError:
        return replace(last, total_ms=self.total_ms, timings=self.timings)


def _sum(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other


def next_hop(request: HttpRequest, answer: HttpResponse) -> HttpRequest | TransportError | None:
    """The request that a redirect asks for; None when the answer is none to follow.

    To another origin nothing of the user's goes along, neither headers nor body: any of them
    may be a credential.
    """
    if answer.status not in _REDIRECTS or answer.location is None:
        return None
    try:
        url = urls.join(request.url, answer.location)
    except ValueError as exc:
        return TransportError(reason=Reason.PROTOCOL_ERROR, message=f"the redirect's address {exc}")
    origin = urls.parts(url)
    method, headers, body = request.method, request.headers, request.body
    if method != "HEAD" and (
        answer.status == 303 or (answer.status in (301, 302) and method == "POST")
    ):
        method, body = "GET", None
    if origin != urls.parts(request.url):
        headers, body = (), None
    elif body is None:
        headers = tuple(pair for pair in headers if pair[0].lower() != "content-type")
    return replace(
        request,
        url=url,
        host=origin[1],
        port=origin[2],
        numeric=urls.is_numeric(origin[1]),
        method=method,
        headers=headers,
        body=body,
    )


def _is_long(config: HttpConfig, found: HttpResponse | TransportError) -> bool:
    return (
        config.body_validation is not None
        and isinstance(found, HttpResponse)
        and len(found.body) > _LONG_BODY_BYTES
    )


async def _judged(config: HttpConfig, found: HttpResponse | TransportError) -> Outcome:
    return await asyncio.get_running_loop().run_in_executor(None, judge, config, found)


def judge(config: HttpConfig, found: HttpResponse | TransportError) -> Outcome:
    """What an exchange means for its target."""
    if isinstance(found, TransportError):
        return Outcome(
            status=_blame(found.reason),
            reason=found.reason,
            message=found.message,
            latency_ms=found.total_ms,
            timings=found.timings,
            cert_expires_at=found.cert_expires_at,
        )
    fault = _fault(config, found)
    if fault is None:
        return Outcome(
            status=CheckStatus.SUCCESS,
            latency_ms=found.total_ms,
            http_status=found.status,
            http_version=found.version,
            timings=found.timings,
            cert_expires_at=found.cert_expires_at,
        )
    reason, message = fault
    return Outcome(
        status=CheckStatus.FAILURE,
        reason=reason,
        message=message,
        latency_ms=found.total_ms,
        http_status=found.status,
        http_version=found.version,
        timings=found.timings,
        cert_expires_at=found.cert_expires_at,
        snippet=matching.text(found.body[:_SNIPPET_BYTES], found.content_type),
    )


def _blame(reason: Reason) -> CheckStatus:
    if reason is Reason.TIMEOUT:
        return CheckStatus.TIMEOUT
    return CheckStatus.ERROR if reason.value.startswith("prober_") else CheckStatus.FAILURE


def _fault(config: HttpConfig, found: HttpResponse) -> tuple[Reason, str] | None:
    if found.status not in config.accepted:
        wanted = ", ".join(_shown_codes(entry) for entry in config.valid_status_codes)
        return Reason.STATUS_CODE, f"status {found.status}, expected {wanted}"
    if config.expected:
        wrong = matching.header_fault(config.expected, found.headers)
        if wrong is not None:
            return Reason.HEADER, wrong
    if config.body_validation is not None:
        wrong = _body_fault(config.body_validation, found)
        if wrong is not None:
            if found.truncated:
                return (
                    Reason.BODY_TOO_LARGE,
                    f"{wrong} in its first {config.max_body_bytes} bytes, and it is longer",
                )
            return Reason.BODY, wrong
    if config.max_latency_ms is not None and found.total_ms > config.max_latency_ms:
        return (
            Reason.MAX_LATENCY,
            f"took {found.total_ms:.1f} ms, expected at most {config.max_latency_ms} ms",
        )
    return None


def _body_fault(wanted: BodyValidation, found: HttpResponse) -> str | None:
    body = matching.utf8(found.body, found.content_type)
    if wanted.contains is not None:
        return None if wanted.contains.encode() in body else "the body lacks the expected text"
    pattern = matching.compile_pattern(wanted.regex or "")
    return None if pattern.search(body) else "the body does not match the pattern"


def _shown_codes(entry: int | str) -> str:
    codes = code_range(entry)
    return str(codes[0]) if len(codes) == 1 else f"{codes[0]}–{codes[-1]}"
