"""The courier: from due rows of the outbox to messages at their services, through faults."""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from structlog.testing import capture_logs

from lighthouse.channels import Sender, operator_channels
from lighthouse.errors import StoreUnavailable
from lighthouse.fleet import delivery as courier_module
from lighthouse.fleet.delivery import Courier
from lighthouse.model import (
    AlertType,
    Answer,
    Delivery,
    DeliveryState,
    from_slot,
)
from lighthouse.store import outbox
from lighthouse.store.pool import Pool
from tests.support.couriers import (
    SENT,
    courier,
    eventually,
    happen,
    make_due,
    only,
    rows,
    settings,
    subscribe,
    until_all_sent,
)
from tests.support.services import Discord, Receiver

PENDING = DeliveryState.PENDING


async def test_an_event_reaches_discord_and_a_webhook_and_its_check_knows(pool: Pool) -> None:
    async with Discord() as discord, Receiver("key") as receiver, courier(pool) as mine:
        one = await subscribe(pool, "discord", webhook_url=discord.url())
        await rows(
            pool,
            "INSERT INTO alert_channels (subscription_id, channel_type, channel_config)"
            " VALUES (%s, 'webhook', %s)",
            one,
            Jsonb({"url": f"{receiver.base}/ok", "secret": "key"}),
        )
        slot = await happen(pool, one)
        await rows(
            pool,
            "INSERT INTO check_history (time, subscription_id, status) VALUES (%s, %s, 'failure')",
            from_slot(slot),
            one,
        )
        assert await mine.deliver_due() == 2
        assert await mine.deliver_due() == 0

    assert discord.titles() == ["Shop is down"]
    assert receiver.verified == [True]
    document = json.loads(receiver.bodies[0])
    assert (document["type"], document["data"]["slot"]) == ("downtime", slot)
    assert document["data"]["http_status"] == 503
    assert {a.state for a in await outbox.alerts(pool)} == {SENT}
    ((told,),) = await rows(pool, "SELECT alert_sent_at FROM check_history")
    assert told is not None


async def test_a_service_that_is_down_is_tried_again_when_postgresql_says_so(pool: Pool) -> None:
    async with Discord() as discord, courier(pool) as mine:
        discord.down = True
        await happen(pool, await subscribe(pool, "discord", webhook_url=discord.url()))
        assert await mine.deliver_due() == 0
        alert = await only(pool)
        assert (alert.state, alert.attempt, alert.last_answer) == (PENDING, 1, "HTTP 503")
        assert alert.next_attempt_at is not None
        ((wait_s,),) = await rows(
            pool, "SELECT extract(epoch FROM next_attempt_at - now()) FROM alert_history"
        )
        assert 1.0 < wait_s <= 2.5

        discord.down = False
        assert await mine.deliver_due() == 0  # its time has not come
        assert discord.requests == 1
        await make_due(pool)
        assert await mine.deliver_due() == 1
        alert = await only(pool)
        assert (alert.state, alert.attempt, alert.last_answer) == (SENT, 2, "HTTP 200")


async def test_a_courier_that_died_after_its_claim_is_replaced_when_its_lease_ends(
    pool: Pool,
) -> None:
    async with Receiver() as receiver, courier(pool) as mine:
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/ok"))
        assert len(await outbox.claim(pool, 10, lease_s=0.3)) == 1  # and then it was killed
        assert await mine.deliver_due() == 0
        await asyncio.sleep(0.35)
        assert await mine.deliver_due() == 1
    assert len(receiver.ids) == 1


async def test_a_courier_that_died_after_sending_repeats_the_message_with_its_key(
    pool: Pool,
) -> None:
    async with Receiver() as receiver, Sender(settings()) as sender:
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/ok"))
        (claimed,) = await outbox.claim(pool, 10, lease_s=0.2)
        assert (await sender.send(claimed)).ok  # and then it was killed
        await asyncio.sleep(0.25)
        assert await Courier(pool, sender).deliver_due() == 1
        assert await outbox.mark_sent(pool, claimed, "late") is False
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1
    assert receiver.bodies[0] == receiver.bodies[1]


