"""Verdicts from rows: pure, so every order of arrival is a list."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lighthouse.alerting import DEFAULT, Alerting, Flapping, LatencyWarning
from lighthouse.model import (
    AlertType,
    Bounds,
    Certificate,
    CheckStatus,
    MonitorType,
    Severity,
    Verdict,
    from_slot,
)
from lighthouse.verdict import (
    CERTIFICATES_KEPT,
    CRITICAL,
    ENOUGH,
    LOW,
    Belief,
    Event,
    Found,
    Judged,
    calm_ms,
    decide,
    is_steady,
    judge,
    level,
    span_ms,
    threshold,
)

INTERVAL_MS = 60_000
UP = CheckStatus.SUCCESS
DOWN = CheckStatus.FAILURE
UNKNOWN = Belief(verdict=Verdict.UNKNOWN, since=None)


def rows(*newest_first: tuple[int, CheckStatus]) -> list[Judged]:
    return [Judged(slot=slot, status=status) for slot, status in newest_first]


def test_the_first_success_is_believed_without_an_alert() -> None:
    transition = decide(UNKNOWN, rows((10, UP)))
    assert transition is not None
    assert (transition.belief.verdict, transition.belief.since) == (Verdict.UP, 10)
    assert transition.alert is None


def test_the_first_failure_is_a_downtime() -> None:
    transition = decide(UNKNOWN, rows((10, DOWN)))
    assert transition is not None
    assert transition.alert is AlertType.DOWNTIME


def test_a_timeout_is_down_as_much_as_a_failure() -> None:
    believed = Belief(verdict=Verdict.UP, since=5)
    transition = decide(believed, rows((10, CheckStatus.TIMEOUT)))
    assert transition is not None
    assert transition.belief == Belief(verdict=Verdict.DOWN, since=10)


def test_recovery_is_told_only_after_a_downtime() -> None:
    transition = decide(Belief(verdict=Verdict.DOWN, since=5), rows((10, UP)))
    assert transition is not None
    assert transition.alert is AlertType.RECOVERY


def test_a_late_result_flips_nothing_newer() -> None:
    assert decide(Belief(verdict=Verdict.UP, since=10), rows((7, DOWN))) is None
    assert decide(Belief(verdict=Verdict.UP, since=10), rows((12, UP), (11, DOWN))) is None


def test_the_transitions_own_row_does_not_flip_it_again() -> None:
    assert decide(Belief(verdict=Verdict.DOWN, since=10), rows((10, DOWN))) is None
    assert decide(Belief(verdict=Verdict.UP, since=10), rows((10, UP))) is None


def test_no_rows_change_nothing() -> None:
    assert decide(UNKNOWN, []) is None


def test_error_and_missed_are_always_steady() -> None:
    for verdict in Verdict:
        assert is_steady(verdict, CheckStatus.ERROR)
        assert is_steady(verdict, CheckStatus.MISSED)
    assert not is_steady(Verdict.UNKNOWN, UP)
    assert not is_steady(Verdict.UP, DOWN)
    assert is_steady(Verdict.DOWN, CheckStatus.TIMEOUT)


@given(st.permutations(range(1, 8)), st.lists(st.sampled_from([UP, DOWN]), min_size=7, max_size=7))
def test_any_order_of_arrival_ends_in_the_newest_rows_verdict(
    order: list[int], statuses: list[CheckStatus]
) -> None:
    belief, stored = UNKNOWN, {}
    for slot in order:
        stored[slot] = statuses[slot - 1]
        newest = sorted(stored.items(), reverse=True)[: DEFAULT.rows_needed]
        transition = decide(belief, rows(*newest))
        if transition is not None:
            belief = transition.belief
    assert belief.verdict is (Verdict.DOWN if statuses[6].down else Verdict.UP)


def told(events: Iterable[Event]) -> list[tuple[str, str, int]]:
    return [(event.alert.value, event.about.value, event.slot) for event in events]


@dataclass
class Target:
    """What a recorder does with one target's rows, one flush a row."""

    alerting: Alerting = DEFAULT
    monitor: MonitorType = MonitorType.HTTP
    bounds: Bounds | None = None
    belief: Belief = UNKNOWN
    stored: dict[int, Judged] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def see(self, row: Judged, certificate: Certificate | None = None) -> list[Event]:
        if row.slot in self.stored:
            return []
        self.stored[row.slot] = row
        newest = sorted(self.stored.values(), key=lambda r: -r.slot)[: self.alerting.rows_needed]
        changes = [e.slot for e in self.events if e.about is AlertType.DOWNTIME]
        judgement = judge(
            self.belief,
            newest,
            Found(slot=row.slot, bounds=self.bounds, certificate=certificate),
            alerting=self.alerting,
            monitor=self.monitor,
            interval_ms=INTERVAL_MS,
            changes=changes,
        )
        self.belief = judgement.belief
        self.events += judgement.events
        return list(judgement.events)

    def all(self, rows_: Iterable[Judged]) -> list[tuple[str, str, int]]:
        return told(event for row in rows_ for event in self.see(row))


