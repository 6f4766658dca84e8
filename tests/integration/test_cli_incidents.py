"""`lighthouse incidents`, `alerts` and `status`: what is wrong, who was told, and what is held."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from lighthouse.model import (
    Certificate,
    CheckStatus,
    Confirmation,
    Delivery,
    DeliveryState,
    Reason,
    Result,
    Timings,
    to_slot,
)
from lighthouse.store import outbox
from lighthouse.store.pool import Pool, open_pool
from lighthouse.store.record import record
from tests.conftest import Command
from tests.support.commands import add, as_json, good, refused, run

NOW = datetime.now(UTC)
EXPIRES = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _now() -> None:
    """Each test's own: rows of a while ago would count as stale."""
    global NOW
    NOW = datetime.now(UTC).replace(microsecond=0)


def on(url: str, work: Callable[[Pool], Awaitable[Any]]) -> Any:
    async def opened() -> Any:
        async with open_pool(url) as pool:
            return await work(pool)

    return asyncio.run(opened())


def found_down(id_: UUID, at: datetime | None = None) -> Result:
    return Result(
        subscription_id=id_,
        slot=to_slot(at or NOW),
        status=CheckStatus.FAILURE,
        http_status=503,
        latency_ms=40.0,
        error_code=Reason.STATUS_CODE.value,
        error_message="HTTP 503\x1b[31m",
        timings=Timings(dns_ms=1.0, tcp_ms=2.0, ttfb_ms=30.0),
        response_snippet="Service Unavailable",
        addresses=("192.0.2.7",),
        region="eu",
        certificate=Certificate(fingerprint="ab" * 32, expires_at=EXPIRES, subject="CN=api"),
        confirmation=Confirmation(
            worker="w2",
            region="us",
            status=CheckStatus.TIMEOUT,
            reason=Reason.TIMEOUT,
            message="no answer in 10 s",
            latency_ms=None,
            http_status=None,
        ),
    )


def down(url: str, *ids: UUID, at: datetime | None = None) -> None:
    on(url, lambda pool: record(pool, [found_down(id_, at) for id_ in ids]))


def up(url: str, id_: UUID, at: datetime) -> None:
    result = Result(subscription_id=id_, slot=to_slot(at), status=CheckStatus.SUCCESS)
    on(url, lambda pool: record(pool, [result]))


def hook(command: Command, id_: UUID, *more: object) -> UUID:
    config = ("--type", "webhook", "--config", '{"url": "https://example.com/hook"}')
    return UUID(good(command, "channels", "add", id_, *config, *more).strip())


def claimed(url: str, work: Callable[[Pool, Delivery], Awaitable[Any]]) -> None:
    """Do something with the one delivery that is due."""

    async def each(pool: Pool) -> None:
        [delivery] = await outbox.claim(pool, 10, 60)
        assert await work(pool, delivery)

    on(url, each)


def test_an_incident_tells_what_was_seen_and_that_nobody_is_told_without_a_channel(
    lighthouse: Command, migrated_url: str
) -> None:
    id_ = add(lighthouse, "--name", "api")
    assert lighthouse("incidents") == (0, "", "nothing is wrong\n")
    down(migrated_url, id_)
    [found] = as_json(lighthouse, "incidents")
    assert (found["subscription_id"], found["name"]) == (str(id_), "api")
    assert found["target"] == "https://example.com/health"
    assert (found["kind"], found["severity"]) == ("downtime", "critical")
    assert datetime.fromisoformat(found["first_failure_at"]) == NOW
    assert datetime.fromisoformat(found["opened_at"]) == NOW
    assert (found["closed_at"], found["acknowledged_at"], found["note"]) == (None, None, None)
    assert (found["told"], found["held"], found["failed_reason"]) == (0, None, "no channel")
    assert found["evidence"]["reason"] == "status_code"
    table = good(lighthouse, "incidents")
    assert "HTTP 503�[31m" in table
    assert "no: no channel" in table