async def test_couriers_at_once_send_each_message_once(pool: Pool) -> None:
    async with Receiver() as receiver, courier(pool) as one, courier(pool) as two:
        for _ in range(6):
            subscription = await subscribe(pool, url=f"{receiver.base}/ok")
            for number in range(5):
                await happen(pool, subscription, ago_ms=1000 * (number + 1))
        sent = await asyncio.gather(one.deliver_due(4), two.deliver_due(4))
    assert sum(sent) == 30
    assert len(receiver.ids) == len(set(receiver.ids)) == 30
    assert await outbox.due_count(pool) == 0


async def test_a_channel_that_hangs_delays_no_other_not_even_events_that_come_later(
    pool: Pool,
) -> None:
    async with Receiver() as receiver, courier(pool, timeout_s=4.0) as mine:
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/hang"), ago_ms=9000)
        quick = await subscribe(pool, url=f"{receiver.base}/ok")
        await happen(pool, quick)
        began = time.monotonic()
        running = asyncio.create_task(mine.deliver_due())
        await eventually(lambda: receiver.paths.count("/ok") == 1)
        await happen(pool, quick, AlertType.RECOVERY, ago_ms=0)
        assert await mine.deliver_due() == 0  # only a hint for the one that runs
        await eventually(lambda: receiver.paths.count("/ok") == 2)
        assert time.monotonic() - began < 3.5
        assert await running == 2
        assert time.monotonic() - began >= 4.0
    states = {a.last_answer: a.state for a in await outbox.alerts(pool)}
    assert states == {"HTTP 204": SENT, "no answer within 4 s": PENDING}


async def test_what_goes_to_one_channel_goes_in_the_order_of_its_events(pool: Pool) -> None:
    async with Receiver() as receiver, courier(pool) as mine:
        one = await subscribe(pool, url=f"{receiver.base}/ok")
        await happen(pool, one, AlertType.RECOVERY, ago_ms=2000)
        await happen(pool, one, AlertType.DOWNTIME, ago_ms=9000)
        await happen(pool, one, AlertType.DOWNTIME, ago_ms=1000)
        await mine.deliver_due()
    slots = [json.loads(body)["data"]["slot"] for body in receiver.bodies]
    assert len(slots) == 3
    assert slots == sorted(slots)


async def test_after_24_hours_without_success_a_delivery_is_given_up(pool: Pool) -> None:
    async with Receiver() as receiver, courier(pool) as mine:
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/status/503"))
        assert await mine.deliver_due() == 0
        await rows(
            pool,
            "UPDATE alert_history SET next_attempt_at = now(), tries = jsonb_set(tries, '{0,at}',"
            " to_jsonb(now() - interval '24 hours 1 second'))",
        )
        assert await mine.deliver_due() == 0
    alert = await only(pool)
    assert alert.state is DeliveryState.GAVE_UP
    assert alert.failed_reason == "no success in 24 hours: HTTP 503"
    assert [one.answer for one in alert.tries] == ["HTTP 503", "HTTP 503"]
    assert len(receiver.paths) == 2


async def test_a_removed_channel_and_one_switched_off_end_without_a_message(pool: Pool) -> None:
    async with Receiver() as receiver, courier(pool) as mine:
        removed = await subscribe(pool, url=f"{receiver.base}/removed")
        off = await subscribe(pool, url=f"{receiver.base}/off")
        for one in (removed, off):
            await happen(pool, one)
        await rows(pool, "DELETE FROM alert_channels WHERE subscription_id = %s", removed)
        await rows(
            pool, "UPDATE alert_channels SET enabled = false WHERE subscription_id = %s", off
        )
        assert await mine.deliver_due() == 0
    assert receiver.paths == []
    (gone,), (silent,) = await outbox.alerts(pool, removed), await outbox.alerts(pool, off)
    assert (gone.state, gone.failed_reason) == (
        DeliveryState.CHANNEL_REMOVED,
        "the channel was removed",
    )
    assert (silent.state, silent.failed_reason) == (
        DeliveryState.SUPPRESSED,
        "the channel is switched off",
    )


