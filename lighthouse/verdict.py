"""From judged results to what is believed of a target, and the events that a change makes.

Decided from the latest rows in slot order, never from counters, so late, doubled and reordered
results all lead to the same belief.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from statistics import median

from lighthouse.alerting import Alerting, Flapping
from lighthouse.model import (
    AlertType,
    Bounds,
    Certificate,
    CheckStatus,
    MonitorType,
    Severity,
    Verdict,
    from_slot,
    to_slot,
)

#: Levels of a balance.
ENOUGH, LOW, CRITICAL = 0, 1, 2

#: Slowness ends below this share of its threshold, so that a median at the threshold tells once.
SLOW_ENDS = 0.9
#: The shortest time in which changes make flapping, in intervals: fewer hold too few checks.
FLAPPING_INTERVALS = 12
#: Days to its end at which a certificate is critical, not only to be warned of.
CERTIFICATE_CRITICAL_DAYS = 1
#: Certificates that are remembered a subscription: a fleet of servers may show several in turn.
CERTIFICATES_KEPT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A judged row: one slot and what was found in it."""

    slot: int  #: ms since the epoch
    status: CheckStatus
    latency_ms: float | None = None
    value: int | None = None  #: a balance in the smallest unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was told of one certificate."""

    days: int  #: the smallest threshold that was told
    expires_at: int  #: ms since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """The state row of a subscription."""

    verdict: Verdict
    since: int | None  #: slot of the transition
    slow: bool = False
    balance: int = ENOUGH
    certificates: Mapping[str, Told] = field(default_factory=dict)  #: by fingerprint
    flapping_since: int | None = None  #: slot; in force while changes go on


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change of the verdict, and the alert that tells of it (None: nobody needs to hear)."""

    belief: Belief
    slot: int  #: the slot whose result tipped it
    first_slot: int  #: the first slot of the run that did
    alert: AlertType | None
    severity: Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that somebody is to hear of.

    `about` is what it is of; `opens` or `closes` an incident of that kind, or neither. A recovery
    is about what has ended.
    """

    alert: AlertType
    about: AlertType
    slot: int
    first_slot: int
    severity: Severity
    opens: bool = False
    closes: bool = False
    flapping: bool = False  #: it is one of many changes, and waits until the target holds still
    facts: Mapping[str, object] = field(default_factory=dict)  #: JSON values for templates


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a flush knows of a subscription beside its rows: of its newest judged result."""

    slot: int  #: of that result
    bounds: Bounds | None = None
    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is believed now, and what is to be told."""

    belief: Belief
    transition: Transition | None
    events: tuple[Event, ...]


def is_steady(verdict: Verdict, status: CheckStatus) -> bool:
    """Whether a result cannot change the verdict, so that no state needs to be locked."""
    if not status.judged:
        return True
    return verdict is (Verdict.DOWN if status.down else Verdict.UP)


def decide(
    belief: Belief, latest: Sequence[Judged], *, failures_to_down: int = 1, successes_to_up: int = 1
) -> Transition | None:
    """The change of verdict that the latest judged rows (newest first) demand, if any.

    Rows not newer than the last transition change nothing: a late result flips nothing newer.
    """
    fresh = [row for row in latest if belief.since is None or row.slot > belief.since]
    if not fresh:
        return None
    newest = fresh[0]
    verdict = Verdict.DOWN if newest.status.down else Verdict.UP
    if verdict is belief.verdict:
        return None
    # Nothing was told of a target that has never been judged, so its first success says enough.
    up = successes_to_up if belief.verdict is Verdict.DOWN else 1
    needed = failures_to_down if verdict is Verdict.DOWN else up
    run = fresh[:needed]
    if len(run) < needed or any(row.status.down != newest.status.down for row in run):
        return None
    alert = None
    if verdict is Verdict.DOWN:
        alert = AlertType.DOWNTIME
    elif belief.verdict is Verdict.DOWN:
        alert = AlertType.RECOVERY
    return Transition(
        belief=replace(belief, verdict=verdict, since=newest.slot),
        slot=newest.slot,
        first_slot=run[-1].slot,
        alert=alert,
        severity=Severity.INFO if alert is None else Severity.CRITICAL,
    )


