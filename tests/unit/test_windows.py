"""Maintenance windows: on the wall clock of a zone, through its gaps and folds, always in time."""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lighthouse.errors import UsageError
from lighthouse.windows import Window, check_window, occurrence

MADRID = "Europe/Madrid"


def window(start: str, repeat: str | None = None, zone: str = MADRID, minutes: int = 60) -> Window:
    return Window(
        local_start=datetime.fromisoformat(start),
        duration_s=minutes * 60,
        timezone=zone,
        repeat=repeat,
    )


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_window_without_a_rhythm_is_once() -> None:
    once = window("2026-11-24T22:00")
    span = (utc("2026-11-24T21:00"), utc("2026-11-24T22:00"))
    assert occurrence(once, utc("2026-01-01")) == span
    assert occurrence(once, span[1] - timedelta(seconds=1)) == span
    assert occurrence(once, span[1]) is None


def test_a_weekly_window_keeps_its_hour_through_both_changes_of_the_clock() -> None:
    weekly = window("2026-03-22T22:00", "FREQ=WEEKLY;BYDAY=SU")
    found, after = [], utc("2026-03-20")
    for _ in range(3):
        span = occurrence(weekly, after)
        assert span is not None
        found.append(span[0])
        after = span[1]
    # The clock changes on 29 March: an hour earlier in UTC, the same on the wall.
    assert found == [utc("2026-03-22T21:00"), utc("2026-03-29T20:00"), utc("2026-04-05T20:00")]
    assert {at.astimezone(ZoneInfo(MADRID)).hour for at in found} == {22}


def test_a_start_that_the_clock_skips_is_an_hour_later() -> None:
    skipped = occurrence(window("2026-03-29T02:30"), utc("2026-03-01"))
    assert skipped == (utc("2026-03-29T01:30"), utc("2026-03-29T02:30"))
    assert skipped[0].astimezone(ZoneInfo(MADRID)).hour == 3


def test_a_start_that_comes_twice_is_the_first_one() -> None:
    twice = occurrence(window("2026-10-25T02:30"), utc("2026-10-01"))
    assert twice == (utc("2026-10-25T00:30"), utc("2026-10-25T01:30"))


def test_a_window_lasts_as_long_as_it_says_whatever_the_clock_does_meanwhile() -> None:
    night = occurrence(window("2026-03-28T22:00", minutes=480), utc("2026-03-01"))
    assert night is not None
    assert night[1] - night[0] == timedelta(hours=8)


def test_a_count_and_an_until_end_a_rhythm() -> None:
    for end in ("COUNT=2", "UNTIL=20261125T230000"):
        two = window("2026-11-24T22:00", f"FREQ=DAILY;{end}")
        second = occurrence(two, utc("2026-11-25T00:00"))
        assert second == (utc("2026-11-25T21:00"), utc("2026-11-25T22:00"))
        assert occurrence(two, second[1]) is None


def test_a_daily_window_goes_on_for_decades() -> None:
    daily = window("2000-01-01T10:00", "FREQ=DAILY", zone="UTC")
    assert occurrence(daily, utc("2060-05-05T12:00")) == (
        utc("2060-05-06T10:00"),
        utc("2060-05-06T11:00"),
    )


@pytest.mark.parametrize(
    "rhythm",
    [
        "FREQ=SECONDLY",
        "FREQ=MINUTELY;INTERVAL=1",
        "FREQ=HOURLY",
        "FREQ=DAILY;BYHOUR=1,2,3",
        "FREQ=DAILY;BYSECOND=0,1,2",
        "BYDAY=MO;FREQ=DAILY",
        "FREQ=DAILY;INTERVAL=0",
        "FREQ=DAILY;INTERVAL=99999999999999999999",
        "FREQ=DAILY;COUNT=99999999999",
        "FREQ=DAILY;COUNT=3;UNTIL=20270101",
        "FREQ=DAILY\nRDATE:20260101",
        "RRULE:FREQ=DAILY",
        "FREQ=DAILY;",
        "FREQ=WEEKLY;BYDAY=XX",
        "FREQ=MONTHLY;BYMONTHDAY=-",
        "FREQ=MONTHLY;BYMONTHDAY=99999999999",
        "FREQ=MONTHLY;BYDAY=+53FR",  # at which dateutil fails only when it looks
        "FREQ=YEARLY;BYMONTH=13;BYDAY=1MO",
        "FREQ=MONTHLY;BYMONTHDAY=0",
        "FREQ=YEARLY;BYEASTER=0",
        "FREQ=WEEKLY;BYDAY=" + "MO," * 5000 + "MO",
        "",
        "daily",
    ],
)
def test_what_is_no_rhythm_of_days_is_refused(rhythm: str) -> None:
    with pytest.raises(UsageError, match="repeat"):
        check_window(window("2026-11-24T22:00", rhythm))


