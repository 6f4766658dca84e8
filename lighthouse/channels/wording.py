"""The words of each kind of alert: title, message and facts, from what its event holds.

Everything comes from the stored event and its times, so every try says the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from lighthouse.channels.phrases import Phrases
from lighthouse.model import AlertType, Delivery, Verdict, from_slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of detail."""

    label: str
    value: str
    quoted: bool = False  #: may hold what the target sent


#: Title, message and facts.
Words = tuple[str, str, tuple[Fact, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the functions below speak of."""

    delivery: Delivery
    name: str
    phrases: Phrases
    zone: tzinfo

    @property
    def context(self) -> Mapping[str, Any]:
        return self.delivery.context

    @property
    def at(self) -> str:
        """When it happened; of a reminder, when it is due."""
        return self.moment(from_slot(self.delivery.slot))

    def moment(self, at: datetime) -> str:
        return moment(at, self.zone)

    def number(self, value: object) -> str:
        """A number as the language writes it, without decimals that say nothing."""
        if not isinstance(value, int | float):
            return "?"
        return f"{round(value, 1):.12g}".replace(".", self.phrases.decimal)

    def since(self) -> tuple[str, str] | None:
        """Of an incident: since when it goes on, and for how long."""
        began = self.delivery.opened_at or read_moment(self.context.get("since"))
        if began is None:
            return None
        return self.moment(began), duration(from_slot(self.delivery.slot) - began)


def words(delivery: Delivery, name: str, phrases: Phrases, zone: tzinfo) -> Words:
    """Title, message and facts; of an unknown kind, what stands in its row."""
    told = _Told(delivery=delivery, name=name, phrases=phrases, zone=zone)
    about = delivery.context.get("about", AlertType.DOWNTIME.value)
    tell = _WORDS.get((delivery.alert_type, delivery.alert_type.value))
    if delivery.alert_type is AlertType.RECOVERY:
        tell = _WORDS.get((AlertType.RECOVERY, str(about)))
    if tell is None:
        return delivery.title, delivery.message, ()
    title, message, facts = tell(told)
    target = delivery.context.get("target")
    if target:
        facts = (Fact(label=phrases.target, value=str(target), quoted=True), *facts)
    if delivery.context.get("flapping") and delivery.alert_type is not AlertType.FLAPPING:
        message = f"{message} {phrases.settled}"
    return title, message, facts


def _down(told: _Told) -> Words:
    phrases, delivery = told.phrases, told.delivery
    if "reminder" in told.context:
        since = told.since()
        text = "" if since is None else phrases.still_down.format(since=since[0], lasted=since[1])
        return phrases.still_down_title.format(name=told.name), text, _down_facts(told)
    text = phrases.down.format(at=told.at)
    lasted = _lasted(delivery, Verdict.UP)
    if lasted is not None:
        text = f"{text} {phrases.was_up.format(lasted=lasted)}"
    return phrases.down_title.format(name=told.name), text, _down_facts(told)


def _up(told: _Told) -> Words:
    phrases, delivery = told.phrases, told.delivery
    since = told.since()
    lasted = _lasted(delivery, Verdict.DOWN)
    if delivery.whole and delivery.opened_at is not None and since is not None:
        title = phrases.was_down_title.format(name=told.name, lasted=since[1])
        return title, phrases.was_down_from.format(since=since[0], at=told.at), _measures(told)
    text = phrases.up.format(at=told.at)
    if lasted is not None:
        text = f"{text} {phrases.was_down.format(lasted=lasted)}"
    return phrases.up_title.format(name=told.name), text, _measures(told)


def _slow(told: _Told) -> Words:
    phrases = told.phrases
    text = phrases.slow.format(**_latency(told))
    return phrases.slow_title.format(name=told.name), _going_on(told, text), ()


def _fast(told: _Told) -> Words:
    phrases = told.phrases
    return phrases.fast_title.format(name=told.name), phrases.fast.format(**_latency(told)), ()


def _latency(told: _Told) -> dict[str, object]:
    return {key: told.number(told.context.get(key)) for key in ("checks", "median_ms", "warn_ms")}


def _low(told: _Told) -> Words:
    phrases, context = told.phrases, told.context
    title = phrases.low_title
    if context.get("level") == "critical":
        title = phrases.critical_title
    elif context.get("previous_level") == "critical":
        title = phrases.less_critical_title
    facts: tuple[Fact, ...] = ()
    if told.delivery.message:
        facts = (Fact(label=phrases.detail, value=told.delivery.message, quoted=True),)
    return title.format(name=told.name), _going_on(told, phrases.low.format(at=told.at)), facts


def _enough(told: _Told) -> Words:
    phrases = told.phrases
    return phrases.enough_title.format(name=told.name), phrases.enough.format(at=told.at), ()


def _going_on(told: _Told, text: str) -> str:
    """A reminder says since when it has been so."""
    since = told.since()
    if "reminder" not in told.context or since is None:
        return text
    return told.phrases.still_on.format(since=since[0], lasted=since[1])


def _certificate(told: _Told) -> Words:
    phrases, context = told.phrases, told.context
    left = context.get("days_left")
    shown = told.number(left)
    days = phrases.day if shown == "1" else phrases.days
    title = phrases.certificate_title.format(name=told.name, left=f"{shown} {days}")
    if isinstance(left, int | float) and left <= 0:
        title = phrases.certificate_expired_title.format(name=told.name)
    ends = read_moment(context.get("expires_at"))
    text = "" if ends is None else phrases.certificate.format(expires=told.moment(ends))
    labels = {
        "subject": phrases.subject,
        "issuer": phrases.issuer,
        "fingerprint": phrases.fingerprint,
    }
    facts = tuple(
        Fact(label=label, value=str(context[key]), quoted=True)
        for key, label in labels.items()
        if context.get(key)
    )
    return title, text, facts


def _flapping(told: _Told) -> Words:
    phrases, context = told.phrases, told.context
    text = phrases.flapping.format(
        changes=context.get("changes", "?"),
        within=duration(timedelta(seconds=float(context.get("within_s", 0)))),
        calm=duration(timedelta(seconds=float(context.get("calm_s", 0)))),
    )
    now = phrases.flapping_now.get(str(context.get("verdict")))
    if now is not None:
        text = f"{now} {text}"
    return phrases.flapping_title.format(name=told.name), text, ()


def _coverage(told: _Told) -> Words:
    phrases, context = told.phrases, told.context
    good = bool(context.get("covered"))
    title = phrases.covered_title if good else phrases.coverage_title
    moments = {
        key: told.moment(found) if (found := read_moment(context.get(key))) else "?"
        for key in ("since", "until")
    }
    text = (phrases.covered if good else phrases.coverage).format(
        judged=context.get("judged", "?"),
        due=context.get("due", "?"),
        coverage=_percent(context.get("coverage_ratio"), phrases),
        minimum=_percent(context.get("min_coverage"), phrases),
        **moments,
    )
    return title.format(name=told.name), text, ()


def _percent(ratio: object, phrases: Phrases) -> str:
    if not isinstance(ratio, int | float):
        return "?"
    return f"{ratio * 100:.4g} %".replace(".", phrases.decimal)


def _summary(told: _Told) -> Words:
    phrases, context = told.phrases, told.context
    since = read_moment(context.get("since"))
    title = phrases.summary_title.format(
        count=context.get("count", "?"), since="?" if since is None else told.moment(since)
    )
    facts = [
        Fact(label=phrases.kinds.get(str(kind), str(kind)), value=str(count))
        for kind, count in dict(context.get("kinds", {})).items()
    ]
    down = [str(name) for name in context.get("still_down", ())]
    if down:
        more = int(context.get("still_down_count", len(down))) - len(down)
        names = ", ".join(down)
        if more > 0:
            names = f"{names}, {phrases.summary_more.format(count=more)}"
        facts.append(Fact(label=phrases.kinds["downtime"], value=names, quoted=True))
    return title, phrases.summary, tuple(facts)


def _lost_or_own(told: _Told) -> Words:
    phrases, delivery = told.phrases, told.delivery
    lost = told.context.get("lost_channel")
    if lost is None:
        return delivery.title, delivery.message, ()
    facts = (Fact(label=phrases.detail, value=delivery.message, quoted=True),)
    return phrases.lost_title.format(name=told.name, channel=lost), phrases.lost, facts


_WORDS: Mapping[tuple[AlertType, str], Callable[[_Told], Words]] = {
    (AlertType.DOWNTIME, "downtime"): _down,
    (AlertType.RECOVERY, "downtime"): _up,
    (AlertType.HIGH_LATENCY, "high_latency"): _slow,
    (AlertType.RECOVERY, "high_latency"): _fast,
    (AlertType.LOW_BALANCE, "low_balance"): _low,
    (AlertType.RECOVERY, "low_balance"): _enough,
    (AlertType.CERTIFICATE_EXPIRY, "certificate_expiry"): _certificate,
    (AlertType.FLAPPING, "flapping"): _flapping,
    (AlertType.COVERAGE, "coverage"): _coverage,
    (AlertType.SUMMARY, "summary"): _summary,
    (AlertType.OPERATOR, "operator"): _lost_or_own,
}


def _lasted(delivery: Delivery, verdict: Verdict) -> str | None:
    """How long the verdict before this one stood, where that is known."""
    if delivery.context.get("previous") != verdict.value:
        return None
    since = read_moment(delivery.context.get("previous_since"))
    return None if since is None else duration(from_slot(delivery.slot) - since)


def _down_facts(told: _Told) -> tuple[Fact, ...]:
    phrases, delivery = told.phrases, told.delivery
    code = told.context.get("reason")
    facts = []
    if code:
        facts.append(Fact(label=phrases.reason, value=phrases.reasons.get(str(code), str(code))))
    if delivery.message:
        facts.append(Fact(label=phrases.detail, value=delivery.message, quoted=True))
    return (*facts, *_measures(told))


def _measures(told: _Told) -> tuple[Fact, ...]:
    phrases = told.phrases
    facts = []
    status, latency = told.context.get("http_status"), told.context.get("latency_ms")
    if isinstance(status, int):
        facts.append(Fact(label=phrases.http_status, value=str(status)))
    if isinstance(latency, int | float):
        facts.append(Fact(label=phrases.latency, value=f"{latency:.0f} ms"))
    return tuple(facts)


def read_moment(value: object) -> datetime | None:
    """A time that stands in an event, or None."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


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
