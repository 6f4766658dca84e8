"""Telegram, Slack and SMS against doubles that enforce what their services publish."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from lighthouse.channels import Sender
from lighthouse.model import (
    AlertType,
    Answer,
    Channel,
    ChannelType,
    Circumstances,
    Delivery,
    Severity,
    to_slot,
)
from lighthouse.settings import load
from tests.support.messengers import Slack, Telegram, Twilio, units

AT = datetime(2026, 11, 24, 3, 45, 10, tzinfo=UTC)
EVENT = UUID(int=1)
CHAT, GROUP, PHONE = "4242", "-1001234", "+34600000001"


@pytest.fixture
async def telegram() -> AsyncIterator[Telegram]:
    async with Telegram() as running:
        yield running


@pytest.fixture
async def slack() -> AsyncIterator[Slack]:
    async with Slack() as running:
        yield running


@pytest.fixture
async def twilio() -> AsyncIterator[Twilio]:
    async with Twilio() as running:
        yield running


def sender(service: Telegram | Slack | Twilio, **more: str) -> Sender:
    """Only Slack's address is the tenant's: the operator's own services are not guarded."""
    own: dict[str, str] = {"LIGHTHOUSE_ALERT_TIMEOUT_S": "10"}
    if isinstance(service, Telegram):
        own["LIGHTHOUSE_TELEGRAM_API_URL"] = service.base
    elif isinstance(service, Twilio):
        own["LIGHTHOUSE_TWILIO_API_URL"] = service.base
        own["LIGHTHOUSE_TWILIO_ACCOUNT_SID"] = service.sid
        own["LIGHTHOUSE_TWILIO_AUTH_TOKEN"] = service.token
        own["LIGHTHOUSE_TWILIO_FROM"] = service.number
    else:
        own["LIGHTHOUSE_EGRESS_ALLOW"] = "127.0.0.0/8"
    return Sender(load({**own, **more}))


def delivery(kind: str, config: dict[str, str], **changes: Any) -> Delivery:
    channel = Channel(
        id=UUID(int=2),
        subscription_id=UUID(int=3),
        channel_type=ChannelType(kind),
        channel_config=config,
        enabled=True,
        min_severity=Severity.INFO,
        metadata={"language": "en", **changes.pop("metadata", {})},
    )
    values: dict[str, Any] = {
        "event_id": EVENT,
        "channel_id": channel.id,
        "slot": to_slot(AT),
        "subscription_id": channel.subscription_id,
        "subscription_name": "Shop",
        "alert_type": AlertType.DOWNTIME,
        "severity": Severity.CRITICAL,
        "title": "stored title",
        "message": "expected 200, got 503",
        "context": {"name": "Shop", "reason": "status_code", "http_status": 503},
        "attempt": 1,
        "lease_token": uuid4(),
        "created_at": AT,
        "age_s": 0.0,
        "circumstances": Circumstances(now=AT, created_at=AT),
        "channel": channel,
    }
    return Delivery(**{**values, **changes})


def to_chat(chat: str = CHAT, token: str = Telegram.token, **changes: Any) -> Delivery:
    return delivery("telegram", {"bot_token": token, "chat_id": chat}, **changes)


def to_hook(service: Slack, hook: str = "s3cr3t", **changes: Any) -> Delivery:
    return delivery("slack", {"webhook_url": service.url(hook)}, **changes)


def to_phone(number: str = PHONE, **changes: Any) -> Delivery:
    return delivery("sms", {"to": number}, **changes)


def checked(found: Answer) -> Answer:
    """No secret, address or line end is in an answer."""
    for kept_back in ("s3cr3t", "127.0.0.1", "\n", "+346"):
        assert kept_back not in found.detail
    return found


async def once(service: Telegram | Slack | Twilio, each: Delivery, **more: str) -> Answer:
    async with sender(service, **more) as mine:
        return checked(await mine.send(each))


EVIL = (
    "</pre></code></b><a href='https://evil.example'>x</a> <!channel> <@U123> &lt; &amp; ``` *b*"
    " `c` <https://evil.example|ours> \u202egnp \x00\x1b[31m"
)
LONG = ["x" * 50_000, "<" * 50_000, "&" * 50_000, "🔥" * 50_000, "a`<🔥" * 9000, "\n" * 9000 + "x"]


