"""Channel configurations, the operator's channels and what the texts say."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from lighthouse import channels
from lighthouse.channels.phrases import ENGLISH, SPANISH
from lighthouse.channels.templates import Fact, compose, compose_test, duration
from lighthouse.errors import ConfigError, SettingsError
from lighthouse.model import (
    OPERATOR,
    AlertType,
    Channel,
    ChannelType,
    Circumstances,
    Delivery,
    Reason,
    Severity,
    to_slot,
)
from lighthouse.settings import load

BOT_TOKEN = "123456789:AAE-s3cr3t-s3cr3t-s3cr3t-s3cr3t-s"
SECRET_URL = "https://discord.com/api/webhooks/1/s3cr3t-token"
AT = datetime(2026, 11, 24, 3, 45, 10, tzinfo=UTC)


def delivery(**changes: Any) -> Delivery:
    values: dict[str, Any] = {
        "event_id": UUID(int=1),
        "channel_id": UUID(int=2),
        "slot": to_slot(AT),
        "subscription_id": UUID(int=3),
        "subscription_name": "Shop",
        "alert_type": AlertType.DOWNTIME,
        "severity": Severity.CRITICAL,
        "title": "stored title",
        "message": "expected 200, got 503",
        "context": {
            "name": "Shop",
            "previous": "up",
            "previous_since": (AT - timedelta(hours=3, minutes=12)).isoformat(),
            "reason": "status_code",
            "http_status": 503,
            "latency_ms": 41.7,
        },
        "attempt": 1,
        "lease_token": uuid4(),
        "created_at": AT,
        "age_s": 0.0,
        "circumstances": Circumstances(now=AT, created_at=AT),
        "channel": None,
    }
    return Delivery(**{**values, **changes})


@pytest.mark.parametrize(
    ("kind", "config", "told"),
    [
        ("discord", {}, "webhook_url: is required"),
        ("discord", {"webhook_url": 5}, "webhook_url: input should be a valid string"),
        ("discord", {"webhook_url": "ftp://h/s3cr3t"}, "webhook_url: must start with http"),
        ("discord", {"webhook_url": "https:///s3cr3t"}, "webhook_url: has no host"),
        ("discord", {"webhook_url": "https://h:0/s3cr3t"}, "webhook_url: has port 0"),
        ("discord", {"webhook_url": "https://h:99999/s3cr3t"}, "webhook_url: is no valid URL"),
        ("discord", {"webhook_url": "https://[::1/s3cr3t"}, "webhook_url: is no valid URL"),
        ("webhook", {"url": "http://127.1/s3cr3t"}, "url: has a numeric host that is no usual IP"),
        ("webhook", {"url": "http://2130706433/s3cr3t"}, "url: has a numeric host"),
        ("webhook", {"url": "http://0x7f000001/s3cr3t"}, "url: has a numeric host"),
        ("discord", {"webhook_url": "https://h/s3cr3t x"}, "webhook_url: holds a space"),
        ("discord", {"webhook_url": "https://h/\r\nX: s3cr3t"}, "webhook_url: holds a space"),
        ("discord", {"webhook_url": "https://h/" + "s" * 4096}, "webhook_url: string should"),
        ("discord", {"webhook_url": SECRET_URL, "token": "s3cr3t"}, "token: unknown key"),
        ("webhook", {"url": SECRET_URL, "secret": ""}, "secret: is empty"),
        ("webhook", {"url": SECRET_URL, "secret": "whsec_"}, "secret: is empty"),
        ("webhook", {"url": SECRET_URL, "secret": "whsec_s3cr3t!"}, "secret: must hold base64"),
        ("webhook", {"webhook_url": SECRET_URL}, "url: is required"),
        ("telegram", {"bot_token": "s3cr3t", "chat_id": 1}, "bot_token: is no bot token"),
        ("telegram", {"bot_token": "1/../s3cr3t", "chat_id": 1}, "bot_token: is no bot token"),
        ("telegram", {"bot_token": BOT_TOKEN}, "chat_id: is required"),
        ("telegram", {"bot_token": BOT_TOKEN, "chat_id": "s3cr3t"}, "chat_id: is neither"),
        ("slack", {"webhook_url": "ftp://h/s3cr3t"}, "webhook_url: must start with http"),
        ("sms", {"to": "600 s3cr3t"}, "to: is no phone number"),
        ("sms", {"to": "+0123456789"}, "to: is no phone number"),
        ("email", {"to": "s3cr3t"}, "to: is no mail address"),
        ("email", {"to": "s3cr3t@localhost"}, "to: is no mail address: its domain"),
        ("email", {"to": "s3cr3t@[127.0.0.1]"}, "to: is no mail address: its domain"),
        ("email", {"to": "a@b.example\r\nBcc: s3cr3t@x.example"}, "to: is no mail address"),
        ("email", {"to": "a@b.example,s3cr3t@x.example"}, "to: is no mail address"),
    ],
)
def test_a_bad_configuration_is_one_line_that_names_the_field_and_no_value(
    kind: str, config: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        channels.parse_config(ChannelType(kind), config)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_a_configuration_that_is_no_object_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a JSON object"):
        channels.parse_config(ChannelType.DISCORD, ["x"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("discord", {"webhook_url": SECRET_URL}),
        ("discord", {"webhook_url": "http://discord.internal:8080/x?thread_id=5"}),
        ("webhook", {"url": "https://bücher.example/hook"}),
        ("webhook", {"url": "http://10.1.2.3:8080/hook"}),
        ("webhook", {"url": "http://[fd00::1]:8080/hook"}),
        ("webhook", {"url": "https://hook2.v1.example.com./"}),
        ("webhook", {"url": SECRET_URL, "secret": "plain text"}),
        ("webhook", {"url": SECRET_URL, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}),
    ],
)
def test_a_good_configuration_is_read_and_its_secrets_do_not_print(
    kind: str, config: dict[str, str]
) -> None:
    read = channels.parse_config(ChannelType(kind), config)
    assert read.model_dump(exclude_none=True) == config
    assert not any(value in repr(read) for value in config.values())


def test_every_built_type_has_a_schema_without_further_keys() -> None:
    for kind in channels.CHANNELS:
        schema = channels.json_schema(kind)
        assert schema["additionalProperties"] is False
        assert all("description" in key for key in schema["properties"].values())


def test_operator_channels_have_the_same_ids_in_every_process_and_others_after_a_change() -> None:
    def ids(*entries: dict[str, Any]) -> list[UUID]:
        settings = load({"LIGHTHOUSE_OPERATOR_CHANNELS": json.dumps(entries)})
        found = channels.operator_channels(settings)
        assert all(c.subscription_id == OPERATOR and c.enabled for c in found)
        return [c.id for c in found]

    one = {"type": "webhook", "config": {"url": "https://a.example/", "secret": "x"}}
    same = {"config": {"secret": "x", "url": "https://a.example/"}, "type": "webhook"}
    other = {"type": "webhook", "config": {"url": "https://b.example/"}}
    assert ids(one) == ids(same)
    assert ids(one, other) == [*ids(one), *ids(other)]
    assert ids(one) != ids(other)
    assert ids() == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{s3cr3t", "LIGHTHOUSE_OPERATOR_CHANNELS: is no JSON"),
        ('{"type": "s3cr3t"}', "LIGHTHOUSE_OPERATOR_CHANNELS: must be a list"),
        ('["s3cr3t"]', r"LIGHTHOUSE_OPERATOR_CHANNELS\[0\]: must be"),
        ('[{"type": "s3cr3t", "config": {}}]', r"LIGHTHOUSE_OPERATOR_CHANNELS\[0\].type: is none"),
        (
            '[{"type": "discord", "config": {"url": "s3cr3t"}}]',
            r"LIGHTHOUSE_OPERATOR_CHANNELS\[0\].config: webhook_url: is required",
        ),
        (
            '[{"type": "sms", "config": {"to": "s3cr3t"}}]',
            r"LIGHTHOUSE_OPERATOR_CHANNELS\[0\].config: to: is no phone number",
        ),
    ],
)
def test_a_wrong_operator_setting_is_told_at_the_start_without_its_value(
    text: str, told: str
) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        channels.Sender(load({"LIGHTHOUSE_OPERATOR_CHANNELS": text}))
    assert "s3cr3t" not in str(caught.value)


def test_a_downtime_in_english() -> None:
    message = compose(delivery(), "en")
    assert message.title == "Shop is down"
    assert message.message == (
        "The check of 2026-11-24 03:45:10 UTC failed. It had been up for 3 h 12 min."
    )
    assert message.facts == (
        Fact(label="Reason", value="unexpected HTTP status"),
        Fact(label="Detail", value="expected 200, got 503", quoted=True),
        Fact(label="HTTP status", value="503"),
        Fact(label="Latency", value="42 ms"),
    )
    assert message.kind == "downtime"
    assert message.key == f"{UUID(int=1)}.{UUID(int=2)}"


def test_a_recovery_in_spanish() -> None:
    message = compose(
        delivery(
            alert_type=AlertType.RECOVERY,
            context={
                "previous": "down",
                "previous_since": (AT - timedelta(minutes=4, seconds=10)).isoformat(),
                "http_status": 200,
            },
        ),
        "es",
    )
    assert message.title == "Shop funciona de nuevo"
    assert message.message == (
        "La comprobación de 2026-11-24 03:45:10 UTC tuvo éxito. Estuvo caído 4 min 10 s."
    )
    assert message.facts == (Fact(label="Estado HTTP", value="200"),)


def test_what_is_not_known_is_not_said() -> None:
    message = compose(delivery(context={"previous": "unknown", "previous_since": None}), "en")
    assert message.message == "The check of 2026-11-24 03:45:10 UTC failed."
    assert [fact.label for fact in message.facts] == ["Detail"]


@pytest.mark.parametrize(
    ("left", "english", "spanish"),
    [(30.0, "30 days", "30 días"), (13.9, "13.9 days", "13,9 días"), (1.0, "1 day", "1 día")],
)
def test_numbers_are_written_as_the_language_does(left: float, english: str, spanish: str) -> None:
    ends = delivery(alert_type=AlertType.CERTIFICATE_EXPIRY, context={"days_left": left})
    assert compose(ends, "en").title == f"Shop: the certificate expires in {english}"
    assert compose(ends, "es").title == f"Shop: el certificado caduca en {spanish}"
    context = {"median_ms": 1502.5, "warn_ms": 500.0, "checks": 3}
    slow = delivery(alert_type=AlertType.HIGH_LATENCY, context={**context, "about": "high_latency"})
    assert "is 1502.5 ms; 500 ms are" in compose(slow, "en").message
    assert "es de 1502,5 ms; se permiten 500 ms" in compose(slow, "es").message


def test_a_flapping_target_is_told_with_its_state_for_its_end_may_be_held() -> None:
    context = {"verdict": "up", "changes": 6, "within_s": 3600, "calm_s": 1800}
    flaps = delivery(alert_type=AlertType.FLAPPING, context=context)
    assert compose(flaps, "en").message.startswith("At the moment it is up. It has changed 6 times")
    assert compose(flaps, "es").message.startswith("En este momento funciona. Ha cambiado 6 veces")


def test_a_message_names_its_incident_from_beginning_to_end() -> None:
    ours = {"incident_id": UUID(int=9), "event_id": UUID(int=1)}
    assert compose(delivery(**ours), "en").reference == UUID(int=9)
    assert compose(delivery(event_id=UUID(int=1)), "en").reference == UUID(int=1)


def test_an_unknown_language_is_english_and_other_events_keep_their_own_words() -> None:
    assert compose(delivery(), "tlh").title == "Shop is down"
    told = compose(delivery(alert_type=AlertType.OPERATOR, subscription_name=""), "es")
    assert (told.title, told.message) == ("stored title", "expected 200, got 503")


def test_a_test_message_is_in_the_channel_s_language() -> None:
    channel = Channel(
        id=uuid4(),
        subscription_id=uuid4(),
        channel_type=ChannelType.DISCORD,
        channel_config={},
        enabled=True,
        min_severity=Severity.INFO,
        metadata={"language": "es"},
    )
    assert compose_test(channel, AT).title == "Mensaje de prueba de Lighthouse"
    assert compose_test(channel, AT).kind == "test"


def test_both_languages_have_words_for_every_reason() -> None:
    reasons = {reason.value for reason in Reason}
    assert set(ENGLISH.reasons) == set(SPANISH.reasons) == reasons


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (250, "4 min 10 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (86_399, "23 h 59 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_are_told_in_their_two_greatest_units(seconds: float, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text