def test_one_incident_is_shown_with_its_evidence_and_each_try_of_its_deliveries(
    lighthouse: Command, migrated_url: str
) -> None:
    id_ = add(lighthouse, "--name", "api")
    channel = hook(lighthouse, id_)
    down(migrated_url, id_)
    claimed(migrated_url, lambda pool, one: outbox.mark_retry(pool, one, "HTTP 500", 0))
    claimed(migrated_url, lambda pool, one: outbox.mark_sent(pool, one, "204"))
    [incident] = as_json(lighthouse, "incidents")
    found = as_json(lighthouse, "incidents", "show", incident["id"])
    assert found["evidence"]["timings"] == {"dns_ms": 1.0, "tcp_ms": 2.0, "ttfb_ms": 30.0}
    assert found["evidence"]["addresses"] == ["192.0.2.7"]
    assert found["evidence"]["snippet"] == "Service Unavailable"
    assert found["evidence"]["certificate"]["subject"] == "CN=api"
    assert found["evidence"]["confirmation"]["worker"] == "w2"
    [delivery] = found["deliveries"]
    assert (delivery["channel_id"], delivery["state"]) == (str(channel), "sent")
    assert [(one["ok"], one["answer"]) for one in delivery["tries"]] == [
        (False, "HTTP 500"),
        (True, "204"),
    ]
    shown = good(lighthouse, "incidents", "show", incident["id"])
    for line in ("✗ HTTP 500\n", "✓ 204\n", "192.0.2.7\n", "reason timeout", "Service Unavail"):
        assert line in shown
    assert "█" in shown
    assert "\x1b[31m" not in shown


def test_the_worst_incidents_stand_first_and_then_the_longest(
    lighthouse: Command, migrated_url: str
) -> None:
    policy = ("--alerting", '{"latency": {"warn_ms": 10, "checks": 3}}')
    slow = add(lighthouse, "--name", "slow", *policy)
    old, new = add(lighthouse, "--name", "old"), add(lighthouse, "--name", "new")
    results = [
        Result(
            subscription_id=slow,
            slot=to_slot(NOW - timedelta(minutes=90 - number)),
            status=CheckStatus.SUCCESS,
            latency_ms=50.0,
        )
        for number in range(3)
    ]
    on(migrated_url, lambda pool: record(pool, results))
    down(migrated_url, new, at=NOW - timedelta(minutes=1))
    down(migrated_url, old, at=NOW - timedelta(minutes=60))
    found = as_json(lighthouse, "incidents")
    assert [(each["name"], each["kind"], each["severity"]) for each in found] == [
        ("old", "downtime", "critical"),
        ("new", "downtime", "critical"),
        ("slow", "high_latency", "warning"),
    ]
    assert "median of 3 checks 50 ms, warned of at 10 ms" in good(lighthouse, "incidents")
    one = as_json(lighthouse, "incidents", "--subscription", new)
    assert [each["name"] for each in one] == ["new"]
    assert len(as_json(lighthouse, "incidents", "--limit", 2)) == 2


def test_what_is_over_is_shown_by_all(lighthouse: Command, migrated_url: str) -> None:
    id_ = add(lighthouse)
    down(migrated_url, id_, at=NOW - timedelta(minutes=2))
    up(migrated_url, id_, NOW)
    assert as_json(lighthouse, "incidents") == []
    [found] = as_json(lighthouse, "incidents", "--all")
    assert found["told"] == 0
    assert datetime.fromisoformat(found["closed_at"]) == NOW
    assert "over (UTC)" in good(lighthouse, "incidents", "--all")
    assert "after 2 min" in good(lighthouse, "incidents", "show", found["id"])


