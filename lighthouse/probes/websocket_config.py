"""What a `websocket` monitor can be told: its handshake, what is sent and what must come back."""

import json
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, field_validator

from lighthouse import urls
from lighthouse.configs import SECRET_JSON, Secret, validated
from lighthouse.errors import ConfigError
from lighthouse.probes.config import MonitorConfig
from lighthouse.probes.http_config import CertificateExpiry, HttpConfig
from lighthouse.probes.judging import matching
from lighthouse.probes.judging.assertions import SHORT_BYTES, JsonExpectation, parse_json
from lighthouse.probes.judging.work import in_turn
from lighthouse.probes.wire.dial import Place

KIBIBYTE = 1024

#: A pattern runs in a thread on messages longer than this, in bytes.
_LONG_BYTES = 64 * KIBIBYTE

_Token = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}$")]


class MessageExpectation(JsonExpectation):
    """What one message must be; every key that is given must hold, and none takes any message."""

    contains: str | None = Field(
        default=None, min_length=1, max_length=4096, description="A text that stands in it."
    )
    regex: str | None = Field(
        default=None, min_length=1, max_length=1000, description="RE2 syntax, found anywhere."
    )
    skip: int = Field(
        default=100, ge=0, le=1000, description="Other messages that may come before it."
    )

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            matching.compile_pattern(value)
        return value

    async def message_fault(self, message: bytes) -> str | None:
        """What is wrong with a message, in one line, or None."""
        if self.contains is not None and self.contains.encode() not in message:
            return "the message lacks the expected text"
        if self.regex is not None:
            search = matching.compile_pattern(self.regex).search
            if len(message) > _LONG_BYTES:
                found = await in_turn(search, message)
            else:
                found = search(message)
            if not found:
                return "the message does not match the pattern"
        if not self.given:
            return None
        if len(message) <= SHORT_BYTES and not self.expensive:
            return self._json_fault(message)
        return await in_turn(self._json_fault, message)

    def _json_fault(self, message: bytes) -> str | None:
        try:
            document = parse_json(message)
        except ValueError as exc:
            return f"the message {exc}"
        return self.fault(document)


class WebsocketConfig(MonitorConfig):
    """Configuration of a `websocket` monitor."""

    url: str = Field(description="ws:// or wss:// with a host; without credentials.")
    headers: dict[str, Secret] = Field(
        default_factory=dict, max_length=50, description="Sent with the handshake."
    )
    subprotocols: tuple[_Token, ...] = Field(
        default=(), max_length=10, description="Offered; the server must choose one of them."
    )
    origin: str | None = Field(
        default=None,
        max_length=1000,
        pattern=r"^[\x21-\x7e]+$",
        description="The Origin header, for servers that look at it.",
    )
    ping: bool = Field(default=False, description="Send a ping, which must be answered.")
    send: Annotated[str | dict[str, Any] | list[Any] | None, SECRET_JSON] = Field(
        default=None, description="A message to send: text, or a JSON value."
    )
    expect: MessageExpectation | None = Field(
        default=None,
        description="The message that must come before the timeout, after `send` if that is given.",
    )
    max_latency_ms: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="A check that takes longer is a failure."
    )
    verify_tls: bool = Field(
        default=True, description="Without it any certificate will do, whoever made it."
    )
    certificate_expiry: CertificateExpiry | None = Field(
        default=None, description="How long the certificate must still be good for."
    )
    max_message_bytes: int = Field(
        default=256 * KIBIBYTE,
        ge=KIBIBYTE,
        le=4096 * KIBIBYTE,
        description="A longer message is a failure; all together may be four times as long.",
    )

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        scheme, mark, rest = value.partition("://")
        if not mark or scheme.lower() not in ("ws", "wss"):
            raise ValueError("must start with ws:// or wss://")
        return "ws" + urls.normalize(f"http{scheme.lower()[2:]}://{rest}")[4:]

    @field_validator("headers")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name.lower() == "origin" or name.lower().startswith("sec-websocket-"):
                raise ValueError(f"{name} belongs to the handshake and cannot be set here")
        try:
            validated(HttpConfig, {"url": "http://0.invalid/", "headers": value})
        except ConfigError as exc:
            raise ValueError(str(exc).removeprefix("headers: ")) from None
        return value

    @field_validator("certificate_expiry")
    @classmethod
    def _secure(cls, value: CertificateExpiry | None, info: Any) -> CertificateExpiry | None:
        if value is not None and not info.data.get("url", "wss").startswith("wss"):
            raise ValueError("needs a URL that starts with wss://")
        return value

    @property
    def repeatable(self) -> bool:
        return self.send is None

    def target(self) -> str:
        return urls.shown(self.url)

    @cached_property
    def place(self) -> Place:
        """Where to connect to."""
        scheme, host, port = urls.parts("http" + self.url[2:])
        return Place(host=host, port=port, tls=scheme == "https", verify_tls=self.verify_tls)

    @cached_property
    def message(self) -> str | None:
        """The message to send."""
        if self.send is None or isinstance(self.send, str):
            return self.send
        return json.dumps(self.send, ensure_ascii=False, separators=(",", ":"))