def checks(*found: CheckStatus, first: int = 1) -> list[Judged]:
    """Rows a minute apart."""
    return [Judged(slot=(first + n) * INTERVAL_MS, status=s) for n, s in enumerate(found)]


def minute(number: int) -> int:
    return number * INTERVAL_MS


def test_three_failures_in_a_row_are_down_and_two_successes_up() -> None:
    target = Target(Alerting(failures_to_down=3, successes_to_up=2))
    events = target.all(checks(UP, DOWN, DOWN, UP, DOWN, DOWN, DOWN, DOWN, UP, DOWN, UP, UP, UP))
    assert events == [
        ("downtime", "downtime", minute(7)),
        ("recovery", "downtime", minute(12)),
    ]
    down, up = target.events
    assert (down.first_slot, down.opens, down.closes) == (minute(5), True, False)
    assert (up.first_slot, up.opens, up.closes) == (minute(11), False, True)


def test_a_target_that_was_never_up_needs_its_failures_too() -> None:
    target = Target(Alerting(failures_to_down=3))
    assert target.all(checks(DOWN, DOWN)) == []
    assert target.belief.verdict is Verdict.UNKNOWN
    assert target.all(checks(DOWN, first=3)) == [("downtime", "downtime", minute(3))]


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.lists(st.sampled_from([UP, DOWN, CheckStatus.TIMEOUT]), max_size=8),
    st.booleans(),
    st.data(),
)
def test_any_order_and_doubling_ends_in_the_verdict_that_the_latest_run_demands(
    failures: int, successes: int, before: list[CheckStatus], down: bool, data: st.DataObject
) -> None:
    """The newest rows agree for as long as both thresholds want: then no order matters."""
    run = [DOWN if down else UP] * max(failures, successes)
    whole = checks(*before, *run)
    order = data.draw(st.permutations(whole + whole[::2]))
    target = Target(Alerting(failures_to_down=failures, successes_to_up=successes, flapping=None))
    target.all(order)
    assert target.belief.verdict is (Verdict.DOWN if down else Verdict.UP)
    alerts = [event.alert for event in target.events]
    # Of each incident one beginning and one end, and nothing between two beginnings.
    assert alerts == [(AlertType.DOWNTIME, AlertType.RECOVERY)[n % 2] for n in range(len(alerts))]
    slots = [event.slot for event in target.events]
    assert slots == sorted(set(slots))


def slow(ms: float, at: int) -> Judged:
    return Judged(slot=minute(at), status=UP, latency_ms=ms)


WARN = Alerting(latency=LatencyWarning(warn_ms=100, checks=5))


def test_one_slow_answer_is_no_warning_and_a_slow_median_is_one() -> None:
    target = Target(WARN)
    assert target.all(slow(ms, n) for n, ms in enumerate([10, 10, 10, 10, 9000, 10], 1)) == []
    assert target.all(slow(100, n) for n in range(7, 15)) == [
        ("high_latency", "high_latency", minute(8))
    ]
    (event,) = target.events
    assert event.severity is Severity.WARNING
    assert event.first_slot == minute(4)
    assert event.facts == {"median_ms": 100.0, "warn_ms": 100.0, "checks": 5}


def test_slowness_ends_below_a_margin_so_a_median_at_the_threshold_tells_once() -> None:
    target = Target(WARN)
    wavering = [100, 101, 99, 100, 95, 102, 91, 100, 99, 90] * 5
    begins = target.all(slow(ms, n) for n, ms in enumerate([120, *wavering], 1))
    assert begins == [("high_latency", "high_latency", minute(5))]
    assert target.all(slow(50, n) for n in range(100, 105)) == [
        ("recovery", "high_latency", minute(102))
    ]
    assert target.events[-1].closes


