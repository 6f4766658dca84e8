"""Channels: one file per type, one map, and the `Sender` that a worker's engine owns.

A new channel type is a file with a configuration and an async function, and a line in `CHANNELS`.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from lighthouse.channels import apprise, discord, email, slack, sms, telegram, webhook
from lighthouse.channels.config import ChannelConfig
from lighthouse.channels.http import Http
from lighthouse.channels.operators import read_channels, refused
from lighthouse.channels.pacing import Pacer
from lighthouse.channels.templates import LANGUAGES, Message, check_timezone, compose, compose_test
from lighthouse.configs import shown, validated
from lighthouse.errors import ConfigError, SealedError, SettingsError
from lighthouse.model import Answer, Channel, ChannelType, Delivery
from lighthouse.sealing import Keyring
from lighthouse.settings import Settings

__all__ = ["CHANNELS", "LANGUAGES", "ChannelConfig", "Sender", "json_schema", "operator_channels"]
__all__ += ["check_timezone", "parse_config", "require_settings", "send_test", "shown_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A channel type: what configures it and what sends one message through it."""

    config: type[ChannelConfig]
    send: Callable[[Http, Any, Message], Awaitable[Answer]]
    #: Raises SettingsError when the operator has not set what the type needs.
    require: Callable[[Settings], object] = lambda settings: None  # noqa: ARG005
    #: Raises ConfigError for a configuration that somebody gives and only the type's library can
    #: judge; it may take a second or two.
    judge: Callable[[Any], object] = lambda config: None  # noqa: ARG005


CHANNELS: Mapping[ChannelType, Kind] = {
    ChannelType.APPRISE: Kind(
        config=apprise.AppriseConfig,
        send=apprise.send,
        require=apprise.installed,
        judge=apprise.judge,
    ),
    ChannelType.DISCORD: Kind(config=discord.DiscordConfig, send=discord.send),
    ChannelType.EMAIL: Kind(config=email.EmailConfig, send=email.send, require=email.server),
    ChannelType.SLACK: Kind(config=slack.SlackConfig, send=slack.send),
    ChannelType.SMS: Kind(config=sms.SmsConfig, send=sms.send, require=sms.account),
    ChannelType.TELEGRAM: Kind(config=telegram.TelegramConfig, send=telegram.send),
    ChannelType.WEBHOOK: Kind(config=webhook.WebhookConfig, send=webhook.send),
}


def parse_config(
    type: ChannelType,  # noqa: A002
    config: Mapping[str, Any],
    keys: Keyring | None = None,
) -> ChannelConfig:
    """Read and check a channel's configuration; a stored one needs the keys that open its secrets.

    Raises ConfigError with one line that names the field and repeats no value of it.
    """
    kind = _kind(type)
    read = validated(kind.config, config, keys)
    if keys is None:
        kind.judge(read)
    return read


def require_settings(type: ChannelType, settings: Settings) -> None:  # noqa: A002
    """Make sure that the operator has set what a channel type needs. Raises SettingsError."""
    _kind(type).require(settings)


def shown_config(type: ChannelType, config: Mapping[str, Any], keys: Keyring) -> dict[str, Any]:  # noqa: A002
    """A stored configuration with stars for its secrets."""
    return shown(CHANNELS[type].config if type in CHANNELS else None, config, keys)


def json_schema(type: ChannelType) -> dict[str, Any]:  # noqa: A002
    """The JSON Schema of a channel type's configuration. Raises ConfigError for an unbuilt type."""
    return _kind(type).config.model_json_schema()


def operator_channels(settings: Settings) -> tuple[Channel, ...]:
    """The channels that hear of the fleet's own troubles. Raises SettingsError."""
    channels = read_channels(settings.operator_channels)
    for index, channel in enumerate(channels):
        try:
            parse_config(channel.channel_type, channel.channel_config)
            require_settings(channel.channel_type, settings)
        except ConfigError as exc:
            raise refused(index, exc) from None
    return channels


def _kind(type_: ChannelType) -> Kind:
    kind = CHANNELS.get(type_)
    if kind is None:
        raise ConfigError(f"{type_.value} channels are not built yet", "type")
    return kind


class Sender:
    """Sends messages on the event loop that it was entered on. Not thread-safe.

    `operator_channels` maps the ids of the channels that stand in the settings; `pacer` is what all
    senders of the fleet share, and None lets this one pace itself. Making a sender raises
    SettingsError when that setting is wrong.
    """

    def __init__(self, settings: Settings, *, pacer: Pacer | None = None) -> None:
        self._settings = settings
        self._keys = Keyring(settings.secret_keys)
        self.operator_channels = {c.id: c for c in operator_channels(settings)}
        self._http = Http(settings, pacer)
        #: The longest that `send` takes, in seconds.
        self.longest_send_s = self._http.longest_s

    async def __aenter__(self) -> "Sender":
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    def bulkhead(self, channel: Channel) -> str:
        """What a channel shares its fate with: "discord", or "webhook:host" for a host of its own.

        The operator's channels share it with none of the tenants': "operator:discord".
        """
        own = "operator:" if channel.id in self.operator_channels else ""
        kind = channel.channel_type
        host = None
        with suppress(ConfigError):  # it reaches no host at all
            host = parse_config(kind, channel.channel_config, self._keys).foreign_host
        return f"{own}{kind.value}" + (f":{host}" if host is not None else "")

    async def send(self, delivery: Delivery) -> Answer:
        """Send one delivery, once. What its service or its configuration does never raises.

        Raises ValueError for a delivery without a channel.
        """
        if delivery.channel is None:
            raise ValueError("a delivery without a channel cannot be sent")
        return await self._send(
            delivery.channel,
            compose(delivery, delivery.channel.language, delivery.channel.timezone),
        )

    def address(self, channel: Channel) -> str:
        """What stands for where a channel leads: the same for all that lead there."""
        try:
            config = parse_config(channel.channel_type, channel.channel_config, self._keys)
        except ConfigError:
            return str(channel.id)
        told = f"{channel.channel_type.value} {config.model_dump_json()}"
        return hashlib.sha256(told.encode()).hexdigest()

    async def send_test(self, channel: Channel) -> Answer:
        """Send a message that only shows that the channel works."""
        return await self._send(channel, compose_test(channel, datetime.now(UTC)))

    async def _send(self, channel: Channel, message: Message) -> Answer:
        try:
            config = parse_config(channel.channel_type, channel.channel_config, self._keys)
        except ConfigError as exc:
            detail = f"its configuration: {exc}"
            # Another worker may have the key, or this one be given it, within the 24 hours.
            sealed = isinstance(exc, SealedError)
            return Answer(ok=False, detail=detail, permanent=not sealed, unreadable=True)
        kind = _kind(channel.channel_type)
        try:
            kind.require(self._settings)
        except SettingsError as exc:  # the operator's to repair, within the 24 hours
            return Answer(ok=False, detail=str(exc))
        return await kind.send(self._http, config, message)


async def send_test(channel: Channel, settings: Settings) -> Answer:
    """One test message, now, with a sender of its own: for the command line."""
    async with Sender(settings) as sender:
        return await sender.send_test(channel)
