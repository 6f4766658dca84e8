"""Results are storable whatever a target answers; slots and event ids are exact."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from lighthouse.model import (
    AlertType,
    CheckStatus,
    Outcome,
    Reason,
    Result,
    event_id,
    from_slot,
    storable,
    to_slot,
)

SUBSCRIPTION = UUID("11111111-2222-3333-4444-555555555555")


@given(st.integers(min_value=0, max_value=4_102_444_800_000))
def test_a_slot_survives_the_way_through_a_datetime(slot: int) -> None:
    assert to_slot(from_slot(slot)) == slot


@given(st.text(alphabet=st.characters(), max_size=50) | st.just("\ud800\x00a"))
def test_any_text_becomes_storable(text: str) -> None:
    clean = storable(text, 20)
    assert clean is not None
    assert "\x00" not in clean
    assert len(clean.encode("utf-8").decode("utf-8")) <= 20


def test_an_event_has_the_same_id_in_every_process() -> None:
    one = event_id(SUBSCRIPTION, 1_700_000_000_000, AlertType.DOWNTIME)
    assert one == UUID("c10dc2fa-02b2-5e7b-8381-9e6b843da9be")
    assert one == event_id(SUBSCRIPTION, 1_700_000_000_000, AlertType.DOWNTIME)
    assert one != event_id(SUBSCRIPTION, 1_700_000_000_000, AlertType.RECOVERY)
    assert one != event_id(SUBSCRIPTION, 1_700_000_000_001, AlertType.DOWNTIME)


def test_a_success_keeps_no_snippet_and_a_failure_does() -> None:
    good = Outcome(status=CheckStatus.SUCCESS, snippet="hello", message="x", latency_ms=1.5)
    bad = Outcome(
        status=CheckStatus.FAILURE, reason=Reason.STATUS_CODE, message="status 500", snippet="oh"
    )
    assert Result.of(SUBSCRIPTION, 1, good).response_snippet is None
    assert Result.of(SUBSCRIPTION, 1, good).error_message is None
    warned = Result.of(SUBSCRIPTION, 1, replace(good, reason=Reason.CERTIFICATE_EXPIRY))
    assert (warned.error_code, warned.error_message) == ("certificate_expiry", "x")
    assert Result.of(SUBSCRIPTION, 1, bad).response_snippet == "oh"
    assert Result.of(SUBSCRIPTION, 1, bad).error_code == "status_code"


def test_numbers_that_no_column_takes_become_null() -> None:
    odd = Outcome(
        status=CheckStatus.FAILURE,
        reason=Reason.STATUS_CODE,
        message="",
        http_status=99_999,
        latency_ms=float("nan"),
        attempts=10**6,
    )
    result = Result.of(SUBSCRIPTION, 1, odd, delay_ms=-5)
    assert result.http_status is None
    assert result.latency_ms is None
    assert result.attempts == 32767
    assert result.delay_ms == 0


def test_a_slots_datetime_is_aware() -> None:
    assert from_slot(0) == datetime(1970, 1, 1, tzinfo=UTC)