def test_fewer_checks_than_the_window_are_no_warning() -> None:
    assert Target(WARN).all(slow(500, n) for n in range(1, 5)) == []


def test_failures_between_count_neither_as_slow_nor_as_quick() -> None:
    target = Target(WARN)
    rows_ = [slow(500, n) for n in (1, 3, 5, 7, 9)]
    rows_ += [Judged(slot=minute(n), status=DOWN, latency_ms=1) for n in (2, 4, 6, 8)]
    events = target.all(sorted(rows_, key=lambda r: r.slot))
    assert [e for e in events if "latency" in e[1]] == [("high_latency", "high_latency", minute(9))]


def test_what_comes_late_does_not_end_a_slowness_at_the_slot_that_began_it() -> None:
    """Fails when late rows are judged: an incident would close in the moment that it opened."""
    target = Target(Alerting(latency=LatencyWarning(warn_ms=100, checks=3)))
    assert target.all([slow(120, 1), slow(10, 4), slow(120, 5)]) == [
        ("high_latency", "high_latency", minute(5))
    ]
    assert target.all([slow(10, 3)]) == []
    assert target.all([slow(10, 6)]) == [("recovery", "high_latency", minute(6))]


@given(st.lists(st.integers(1, 200), min_size=1, max_size=40), st.integers(3, 8))
def test_what_a_recorder_passes_over_as_steady_could_change_no_slowness(
    latencies: list[int], size: int
) -> None:
    """Fails when the median alone decides: a quick answer can fill its window, or raise a mean."""
    target = Target(Alerting(latency=LatencyWarning(warn_ms=100, checks=size)))
    for number, ms in enumerate(latencies, 1):
        believed = target.belief.slow
        target.see(slow(ms, number))
        if believed == (ms >= 100):
            assert target.belief.slow == believed


BOUNDS = Bounds(alert_at=100, critical_at=50, alert_clear_at=110, critical_clear_at=60)


def balances(*values: int, first: int = 1) -> list[Judged]:
    return [
        Judged(slot=minute(first + n), status=DOWN if value < 50 else UP, value=value)
        for n, value in enumerate(values)
    ]


def test_a_balance_is_low_then_critical_then_enough_each_told_once() -> None:
    target = Target(monitor=MonitorType.BALANCE, bounds=BOUNDS)
    assert target.all(balances(150, 99, 98, 49, 48, 59, 60, 109, 110, 111)) == [
        ("low_balance", "low_balance", minute(2)),
        ("low_balance", "low_balance", minute(4)),
        ("low_balance", "low_balance", minute(7)),
        ("recovery", "low_balance", minute(9)),
    ]
    low, critical, better, enough = target.events
    assert [e.severity for e in target.events] == [
        Severity.WARNING,
        Severity.CRITICAL,
        Severity.CRITICAL,
        Severity.WARNING,
    ]
    assert [e.opens for e in target.events] == [True, False, False, False]
    assert [e.closes for e in target.events] == [False, False, False, True]
    assert critical.facts == {"value": "49", "level": "critical", "previous_level": "low"}
    assert better.facts["level"] == "low"
    assert (low.facts["level"], enough.facts["level"]) == ("low", "enough")


def test_a_balance_from_enough_to_critical_opens_one_incident_and_no_downtime() -> None:
    target = Target(monitor=MonitorType.BALANCE, bounds=BOUNDS)
    assert target.all(balances(150, 10, 500)) == [
        ("low_balance", "low_balance", minute(2)),
        ("recovery", "low_balance", minute(3)),
    ]
    assert target.belief.verdict is Verdict.UP


def test_a_balance_that_cannot_be_read_keeps_its_level() -> None:
    target = Target(monitor=MonitorType.BALANCE, bounds=BOUNDS)
    target.all(balances(99))
    unread = Judged(slot=minute(2), status=CheckStatus.TIMEOUT)
    assert target.see(unread) == []
    assert target.belief.balance == LOW


bounds = st.tuples(st.integers(1, 50), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))


