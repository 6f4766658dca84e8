"""What of an incident is told, held and let go: by real couriers, to a real receiver."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from aiohttp import web

from lighthouse.model import AlertType, CheckStatus, Severity, from_slot
from lighthouse.store import outbox
from lighthouse.store.pool import Pool
from lighthouse.store.record import record
from tests.support.couriers import courier, eventually, make_due, rows
from tests.support.services import Receiver
from tests.support.targets import (
    DOWN,
    MINUTE,
    UP,
    a_hook,
    a_target,
    a_user,
    heard,
    now_slot,
    seen,
    states,
)

OVER = "it ended before it was told"


async def find(
    pool: Pool, id_: UUID, status: CheckStatus, minutes_ago: float = 0.0, **fields: Any
) -> int:
    """A check's result; its slot."""
    slot = await now_slot(pool) - int(minutes_ago * MINUTE)
    await record(pool, [seen(id_, slot, status, **fields)])
    return slot


async def deliver(pool: Pool, *, due: bool = True) -> int:
    """What beat and time do: everything that waits is looked at again."""
    if due:
        await make_due(pool)
    async with courier(pool) as mine:
        return await mine.deliver_due()


async def let_leases_end(pool: Pool) -> None:
    await rows(pool, "UPDATE alert_history SET lease_until = now() WHERE lease_until IS NOT NULL")


async def held(pool: Pool, id_: UUID) -> list[str | None]:
    found = await rows(
        pool,
        "SELECT held FROM alert_history WHERE subscription_id = %s AND state = 'pending'"
        " ORDER BY time",
        id_,
    )
    return [why for (why,) in found]


async def a_window(pool: Pool, id_: UUID, starts: str, ends: str, *, all_: bool = False) -> None:
    """Maintenance, by PostgreSQL's clock; of one target or all of its owner's."""
    await rows(
        pool,
        "INSERT INTO maintenance_windows (user_id, subscription_id, name, local_start, duration_s,"
        " timezone, starts_at, ends_at) SELECT user_id, CASE WHEN %s THEN NULL ELSE id END, 'work',"
        " now()::timestamp, 3600, 'UTC', now() + %s::interval, now() + %s::interval"
        " FROM subscriptions WHERE id = %s",
        *(all_, starts, ends, id_),
    )


async def end_windows(pool: Pool) -> None:
    await rows(
        pool,
        "UPDATE maintenance_windows SET starts_at = now() - interval '2 hours',"
        " ends_at = now() - interval '1 ms'",
    )


async def acknowledge(pool: Pool, id_: UUID) -> None:
    await rows(
        pool,
        "UPDATE incidents SET acknowledged_at = now(), acknowledged_by = 'me'"
        " WHERE subscription_id = %s AND closed_at IS NULL",
        id_,
    )


