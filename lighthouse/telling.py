"""Whether an alert that is due may be told now: the one place where alerts are held or let go.

Every alert of the outbox passes here right before it is sent, with what is true then. What is held
comes back; what is let go ends with its reason.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from lighthouse.model import Circumstances, DeliveryState

#: What is held is looked at again after so long: what ends a hold is seen by then.
LOOK_AGAIN_S = 30.0
#: A check that decides between parent and child is waited for in steps of so long.
PARENT_STEP_S = 2.0
#: Nobody is helped by news that was held for longer.
LONGEST_HOLD = timedelta(days=7)

#: Why a row waits, as `alert_history.held`.
ESCALATION, MAINTENANCE, PARENT, FLAPPING = "escalation", "maintenance", "parent", "flapping"
LIMIT, PAUSED = "limit", "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Send it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Look again later."""

    why: str  #: one of the constants above
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LetGo:
    """It will not be told."""

    state: DeliveryState
    reason: str


def decide(found: Circumstances) -> Tell | Hold | LetGo:
    """What is to be done with an alert that is due."""
    if found.still_until is not None:
        if found.changed_since:
            return LetGo(state=DeliveryState.SUPPRESSED, reason="flapping: it changed again")
        if found.now < found.still_until:
            return Hold(why=FLAPPING, seconds=_until(found.still_until, found.now))
    if found.begins and found.closed:
        if (found.held is not None or found.reminder) and not found.uncertain:
            why = f"it ended before it was told ({found.held or 'reminder'})"
            return LetGo(state=DeliveryState.SUPPRESSED, reason=why)
        return LetGo(state=DeliveryState.MERGED, reason="it ended before it was told")
    if (found.begins and found.escalates) or found.held == ESCALATION or found.reminder:
        if found.acknowledged:
            return LetGo(state=DeliveryState.SUPPRESSED, reason="it was acknowledged")
        if not found.watched:
            return LetGo(state=DeliveryState.SUPPRESSED, reason="it is no longer watched")
        if found.paused:
            return _held_so_far(found, Hold(why=PAUSED, seconds=LOOK_AGAIN_S))
    if found.reminder and found.limited:
        return Hold(why=LIMIT, seconds=LOOK_AGAIN_S * 10)
    if not found.holdable:
        return Tell()
    hold = _hold(found)
    return Tell() if hold is None else _held_so_far(found, hold)


def _held_so_far(found: Circumstances, hold: Hold) -> Hold | LetGo:
    if found.now - found.created_at > LONGEST_HOLD:
        return LetGo(state=DeliveryState.SUPPRESSED, reason=f"held for 7 days ({hold.why})")
    return hold


def _hold(found: Circumstances) -> Hold | None:
    if found.maintenance_until is not None:
        return Hold(why=MAINTENANCE, seconds=_until(found.maintenance_until, found.now))
    if found.down_parent is not None:
        return Hold(why=PARENT, seconds=LOOK_AGAIN_S)
    if found.unsure_parent:
        return Hold(why=PARENT, seconds=PARENT_STEP_S)
    return None


def _until(end: datetime, now: datetime) -> float:
    """Seconds until then; an end that is moved is noticed all the same."""
    return min(max((end - now).total_seconds(), 0.1), LOOK_AGAIN_S * 10)