async def test_a_deleted_discord_webhook_is_asked_once_and_never_again(pool: Pool) -> None:
    async with Discord() as discord, courier(pool) as mine:
        discord.deleted.add("1")
        one = await subscribe(pool, "discord", webhook_url=discord.url())
        for ago in (3000, 2000, 1000):
            await happen(pool, one, ago_ms=ago)
        assert await mine.deliver_due(limit=1) == 0
        await happen(pool, one, ago_ms=0)
    assert discord.requests == 1
    reasons = [(a.state, a.failed_reason) for a in await outbox.alerts(pool)]
    assert reasons == [
        (DeliveryState.SUPPRESSED, "no channel"),  # the last event
        (DeliveryState.SUPPRESSED, "no channel"),  # that this one was switched off
        (DeliveryState.SUPPRESSED, "the channel is switched off"),
        (DeliveryState.SUPPRESSED, "the channel is switched off"),
        (DeliveryState.GAVE_UP, "HTTP 404 (code 10015)"),
    ]
    ((metadata,),) = await rows(pool, "SELECT metadata FROM alert_channels WHERE NOT enabled")
    assert metadata["disabled_reason"] == "HTTP 404 (code 10015)"


class Buggy(Sender):
    """A sender with a bug that a certain address brings out."""

    async def send(self, delivery: Delivery) -> Answer:
        assert delivery.channel is not None
        if "buggy" in delivery.channel.channel_config["url"]:
            raise RuntimeError(delivery.channel.channel_config["url"])
        return await super().send(delivery)


async def test_a_bug_in_one_delivery_loses_no_other_and_its_log_shows_no_address(
    pool: Pool,
) -> None:
    async with Receiver() as receiver, Buggy(settings()) as sender:
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/buggy/t0ken"))
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/ok"))
        with capture_logs() as logs:
            assert await Courier(pool, sender).deliver_due() == 1
    states = {a.state: a for a in await outbox.alerts(pool)}
    assert set(states) == {SENT, PENDING}
    assert states[PENDING].last_answer == "internal error: RuntimeError"
    (bug,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert "in send" in bug["frames"]
    assert "t0ken" not in repr(logs)


async def test_a_message_that_was_sent_is_marked_when_postgresql_comes_back(
    pool: Pool, postgres_server: str
) -> None:
    ((name,),) = await rows(pool, "SELECT current_database()")

    async def allow(allowed: bool) -> None:
        async with await psycopg.AsyncConnection.connect(postgres_server, autocommit=True) as admin:
            change = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
            await admin.execute(change.format(sql.Identifier(name), sql.Literal(allowed)))
            if not allowed:
                await admin.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = %s",
                    (name,),
                )

    class Cutting(Sender):
        async def send(self, delivery: Delivery) -> Answer:
            answer = await super().send(delivery)
            await allow(False)
            return answer

    async with Receiver() as receiver, Cutting(settings()) as sender:
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/ok"))
        running = asyncio.create_task(Courier(pool, sender).deliver_due())
        await eventually(lambda: len(receiver.ids) == 1)
        await asyncio.sleep(1.0)
        await allow(True)
        with suppress(StoreUnavailable):  # its next claim may have met the same absence
            await running
        assert (await only(pool)).state is SENT
        assert await Courier(pool, sender).deliver_due() == 0
    assert len(receiver.ids) == 1


async def test_a_storm_to_one_discord_webhook_all_arrives_and_provokes_no_refusal(
    pool: Pool,
) -> None:
    async with Discord(per_window=5, window_s=0.3) as discord, courier(pool) as mine:
        for _ in range(30):
            await happen(pool, await subscribe(pool, "discord", webhook_url=discord.url()))
        await until_all_sent(pool, [mine])
    assert len(discord.posted) == 30
    assert discord.refused == 0
    # Being held back is no attempt.
    assert {a.attempt for a in await outbox.alerts(pool)} == {1}


async def test_two_couriers_that_share_a_discord_webhook_obey_its_429(pool: Pool) -> None:
    async with (
        Discord(per_window=5, window_s=0.3) as discord,
        courier(pool) as one,
        courier(pool) as two,
    ):
        for _ in range(12):
            await happen(pool, await subscribe(pool, "discord", webhook_url=discord.url()))
        await until_all_sent(pool, [one, two])
    assert len(discord.posted) == 12
    assert len({body["embeds"][0]["footer"]["text"] for body in discord.posted}) == 12
    assert discord.refused <= 6


