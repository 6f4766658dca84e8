"""The gate: what is told, held or let go, by what is true when an alert is due."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lighthouse.model import Circumstances, DeliveryState
from lighthouse.telling import (
    ESCALATION,
    FLAPPING,
    LIMIT,
    LOOK_AGAIN_S,
    MAINTENANCE,
    PARENT,
    PARENT_STEP_S,
    PAUSED,
    Hold,
    LetGo,
    Tell,
    decide,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SUPPRESSED, MERGED = DeliveryState.SUPPRESSED, DeliveryState.MERGED


def found(**facts: Any) -> Circumstances:
    """A downtime's news, written just now."""
    return Circumstances(
        **{"now": NOW, "created_at": NOW, "begins": True, "holdable": True, **facts}
    )


def ended(**facts: Any) -> DeliveryState:
    decided = decide(found(**facts))
    assert isinstance(decided, LetGo)
    return decided.state


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def later(**span: float) -> datetime:
    return NOW + timedelta(**span)


def test_news_is_told() -> None:
    assert decide(found()) == Tell()


def test_what_ended_while_it_was_tried_is_merged_into_its_end() -> None:
    assert ended(closed=True) is MERGED


@pytest.mark.parametrize("held", [MAINTENANCE, PARENT, ESCALATION, FLAPPING])
def test_what_ended_while_it_was_held_is_silent(held: str) -> None:
    assert ended(closed=True, held=held) is SUPPRESSED


@pytest.mark.parametrize("held", [MAINTENANCE, PARENT, ESCALATION, FLAPPING])
def test_what_a_courier_died_with_may_have_been_told_so_its_end_is_told(held: str) -> None:
    """Fails when only `held` is asked: a DOWN that arrived would never be followed by an UP."""
    assert ended(closed=True, held=held, uncertain=True) is MERGED


def test_a_reminder_of_what_has_ended_is_silent() -> None:
    assert ended(closed=True, reminder=True) is SUPPRESSED


def test_an_end_is_told_although_the_incident_is_closed() -> None:
    assert decide(found(begins=False, holdable=False, closed=True)) == Tell()


def test_maintenance_holds_until_its_end_and_looks_at_it_again_meanwhile() -> None:
    assert decide(found(maintenance_until=later(seconds=40))) == Hold(why=MAINTENANCE, seconds=40)
    far = decide(found(maintenance_until=later(days=3)))
    assert far == Hold(why=MAINTENANCE, seconds=10 * LOOK_AGAIN_S)


def test_neither_maintenance_nor_a_parent_holds_an_end() -> None:
    end = found(
        begins=False, holdable=False, maintenance_until=later(hours=1), down_parent="router"
    )
    assert decide(end) == Tell()


def test_a_parent_that_is_down_holds_its_child() -> None:
    assert decide(found(down_parent="router")) == Hold(why=PARENT, seconds=LOOK_AGAIN_S)


def test_a_parent_that_was_not_judged_since_is_waited_for_but_not_for_ever() -> None:
    waiting = Hold(why=PARENT, seconds=PARENT_STEP_S)
    assert decide(found(unsure_parent=True)) == waiting
    held = {"unsure_parent": True, "held": PARENT}
    assert decide(found(**held)) == waiting


def test_what_maintenance_held_is_told_at_once_when_it_ends() -> None:
    assert decide(found(held=MAINTENANCE)) == Tell()


def test_nobody_is_told_of_what_was_held_for_a_week() -> None:
    old = {"maintenance_until": later(hours=1), "held": MAINTENANCE}
    assert isinstance(decide(found(**old, created_at=ago(days=7))), Hold)
    assert ended(**old, created_at=ago(days=7, seconds=1)) is SUPPRESSED


@pytest.mark.parametrize("as_", [{"held": ESCALATION}, {"reminder": True}, {"escalates": True}])
def test_escalations_and_reminders_end_with_an_acknowledgement_or_a_pause(
    as_: dict[str, Any],
) -> None:
    assert decide(found(**as_)) == Tell()
    assert ended(**as_, acknowledged=True) is SUPPRESSED
    assert ended(**as_, watched=False) is SUPPRESSED


def test_an_escalation_that_maintenance_held_is_not_told_once_it_is_acknowledged() -> None:
    """Fails when the escalation is known by `held` alone, which says maintenance by then."""
    assert ended(escalates=True, held=MAINTENANCE, acknowledged=True) is SUPPRESSED


def test_who_was_told_by_escalation_hears_the_end_of_what_was_acknowledged_since() -> None:
    assert decide(found(begins=False, escalates=True, closed=True, acknowledged=True)) == Tell()


def test_the_first_news_is_told_although_it_is_acknowledged() -> None:
    assert decide(found(acknowledged=True)) == Tell()


def test_only_reminders_wait_while_alerts_are_withheld() -> None:
    assert decide(found(limited=True)) == Tell()
    held = decide(found(limited=True, reminder=True))
    assert isinstance(held, Hold)
    assert held.why == LIMIT


def test_a_flapping_target_is_told_of_when_it_has_held_still() -> None:
    wait = found(still_until=later(seconds=60))
    assert decide(wait) == Hold(why=FLAPPING, seconds=60)
    assert decide(found(still_until=ago(seconds=1), held=FLAPPING)) == Tell()
    assert ended(still_until=later(seconds=60), changed_since=True) is SUPPRESSED
    assert ended(still_until=ago(seconds=1), changed_since=True) is SUPPRESSED


def test_a_change_of_what_does_not_flap_is_told_although_it_changed_again() -> None:
    assert decide(found(changed_since=True)) == Tell()


booleans = st.booleans()
moments = st.one_of(st.none(), st.integers(-1_000_000, 1_000_000).map(lambda s: later(seconds=s)))


@given(
    st.builds(
        Circumstances,
        now=st.just(NOW),
        created_at=st.integers(0, 2_000_000).map(lambda s: ago(seconds=s)),
        held=st.sampled_from([None, ESCALATION, MAINTENANCE, PARENT, FLAPPING, LIMIT]),
        holdable=booleans,
        begins=booleans,
        reminder=booleans,
        escalates=booleans,
        uncertain=booleans,
        closed=booleans,
        acknowledged=booleans,
        watched=booleans,
        maintenance_until=moments,
        down_parent=st.sampled_from([None, "router"]),
        unsure_parent=booleans,
        changed_since=booleans,
        still_until=moments,
        limited=booleans,
    )
)
def test_whatever_is_true_the_answer_brings_it_nearer_to_an_end(any_: Circumstances) -> None:
    match decide(any_):
        case Hold(seconds=seconds):
            assert 0.1 <= seconds <= 10 * LOOK_AGAIN_S
            # What has ended is not held any longer, nor what nobody is to hear of.
            assert not (any_.begins and any_.closed and any_.still_until is None)
        case LetGo(state=state, reason=reason):
            assert state in (SUPPRESSED, MERGED)
            assert reason
        case Tell():
            assert not (any_.begins and any_.closed)
            assert not (any_.begins and any_.escalates and any_.acknowledged)
            assert not (any_.holdable and any_.down_parent)


@pytest.mark.parametrize("kind", ["reminder", "escalates"])
def test_what_comes_due_while_its_subscription_is_paused_waits_for_its_end(kind: str) -> None:
    waiting = {kind: True, "paused": True}
    assert decide(found(**waiting)) == Hold(why=PAUSED, seconds=LOOK_AGAIN_S)
    assert decide(found(**waiting, watched=False)) == LetGo(
        state=SUPPRESSED, reason="it is no longer watched"
    )
    assert ended(**waiting, created_at=NOW - timedelta(days=8)) is SUPPRESSED
