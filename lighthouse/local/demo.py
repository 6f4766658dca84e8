"""The demo's subscriptions: made once, found again by their names, paused while the demo is off."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from lighthouse import channels, probes
from lighthouse.local.targets import Targets
from lighthouse.model import ChannelType, MonitorType, Subscription, SubscriptionStatus, Tier
from lighthouse.store import catalog
from lighthouse.store.creation import NewSubscription
from lighthouse.store.pool import Pool

#: Whose the demo's subscriptions are.
WALLET = "0x" + "de30" * 10
INTERVAL_S = 10


async def subscribe(pool: Pool, targets: Targets) -> None:
    """Watch the targets where they are now, with their inbox as the channel of alerts.

    What an earlier run made is used again; what was cancelled since stays so.
    """
    there = {found.name: found for found in await catalog.list_subscriptions(pool, WALLET)}
    wanted = targets.subscriptions()
    missing = {name: config for name, config in wanted.items() if name not in there}
    made = await catalog.create_subscriptions(
        pool, [_new(name, config) for name, config in missing.items()], enforce_plans=False
    )
    for subscription_id in made:
        await _alert_inbox(pool, subscription_id, targets)
    for name, config in wanted.items():
        if name in there and there[name].status in catalog.LIVE:
            await _reuse(pool, there[name], config, targets)


async def pause(pool: Pool) -> None:
    """Stop watching: targets that are gone would all be down, their slots missed."""
    for found in await catalog.list_subscriptions(pool, WALLET, SubscriptionStatus.ACTIVE):
        await catalog.pause(pool, found.id)


def _new(name: str, config: Mapping[str, Any]) -> NewSubscription:
    parsed = probes.parse_config(MonitorType.HTTP, config)
    return NewSubscription(
        wallet=WALLET,
        type=MonitorType.HTTP,
        config=config,
        interval_s=INTERVAL_S,
        worst_case_s=parsed.worst_case_s(INTERVAL_S),
        tier=Tier.ENTERPRISE,
        name=name,
    )


async def _reuse(
    pool: Pool, found: Subscription, config: Mapping[str, Any], targets: Targets
) -> None:
    if dict(found.target_config) != dict(config):
        parsed = probes.parse_config(MonitorType.HTTP, config)
        await catalog.update_config(
            pool,
            found.id,
            config,
            worst_case_s=parsed.worst_case_s(found.check_interval_seconds),
        )
    if found.status is SubscriptionStatus.PAUSED:
        await catalog.resume(pool, found.id)
    inboxes = [
        channel
        for channel in await catalog.list_channels(pool, found.id)
        if str(channel.channel_config.get("url", "")).endswith("/inbox")
    ]
    for channel in inboxes:
        if channel.channel_config["url"] != targets.inbox_url:
            await catalog.remove_channel(pool, channel.id)
    if not any(channel.channel_config["url"] == targets.inbox_url for channel in inboxes):
        await _alert_inbox(pool, found.id, targets)


async def _alert_inbox(pool: Pool, subscription_id: UUID, targets: Targets) -> None:
    config = {"url": targets.inbox_url}
    channels.parse_config(ChannelType.WEBHOOK, config)
    await catalog.add_channel(
        pool, subscription_id, ChannelType.WEBHOOK, config, enforce_plans=False
    )
