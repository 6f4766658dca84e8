"""A file of subscriptions: what is taken of YAML, and where a fault is said to be."""

from typing import Any

import pytest

from lighthouse.cli import manifest
from lighthouse.cli.wanted import Reader
from lighthouse.errors import UsageError

WALLET = "0x" + "ab" * 20


def read(text: str) -> Any:
    return manifest.read("f.yaml", text.encode()).value


def faults(entries: str, *, enforce_plans: bool = False) -> list[str]:
    document = manifest.read("f.yaml", f"wallets:\n  {WALLET}:\n{entries}".encode())
    return [str(fault) for fault in Reader(document, enforce_plans=enforce_plans).faults]


def test_plain_words_are_what_people_mean() -> None:
    text = "{a: yes, b: on, c: 0x1f, d: 12:30, e: 010, f: 1_000, g: 2026-01-01, h: NO}"
    assert read(text) == {
        "a": "yes",
        "b": "on",
        "c": "0x1f",
        "d": "12:30",
        "e": "010",
        "f": "1_000",
        "g": "2026-01-01",
        "h": "NO",
    }


def test_numbers_booleans_and_null_are_those_of_json() -> None:
    text = '{a: 5, b: -1.5e3, c: true, d: false, e: null, f: ~, g: , h: "5", i: "true"}'
    assert read(text) == {
        "a": 5,
        "b": -1500.0,
        "c": True,
        "d": False,
        "e": None,
        "f": None,
        "g": None,
        "h": "5",
        "i": "true",
    }


