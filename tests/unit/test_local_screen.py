"""What the table of `lighthouse up` says."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from rich.console import Console

from lighthouse.local import screen
from lighthouse.local.targets import Received
from lighthouse.model import CheckStatus, MonitorType, SubscriptionStatus, Verdict
from lighthouse.store.history import Overview
from lighthouse.store.metrics import Uptime

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
ROW = Overview(
    id=UUID(int=1),
    name="shop",
    target_type=MonitorType.HTTP,
    target_config={"url": "https://user:word@shop.example/health?key=secret"},
    status=SubscriptionStatus.ACTIVE,
    check_interval_seconds=60,
    verdict=Verdict.UP,
    since=NOW - timedelta(minutes=3, seconds=7),
    last_time=NOW - timedelta(seconds=4),
    last_status=CheckStatus.SUCCESS,
    last_latency_ms=4.26,
    last_http_status=200,
    last_error_code=None,
    last_error=None,
    next_due=NOW + timedelta(seconds=56),
)


def _drawn(view: screen.View, width: int = 140) -> str:
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        console.print(screen.render(view, NOW))
    return captured.get()


def test_a_row_tells_name_target_status_latency_uptime_coverage_and_next_check() -> None:
    view = screen.View(title="t", rows=[ROW], uptimes={ROW.id: Uptime(due=4, judged=2, success=1)})
    line = next(line for line in _drawn(view).splitlines() if "shop" in line)
    assert re.split(r"\s{2,}", line.strip()) == [
        "shop",
        "https://shop.example/health",
        "up 3m 7s",
        "4.3 ms",
        "50.0 %",
        "50.0 %",
        "56s",
    ]


def test_a_target_that_is_down_tells_why() -> None:
    row = replace(
        ROW,
        verdict=Verdict.DOWN,
        last_status=CheckStatus.FAILURE,
        last_error_code="status_code",
        since=NOW - timedelta(seconds=9),
    )
    assert str(screen.status(row, NOW)) == "down 9s status_code"


def test_a_paused_subscription_shows_no_verdict() -> None:
    row = replace(ROW, status=SubscriptionStatus.PAUSED, next_due=None)
    assert str(screen.status(row, NOW)) == "paused"
    assert screen.until(row.next_due, NOW) == "–"


def test_before_the_first_check_nothing_is_claimed() -> None:
    row = replace(ROW, verdict=Verdict.UNKNOWN, last_status=None, last_latency_ms=None, since=NOW)
    assert str(screen.status(row, NOW)) == "unknown"
    assert screen.latency(row) == "–"
    assert screen.percent(None) == "–"


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(1.0, "100 %"), (0.99999, "99.99 %"), (0.9951, "99.51 %"), (0.5, "50.0 %"), (0.0, "0.0 %")],
)
def test_a_ratio_is_never_rounded_up_to_the_whole(ratio: float, shown: str) -> None:
    assert screen.percent(ratio) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3, "0s"), (59.9, "59s"), (61, "1m 1s"), (7260, "2h 1m"), (90_000, "1d 1h")],
)
def test_lengths_of_time_are_told_in_their_largest_units(seconds: float, shown: str) -> None:
    assert screen.span(seconds) == shown


def test_the_newest_alerts_stand_first_and_the_oldest_give_way() -> None:
    alerts = [
        Received(at=NOW + timedelta(seconds=n), title=f"alert {n}", severity="critical")
        for n in range(8)
    ]
    text = _drawn(screen.View(title="t", rows=[ROW], alerts=alerts))
    shown = [line.split()[-1] for line in text.splitlines() if "alert " in line]
    assert shown == ["7", "6", "5", "4", "3"]


def test_an_alert_tells_how_it_came_and_the_mails_where_they_are() -> None:
    alerts = [
        Received(at=NOW, title="shop is down", severity="critical", event_id="1"),
        Received(at=NOW, title="feed is down", severity="", how="mail", event_id="2"),
        Received(at=NOW, title="shop está caído", severity="", how="mail", event_id="1"),
        Received(at=NOW, title="feed is down", severity="critical", event_id="2"),
        Received(at=NOW, title="till is down", severity="critical"),
    ]
    text = _drawn(screen.View(title="t", alerts=alerts, mails="/data/mails"))
    lines = [line.split(maxsplit=1)[1].strip() for line in text.splitlines() if " down" in line]
    assert lines == [
        "webhook       till is down",
        "mail, webhook feed is down",
        "webhook, mail shop is down · shop está caído",
    ]
    assert "Mails are kept in /data/mails" in text


def test_trouble_is_one_line_however_long_it_is() -> None:
    text = _drawn(screen.View(title="t", rows=[ROW], troubles=["worker-1 ended: " + "x" * 500]))
    assert len([line for line in text.splitlines() if "worker-1 ended" in line]) == 1
    assert max(len(line) for line in text.splitlines()) <= 140


def test_a_name_in_markup_is_shown_as_it_is() -> None:
    assert "[red]x[/red]" in _drawn(
        screen.View(title="t", rows=[replace(ROW, name="[red]x[/red]")])
    )


def test_an_empty_fleet_says_how_to_begin() -> None:
    assert "lighthouse subscriptions add" in _drawn(screen.View(title="t"))