@given(bounds, st.lists(st.integers(0, 120), max_size=40))
def test_a_level_is_never_told_again_without_its_margin_crossed(
    drawn: tuple[int, int, int, int], values: list[int]
) -> None:
    critical, gap, margin, wider = drawn
    alert = critical + gap
    limits = Bounds(
        alert_at=alert,
        critical_at=critical,
        alert_clear_at=alert + margin,
        critical_clear_at=critical + wider,
    )
    believed = ENOUGH
    for value in values:
        now = level(believed, value, limits)
        if now > believed:  # worse: below the threshold itself
            assert value < (critical if now == CRITICAL else alert)
        if now < believed:  # better: at or above the margin of what was left
            assert value >= (critical + wider if believed == CRITICAL else alert + margin)
        assert level(now, value, limits) == now  # the same value changes nothing more
        believed = now


@given(st.integers(-100, 100), st.sampled_from([ENOUGH, LOW, CRITICAL]))
def test_a_balance_without_thresholds_is_enough(value: int, believed: int) -> None:
    assert level(believed, value, Bounds()) == ENOUGH


EPOCH_END = from_slot(0) + timedelta(days=40)


def certificate(fingerprint: str = "a" * 64, expires_at: datetime = EPOCH_END) -> Certificate:
    return Certificate(fingerprint=fingerprint, expires_at=expires_at, subject="CN=shop")


def at_days_left(days: float) -> Judged:
    return Judged(slot=int((40 - days) * 86_400_000), status=UP)


def test_a_certificate_is_told_once_per_threshold_as_its_end_comes_nearer() -> None:
    target = Target()
    found = []
    for hours in range(35 * 24, -48, -6):
        found += target.see(at_days_left(hours / 24), certificate())
    assert [e.facts["threshold_days"] for e in found] == [30, 14, 7, 1]
    assert [e.facts["days_left"] for e in found] == [30.0, 14.0, 7.0, 1.0]
    assert [e.severity for e in found] == [Severity.WARNING] * 3 + [Severity.CRITICAL]
    assert not any(e.opens or e.closes for e in found)


def test_a_new_certificate_begins_anew() -> None:
    target = Target()
    target.see(at_days_left(0.5), certificate("a" * 64))
    renewed = certificate("b" * 64, EPOCH_END + timedelta(days=90))
    assert target.see(at_days_left(0.4), renewed) == []
    short = certificate("c" * 64)
    assert [e.facts["threshold_days"] for e in target.see(at_days_left(0.3), short)] == [1]
    assert target.see(at_days_left(0.2), certificate("a" * 64)) == []


@given(
    st.lists(st.tuples(st.integers(-48, 35 * 24), st.sampled_from("abc")), max_size=30, unique=True)
)
def test_a_threshold_is_told_once_a_certificate_whatever_the_order(
    seen: list[tuple[int, str]],
) -> None:
    target = Target()
    told_: list[tuple[Any, Any]] = []
    for hours, name in seen:
        for event in target.see(at_days_left(hours / 24), certificate(name * 64)):
            told_.append((event.facts["fingerprint"], event.facts["threshold_days"]))
    assert len(told_) == len(set(told_))
    for name in "abc":
        days = [d for f, d in told_ if f == name * 64]
        assert days == sorted(days, reverse=True)


def test_the_certificates_of_a_fleet_of_servers_are_remembered_up_to_a_bound() -> None:
    target = Target()
    names = [f"{n:064x}" for n in range(CERTIFICATES_KEPT + 5)]
    seen = [
        len(target.see(at_days_left(5 - n / 1000), certificate(name, EPOCH_END)))
        for n, name in enumerate(names * 3)
    ]
    # No more than are remembered: else each of the others would be told of at every check.
    assert sum(seen) == sum(seen[:CERTIFICATES_KEPT]) == CERTIFICATES_KEPT
    # What comes nearer to its end than those were told to be is told all the same.
    assert len(target.see(at_days_left(1), certificate(names[-1], EPOCH_END))) == 1


def test_those_that_have_ended_give_way_to_others() -> None:
    target = Target()
    names = [f"{n:064x}" for n in range(CERTIFICATES_KEPT + 5)]
    for n, name in enumerate(names):
        end = EPOCH_END + timedelta(days=10 * n)
        assert len(target.see(at_days_left(1 - 10 * n), certificate(name, end))) == 1
    assert set(target.belief.certificates) == set(names[5:])


def test_thresholds_are_the_owners() -> None:
    target = Target(Alerting(certificate_days=(3,)))
    assert target.see(at_days_left(5), certificate()) == []
    assert len(target.see(at_days_left(3), certificate())) == 1
    assert threshold((), timedelta(0)) is None


