"""Incidents through `record()`: opened, closed and told of in the transaction of their results."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from lighthouse.model import (
    AlertType,
    Bounds,
    Certificate,
    CheckStatus,
    Confirmation,
    MonitorType,
    Result,
    Timings,
    event_id,
    from_slot,
)
from lighthouse.store.budgets import Limits
from lighthouse.store.creation import write_alerting
from lighthouse.store.events import WITHHELD
from lighthouse.store.pool import Pool
from lighthouse.store.record import Recorded, record
from tests.support.couriers import rows
from tests.support.targets import (
    DOWN,
    ERROR,
    MINUTE,
    MISSED,
    TIMEOUT,
    UP,
    a_target,
    a_user,
    now_slot,
    seen,
    states,
)

HOOK = "http://127.0.0.1:9/hook"


async def feed(
    pool: Pool, id_: UUID, first: int, *found: CheckStatus, step: int = MINUTE, **fields: Any
) -> None:
    """One flush a result, `step` ms apart."""
    for number, status in enumerate(found):
        await record(pool, [seen(id_, first + number * step, status, **fields)])


async def incidents(pool: Pool, id_: UUID) -> list[tuple[str, str, int, int, int | None]]:
    """Kind, severity, and the slots of first failure, opening and end."""
    return [
        (kind, severity, int(first), int(opened), None if closed is None else int(closed))
        for kind, severity, first, opened, closed in await rows(
            pool,
            "SELECT kind::text, severity::text, round(extract(epoch FROM first_failure_at) * 1000),"
            " round(extract(epoch FROM opened_at) * 1000),"
            " round(extract(epoch FROM closed_at) * 1000)"
            " FROM incidents WHERE subscription_id = %s ORDER BY opened_at, kind",
            id_,
        )
    ]


async def told(pool: Pool, id_: UUID) -> list[tuple[str, str, int]]:
    """Type, what it is about and slot of each event, in their order."""
    return [
        (kind, about, int(slot))
        for kind, about, slot in await rows(
            pool,
            "SELECT DISTINCT alert_type::text, context->>'about',"
            " round(extract(epoch FROM time) * 1000) AS slot"
            " FROM alert_history WHERE subscription_id = %s ORDER BY slot, 1",
            id_,
        )
    ]


async def triggered(pool: Pool, id_: UUID) -> list[int]:
    return [
        int(slot)
        for (slot,) in await rows(
            pool,
            "SELECT round(extract(epoch FROM time) * 1000) FROM check_history"
            " WHERE subscription_id = %s AND alert_triggered ORDER BY time",
            id_,
        )
    ]


async def within_an_hour(pool: Pool) -> None:
    """Limits are an hour's: what a test counts must not fall into two."""
    ((left_s,),) = await rows(
        pool,
        "SELECT extract(epoch FROM date_trunc('hour', now()) + interval '1 hour' - now())::float8",
    )
    if left_s < 10:
        await asyncio.sleep(left_s + 0.1)


