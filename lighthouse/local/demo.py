"""The demo's subscriptions: made once, found again by their names, paused while the demo is off."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID

from lighthouse import channels, configs, probes
from lighthouse.errors import ConfigError
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


async def subscribe(pool: Pool, targets: Targets, keys: Keyring) -> None:
    """Watch the targets where they are now, with their inbox as the channel of alerts.

    What an earlier run made is used again; what was cancelled since stays so.
    """
    there = {found.name: found for found in await catalog.list_subscriptions(pool, WALLET)}
    wanted = targets.subscriptions()
    missing = {name: watched for name, watched in wanted.items() if name not in there}
    made = await catalog.create_subscriptions(
        pool, [_new(name, *watched, keys) for name, watched in missing.items()], enforce_plans=False
    )
    for subscription_id in made:
        await _alert_inbox(pool, subscription_id, targets, keys)
    for name, (type_, config) in wanted.items():
        if (
            name in there
            and there[name].status in catalog.LIVE
            and there[name].target_type is type_
        ):
            await _reuse(pool, there[name], config, targets, keys)


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
        channel.id: _inbox(channel, keys) for channel in await catalog.list_channels(pool, found.id)
    }
    for channel_id, url in urls.items():
        if url.endswith("/inbox") and url != targets.inbox_url:
            await catalog.remove_channel(pool, channel_id)
    if targets.inbox_url not in urls.values():
        await _alert_inbox(pool, found.id, targets, keys)


def _stored(found: Subscription, keys: Keyring) -> MonitorConfig | None:
    with suppress(ConfigError):  # another key's, or an older Lighthouse's: made anew
        return probes.parse_config(found.target_type, found.target_config, keys)
    return None


def _inbox(channel: Channel, keys: Keyring) -> str:
    with suppress(ConfigError):  # not ours, then
        config = channels.parse_config(channel.channel_type, channel.channel_config, keys)
        return str(getattr(config, "url", ""))
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