FLAPS = Alerting(flapping=Flapping(changes=4, within_s=1200))  # calm after 600 s: 10 minutes


def test_a_run_of_changes_is_told_by_one_notice_and_the_others_wait() -> None:
    target = Target(FLAPS)
    target.all(checks(UP, DOWN, UP, DOWN, UP, DOWN, UP, DOWN))
    assert told(target.events) == [
        ("downtime", "downtime", minute(2)),
        ("recovery", "downtime", minute(3)),
        ("downtime", "downtime", minute(4)),
        ("recovery", "downtime", minute(5)),
        ("flapping", "flapping", minute(5)),
        ("downtime", "downtime", minute(6)),
        ("recovery", "downtime", minute(7)),
        ("downtime", "downtime", minute(8)),
    ]
    waits = [e.flapping for e in target.events if e.alert is not AlertType.FLAPPING]
    # The end of what was told before is told, too.
    assert waits == [False, False, False, False, True, True, True]
    notice = next(e for e in target.events if e.alert is AlertType.FLAPPING)
    assert notice.facts == {"changes": 4, "within_s": 1200, "calm_s": 600}
    assert target.belief.flapping_since == minute(5)


def test_a_change_after_a_calm_is_told_as_any_other_and_a_new_run_by_a_new_notice() -> None:
    target = Target(FLAPS)
    target.all(checks(UP, DOWN, UP, DOWN, UP))
    assert target.belief.flapping_since is not None
    after = target.all(checks(DOWN, UP, DOWN, UP, first=16))
    assert [event[0] for event in after] == [
        "downtime",
        "recovery",
        "downtime",
        "recovery",
        "flapping",
    ]
    assert not target.events[-5].flapping
    assert target.belief.flapping_since == minute(19)


def test_changes_that_are_far_apart_never_flap() -> None:
    target = Target(FLAPS)
    for number in range(40):
        target.all(checks(DOWN if number % 2 else UP, first=1 + 10 * number))
    assert not any(e.flapping or e.alert is AlertType.FLAPPING for e in target.events)


def test_flapping_can_be_switched_off() -> None:
    target = Target(Alerting(flapping=None))
    target.all(checks(*[UP, DOWN] * 30))
    assert not any(e.flapping or e.alert is AlertType.FLAPPING for e in target.events)


def test_a_long_interval_makes_its_span_longer() -> None:
    assert span_ms(Flapping(within_s=60), 600_000) == 12 * 600_000
    assert calm_ms(Flapping(within_s=3600), 60_000) == 1_800_000


@given(st.lists(st.integers(1, 25), min_size=1, max_size=60), st.integers(3, 6))
def test_there_is_one_notice_for_each_run_of_changes(gaps: list[int], changes: int) -> None:
    """Model: a run ends with a calm; within it the first change that is one of `changes` within the
    span brings the one notice, and every change from there on waits; the end of what was told
    before waits not."""
    policy = Flapping(changes=changes, within_s=1200)
    target = Target(Alerting(flapping=policy))
    target.all(checks(UP, first=0))
    at, moments = 0, []
    for number, gap in enumerate(gaps):
        at += gap
        target.all(checks(UP if number % 2 else DOWN, first=at))
        moments.append(at)
    notices, flapping, run = [], [], []
    on = False
    for number, moment in enumerate(moments):
        if number and moment - moments[number - 1] >= 10:
            on, run = False, []
        run.append(moment)
        before = on
        if not on and len([m for m in run if moment - m <= 20]) >= changes:
            on = True
            notices.append(minute(moment))
        is_down = number % 2 == 0
        flapping.append(on and (before or is_down))
    assert [e.slot for e in target.events if e.alert is AlertType.FLAPPING] == notices
    assert [e.flapping for e in target.events if e.about is AlertType.DOWNTIME] == flapping


@given(st.data())
def test_the_rows_of_a_flapping_target_end_in_one_belief_in_any_order_of_flushes(
    data: st.DataObject,
) -> None:
    statuses = data.draw(st.lists(st.sampled_from([UP, DOWN]), min_size=2, max_size=12))
    whole = checks(*statuses)
    target = Target()
    target.all(data.draw(st.permutations(whole + whole)))
    assert target.belief.verdict is (Verdict.DOWN if statuses[-1].down else Verdict.UP)
