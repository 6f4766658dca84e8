"""What is sent to Discord, and what its answers mean."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from lighthouse.channels import discord
from lighthouse.channels.http import Reply
from lighthouse.channels.templates import Fact, Message
from lighthouse.model import Severity
from tests.support.services import discord_fault

MESSAGE = Message(
    kind="downtime",
    key="k",
    event_id=UUID(int=7),
    at=datetime(2026, 11, 24, 3, 45, tzinfo=UTC),
    severity=Severity.CRITICAL,
    subscription_id=UUID(int=3),
    subscription_name="Shop",
    title="Shop is down",
    message="It failed.",
    facts=(
        Fact(label="Reason", value="unexpected HTTP status"),
        Fact(label="Detail", value="got 503", quoted=True),
    ),
)


def embed(message: Message) -> dict[str, Any]:
    body = discord.payload(message)
    assert discord_fault(body) is None
    assert body["allowed_mentions"] == {"parse": []}
    found: dict[str, Any] = body["embeds"][0]
    return found


def reply(status: int, body: object = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, headers=named, body=json.dumps(body).encode())


def test_an_alert_is_one_embed() -> None:
    assert embed(MESSAGE) == {
        "title": "Shop is down",
        "description": "It failed.",
        "color": discord.RED,
        "timestamp": "2026-11-24T03:45:00+00:00",
        "footer": {"text": "Lighthouse · 00000000-0000-0000-0000-000000000007"},
        "fields": [
            {"name": "Reason", "value": "unexpected HTTP status", "inline": True},
            {"name": "Detail", "value": "```\ngot 503\n```", "inline": False},
        ],
    }


def test_the_colour_tells_a_recovery_and_the_severity() -> None:
    assert embed(replace(MESSAGE, kind="recovery"))["color"] == discord.GREEN
    assert embed(replace(MESSAGE, severity=Severity.WARNING))["color"] == discord.AMBER
    assert embed(replace(MESSAGE, kind="test", severity=Severity.INFO))["color"] == discord.BLUE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("@everyone <@123> <#5>", r"\@everyone \<\@123\> \<#5\>"),
        ("[click](https://evil.example)", r"\[click\](https\://evil.example)"),
        ("**bold** _it_ ~~x~~ ||spoiler||", r"\*\*bold\*\* \_it\_ \~\~x\~\~ \|\|spoiler\|\|"),
        ("# heading\n> quote\n- list", r"\# heading \> quote - list"),
        ("`code` back\\slash", r"\`code\` back\\slash"),
        ("at 03:45:10, 2026-11-24", "at 03:45:10, 2026-11-24"),
    ],
)
def test_nothing_in_a_text_is_interpreted(text: str, shown: str) -> None:
    assert discord.escape(text) == shown


def test_a_target_cannot_leave_its_code_block() -> None:
    fact = Fact(label="Detail", value="``` @everyone [x](http://evil) ```", quoted=True)
    (field,) = embed(replace(MESSAGE, facts=(fact,)))["fields"]
    assert field["value"].count("```") == 2
    assert field["value"].startswith("```\n")
    assert field["value"].endswith("\n```")


@pytest.mark.parametrize("text", ["*" * 5000, "\\" * 5000, "🔥" * 5000, "x" * 5000, "a*🔥" * 2000])
def test_every_length_fits_discord_s_limits(text: str) -> None:
    facts = tuple(Fact(label=text, value=text, quoted=quoted) for quoted in (False, True))
    found = embed(replace(MESSAGE, title=text, message=text, facts=facts))
    for clipped in (found["title"], found["description"], found["fields"][0]["value"]):
        escaped = clipped.removesuffix("…")
        assert escaped != clipped
        assert (len(escaped) - len(escaped.rstrip("\\"))) % 2 == 0


def test_empty_facts_are_left_out() -> None:
    facts = (Fact(label="Detail", value=" \n", quoted=True),)
    assert embed(replace(MESSAGE, facts=facts))["fields"] == []


@pytest.mark.parametrize("status", [200, 204])
def test_a_2xx_is_taken(status: int) -> None:
    assert discord.judge(reply(status)).ok


def test_a_429_is_tried_again_not_before_the_longest_wish() -> None:
    answer = discord.judge(
        reply(429, {"retry_after": 1.5, "global": False}, Retry_After="1", X_RateLimit_Limit="5")
    )
    assert (answer.ok, answer.permanent, answer.retry_after_s) == (False, False, 1.5)
    page = Reply(status=429, headers={"Retry-After": "600"}, body=b"<html>error 1015</html>")
    assert discord.judge(page).retry_after_s == 600


def test_a_deleted_webhook_is_gone_but_a_404_of_something_else_is_not() -> None:
    deleted = discord.judge(reply(404, {"message": "Unknown Webhook", "code": 10015}))
    assert (deleted.permanent, deleted.gone, deleted.detail) == (
        True,
        True,
        "HTTP 404 (code 10015)",
    )
    other = discord.judge(reply(404))
    assert (other.permanent, other.gone) == (True, False)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 413])
def test_a_refusal_of_what_was_sent_is_permanent(status: int) -> None:
    answer = discord.judge(reply(status, {"code": "s3cr3t", "message": "s3cr3t"}))
    assert (answer.ok, answer.permanent, answer.gone) == (False, True, False)
    assert answer.detail == f"HTTP {status}"


@pytest.mark.parametrize("status", [408, 500, 502, 503])
def test_a_fault_of_discord_s_own_is_tried_again(status: int) -> None:
    answer = discord.judge(reply(status))
    assert (answer.ok, answer.permanent) == (False, False)
