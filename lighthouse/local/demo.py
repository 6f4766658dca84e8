"""The demo's subscriptions: made once, found again by their names, paused while the demo is off."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from lighthouse import channels, configs, probes
from lighthouse.errors import ConfigError
from lighthouse.local import inbox
from lighthouse.local.targets import Targets
from lighthouse.model import (
    Channel,
    ChannelType,
    MonitorType,
    Subscription,
    SubscriptionStatus,
    Tier,
)
from lighthouse.probes import MonitorConfig
from lighthouse.sealing import Keyring
from lighthouse.store import catalog
from lighthouse.store.creation import NewSubscription
from lighthouse.store.pool import Pool

#: Whose the demo's subscriptions are.
WALLET = "0x" + "de30" * 10
INTERVAL_S = 10
#: The subscription whose mails are in Spanish.
SPANISH = "failing"


async def subscribe(pool: Pool, targets: Targets, keys: Keyring, *, mails: bool) -> None:
    """Watch the targets where they are now, with their inbox as the channel of alerts.

    `mails` tells whether they are mailed too, to the demo's own mail server.
    What an earlier run made is used again; what was cancelled since stays so.
    """
    there = {found.name: found for found in await catalog.list_subscriptions(pool, WALLET)}
    wanted = targets.subscriptions()
    missing = {name: watched for name, watched in wanted.items() if name not in there}
    made = await catalog.create_subscriptions(
        pool, [_new(name, *watched, keys) for name, watched in missing.items()], enforce_plans=False
    )
    for name, subscription_id in zip(missing, made, strict=True):
        await _alert_inbox(pool, subscription_id, targets, keys)
        if mails:
            await _alert_mailbox(pool, subscription_id, name, keys)
    for name, (type_, config) in wanted.items():
        if (
            name in there
            and there[name].status in catalog.LIVE
            and there[name].target_type is type_
        ):
            await _reuse(pool, there[name], config, targets, keys)
            await _reuse_mailbox(pool, there[name], keys, mails=mails)


async def pause(pool: Pool) -> None:
    """Stop watching: targets that are gone would all be down, their slots missed."""
    for found in await catalog.list_subscriptions(pool, WALLET, SubscriptionStatus.ACTIVE):
        await catalog.pause(pool, found.id)


def _new(
    name: str, type_: MonitorType, config: Mapping[str, Any], keys: Keyring
) -> NewSubscription:
    parsed = probes.parse_config(type_, config)
    return NewSubscription(
        wallet=WALLET,
        type=type_,
        config=configs.seal(parsed, keys),
        interval_s=INTERVAL_S,
        worst_case_s=parsed.worst_case_s(INTERVAL_S),
        tier=Tier.ENTERPRISE,
        name=name,
    )


async def _reuse(
    pool: Pool, found: Subscription, config: Mapping[str, Any], targets: Targets, keys: Keyring
) -> None:
    parsed = probes.parse_config(found.target_type, config)
    if parsed != _stored(found, keys):
        await catalog.update_config(
            pool,
            found.id,
            configs.seal(parsed, keys),
            worst_case_s=parsed.worst_case_s(found.check_interval_seconds),
        )
    if found.status is SubscriptionStatus.PAUSED:
        await catalog.resume(pool, found.id)
    urls = {
        channel.id: _given(channel, "url", keys)
        for channel in await catalog.list_channels(pool, found.id)
    }
    for channel_id, url in urls.items():
        if url.endswith("/inbox") and url != targets.inbox_url:
            await catalog.remove_channel(pool, channel_id)
    if targets.inbox_url not in urls.values():
        await _alert_inbox(pool, found.id, targets, keys)


async def _reuse_mailbox(pool: Pool, found: Subscription, keys: Keyring, *, mails: bool) -> None:
    ours = [
        channel
        for channel in await catalog.list_channels(pool, found.id)
        if _given(channel, "to", keys) == inbox.ADDRESS
    ]
    if mails and not ours:
        await _alert_mailbox(pool, found.id, found.name, keys)
    elif not mails:  # a user's own mail server could do nothing with them
        for channel in ours:
            await catalog.remove_channel(pool, channel.id)


def _stored(found: Subscription, keys: Keyring) -> MonitorConfig | None:
    with suppress(ConfigError):  # another key's, or an older Lighthouse's: made anew
        return probes.parse_config(found.target_type, found.target_config, keys)
    return None


def _given(channel: Channel, key: str, keys: Keyring) -> str:
    with suppress(ConfigError):  # not ours, then
        config = channels.parse_config(channel.channel_type, channel.channel_config, keys)
        return str(getattr(config, key, ""))
    return ""


async def _alert_inbox(pool: Pool, subscription_id: UUID, targets: Targets, keys: Keyring) -> None:
    config = channels.parse_config(ChannelType.WEBHOOK, {"url": targets.inbox_url})
    await catalog.add_channel(
        pool,
        subscription_id,
        ChannelType.WEBHOOK,
        configs.seal(config, keys),
        enforce_plans=False,
    )


async def _alert_mailbox(pool: Pool, subscription_id: UUID, name: str, keys: Keyring) -> None:
    config = channels.parse_config(ChannelType.EMAIL, {"to": inbox.ADDRESS})
    await catalog.add_channel(
        pool,
        subscription_id,
        ChannelType.EMAIL,
        configs.seal(config, keys),
        language="es" if name == SPANISH else "en",
        enforce_plans=False,
    )