async def test_telegram_shows_the_alert_in_the_channel_s_language_and_zone(
    telegram: Telegram,
) -> None:
    metadata = {"language": "es", "timezone": "America/New_York"}
    found = await once(telegram, to_chat(metadata=metadata))
    assert (found.ok, found.detail) == (True, "HTTP 200")
    (shown,) = telegram.shown
    assert shown.splitlines()[0] == "🔴 Shop está caído"
    assert "La comprobación de 2026-11-23 22:45:10 EST falló." in shown
    assert "Estado HTTP: 503" in shown
    assert shown.endswith(str(EVENT))
    assert telegram.bodies[0]["link_preview_options"] == {"is_disabled": True}


async def test_telegram_shows_what_a_target_sent_as_it_is(telegram: Telegram) -> None:
    found = await once(telegram, to_chat(message=EVIL, subscription_name=EVIL))
    assert found.ok
    assert set(telegram.tags[0]) <= {"b", "pre", "code"}
    assert "<a href='https://evil.example'>x</a> <!channel>" in telegram.shown[0]
    assert "&lt; &amp;" in telegram.shown[0]
    assert "\u202e" not in telegram.shown[0]


@pytest.mark.parametrize("text", LONG)
async def test_telegram_takes_every_length(telegram: Telegram, text: str) -> None:
    found = await once(telegram, to_chat(message=text, subscription_name=text, title=text))
    assert (found.ok, found.detail) == (True, "HTTP 200")
    assert str(EVENT) in telegram.shown[0]


async def test_telegram_s_own_rate_for_a_chat_is_kept_without_any_refusal(
    telegram: Telegram,
) -> None:
    async with sender(telegram) as mine:
        found = await asyncio.gather(*(mine.send(to_chat()) for _ in range(3)))
    assert [answer.ok for answer in found] == [True] * 3
    assert telegram.limited == 0


async def test_a_group_has_twenty_messages_a_minute_and_further_ones_wait_in_the_store(
    telegram: Telegram,
) -> None:
    async with sender(telegram) as mine:
        assert (await mine.send(to_chat(GROUP))).ok
        held = await mine.send(to_chat(GROUP))
        assert (await mine.send(to_chat())).ok  # another chat of the same bot does not
    assert (held.ok, held.tried) == (False, False)
    assert held.retry_after_s is not None
    assert 1 < held.retry_after_s <= 3
    assert telegram.requests == 2


async def test_telegram_s_retry_after_is_obeyed(telegram: Telegram) -> None:
    telegram.flood_s = 30
    async with sender(telegram) as mine:
        first = checked(await mine.send(to_chat()))
        second = checked(await mine.send(to_chat()))
    assert (first.ok, first.permanent, first.tried, first.retry_after_s) == (False, False, True, 30)
    assert (second.permanent, second.tried) == (False, False)
    assert second.retry_after_s is not None
    assert 20 < second.retry_after_s <= 30
    assert telegram.requests == 1


@pytest.mark.parametrize(
    ("status", "told", "parameters", "detail", "gone"),
    [
        (400, "Bad Request: chat not found", {}, "HTTP 400: chat not found", True),
        (403, "Forbidden: bot was blocked by the user", {}, "HTTP 403: bot was blocked", True),
        (403, "Forbidden: user is deactivated", {}, "HTTP 403: user is deactivated", True),
        (
            *(400, "Bad Request: group chat was upgraded to a supergroup chat"),
            *({"migrate_to_chat_id": -100999}, "HTTP 400: the group is now chat_id -100999", True),
        ),
        (400, "Bad Request: message is too long", {}, "HTTP 400", False),
    ],
)
async def test_telegram_s_permanent_refusals(
    telegram: Telegram,
    status: int,
    told: str,
    parameters: dict[str, Any],
    detail: str,
    gone: bool,
) -> None:
    telegram.answers[CHAT] = (status, told, parameters)
    found = await once(telegram, to_chat())
    assert (found.ok, found.permanent, found.gone, found.detail) == (False, True, gone, detail)


