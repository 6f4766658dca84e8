"""Policies, parents, escalation and maintenance on the command line, on a real database."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.conftest import Command
from tests.support.commands import WALLET, add, as_json, good, refused

HOOK = ("--type", "webhook", "--config", '{"url": "https://example.com/hook"}')


def test_a_policy_is_set_changed_and_shown_as_it_was_given(
    lighthouse: Command,
) -> None:
    policy = {"failures_to_down": 3, "latency": {"warn_ms": 800}}
    id_ = add(lighthouse, "--alerting", json.dumps(policy))
    assert as_json(lighthouse, "subscriptions", "show", id_)["alerting"] == policy
    [listed] = as_json(lighthouse, "subscriptions", "list")
    assert listed["alerting"] == policy
    [line] = [
        line
        for line in good(lighthouse, "subscriptions", "show", id_).splitlines()
        if line.startswith("alerting ")
    ]
    assert json.loads(line.removeprefix("alerting ")) == policy
    change = ("subscriptions", "change", id_, "--alerting")
    assert lighthouse(*change, '{"remind_every_s": 3600}') == (0, "", f"changed {id_}\n")
    assert as_json(lighthouse, "subscriptions", "show", id_)["alerting"] == {"remind_every_s": 3600}
    good(lighthouse, *change, "{}")
    assert "alerting" not in good(lighthouse, "subscriptions", "show", id_)


def test_a_policy_may_stand_in_a_file(lighthouse: Command, tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text('{"successes_to_up": 2}')
    id_ = add(lighthouse, "--alerting", f"@{file}")
    assert as_json(lighthouse, "subscriptions", "show", id_)["alerting"] == {"successes_to_up": 2}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ('{"failures_to_down": 0}', "alerting.failures_to_down: input should be greater than or"),
        ('{"latency": {"warn": 1}}', "alerting.latency.warn_ms: is required"),
        ('{"remind": 5}', "alerting.remind: unknown key"),
        ("[]", 'alerting: must be a JSON object, such as {"failures_to_down": 2}'),
        ("{", "alerting: not JSON: "),
        ("@/nowhere.json", "alerting: cannot read /nowhere.json: No such file"),
    ],
)
def test_a_wrong_policy_names_its_field_and_changes_nothing(
    lighthouse: Command, policy: str, message: str
) -> None:
    id_ = add(lighthouse)
    change = ("subscriptions", "change", id_, "--alerting", policy)
    assert refused(lighthouse, *change).startswith(message)
    assert as_json(lighthouse, "subscriptions", "show", id_)["alerting"] == {}


def test_parents_are_given_shown_exchanged_and_taken_away(lighthouse: Command) -> None:
    one, two = add(lighthouse, "--name", "one"), add(lighthouse, "--name", "two")
    child = add(lighthouse, "--parent", one, "--parent", two)

    def parents() -> set[str]:
        return set(as_json(lighthouse, "subscriptions", "show", child)["parents"])

    assert parents() == {str(one), str(two)}
    listed = as_json(lighthouse, "subscriptions", "list")
    assert [len(each["parents"]) for each in listed] == [0, 0, 2]
    assert f"two {two}\n" in good(lighthouse, "subscriptions", "show", child)
    good(lighthouse, "subscriptions", "change", child, "--interval", 120)
    assert parents() == {str(one), str(two)}
    good(lighthouse, "subscriptions", "change", child, "--parent", two)
    assert parents() == {str(two)}
    good(lighthouse, "subscriptions", "change", child, "--no-parents")
    assert parents() == set()


def test_a_wrong_parent_is_one_line_and_makes_no_subscription(lighthouse: Command) -> None:
    one, nobody = add(lighthouse), uuid4()
    two = add(lighthouse, "--parent", one)
    assert refused(
        lighthouse,
        *("subscriptions", "add", "--wallet", WALLET, "--type", "http", "--tier", "pro"),
        *("--config", '{"url": "https://example.org"}', "--parent", nobody),
    ) == (f"parents: {nobody} is no subscription of the same wallet")
    assert len(as_json(lighthouse, "subscriptions", "list")) == 2
    change = ("subscriptions", "change", one)
    assert refused(lighthouse, *change, "--parent", two) == (
        f"parents: {one} would be its own parent"
    )
    assert refused(lighthouse, *change, "--parent", two, "--no-parents") == (
        "give either --parent or --no-parents"
    )


def test_a_channel_hears_after_a_while_when_it_is_told_to(lighthouse: Command) -> None:
    id_ = add(lighthouse)
    channel = good(lighthouse, "channels", "add", id_, *HOOK, "--escalate-after", "15m").strip()

    def after() -> int:
        [found] = as_json(lighthouse, "channels", "list", id_)
        return int(found["escalate_after_s"])

    assert after() == 900
    assert "15 min" in good(lighthouse, "channels", "list")
    shown = good(lighthouse, "subscriptions", "show", id_)
    assert f"webhook {channel} from warning, after 15 min, en\n" in shown
    good(lighthouse, "channels", "edit", channel, "--language", "es")
    assert after() == 900
    good(lighthouse, "channels", "edit", channel, "--escalate-after", "2h")
    assert after() == 7200
    good(lighthouse, "channels", "edit", channel, "--escalate-after", "0")
    assert (after(), "at once" in good(lighthouse, "channels", "list")) == (0, True)
    for value, message in (
        ("soon", "escalate_after: 'soon' is no length of time, such as 90s, 15m, 2h, 3d or 300"),
        ("4d", "escalate_after: from 0 to 259200 seconds (3 days)"),
    ):
        for command in (("edit", channel), ("add", id_, *HOOK)):
            told = refused(lighthouse, "channels", *command, "--escalate-after", value)
            assert told == message


def test_a_window_is_made_listed_and_removed(lighthouse: Command) -> None:
    id_ = add(lighthouse, "--name", "api")
    window = UUID(
        good(
            lighthouse,
            *("maintenance", "add", "--subscription", id_, "--start", "2096-11-24 02:00"),
            *("--duration", "2h", "--timezone", "Europe/Madrid", "--name", "backup"),
            *("--repeat", "FREQ=WEEKLY;BYDAY=SA"),
        ).strip()
    )
    of_all = good(
        lighthouse,
        *("maintenance", "add", "--wallet", WALLET, "--start", "2096-11-26", "--duration", "90s"),
    ).strip()
    found = as_json(lighthouse, "maintenance", "list")
    assert [each["id"] for each in found] == [str(window), of_all]
    assert found[0] == {
        "id": str(window),
        "wallet_address": WALLET.lower(),
        "subscription_id": str(id_),
        "subscription_name": "api",
        "name": "backup",
        "local_start": "2096-11-24T02:00:00",
        "duration_s": 7200,
        "timezone": "Europe/Madrid",
        "repeat": "FREQ=WEEKLY;BYDAY=SA",
        "starts_at": "2096-11-24T01:00:00Z",
        "ends_at": "2096-11-24T03:00:00Z",
    }
    assert (found[1]["name"], found[1]["duration_s"]) == ("maintenance", 90)
    assert len(as_json(lighthouse, "maintenance", "list", "--subscription", id_)) == 2
    assert as_json(lighthouse, "maintenance", "list", "--wallet", "0x" + "00" * 20) == []
    table = good(lighthouse, "maintenance", "list")
    assert "2096-11-24 02:00:00 Europe/Madrid" in table
    remove = ("maintenance", "remove", window)
    assert lighthouse(*remove) == (0, "", f"removed {window}\n")
    assert refused(lighthouse, *remove) == f"no maintenance window {window}"


def test_a_window_that_begins_now_runs(lighthouse: Command) -> None:
    id_ = add(lighthouse)
    good(lighthouse, "maintenance", "add", "--subscription", id_, "--now", "--duration", "15m")
    [found] = as_json(lighthouse, "status")["maintenance"]
    begins = datetime.fromisoformat(found["starts_at"])
    assert timedelta() <= datetime.now(UTC) - begins < timedelta(minutes=1)
    assert datetime.fromisoformat(found["ends_at"]) - begins == timedelta(minutes=15)
    assert "runs now" in good(lighthouse, "maintenance", "list")


def test_a_window_of_nobody_or_that_is_over_is_refused(lighthouse: Command) -> None:
    window = ("maintenance", "add", "--now", "--duration", "1h")
    nobody = uuid4()
    assert refused(lighthouse, *window, "--subscription", nobody) == f"no subscription {nobody}"
    assert refused(lighthouse, *window, "--wallet", WALLET) == (
        f"no subscription of wallet {WALLET.lower()}"
    )
    id_ = add(lighthouse)
    past = ("--start", "2020-01-01 00:00", "--duration", "1h")
    assert refused(lighthouse, "maintenance", "add", "--subscription", id_, *past) == (
        "start: the window is already over, and does not repeat"
    )
    assert as_json(lighthouse, "maintenance", "list") == []