def judge(
    belief: Belief,
    latest: Sequence[Judged],
    found: Found,
    *,
    alerting: Alerting,
    monitor: MonitorType,
    interval_ms: int,
    changes: Sequence[int] = (),
) -> Judgement:
    """Everything that the latest judged rows (newest first) change.

    `changes` are the slots at which an earlier incident of downtime began or ended, in any order;
    they matter only where the verdict changes.
    """
    events: list[Event] = []
    transition = decide(
        belief,
        latest,
        failures_to_down=alerting.failures_to_down,
        successes_to_up=alerting.successes_to_up,
    )
    now = belief if transition is None else transition.belief
    # A balance is down when it is critical, which is told as such.
    if transition is not None and transition.alert is not None and monitor != MonitorType.BALANCE:
        flapping, begins = _flapping(
            belief.flapping_since, transition.slot, changes, alerting.flapping, interval_ms
        )
        now = replace(now, flapping_since=flapping)
        verdict_is_down = transition.alert is AlertType.DOWNTIME
        events.append(
            Event(
                alert=transition.alert,
                about=AlertType.DOWNTIME,
                slot=transition.slot,
                first_slot=transition.first_slot,
                severity=transition.severity,
                opens=verdict_is_down,
                closes=not verdict_is_down,
                # The end of what was told before it began to flap is told at once.
                flapping=flapping is not None
                and (verdict_is_down or belief.flapping_since is not None),
            )
        )
        if begins and alerting.flapping is not None:
            events.append(
                Event(
                    alert=AlertType.FLAPPING,
                    about=AlertType.FLAPPING,
                    slot=transition.slot,
                    first_slot=transition.slot,
                    severity=Severity.WARNING,
                    facts={
                        "changes": alerting.flapping.changes,
                        "within_s": span_ms(alerting.flapping, interval_ms) // 1000,
                        "calm_s": calm_ms(alerting.flapping, interval_ms) // 1000,
                    },
                )
            )
    # What comes late changes nothing that a newer row has decided: the next newest one judges anew.
    if latest and latest[0].slot <= found.slot:
        now, more = _judge_latency(now, latest, alerting)
        events += more
        now, more = _judge_balance(now, latest[0], found.bounds)
        events += more
        now, more = _judge_certificate(now, found.certificate, found.slot, alerting)
        events += more
    return Judgement(belief=now, transition=transition, events=tuple(events))


def span_ms(flapping: Flapping, interval_ms: int) -> int:
    """The time within which changes count together, in ms."""
    return max(flapping.within_s * 1000, FLAPPING_INTERVALS * interval_ms)


def calm_ms(flapping: Flapping, interval_ms: int) -> int:
    """How long a target must hold still until its changes are told again, in ms."""
    return span_ms(flapping, interval_ms) // 2


def _flapping(
    since: int | None,
    slot: int,
    changes: Sequence[int],
    flapping: Flapping | None,
    interval_ms: int,
) -> tuple[int | None, bool]:
    """Since when the target flaps, a change at `slot` included, and whether it begins to."""
    if flapping is None:
        return None, False
    calm = calm_ms(flapping, interval_ms)
    before = sorted((change for change in changes if change < slot), reverse=True)
    if since is not None:
        still = bool(before) and slot - before[0] < calm
        return (since if still else None), False
    # Only a run of changes that was never calm: what came before a calm is over.
    run, newer = 1, slot
    for change in before:
        if newer - change >= calm or slot - change > span_ms(flapping, interval_ms):
            break
        run, newer = run + 1, change
    return (slot, True) if run >= flapping.changes else (None, False)