async def everything(pool: Pool) -> list[list[tuple[Any, ...]]]:
    return [
        await rows(pool, f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in ("check_history", "subscription_state", "incidents", "alert_history")
    ]


async def test_an_incident_opens_with_its_first_failure_and_closes_with_the_recovery(
    pool: Pool,
) -> None:
    one = await a_target(pool, alerting={"failures_to_down": 3, "successes_to_up": 2}, hook=HOOK)
    slot = await now_slot(pool) - 30 * MINUTE
    at = [slot + n * MINUTE for n in range(9)]
    await feed(pool, one, slot, UP, DOWN, TIMEOUT)
    assert await incidents(pool, one) == []
    await feed(pool, one, at[3], DOWN)
    assert await incidents(pool, one) == [("downtime", "critical", at[1], at[3], None)]
    await feed(pool, one, at[4], UP)
    assert (await incidents(pool, one))[0][4] is None
    await feed(pool, one, at[5], UP, UP)
    assert await incidents(pool, one) == [("downtime", "critical", at[1], at[3], at[5])]
    assert await told(pool, one) == [
        ("downtime", "downtime", at[3]),
        ("recovery", "downtime", at[5]),
    ]
    assert await triggered(pool, one) == [at[3], at[5]]
    ((incident, event),) = await rows(
        pool,
        "SELECT i.id, a.event_id FROM incidents i JOIN alert_history a ON a.incident_id = i.id"
        " WHERE a.alert_type = 'downtime'",
    )
    assert incident == event == event_id(one, at[3], AlertType.DOWNTIME)


async def test_errors_and_missed_slots_between_failures_change_nothing(pool: Pool) -> None:
    one = await a_target(pool, alerting={"failures_to_down": 3, "successes_to_up": 2}, hook=HOOK)
    slot = await now_slot(pool) - 30 * MINUTE
    at = [slot + n * MINUTE for n in range(12)]
    await feed(pool, one, slot, UP, DOWN, ERROR, DOWN, ERROR)
    await rows(
        pool,
        "INSERT INTO check_history (time, subscription_id, status) VALUES (%s, %s, 'missed')",
        *(from_slot(at[5]), one),
    )
    await feed(pool, one, at[6], ERROR)
    assert await told(pool, one) == []
    await feed(pool, one, at[7], DOWN)
    await feed(pool, one, at[8], UP, ERROR, UP, ERROR)
    assert await incidents(pool, one) == [("downtime", "critical", at[1], at[7], at[10])]
    assert await triggered(pool, one) == [at[7], at[10]]


async def test_the_evidence_is_what_the_first_failure_saw_and_who_confirmed_it(pool: Pool) -> None:
    one = await a_target(pool, hook=HOOK)
    slot = await now_slot(pool) - 5 * MINUTE
    await record(pool, [seen(one, slot)])
    failure = seen(
        one,
        slot + MINUTE,
        DOWN,
        http_status=503,
        latency_ms=12.5,
        timings=Timings(dns_ms=1.5, tcp_ms=2.0),
        addresses=("192.0.2.7", "2001:db8::7"),
        response_snippet="<h1>Bad “gateway”</h1>",
        region="eu-1",
        attempts=2,
        confirmation=Confirmation(
            worker="w2",
            region="us-1",
            status=TIMEOUT,
            reason=None,
            message="no answer",
            latency_ms=3000.0,
            http_status=None,
        ),
    )
    await record(pool, [failure])
    ((evidence,),) = await rows(pool, "SELECT evidence FROM incidents")
    assert evidence == {
        "status": "failure",
        "reason": "status_code",
        "message": "status 500",
        "http_status": 503,
        "latency_ms": 12.5,
        "timings": {"dns_ms": 1.5, "tcp_ms": 2.0},
        "addresses": ["192.0.2.7", "2001:db8::7"],
        "snippet": "<h1>Bad “gateway”</h1>",
        "region": "eu-1",
        "attempts": 2,
        "confirmation": {
            "worker": "w2",
            "region": "us-1",
            "status": "timeout",
            "reason": None,
            "message": "no answer",
            "latency_ms": 3000.0,
            "http_status": None,
        },
    }


async def test_a_slow_target_is_warned_of_once_until_it_is_quick_again(pool: Pool) -> None:
    one = await a_target(pool, alerting={"latency": {"warn_ms": 100, "checks": 3}}, hook=HOOK)
    slot = await now_slot(pool) - 40 * MINUTE
    latencies = [10, 900, 10, 10, 150, 120, 130, 99, 101, 95, 10, 10, 10]
    for number, ms in enumerate(latencies):
        await record(pool, [seen(one, slot + number * MINUTE, latency_ms=float(ms))])
    begins, ends = slot + 5 * MINUTE, slot + 11 * MINUTE
    assert await told(pool, one) == [
        ("high_latency", "high_latency", begins),
        ("recovery", "high_latency", ends),
    ]
    assert await incidents(pool, one) == [
        ("high_latency", "warning", slot + 3 * MINUTE, begins, ends)
    ]
    assert await triggered(pool, one) == [begins, ends]
    assert await rows(pool, "SELECT verdict::text, slow FROM subscription_state") == [("up", False)]


async def test_rows_that_come_late_cost_no_result_when_they_change_a_median(pool: Pool) -> None:
    """Fails when an incident may close at the slot that opened it: its CHECK refuses the flush."""
    one = await a_target(pool, alerting={"latency": {"warn_ms": 100, "checks": 3}}, hook=HOOK)
    slot = await now_slot(pool) - 40 * MINUTE
    for number, ms in ((1, 120.0), (4, 10.0), (5, 120.0), (3, 10.0), (2, 10.0)):
        flush = [seen(one, slot + number * MINUTE, latency_ms=ms)]
        assert (await record(pool, flush)).stored == 1
    assert await rows(pool, "SELECT DISTINCT status::text FROM check_history") == [("success",)]
    assert await told(pool, one) == [("high_latency", "high_latency", slot + 5 * MINUTE)]
    await record(pool, [seen(one, slot + 6 * MINUTE, latency_ms=10.0)])
    assert (await incidents(pool, one))[0][4] == slot + 6 * MINUTE


BOUNDS = Bounds(alert_at=100, critical_at=50, alert_clear_at=110, critical_clear_at=60)


async def test_a_balance_goes_low_critical_and_enough_in_one_incident(pool: Pool) -> None:
    one = await a_target(pool, monitor=MonitorType.BALANCE, hook=HOOK)
    slot = await now_slot(pool) - 40 * MINUTE
    at = [slot + n * MINUTE for n in range(9)]
    for time, value in zip(at, (150, 99, 105, 49, 55, 60, 109, 110, 150), strict=True):
        status = DOWN if value < 50 else UP
        flush = [seen(one, time, status, value=value, bounds=BOUNDS)]
        assert (await record(pool, flush)).stored == 1
    assert await told(pool, one) == [
        ("low_balance", "low_balance", at[1]),
        ("low_balance", "low_balance", at[3]),
        ("low_balance", "low_balance", at[5]),
        ("recovery", "low_balance", at[7]),
    ]
    assert await incidents(pool, one) == [("low_balance", "critical", at[1], at[1], at[7])]
    assert await triggered(pool, one) == [at[1], at[3], at[5], at[7]]
    severities = await rows(pool, "SELECT severity::text FROM alert_history ORDER BY time")
    assert severities == [("warning",), ("critical",), ("critical",), ("warning",)]
    ((incidents_of_events,),) = await rows(
        pool, "SELECT count(DISTINCT incident_id) FROM alert_history"
    )
    assert incidents_of_events == 1


async def test_a_certificate_is_told_once_a_threshold_and_a_new_one_anew(pool: Pool) -> None:
    one = await a_target(pool, interval_s=86_400, hook=HOOK)
    slot = await now_slot(pool) - 6 * 24 * 60 * MINUTE
    day = 24 * 60 * MINUTE

    def shown(number: int, fingerprint: str, days_left: float) -> Result:
        time = slot + int(number * day / 4)
        ends = from_slot(time) + timedelta(days=days_left)
        certificate = Certificate(fingerprint=fingerprint, expires_at=ends, subject="CN=shop")
        return seen(one, time, certificate=certificate)

    days = [30.5, 30, 29, 14, 13, 8, 7, 3, 1, 0.5, -1]
    for number, left in enumerate(days):
        await record(pool, [shown(number, "a" * 64, left)])
    await record(pool, [shown(11, "b" * 64, 90)])
    await record(pool, [shown(12, "b" * 64, 5)])
    found = await rows(
        pool,
        "SELECT context->>'fingerprint', (context->>'threshold_days')::int, severity::text"
        " FROM alert_history ORDER BY time",
    )
    assert found == [
        ("a" * 64, 30, "warning"),
        ("a" * 64, 14, "warning"),
        ("a" * 64, 7, "warning"),
        ("a" * 64, 1, "critical"),
        ("b" * 64, 7, "warning"),
    ]
    assert await incidents(pool, one) == []
    assert len(await triggered(pool, one)) == 5


async def test_a_certificate_that_was_told_of_locks_no_state(pool: Pool) -> None:
    """Fails when each check of a certificate within its 30 days takes the slow path."""
    one = await a_target(pool, hook=HOOK)
    slot = await now_slot(pool) - 40 * MINUTE
    ends = from_slot(slot) + timedelta(days=10)
    certificate = Certificate(fingerprint="a" * 64, expires_at=ends)
    await record(pool, [seen(one, slot, certificate=certificate)])
    async with pool.connection() as holder, holder.transaction():
        await holder.execute("SELECT FROM subscription_state FOR UPDATE")
        async with asyncio.timeout(2.0):
            await record(pool, [seen(one, slot + MINUTE, certificate=certificate)])
    assert len(await told(pool, one)) == 1


async def test_a_flapping_target_has_one_notice_and_its_changes_wait(pool: Pool) -> None:
    await within_an_hour(pool)
    one = await a_target(pool, alerting={"flapping": {"changes": 4, "within_s": 1200}}, hook=HOOK)
    slot = await now_slot(pool) - 8 * MINUTE
    at = [slot + n * MINUTE for n in range(9)]
    await feed(pool, one, slot, UP, DOWN, UP, DOWN, UP, DOWN, UP, DOWN)
    found = await rows(
        pool,
        "SELECT round(extract(epoch FROM time) * 1000)::bigint, alert_type::text,"
        " coalesce(context->>'flapping', 'false') FROM alert_history ORDER BY time, 2 DESC",
    )
    assert found == [
        (at[1], "downtime", "false"),
        (at[2], "recovery", "false"),
        (at[3], "downtime", "false"),
        (at[4], "recovery", "false"),
        (at[4], "flapping", "false"),
        (at[5], "downtime", "true"),
        (at[6], "recovery", "true"),
        (at[7], "downtime", "true"),
    ]
    assert len(await incidents(pool, one)) == 4
    # The notice and what was told singly: a run of changes costs its owner no other alerts.
    used = await rows(pool, "SELECT used, withheld FROM alert_budgets WHERE owner_id = %s", one)
    assert used == [(3, 0)]


async def test_a_target_that_flaps_all_day_withholds_nothing_of_its_owners_other_alerts(
    pool: Pool,
) -> None:
    """Fails when each change of a run counts: the owner's 200 an hour would be spent unheard."""
    await within_an_hour(pool)
    owner = await a_user(pool)
    flapping = await a_target(
        pool, owner=owner, name="flapping", alerting={"flapping": {"changes": 3}}, hook=HOOK
    )
    other = await a_target(pool, owner=owner, name="other", hook=HOOK)
    slot = await now_slot(pool) - 35 * MINUTE
    limits = Limits(subscription=5, user=10)
    for number in range(30):
        status = UP if number % 2 else DOWN
        await record(pool, [seen(flapping, slot + number * MINUTE, status)], limits)
    await record(pool, [seen(other, slot, DOWN)], limits)
    assert await states(pool, other) == [("downtime", "pending", None)]
    assert WITHHELD not in {reason for _, _, reason in await states(pool, flapping)}


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (0, 3, 1, 2, 5, 4), (5, 4, 3, 2, 1, 0)])
async def test_flushes_that_come_twice_change_nothing_in_any_order(
    pool: Pool, order: tuple[int, ...]
) -> None:
    one = await a_target(pool, alerting={"latency": {"warn_ms": 100, "checks": 3}}, hook=HOOK)
    slot = await now_slot(pool) - 30 * MINUTE
    statuses = [UP, DOWN, DOWN, UP, UP, DOWN]
    flushes = [
        [seen(one, slot + n * MINUTE, status, latency_ms=150.0), seen(one, slot + n * MINUTE)]
        for n, status in enumerate(statuses)
    ]
    for number in order:
        await record(pool, flushes[number])
    before = await everything(pool)
    for number in (*order, *reversed(order)):
        assert (await record(pool, flushes[number])).stored == 0
    await record(pool, [result for flush in flushes for result in flush])
    assert await everything(pool) == before
    assert await rows(pool, "SELECT verdict::text FROM subscription_state") == [("down",)]


