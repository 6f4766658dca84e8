"""A channel that is gone is switched off, and its owner hears of it on another one."""

import json
from uuid import UUID

from psycopg.types.json import Jsonb

from lighthouse.model import (
    AlertType,
    DeliveryState,
)
from lighthouse.store import outbox
from lighthouse.store.pool import Pool
from tests.support.couriers import courier, happen, rows, subscribe
from tests.support.services import Discord, Receiver


async def add_channel(
    pool: Pool, subscription_id: UUID, url: str, min_severity: str, **metadata: str
) -> UUID:
    ((found,),) = await rows(
        pool,
        "INSERT INTO alert_channels (subscription_id, channel_type, channel_config, min_severity,"
        " metadata) VALUES (%s, 'webhook', %s, %s, %s) RETURNING id",
        subscription_id,
        Jsonb({"url": url}),
        min_severity,
        Jsonb(metadata),
    )
    assert isinstance(found, UUID)
    return found


async def test_the_owner_of_a_lost_channel_hears_of_it_once_on_another(pool: Pool) -> None:
    async with Discord() as discord, Receiver() as receiver, courier(pool) as mine:
        discord.deleted.add("1")
        one = await subscribe(pool, "discord", webhook_url=discord.url())
        stranger = await subscribe(pool, "webhook", url=f"{receiver.base}/stranger")
        # It hears of it whatever it wants to hear of else.
        await add_channel(
            *(pool, one, f"{receiver.base}/owner", "critical"),
            language="es",
            timezone="Europe/Madrid",
        )
        for ago in (3000, 2000):
            await happen(pool, one, ago_ms=ago)
        for _ in range(3):
            await mine.deliver_due()
        await happen(pool, stranger)
        await mine.deliver_due()
    assert receiver.paths == ["/owner"] * 3 + ["/stranger"]
    told = [json.loads(body)["data"] for body in receiver.bodies[:3]]
    assert [each["title"] for each in told] == [
        *["Shop está caído"] * 2,
        "Shop: el canal discord se ha desactivado",
    ]
    assert len(set(receiver.ids)) == 4
    assert len([a for a in await outbox.alerts(pool) if a.alert_type is AlertType.OPERATOR]) == 1
    kinds = await rows(pool, "SELECT channel_type::text FROM alert_channels WHERE NOT enabled")
    assert kinds == [("discord",)]


async def test_a_lost_notice_that_its_channel_loses_too_ends(pool: Pool) -> None:
    async with Discord() as discord, courier(pool) as mine:
        discord.deleted |= {"1", "2"}
        one = await subscribe(pool, "discord", webhook_url=discord.url("1"))
        await happen(pool, one)
        await rows(
            pool,
            "INSERT INTO alert_channels (subscription_id, channel_type, channel_config)"
            " VALUES (%s, 'discord', %s)",
            one,
            Jsonb({"webhook_url": discord.url("2")}),
        )
        for _ in range(4):
            await mine.deliver_due()
        assert await outbox.due_count(pool) == 0
    assert discord.requests == 2
    assert await rows(pool, "SELECT count(*) FROM alert_channels WHERE enabled") == [(0,)]


async def test_a_channel_that_was_repaired_meanwhile_stays_on_and_nobody_is_told(
    pool: Pool,
) -> None:
    one = await subscribe(pool, "webhook", url="http://127.0.0.1:9/old")
    await add_channel(pool, one, "http://127.0.0.1:9/other", "critical")
    await happen(pool, one)
    (claimed,) = [
        each
        for each in await outbox.claim(pool, 2, 30.0)
        if each.channel is not None and each.channel.channel_config["url"].endswith("old")
    ]
    await rows(
        pool,
        "UPDATE alert_channels SET channel_config = %s WHERE id = %s",
        Jsonb({"url": "http://127.0.0.1:9/new"}),
        claimed.channel_id,
    )
    assert await outbox.mark_end(
        pool, claimed, DeliveryState.GAVE_UP, "HTTP 410", disable_channel=True
    )
    assert await rows(pool, "SELECT count(*) FROM alert_channels WHERE enabled") == [(2,)]
    assert [a.alert_type for a in await outbox.alerts(pool)] == [AlertType.DOWNTIME] * 2
