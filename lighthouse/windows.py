"""When a maintenance window is: once, or again and again by an RRULE, on the clock of its zone.

An RRULE (RFC 5545) is read by dateutil. Only whole-day rhythms are taken: a window repeats on days,
and one that repeated each second would be an endless loop of ours.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from dateutil.rrule import rrulestr

from lighthouse.errors import UsageError

#: Lengths of a window, in seconds.
SHORTEST_S, LONGEST_S = 60, 7 * 86_400
#: Occurrences that are looked through at the most: a century of days.
MOST_OCCURRENCES = 36_600
#: The calendar repeats in so many years, while no century lacks its leap day: 1901 to 2099.
CALENDAR_YEARS = 28
#: Years in which a window may begin.
YEARS = range(2000, 2100)
#: A year whose calendars up to the last one, 9999, are as regular: whatever looks for a day that
#: never comes ends there.
_LATE_YEAR = 9960

_DAY = r"([-+]?[1-5])?(MO|TU|WE|TH|FR|SA|SU)"
#: Numbers as RFC 5545 has them: dateutil takes others too, and fails at them later.
_NUMBERS = {
    "MONTH": r"([1-9]|1[0-2])",
    "MONTHDAY": r"[-+]?([1-9]|[12]\d|3[01])",
    "YEARDAY": r"[-+]?([1-9]|[1-9]\d|[12]\d\d|3[0-5]\d|36[0-6])",
    "WEEKNO": r"[-+]?([1-9]|[1-4]\d|5[0-3])",
    "SETPOS": r"[-+]?([1-9]|[1-9]\d|[12]\d\d|3[0-5]\d|36[0-6])",
    "DAY": _DAY,
}
_PART = re.compile(
    r"FREQ=(DAILY|WEEKLY|MONTHLY|YEARLY)|INTERVAL=[1-9]\d{0,2}|COUNT=[1-9]\d{0,3}"
    r"|UNTIL=\d{8}(T\d{6})?|WKST=(MO|TU|WE|TH|FR|SA|SU)|"
    + "|".join(f"BY{name}={one}(,{one}){{0,40}}" for name, one in _NUMBERS.items())
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A span on the wall clock of a zone, and how it repeats."""

    local_start: datetime  #: without a zone: of the first occurrence
    duration_s: int
    timezone: str  #: IANA name
    repeat: str | None = None  #: RRULE, such as FREQ=WEEKLY;BYDAY=SA


def check_window(window: Window) -> None:
    """Refuse what is no window. Raises UsageError."""
    if window.timezone not in available_timezones():
        raise UsageError(
            f"timezone: {window.timezone[:40]!r} is no IANA time zone, such as Europe/Madrid"
        )
    if window.local_start.tzinfo is not None:
        raise UsageError("start: give the local time of the zone, without an offset")
    if window.local_start.year not in YEARS:
        raise UsageError(f"start: in the years {YEARS[0]} to {YEARS[-1]}")
    if not SHORTEST_S <= window.duration_s <= LONGEST_S:
        raise UsageError("duration: from 1 minute to 7 days")
    if window.repeat is None:
        return
    parts = window.repeat.split(";")
    if not all(map(_PART.fullmatch, parts)) or not window.repeat.startswith("FREQ="):
        raise UsageError(
            "repeat: an RRULE of days, such as FREQ=WEEKLY;BYDAY=SA or FREQ=MONTHLY;BYMONTHDAY=1"
        )
    if len({part.partition("=")[0] for part in parts} - {"COUNT", "UNTIL"}) < len(parts) - 1:
        raise UsageError("repeat: each part once, and COUNT or UNTIL, not both")
    try:
        rrulestr(window.repeat, dtstart=window.local_start)
        comes = _comes(parts, window.local_start)
    except (ValueError, TypeError) as exc:
        raise UsageError(f"repeat: {exc}") from None
    if not comes:
        raise UsageError("repeat: no day is such a day in the next ten years")


def _comes(parts: list[str], start: datetime) -> bool:
    """Whether a rhythm ever falls on a day. dateutil looks for one up to the year 9999, which
    takes seconds for a 30th of February, so it is asked where that year is near."""
    year = next(
        year
        for year in range(_LATE_YEAR, _LATE_YEAR + CALENDAR_YEARS)
        if year % 4 == start.year % 4
        and datetime(year, 1, 1).weekday() == datetime(start.year, 1, 1).weekday()  # noqa: DTZ001
    )
    rhythm = ";".join(part for part in parts if not part.startswith("UNTIL="))
    return next(iter(rrulestr(rhythm, dtstart=start.replace(year=year))), None) is not None


def occurrence(window: Window, after: datetime) -> tuple[datetime, datetime] | None:
    """The first occurrence that ends after `after` (aware), as UTC times; None: there is none.

    A start that the clock skips in spring is an hour later; one that comes twice is the first.
    """
    zone = ZoneInfo(window.timezone)
    length = timedelta(seconds=window.duration_s)
    if window.repeat is None:
        starts = iter((window.local_start,))
    else:
        starts = iter(rrulestr(window.repeat, dtstart=window.local_start))
    for _, local in zip(range(MOST_OCCURRENCES), starts, strict=False):
        start = local.replace(tzinfo=zone).astimezone(UTC)
        if start + length > after:
            return start, start + length
    return None