@pytest.mark.parametrize(
    "rhythm",
    [
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=31",
        "FREQ=WEEKLY;BYSETPOS=300",
        "FREQ=DAILY;INTERVAL=7;BYDAY=MO",  # begins on a Tuesday
        "FREQ=DAILY;BYYEARDAY=366;BYMONTH=1",
        "FREQ=DAILY;UNTIL=20270101;BYMONTH=2;BYMONTHDAY=30",
    ],
)
def test_a_rhythm_that_falls_on_no_day_is_refused_at_once(rhythm: str) -> None:
    """Fails when dateutil is let look for such a day up to the year 9999: for seconds."""
    began = time.process_time()
    with pytest.raises(UsageError, match="no day"):
        check_window(window("2026-11-24T22:00", rhythm))
    assert time.process_time() - began < 0.7


@pytest.mark.parametrize(
    ("rhythm", "second"),
    [
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", "2032-02-29"),
        ("FREQ=MONTHLY;BYDAY=-1FR", "2026-12-25"),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=1", "2027-01-01"),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=TU;WKST=SU", "2026-12-08"),
    ],
)
def test_rhythms_that_people_use_are_taken(rhythm: str, second: str) -> None:
    rare = window("2026-11-24T12:00", rhythm, zone="UTC")
    check_window(rare)
    first = occurrence(rare, utc("2026-11-01"))
    assert first is not None
    following = occurrence(rare, first[1])
    assert following is not None
    assert following[0] == utc(f"{second}T12:00")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"timezone": ""}, "timezone"),
        ({"duration_s": 59}, "duration"),
        ({"duration_s": 7 * 86_400 + 1}, "duration"),
        ({"local_start": datetime(2026, 1, 1, tzinfo=UTC)}, "start"),
        ({"local_start": datetime.fromisoformat("9999-12-31T23:59")}, "start"),
        ({"local_start": datetime.fromisoformat("0001-01-01")}, "start"),
    ],
)
def test_what_is_no_window_is_refused_by_the_name_of_its_field(
    changes: dict[str, object], word: str
) -> None:
    whole: dict[str, object] = {
        "local_start": datetime.fromisoformat("2026-11-24T22:00"),
        "duration_s": 3600,
        "timezone": MADRID,
    }
    check_window(Window(**whole))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"^{word}:"):
        check_window(Window(**{**whole, **changes}))  # type: ignore[arg-type]


parts = st.one_of(
    st.sampled_from(["INTERVAL=999", "INTERVAL=7", "COUNT=1", "COUNT=9999", "UNTIL=20270101"]),
    st.sampled_from(["BYDAY=MO", "BYDAY=-5SU", "BYDAY=+53FR", "WKST=TU", "BYMONTH=2,13,-1"]),
    st.builds("BYMONTHDAY={}".format, st.integers(-40, 40)),
    st.builds("BYYEARDAY={}".format, st.integers(-400, 400)),
    st.builds("BYWEEKNO={}".format, st.integers(-60, 60)),
    st.builds("BYSETPOS={}".format, st.integers(-400, 400)),
    st.text(alphabet="BYDAMONTH=,;-+0123456789", max_size=20),
)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]),
    st.lists(parts, max_size=4),
    st.datetimes(datetime.fromisoformat("2000-01-01"), datetime.fromisoformat("2099-12-31")),
    st.sampled_from(["UTC", MADRID, "Pacific/Apia", "Australia/Lord_Howe", "America/Caracas"]),
)
def test_any_rhythm_is_refused_or_answers_in_time(
    frequency: str, more: list[str], start: datetime, zone: str
) -> None:
    any_ = Window(
        local_start=start,
        duration_s=3600,
        timezone=zone,
        repeat=";".join([f"FREQ={frequency}", *more]),
    )
    began = time.process_time()
    with suppress(UsageError):
        check_window(any_)
        after = utc("2026-11-24T12:00")
        found = occurrence(any_, after)
        if found is not None:
            assert found[1] > after
            assert found[1] - found[0] == timedelta(hours=1)
    assert time.process_time() - began < 2.0