def test_an_acknowledgement_is_kept_with_its_name_and_note_and_given_once(
    lighthouse: Command, migrated_url: str
) -> None:
    id_ = add(lighthouse)
    down(migrated_url, id_)
    [incident] = as_json(lighthouse, "incidents")
    ack = ("incidents", "ack", incident["id"])
    assert lighthouse(*ack, "--by", "ann", "--note", "disk full") == (
        0,
        "",
        f"acknowledged {incident['id']}\n",
    )
    [found] = as_json(lighthouse, "incidents")
    assert (found["acknowledged_by"], found["note"]) == ("ann", "disk full")
    assert found["acknowledged_at"] is not None
    assert "ann, " in good(lighthouse, "incidents")
    assert "ann, " in good(lighthouse, "status")
    assert refused(lighthouse, *ack) == f"incident {incident['id']} has been acknowledged by ann"
    assert refused(lighthouse, *ack, "--by", "a\x07b") == "by: at most 100 printable characters"


def test_incidents_and_subscriptions_that_are_not_there_are_named(lighthouse: Command) -> None:
    nobody = uuid4()
    for verb in ("show", "ack"):
        assert refused(lighthouse, "incidents", verb, nobody) == f"no incident {nobody}"
    for arguments in (("incidents", "--subscription"), ("maintenance", "list", "--subscription")):
        assert refused(lighthouse, *arguments, nobody) == f"no subscription {nobody}"
    assert refused(lighthouse, "incidents", "--all", "show", nobody) == "give options after `show`"


def test_alerts_tell_why_they_wait_or_were_not_told(lighthouse: Command, migrated_url: str) -> None:
    id_ = add(lighthouse, "--name", "api")
    hook(lighthouse, id_)
    down(migrated_url, id_)
    assert "not yet" in good(lighthouse, "incidents")
    claimed(migrated_url, lambda pool, one: outbox.mark_retry(pool, one, "HTTP 500", 0))
    claimed(migrated_url, lambda pool, one: outbox.hold(pool, one, "maintenance", 0))
    [held] = as_json(lighthouse, "alerts", id_)
    assert (held["state"], held["held"], held["attempt"]) == ("pending", "maintenance", 1)
    assert [one["answer"] for one in held["tries"]] == ["HTTP 500"]
    table = good(lighthouse, "alerts")
    assert "held: maintenance" in table
    assert f"{datetime.fromisoformat(held['next_attempt_at']):%Y-%m-%d %H:%M:%S}" in table
    [incident] = as_json(lighthouse, "incidents")
    assert incident["held"] == "maintenance"
    assert "held: maintenance" in good(lighthouse, "incidents")
    claimed(
        migrated_url,
        lambda pool, one: outbox.mark_end(pool, one, DeliveryState.SUPPRESSED, "it flaps"),
    )
    assert "it flaps" in good(lighthouse, "alerts")
    shown = good(lighthouse, "alerts", "--tries")
    assert (
        f"critical downtime of api → webhook {held['channel_id']}  suppressed (it flaps)\n" in shown
    )
    assert "✗ HTTP 500\n" in shown
    assert lighthouse("alerts", add(lighthouse), "--tries") == (0, "", "no alerts\n")


