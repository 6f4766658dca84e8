"""Discord: one embed through an incoming webhook, nobody mentioned, its limits kept.

`wait=true` makes Discord answer only when the message is stored: without it a message that is
lost on their side looks sent.
"""

import re
from typing import Any, ClassVar

import orjson
from pydantic import Field
from yarl import URL

from lighthouse.channels.config import ChannelConfig, PostUrl
from lighthouse.channels.http import Http, Reply, number
from lighthouse.channels.templates import Message
from lighthouse.model import AlertType, Answer, Severity

#: Discord's limits, in characters; a message beyond one of them is refused whole.
TITLE_CHARS = 256
DESCRIPTION_CHARS = 2048  # 4096 are allowed, but all of an embed together may have 6000
FIELD_NAME_CHARS = 256
FIELD_VALUE_CHARS = 1024

RED, AMBER, GREEN, BLUE = 0xD83C3E, 0xE8A33D, 0x2D9D5C, 0x3E7BD8

#: Discord's code for a webhook that has been deleted: sending on is what gets senders banned.
UNKNOWN_WEBHOOK = 10015

#: What formats, links or mentions; a list, quote or heading only opens a line.
_MARKDOWN = re.compile(r"[\\`*_~|<>@\[\]]|^[#\-]|:(?=//)")


class DiscordConfig(ChannelConfig):
    """Where the messages go."""

    webhook_url: PostUrl = Field(
        description="The incoming webhook's URL, as Discord shows it. It is a password."
    )
    home: ClassVar = frozenset(
        {"discord.com", "discordapp.com", "canary.discord.com", "ptb.discord.com"}
    )

    @property
    def address(self) -> str:
        return self.webhook_url


async def send(http: Http, config: DiscordConfig, message: Message) -> Answer:
    """Send one message and read Discord's verdict on it."""
    url = str(URL(config.webhook_url).update_query(wait="true"))
    reply = await http.post(
        url, orjson.dumps(payload(message)), {"Content-Type": "application/json"}, at_once=1
    )
    return judge(reply) if isinstance(reply, Reply) else reply


def payload(message: Message) -> dict[str, Any]:
    """The body of the request."""
    fields = [
        {
            "name": clip(escape(fact.label), FIELD_NAME_CHARS),
            "value": code_block(fact.value, FIELD_VALUE_CHARS)
            if fact.quoted
            else clip(escape(fact.value), FIELD_VALUE_CHARS),
            "inline": not fact.quoted,
        }
        for fact in message.facts
        if fact.value.strip()
    ]
    embed = {
        "title": clip(escape(message.title), TITLE_CHARS),
        "description": clip(escape(message.message), DESCRIPTION_CHARS),
        "color": _colour(message),
        "timestamp": message.at.isoformat(),
        "footer": {"text": f"Lighthouse · {message.reference}"},
        "fields": fields,
    }
    return {"embeds": [embed], "allowed_mentions": {"parse": []}}


def judge(reply: Reply) -> Answer:
    """What Discord's answer means for the delivery.

    A refusal of what was sent (4xx) stays one: the next try would send the same.
    """
    if 200 <= reply.status < 300:
        return Answer(ok=True, detail=f"HTTP {reply.status}")
    body = _body(reply)
    code = body.get("code")
    detail = f"HTTP {reply.status}" + (f" (code {code})" if isinstance(code, int) else "")
    if reply.status == 429:
        waits = [
            number(body.get("retry_after")),
            reply.retry_after_s(),
            reply.number("X-RateLimit-Reset-After"),
        ]
        return Answer(
            ok=False,
            detail=detail,
            retry_after_s=max((wait for wait in waits if wait is not None), default=None),
        )
    if reply.status == 408 or reply.status >= 500:
        return Answer(ok=False, detail=detail, retry_after_s=reply.retry_after_s())
    return Answer(ok=False, detail=detail, permanent=True, gone=code == UNKNOWN_WEBHOOK)


def _body(reply: Reply) -> dict[str, Any]:
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError:  # for example an HTML page of the network in front
        return {}
    return body if isinstance(body, dict) else {}


def _colour(message: Message) -> int:
    if message.kind == AlertType.RECOVERY:
        return GREEN
    return {Severity.CRITICAL: RED, Severity.WARNING: AMBER, Severity.INFO: BLUE}[message.severity]


def escape(text: str) -> str:
    """Text that Discord shows as it is: no formatting, no link, no mention."""
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


def code_block(text: str, limit: int) -> str:
    """Text inside a code block, where Discord interprets nothing but the block's end."""
    inner = text.replace("`", "ˋ").strip()
    return f"```\n{clip(inner, limit - 8)}\n```"


def clip(text: str, limit: int) -> str:
    """At most `limit` characters as Discord may count them (UTF-16), no escape cut in half."""
    if _length(text) <= limit:
        return text
    kept: list[str] = []
    room = limit - 1
    for character in text:
        room -= _length(character)
        if room < 0:
            break
        kept.append(character)
    clipped = "".join(kept)
    trailing = len(clipped) - len(clipped.rstrip("\\"))
    return (clipped[:-1] if trailing % 2 else clipped) + "…"


def _length(text: str) -> int:
    return len(text) + sum(1 for character in text if ord(character) > 0xFFFF)
