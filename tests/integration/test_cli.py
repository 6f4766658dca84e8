"""The command line against a real database and a local target."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from lighthouse import settings
from lighthouse.model import AlertType, Severity, from_slot, to_slot
from lighthouse.store import outbox
from lighthouse.store.pool import open_pool
from lighthouse.store.sweep import sweep
from tests.conftest import Command
from tests.support.commands import WALLET, add, as_json, good, run

TX = "0x" + "1f" * 32


@pytest.fixture
def target() -> Iterator[tuple[str, list[bytes]]]:
    """A local server: /fail answers 503, all else 200; what is posted is kept."""
    posted: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if self.path == "/fail" else 200)
            self.end_headers()
            self.wfile.write(b"hello")

        def do_POST(self) -> None:
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", posted
    server.shutdown()
    thread.join()
    server.server_close()


def test_add_prints_the_new_id_alone_and_show_tells_what_was_asked(lighthouse: Command) -> None:
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    id_ = add(
        lighthouse,
        *("--name", "The API", "--payment-tx", TX, "--payment-chain", "base"),
        *("--payment-usdc", "5.25", "--expires-at", expires.isoformat()),
        timeout=5,
    )
    found = as_json(lighthouse, "subscriptions", "show", id_)
    assert found["id"] == str(id_)
    assert found["wallet_address"] == WALLET.lower()
    assert found["name"] == "The API"
    assert found["target_type"] == "http"
    assert found["target_config"] == {"url": "https://example.com/health", "timeout": 5}
    assert (found["tier"], found["check_interval_seconds"]) == ("pro", 60)
    assert (found["status"], found["verdict"]) == ("active", "unknown")
    assert (found["payment_tx_hash"], found["payment_chain"]) == (TX, "base")
    assert found["payment_amount_usdc"] == 5_250_000
    assert datetime.fromisoformat(found["expires_at"]) == expires
    assert found["channels"] == []
    shown = good(lighthouse, "subscriptions", "show", id_)
    assert "paid        5.25 USDC\n" in shown
    assert "target      https://example.com/health\n" in shown


def test_a_configuration_may_stand_in_a_file(lighthouse: Command, tmp_path: Path) -> None:
    file = tmp_path / "api.json"
    file.write_text('{"url": "https://example.org"}')
    out = good(
        lighthouse,
        *("subscriptions", "add", "--wallet", WALLET, "--type", "http", "--config", f"@{file}"),
    )
    found = as_json(lighthouse, "subscriptions", "show", out.strip())
    assert (found["name"], found["check_interval_seconds"]) == ("example.org", 900)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--interval", "30"], "interval: the pro plan checks every 60 s at most"),
        (["--config", '{"url": "https://x.org", "timeout": 59}'], "timeout: all attempts together"),
        (["--name", "taken"], "name: wallet 0xabab"),
        (["--payment-tx", TX], "payment: a transaction and its chain are given together"),
        (["--payment-tx", TX, "--payment-chain", "moon"], "payment_chain: 'moon' is none of"),
        (["--expires-at", "2020-01-01T00:00:00Z"], "expires_at: the time has already passed"),
    ],
)
def test_what_cannot_be_is_one_line_and_makes_nothing(
    lighthouse: Command, more: list[str], message: str
) -> None:
    add(lighthouse, "--name", "taken")
    status, out, err = lighthouse(
        *("subscriptions", "add", "--wallet", WALLET, "--type", "http", "--tier", "pro"),
        *("--config", '{"url": "https://example.com"}', "--interval", "60", *more),
    )
    assert (status, out) == (2, "")
    assert err.startswith(f"lighthouse: {message}")
    assert err.count("\n") == 1
    assert len(as_json(lighthouse, "subscriptions", "list")) == 1


def test_plans_are_set_aside_by_their_setting(
    lighthouse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTHOUSE_PLANS", "off")
    settings.current.cache_clear()
    id_ = add(lighthouse, "--interval", 10, "--tier", "free", timeout=2)
    hook = ("--type", "webhook", "--config", '{"url": "https://example.com/hook"}')
    good(lighthouse, "channels", "add", id_, *hook)


def test_list_shows_the_wallets_subscriptions_and_their_status(lighthouse: Command) -> None:
    first, second = add(lighthouse, "--name", "[bold]one"), add(lighthouse, "--name", "two")
    good(lighthouse, "subscriptions", "pause", second)
    assert [row["name"] for row in as_json(lighthouse, "subscriptions", "list")] == [
        "[bold]one",
        "two",
    ]
    paused = as_json(lighthouse, "subscriptions", "list", "--status", "paused")
    assert [row["id"] for row in paused] == [str(second)]
    nobody = as_json(lighthouse, "subscriptions", "list", "--wallet", "0x" + "00" * 20)
    assert nobody == []
    table = good(lighthouse, "subscriptions", "list").splitlines()
    assert len(table) == 4
    assert table[0].split() == [
        "id",
        "name",
        "type",
        "target",
        "every",
        "tier",
        "status",
        "verdict",
        "for",
    ]
    assert str(first) in table[2]
    assert "[bold]one" in table[2]
    assert "paused" in table[3]


def test_pause_resume_change_and_cancel_are_told_on_standard_error(lighthouse: Command) -> None:
    id_ = add(lighthouse)
    assert lighthouse("subscriptions", "pause", id_) == (0, "", f"paused {id_}\n")
    assert lighthouse("subscriptions", "pause", id_) == (
        2,
        "",
        f"lighthouse: subscription {id_} is paused and cannot be paused\n",
    )
    assert lighthouse("subscriptions", "resume", id_) == (0, "", f"resumed {id_}\n")
    assert lighthouse("subscriptions", "change", id_, "--interval", 120) == (
        0,
        "",
        f"changed {id_}\n",
    )
    new = '{"url": "https://example.net", "timeout": 70}'
    status, _, err = lighthouse("subscriptions", "change", id_, "--config", new)
    assert (status, err[:40]) == (2, "lighthouse: timeout: all attempts togeth")
    good(lighthouse, "subscriptions", "change", id_, "--config", new.replace("70", "20"))
    found = as_json(lighthouse, "subscriptions", "show", id_)
    assert found["check_interval_seconds"] == 120
    assert found["target_config"] == {"url": "https://example.net/", "timeout": 20}
    assert lighthouse("subscriptions", "cancel", id_) == (0, "", f"cancelled {id_}\n")
    assert lighthouse("subscriptions", "resume", id_)[0] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("subscriptions", "show"),
        ("subscriptions", "pause"),
        ("subscriptions", "cancel"),
        ("channels", "list"),
        ("history",),
        ("metrics",),
        ("uptime",),
        ("alerts",),
    ],
)
def test_an_id_that_is_unknown_is_named(lighthouse: Command, arguments: tuple[str, ...]) -> None:
    nobody = uuid4()
    assert lighthouse(*arguments, nobody) == (
        2,
        "",
        f"lighthouse: no subscription {nobody}\n",
    )


def test_channels_are_added_listed_tested_and_removed(
    lighthouse: Command, target: tuple[str, list[bytes]]
) -> None:
    base, posted = target
    id_ = add(lighthouse)
    config = json.dumps({"url": f"{base}/hook", "secret": "keep this secret"})
    channel = good(
        lighthouse,
        *("channels", "add", id_, "--type", "webhook", "--config", config),
        *("--language", "es", "--min-severity", "critical"),
    ).strip()
    [listed] = as_json(lighthouse, "channels", "list", id_)
    assert listed == {
        "id": channel,
        "subscription_id": str(id_),
        "channel_type": "webhook",
        "enabled": True,
        "min_severity": "critical",
        "escalate_after_s": 0,
        "metadata": {"language": "es", "timezone": "UTC"},
        "channel_config": {"url": "***", "secret": "***"},
    }
    assert "keep this secret" not in good(lighthouse, "channels", "list")
    status, out, err = lighthouse("channels", "test", channel)
    assert (status, out) == (0, "")
    assert err.startswith("sent: ")
    assert len(posted) == 1
    failing = good(
        lighthouse,
        *("channels", "add", id_, "--type", "webhook"),
        *("--config", json.dumps({"url": f"{base}/fail"})),
    ).strip()
    status, out, err = lighthouse("channels", "test", failing)
    assert (status, out) == (1, "")
    assert err.startswith("lighthouse: the test alert was not taken: ")
    assert "503" in err
    assert lighthouse("channels", "remove", channel) == (0, "", f"removed {channel}\n")
    assert lighthouse("channels", "test", channel) == (
        2,
        "",
        f"lighthouse: no channel {channel}\n",
    )


def test_a_channel_is_changed_switched_off_and_on_again(
    lighthouse: Command, migrated_url: str
) -> None:
    id_ = add(lighthouse)
    config = ("--config", '{"url": "https://example.com/hook"}')
    channel = good(lighthouse, "channels", "add", id_, "--type", "webhook", *config).strip()

    def stored() -> tuple[bool, str, dict[str, str]]:
        [found] = as_json(lighthouse, "channels", "list", id_)
        return found["enabled"], found["min_severity"], found["metadata"]

    assert stored() == (True, "warning", {"language": "en", "timezone": "UTC"})
    changes = ("--language", "es", "--timezone", "Europe/Madrid", "--min-severity", "critical")
    assert lighthouse("channels", "edit", channel, *changes) == (0, "", f"changed {channel}\n")
    told = {"language": "es", "timezone": "Europe/Madrid"}
    assert stored() == (True, "critical", told)
    good(lighthouse, "channels", "edit", channel, "--language", "en")
    told["language"] = "en"
    assert stored() == (True, "critical", told)
    assert lighthouse("channels", "disable", channel) == (0, "", f"disabled {channel}\n")
    assert stored() == (False, "critical", told)
    run(
        migrated_url,
        'UPDATE alert_channels SET metadata = metadata || \'{"disabled_reason": "HTTP 404"}\'',
    )
    good(lighthouse, "channels", "edit", channel, "--language", "es")
    assert stored()[2]["disabled_reason"] == "HTTP 404"
    assert lighthouse("channels", "enable", channel) == (0, "", f"enabled {channel}\n")
    assert stored() == (True, "critical", {**told, "language": "es"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--language", "fr"), "lighthouse: language: 'fr' is none of en, es\n"),
        (
            ("--timezone", "Madrid"),
            "lighthouse: timezone: 'Madrid' is no IANA time zone, such as Europe/Madrid\n",
        ),
    ],
)
def test_a_language_or_time_zone_that_is_not_known_is_refused(
    lighthouse: Command, arguments: tuple[str, ...], message: str
) -> None:
    id_ = add(lighthouse)
    hook = ("--type", "webhook", "--config", '{"url": "https://example.com/hook"}')
    channel = good(lighthouse, "channels", "add", id_, *hook).strip()
    assert lighthouse("channels", "edit", channel, *arguments) == (2, "", message)
    assert lighthouse("channels", "add", id_, *hook, *arguments) == (2, "", message)


@pytest.mark.parametrize("verb", ["edit", "enable", "disable"])
def test_a_channel_that_is_not_there_cannot_be_changed(lighthouse: Command, verb: str) -> None:
    nobody = "00000000-0000-0000-0000-000000000009"
    assert lighthouse("channels", verb, nobody) == (2, "", f"lighthouse: no channel {nobody}\n")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{}", "lighthouse: webhook_url: "),
        ('{"webhook_url": "https://discord.com/api/webhooks/1/a", "x": 1}', "lighthouse: x: "),
        ("{", "lighthouse: config: not JSON: "),
    ],
)
def test_a_channels_wrong_configuration_names_its_field(
    lighthouse: Command, config: str, message: str
) -> None:
    id_ = add(lighthouse)
    status, out, err = lighthouse("channels", "add", id_, "--type", "discord", "--config", config)
    assert (status, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert as_json(lighthouse, "channels", "list") == []


def test_check_probes_once_and_stores_nothing(
    lighthouse: Command, target: tuple[str, list[bytes]], migrated_url: str
) -> None:
    base, _ = target
    found = as_json(lighthouse, "check", "--type", "http", "--config", f'{{"url": "{base}/ok"}}')
    assert (found["status"], found["http_status"], found["error_code"]) == ("success", 200, None)
    assert found["latency_ms"] > 0
    assert found["timings"]["tcp_ms"] >= 0
    assert found["findings"] == [{"name": "status", "ok": True, "found": "200"}]
    status, out, err = lighthouse(
        "check", "--type", "http", "--config", f'{{"url": "{base}/fail", "retries": 0}}'
    )
    assert (status, err) == (1, "")
    above, _, below = out.partition("\n\nphases\n")
    facts = dict(line.split(maxsplit=1) for line in above.splitlines())
    assert "✗ status" in below
    assert facts["status"] == "failure"
    assert facts["error_code"] == "status_code"
    assert facts["http_status"] == "503"
    assert facts["http_version"] in ("1.0", "1.1")
    with psycopg.connect(migrated_url) as conn:
        assert conn.execute("SELECT count(*) FROM check_history").fetchone() == (0,)


def test_history_metrics_uptime_and_status_read_what_was_found(
    lighthouse: Command, migrated_url: str
) -> None:
    id_ = add(lighthouse)
    now = to_slot(datetime.now(UTC))
    begun = now - 4 * 3_600_000
    run(migrated_url, "UPDATE schedule_epochs SET first_slot = %s", begun)
    for minutes, status in ((3, "success"), (2, "failure"), (1, "success")):
        run(
            migrated_url,
            "INSERT INTO check_history (time, subscription_id, status, latency_ms, error_code,"
            " error_message, tcp_ms) VALUES (%s, %s, %s, 12.5, %s, %s, 1.5)",
            from_slot(now - minutes * 60_000),
            id_,
            status,
            None if status == "success" else "status_code",
            None if status == "success" else "HTTP \x1b[31m503",
        )
    run(
        migrated_url,
        "UPDATE subscription_state SET verdict = 'down', since = %s",
        from_slot(now - 120_000),
    )

    async def account() -> None:
        async with open_pool(migrated_url) as pool:
            await sweep(pool, 0, now_ms=now)

    asyncio.run(account())

    assert len(as_json(lighthouse, "history", id_, "--limit", 4)) == 4
    checks = [e for e in as_json(lighthouse, "history", id_) if e["status"] != "missed"]
    assert [check["status"] for check in checks] == ["success", "failure", "success"]
    assert checks[1]["error_code"] == "status_code"
    assert checks[1]["timings"] == {"tcp_ms": 1.5}
    assert datetime.fromisoformat(checks[1]["time"]) == from_slot(now - 120_000)
    [gap] = [e for e in as_json(lighthouse, "history", id_) if "slots" in e]
    assert gap["slots"] >= 236
    table = good(lighthouse, "history", id_)
    assert f"{gap['slots']} slots without a check" in table
    assert "\x1b" not in table

    [*hours] = as_json(lighthouse, "metrics", id_, "--hourly")
    assert sum(hour["total_checks"] for hour in hours) >= 240
    assert sum(hour["failures"] for hour in hours) == 1
    assert {"hour", "subscription_id", "uptime_ratio", "coverage_ratio"} <= hours[0].keys()
    days = as_json(lighthouse, "metrics", id_, "--daily", "--last", 2)
    assert sum(day["successful_checks"] for day in days) == 2
    assert "day" in days[0]
    assert "66.666 %" in good(lighthouse, "metrics", id_, "--daily")

    total = as_json(lighthouse, "uptime", id_, "--days", 7)
    assert (total["success"], total["judged"]) == (2, 3)
    assert total["uptime_ratio"] == 2 / 3
    assert total["coverage_ratio"] == 3 / total["due"]
    assert "uptime    66.666 % (2 up of 3)\n" in good(lighthouse, "uptime", id_)

    standing = as_json(lighthouse, "status")
    assert [each["error_code"] for each in standing["down"]] == ["status_code"]
    assert standing["subscriptions"] == {"active": 1}
    assert (standing["judged"], standing["unknown_count"]) == (3, 0)
    assert 59 <= standing["due"] <= 61
    shown = good(lighthouse, "status")
    assert "down: 1\n" in shown
    assert "HTTP �[31m503" in shown


def test_alerts_tell_what_became_of_each(lighthouse: Command, migrated_url: str) -> None:
    id_ = add(lighthouse, "--name", "api")
    other = add(lighthouse, "--name", "other")

    async def events() -> None:
        async with open_pool(migrated_url) as pool, pool.connection() as conn:
            for subscription_id in (id_, other):
                await outbox.enqueue(
                    conn,
                    outbox.Event(
                        subscription_id=subscription_id,
                        slot=to_slot(datetime.now(UTC)),
                        alert_type=AlertType.DOWNTIME,
                        severity=Severity.CRITICAL,
                        title="down",
                        message="it is down",
                    ),
                )

    asyncio.run(events())
    [alert] = as_json(lighthouse, "alerts", id_)
    assert alert["subscription_id"] == str(id_)
    assert (alert["alert_type"], alert["severity"]) == ("downtime", "critical")
    assert (alert["title"], alert["message"]) == ("down", "it is down")
    assert len(as_json(lighthouse, "alerts")) == 2
    assert "downtime" in good(lighthouse, "alerts")


def test_a_tier_reads_no_further_back_than_its_plan(
    lighthouse: Command, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = add(lighthouse, "--tier", "free", "--interval", 900)
    old = datetime.now(UTC) - timedelta(days=7, hours=1)
    for time in (old, old + timedelta(hours=2)):
        run(
            migrated_url,
            "INSERT INTO check_history (time, subscription_id, status) VALUES (%s, %s, 'success')",
            time,
            id_,
        )
    assert len(as_json(lighthouse, "history", id_)) == 1
    monkeypatch.setenv("LIGHTHOUSE_PLANS", "off")
    settings.current.cache_clear()
    assert len(as_json(lighthouse, "history", id_)) == 2


def test_a_database_that_is_not_migrated_is_told_with_the_command(
    lighthouse: Command, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    settings.current.cache_clear()
    for arguments in (("status",), ("subscriptions", "list"), ("history", uuid4())):
        status, out, err = lighthouse(*arguments)
        assert (status, out) == (1, "")
        assert err.startswith("lighthouse: the database has no Lighthouse schema")
        assert err.endswith("run `lighthouse db upgrade`\n")
        assert err.count("\n") == 1


def test_a_database_that_does_not_exist_is_named_without_the_password(
    lighthouse: Command, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = urlsplit(migrated_url)._replace(path="/no_such_database")
    monkeypatch.setenv("DATABASE_URL", elsewhere.geturl())
    settings.current.cache_clear()
    status, _, err = lighthouse("status")
    assert status == 1
    assert 'database "no_such_database" does not exist' in err
    assert err.count("\n") == 1


def test_amounts_beyond_64_bits_are_kept_and_told_exactly(lighthouse: Command) -> None:
    """Fails when what prints JSON knows no such integers: one subscription hides all others."""
    id_ = add(lighthouse, max_latency_ms=2**256 - 1)
    small = add(lighthouse)
    shown = as_json(lighthouse, "subscriptions", "show", id_)
    assert shown["target_config"]["max_latency_ms"] == 2**256 - 1
    listed = as_json(lighthouse, "subscriptions", "list")
    assert {row["id"] for row in listed} == {str(id_), str(small)}
    assert shown.keys() == as_json(lighthouse, "subscriptions", "show", small).keys()
    assert datetime.fromisoformat(shown["created_at"]).tzinfo is not None
