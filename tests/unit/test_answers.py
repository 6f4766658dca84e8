"""Whether the network was there while a target was silent, from the times of others' answers."""

from lighthouse.fleet.answers import MOST_ANSWERS, Answers


def busy(answers: Answers, begin: float, end: float) -> None:
    """Ten answers a second."""
    for number in range(round((end - begin) * 10)):
        answers.note(begin + number / 10)


def test_answers_all_along_leave_the_fault_with_the_target() -> None:
    answers = Answers()
    busy(answers, 0, 10)
    assert answers.pauses().spare(5, 8)


def test_an_outage_within_the_attempt_may_be_the_reason() -> None:
    answers = Answers()
    busy(answers, 0, 5)
    busy(answers, 6, 10)
    pauses = answers.pauses()
    assert not pauses.spare(4.5, 6.5)
    assert not pauses.spare(5.5, 7)  # begun during it, ended after
    assert not pauses.spare(3.5, 5.2)  # ended during it
    assert pauses.spare(6.1, 8)


def test_a_pause_that_tcp_outlasts_is_no_reason() -> None:
    answers = Answers()
    busy(answers, 0, 5)
    busy(answers, 6, 16)
    assert answers.pauses().spare(4.5, 14.5)


def test_what_began_before_the_first_answer_is_not_sure() -> None:
    answers = Answers()
    busy(answers, 5, 10)
    assert not answers.pauses().spare(4, 7)


def test_a_worker_with_little_to_do_needs_one_answer_during_the_attempt() -> None:
    answers = Answers()
    for time in (0, 20, 41, 60, 79):
        answers.note(time)
    pauses = answers.pauses()
    assert pauses.spare(35, 45)
    assert not pauses.spare(45, 55)


def test_an_attempt_too_short_for_an_answer_needs_one_close_before_and_one_close_after() -> None:
    answers = Answers()
    for time in (0, 20, 40, 40.5, 60, 90):
        answers.note(time)
    pauses = answers.pauses()
    assert pauses.spare(40.2, 40.2002, 2.5)
    assert not pauses.spare(40.2, 40.2002)
    assert not pauses.spare(50, 50.0002, 2.5)
    assert not pauses.spare(91, 91.0002, 2.5)  # nothing after it yet


def test_what_began_before_the_kept_answers_is_not_sure() -> None:
    answers = Answers()
    busy(answers, 0, MOST_ANSWERS / 10 + 50)
    assert not answers.pauses().spare(40, 60)
    assert answers.pauses().spare(60, 70)


def test_nothing_is_sure_where_nothing_answered() -> None:
    assert not Answers().pauses().spare(1, 2)