def _judge_latency(
    belief: Belief, latest: Sequence[Judged], alerting: Alerting
) -> tuple[Belief, list[Event]]:
    policy = alerting.latency
    if policy is None or latest[0].status.down:
        return belief, []
    rows = [row for row in latest if row.latency_ms is not None and not row.status.down]
    rows = rows[: policy.checks]
    middle = median(row.latency_ms or 0.0 for row in rows) if rows else 0.0
    # A change comes with an answer of its own kind, so that a recorder may leave others alone.
    slow_answer = (latest[0].latency_ms or 0.0) >= policy.warn_ms
    if slow_answer == belief.slow:
        return belief, []
    if belief.slow:
        slow = middle >= policy.warn_ms * SLOW_ENDS
    else:
        slow = len(rows) == policy.checks and middle >= policy.warn_ms
    if slow == belief.slow:
        return belief, []
    event = Event(
        alert=AlertType.HIGH_LATENCY if slow else AlertType.RECOVERY,
        about=AlertType.HIGH_LATENCY,
        slot=latest[0].slot,
        first_slot=rows[-1].slot if slow else latest[0].slot,
        severity=Severity.WARNING,
        opens=slow,
        closes=not slow,
        facts={"median_ms": round(middle, 1), "warn_ms": policy.warn_ms, "checks": len(rows)},
    )
    return replace(belief, slow=slow), [event]


def level(believed: int, value: int, bounds: Bounds) -> int:
    """Whether a balance is enough, low or critical; a level is left above its own margin only."""
    if bounds.critical_at is not None:
        ends = bounds.critical_clear_at if believed == CRITICAL else None
        if value < max(bounds.critical_at, ends or 0):
            return CRITICAL
    if bounds.alert_at is not None:
        ends = bounds.alert_clear_at if believed >= LOW else None
        if value < max(bounds.alert_at, ends or 0):
            return LOW
    return ENOUGH


def _judge_balance(
    belief: Belief, newest: Judged, bounds: Bounds | None
) -> tuple[Belief, list[Event]]:
    if bounds is None or newest.value is None:
        return belief, []
    now = level(belief.balance, newest.value, bounds)
    if now == belief.balance:
        return belief, []
    event = Event(
        alert=AlertType.LOW_BALANCE if now else AlertType.RECOVERY,
        about=AlertType.LOW_BALANCE,
        slot=newest.slot,
        first_slot=newest.slot,
        severity=Severity.CRITICAL if CRITICAL in (now, belief.balance) else Severity.WARNING,
        opens=belief.balance == ENOUGH,
        closes=now == ENOUGH,
        facts={
            "value": str(newest.value),
            "level": ("enough", "low", "critical")[now],
            "previous_level": ("enough", "low", "critical")[belief.balance],
        },
    )
    return replace(belief, balance=now), [event]


def threshold(days: Sequence[int], left: timedelta) -> int | None:
    """The smallest number of days before the end that has been reached, or None."""
    return min((day for day in days if left <= timedelta(days=day)), default=None)


def _judge_certificate(
    belief: Belief, certificate: Certificate | None, slot: int, alerting: Alerting
) -> tuple[Belief, list[Event]]:
    if certificate is None:
        return belief, []
    left = certificate.expires_at - from_slot(slot)
    reached = threshold(alerting.certificate_days, left)
    told = belief.certificates.get(certificate.fingerprint)
    if reached is None or (told is not None and told.days <= reached):
        return belief, []
    newest = {
        certificate.fingerprint: Told(days=reached, expires_at=to_slot(certificate.expires_at))
    }
    others = (item for item in belief.certificates.items() if item[0] not in newest)
    # The ones that end first are the first to be forgotten, but not while they are shown: a fleet
    # with more than are remembered would be told of at every check.
    known = sorted(others, key=lambda item: -item[1].expires_at)
    kept, forgotten = known[: CERTIFICATES_KEPT - 1], known[CERTIFICATES_KEPT - 1 :]
    if any(item[1].days <= reached and item[1].expires_at > slot for item in forgotten):
        return belief, []
    critical = reached <= CERTIFICATE_CRITICAL_DAYS
    event = Event(
        alert=AlertType.CERTIFICATE_EXPIRY,
        about=AlertType.CERTIFICATE_EXPIRY,
        slot=slot,
        first_slot=slot,
        severity=Severity.CRITICAL if critical else Severity.WARNING,
        facts={
            "threshold_days": reached,
            "days_left": round(left.total_seconds() / 86_400, 1),
            "expires_at": certificate.expires_at.isoformat(),
            "fingerprint": certificate.fingerprint,
            "subject": certificate.subject,
            "issuer": certificate.issuer,
        },
    )
    return replace(belief, certificates={**newest, **dict(kept)}), [event]
