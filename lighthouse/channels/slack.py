"""Slack: blocks through an incoming webhook, in which nothing from outside is markup.

Incoming webhooks take no idempotency key; the event's id stands in each message's last line.
"""

from typing import Any, ClassVar

import orjson
from pydantic import Field

from lighthouse.channels.config import ChannelConfig, PostUrl
from lighthouse.channels.http import Http, Reply
from lighthouse.channels.templates import Message
from lighthouse.channels.texts import clean, clip, one_line
from lighthouse.model import AlertType, Answer, Rate, Severity

#: Slack's limits, in characters of what is sent.
HEADER_CHARS = 150
SECTION_CHARS = 3000
MESSAGE_CHARS = 2000
FACT_CHARS = 1000
MOST_FACTS = 20
#: Its published rate: one message a second for each webhook.
WEBHOOK_S = 1.0

#: Answers, in plain text, that say that nothing will ever arrive there.
_GONE = frozenset(
    {
        "account_inactive",
        "action_prohibited",
        "channel_is_archived",
        "channel_not_found",
        "invalid_token",
        "no_active_hooks",
        "no_service",
        "no_service_id",
        "no_team",
        "team_disabled",
        "token_revoked",
        "user_not_found",
    }
)
_KNOWN = _GONE | {
    "invalid_blocks",
    "invalid_payload",
    "no_text",
    "posting_to_general_channel_denied",
}

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class SlackConfig(ChannelConfig):
    """Where the messages go."""

    webhook_url: PostUrl = Field(
        description="The incoming webhook's URL, as Slack shows it. It is a password."
    )
    home: ClassVar = frozenset({"hooks.slack.com", "hooks.slack-gov.com"})

    @property
    def address(self) -> str:
        return self.webhook_url


async def send(http: Http, config: SlackConfig, message: Message) -> Answer:
    """Send one message and read Slack's verdict on it."""
    reply = await http.post(
        config.webhook_url,
        orjson.dumps(payload(message)),
        {"Content-Type": "application/json"},
        at_once=1,
        rates=(Rate(key=config.webhook_url, seconds=WEBHOOK_S),),
    )
    return judge(reply) if isinstance(reply, Reply) else reply


def payload(message: Message) -> dict[str, Any]:
    """The body of the request."""
    title = f"{_sign(message)} {one_line(message.title)}"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": _plain(title, HEADER_CHARS)},
    ]
    if message.message.strip():
        blocks.append({"type": "section", "text": _plain(clean(message.message), MESSAGE_CHARS)})
    for fact in message.facts[:MOST_FACTS]:
        value = clean(fact.value).strip()
        if value:
            shown = _block(value) if fact.quoted else code(value)
            text = f"*{code(one_line(fact.label), bare=True)}* {shown}"
            blocks.append(
                {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}
            )
    footer = _plain(f"Lighthouse · {message.reference}", HEADER_CHARS)
    blocks.append({"type": "context", "elements": [footer]})
    return {"text": _fit(title, SECTION_CHARS), "mrkdwn": False, "blocks": blocks}


def escape(text: str) -> str:
    """Text in which Slack finds no link, mention or entity."""
    return "".join(_ENTITIES.get(character, character) for character in text)


def _cost(text: str) -> int:
    return len(escape(text).encode("utf-16-le")) // 2


def _fit(text: str, limit: int) -> str:
    return escape(clip(text, limit, _cost))


def _plain(text: str, limit: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": _fit(text, limit), "emoji": False}


def _block(text: str) -> str:
    """Text inside a code block, where Slack formats nothing; backticks would end it."""
    return f"```\n{_fit(text.replace('`', 'ˋ'), FACT_CHARS)}\n```"


def code(text: str, *, bare: bool = False) -> str:
    """One line of text that is not formatted; `bare` is without the mark of code."""
    line = one_line(text.replace("`", "ˋ"))
    if bare:
        return _fit("".join(c for c in line if c not in "*_~"), 64)
    return f"`{_fit(line, FACT_CHARS)}`"


def judge(reply: Reply) -> Answer:
    """What Slack's answer means for the delivery."""
    told = reply.body[:64].decode("ascii", "replace").strip()
    detail = f"HTTP {reply.status}" + (f" ({told})" if told in _KNOWN else "")
    if 200 <= reply.status < 300:
        return Answer(ok=True, detail=detail)
    if reply.status in (408, 429) or reply.status >= 500:
        return Answer(ok=False, detail=detail, retry_after_s=reply.retry_after_s())
    gone = told in _GONE or reply.status == 410
    return Answer(ok=False, detail=detail, permanent=True, gone=gone)


def _sign(message: Message) -> str:
    if message.kind == AlertType.RECOVERY:
        return "🟢"
    return {Severity.CRITICAL: "🔴", Severity.WARNING: "🟠", Severity.INFO: "🔵"}[message.severity]
