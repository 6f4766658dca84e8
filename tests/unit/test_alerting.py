"""What an owner wants to hear: read strictly, stored as it was given, never lost."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lighthouse.alerting import (
    DEFAULT,
    MOST_CHECKS,
    Alerting,
    Flapping,
    LatencyWarning,
    as_stored,
    parse_alerting,
    stored_alerting,
)
from lighthouse.errors import ConfigError


def test_nothing_given_is_one_failure_down_and_one_success_up() -> None:
    assert parse_alerting({}) == DEFAULT
    assert (DEFAULT.failures_to_down, DEFAULT.successes_to_up) == (1, 1)
    assert DEFAULT.certificate_days == (30, 14, 7, 1)
    assert DEFAULT.flapping == Flapping()
    assert (DEFAULT.latency, DEFAULT.remind_every_s) == (None, None)


def test_only_what_was_given_is_stored() -> None:
    given_ = {"failures_to_down": 3, "latency": {"warn_ms": 800}}
    alerting = parse_alerting(given_)
    assert as_stored(alerting) == {"failures_to_down": 3, "latency": {"warn_ms": 800.0}}
    assert stored_alerting(as_stored(alerting)) == alerting


def test_flapping_is_switched_off_by_null_and_that_is_stored() -> None:
    alerting = parse_alerting({"flapping": None})
    assert as_stored(alerting) == {"flapping": None}
    assert stored_alerting(as_stored(alerting)).flapping is None


def test_what_this_version_cannot_read_means_the_default() -> None:
    assert stored_alerting({"failures_to_down": "many"}) == DEFAULT
    assert stored_alerting({"of_the_future": 1}) == DEFAULT


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"failures_to_down": 0}, "alerting.failures_to_down"),
        ({"failures_to_down": 11}, "alerting.failures_to_down"),
        ({"successes_to_up": 0}, "alerting.successes_to_up"),
        ({"latency": {"warn_ms": 0}}, "alerting.latency.warn_ms"),
        ({"latency": {"warn_ms": 1e-46}}, "alerting.latency.warn_ms"),  # no REAL
        ({"latency": {"warn_ms": 1, "checks": 2}}, "alerting.latency.checks"),
        ({"latency": {"warn_ms": 1, "checks": MOST_CHECKS + 1}}, "alerting.latency.checks"),
        ({"latency": {}}, "alerting.latency.warn_ms"),
        ({"certificate_days": [31]}, "alerting.certificate_days.0"),
        ({"certificate_days": [0]}, "alerting.certificate_days.0"),
        ({"certificate_days": [7, 7]}, "alerting.certificate_days"),
        ({"certificate_days": list(range(1, 12))}, "alerting.certificate_days"),
        ({"flapping": {"changes": 2}}, "alerting.flapping.changes"),
        ({"min_coverage": 1.1}, "alerting.min_coverage"),
        ({"remind_every_s": 299}, "alerting.remind_every_s"),
        ({"unknown": 1}, "alerting.unknown"),
    ],
)
def test_a_fault_names_its_field(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_alerting(wrong)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("warn_ms", [float("inf"), float("nan")])
def test_a_warning_has_a_finite_number_of_milliseconds(warn_ms: float) -> None:
    """Fails when infinity is taken: it is no JSON, so storing it would fail later."""
    with pytest.raises(ConfigError):
        parse_alerting({"latency": {"warn_ms": warn_ms}})


def test_days_are_told_in_their_order_whatever_order_they_came_in() -> None:
    assert parse_alerting({"certificate_days": [1, 30, 7]}).certificate_days == (30, 7, 1)
    assert parse_alerting({"certificate_days": []}).certificate_days == ()


@given(
    st.integers(1, 10),
    st.integers(1, 10),
    st.one_of(
        st.none(),
        st.builds(LatencyWarning, warn_ms=st.floats(1, 1e6), checks=st.integers(3, MOST_CHECKS)),
    ),
)
def test_enough_rows_are_read_for_every_decision(
    failures: int, successes: int, latency: LatencyWarning | None
) -> None:
    alerting = Alerting(failures_to_down=failures, successes_to_up=successes, latency=latency)
    assert alerting.rows_needed >= max(failures, successes)
    assert latency is None or alerting.rows_needed >= latency.checks
    assert stored_alerting(as_stored(alerting)) == alerting
