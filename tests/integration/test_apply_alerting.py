"""What `lighthouse subscriptions apply` makes of policies, parents, escalation and maintenance."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Command

WALLET = "0x" + "ab" * 20

GATEWAY = """
  - {name: Gateway, type: http, tier: pro, interval: 60, config: {url: 'https://gw.example'}}
"""
API = """
  - name: API
    type: http
    tier: pro
    interval: 60
    config: {url: 'https://api.example'}
    parents: [Gateway]
    alerting: {failures_to_down: 2, latency: {warn_ms: 800}}
    maintenance:
    - {name: backup, start: 2096-11-24 02:00, duration: 2h, timezone: Europe/Madrid,
       repeat: FREQ=WEEKLY;BYDAY=SA}
    channels:
    - {type: webhook, config: {url: 'https://h.example'}, timezone: Europe/Madrid,
       escalate_after: 15m}
"""
#: Everything that a second run could touch.
EVERYTHING = (
    "SELECT 's' AS what, id, xmin::text FROM subscriptions"
    " UNION ALL SELECT 't', subscription_id, xmin::text FROM subscription_state"
    " UNION ALL SELECT 'c', id, xmin::text FROM alert_channels"
    " UNION ALL SELECT 'w', id, xmin::text FROM maintenance_windows"
    " UNION ALL SELECT 'p', subscription_id, xmin::text FROM subscription_parents ORDER BY 1, 2, 3"
)
PARENTS = (
    "SELECT c.name, p.name FROM subscription_parents sp"
    " JOIN subscriptions c ON c.id = sp.subscription_id"
    " JOIN subscriptions p ON p.id = sp.parent_id ORDER BY 1, 2"
)


@pytest.fixture
def apply(lighthouse: Command, tmp_path: Path) -> Any:
    """Apply entries of WALLET; (name, changes) of each step and the rest, or the one line."""

    def run(entries: str, *options: str, fails: bool = False) -> Any:
        file = tmp_path / "fleet.yaml"
        file.write_text(f"wallets:\n  '{WALLET}':\n{entries}")
        status, out, err = lighthouse("subscriptions", "apply", file, "--json", "--yes", *options)
        if fails:
            assert (status, out, err.count("\n")) == (2, "", 1), err
            return err.replace(str(file), "f.yaml").removeprefix("lighthouse: ").strip()
        assert status == 0, err
        found = json.loads(out)
        return [(step["name"], step["changes"]) for step in found["steps"]]

    return run


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


def test_all_of_it_is_made_with_its_subscription_and_a_second_run_touches_nothing(
    apply: Any, migrated_url: str
) -> None:
    # The child stands before its parent, which is yet to be made.
    [api, gateway] = apply(API + GATEWAY)
    assert api == (
        "API",
        [
            "every 60 s",
            "pro plan",
            "1 channel",
            "alerting: failures_to_down, latency",
            "parents: Gateway",
            "maintenance: backup",
        ],
    )
    assert gateway == ("Gateway", ["every 60 s", "pro plan"])
    assert query(migrated_url, PARENTS) == [("API", "Gateway")]
    assert query(migrated_url, "SELECT alerting FROM subscriptions WHERE name = 'API'") == [
        ({"failures_to_down": 2, "latency": {"warn_ms": 800.0}},)
    ]
    assert query(
        migrated_url, "SELECT latency_warn_ms FROM subscription_state ORDER BY 1 LIMIT 1"
    ) == [(800.0,)]
    assert query(
        migrated_url, "SELECT escalate_after_s, metadata->>'timezone' FROM alert_channels"
    ) == [(900, "Europe/Madrid")]
    assert query(
        migrated_url,
        "SELECT s.name, w.name, w.local_start::text, w.duration_s, w.timezone, w.repeat,"
        " w.starts_at::text FROM maintenance_windows w JOIN subscriptions s"
        " ON s.id = w.subscription_id",
    ) == [
        (
            *("API", "backup", "2096-11-24 02:00:00", 7200, "Europe/Madrid"),
            *("FREQ=WEEKLY;BYDAY=SA", "2096-11-24 01:00:00+00"),
        )
    ]
    before = query(migrated_url, EVERYTHING)
    assert apply(API + GATEWAY) == []
    assert query(migrated_url, EVERYTHING) == before


def test_changes_are_named_by_field_and_what_is_left_out_is_left_alone(
    apply: Any, migrated_url: str
) -> None:
    apply(API + GATEWAY)
    changed = (
        API.replace("failures_to_down: 2", "successes_to_up: 3")
        .replace("parents: [Gateway]", "parents: []")
        .replace("duration: 2h", "duration: 3h")
        .replace("escalate_after: 15m", "escalate_after: 7200")
        .replace("timezone: Europe/Madrid,\n       escalate", "timezone: UTC,\n       escalate")
    )
    [(name, facts)] = apply(changed + GATEWAY)
    assert (name, sorted(facts)) == (
        "API",
        [
            "alerting: successes_to_up, failures_to_down",
            "maintenance: backup",
            "webhook channel: timezone UTC, after 2 h",
            "without parents",
        ],
    )
    assert query(migrated_url, PARENTS) == []
    assert query(migrated_url, "SELECT duration_s FROM maintenance_windows") == [(10800,)]
    assert query(migrated_url, "SELECT escalate_after_s FROM alert_channels") == [(7200,)]
    before = query(migrated_url, EVERYTHING)
    bare = API[: API.index("    parents")]
    assert apply(bare + GATEWAY) == []
    assert query(migrated_url, EVERYTHING) == before
    emptied = f"{bare}    alerting: {{}}\n    maintenance: []\n"
    [(_, facts)] = apply(emptied + GATEWAY)
    assert facts == ["alerting: latency, successes_to_up", "without maintenance: backup"]
    assert query(migrated_url, "SELECT count(*) FROM maintenance_windows") == [(0,)]
    assert query(migrated_url, "SELECT alerting FROM subscriptions WHERE name = 'API'") == [({},)]


def test_a_policy_alone_is_changed_without_another_schedule(apply: Any, migrated_url: str) -> None:
    apply(GATEWAY)
    with_policy = GATEWAY.replace("tier: pro", "tier: pro, alerting: {remind_every_s: 3600}")
    assert apply(with_policy) == [("Gateway", ["alerting: remind_every_s"])]
    assert query(migrated_url, "SELECT count(*) FROM schedule_epochs") == [(1,)]
    assert apply(with_policy) == []


def test_parents_are_turned_around_in_one_run(apply: Any, migrated_url: str) -> None:
    apply(API + GATEWAY)
    turned = API.replace("parents: [Gateway]", "parents: []") + GATEWAY.replace(
        "tier: pro", "tier: pro, parents: [API]"
    )
    assert apply(turned) == [("API", ["without parents"]), ("Gateway", ["parents: API"])]
    assert query(migrated_url, PARENTS) == [("Gateway", "API")]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (API, "f.yaml:9:15: parents.0: no subscription of this wallet has that name"),
        (
            API.replace("[Gateway]", "[API]"),
            "f.yaml:9:5: parents: API → API is a circle",
        ),
        (
            API + GATEWAY.replace("tier: pro", "tier: pro, parents: [API]"),
            "f.yaml:9:5: parents: API → Gateway → API is a circle",
        ),
        (
            API.replace("[Gateway]", f"[{', '.join(f'n{i}' for i in range(21))}]"),
            "f.yaml:9:5: parents: at most 20",
        ),
    ],
)
def test_a_circle_or_an_unknown_parent_is_told_with_its_place_and_makes_nothing(
    apply: Any, migrated_url: str, entries: str, message: str
) -> None:
    assert apply(entries, fails=True) == message
    assert query(migrated_url, "SELECT count(*) FROM subscriptions") == [(0,)]


def test_a_circle_through_what_the_file_does_not_name_is_found(
    apply: Any, migrated_url: str
) -> None:
    apply(API + GATEWAY)
    told = apply(GATEWAY.replace("tier: pro", "tier: pro, parents: [API]"), fails=True)
    assert told.startswith("f.yaml:4:")
    assert told.endswith(" is a circle")
    assert query(migrated_url, PARENTS) == [("API", "Gateway")]


def test_a_parent_may_be_one_that_the_file_leaves_alone_but_not_one_that_it_prunes(
    apply: Any, migrated_url: str
) -> None:
    apply(GATEWAY)
    told = apply(API, "--prune", fails=True)
    assert told == "f.yaml:9:15: parents.0: no subscription of this wallet has that name"
    [(name, _), _] = apply(API)
    assert name == "API"
    assert query(migrated_url, PARENTS) == [("API", "Gateway")]


def test_a_parent_that_has_ended_is_taken_away_once(
    lighthouse: Command, apply: Any, migrated_url: str
) -> None:
    apply(API + GATEWAY)
    [(id_,)] = query(migrated_url, "SELECT id FROM subscriptions WHERE name = 'Gateway'")
    assert lighthouse("subscriptions", "cancel", id_)[0] == 0
    alone = API.replace("parents: [Gateway]", "parents: []")
    assert apply(alone) == [("API", ["without parents"])]
    assert apply(alone) == []
    assert query(migrated_url, PARENTS) == []


def test_a_window_that_is_over_is_no_mistake_of_a_file(apply: Any, migrated_url: str) -> None:
    past = GATEWAY.replace(
        "tier: pro", "tier: pro, maintenance: [{start: 2020-01-01 00:00, duration: 1h}]"
    )
    assert apply(past) == [("Gateway", ["every 60 s", "pro plan"])]
    assert query(migrated_url, "SELECT count(*) FROM maintenance_windows") == [(0,)]
    assert apply(past) == []


def test_windows_of_the_wallet_are_not_the_files_matter(
    lighthouse: Command, apply: Any, migrated_url: str
) -> None:
    apply(API + GATEWAY)
    window = ("maintenance", "add", "--wallet", WALLET, "--now", "--duration", "1h")
    assert lighthouse(*window)[0] == 0
    assert apply(API.replace("name: backup", "name: nightly") + GATEWAY) == [
        ("API", ["maintenance: nightly", "without maintenance: backup"])
    ]
    assert query(migrated_url, "SELECT count(*) FROM maintenance_windows") == [(2,)]
