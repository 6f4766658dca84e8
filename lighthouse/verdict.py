"""From judged results to what is believed of a target, and the events that a change makes.

Decided from the latest rows in slot order, never from counters, so late, doubled and reordered
results all lead to the same belief.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lighthouse.model import AlertType, CheckStatus, Severity, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A judged row: one slot and whether the target was up in it."""

    slot: int  #: ms since the epoch
    status: CheckStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """The state row of a subscription."""

    verdict: Verdict
    since: int | None  #: slot of the transition


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change of belief, and the alert that tells of it (None: nobody needs to hear)."""

    belief: Belief
    slot: int  #: the slot whose result tipped it
    alert: AlertType | None
    severity: Severity


#: Consecutive judged results that tip a verdict. A probe has already retried inside its slot.
FAILURES_TO_DOWN = 1
SUCCESSES_TO_UP = 1

#: How many of the latest judged rows `decide` wants to see.
ROWS_NEEDED = max(FAILURES_TO_DOWN, SUCCESSES_TO_UP)


def is_steady(verdict: Verdict, status: CheckStatus) -> bool:
    """Whether a result cannot change the verdict, so that no state needs to be locked."""
    if not status.judged:
        return True
    return verdict is (Verdict.DOWN if status.down else Verdict.UP)


def decide(belief: Belief, latest: Sequence[Judged]) -> Transition | None:
    """The transition that the latest judged rows (newest first) demand, if any.

    Rows not newer than the last transition change nothing: a late result flips nothing newer.
    """
    fresh = [row for row in latest if belief.since is None or row.slot > belief.since]
    if not fresh:
        return None
    newest = fresh[0]
    needed = FAILURES_TO_DOWN if newest.status.down else SUCCESSES_TO_UP
    run = fresh[:needed]
    if len(run) < needed or any(row.status.down != newest.status.down for row in run):
        return None
    verdict = Verdict.DOWN if newest.status.down else Verdict.UP
    if verdict is belief.verdict:
        return None
    alert, severity = None, Severity.INFO
    if verdict is Verdict.DOWN:
        alert, severity = AlertType.DOWNTIME, Severity.CRITICAL
    elif belief.verdict is Verdict.DOWN:
        alert, severity = AlertType.RECOVERY, Severity.CRITICAL
    return Transition(
        belief=Belief(verdict=verdict, since=newest.slot),
        slot=newest.slot,
        alert=alert,
        severity=severity,
    )
