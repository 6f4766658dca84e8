"""`lighthouse subscriptions apply` against a real database."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Command

WALLET = "0x" + "ab" * 20
OTHER = "0x" + "cd" * 20

API = """
  - name: API
    type: http
    interval: 60
    tier: pro
    config:
      url: https://example.com/health
      headers: {Authorization: !env API_TOKEN}
    channels:
    - {type: webhook, config: {url: 'https://hooks.example/s3cr3t', secret: s3cr3t}}
    - {type: discord, config: {webhook_url: 'https://discord.example/s3cr3t'}, language: es}
"""
WEB = "\n  - {name: Web, type: http, tier: pro, interval: 300, config: {url: 'https://example.org'}}\n"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "Bearer s3cr3t")


@pytest.fixture
def apply(lighthouse: Command, tmp_path: Path) -> Any:
    """Apply entries of WALLET (or whole text); what is printed as JSON, or the failed command."""

    def run(entries: str, *options: str, fails: bool = False) -> Any:
        file = tmp_path / "fleet.yaml"
        text = entries if entries.startswith("wallets:") else f"wallets:\n  {WALLET}:\n{entries}"
        file.write_text(text)
        status, out, err = lighthouse("subscriptions", "apply", file, "--json", *options)
        assert "s3cr3t" not in out + err
        if fails:
            assert (status, out) == (2, "")
            return err.replace(str(file), "f.yaml").removeprefix("lighthouse: ").strip()
        assert status == 0, err
        return json.loads(out)

    return run


def actions(plan: Any) -> list[tuple[str, str, list[str]]]:
    return [(step["action"], step["name"], step["changes"]) for step in plan["steps"]]


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


LIVE = (
    "SELECT name, status::text, check_interval_seconds, tier::text FROM subscriptions"
    " WHERE status <> 'cancelled' ORDER BY name"
)
EVERYTHING = (
    "SELECT 's', s.id, s.xmin::text, s.changed_xid FROM subscriptions s UNION ALL"
    " SELECT 'c', id, xmin::text, 0 FROM alert_channels UNION ALL"
    " SELECT 'e', subscription_id, xmin::text, id FROM schedule_epochs ORDER BY 1, 2, 4"
)


def test_a_plan_is_only_shown_until_it_is_agreed_to(apply: Any, migrated_url: str) -> None:
    plan = apply(API + WEB)
    assert plan["applied"] is False
    assert actions(plan) == [
        ("create", "API", ["every 60 s", "pro plan", "2 channels"]),
        ("create", "Web", ["every 300 s", "pro plan"]),
    ]
    assert query(migrated_url, LIVE) == []
    assert apply(API + WEB, "--yes")["applied"] is True
    assert query(migrated_url, LIVE) == [
        ("API", "active", 60, "pro"),
        ("Web", "active", 300, "pro"),
    ]
    assert query(
        migrated_url,
        "SELECT channel_type::text, min_severity::text, metadata ->> 'language'"
        " FROM alert_channels ORDER BY 1",
    ) == [("discord", "warning", "es"), ("webhook", "warning", "en")]


def test_a_second_run_touches_nothing(apply: Any, migrated_url: str) -> None:
    apply(API + WEB, "--yes")
    before = query(migrated_url, EVERYTHING)
    plan = apply(API + WEB, "--yes")
    assert (plan["steps"], plan["unchanged"], plan["applied"]) == ([], 2, False)
    assert query(migrated_url, EVERYTHING) == before


def test_a_plan_for_people_names_fields_and_no_secret(
    lighthouse: Command, apply: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(API + WEB, "--yes")
    monkeypatch.setenv("API_TOKEN", "Bearer s3cr3t-2")
    file = tmp_path / "fleet.yaml"
    file.write_text(f"wallets:\n  {WALLET}:\n{API.replace('60', '120')}")
    status, out, err = lighthouse("subscriptions", "apply", file)
    assert (status, err) == (0, "nothing was done; --yes applies the plan\n")
    assert out == (
        f"~ change http 'API' of {WALLET}: interval 60 s → 120 s, config: headers\n"
        "0 to create, 1 to change, 0 to cancel, 0 unchanged,"
        " 1 not in the file (--prune cancels them)\n"
    )


def test_fields_are_changed_in_place_and_history_stays(apply: Any, migrated_url: str) -> None:
    apply(API + WEB, "--yes")
    [(id_,)] = query(migrated_url, "SELECT id FROM subscriptions WHERE name = 'Web'")
    changed = WEB.replace("300", "120").replace("example.org", "example.net")
    plan = apply(API + changed.replace("tier: pro", "tier: enterprise"), "--yes")
    assert actions(plan) == [
        (
            "change",
            "Web",
            ["interval 300 s → 120 s", "tier pro → enterprise", "config: url"],
        )
    ]
    assert query(
        migrated_url,
        "SELECT id, tier::text, check_interval_seconds, target_config ->> 'url'"
        " FROM subscriptions WHERE name = 'Web'",
    ) == [(id_, "enterprise", 120, "https://example.net/")]
    spans = query(
        migrated_url,
        f"SELECT interval_ms, end_slot IS NULL FROM schedule_epochs WHERE subscription_id = '{id_}'"
        " ORDER BY id",
    )
    assert spans == [(300_000, False), (120_000, True)]


def test_pausing_and_resuming_stand_in_the_file_or_are_left_alone(
    lighthouse: Command, apply: Any, migrated_url: str
) -> None:
    paused = WEB.replace("tier:", "paused: true, tier:")
    assert actions(apply(paused, "--yes"))[0][2] == ["every 300 s", "pro plan", "paused"]
    assert query(migrated_url, LIVE) == [("Web", "paused", 300, "pro")]
    assert query(migrated_url, "SELECT count(*) FROM schedule_epochs WHERE end_slot IS NULL") == [
        (0,)
    ]
    assert apply(WEB, "--yes")["unchanged"] == 1
    resumed = paused.replace("true", "false")
    assert actions(apply(resumed, "--yes")) == [("change", "Web", ["resumed"])]
    assert query(migrated_url, LIVE) == [("Web", "active", 300, "pro")]
    assert actions(apply(paused, "--yes")) == [("change", "Web", ["paused"])]
    assert query(migrated_url, "SELECT count(*) FROM schedule_epochs WHERE end_slot IS NULL") == [
        (0,)
    ]


def test_prune_cancels_what_the_files_wallets_have_beside_it_and_nobody_elses(
    apply: Any, migrated_url: str
) -> None:
    apply(f"wallets:\n  {OTHER}:{WEB}", "--yes")
    apply(API + WEB, "--yes")
    plan = apply(API, "--yes")
    assert actions(plan) == [("keep", "Web", [])]
    assert plan["applied"] is False
    plan = apply(API, "--yes", "--prune")
    assert actions(plan) == [("cancel", "Web", [])]
    assert query(migrated_url, LIVE) == [
        ("API", "active", 60, "pro"),
        ("Web", "active", 300, "pro"),
    ]
    assert apply(f"wallets:\n  {WALLET}: []", "--prune", "--yes")["applied"] is True
    assert query(migrated_url, LIVE) == [("Web", "active", 300, "pro")]


def test_a_name_may_be_used_again_after_its_subscription_was_cancelled(
    apply: Any, migrated_url: str
) -> None:
    apply(WEB, "--yes")
    apply(f"wallets:\n  {WALLET}: []", "--prune", "--yes")
    assert actions(apply(WEB, "--yes"))[0][:2] == ("create", "Web")
    statuses = query(migrated_url, "SELECT status::text FROM subscriptions ORDER BY created_at")
    assert statuses == [("cancelled",), ("active",)]
    assert apply(WEB)["unchanged"] == 1


def test_channels_follow_the_file_and_keep_their_ids(apply: Any, migrated_url: str) -> None:
    apply(API, "--yes")
    ids = dict(query(migrated_url, "SELECT channel_type::text, id FROM alert_channels"))
    changed = API.replace("hooks.example", "other.example").replace("language: es", "language: en")
    plan = apply(changed, "--yes")
    assert actions(plan) == [
        ("change", "API", ["discord channel: language en", "webhook channel: url"])
    ]
    assert dict(query(migrated_url, "SELECT channel_type::text, id FROM alert_channels")) == ids
    without = changed[: changed.index("    - {type: discord")]
    assert actions(apply(without, "--yes")) == [("change", "API", ["without a discord channel"])]
    more = without + "    - {type: webhook, config: {url: 'https://third.example'}}\n"
    assert actions(apply(more, "--yes")) == [("change", "API", ["another webhook channel"])]
    unsaid = more[: more.index("    channels:")]
    assert apply(unsaid, "--yes")["unchanged"] == 1
    assert query(migrated_url, "SELECT count(*) FROM alert_channels") == [(2,)]


def test_a_switched_off_channel_stays_so_until_the_file_says_otherwise(
    apply: Any, migrated_url: str
) -> None:
    apply(API, "--yes")
    query_off = "UPDATE alert_channels SET enabled = false RETURNING 1"
    assert len(query(migrated_url, query_off)) == 2
    assert apply(API, "--yes")["unchanged"] == 1
    said = API.replace("{type: discord", "{type: discord, enabled: true")
    assert actions(apply(said, "--yes")) == [("change", "API", ["discord channel: enabled"])]


def test_one_mistake_anywhere_leaves_everything_as_it_was(apply: Any, migrated_url: str) -> None:
    err = apply(API + WEB.replace("https:", "ftp:"), "--yes", fails=True)
    assert err.startswith("f.yaml:15:64: ")
    assert "config.url: " in err
    assert query(migrated_url, LIVE) == []


def test_a_type_cannot_be_changed_under_a_name(
    apply: Any, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(WEB, "--yes")
    query(migrated_url, "UPDATE subscriptions SET target_type = 'graphql' RETURNING 1")
    err = apply(WEB, "--yes", fails=True)
    assert err.startswith(
        "f.yaml:4:17: type: 'Web' is a graphql monitor, and its history stays one"
    )


def test_plans_limits_hold_for_the_whole_file(apply: Any, migrated_url: str) -> None:
    one = "\n  - {name: one, type: http, config: {url: 'https://example.org'}}\n"
    err = apply(one + one.replace("one", "two"), "--yes", fails=True)
    assert err == (
        "f.yaml:6:5: tier: the free plan holds 1 subscriptions a wallet, and this one has 1"
    )
    apply(one, "--yes")
    swapped = apply(one.replace("one", "two"), "--yes", "--prune")
    assert [step["action"] for step in swapped["steps"]] == ["create", "cancel"]
    assert query(migrated_url, LIVE) == [("two", "active", 900, "free")]


def test_what_no_key_opens_any_more_is_written_anew(
    apply: Any, monkeypatch: pytest.MonkeyPatch, lighthouse: Command
) -> None:
    apply(API, "--yes")
    key = lighthouse("secrets", "new-key")[1].strip()
    monkeypatch.setenv("LIGHTHOUSE_SECRET_KEYS", key)
    [(action, name, changes)] = actions(apply(API, "--yes"))
    assert (action, name) == ("change", "API")
    assert changes == [
        "config: all of it",
        "webhook channel: all of it",
        "discord channel: all of it",
    ]
    assert apply(API, "--yes")["unchanged"] == 1


def test_what_changed_since_the_plan_was_shown_stops_it(
    lighthouse: Command, apply: Any, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lighthouse.store import applying

    apply(WEB, "--yes")
    seen = applying.present

    async def meanwhile(*arguments: Any) -> Any:
        found = await seen(*arguments)
        query(migrated_url, "UPDATE subscriptions SET check_interval_seconds = 77 RETURNING 1")
        return found

    monkeypatch.setattr(applying, "present", meanwhile)
    err = apply(WEB.replace("300", "120"), "--yes", fails=True)
    assert err == "something changed meanwhile; nothing was done, apply again"
    assert query(migrated_url, LIVE) == [("Web", "active", 77, "pro")]


def test_thousands_of_entries_are_applied_and_found_unchanged(
    apply: Any, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTHOUSE_PLANS", "off")
    entries = "".join(
        f"\n  - {{name: n{i}, type: http, interval: 60, config: {{url: 'https://e{i}.example'}},"
        f" channels: [{{type: webhook, config: {{url: 'https://h{i}.example'}}}}]}}"
        for i in range(2000)
    )
    assert len(apply(entries, "--yes")["steps"]) == 2000
    assert query(migrated_url, "SELECT count(*) FROM alert_channels") == [(2000,)]
    assert apply(entries, "--yes")["unchanged"] == 2000
    plan = apply(entries.replace("interval: 60", "interval: 120"), "--yes")
    assert len(plan["steps"]) == 2000
    assert query(
        migrated_url,
        "SELECT count(*) FROM schedule_epochs WHERE end_slot IS NULL AND interval_ms = 120000",
    ) == [(2000,)]


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_it_asks(
    lighthouse: Command,
    migrated_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: bool,
) -> None:
    asked: list[str] = []

    def confirm(question: str, **_: Any) -> bool:
        asked.append(question)
        return answer

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", confirm)
    file = tmp_path / "fleet.yaml"
    file.write_text(f"wallets:\n  {WALLET}:\n{WEB}")
    assert lighthouse("subscriptions", "apply", file)[0] == 0
    assert asked == ["Apply this plan?"]
    assert len(query(migrated_url, LIVE)) == (1 if answer else 0)
