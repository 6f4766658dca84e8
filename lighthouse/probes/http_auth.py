"""Who a check is to its target: basic and bearer credentials, a client certificate, a proxy.

The parts of an `http` configuration that hold secrets; none of them is ever shown.
"""

import base64
import re
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lighthouse import urls
from lighthouse.configs import Secret
from lighthouse.probes.wire.transport import Proxy

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PROXIES = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

#: Characters of a bearer token, as RFC 6750 has them.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")


class Part(BaseModel):
    """A part of a configuration: immutable, without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )


class BasicAuth(Part):
    """HTTP basic authentication."""

    username: str = Field(max_length=255, description="Without a colon.")
    password: Secret = Field(max_length=4096, description="May be empty.")

    @field_validator("username")
    @classmethod
    def _no_colon(cls, value: str) -> str:
        if ":" in value or _CONTROL.search(value):
            raise ValueError("holds a colon or a control character")
        return value

    @property
    def header(self) -> str:
        """The value of the Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


def checked_token(value: str) -> str:
    """A bearer token. Raises ValueError with one line."""
    if not _TOKEN.fullmatch(value):
        raise ValueError("is no bearer token: letters, digits and -._~+/ only")
    return value


class ClientCertificate(Part):
    """The certificate by which the prober proves itself (mutual TLS)."""

    certificate: Secret = Field(
        max_length=65_536, description="PEM: the certificate, then those that lead to its issuer."
    )
    key: Secret = Field(max_length=16_384, description="PEM: its private key, unencrypted.")

    @model_validator(mode="after")
    def _belong_together(self) -> "ClientCertificate":
        try:
            first = x509.load_pem_x509_certificates(self.certificate.encode())[0]
        except ValueError:
            raise ValueError("the certificate is no PEM certificate") from None
        try:
            key = load_pem_private_key(self.key.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError("the key is no unencrypted private key in PEM") from None
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if key.public_key().public_bytes(*form) != first.public_key().public_bytes(*form):
            raise ValueError("the key is not the certificate's")
        return self


class ProxyConfig(Part):
    """What stands between the prober and the target."""

    url: str = Field(
        max_length=1024,
        description="http://, https://, socks5:// (names are looked up by the prober) or"
        " socks5h:// (by the proxy), with a host and a port.",
    )
    username: str | None = Field(default=None, max_length=255, description="For the proxy.")
    password: Secret = Field(default="", max_length=255, description="For the proxy.")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        scheme, _, rest = value.partition("://")
        scheme = scheme.lower()
        if scheme not in _PROXIES:
            raise ValueError("must start with http://, https://, socks5:// or socks5h://")
        split, _ = urls.checked(f"http://{rest}")
        if "@" in split.netloc:
            raise ValueError("holds credentials; use username and password")
        if split.path not in ("", "/") or split.query or split.fragment:
            raise ValueError("has a path; a proxy is a host and a port")
        return f"{scheme}://{split.netloc}"

    @property
    def proxy(self) -> Proxy:
        """What the transport takes."""
        scheme, _, rest = self.url.partition("://")
        split, host = urls.checked(f"http://{rest}")
        return Proxy(
            kind=scheme,
            host=host,
            port=split.port or _PROXIES[scheme],
            numeric=urls.is_numeric(host),
            username=self.username,
            password=self.password,
        )


class OAuth2(Part):
    """OAuth 2.0 client credentials (RFC 6749, 4.4): a token is fetched and kept until it expires.

    The token's server is part of what is watched: without a token the check is a failure with the
    reason `token`, unless the prober itself was at fault.
    """

    token_url: str = Field(description="Where the token is asked for; http:// or https://.")
    client_id: str = Field(min_length=1, max_length=1024, description="The client's name.")
    client_secret: Secret = Field(min_length=1, max_length=4096, description="Its secret.")
    scope: str | None = Field(
        default=None, max_length=4096, description="Scopes, separated by spaces."
    )
    audience: str | None = Field(
        default=None, max_length=1024, description="Whom the token is for, where that is asked."
    )
    send_as: Literal["basic", "body"] = Field(
        default="basic",
        description="Where the client's name and secret stand: in a header or in the body.",
    )

    @field_validator("token_url")
    @classmethod
    def _url(cls, value: str) -> str:
        return urls.normalize(value)
