"""Verdicts from rows: pure, so every order of arrival is a list."""

from hypothesis import given
from hypothesis import strategies as st

from lighthouse.alerting import DEFAULT
from lighthouse.model import AlertType, CheckStatus, Verdict
from lighthouse.verdict import Belief, Judged, decide, is_steady

UP = CheckStatus.SUCCESS
DOWN = CheckStatus.FAILURE
UNKNOWN = Belief(verdict=Verdict.UNKNOWN, since=None)


def rows(*newest_first: tuple[int, CheckStatus]) -> list[Judged]:
    return [Judged(slot=slot, status=status) for slot, status in newest_first]


def test_the_first_success_is_believed_without_an_alert() -> None:
    transition = decide(UNKNOWN, rows((10, UP)))
    assert transition is not None
    assert (transition.belief.verdict, transition.belief.since) == (Verdict.UP, 10)
    assert transition.alert is None


def test_the_first_failure_is_a_downtime() -> None:
    transition = decide(UNKNOWN, rows((10, DOWN)))
    assert transition is not None
    assert transition.alert is AlertType.DOWNTIME


def test_a_timeout_is_down_as_much_as_a_failure() -> None:
    believed = Belief(verdict=Verdict.UP, since=5)
    transition = decide(believed, rows((10, CheckStatus.TIMEOUT)))
    assert transition is not None
    assert transition.belief == Belief(verdict=Verdict.DOWN, since=10)


def test_recovery_is_told_only_after_a_downtime() -> None:
    transition = decide(Belief(verdict=Verdict.DOWN, since=5), rows((10, UP)))
    assert transition is not None
    assert transition.alert is AlertType.RECOVERY


def test_a_late_result_flips_nothing_newer() -> None:
    assert decide(Belief(verdict=Verdict.UP, since=10), rows((7, DOWN))) is None
    assert decide(Belief(verdict=Verdict.UP, since=10), rows((12, UP), (11, DOWN))) is None


def test_the_transitions_own_row_does_not_flip_it_again() -> None:
    assert decide(Belief(verdict=Verdict.DOWN, since=10), rows((10, DOWN))) is None
    assert decide(Belief(verdict=Verdict.UP, since=10), rows((10, UP))) is None


def test_no_rows_change_nothing() -> None:
    assert decide(UNKNOWN, []) is None


def test_error_and_missed_are_always_steady() -> None:
    for verdict in Verdict:
        assert is_steady(verdict, CheckStatus.ERROR)
        assert is_steady(verdict, CheckStatus.MISSED)
    assert not is_steady(Verdict.UNKNOWN, UP)
    assert not is_steady(Verdict.UP, DOWN)
    assert is_steady(Verdict.DOWN, CheckStatus.TIMEOUT)


@given(st.permutations(range(1, 8)), st.lists(st.sampled_from([UP, DOWN]), min_size=7, max_size=7))
def test_any_order_of_arrival_ends_in_the_newest_rows_verdict(
    order: list[int], statuses: list[CheckStatus]
) -> None:
    belief, stored = UNKNOWN, {}
    for slot in order:
        stored[slot] = statuses[slot - 1]
        newest = sorted(stored.items(), reverse=True)[: DEFAULT.rows_needed]
        transition = decide(belief, rows(*newest))
        if transition is not None:
            belief = transition.belief
    assert belief.verdict is (Verdict.DOWN if statuses[6].down else Verdict.UP)