async def test_whatever_the_order_of_flushes_an_incident_is_open_just_while_it_is_down(
    pool: Pool,
) -> None:
    ids = [await a_target(pool, name=f"t{n}", hook=HOOK) for n in range(24)]
    slot = await now_slot(pool) - 30 * MINUTE
    statuses = [UP, DOWN, UP, DOWN, DOWN, UP, DOWN]
    orders = [[(n * (k + 1) + k) % 7 for n in range(7)] for k in range(6)]
    await asyncio.gather(
        *(feed_in(pool, ids[k::6], slot, statuses, order) for k, order in enumerate(orders))
    )
    found = await rows(
        pool,
        "SELECT s.verdict::text, count(*), count(i.id) FROM subscription_state s"
        " LEFT JOIN incidents i ON i.subscription_id = s.subscription_id AND i.closed_at IS NULL"
        " GROUP BY 1",
    )
    assert found == [("down", 24, 24)]
    unpaired = await rows(
        pool,
        "SELECT 1 FROM incidents i WHERE i.closed_at IS NOT NULL AND NOT EXISTS ("
        " SELECT FROM alert_history a WHERE a.incident_id = i.id AND a.alert_type = 'recovery'"
        " AND a.time = i.closed_at)",
    )
    assert unpaired == []


async def feed_in(
    pool: Pool, ids: list[UUID], slot: int, statuses: list[CheckStatus], order: list[int]
) -> None:
    for number in order:
        time = slot + number * MINUTE
        await record(pool, [seen(id_, time, statuses[number]) for id_ in ids])


