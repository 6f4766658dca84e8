"""What an alert says, in English and Spanish, before a channel gives it its own form.

What a target had a hand in (its error text) is kept apart as quoted facts, so that a channel can
show it without interpreting it. Times are in the channel's own zone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo, available_timezones

from lighthouse.channels.phrases import ENGLISH, SPANISH, Phrases
from lighthouse.channels.wording import Fact, duration, moment, read_moment, words
from lighthouse.errors import UsageError
from lighthouse.model import Channel, Delivery, Severity, from_slot

__all__ = ["LANGUAGES", "Fact", "Message", "check_timezone", "compose", "compose_test"]
__all__ += ["duration", "moment"]

#: Every language that `alert_channels.metadata.language` may name.
LANGUAGES: Mapping[str, Phrases] = {"en": ENGLISH, "es": SPANISH}


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
    incident_id: UUID | None = None  #: the same from an incident's beginning to its end

    @property
    def reference(self) -> UUID:
        """What a person may ask for: `lighthouse incidents show` takes an incident's."""
        return self.incident_id or self.event_id


def check_timezone(name: str) -> None:
    """Refuse what is no name of a time zone. Raises UsageError."""
    if name not in available_timezones():
        raise UsageError(f"timezone: {name[:40]!r} is no IANA time zone, such as Europe/Madrid")


def compose(delivery: Delivery, language: str, timezone: str = "UTC") -> Message:
    """The message of a delivery; an unknown language is English, an unknown time zone UTC."""
    zone = _zone(timezone)
    phrases = LANGUAGES.get(language, ENGLISH)
    name = delivery.subscription_name or str(delivery.context.get("name") or "")
    title, message, facts = words(delivery, name, phrases, zone)
    until = read_moment(delivery.context.get("limit_until"))
    if until is not None:
        message = f"{message} {phrases.limit.format(until=moment(until, zone))}"
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
        incident_id=delivery.incident_id,
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


@lru_cache(maxsize=1000)  # to list all zones takes a tenth of a second
def _zone(name: str) -> tzinfo:
    return ZoneInfo(name) if name in available_timezones() else UTC