async def test_a_bot_whose_token_was_revoked_is_gone(telegram: Telegram) -> None:
    found = await once(telegram, to_chat(token="987654321:AAE-s3cr3t-s3cr3t-s3cr3t-s3cr3t-s"))
    assert (found.permanent, found.gone, found.detail) == (True, True, "HTTP 401")


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 500, 502])
async def test_a_page_in_front_of_telegram_is_tried_again(telegram: Telegram, status: int) -> None:
    telegram.page = status
    found = await once(telegram, to_chat())
    assert (found.permanent, found.gone, found.detail) == (False, False, f"HTTP {status}")


async def test_slack_shows_the_alert_in_the_channel_s_language_and_zone(slack: Slack) -> None:
    metadata = {"language": "es", "timezone": "Europe/Madrid"}
    found = await once(slack, to_hook(slack, metadata=metadata))
    assert (found.ok, found.detail) == (True, "HTTP 200")
    (texts,) = slack.shown
    assert texts[0] == texts[1] == "🔴 Shop está caído"
    assert texts[2] == "La comprobación de 2026-11-24 04:45:10 CET falló."
    assert "*Estado HTTP* `503`" in texts
    assert texts[-1] == f"Lighthouse · {EVENT}"


async def test_nothing_that_a_target_sent_is_markup_for_slack(slack: Slack) -> None:
    found = await once(slack, to_hook(slack, message=EVIL, subscription_name=EVIL))
    assert found.ok
    assert slack.markup == []
    (texts,) = slack.shown
    (quoted,) = [text for text in texts if text.startswith("*Detail*")]
    assert quoted.count("```") == 2
    assert "<!channel> <@U123> &lt; &amp; ˋˋˋ *b* ˋcˋ" in quoted
    assert "\u202e" not in "".join(texts)


@pytest.mark.parametrize("text", LONG)
async def test_slack_takes_every_length(slack: Slack, text: str) -> None:
    found = await once(slack, to_hook(slack, message=text, subscription_name=text))
    assert (found.ok, found.detail) == (True, "HTTP 200")


async def test_slack_s_rate_for_a_webhook_is_kept_whatever_number_of_channels_shares_it(
    slack: Slack,
) -> None:
    async with sender(slack) as mine:
        found = await asyncio.gather(*(mine.send(to_hook(slack)) for _ in range(3)))
    assert [answer.ok for answer in found] == [True] * 3
    assert slack.limited == 0


async def test_slack_s_retry_after_is_obeyed(slack: Slack) -> None:
    slack.limited_s = 30
    async with sender(slack) as mine:
        first = checked(await mine.send(to_hook(slack)))
        second = checked(await mine.send(to_hook(slack)))
        assert (await mine.send(to_hook(slack, "other"))).ok
    assert (first.permanent, first.tried, first.retry_after_s) == (False, True, 30)
    assert (second.permanent, second.tried) == (False, False)
    assert slack.requests == 2


@pytest.mark.parametrize(
    ("status", "told", "permanent", "gone"),
    [
        (404, "no_service", True, True),
        (410, "channel_is_archived", True, True),
        (403, "action_prohibited", True, True),
        (404, "channel_not_found", True, True),
        (400, "invalid_blocks", True, False),
        (500, "rollup_error", False, False),
        (503, "unavailable", False, False),
    ],
)
async def test_slack_s_refusals(
    slack: Slack, status: int, told: str, permanent: bool, gone: bool
) -> None:
    slack.answers["s3cr3t"] = (status, told)
    found = await once(slack, to_hook(slack))
    assert (found.ok, found.permanent, found.gone) == (False, permanent, gone)
    assert found.detail == (f"HTTP {status} ({told})" if permanent else f"HTTP {status}")


async def test_a_tenant_s_slack_address_is_guarded(slack: Slack) -> None:
    found = await once(slack, to_hook(slack), LIGHTHOUSE_EGRESS_ALLOW="192.0.2.0/24")
    assert found.detail.startswith("the address may not be connected to (")
    assert slack.requests == 0


async def test_an_sms_says_the_alert_in_one_segment_s_alphabet(twilio: Twilio) -> None:
    metadata = {"language": "es", "timezone": "Europe/Madrid"}
    found = await once(twilio, to_phone(metadata=metadata))
    assert (found.ok, found.detail) == (True, "HTTP 201")
    (form,) = twilio.forms
    assert (form["To"], form["From"]) == (PHONE, twilio.number)
    assert form["Body"].splitlines()[0] == "Shop está caído".replace("á", "a").replace("í", "i")
    assert "2026-11-24 04:45:10 CET" in form["Body"]


