"""How one check looks to a person, and the same as data."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lighthouse.cli.looking import as_data, bars, phases, show
from lighthouse.model import Certificate, CheckStatus, Finding, Outcome, Reason, Step, Timings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OUTCOME = Outcome(
    status=CheckStatus.FAILURE,
    reason=Reason.BODY,
    message="$.n is 5, expected more than 7",
    latency_ms=100.0,
    http_status=200,
    http_version=20,
    timings=Timings(dns_ms=10.0, tcp_ms=20.0, tls_ms=30.0, ttfb_ms=35.0),
    cert_expires_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    findings=(
        Finding(name="status", ok=True, found="200"),
        Finding(name="body $.n", ok=False, found="is 5, \x1b[31mexpected more than 7"),
    ),
    steps=(
        Step(name="login", status=CheckStatus.SUCCESS, latency_ms=12.0),
        Step(
            name="pay",
            status=CheckStatus.FAILURE,
            latency_ms=3.0,
            message="no",
            findings=(Finding(name="status", ok=False, found="500"),),
        ),
        Step(name="after", status=None, latency_ms=0.0),
    ),
)


def test_the_transfer_is_what_no_other_phase_took() -> None:
    assert phases(OUTCOME.timings, 100.0) == {
        "dns": 10.0,
        "tcp": 20.0,
        "tls": 30.0,
        "ttfb": 35.0,
        "transfer": 5.0,
    }
    assert phases(Timings(tcp_ms=2.0), 9.0) == {"tcp": 2.0}  # no answer came
    assert phases(Timings(ttfb_ms=9.0), 8.9)["transfer"] == 0.0


def test_each_bar_begins_where_the_last_one_ended() -> None:
    lines = list(bars({"dns": 10.0, "tcp": 20.0, "ttfb": 0.0, "transfer": 10.0}))
    places = [(line.find("█"), line.count("█")) for line in lines]
    start = places[0][0]
    assert places == [(start, 10), (start + 10, 20), (-1, 0), (start + 30, 10)]
    assert lines[0].startswith("  dns")
    assert "10.0 ms" in lines[0]
    assert list(bars({})) == []
    assert len(list(bars({"tcp": 0.0}))) == 1


def test_a_person_sees_phases_assertions_steps_and_the_certificates_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show("https://example.com/", OUTCOME, NOW)
    told = capsys.readouterr().out
    assert "cert_expires_at  2026-01-31 12:00:00 (in 30.5 days)" in told
    assert "http_version     2.0" in told
    assert "✓ status" in told
    assert "✗ body $.n  is 5, " in told
    assert "\x1b[31mexpected" not in told  # a target cannot steer the terminal
    order = ["phases", "  tls", "assertions", "steps", "  success  login", "  failure  pay", "500"]
    places = [told.index(each) for each in [*order, "  skipped  after"]]
    assert places == sorted(places)


def test_the_same_is_told_as_data() -> None:
    data = as_data(OUTCOME)
    assert data["timings"] == {
        "dns_ms": 10.0,
        "tcp_ms": 20.0,
        "tls_ms": 30.0,
        "ttfb_ms": 35.0,
        "transfer_ms": 5.0,
    }
    assert data["findings"][0] == {"name": "status", "ok": True, "found": "200"}
    assert [step["status"] for step in data["steps"]] == ["success", "failure", "skipped"]
    assert data["steps"][1]["findings"] == [{"name": "status", "ok": False, "found": "500"}]
    assert data["cert_expires_at"] == OUTCOME.cert_expires_at
    assert (data["addresses"], data["certificate"]) == ([], None)


def test_addresses_and_the_certificate_are_told_where_they_are_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    certificate = Certificate(
        fingerprint="ab" * 32, expires_at=NOW, subject="CN=a,O=\x1b[31mred", issuer="CN=b"
    )
    outcome = replace(OUTCOME, addresses=("192.0.2.1", "::1"), certificate=certificate)
    show("https://example.com/", outcome, NOW)
    told = capsys.readouterr().out
    assert "\x1b[31mred" not in told
    for label, value in (
        ("cert_subject", "CN=a,O="),
        ("cert_issuer", "CN=b"),
        ("cert_fingerprint", "ab" * 32),
        ("addresses", "192.0.2.1, ::1"),
    ):
        assert f"\n{label:<18}{value}" in told
    data = as_data(outcome)
    assert data["addresses"] == ["192.0.2.1", "::1"]
    assert data["certificate"] == {
        "subject": certificate.subject,
        "issuer": "CN=b",
        "fingerprint": "ab" * 32,
        "expires_at": NOW,
    }
