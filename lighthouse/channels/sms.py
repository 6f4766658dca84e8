"""SMS through Twilio: one short text, in as few segments as its characters allow.

Twilio's API takes no idempotency key: a text whose answer was lost comes twice. What it says is
the same both times, and a try that timed out is the only cause.
"""

import base64
import re
import unicodedata
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import orjson
from pydantic import Field, field_validator

from lighthouse.channels.config import ChannelConfig
from lighthouse.channels.http import Http, Reply
from lighthouse.channels.templates import Message
from lighthouse.channels.texts import clip, one_line, utf16
from lighthouse.errors import SettingsError
from lighthouse.model import Answer, Rate
from lighthouse.settings import Settings

#: The most segments of one text: each is paid for.
SEGMENTS = 3
#: Characters of one segment, and of each one of several, in GSM 03.38 septets and UCS-2 units.
GSM_SINGLE, GSM_PART = 160, 153
UCS2_SINGLE, UCS2_PART = 70, 67
#: A long code's published rate: one segment a second.
SEGMENT_S = 1.0
#: Seconds after which Twilio throws an undelivered text away: Twilio's maximum of 10 h is stale.
VALIDITY_S = 4 * 3600

_GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "ÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_TWICE = frozenset("^{}\\[~]|€")  # written with an escape
_PLAINER = {"…": "...", "–": "-", "—": "-", "“": '"', "”": '"', "‘": "'", "’": "'", "`": "'"}

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")

#: Twilio's codes for a number that takes no texts (any more): wrong, a landline, or its owner said
#: STOP. Sending on would cost money, or break the law.
_GONE = frozenset({21211, 21214, 21217, 21610, 21614})
#: Codes that blame the operator's account, number, balance or permitted countries, which the
#: operator can repair.
_OPERATORS = frozenset(
    {20003, 20005, 20404, 21212, 21408, 21606, 21659, 21660, 21703, 21704, 30002}
)


class SmsConfig(ChannelConfig):
    """Who is texted."""

    to: str = Field(description="The phone number with its country, as +34600000000.")

    @field_validator("to")
    @classmethod
    def _e164(cls, to: str) -> str:
        if not _NUMBER.fullmatch(to):
            raise ValueError("is no phone number of the form +34600000000")
        return to


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The operator's account at Twilio."""

    url: str
    authorization: str
    sender: str  #: a number, or a messaging service's id, MG…


def account(settings: Settings) -> Account:
    """The account of the settings. Raises SettingsError with what is missing."""
    sid, token, sender = (
        settings.twilio_account_sid,
        settings.twilio_auth_token,
        settings.twilio_from,
    )
    if not sid or token is None or not sender:
        missing = [
            f"LIGHTHOUSE_TWILIO_{name}"
            for name, value in (("ACCOUNT_SID", sid), ("AUTH_TOKEN", token), ("FROM", sender))
            if not value
        ]
        verb = "are" if len(missing) > 1 else "is"
        raise SettingsError(f"{', '.join(missing)} {verb} not set; sms channels need them")
    base = settings.twilio_api_url.rstrip("/")
    login = base64.b64encode(f"{sid}:{token.get_secret_value()}".encode()).decode()
    return Account(
        url=f"{base}/2010-04-01/Accounts/{quote(sid, safe='')}/Messages.json",
        authorization=f"Basic {login}",
        sender=sender,
    )


async def send(http: Http, config: SmsConfig, message: Message) -> Answer:
    """Hand one text to Twilio and read its verdict; the network's own comes later, unread."""
    ours = account(http.settings)
    text = body(message)
    form = {
        "To": config.to,
        "MessagingServiceSid" if ours.sender.startswith("MG") else "From": ours.sender,
        "Body": text,
        "ValidityPeriod": str(VALIDITY_S),
    }
    reply = await http.post(
        ours.url,
        urlencode(form).encode(),
        {
            "Content-Type": "application/x-www-form-urlencoded",
            "Authorization": ours.authorization,
        },
        key=f"twilio {ours.sender}",
        rates=(Rate(key=f"twilio {ours.sender}", seconds=segments(text) * SEGMENT_S),),
        own=True,
    )
    return judge(reply) if isinstance(reply, Reply) else reply


def body(message: Message) -> str:
    """The text: title, message and the target's own words, cut to `SEGMENTS`."""
    quoted = [f"{one_line(f.label)}: {one_line(f.value)}" for f in message.facts if f.value.strip()]
    lines = [one_line(part) for part in (message.title, message.message, *quoted)]
    text = "\n".join(line for line in lines if line)
    plain = "".join(_plainer(character) for character in text)
    if _is_gsm(plain):
        return clip(plain, _room(GSM_PART), _septets, "...")
    return clip(text, _room(UCS2_PART))


def segments(text: str) -> int:
    """How many segments a text is sent and paid as."""
    if _is_gsm(text):
        cost, single, part = _septets, GSM_SINGLE, GSM_PART
    else:
        cost, single, part = utf16, UCS2_SINGLE, UCS2_PART
    if cost(text) <= single:
        return 1
    count, left = 1, part
    for character in text:
        units = cost(character)
        if units > left:  # a pair that does not fit goes to the next segment whole
            count, left = count + 1, part
        left -= units
    return count


def _room(part: int) -> int:
    """Units that always fit in `SEGMENTS`: a pair may leave the last one of a segment unused."""
    return SEGMENTS * part - (SEGMENTS - 1)


def _is_gsm(text: str) -> bool:
    return all(character in _GSM or character in _GSM_TWICE for character in text)


def _septets(text: str) -> int:
    return len(text) + sum(1 for character in text if character in _GSM_TWICE)


def _plainer(character: str) -> str:
    """A character in GSM 03.38, without an accent where that has none: á is a, é stays."""
    if character in _GSM or character in _GSM_TWICE:
        return character
    if character in _PLAINER:
        return _PLAINER[character]
    base = "".join(c for c in unicodedata.normalize("NFKD", character) if c in _GSM)
    return base or character


def judge(reply: Reply) -> Answer:
    """What Twilio's answer means for the delivery.

    A refusal without a code is a page of something in front of Twilio, and passes.
    """
    if 200 <= reply.status < 300:
        return Answer(ok=True, detail=f"HTTP {reply.status}")
    code = _body(reply).get("code")
    detail = f"HTTP {reply.status}" + (f" (code {code})" if isinstance(code, int) else "")
    if isinstance(code, int) and code in _GONE:
        return Answer(ok=False, detail=detail, permanent=True, gone=True)
    passing = reply.status in (401, 403, 404, 408, 429) or reply.status >= 500
    if passing or not isinstance(code, int) or code in _OPERATORS:
        return Answer(ok=False, detail=detail, retry_after_s=reply.retry_after_s())
    return Answer(ok=False, detail=detail, permanent=True)


def _body(reply: Reply) -> dict[str, Any]:
    try:
        found = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