async def test_an_sms_may_come_from_a_messaging_service(twilio: Twilio) -> None:
    service = "MG00000000000000000000000000000001"
    assert (await once(twilio, to_phone(), LIGHTHOUSE_TWILIO_FROM=service)).ok
    assert twilio.forms[0]["MessagingServiceSid"] == service


@pytest.mark.parametrize("text", [*LONG, "€" * 9000, "x€" * 9000, "a🔥" * 9000, EVIL])
async def test_an_sms_never_has_more_than_three_segments(twilio: Twilio, text: str) -> None:
    assert (await once(twilio, to_phone(message=text))).ok
    (body,) = twilio.texts
    # By Twilio's own limits: 3 × 153 septets, or 3 × 67 units where a character needs UCS-2.
    if all(ord(character) < 128 or character == "€" for character in body):
        assert units(body) + sum(body.count(c) for c in "^{}\\[~]|€") <= 3 * 153
    else:
        assert units(body) <= 3 * 67


@pytest.mark.parametrize(
    ("status", "code", "permanent", "gone"),
    [
        (400, 21211, True, True),
        (400, 21610, True, True),
        (400, 21614, True, True),
        (400, 21612, True, False),
        (400, 21408, False, False),
        (403, 21408, False, False),
        (400, 21606, False, False),
        (404, 20404, False, False),
        (404, 20006, False, False),
        (401, 20003, False, False),
        (429, 20429, False, False),
        (500, 20500, False, False),
    ],
)
async def test_twilio_s_refusals_end_only_what_the_number_s_owner_can_repair(
    twilio: Twilio, status: int, code: int, permanent: bool, gone: bool
) -> None:
    twilio.answers[PHONE] = (status, code)
    found = await once(twilio, to_phone())
    assert (found.ok, found.permanent, found.gone) == (False, permanent, gone)
    assert found.detail == f"HTTP {status} (code {code})"


async def test_a_wrong_account_or_password_is_the_operator_s_to_repair(twilio: Twilio) -> None:
    wrong = await once(twilio, to_phone(), LIGHTHOUSE_TWILIO_AUTH_TOKEN="other")
    assert (wrong.permanent, wrong.detail) == (False, "HTTP 401 (code 20003)")


@pytest.mark.parametrize("status", [302, 400, 403, 404, 413, 502])
async def test_a_page_in_front_of_twilio_is_tried_again(twilio: Twilio, status: int) -> None:
    twilio.pages = [(status, {})]
    found = await once(twilio, to_phone())
    assert (found.permanent, found.detail) == (False, f"HTTP {status}")


async def test_a_refusal_that_comes_while_another_waits_its_turn_holds_that_one_too(
    twilio: Twilio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lighthouse.channels.sms.SEGMENT_S", 2.0)  # longer than an answer takes
    monkeypatch.setattr("lighthouse.channels.http.PATIENCE_S", 2.0)
    twilio.pages = [(429, {"Retry-After": "30"})]
    async with sender(twilio) as mine:
        first, second = await asyncio.gather(mine.send(to_phone()), mine.send(to_phone()))
    assert (first.tried, first.permanent, first.retry_after_s) == (True, False, 30)
    assert (second.ok, second.tried) == (False, False)
    assert second.retry_after_s is not None
    assert second.retry_after_s > 20
    assert twilio.requests == 1


@pytest.mark.parametrize("url", ["api.example", "https://api.example:x", "ftp://api.example"])
async def test_a_wrong_address_of_the_operator_s_ends_no_delivery(
    telegram: Telegram, twilio: Twilio, url: str
) -> None:
    for found in (
        await once(telegram, to_chat(), LIGHTHOUSE_TELEGRAM_API_URL=url),
        await once(twilio, to_phone(), LIGHTHOUSE_TWILIO_API_URL=url),
    ):
        assert (found.ok, found.permanent) == (False, False)
        assert found.detail == "the address is no valid URL"


async def test_without_an_account_an_sms_waits_for_the_operator(twilio: Twilio) -> None:
    found = await once(twilio, to_phone(), LIGHTHOUSE_TWILIO_FROM="")
    assert (found.ok, found.permanent) == (False, False)
    assert found.detail == "LIGHTHOUSE_TWILIO_FROM is not set; sms channels need them"
