"""A text in as few segments as its characters allow, and how many those are."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from lighthouse.channels.sms import SEGMENTS, body, segments
from lighthouse.channels.templates import Message
from lighthouse.model import Severity


def message(title: str, text: str = "") -> Message:
    return Message(
        kind="downtime",
        key="k",
        event_id=UUID(int=7),
        at=datetime(2026, 11, 24, 3, 45, tzinfo=UTC),
        severity=Severity.CRITICAL,
        subscription_id=UUID(int=3),
        subscription_name="Shop",
        title=title,
        message=text,
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("x" * 160, 1),
        ("x" * 161, 2),
        ("x" * 306, 2),
        ("x" * 307, 3),
        ("x" * 459, 3),
        ("x" * 460, 4),
        ("€" * 80, 1),  # two septets each
        ("€" * 81, 2),
        ("x" * 152 + "€" * 76 + "x", 2),  # 152, then the pair and what follows: 153
        ("x" * 152 + "€" * 76 + "xx", 3),  # 306 septets, but no pair is torn
        ("ñ" * 160, 1),  # it stands in the alphabet, á does not
        ("á" * 70, 1),
        ("á" * 71, 2),
        ("á" * 134, 2),
        ("á" * 135, 3),
        ("🔥" * 35, 1),
        ("🔥" * 36, 2),
        ("🔥" * 66, 2),  # 33 in each: 67 units do not hold half a pair
        ("🔥" * 67, 3),
    ],
)
def test_segments_are_counted_as_they_are_paid(text: str, count: int) -> None:
    assert segments(text) == count


@pytest.mark.parametrize("character", ["x", "€", "á", "🔥", "名", "ñ"])
@pytest.mark.parametrize("shift", ["", "x"])
def test_a_long_text_fills_its_segments_and_no_more(character: str, shift: str) -> None:
    text = body(message(shift + character * 2000))
    assert segments(text) == SEGMENTS


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("La tienda está caída", "La tienda esta caida"),
        ("¿Señor Nuñez — “él”…?", '¿Señor Nuñez - "él"...?'),
        ("Ärger in Øre: 5 €", "Ärger in Øre: 5 €"),
        ("店 está caída", "店 está caída"),  # nothing is gained, so nothing is lost
    ],
)
def test_accents_go_where_that_makes_the_text_one_of_gsm(title: str, text: str) -> None:
    assert body(message(title)) == text


def test_a_target_s_line_ends_make_no_lines() -> None:
    assert body(message("Shop\nSecond", "a\r\n\u2028b")) == "Shop Second\na b"
