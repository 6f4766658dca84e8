"""When a failed delivery is tried again."""

import pytest

from lighthouse.retries import GIVE_UP_AFTER_S, next_delay_s


def test_waits_double_up_to_a_quarter_of_an_hour() -> None:
    delays = [next_delay_s(attempt=n, age_s=0, chance=0) for n in range(1, 12)]
    assert delays == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]


def test_chance_adds_up_to_a_quarter() -> None:
    assert next_delay_s(attempt=3, age_s=0, chance=0.999) == pytest.approx(10, abs=0.01)


def test_a_service_s_wish_is_never_undercut() -> None:
    assert next_delay_s(attempt=1, age_s=0, chance=0, retry_after_s=60) == 60
    assert next_delay_s(attempt=1, age_s=0, chance=0.5, retry_after_s=60) == 67.5


def test_a_wish_for_at_once_does_not_make_a_tight_loop() -> None:
    assert next_delay_s(attempt=5, age_s=0, chance=0, retry_after_s=0) == 32


def test_the_last_try_falls_on_the_end_of_the_24_hours_and_then_it_is_given_up() -> None:
    assert next_delay_s(attempt=90, age_s=GIVE_UP_AFTER_S - 10, chance=0) == 10
    assert next_delay_s(attempt=91, age_s=GIVE_UP_AFTER_S, chance=0) is None


def test_a_wish_beyond_the_24_hours_gives_up_now() -> None:
    assert next_delay_s(attempt=1, age_s=3600, chance=0, retry_after_s=24 * 3600) is None


def test_any_number_of_attempts_is_bounded() -> None:
    assert next_delay_s(attempt=32767, age_s=0, chance=0) == 900
