"""Every setting of a Lighthouse process, and the only reader of the environment.

An unknown LIGHTHOUSE_… variable stops the start: a misspelt setting must not be a silent default.
"""

import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from lighthouse.errors import SettingsError

Network = IPv4Network | IPv6Network

#: Variables of this prefix belong to the test suite; the product neither reads nor refuses them.
_TEST_PREFIX = "LIGHTHOUSE_TEST_"


class Settings(BaseSettings):
    """Read once per process. Secrets never print."""

    model_config = SettingsConfigDict(
        env_prefix="LIGHTHOUSE_", extra="forbid", frozen=True, env_ignore_empty=True
    )

    database_url: SecretStr = Field(
        default=SecretStr(""),
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="PostgreSQL, as postgresql://user:password@host:port/name?sslmode=…",
    )
    redis_url: SecretStr = Field(
        default=SecretStr(""),
        validation_alias=AliasChoices("REDIS_URL", "redis_url"),
        description="Redis, as redis://:password@host:port/0 or rediss://…",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe log line that is written."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="How log lines look: for people or for programs."
    )
    plans: Literal["on", "off"] = Field(
        default="on", description="`off` sets all limits of tiers aside (self-hosting)."
    )
    region: str | None = Field(
        default=None, max_length=32, description="Where this worker probes from; kept on each row."
    )
    egress_allow: Annotated[tuple[Network, ...], NoDecode] = Field(
        default=(),
        description="Networks that may be probed although private, comma-separated.",
    )
    secret_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        default=(),
        description="Fernet keys, comma-separated; the first one encrypts, all decrypt.",
    )
    reference_targets: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="URLs whose answers prove the prober's own health."
    )
    operator_channels: str = Field(
        default="",
        description='JSON list of channels for the fleet\'s own alerts: [{"type": …, "config": …}]',
    )
    chains: SecretStr = Field(
        default=SecretStr(""),
        description="JSON of further chains, or other RPCs of known ones: "
        '{name: {"chain_id": …, "symbol": …, "decimals": …, "rpc_urls": […]}}',
    )
    ca_file: Path | None = Field(
        default=None, description="CA bundle for targets' certificates; the system's when unset."
    )
    worker_concurrency: int = Field(
        default=8, ge=2, le=64, description="Threads that take messages; probes do not need more."
    )
    max_in_flight: int = Field(
        default=1000, ge=1, le=20_000, description="Probes that one worker runs at the same time."
    )
    max_buffered: int = Field(
        default=20_000,
        ge=1000,
        description="Results a worker holds while PostgreSQL is away, before it stops admitting.",
    )
    max_queued: int = Field(
        default=500, ge=1, description="Batches that may wait in Redis before beat stops claiming."
    )
    batch_size: int = Field(
        default=250, ge=1, le=1000, description="Checks in one message at the most."
    )
    tick_ms: int = Field(
        default=100, ge=10, le=1000, description="How often beat claims what is due, in ms."
    )
    flush_ms: int = Field(
        default=200, ge=10, le=5000, description="How long a result waits for its flush, in ms."
    )
    flush_rows: int = Field(
        default=1000, ge=1, le=10_000, description="Rows after which a flush does not wait."
    )
    missed_grace_s: int = Field(
        default=120,
        ge=5,
        description="Seconds after a slot before its missing row is written as missed.",
    )
    shutdown_s: int = Field(
        default=10, ge=1, le=120, description="Seconds a stopping worker gives to running probes."
    )
    raw_history_days: int = Field(
        default=90, ge=8, description="Days that check_history keeps; set by `db upgrade`."
    )
    alerts_per_subscription: int = Field(
        default=20,
        ge=0,
        description="Alerts an hour of one subscription; the rest comes as a summary. 0: no limit.",
    )
    alerts_per_user: int = Field(
        default=200, ge=0, description="The same of one wallet's subscriptions together."
    )
    alert_timeout_s: float = Field(
        default=10.0, gt=0, le=60, description="Seconds that a channel's service may take."
    )
    apprise: Literal["on", "off"] = Field(
        default="off", description="`on` allows channels of the type `apprise`."
    )
    chromium: Path | None = Field(
        default=None,
        description="Browser of the canaries' browser steps; found on the PATH when unset.",
    )
    browser_sandbox: Literal["on", "off"] = Field(
        default="on",
        description="Chromium's own sandbox; it needs user namespaces, and is always off for root.",
    )
    browser_flows: int = Field(
        default=4, ge=1, le=64, description="Browser steps that one worker runs at the same time."
    )
    screenshot_dir: Path | None = Field(
        default=None,
        description="Screenshots of failed steps; in ~/.local/state/lighthouse when unset.",
    )
    telegram_api_url: str = Field(
        default="https://api.telegram.org", description="Base URL of the Telegram Bot API."
    )
    smtp_url: SecretStr | None = Field(
        default=None,
        description="Mail server: smtp://host, smtp+starttls:// or smtps://user:password@host.",
    )
    smtp_from: str | None = Field(
        default=None, description="Sender of the mails, as Lighthouse <alerts@example.com>."
    )
    twilio_account_sid: str | None = Field(default=None, description="Twilio account for SMS.")
    twilio_auth_token: SecretStr | None = Field(default=None, description="Twilio's secret.")
    twilio_from: str | None = Field(default=None, description="Number that SMS are sent from.")
    twilio_api_url: str = Field(
        default="https://api.twilio.com", description="Base URL of Twilio's API."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only `load` gives values, so that it can name the variable that is wrong."""
        return (init_settings,)

    @field_validator("egress_allow", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        return (
            tuple(ip_network(part, strict=False) for part in _split(value))
            if isinstance(value, str)
            else value
        )

    @field_validator("secret_keys", "reference_targets", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return tuple(_split(value)) if isinstance(value, str) else value

    def require_database(self) -> str:
        """DATABASE_URL in clear. Raises SettingsError when unset."""
        url = self.database_url.get_secret_value()
        if not url:
            raise SettingsError(
                "DATABASE_URL is not set; give it as postgresql://user:password@host:5432/lighthouse"
            )
        return url

    def require_redis(self) -> str:
        """REDIS_URL in clear. Raises SettingsError when unset."""
        url = self.redis_url.get_secret_value()
        if not url:
            raise SettingsError("REDIS_URL is not set; give it as redis://host:6379/0")
        try:
            parts = urlsplit(url)
            fits = parts.scheme in ("redis", "rediss") and parts.port != 0
        except ValueError:  # a port that is no number: a password's / and : must be quoted, say
            fits = False
        if not fits:
            raise SettingsError(
                "REDIS_URL is no Redis URL; give it as redis://:password@host:6379/0 or rediss://…,"
                " a password's special characters as %-codes"
            )
        return url


def variable(name: str) -> str:
    """The environment variable that sets a field."""
    return name.upper() if name in ("database_url", "redis_url") else f"LIGHTHOUSE_{name.upper()}"


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings from the environment (this process' when None); overrides win.

    Raises SettingsError with one line that names the variable, never its value.
    """
    env = os.environ if environ is None else environ
    known = {variable(name) for name in Settings.model_fields}
    for name in sorted(env):
        ours = name.startswith("LIGHTHOUSE_") and not name.startswith(_TEST_PREFIX)
        if ours and name not in known:
            raise SettingsError(f"{name} is no setting of Lighthouse; see README, Settings")
    values: dict[str, Any] = {
        field: env[variable(field)] for field in Settings.model_fields if env.get(variable(field))
    }
    try:
        return Settings(**{**values, **overrides})
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        raise SettingsError(f"{variable(field)}: {message}") from None


@lru_cache(maxsize=1)
def current() -> Settings:
    """This process' settings, read at the first call."""
    return load()


def child_environment(**changes: str) -> dict[str, str]:
    """This process' environment with changes, for the processes that it starts."""
    return {**os.environ, **changes}


def bare_environment() -> dict[str, str]:
    """What Python needs to find our packages: no secret, no proxy, no home with passwords."""
    names = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    packages = os.pathsep.join(path for path in sys.path if path)
    added = {"HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": packages}
    return {**kept, **added}


def from_environment(name: str) -> str | None:
    """A variable that the user names, such as the one that holds a target's token."""
    return os.environ.get(name)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