async def test_the_twenty_first_alert_of_an_hour_is_withheld_and_the_twentieth_says_so(
    pool: Pool,
) -> None:
    await within_an_hour(pool)
    one = await a_target(pool, alerting={"flapping": None}, hook=HOOK)
    slot = await now_slot(pool) - 50 * MINUTE
    await feed(pool, one, slot, *[DOWN, UP] * 22)
    found = await rows(
        pool,
        "SELECT alert_type::text, state::text, failed_reason, context ? 'limit_until'"
        " FROM alert_history ORDER BY time",
    )
    begins = [row[1:] for row in found if row[0] == "downtime"]
    ends = [row[1:] for row in found if row[0] == "recovery"]
    assert (
        begins
        == [("pending", None, n == 19) for n in range(20)] + [("suppressed", WITHHELD, False)] * 2
    )
    # Who heard of no beginning hears of no end.
    assert (
        ends
        == [("pending", None, False)] * 20
        + [("suppressed", "nobody was told that it began", False)] * 2
    )
    ((until, hour_ends),) = await rows(
        pool,
        "SELECT (context->>'limit_until')::timestamptz,"
        " date_trunc('hour', now()) + interval '1 hour'"
        " FROM alert_history WHERE context ? 'limit_until'",
    )
    assert until == hour_ends
    budget = await rows(pool, "SELECT used, withheld FROM alert_budgets WHERE owner_id = %s", one)
    assert budget == [(20, 2)]
    # What is withheld is an event all the same.
    assert len(await triggered(pool, one)) == 44
    assert len(await incidents(pool, one)) == 22