def test_a_secret_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "007")
    assert read("a: !env HOOK_TOKEN") == {"a": "007"}
    monkeypatch.delenv("HOOK_TOKEN")
    with pytest.raises(UsageError, match=r"^f.yaml:2:6: the environment has no HOOK_TOKEN$"):
        read("a:\n  b: !env HOOK_TOKEN")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "f.yaml:2:1: a: the key is there twice"),
        ("a: &x [1]\nb: *x", r"f.yaml:2:4: aliases \(\*name\) are not taken"),
        ("a: [1,\nb: }", "f.yaml:2:4: not YAML: "),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: not YAML: "),
        ("a: 1\nb: \x01", "f.yaml:2: holds a control character"),
        ("a: !!python/object:os.system x", "f.yaml:1:4: this tag is not taken"),
        ("a: !thing {b: 1}", "f.yaml:1:4: this tag is not taken"),
        ("[1]: 2", "f.yaml:1:1: a key must be plain text"),
        ("a: !env 'x y'", "f.yaml:1:4: !env needs the name of a variable"),
        ("[" * 5_000_000, "f.yaml:1:81: nested more than 80 deep"),
        ("- " * 100_000 + "1", "f.yaml:1:161: nested more than 80 deep"),
    ],
    ids=lambda value: value[:20],
)
def test_what_is_refused_is_named_by_line_and_column(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        read(text)


def test_what_is_no_text_or_too_much_of_it_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^f.yaml: is not UTF-8 at byte 3$"):
        manifest.read("f.yaml", b"a: \xff")
    with pytest.raises(UsageError, match=r"^f.yaml: is larger than"):
        manifest.read("f.yaml", b" " * (manifest.LARGEST_BYTES + 1))


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ("  - {name: a, type: http}", "f.yaml:3:5: config: is required"),
        ("  - name: a\n    type: htp\n    config: {}", "f.yaml:4:5: type: "),
        ("  - {name: a, type: http, config: {}, tpye: x}", "f.yaml:3:39: tpye: unknown key"),
        (
            "  - name: a\n    type: http\n    config:\n      url: nonsense",
            "f.yaml:6:7: config.url: ",
        ),
        (
            "  - name: a\n    type: http\n    config:\n      url: https://a.example\n"
            "      headers: {A.B: 5}",
            "f.yaml:7:17: config.headers.A.B: ",
        ),
        (
            "  - {name: a, type: http, interval: 5, config: {url: 'https://a.example'}}",
            "f.yaml:3:27: interval: 5 s is outside",
        ),
        (
            "  - {name: a, type: http, config: {url: 'https://a.example'},\n"
            "     channels: [{type: webhook, config: {url: nonsense}}]}",
            "f.yaml:4:42: channels.0.config.url: ",
        ),
        (
            "  - {name: a, type: http, config: {url: 'https://a.example'},\n"
            "     channels: [{type: webhook, language: fr, config: {url: 'https://b.example'}}]}",
            "f.yaml:4:33: channels.0.language: is none of en, es",
        ),
        (
            "  - {name: a, type: http, config: {url: 'https://a.example'},\n"
            "     alerting: {latency: {warn_ms: -1}}}",
            "f.yaml:4:27: alerting.latency.warn_ms: input should be greater than or equal to 1",
        ),
        (
            "  - {name: a, type: http, config: {url: 'https://a.example'},\n"
            "     channels: [{type: webhook, escalate_after: soon, config: {url: 'https://b.example'}}]}",
            "f.yaml:4:33: channels.0.escalate_after: 'soon' is no length of time",
        ),
        (
            "  - {name: a, type: http, config: {url: 'https://a.example'},\n"
            "     channels: [{type: webhook, timezone: Madrid, config: {url: 'https://b.example'}}]}",
            "f.yaml:4:33: channels.0.timezone: 'Madrid' is no IANA time zone",
        ),
        (
            "  - {name: a, type: http, config: {url: 'https://a.example'},\n"
            "     maintenance: [{start: 2026-11-28 02:00, duration: 2h, repeat: FREQ=HOURLY}]}",
            "f.yaml:4:60: maintenance.0.repeat: an RRULE of days",
        ),
        (
            "  - {name: a, type: http, config: {url: 'https://a.example'},\n"
            "     maintenance: [{start: tonight, duration: 2h}]}",
            "f.yaml:4:21: maintenance.0.start: 'tonight' is no local time",
        ),
        (
            "  - {name: a, type: http, config: {url: 'https://a.example'},\n"
            "     maintenance: [{start: 2026-11-28, duration: true}]}",
            "f.yaml:4:40: maintenance.0.duration: ",
        ),
        ("  - 5", "f.yaml:3:5: must have keys"),
        ("    5", "f.yaml:2:3: must be a list of subscriptions"),
    ],
    ids=lambda value: value[-30:],
)
def test_an_entrys_fault_is_told_with_its_line_and_field(entries: str, fault: str) -> None:
    [found] = faults(entries)
    assert found.startswith(fault)
    assert "nonsense" not in found


def test_all_faults_are_told_at_once() -> None:
    good = "  - {name: a, type: http, config: {url: 'https://a.example'}}\n"
    bad = "  - {name: b, type: http, config: {}}\n"
    assert [fault.split(": ")[0] for fault in faults(good + bad + good + bad)] == [
        "f.yaml:4:27",
        "f.yaml:5:6",
        "f.yaml:6:27",
    ]


def test_plans_hold_as_they_do_for_add() -> None:
    entry = "  - {name: a, type: http, interval: 60, config: {url: 'https://a.example'}}"
    assert faults(entry) == []
    [fault] = faults(entry, enforce_plans=True)
    assert fault.startswith("f.yaml:3:27: interval: the free plan checks every 900 s at most")


@pytest.mark.parametrize("text", ["", "[]", "wallets: []", "wallet: {}", "wallets: {x: []}"])
def test_a_file_without_wallets_is_refused(text: str) -> None:
    reader = Reader(manifest.read("f.yaml", text.encode()), enforce_plans=False)
    assert len(reader.faults) == 1
    assert str(reader.faults[0]).startswith("f.yaml:")


def test_a_wallet_in_two_spellings_is_one() -> None:
    text = f"wallets:\n  {WALLET}: []\n  {WALLET.upper().replace('X', 'x')}: []"
    reader = Reader(manifest.read("f.yaml", text.encode()), enforce_plans=False)
    assert [str(fault) for fault in reader.faults] == ["f.yaml:3:3: the wallet is there twice"]
