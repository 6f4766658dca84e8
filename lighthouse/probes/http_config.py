"""What an `http` monitor can be told: its request, its way there and what must come back."""

import json
import re
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lighthouse import urls
from lighthouse.configs import SECRET_JSON, Secret
from lighthouse.model import SNIPPET_CHARS
from lighthouse.probes.config import MonitorConfig
from lighthouse.probes.http_auth import (
    BasicAuth,
    ClientCertificate,
    OAuth2,
    Part,
    ProxyConfig,
    checked_token,
)
from lighthouse.probes.judging import matching
from lighthouse.probes.judging.assertions import (
    Comparison,
    JsonExpectation,
    accepted_codes,
    code_range,
)
from lighthouse.probes.wire.transport import Headers, HttpRequest, Special

MEBIBYTE = 1024 * 1024

#: Bytes of the body that an answer's snippet is made of.
SNIPPET_BYTES = SNIPPET_CHARS

#: What each demanded version of HTTP is called by the transport.
VERSIONS = {"1.1": 11, "2": 20, "3": 30}

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

#: Headers that belong to the connection; set by hand they would break the exchange.
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "http2-settings"}
)
_MOST_HEADERS = 50


class BodyValidation(JsonExpectation):
    """What the body must hold; every key that is given must hold."""

    contains: str | None = Field(
        default=None, min_length=1, max_length=4096, description="A text that stands in it."
    )
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
    def _something(self) -> "BodyValidation":
        if self.contains is None and self.regex is None and not self.given:
            raise ValueError("give at least one of contains, regex, json_path and json_schema")
        return self


class CertificateExpiry(Part):
    """How long the target's certificate must still be good for."""

    days: int = Field(ge=1, le=3650, description="Days that must be left.")
    severity: Literal["failure", "warning"] = Field(
        default="failure",
        description="A warning leaves the check a success and is told in its reason and message.",
    )


class HttpConfig(MonitorConfig):
    """Configuration of an `http` monitor."""

    url: str = Field(description="http:// or https:// with a host; without credentials.")
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = Field(
        default="GET", description="The request's method."
    )
    headers: dict[str, Secret] = Field(
        default_factory=dict,
        max_length=_MOST_HEADERS,
        description="Sent with the request; never to another origin that it is redirected to.",
    )
    body: Annotated[str | dict[str, Any] | list[Any] | None, SECRET_JSON] = Field(
        default=None, description="Text, or a JSON value that is sent as application/json."
    )
    basic_auth: BasicAuth | None = Field(default=None, description="A user's name and password.")
    bearer_token: Secret | None = Field(
        default=None, max_length=8192, description="Sent as Authorization: Bearer."
    )
    oauth2: OAuth2 | None = Field(
        default=None, description="Client credentials; the token is sent as Bearer."
    )
    client_certificate: ClientCertificate | None = Field(
        default=None, description="For mutual TLS; never shown to another origin."
    )
    proxy: ProxyConfig | None = Field(
        default=None,
        description="The way to the target. Its failure is an error: nothing is known then.",
    )
    ip_version: Literal[4, 6] | None = Field(
        default=None, description="The only version of IP that is used; either without it."
    )
    http_version: Literal["1.1", "2", "3"] | None = Field(
        default=None,
        description="The version that the answer must come in; else the best of 1.1 and 2.",
    )
    follow_redirects: bool | Literal["same_origin", "same_host"] = Field(
        default=True,
        description="Which redirects are followed; one that is not is judged as the answer.",
    )
    max_redirects: int = Field(
        default=10, ge=0, le=20, description="Redirects after which the check is a failure."
    )
    valid_status_codes: tuple[int | str, ...] = Field(
        default=("2xx",), min_length=1, max_length=50, description='Codes, "2xx" or "200-299".'
    )
    max_latency_ms: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="A slower answer is a failure."
    )
    latency_ms: Comparison | None = Field(
        default=None, description="What the latency must be, where one limit does not tell it."
    )
    expected_headers: dict[str, Comparison | None] = Field(
        default_factory=dict,
        max_length=_MOST_HEADERS,
        description="Values, case and parameters ignored, or operators; null: presence only.",
    )
    body_validation: BodyValidation | None = Field(
        default=None, description="What the body must hold."
    )
    certificate_expiry: CertificateExpiry | None = Field(
        default=None, description="How long the certificate must still be good for."
    )
    verify_tls: bool = Field(
        default=True, description="Without it any certificate will do, whoever made it."
    )
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
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, wanted in value.items():
            text = wanted.equal if isinstance(wanted, Comparison) else wanted
            if not _TOKEN.fullmatch(name):
                raise ValueError("a name is no valid header name")
            if isinstance(text, str) and (_CONTROL.search(text) or len(text) > 8192):
                raise ValueError(f"the value of {name} holds a line break or is too long")
        return value

    @field_validator("bearer_token")
    @classmethod
    def _token(cls, value: str | None) -> str | None:
        return None if value is None else checked_token(value)

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

    @model_validator(mode="after")
    def _who(self) -> "HttpConfig":
        ways = [self.basic_auth, self.bearer_token, self.oauth2]
        named = any(name.lower() == "authorization" for name in self.headers)
        if sum(way is not None for way in ways) + named > 1:
            raise ValueError(
                "give one of basic_auth, bearer_token, oauth2 and an Authorization header"
            )
        return self

    @model_validator(mode="after")
    def _way(self) -> "HttpConfig":
        scheme, host, _ = urls.parts(self.url)
        if scheme == "http":
            for name in ("client_certificate", "certificate_expiry"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs a URL that starts with https://")
            if self.http_version == "3":
                raise ValueError("HTTP/3 needs a URL that starts with https://")
        if self.proxy is not None and self.http_version == "3":
            raise ValueError("HTTP/3 does not go through a proxy")
        if self.proxy is not None and self.ip_version is not None:
            raise ValueError("ip_version is the proxy's to choose; give one of the two")
        if (
            self.ip_version is not None
            and urls.is_numeric(host)
            and (":" in host) != (self.ip_version == 6)
        ):
            raise ValueError("the URL's address is of the other ip_version")
        return self

    @property
    def repeatable(self) -> bool:
        return self.method in ("GET", "HEAD")

    def target(self) -> str:
        return urls.shown(self.url)

    @cached_property
    def accepted(self) -> frozenset[int]:
        """The status codes that are no failure."""
        return accepted_codes(self.valid_status_codes)

    @cached_property
    def special(self) -> Special | None:
        """What makes the exchange no plain one."""
        mine = self.client_certificate
        asked = (mine, self.proxy, self.ip_version, self.http_version)
        if all(each is None for each in asked):
            return None
        return Special(
            proxy=None if self.proxy is None else self.proxy.proxy,
            ip_version=self.ip_version,
            http_version=None if self.http_version is None else VERSIONS[self.http_version],
            certificate=None if mine is None else mine.certificate.encode(),
            key=None if mine is None else mine.key.encode(),
        )

    @cached_property
    def request(self) -> HttpRequest:
        """The first request; built once, for the same check comes again every interval."""
        _, host, port = urls.parts(self.url)
        headers: Headers = tuple(self.headers.items())
        if self.basic_auth is not None:
            headers = (*headers, ("Authorization", self.basic_auth.header))
        if self.bearer_token is not None:
            headers = (*headers, ("Authorization", f"Bearer {self.bearer_token}"))
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
            keep_body_bytes=SNIPPET_BYTES if self.body_validation is None else self.max_body_bytes,
            want_headers=bool(self.expected_headers),
            special=self.special,
        )