async def test_an_owners_limit_counts_over_all_of_their_subscriptions(pool: Pool) -> None:
    await within_an_hour(pool)
    owner = await a_user(pool)
    mine = [await a_target(pool, owner=owner, name=f"t{n}", hook=HOOK) for n in range(5)]
    other = await a_target(pool, hook=HOOK)
    slot = await now_slot(pool) - MINUTE
    limits = Limits(subscription=20, user=3)
    await record(pool, [seen(id_, slot, DOWN) for id_ in [*mine, other]], limits)
    told_ = await rows(
        pool,
        "SELECT state::text, count(*) FROM alert_history WHERE subscription_id = ANY(%s)"
        " GROUP BY 1 ORDER BY 1",
        mine,
    )
    assert told_ == [("pending", 3), ("suppressed", 2)]
    assert await states(pool, other) == [("downtime", "pending", None)]


async def test_two_recorders_at_once_count_together(pool: Pool) -> None:
    await within_an_hour(pool)
    owner = await a_user(pool)
    mine = [await a_target(pool, owner=owner, name=f"t{n}", hook=HOOK) for n in range(40)]
    slot = await now_slot(pool) - MINUTE
    limits = Limits(subscription=20, user=25)
    await asyncio.gather(
        *(record(pool, [seen(id_, slot, DOWN) for id_ in mine[k::4]], limits) for k in range(4))
    )
    found = await rows(
        pool,
        "SELECT state::text, count(*), count(*) FILTER (WHERE context ? 'limit_until')"
        " FROM alert_history GROUP BY 1 ORDER BY 1",
    )
    assert found == [("pending", 25, 1), ("suppressed", 15, 0)]
    budget = await rows(pool, "SELECT used, withheld FROM alert_budgets WHERE owner_id = %s", owner)
    assert budget == [(25, 15)]


async def test_zero_is_no_limit(pool: Pool) -> None:
    one = await a_target(pool, alerting={"flapping": None}, hook=HOOK)
    slot = await now_slot(pool) - 50 * MINUTE
    limits = Limits(subscription=0, user=0)
    for number in range(44):
        status = UP if number % 2 else DOWN
        await record(pool, [seen(one, slot + number * MINUTE, status)], limits)
    assert {state for _, state, _ in await states(pool, one)} == {"pending"}