async def test_operator_events_go_to_the_channels_of_the_settings(pool: Pool) -> None:
    async with Receiver() as receiver:
        text = json.dumps([{"type": "webhook", "config": {"url": f"{receiver.base}/ops"}}])
        with_channel = {"LIGHTHOUSE_OPERATOR_CHANNELS": text}
        ids = [c.id for c in operator_channels(settings(**with_channel))]
        async with pool.connection() as connection:
            for key in ("clock:1", "clock:2"):
                assert await outbox.enqueue_operator(connection, ids, key, "Clock", "jumped") == 1
        async with courier(pool, **with_channel) as mine:
            assert await mine.deliver_due(limit=1) == 2
        assert receiver.paths == ["/ops", "/ops"]
        assert json.loads(receiver.bodies[0])["type"] == "operator"

        async with pool.connection() as connection:
            await outbox.enqueue_operator(connection, ids, "clock:3", "Clock", "jumped")
        async with courier(pool) as without:
            assert await without.deliver_due() == 0
    assert sorted(a.state for a in await outbox.alerts(pool)) == ["channel_removed", "sent", "sent"]


async def test_closing_lets_the_message_under_way_end_and_gives_the_others_back(
    pool: Pool,
) -> None:
    class Slow(Receiver):
        async def handle(self, request: Any) -> Any:
            await asyncio.sleep(0.3)
            return await super().handle(request)

    async with Slow() as receiver, courier(pool) as mine:
        one = await subscribe(pool, url=f"{receiver.base}/ok")
        for ago in (3000, 2000, 1000):
            await happen(pool, one, ago_ms=ago)
        running = asyncio.create_task(mine.deliver_due())
        await asyncio.sleep(0.15)
        await mine.close(5.0)
        assert await running == 1
        assert await mine.deliver_due() == 0
    assert len(receiver.ids) == 1
    found = await outbox.alerts(pool)
    assert sorted((a.state, a.attempt) for a in found) == [(PENDING, 0), (PENDING, 0), (SENT, 1)]
    assert await outbox.due_count(pool) == 2


async def test_closing_cuts_off_what_does_not_end_and_leaves_it_to_its_lease(pool: Pool) -> None:
    async with Receiver() as receiver, courier(pool, timeout_s=5.0) as mine:
        await happen(pool, await subscribe(pool, url=f"{receiver.base}/hang"))
        running = asyncio.create_task(mine.deliver_due())
        await eventually(lambda: receiver.paths == ["/hang"])
        began = time.monotonic()
        await mine.close(0.2)
        assert time.monotonic() - began < 3.0
        assert await running == 0
    assert (await only(pool)).state is PENDING
    ((left_s,),) = await rows(
        pool, "SELECT extract(epoch FROM lease_until - now()) FROM alert_history"
    )
    assert left_s > 0


async def test_what_the_lease_is_too_short_for_is_given_back_and_claimed_anew(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Receiver):
        async def handle(self, request: Any) -> Any:
            await asyncio.sleep(0.3)
            return await super().handle(request)

    monkeypatch.setattr(courier_module, "LEASE_MARGIN_S", courier_module.MARK_S + 0.4)
    given_back: list[UUID] = []
    real = outbox.put_back

    async def put_back(pool: Pool, delivery: Delivery, next_in_s: float = 0.0) -> bool:
        given_back.append(delivery.event_id)
        return await real(pool, delivery, next_in_s)

    monkeypatch.setattr(outbox, "put_back", put_back)
    async with Slow() as receiver, courier(pool) as mine:
        one = await subscribe(pool, url=f"{receiver.base}/ok")
        for ago in (5000, 4000, 3000, 2000, 1000):
            await happen(pool, one, ago_ms=ago)
        assert await mine.deliver_due() == 5
    assert given_back
    assert len(receiver.ids) == len(set(receiver.ids)) == 5
    assert {a.attempt for a in await outbox.alerts(pool)} == {1}
