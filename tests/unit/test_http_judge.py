"""What an HTTP exchange means for its target, and where a redirect leads."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason, Timings
from lighthouse.probes import parse_config
from lighthouse.probes.http import HttpConfig, judge, next_hop
from lighthouse.probes.wire.transport import HttpRequest, HttpResponse, TransportError

ENDS = datetime(2031, 1, 1, tzinfo=UTC)
ANSWER = HttpResponse(
    status=200,
    version=11,
    body=b"hello world",
    truncated=False,
    total_ms=12.5,
    timings=Timings(tcp_ms=1.0, ttfb_ms=2.0),
    cert_expires_at=ENDS,
)


def config(**keys: Any) -> HttpConfig:
    found = parse_config(MonitorType.HTTP, {"url": "https://example.com/", **keys})
    assert isinstance(found, HttpConfig)
    return found


def judged(answer: HttpResponse | TransportError = ANSWER, **keys: Any) -> Outcome:
    return judge(config(**keys), answer)


def test_an_answer_that_holds_every_assertion_is_a_success() -> None:
    assert judged() == Outcome(
        status=CheckStatus.SUCCESS,
        latency_ms=12.5,
        http_status=200,
        http_version=11,
        timings=ANSWER.timings,
        cert_expires_at=ENDS,
    )


def test_an_unexpected_status_is_a_failure_with_the_beginning_of_its_body() -> None:
    found = judged(replace(ANSWER, status=503, body=b"b" * 2000))
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.STATUS_CODE)
    assert found.message == "status 503, expected 200–299"
    assert found.snippet == "b" * 1024
    assert (found.http_status, found.latency_ms) == (503, 12.5)


def test_the_expected_codes_are_told_as_they_were_given() -> None:
    found = judged(replace(ANSWER, status=500), valid_status_codes=[204, "3xx"])
    assert found.message == "status 500, expected 204, 300–399"


@pytest.mark.parametrize(
    ("values", "wanted", "message"),
    [
        (("application/json; charset=utf-8",), "application/json", None),
        (("APPLICATION/JSON",), "application/json", None),
        (("a", "b"), "b", None),
        (("anything",), None, None),
        (("text/html",), "application/json", 'header X-T is "text/html", expected'),
        (("a\x00b",), "c", 'header X-T is "a�b"'),
        (None, "x", "header X-T is missing"),
        (None, None, "header X-T is missing"),
    ],
)
def test_expected_headers(
    values: tuple[str, ...] | None, wanted: str | None, message: str | None
) -> None:
    headers = {} if values is None else {"x-t": values}
    found = judged(replace(ANSWER, headers=headers), expected_headers={"X-T": wanted})
    if message is None:
        assert found.status is CheckStatus.SUCCESS
    else:
        assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.HEADER)
        assert found.message is not None
        assert found.message.startswith(message)


@pytest.mark.parametrize(
    ("validation", "body", "content_type", "holds"),
    [
        ({"contains": "world"}, b"hello world", None, True),
        ({"contains": "mars"}, b"hello world", None, False),
        ({"contains": "grün"}, "grün".encode("latin-1"), "text/plain; charset=ISO-8859-1", True),
        ({"contains": "grün"}, "grün".encode("utf-16"), 'text/plain; charset="utf-16"', True),
        ({"contains": "ok"}, b"\xff\xfe ok \x80", "text/plain", True),
        ({"contains": "ok"}, b"ok", "text/plain; charset=idna", True),
        ({"contains": "ok"}, b"ok", "text/plain; charset=utf-99", True),
        ({"regex": r"^h\w+ w"}, b"hello world", None, True),
        ({"regex": r"(?i)HELLO"}, b"hello world", None, True),
        ({"regex": r"gr.n$"}, "grün".encode(), None, True),
        ({"regex": r"^world"}, b"hello world", None, False),
        ({"regex": r"(a+)+$"}, b"a" * 60_000 + b"b", None, False),
    ],
)
def test_body_validation(
    validation: dict[str, str], body: bytes, content_type: str | None, holds: bool
) -> None:
    answer = replace(ANSWER, body=body, content_type=content_type)
    found = judged(answer, body_validation=validation)
    assert (found.status is CheckStatus.SUCCESS) is holds
    assert found.reason is (None if holds else Reason.BODY)


def test_a_body_over_its_limit_fails_only_where_its_beginning_does_not_settle_it() -> None:
    long = replace(ANSWER, truncated=True)
    assert judged(long).status is CheckStatus.SUCCESS
    assert judged(long, body_validation={"contains": "hello"}).status is CheckStatus.SUCCESS
    found = judged(long, body_validation={"contains": "mars"}, max_body_bytes=2048)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.BODY_TOO_LARGE)
    assert found.message is not None
    assert "2048 bytes" in found.message


def test_an_answer_slower_than_its_limit_is_a_failure() -> None:
    assert judged(max_latency_ms=13).status is CheckStatus.SUCCESS
    found = judged(max_latency_ms=12)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.MAX_LATENCY)
    assert found.message == "took 12.5 ms, expected at most 12 ms"


@pytest.mark.parametrize("reason", list(Reason))
def test_only_a_fault_of_the_target_counts_against_it(reason: Reason) -> None:
    found = judged(TransportError(reason=reason, message="m", total_ms=3.0, cert_expires_at=ENDS))
    own = reason.value.startswith("prober_")
    expected = CheckStatus.ERROR if own else CheckStatus.FAILURE
    assert found.status is (CheckStatus.TIMEOUT if reason is Reason.TIMEOUT else expected)
    assert (found.reason, found.message, found.latency_ms) == (reason, "m", 3.0)
    assert found.cert_expires_at == ENDS


def request(**keys: Any) -> HttpRequest:
    secret = {"Authorization": "Bearer s", "X-Api-Key": "k", "Content-Type": "text/plain"}
    return config(headers=secret, **keys).request


def hop(asked: HttpRequest, status: int, location: str | None) -> Any:
    return next_hop(asked, replace(ANSWER, status=status, location=location))


def test_a_redirect_inside_the_origin_keeps_headers() -> None:
    following = hop(request(), 302, "https://example.com/next")
    assert following.url == "https://example.com/next"
    assert ("Authorization", "Bearer s") in following.headers


@pytest.mark.parametrize(
    "location",
    ["https://evil.example/", "http://example.com/", "https://example.com:8443/", "//other.test/"],
)
def test_nothing_of_the_users_goes_to_another_origin(location: str) -> None:
    following = hop(request(method="POST", body="secret"), 307, location)
    assert following.headers == ()
    assert following.body is None


@pytest.mark.parametrize(
    ("status", "method", "expected"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (301, "PUT", "PUT"),
    ],
)
def test_the_method_after_a_redirect(status: int, method: str, expected: str) -> None:
    body = None if method == "HEAD" else "b"
    following = hop(request(method=method, body=body), status, "https://example.com/n")
    assert following.method == expected
    assert following.body == (b"b" if expected not in ("GET", "HEAD") else None)


def test_what_is_no_redirect_is_not_followed() -> None:
    assert hop(request(), 304, "https://example.com/n") is None
    assert hop(request(), 300, "https://example.com/n") is None
    assert hop(request(), 302, None) is None


@pytest.mark.parametrize(
    "location", ["ftp://example.com/", "file:///etc/passwd", "http://", "http://u:p@example.com/"]
)
def test_a_redirect_to_what_cannot_be_probed_is_the_targets_fault(location: str) -> None:
    found = hop(request(), 302, location)
    assert isinstance(found, TransportError)
    assert found.reason is Reason.PROTOCOL_ERROR
    assert "p@" not in found.message
