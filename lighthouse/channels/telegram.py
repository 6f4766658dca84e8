"""Telegram: one message of a bot in HTML mode, with nothing in it that is not ours.

The Bot API takes no idempotency key: a message that was stored but whose answer was lost comes
twice. The event's id at the end of the text is the same in both.
"""

import html
import re
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, Field, field_validator

from lighthouse.channels.config import ChannelConfig
from lighthouse.channels.http import Http, Reply, number
from lighthouse.channels.templates import Message
from lighthouse.channels.texts import clean, clip, one_line
from lighthouse.configs import Secret
from lighthouse.model import AlertType, Answer, Rate, Severity

#: Telegram's limit, in UTF-16 units after the entities are read, with some room for our own words.
MESSAGE_UNITS = 4096
TITLE_UNITS = 256
TEXT_UNITS = 1500
FACT_UNITS = 1000
FACTS_UNITS = 2000

#: Published limits: seconds that one message takes of a chat's, a group's and a bot's turn.
CHAT_S = 1.0
GROUP_S = 3.0
BOT_S = 1 / 30

_TOKEN = re.compile(r"[0-9]{3,20}:[A-Za-z0-9_-]{20,100}")
_CHAT = re.compile(r"-?[0-9]{1,20}|@[A-Za-z][A-Za-z0-9_]{3,31}")

#: Descriptions of a 400 that say that nothing will ever arrive there.
_GONE = re.compile(
    r"chat not found|user is deactivated|bot was (blocked|kicked)|group chat was (deleted|upgraded)"
    r"|not enough rights|have no rights|chat_write_forbidden|peer_id_invalid|is not a member",
    re.IGNORECASE,
)


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class TelegramConfig(ChannelConfig):
    """Which bot writes, and to whom."""

    bot_token: Secret = Field(repr=False, description="The bot's token, as @BotFather gave it.")
    chat_id: Annotated[str, BeforeValidator(_as_text)] = Field(
        description="The chat's number (negative for groups) or a channel's @name."
    )

    @field_validator("bot_token")
    @classmethod
    def _token(cls, token: str) -> str:
        if not _TOKEN.fullmatch(token):
            raise ValueError("is no bot token; it looks like 123456789:AAE…")
        return token

    @field_validator("chat_id")
    @classmethod
    def _chat(cls, chat: str) -> str:
        if not _CHAT.fullmatch(chat):
            raise ValueError("is neither a number nor an @name")
        return chat


async def send(http: Http, config: TelegramConfig, message: Message) -> Answer:
    """Send one message and read Telegram's verdict on it."""
    base = http.settings.telegram_api_url.rstrip("/")
    bot = config.bot_token.partition(":")[0]
    chat = f"telegram {bot} {config.chat_id}"
    reply = await http.post(
        f"{base}/bot{config.bot_token}/sendMessage",
        orjson.dumps(payload(config.chat_id, message)),
        {"Content-Type": "application/json"},
        at_once=1,
        key=chat,
        rates=(
            Rate(key=chat, seconds=CHAT_S if config.chat_id.isdigit() else GROUP_S),
            Rate(key=f"telegram {bot}", seconds=BOT_S),
        ),
        wish=retry_after_s,
        own=True,
    )
    return judge(reply) if isinstance(reply, Reply) else reply


def payload(chat_id: str, message: Message) -> dict[str, Any]:
    """The body of the request."""
    lines = [f"{_sign(message)} <b>{escape(clip(one_line(message.title), TITLE_UNITS))}</b>"]
    lines.append(escape(clip(clean(message.message), TEXT_UNITS)))
    left = FACTS_UNITS
    for fact in message.facts:
        label, value = clip(one_line(fact.label), 64), clip(clean(fact.value).strip(), FACT_UNITS)
        left -= len(label) + len(value)
        if not value or left < 0:
            continue
        lines.append(
            f"{escape(label)}:\n<pre>{escape(value)}</pre>"
            if fact.quoted
            else f"{escape(label)}: <b>{escape(value)}</b>"
        )
    lines.append(f"<code>{message.reference}</code>")
    return {
        "chat_id": chat_id,
        "text": "\n".join(lines),
        "parse_mode": "HTML",
        "link_preview_options": {"is_disabled": True},
    }


def escape(text: str) -> str:
    """Text that HTML mode shows as it is."""
    return html.escape(text, quote=False)


def retry_after_s(reply: Reply) -> float | None:
    """How long Telegram wants nothing more, in seconds."""
    parameters = _body(reply).get("parameters")
    told = number(parameters.get("retry_after")) if isinstance(parameters, dict) else None
    waits = [wait for wait in (told, reply.retry_after_s()) if wait is not None]
    return max(waits, default=None)


def judge(reply: Reply) -> Answer:
    """What Telegram's answer means for the delivery.

    401 and 404 speak of the token, 403 of a bot that may not write there (any more). A refusal
    without an error_code is a page of something in front of Telegram, and passes.
    """
    detail = f"HTTP {reply.status}"
    if 200 <= reply.status < 300:
        return Answer(ok=True, detail=detail)
    body = _body(reply)
    ours = isinstance(body.get("error_code"), int)
    if not ours or reply.status in (408, 429) or reply.status >= 500:
        return Answer(ok=False, detail=detail, retry_after_s=retry_after_s(reply))
    parameters = body.get("parameters")
    if isinstance(parameters, dict) and isinstance(parameters.get("migrate_to_chat_id"), int):
        moved = f"{detail}: the group is now chat_id {parameters['migrate_to_chat_id']}"
        return Answer(ok=False, detail=moved, permanent=True, gone=True)
    told = str(body.get("description", ""))
    known = _GONE.search(told)
    if known is not None:
        detail = f"{detail}: {known[0].lower()}"
    gone = reply.status in (401, 403, 404) or known is not None
    return Answer(ok=False, detail=detail, permanent=True, gone=gone)


def _body(reply: Reply) -> dict[str, Any]:
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _sign(message: Message) -> str:
    if message.kind == AlertType.RECOVERY:
        return "🟢"
    return {Severity.CRITICAL: "🔴", Severity.WARNING: "🟠", Severity.INFO: "🔵"}[message.severity]