async def test_a_downtime_and_its_recovery_are_told_and_their_rows_know_when(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        await find(pool, one, UP, 4)
        down = await find(pool, one, DOWN, 3)
        assert await deliver(pool, due=False) == 1
        await find(pool, one, DOWN, 2)
        up = await find(pool, one, UP, 1)
        assert await deliver(pool, due=False) == 1
    assert heard(receiver) == ["downtime", "recovery"]
    told = await rows(
        pool, "SELECT time FROM check_history WHERE alert_sent_at IS NOT NULL ORDER BY time"
    )
    assert told == [(from_slot(down),), (from_slot(up),)]


async def test_a_row_whose_alert_nobody_was_told_has_no_time_of_sending(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, hook=f"{receiver.base}/status/503")
        await find(pool, one, DOWN, 1)
        await deliver(pool)
    assert await rows(pool, "SELECT alert_triggered, alert_sent_at FROM check_history") == [
        (True, None)
    ]


async def test_maintenance_holds_and_tells_at_its_end_what_is_still_down(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        await a_window(pool, one, "-5 min", "30 min")
        down = await find(pool, one, DOWN, 1)
        assert await deliver(pool) == 0
        assert await held(pool, one) == ["maintenance"]
        await end_windows(pool)
        assert await deliver(pool) == 1
        await find(pool, one, UP)
        assert await deliver(pool) == 1
    assert heard(receiver) == ["downtime", "recovery"]
    assert json.loads(receiver.bodies[0])["data"]["slot"] == down
    assert [state for _, state, _ in await states(pool, one)] == ["sent", "sent"]


async def test_what_is_over_before_maintenance_ends_is_never_told(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        await a_window(pool, one, "-5 min", "30 min", all_=True)
        await find(pool, one, DOWN, 1)
        assert await deliver(pool) == 0
        await find(pool, one, UP)
        assert await deliver(pool) == 0
        await end_windows(pool)
        assert await deliver(pool) == 0
    assert receiver.paths == []
    (down, up) = await states(pool, one)
    assert (down[1], up[1]) == ("suppressed", "suppressed")
    assert (down[2] or "").startswith(OVER)
    assert up[2] == "its beginning was not told"


async def test_what_was_told_before_maintenance_is_told_to_be_over_within_it(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        await find(pool, one, DOWN, 1)
        await deliver(pool)
        await a_window(pool, one, "-1 s", "30 min")
        await find(pool, one, UP)
        assert await deliver(pool) == 1
    assert heard(receiver) == ["downtime", "recovery"]


async def test_another_targets_and_a_coming_window_hold_nothing(pool: Pool) -> None:
    async with Receiver() as receiver:
        owner = await a_user(pool)
        one = await a_target(pool, owner=owner, hook=f"{receiver.base}/ok")
        other = await a_target(pool, owner=owner, name="other")
        await a_window(pool, other, "-5 min", "30 min")
        await a_window(pool, await a_target(pool), "-5 min", "30 min", all_=True)
        await a_window(pool, one, "1 min", "30 min")
        await find(pool, one, DOWN)
        assert await deliver(pool) == 1


async def a_family(pool: Pool, base: str) -> tuple[UUID, UUID]:
    """A parent and its child, both up, each with a channel of its own."""
    owner = await a_user(pool)
    parent = await a_target(pool, owner=owner, name="router", hook=f"{base}/parent")
    child = await a_target(pool, owner=owner, name="shop", hook=f"{base}/child")
    await rows(pool, "INSERT INTO subscription_parents VALUES (%s, %s)", child, parent)
    for one in (parent, child):
        await find(pool, one, UP, 10)
    return parent, child


async def test_a_down_parent_holds_its_child_and_lets_go_what_is_over_with_it(pool: Pool) -> None:
    async with Receiver() as receiver:
        parent, child = await a_family(pool, receiver.base)
        await find(pool, child, DOWN, 5)
        await find(pool, parent, DOWN, 4)
        assert await deliver(pool) == 1
        assert await held(pool, child) == ["parent"]
        await find(pool, child, UP, 1)
        await find(pool, parent, UP, 1)
        assert await deliver(pool) == 1
    assert heard(receiver) == ["downtime", "recovery"]
    assert set(receiver.paths) == {"/parent"}
    assert [state for _, state, _ in await states(pool, child)] == ["suppressed", "suppressed"]


async def test_a_child_that_is_still_down_when_its_parent_is_back_is_told(pool: Pool) -> None:
    async with Receiver() as receiver:
        parent, child = await a_family(pool, receiver.base)
        await find(pool, parent, DOWN, 5)
        await find(pool, child, DOWN, 4)
        await deliver(pool)
        assert heard(receiver, "/child") == []
        await find(pool, parent, UP, 1)
        await deliver(pool)
        assert heard(receiver, "/child") == []  # its own next check mostly says that it is over
        await find(pool, child, DOWN, 0.5)
        await deliver(pool)
        assert heard(receiver, "/child") == ["downtime"]
        await find(pool, child, UP)
        await deliver(pool)
    assert heard(receiver, "/child") == ["downtime", "recovery"]


async def test_a_parent_that_was_not_judged_since_is_waited_for(pool: Pool) -> None:
    async with Receiver() as receiver:
        parent, child = await a_family(pool, receiver.base)
        await find(pool, child, DOWN, 5)
        assert await deliver(pool) == 0
        assert await held(pool, child) == ["parent"]
        await find(pool, parent, UP, 4)  # it is up: the child's own fault
        assert await deliver(pool) == 1
        assert heard(receiver) == ["downtime"]


async def test_a_parent_that_is_never_judged_is_not_waited_for_for_ever(pool: Pool) -> None:
    async with Receiver() as receiver:
        _, child = await a_family(pool, receiver.base)
        await find(pool, child, DOWN, 5)
        assert await deliver(pool) == 0
        await rows(
            pool, "UPDATE alert_history SET created_at = created_at - interval '151 seconds'"
        )
        assert await deliver(pool) == 1


async def test_a_paused_parent_holds_nothing(pool: Pool) -> None:
    async with Receiver() as receiver:
        parent, child = await a_family(pool, receiver.base)
        await find(pool, parent, DOWN, 6)
        await rows(pool, "UPDATE subscriptions SET status = 'paused' WHERE id = %s", parent)
        await find(pool, child, DOWN, 5)
        await deliver(pool)
    assert heard(receiver, "/child") == ["downtime"]


async def an_escalating_target(pool: Pool, base: str) -> UUID:
    one = await a_target(pool, hook=f"{base}/first")
    await a_hook(pool, one, f"{base}/second", escalate_after_s=600)
    return one


async def test_an_escalation_channel_hears_of_what_lasts_and_then_of_its_end(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await an_escalating_target(pool, receiver.base)
        await find(pool, one, DOWN, 1)
        assert await deliver(pool, due=False) == 1
        ((wait_s,),) = await rows(
            pool,
            "SELECT extract(epoch FROM next_attempt_at - created_at)::float8 FROM alert_history"
            " WHERE held = 'escalation'",
        )
        assert wait_s == 600
        assert await deliver(pool) == 1
        await find(pool, one, UP)
        assert await deliver(pool) == 2
    for path in ("/first", "/second"):
        assert heard(receiver, path) == ["downtime", "recovery"]


async def test_an_escalation_channel_hears_nothing_of_what_is_over_in_time(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await an_escalating_target(pool, receiver.base)
        await find(pool, one, DOWN, 1)
        await deliver(pool, due=False)
        await find(pool, one, UP)
        await deliver(pool)
    assert heard(receiver, "/first") == ["downtime", "recovery"]
    assert heard(receiver, "/second") == []
    assert {state for _, state, _ in await states(pool, one)} == {"sent", "suppressed"}


async def test_an_escalation_channel_hears_the_end_of_what_was_acknowledged_after_it_was_told(
    pool: Pool,
) -> None:
    async with Receiver() as receiver:
        one = await an_escalating_target(pool, receiver.base)
        await find(pool, one, DOWN, 1)
        await deliver(pool, due=False)
        await deliver(pool)
        await acknowledge(pool, one)
        await find(pool, one, UP)
        await deliver(pool)
    assert heard(receiver, "/second") == ["downtime", "recovery"]


async def test_an_escalation_channel_hears_nothing_of_what_is_acknowledged(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await an_escalating_target(pool, receiver.base)
        await find(pool, one, DOWN, 1)
        await deliver(pool, due=False)
        await acknowledge(pool, one)
        assert await deliver(pool) == 0
        await find(pool, one, UP)
        await deliver(pool)
    assert heard(receiver, "/second") == []
    assert "it was acknowledged" in {reason for _, _, reason in await states(pool, one)}


async def test_an_acknowledgement_within_maintenance_ends_the_escalation_too(pool: Pool) -> None:
    """Fails when a hold's reason takes the place of the escalation's."""
    async with Receiver() as receiver:
        one = await an_escalating_target(pool, receiver.base)
        await find(pool, one, DOWN, 1)
        await deliver(pool, due=False)
        await a_window(pool, one, "-1 s", "30 min")
        await deliver(pool)
        await acknowledge(pool, one)
        await end_windows(pool)
        assert await deliver(pool) == 0
    assert heard(receiver, "/second") == []


async def reminders(pool: Pool) -> list[tuple[int, str]]:
    return [
        (number, state)
        for number, state in await rows(
            pool,
            "SELECT (context->>'reminder')::int, state::text FROM alert_history"
            " WHERE context ? 'reminder' ORDER BY 1, created_at",
        )
    ]


async def test_reminders_go_on_until_it_is_over_one_at_a_time_each_with_its_own_key(
    pool: Pool,
) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, alerting={"remind_every_s": 3600}, hook=f"{receiver.base}/ok")
        await find(pool, one, DOWN, 1)
        for number in range(1, 4):
            assert await deliver(pool) == 1
            assert await reminders(pool) == [
                *((n, "sent") for n in range(1, number)),
                (number, "pending"),
            ]
            assert await deliver(pool, due=False) == 0
        ((wait_s,),) = await rows(
            pool,
            "SELECT round(extract(epoch FROM time - created_at))::int FROM alert_history"
            " WHERE state = 'pending'",
        )
        assert wait_s == 3600
        await find(pool, one, UP)
        # Its end may wait for a moment: the reminder is in the same hands.
        assert await deliver(pool) + await deliver(pool) == 1
    assert heard(receiver) == ["downtime"] * 3 + ["recovery"]
    assert len(set(receiver.ids)) == 4
    assert (await reminders(pool))[-1] == (3, "suppressed")


async def test_an_acknowledgement_ends_the_reminders_and_the_end_is_still_told(
    pool: Pool,
) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, alerting={"remind_every_s": 3600}, hook=f"{receiver.base}/ok")
        await find(pool, one, DOWN, 1)
        await deliver(pool)
        await acknowledge(pool, one)
        assert await deliver(pool) == 0
        assert await reminders(pool) == [(1, "suppressed")]
        await find(pool, one, UP)
        assert await deliver(pool) == 1
    assert heard(receiver) == ["downtime", "recovery"]


async def test_a_reminder_that_a_service_refuses_for_a_day_does_not_break_the_chain(
    pool: Pool,
) -> None:
    async with Receiver() as receiver:
        receiver.statuses["/ok"] = [204, 503, 503]
        one = await a_target(pool, alerting={"remind_every_s": 3600}, hook=f"{receiver.base}/ok")
        await find(pool, one, DOWN, 1)
        await deliver(pool)
        await deliver(pool)
        await rows(
            pool,
            "UPDATE alert_history SET tries = jsonb_set(tries, '{0,at}',"
            " to_jsonb(now() - interval '25 hours')) WHERE state = 'pending'",
        )
        assert await deliver(pool) == 0
        assert await reminders(pool) == [(1, "gave_up"), (2, "pending")]
        assert await deliver(pool) == 1
    assert len(set(receiver.ids)) == 3


async def test_an_incident_that_is_told_twice_has_one_chain_of_reminders(pool: Pool) -> None:
    """Fails when each news of an incident begins a chain: low, critical and low again."""
    async with Receiver() as receiver:
        one = await a_target(
            pool,
            alerting={"remind_every_s": 3600, "latency": {"warn_ms": 100, "checks": 3}},
            hook=f"{receiver.base}/ok",
        )
        down = await find(pool, one, DOWN, 5)
        # The same incident told again, as a balance's second level is.
        ((incident, context),) = await rows(pool, "SELECT incident_id, context FROM alert_history")
        async with pool.connection() as connection, connection.transaction():
            await outbox.enqueue(
                connection,
                *(
                    outbox.Event(
                        subscription_id=one,
                        slot=down + n * 1000,
                        alert_type=AlertType.DOWNTIME,
                        severity=Severity.CRITICAL,
                        title="worse",
                        message="worse",
                        context=context,
                        incident_id=incident,
                        opened_at=from_slot(down),
                    )
                    for n in (1, 2)
                ),
            )
        async with courier(pool) as mine, courier(pool) as other:
            sent = await asyncio.gather(mine.deliver_due(1), other.deliver_due(1))
        assert sum(sent) == 3
        assert await reminders(pool) == [(1, "pending")]
        assert await deliver(pool) == 1
        assert await reminders(pool) == [(1, "sent"), (2, "pending")]


async def test_a_downtime_that_its_recovery_has_overtaken_is_one_message(pool: Pool) -> None:
    async with Receiver() as receiver:
        receiver.statuses["/ok"] = [503]
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        down = await find(pool, one, DOWN, 2)
        assert await deliver(pool, due=False) == 0
        up = await find(pool, one, UP, 1)
        assert await deliver(pool) == 1
        assert await deliver(pool) == 0
    assert heard(receiver) == ["downtime", "recovery"]  # the first one was refused
    assert await states(pool, one) == [("downtime", "merged", OVER), ("recovery", "sent", None)]
    told = await rows(pool, "SELECT time FROM check_history WHERE alert_sent_at IS NOT NULL")
    assert told == [(from_slot(up),)]
    assert await rows(
        pool, "SELECT alert_triggered FROM check_history WHERE time = %s", from_slot(down)
    ) == [(True,)]


async def test_a_downtime_and_a_recovery_that_wait_together_are_one_message(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        await find(pool, one, DOWN, 2)
        await find(pool, one, UP, 1)
        assert await deliver(pool, due=False) == 1
    assert heard(receiver) == ["recovery"]
    assert [state for _, state, _ in await states(pool, one)] == ["merged", "sent"]


async def test_who_could_not_be_told_of_a_downtime_for_a_day_is_told_of_its_end(
    pool: Pool,
) -> None:
    async with Receiver() as receiver:
        receiver.statuses["/ok"] = [503, 503]
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        await find(pool, one, DOWN, 2)
        await deliver(pool)
        await rows(
            pool,
            "UPDATE alert_history SET tries = jsonb_set(tries, '{0,at}',"
            " to_jsonb(now() - interval '25 hours'))",
        )
        await deliver(pool)
        await find(pool, one, UP)
        assert await deliver(pool) == 1
    assert await states(pool, one) == [
        ("downtime", "gave_up", "no success in 24 hours: HTTP 503"),
        ("recovery", "sent", None),
    ]


@asynccontextmanager
async def slow_receiver() -> AsyncIterator[tuple[Receiver, asyncio.Event]]:
    """A receiver that answers a downtime's message only when it is let."""
    let = asyncio.Event()

    class Slow(Receiver):
        async def handle(self, request: web.Request) -> web.StreamResponse:
            answer = await super().handle(request)
            if heard(self)[-1] == "downtime":
                await let.wait()
            return answer

    async with Slow() as receiver:
        yield receiver, let


async def test_a_recovery_waits_while_another_courier_is_sending_its_downtime(
    pool: Pool,
) -> None:
    async with slow_receiver() as (receiver, let), courier(pool, timeout_s=10.0) as mine:
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        await find(pool, one, DOWN, 2)
        sending = asyncio.create_task(mine.deliver_due())
        await eventually(lambda: heard(receiver) == ["downtime"])
        await find(pool, one, UP, 1)
        for _ in range(3):
            assert await deliver(pool) == 0
        assert heard(receiver) == ["downtime"]
        let.set()
        assert await sending == 1
        assert await deliver(pool) == 1
    assert heard(receiver) == ["downtime", "recovery"]
    assert [state for _, state, _ in await states(pool, one)] == ["sent", "sent"]


async def test_a_recovery_comes_after_its_downtime_on_each_channel_with_two_couriers(
    pool: Pool,
) -> None:
    """Downtimes and recoveries are recorded while both couriers send without a pause."""
    async with Receiver() as receiver, courier(pool) as one, courier(pool) as two:
        targets = [
            await a_target(
                pool,
                name=f"t{n}",
                alerting={"flapping": None},
                hook=f"{receiver.base}/{n}",
            )
            for n in range(8)
        ]
        ending = asyncio.Event()

        async def go_on(mine: Any) -> None:
            while not ending.is_set():
                await mine.deliver_due(2)
                await asyncio.sleep(0.005)

        couriers = [asyncio.create_task(go_on(mine)) for mine in (one, two)]
        for round_ in range(6, 0, -1):
            slot = await now_slot(pool) - round_ * MINUTE
            await record(pool, [seen(t, slot, DOWN) for t in targets])
            await asyncio.sleep(0.02 * (round_ % 3))
            await record(pool, [seen(t, slot + 1000, UP) for t in targets])
        async with asyncio.timeout(30):
            while await rows(pool, "SELECT 1 FROM alert_history WHERE state = 'pending' LIMIT 1"):
                await asyncio.sleep(0.05)
        ending.set()
        await asyncio.gather(*couriers)
    assert len(receiver.ids) == len(set(receiver.ids))
    for number in range(8):
        told = [
            (body["data"]["slot"] // 10_000, body["type"])
            for body, path in zip(map(json.loads, receiver.bodies), receiver.paths, strict=True)
            if path == f"/{number}"
        ]
        recovered = [minute for minute, kind in told if kind == "recovery"]
        # One whose target was told to be down again before it could be sent is not told any more.
        stale = [
            state
            for kind, state, reason in await states(pool, targets[number])
            if kind == "recovery" and reason == "it began again before this was told"
        ]
        assert len(recovered) + len(stale) == 6
        assert told[-1][1] == "recovery"
        for minute in recovered:
            if (minute, "downtime") in told:
                assert told.index((minute, "downtime")) < told.index((minute, "recovery"))
    unsettled = await rows(
        pool,
        "SELECT state::text FROM alert_history WHERE state NOT IN ('sent', 'merged') GROUP BY 1",
    )
    assert unsettled == []


async def test_a_held_downtime_that_a_courier_died_with_is_followed_by_its_recovery(
    pool: Pool,
) -> None:
    """Fails when what was held is let go as unheard: it may have been sent before the kill."""
    async with Receiver() as receiver:
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        await a_window(pool, one, "-5 min", "30 min")
        await find(pool, one, DOWN, 1)
        await deliver(pool)
        await end_windows(pool)
        await make_due(pool)
        assert len(await outbox.claim(pool, 10, 30)) == 1  # sent, and then killed
        await find(pool, one, UP)
        await let_leases_end(pool)
        assert await deliver(pool) == 1
    assert heard(receiver) == ["recovery"]
    assert [state for _, state, _ in await states(pool, one)] == ["merged", "sent"]


async def flap(pool: Pool, id_: UUID, changes: int, minutes_ago: int) -> None:
    slot = await now_slot(pool) - minutes_ago * MINUTE
    await record(pool, [seen(id_, slot, UP)])
    for number in range(1, changes + 1):
        await record(pool, [seen(id_, slot + number * MINUTE, DOWN if number % 2 else UP)])


FLAPS = {"flapping": {"changes": 4, "within_s": 1200}}  # calm after 10 minutes


async def test_a_flapping_target_sends_one_notice_and_its_last_state_when_it_is_calm(
    pool: Pool,
) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, alerting=FLAPS, hook=f"{receiver.base}/ok")
        slot = await now_slot(pool) - 9 * MINUTE
        await record(pool, [seen(one, slot, UP)])
        kinds: list[str] = []
        for number in range(1, 10):
            status = DOWN if number % 2 else UP
            await record(pool, [seen(one, slot + number * MINUTE, status)])
            await deliver(pool)
            kinds = heard(receiver)
        assert kinds[:3] == ["downtime", "recovery", "downtime"]
        assert sorted(kinds[3:]) == ["flapping", "recovery"]
        assert await held(pool, one) == ["flapping"]
        await rows(
            pool,
            "UPDATE subscription_state SET since = since - interval '1 hour'",
        )
        # `since` is what a calm is counted from, and its slot the alert's own.
        assert await deliver(pool) == 1
    assert heard(receiver)[5:] == ["downtime"]
    found = {}
    for _, state, reason in await states(pool, one):
        found[state, reason] = found.get((state, reason), 0) + 1
    assert found[("sent", None)] == 6
    assert sum(n for (state, _), n in found.items() if state == "suppressed") == 4


async def test_a_flapping_target_that_ends_up_is_told_to_be_up(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, alerting=FLAPS, hook=f"{receiver.base}/ok")
        await flap(pool, one, 8, minutes_ago=9)
        await deliver(pool)
        await rows(pool, "UPDATE subscription_state SET since = since - interval '1 hour'")
        assert await deliver(pool) == 1
    assert heard(receiver)[-1] == "recovery"
    assert await rows(pool, "SELECT 1 FROM alert_history WHERE state = 'pending'") == []


async def test_what_an_hours_limit_withheld_is_not_sent_nor_is_its_end(pool: Pool) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, alerting={"flapping": None}, hook=f"{receiver.base}/ok")
        slot = await now_slot(pool) - 50 * MINUTE
        for number in range(44):
            await record(pool, [seen(one, slot + number * MINUTE, UP if number % 2 else DOWN)])
            await deliver(pool)
    assert heard(receiver) == ["downtime", "recovery"] * 20


async def test_who_hears_that_it_is_down_is_not_told_afterwards_that_it_was_up_before(
    pool: Pool,
) -> None:
    async with Receiver() as receiver:
        one = await a_target(pool, hook=f"{receiver.base}/ok")
        await find(pool, one, DOWN, 6)
        assert await deliver(pool) == 1
        await find(pool, one, UP, 5)
        await rows(  # its service refused it, and it waits for its next try
            pool,
            "UPDATE alert_history SET attempt = 1, next_attempt_at = now() + interval '1 hour'"
            " WHERE state = 'pending'",
        )
        await find(pool, one, DOWN, 4)
        assert await deliver(pool, due=False) == 1
        assert await deliver(pool) == 0
        await find(pool, one, UP, 3)
        assert await deliver(pool) == 1
    assert heard(receiver) == ["downtime", "downtime", "recovery"]
    assert [state for _, state, _ in await states(pool, one)] == ["sent", "merged", "sent", "sent"]