async def test_a_failed_flush_leaves_no_incident_and_no_budget(pool: Pool) -> None:
    one = await a_target(pool, hook=HOOK)
    slot = await now_slot(pool) - MINUTE
    await rows(
        pool,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no alerts today' USING ERRCODE = '57014'; END $$",
    )
    await rows(
        pool,
        "CREATE TRIGGER refuse BEFORE INSERT ON alert_budgets"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    before = await everything(pool)
    with pytest.raises(Exception, match="no alerts today"):
        await record(pool, [seen(one, slot, DOWN)])
    assert await everything(pool) == before
    await rows(pool, "DROP TRIGGER refuse ON alert_budgets")
    assert await record(pool, [seen(one, slot, DOWN)]) == Recorded(stored=1, events=1)
    assert len(await incidents(pool, one)) == 1


@pytest.mark.parametrize("status", [ERROR, MISSED])
async def test_what_was_not_judged_tells_nothing_of_what_it_saw_before_the_fault(
    pool: Pool, status: CheckStatus
) -> None:
    """A canary's first step shows a certificate, its second meets a resolver that is away."""
    one = await a_target(pool, hook=HOOK)
    slot = await now_slot(pool)
    certificate = Certificate(fingerprint="a" * 64, expires_at=from_slot(slot) + timedelta(days=3))
    low = {"value": 1, "bounds": Bounds(alert_at=5, alert_clear_at=6)}
    found = seen(one, slot, status, certificate=certificate, **low)
    assert await record(pool, [found]) == Recorded(stored=1)
    assert await told(pool, one) == []


async def test_slowness_begins_no_more_once_nobody_looks_for_it(pool: Pool) -> None:
    """Also in a flush that waited for the very change of the policy: it would never end."""
    one = await a_target(pool, alerting={"latency": {"warn_ms": 100, "checks": 3}}, hook=HOOK)
    first = await now_slot(pool) - 3 * MINUTE
    await feed(pool, one, first, UP, UP, latency_ms=500.0)
    async with pool.connection() as changing, changing.transaction():
        await write_alerting(changing, one, {})
        last = seen(one, first + 2 * MINUTE, UP, latency_ms=500.0)
        flush = asyncio.create_task(record(pool, [last]))
        await asyncio.sleep(0.3)
        assert not flush.done()
    assert (await flush).stored == 1
    assert await incidents(pool, one) == []


async def test_what_began_and_ended_between_two_flushes_is_told_all_the_same(pool: Pool) -> None:
    one = await a_target(pool, hook="http://127.0.0.1:9/hook")
    start = await now_slot(pool) - 10 * MINUTE
    await record(pool, [seen(one, start, UP)])
    found = [UP, DOWN, DOWN, UP, DOWN, UP]  # gathered while PostgreSQL was away
    flush = [seen(one, start + n * MINUTE, status) for n, status in enumerate(found, 1)]
    for _ in range(2):
        await record(pool, list(reversed(flush)))
        told = await rows(
            pool, "SELECT alert_type::text, time FROM alert_history ORDER BY time, alert_type"
        )
        assert told == [
            ("downtime", from_slot(start + 2 * MINUTE)),
            ("recovery", from_slot(start + 4 * MINUTE)),
            ("downtime", from_slot(start + 5 * MINUTE)),
            ("recovery", from_slot(start + 6 * MINUTE)),
        ]
        spans = await rows(pool, "SELECT opened_at, closed_at FROM incidents ORDER BY opened_at")
        assert spans == [
            (from_slot(start + 2 * MINUTE), from_slot(start + 4 * MINUTE)),
            (from_slot(start + 5 * MINUTE), from_slot(start + 6 * MINUTE)),
        ]


async def test_thresholds_hold_within_a_flush_of_many_results_too(pool: Pool) -> None:
    one = await a_target(pool, alerting={"failures_to_down": 3, "successes_to_up": 2})
    start = await now_slot(pool) - 20 * MINUTE
    found = [UP, DOWN, DOWN, UP, DOWN, DOWN, ERROR, DOWN, UP, DOWN, UP, UP]
    await record(pool, [seen(one, start + n * MINUTE, status) for n, status in enumerate(found)])
    spans = await rows(pool, "SELECT first_failure_at, opened_at, closed_at FROM incidents")
    assert spans == [tuple(from_slot(start + n * MINUTE) for n in (4, 7, 11))]


async def test_a_late_failure_flips_nothing_newer_among_many_results_either(pool: Pool) -> None:
    one = await a_target(pool, hook="http://127.0.0.1:9/hook")
    start = await now_slot(pool) - 10 * MINUTE
    for n in (0, 4):
        await record(pool, [seen(one, start + n * MINUTE, UP)])
    late = [seen(one, start + n * MINUTE, status) for n, status in ((2, DOWN), (3, DOWN), (5, UP))]
    await record(pool, late)
    assert await rows(pool, "SELECT FROM alert_history") == []
    assert await rows(pool, "SELECT FROM incidents") == []
