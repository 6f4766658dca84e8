"""What an alert says, in English and Spanish, before a channel gives it its own form.

What a target had a hand in (its error text) is kept apart as quoted facts, so that a channel can
show it without interpreting it. Times are in the channel's own zone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo, available_timezones

from lighthouse.channels.phrases import ENGLISH, SPANISH, Phrases
from lighthouse.errors import UsageError
from lighthouse.model import AlertType, Channel, Delivery, Severity, Verdict, from_slot

#: Every language that `alert_channels.metadata.language` may name.
LANGUAGES: Mapping[str, Phrases] = {"en": ENGLISH, "es": SPANISH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of detail."""

    label: str
    value: str
    quoted: bool = False  #: may hold what the target sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An alert in words, the same for every type of channel."""

    kind: str  #: the alert type, or "test"
    key: str  #: the same for every try: receivers know repetitions by it
    event_id: UUID
    at: datetime  #: of the check that made the event
    severity: Severity
    subscription_id: UUID
    subscription_name: str
    title: str
    message: str
    facts: tuple[Fact, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)


def check_timezone(name: str) -> None:
    """Refuse what is no name of a time zone. Raises UsageError."""
    if name not in available_timezones():
        raise UsageError(f"timezone: {name[:40]!r} is no IANA time zone, such as Europe/Madrid")


def compose(delivery: Delivery, language: str, timezone: str = "UTC") -> Message:
    """The message of a delivery; an unknown language is English, an unknown time zone UTC."""
    zone = _zone(timezone)
    phrases = LANGUAGES.get(language, ENGLISH)
    name = delivery.subscription_name or str(delivery.context.get("name") or "")
    title, message = delivery.title, delivery.message
    facts: tuple[Fact, ...] = ()
    if delivery.alert_type is AlertType.DOWNTIME:
        title, message = phrases.down_title.format(name=name), _down(delivery, phrases, zone)
        facts = _down_facts(delivery, phrases)
    elif delivery.alert_type is AlertType.RECOVERY:
        title, message = phrases.up_title.format(name=name), _up(delivery, phrases, zone)
        facts = _measures(delivery, phrases)
    elif (lost := delivery.context.get("lost_channel")) is not None:
        title = phrases.lost_title.format(name=name, channel=lost)
        message = phrases.lost
        facts = (Fact(label=phrases.detail, value=delivery.message, quoted=True),)
    return Message(
        kind=delivery.alert_type.value,
        key=f"{delivery.event_id}.{delivery.channel_id}",
        event_id=delivery.event_id,
        at=from_slot(delivery.slot),
        severity=delivery.severity,
        subscription_id=delivery.subscription_id,
        subscription_name=name,
        title=title,
        message=message,
        facts=facts,
        context=delivery.context,
    )


def compose_test(channel: Channel, now: datetime) -> Message:
    """A message that only shows that a channel works."""
    phrases = LANGUAGES.get(channel.language, ENGLISH)
    event_id = uuid4()
    return Message(
        kind="test",
        key=f"{event_id}.{channel.id}",
        event_id=event_id,
        at=now,
        severity=Severity.INFO,
        subscription_id=channel.subscription_id,
        subscription_name="",
        title=phrases.test_title,
        message=phrases.test_message,
    )


def _down(delivery: Delivery, phrases: Phrases, zone: tzinfo) -> str:
    text = phrases.down.format(at=moment(from_slot(delivery.slot), zone))
    lasted = _lasted(delivery, Verdict.UP)
    return text if lasted is None else f"{text} {phrases.was_up.format(lasted=lasted)}"


def _up(delivery: Delivery, phrases: Phrases, zone: tzinfo) -> str:
    text = phrases.up.format(at=moment(from_slot(delivery.slot), zone))
    lasted = _lasted(delivery, Verdict.DOWN)
    return text if lasted is None else f"{text} {phrases.was_down.format(lasted=lasted)}"


def _lasted(delivery: Delivery, verdict: Verdict) -> str | None:
    """How long the verdict before this one stood, where that is known."""
    if delivery.context.get("previous") != verdict.value:
        return None
    since = _read_moment(delivery.context.get("previous_since"))
    return None if since is None else duration(from_slot(delivery.slot) - since)


def _down_facts(delivery: Delivery, phrases: Phrases) -> tuple[Fact, ...]:
    code = delivery.context.get("reason")
    facts = []
    if code:
        facts.append(Fact(label=phrases.reason, value=phrases.reasons.get(str(code), str(code))))
    if delivery.message:
        facts.append(Fact(label=phrases.detail, value=delivery.message, quoted=True))
    return (*facts, *_measures(delivery, phrases))


def _measures(delivery: Delivery, phrases: Phrases) -> tuple[Fact, ...]:
    facts = []
    status, latency = delivery.context.get("http_status"), delivery.context.get("latency_ms")
    if isinstance(status, int):
        facts.append(Fact(label=phrases.http_status, value=str(status)))
    if isinstance(latency, int | float):
        facts.append(Fact(label=phrases.latency, value=f"{latency:.0f} ms"))
    return tuple(facts)


def _read_moment(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


@lru_cache(maxsize=1000)  # to list all zones takes a tenth of a second
def _zone(name: str) -> tzinfo:
    return ZoneInfo(name) if name in available_timezones() else UTC


def moment(at: datetime, zone: tzinfo = UTC) -> str:
    """A time for people, with the name of its zone or its distance from UTC."""
    there = at.astimezone(zone)
    name = there.tzname() or ""
    return f"{there:%Y-%m-%d %H:%M:%S} {f'UTC{name}' if name[:1] in '+-' else name}"


def duration(span: timedelta) -> str:
    """A length of time in its two greatest units: "3 d 4 h", "12 min 5 s"."""
    seconds = max(int(span.total_seconds()), 0)
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    for index, (name, size) in enumerate(units):
        if seconds >= size and size > 1:
            lesser, lesser_size = units[index + 1]
            rest = seconds % size // lesser_size
            return f"{seconds // size} {name}" + (f" {rest} {lesser}" if rest else "")
    return f"{seconds} s"
