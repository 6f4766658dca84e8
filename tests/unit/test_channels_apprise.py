"""Apprise channels: which URLs are taken, what is said, and who must have switched it on."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from lighthouse import channels
from lighthouse.channels import apprise
from lighthouse.channels.templates import Fact, Message
from lighthouse.errors import ConfigError, SettingsError
from lighthouse.model import ChannelType, Severity
from lighthouse.settings import load

ON = {"LIGHTHOUSE_APPRISE": "on"}


def message(**changes: Any) -> Message:
    values: dict[str, Any] = {
        "kind": "downtime",
        "key": "event.channel",
        "event_id": UUID(int=7),
        "at": datetime(2026, 11, 24, 3, 45, tzinfo=UTC),
        "severity": Severity.CRITICAL,
        "subscription_id": UUID(int=3),
        "subscription_name": "Shop",
        "title": "Shop is down",
        "message": "It failed.",
        "facts": (Fact(label="Detail", value="expected 200", quoted=True),),
    }
    return Message(**{**values, **changes})


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3cr3t", "url: is no URL"),
        (" ntfy://s3cr3t/x", "url: is no URL"),
        ("ntfy://s3cr3t/x y", "url: is no URL"),
        ("ntfy://s3cr3t/x\r\ny", "url: is no URL"),
        ("ntfy://h/x,\tjson://s3cr3t", "url: is no URL"),
        ("dbus://", "url: dbus:// would work on this machine"),
        ("KDE://s3cr3t", "url: kde:// would work on this machine"),
        ("gnome://s3cr3t", "url: gnome:// would work on this machine"),
        ("macosx://s3cr3t", "url: macosx:// would work on this machine"),
        ("windows://s3cr3t", "url: windows:// would work on this machine"),
        ("syslog://s3cr3t", "url: syslog:// would work on this machine"),
        ("apprise://h/s3cr3t", "url: apprise:// only leads to other URLs"),
        ("apprises://h/s3cr3t", "url: apprises:// only leads to other URLs"),
        ("file:///etc/s3cr3t", "url: file:// only leads to other URLs"),
    ],
)
def test_what_is_no_url_of_a_remote_service_is_refused(url: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        channels.parse_config(ChannelType.APPRISE, {"url": url})
    assert str(caught.value).startswith(told)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nosuchservice://s3cr3t/", "url: apprise knows no such service"),
        ("https://s3cr3t.example/hook", "url: apprise knows no such service"),
        ("tgram://s3cr3t", "url: the URL is not complete for its service"),
        ("discord://1/s3cr3t?template=/etc/hosts", "url: the service would work on this machine"),
        ("fcm://s3cr3t/a?keyfile=/etc/hosts", "url: the service would work on this machine"),
    ],
)
def test_the_library_itself_judges_what_is_given(url: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        channels.parse_config(ChannelType.APPRISE, {"url": url})
    assert str(caught.value).startswith(told)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ntfy://ntfy.example/topic",
        "gotify://push.example/A123456789abcdef",
        "matrix://user:word@matrix.example/#room",
        "https://discord.com/api/webhooks/123456/abc-def",
    ],
)
def test_a_service_s_url_is_taken_and_does_not_print(url: str) -> None:
    read = channels.parse_config(ChannelType.APPRISE, {"url": url})
    assert read.model_dump() == {"url": url}
    assert url not in repr(read)


def test_the_operator_must_switch_the_type_on() -> None:
    channels.require_settings(ChannelType.APPRISE, load(ON))
    with pytest.raises(SettingsError) as caught:
        channels.require_settings(ChannelType.APPRISE, load({}))
    assert str(caught.value) == "LIGHTHOUSE_APPRISE is not on; apprise channels need it"


def test_a_missing_package_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apprise, "find_spec", lambda name: None)
    config = channels.parse_config(ChannelType.APPRISE, {"url": "ntfy://h.example/t"})
    assert config.model_dump() == {"url": "ntfy://h.example/t"}  # unjudged, and then refused:
    with pytest.raises(SettingsError, match=r"apprise is not installed; .* pip install '.*\[appr"):
        channels.require_settings(ChannelType.APPRISE, load(ON))


def test_the_text_holds_message_facts_and_event() -> None:
    assert apprise.body(message()).split("\n\n") == [
        "It failed.",
        "Detail: expected 200",
        "Lighthouse 00000000-0000-0000-0000-000000000007",
    ]


@pytest.mark.parametrize("text", ["x" * 50_000, "🔥" * 50_000, "\n" * 9000 + "x", "@" * 9000])
def test_a_long_text_is_cut_and_keeps_the_event(text: str) -> None:
    facts = tuple(Fact(label=text, value=text, quoted=quoted) for quoted in (True, False))
    found = apprise.body(message(message=text, facts=facts))
    assert len(found) <= apprise.BODY_CHARS
    assert found.endswith("Lighthouse 00000000-0000-0000-0000-000000000007")


def test_what_a_target_sent_mentions_nobody() -> None:
    fact = Fact(label="Detail", value="@everyone <!channel> \u202e\x00", quoted=True)
    found = apprise.body(message(facts=(fact,)))
    assert "@everyone" not in found
    assert "<!channel>" not in found
    assert "\u202e" not in found
    assert "everyone" in found
