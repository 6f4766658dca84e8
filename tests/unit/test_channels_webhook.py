"""Webhooks: the document, its signature and what a receiver's answers mean."""

import base64
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from lighthouse.channels import webhook
from lighthouse.channels.http import Reply
from lighthouse.channels.templates import Message
from lighthouse.model import Severity
from tests.support.services import standard_webhooks_verify

MESSAGE = Message(
    kind="downtime",
    key="event.channel",
    event_id=UUID(int=7),
    at=datetime(2026, 11, 24, 3, 45, 0, 123_000, tzinfo=UTC),
    severity=Severity.CRITICAL,
    subscription_id=UUID(int=3),
    subscription_name="Shop",
    title="Shop is down",
    message="It failed.",
    context={"http_status": 503, "title": "not this one", "wei": 10**30},
)


def reply(status: int, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=b"")


def test_the_document_holds_the_event_and_its_context() -> None:
    document = json.loads(json.dumps(webhook.document(MESSAGE)))
    assert document == {
        "type": "downtime",
        "timestamp": "2026-11-24T03:45:00.123000+00:00",
        "data": {
            "http_status": 503,
            "wei": 10**30,
            "event_id": "00000000-0000-0000-0000-000000000007",
            "incident_id": None,
            "subscription": {"id": "00000000-0000-0000-0000-000000000003", "name": "Shop"},
            "severity": "critical",
            "title": "Shop is down",
            "message": "It failed.",
            "slot": 1795491900123,
        },
    }


def test_the_specification_s_own_example_is_signed_as_it_says() -> None:
    # From the reference implementations of Standard Webhooks.
    assert (
        webhook.sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1614265330,
            b'{"test": 2432232314}',
        )
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


@pytest.mark.parametrize(
    "secret", ["plain text", "ключ", "whsec_" + base64.b64encode(bytes(range(24))).decode()]
)
def test_a_receiver_verifies_what_was_sent_and_nothing_else(secret: str) -> None:
    now, body = int(time.time()), b'{"type":"downtime"}'
    headers = {
        "webhook-id": "event.channel",
        "webhook-timestamp": str(now),
        "webhook-signature": webhook.sign(secret, "event.channel", now, body),
    }
    assert standard_webhooks_verify(secret, headers, body)
    assert not standard_webhooks_verify(secret, headers, body + b" ")
    assert not standard_webhooks_verify(secret, {**headers, "webhook-id": "other"}, body)
    assert not standard_webhooks_verify("another", headers, body)


def test_every_try_has_the_same_document() -> None:
    assert webhook.document(MESSAGE) == webhook.document(replace(MESSAGE))


def test_410_and_redirects_end_a_delivery_and_410_ends_the_channel() -> None:
    gone, moved = webhook.judge(reply(410)), webhook.judge(reply(308, Location="https://x/s3cr3t"))
    assert (gone.permanent, gone.gone) == (True, True)
    assert (moved.permanent, moved.gone) == (True, False)
    assert moved.detail == "HTTP 308: redirects are not followed"


@pytest.mark.parametrize("status", [400, 401, 404, 408, 425, 429, 500, 503])
def test_anything_else_is_tried_again(status: int) -> None:
    answer = webhook.judge(reply(status, Retry_After="7"))
    assert (answer.ok, answer.permanent, answer.retry_after_s) == (False, False, 7)


@pytest.mark.parametrize(
    "wish",
    [
        *("-1", "nan", "inf", "soon", ""),
        "Mon, 01 Jan 2024 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 2024 99999999999999999999:00:00 GMT",
    ],
)
def test_a_wish_that_is_no_time_is_none(wish: str) -> None:
    assert webhook.judge(reply(503, Retry_After=wish)).retry_after_s is None


def test_a_wish_may_be_a_date() -> None:
    past = webhook.judge(reply(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"))
    assert past.retry_after_s == 0
