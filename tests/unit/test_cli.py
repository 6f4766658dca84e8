"""The command line without a server: arguments, errors in one line, and quick help."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lighthouse import settings
from lighthouse.__main__ import main
from lighthouse.cli.support import (
    age,
    json_config,
    length,
    moment,
    percent,
    seconds,
    text,
)
from lighthouse.errors import ConfigError, UsageError


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    settings.current.cache_clear()


def refused(value: str) -> str:
    with pytest.raises(ConfigError) as error:
        json_config(value)
    return str(error.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"url" "x"}', "config: not JSON: Expecting ':' delimiter at line 1 column 8"),
        ('{\n "url": nope}', "config: not JSON: Expecting value at line 2 column 9"),
        ("", "config: not JSON: Expecting value at line 1 column 1"),
        ("[1]", "config: must be a JSON object"),
        ('"x"', "config: must be a JSON object"),
        ('{"timeout": NaN}', "config: not JSON: NaN is no JSON number"),
        ('{"url": "a", "url": "b"}', "url: the key is there twice"),
        ("@/nowhere/at-all.json", "config: cannot read /nowhere/at-all.json: No such file"),
        ("[" * 100_000, "config: nested too deeply"),
    ],
)
def test_a_configuration_that_is_no_json_object_is_told_with_its_place(
    value: str, message: str
) -> None:
    assert refused(value).startswith(message)
    assert "\n" not in refused(value)


def test_a_configuration_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes('\ufeff{"url": "https://exämple.com"}'.encode())
    assert json_config(f"@{file}") == {"url": "https://exämple.com"}
    file.write_bytes(b'{"url": "\xff"}')
    assert refused(f"@{file}") == f"config: {file} is not UTF-8 at byte 9"
    file.write_bytes(b" " * 1_048_577)
    assert refused(f"@{file}") == f"config: {file} is larger than 1048576 bytes"
    assert refused(f"@{tmp_path}") == f"config: cannot read {tmp_path}: Is a directory"


def test_a_time_needs_its_zone() -> None:
    assert moment("2026-12-31T01:00:00+01:00") == datetime(2026, 12, 31, tzinfo=UTC)
    assert moment("2026-12-31T00:00:00Z") == datetime(2026, 12, 31, tzinfo=UTC)
    for value in ("2026-12-31", "2026-12-31T00:00:00", "tomorrow"):
        with pytest.raises(UsageError, match=f"'{value}' is no time with a zone"):
            moment(value)


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (None, "–"),
        (1.0, "100.000 %"),
        (0.99999999, "99.999 %"),
        (0.29, "29.000 %"),
        (0.0, "0.000 %"),
    ],
)
def test_a_ratio_is_never_rounded_up_to_all(ratio: float | None, shown: str) -> None:
    assert percent(ratio) == shown


def test_an_age_has_one_fitting_unit() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for number, shown in ((5, "5 s"), (119, "119 s"), (150, "2 min"), (7200, "2 h")):
        assert age(now - timedelta(seconds=number), now) == shown
    assert age(now - timedelta(days=3), now) == "3 d"
    assert age(None, now) == "–"


def test_text_of_a_target_cannot_steer_the_terminal() -> None:
    assert text("bad \x1b[31mred\x07\nline") == "bad �[31mred� line"
    assert text("fine – ünïcode") == "fine – ünïcode"


# --- the entrance -------------------------------------------------------------------------------

WALLET = "0x" + "ab" * 20
ID = "9f1c3a52-7c44-4e6b-8f0d-2b6a1c9de001"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "lighthouse: No such command 'nonsense'."),
        (["subscriptions", "show"], "lighthouse: Missing argument 'ID'."),
        (["subscriptions", "show", "12"], "lighthouse: Invalid value for 'ID': '12' is not a val"),
        (["history", ID, "--limit", "0"], "lighthouse: Invalid value for '--limit'"),
        (["schema", "carrier-pigeon"], "lighthouse: Invalid value for 'TYPE'"),
        (["subscriptions", "change", ID], "lighthouse: nothing to change"),
        (["incidents", "show", "12"], "lighthouse: Invalid value for 'ID': '12' is not a valid"),
        (["incidents", "ack"], "lighthouse: Missing argument 'ID'."),
        (["channels", "edit", ID, "--escalate-after", "1w"], "lighthouse: escalate_after: '1w' i"),
        (["channels", "edit", ID, "--escalate-after", "-5m"], "lighthouse: escalate_after: '-5m'"),
        (["check", "--type", "http", "--config", "{"], "lighthouse: config: not JSON: "),
        (["check", "--type", "http", "--config", "{}"], "lighthouse: url: is required"),
        (
            ["check", "--type", "http", "--config", '{"url": "https://x", "bodi": 1}'],
            "lighthouse: bodi: unknown key",
        ),
        (["check", "--type", "http", "--config", '{"url": "https:///x"}'], "lighthouse: url: "),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


ADD = ["subscriptions", "add", "--wallet", WALLET, "--type", "http"]
GOOD = '{"url": "https://example.com"}'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", '{"url": 5}'], "lighthouse: url: input should be a valid string"),
        (["--config", GOOD, "--interval", "9"], "lighthouse: interval: 9 s is outside"),
        (["--config", GOOD, "--wallet", "bob"], "lighthouse: wallet: 'bob' is no address"),
        (["--config", GOOD, "--payment-usdc", "one"], "lighthouse: payment_usdc: 'one' is no am"),
        (["--config", GOOD, "--payment-usdc", "1e99999999"], "lighthouse: payment_usdc: "),
        (["--config", GOOD, "--payment-usdc", "NaN"], "lighthouse: payment_usdc: 'NaN' is no am"),
        (["--config", GOOD, "--payment-usdc", "-1"], "lighthouse: payment_usdc: '-1' is no am"),
        (["--config", GOOD, "--payment-usdc", "0.0000001"], "lighthouse: payment_usdc: '0.00000"),
        (["--config", GOOD, "--expires-at", "soon"], "lighthouse: 'soon' is no time with a zone"),
        (["--config", GOOD, "--alerting", "[]"], "lighthouse: alerting: must be a JSON object"),
        (["--config", GOOD, "--alerting", '{"x": 1}'], "lighthouse: alerting.x: unknown key"),
        (["--config", GOOD, "--parent", "api"], "lighthouse: Invalid value for '--parent'"),
    ],
)
def test_what_is_wrong_is_told_before_any_server_is_asked(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*ADD, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


WINDOW = ["maintenance", "add", "--subscription", ID]
START = ["--start", "2096-11-28 02:00", "--duration", "2h"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--duration", "2h"], "give either --start or --now"),
        ([*START, "--now"], "give either --start or --now"),
        (["--now"], "Missing option '--duration'."),
        ([*START, "--wallet", WALLET], "give either --wallet or --subscription"),
        (["--now", "--duration", "2h", "--timezone", "UTC"], "--now is for once, by no clock"),
        (["--now", "--duration", "2"], "duration: from 1 minute to 7 days"),
        (["--now", "--duration", "8d"], "duration: from 1 minute to 7 days"),
        (["--now", "--duration", "2 weeks"], "duration: '2 weeks' is no length of time, such as"),
        ([*START, "--timezone", "Madrid"], "timezone: 'Madrid' is no IANA time zone"),
        ([*START, "--repeat", "FREQ=SECONDLY"], "repeat: an RRULE of days, such as FREQ=WEEKLY"),
        ([*START, "--repeat", "FREQ=WEEKLY;BYDAY=XX"], "repeat: an RRULE of days, such as"),
        (["--start", "tonight", "--duration", "2h"], "start: 'tonight' is no local time, such as"),
        (["--start", "2096-11-28T02:00Z", "--duration", "2h"], "start: give the local time"),
        (["--start", "0001-01-01", "--duration", "2h"], "start: in the years 2000 to 2099"),
        (["--start", "9999-12-31", "--duration", "2h"], "start: in the years 2000 to 2099"),
    ],
)
def test_what_is_wrong_with_a_window_is_told_before_any_server_is_asked(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WINDOW, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"lighthouse: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "expected"), [("90s", 90), ("15m", 900), ("2h", 7200), ("3d", 259_200), ("0", 0)]
)
def test_a_length_of_time_has_a_unit_or_is_seconds(value: str, expected: int) -> None:
    assert seconds(value, "duration") == expected


@pytest.mark.parametrize("value", ["", "m", "1.5h", "-1", "1w", "1 2", "1h30m", "1" * 10, "١s"])
def test_what_is_no_length_of_time_is_told_with_its_field(value: str) -> None:
    with pytest.raises(UsageError, match=r"^duration: .* is no length of time, such as 90s, 15m"):
        seconds(value, "duration")


def test_a_length_of_time_is_shown_exactly() -> None:
    shown = [length(number) for number in (0, 90, 900, 7200, 86_400, 90_000)]
    assert shown == ["0 s", "90 s", "15 min", "2 h", "1 d", "25 h"]


def test_without_a_database_url_the_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 1
    assert capsys.readouterr().err.startswith("lighthouse: DATABASE_URL is not set; give it as ")


@pytest.mark.parametrize(
    "command",
    [["subscriptions", "list"], ["db", "status"], ["db", "upgrade"], ["db", "downgrade", "base"]],
)
def test_a_server_that_is_not_there_is_named_with_its_port(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://bob:hunter2@127.0.0.1:1/x")
    settings.current.cache_clear()
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "lighthouse: cannot reach PostgreSQL at 127.0.0.1:1 (Connection refused);"
        " is it running, and is DATABASE_URL right?\n"
    )


def test_a_misspelt_setting_stops_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHTHOUSE_REGOIN", "eu")
    settings.current.cache_clear()
    assert main(["status"]) == 1
    assert capsys.readouterr().err.startswith("lighthouse: LIGHTHOUSE_REGOIN is no setting")


def test_a_setting_that_cannot_be_read_is_told_in_one_plain_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHTHOUSE_EGRESS_ALLOW", "everything")
    settings.current.cache_clear()
    assert main(["status"]) == 1
    assert capsys.readouterr().err == (
        "lighthouse: LIGHTHOUSE_EGRESS_ALLOW:"
        " 'everything' does not appear to be an IPv4 or IPv6 network\n"
    )


def test_an_error_of_ours_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("lighthouse.probes.json_schema", broken)
    assert main(["schema", "http"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("lighthouse: internal error, ZeroDivisionError: division by zero;")
    assert err.count("\n") == 1


def test_ctrl_c_ends_a_command_with_its_own_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lighthouse.probes.json_schema", interrupted)
    assert main(["schema", "http"]) == 130


def test_a_reader_that_leaves_early_is_no_error_message() -> None:
    done = subprocess.run(
        f"{sys.executable} -m lighthouse schema http | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_help_imports_neither_the_database_nor_the_probes() -> None:
    code = (
        "import sys; from lighthouse.__main__ import main; status = main(['--help']);"
        "heavy = {'psycopg', 'pydantic', 'rich', 'celery', 'pycurl', 'aiohttp', 'sqlalchemy'};"
        "print(status, sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "subscriptions  What is watched" in done.stdout


def test_the_schema_of_a_monitor_and_of_a_channel_are_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import json

    assert main(["schema", "http"]) == 0
    monitor = json.loads(capsys.readouterr().out)
    assert "url" in monitor["properties"]
    assert monitor["required"] == ["url"]
    assert main(["schema", "discord"]) == 0
    assert "webhook_url" in json.loads(capsys.readouterr().out)["properties"]


def test_the_schema_of_a_policy_tells_its_keys_and_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import json

    assert main(["schema", "alerting"]) == 0
    found = json.loads(capsys.readouterr().out)["properties"]
    assert found["failures_to_down"]["default"] == 1
    assert found["certificate_days"]["default"] == [30, 14, 7, 1]
    assert all("description" in each for each in found.values())