def test_status_is_one_screen_of_what_is_wrong_and_what_is_held(
    lighthouse: Command, migrated_url: str
) -> None:
    parent = add(lighthouse, "--name", "gateway")
    child = add(lighthouse, "--name", "shop", "--parent", parent)
    other = add(lighthouse, "--name", "odd")
    for id_ in (parent, child):
        hook(lighthouse, id_)
    down(migrated_url, parent, child, at=NOW - timedelta(minutes=3))
    run(
        migrated_url,
        "UPDATE subscription_state SET verdict = 'up', since = now(), slow = true,"
        " balance_level = 1, flapping_since = now() - interval '1 hour',"
        " uncovered_since = now() - interval '2 hours' WHERE subscription_id = %s",
        other,
    )
    window = ("maintenance", "add", "--subscription", other, "--now", "--duration", "2h")
    good(lighthouse, *window, "--name", "rebuild")
    run(migrated_url, "UPDATE alert_history SET held = 'parent' WHERE subscription_id = %s", child)

    async def give_up(pool: Pool) -> None:
        [gone] = [d for d in await outbox.claim(pool, 10, 60) if d.subscription_id == parent]
        await outbox.mark_end(pool, gone, DeliveryState.GAVE_UP, "no luck", answer="HTTP 500")

    on(migrated_url, give_up)
    found = as_json(lighthouse, "status")
    assert {each["name"] for each in found["down"]} == {"gateway", "shop"}
    incidents = {each["id"]: each["name"] for each in as_json(lighthouse, "incidents")}
    assert all(incidents[each["incident_id"]] == each["name"] for each in found["down"])
    assert {each["error_code"] for each in found["down"]} == {"status_code"}
    assert found["trouble_counts"] == {
        "high_latency": 1,
        "low_balance": 1,
        "flapping": 1,
        "coverage": 1,
    }
    assert {each["name"] for each in found["troubles"]} == {"odd"}
    assert [(each["name"], each["children"]) for each in found["holding"]] == [("gateway", 1)]
    assert [each["name"] for each in found["maintenance"]] == ["rebuild"]
    assert (found["alerts_pending"], found["alerts_held"]) == (1, {"parent": 1})
    assert (found["alerts_gave_up"], found["unknown_count"]) == (1, 1)
    shown = good(lighthouse, "status")
    for text in (
        "warnings       1 flapping, 1 low balance, 1 slow, 1 uncovered\n",
        "alerts         1 pending (1 held: parent)\n",
        "given up       1 alerts in the last 24 h\n",
        "down: 2\n",
        "HTTP 503",
        "maintenance runs: 1\n",
        "rebuild",
        "down parents that hold their children's alerts: 1\n",
    ):
        assert text in shown


def test_a_target_that_holds_still_again_flaps_no_more_on_the_status(
    lighthouse: Command, migrated_url: str
) -> None:
    ids = {
        name: add(lighthouse, "--name", name, *policy)
        for name, policy in {
            "default": (),
            "patient": ("--alerting", json.dumps({"flapping": {"within_s": 7200}})),
            "never": ("--alerting", json.dumps({"flapping": None})),
        }.items()
    }
    for id_ in ids.values():
        run(
            migrated_url,
            "UPDATE subscription_state SET verdict = 'up', since = now() - interval '40 minutes',"
            " flapping_since = now() - interval '2 hours' WHERE subscription_id = %s",
            id_,
        )
    found = as_json(lighthouse, "status")
    assert [(each["kind"], each["name"]) for each in found["troubles"]] == [("flapping", "patient")]


def test_lists_of_the_status_are_cut_and_counts_are_not(
    lighthouse: Command, migrated_url: str
) -> None:
    ids = [add(lighthouse, "--name", f"n{number}") for number in range(3)]
    down(migrated_url, *ids)
    run(migrated_url, "UPDATE subscription_state SET slow = true")
    found = as_json(lighthouse, "status", "--limit", 1)
    assert (len(found["down"]), found["verdicts"]) == (1, {"down": 3})
    assert (len(found["troubles"]), found["trouble_counts"]) == (1, {"high_latency": 3})
    assert "down: 3\n" in good(lighthouse, "status", "--limit", 1)


def test_a_critical_balance_is_down_by_its_own_incident(
    lighthouse: Command, migrated_url: str
) -> None:
    id_ = add(lighthouse, "--name", "wallet")
    run(migrated_url, "UPDATE subscriptions SET target_type = 'balance'")
    run(
        migrated_url,
        "UPDATE subscription_state SET verdict = 'down', since = now(), balance_level = 2",
    )
    incident = uuid4()
    run(
        migrated_url,
        "INSERT INTO incidents (id, subscription_id, kind, severity, opened_at, first_failure_at,"
        " evidence) VALUES (%s, %s, 'low_balance', 'critical', now(), now(),"
        " jsonb_build_object('level', 'critical'))",
        incident,
        id_,
    )
    found = as_json(lighthouse, "status")
    assert [each["incident_id"] for each in found["down"]] == [str(incident)]
    assert found["troubles"] == []
    assert "the balance is critical" in good(lighthouse, "incidents")
