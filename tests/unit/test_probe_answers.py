"""What is read from an answer: headers, expiry, character sets, hosts."""

from datetime import UTC, datetime

import pytest

from lighthouse import urls
from lighthouse.probes.judging import matching
from lighthouse.probes.wire.readings import parse_expiry, parse_headers


def test_headers_are_kept_by_lower_case_name_in_order() -> None:
    lines = [
        b"HTTP/1.1 200 OK\r\n",
        b"Set-Cookie: a\r\n",
        b"X: \r\n",
        b"SET-COOKIE:b \r\n",
        b"\r\n",
    ]
    assert parse_headers(lines) == {"set-cookie": ("a", "b"), "x": ("",)}


def test_header_bytes_that_are_no_text_do_not_raise() -> None:
    assert parse_headers([b"X-Raw: \xff\r\n", b"no colon\r\n"]) == {"x-raw": ("\xff",)}


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("Nov 24 03:25:00 2026 GMT", datetime(2026, 11, 24, 3, 25, tzinfo=UTC)),
        ("Jan  1 00:00:00 2060 GMT", datetime(2060, 1, 1, tzinfo=UTC)),
        ("Dec 31 23:59:59 9999 GMT", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("nonsense", None),
        ("", None),
    ],
)
def test_the_end_of_a_certificate(text: str, moment: datetime | None) -> None:
    assert parse_expiry(text) == moment


@pytest.mark.parametrize(
    ("content_type", "name"),
    [
        (None, "utf-8"),
        ("text/html", "utf-8"),
        ("text/html; charset=ISO-8859-1", "iso-8859-1"),
        ('text/html; charset="windows-1252"', "windows-1252"),
        ("text/html; charset=punycode", "utf-8"),
        ("text/html; charset=unicode_escape", "utf-8"),
        ("text/html; charset=zip", "utf-8"),
    ],
)
def test_only_plain_character_sets_are_decoded(content_type: str | None, name: str) -> None:
    assert matching.charset(content_type) == name


@pytest.mark.parametrize(
    ("host", "numeric"),
    [("127.0.0.1", True), ("::1", True), ("example.com", False), ("1.example", False)],
)
def test_a_numeric_host_needs_no_resolver(host: str, numeric: bool) -> None:
    assert urls.is_numeric(host) is numeric


def test_a_url_is_shown_without_its_query() -> None:
    assert urls.shown("https://a.example/b?key=secret") == "https://a.example/b?…"
    assert urls.shown("https://a.example/b") == "https://a.example/b"
