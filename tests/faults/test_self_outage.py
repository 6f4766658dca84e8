"""The prober's own outage on real processes: everything falls silent at once, and nobody is woken
but the operator."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lighthouse.local import servers
from tests.faults.test_processes import GRACE_S, now, real_rows, settle
from tests.support.fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S)) as made:
        yield made


def test_silence_everywhere_is_no_downtime_and_one_alert_to_the_operator(fleet: Fleet) -> None:
    """Fails when `Health.take` records a timeout without proof: 300 targets are told as down."""
    fleet.subscribe(300, interval_s=10)
    fleet.start_beat()
    fleet.start_worker("w1")
    fleet.start_worker("w2")
    fleet.wait_for("first results", lambda: real_rows(fleet) >= 250)
    fleet.signal("target", signal.SIGSTOP)
    fleet.wait_for(
        "results of the outage",
        lambda: (
            fleet.scalar("SELECT count(*) FROM check_history WHERE error_code = 'prober_unproved'")
            >= 200
        ),
        60,
    )
    time.sleep(1)
    events = fleet.query("SELECT alert_type::text, count(*) FROM alert_history GROUP BY 1")
    assert events == [("operator", 1)]
    assert fleet.scalar("SELECT count(*) FROM subscription_state WHERE verdict = 'down'") == 0
    fleet.signal("target", signal.SIGCONT)
    back = now()
    fleet.wait_for(
        "results after the outage",
        lambda: (
            fleet.scalar(
                "SELECT count(*) FROM check_history WHERE status = 'success'"
                f" AND time > to_timestamp({back} / 1000.0)"
            )
            >= 200
        ),
        40,
    )
    settle(fleet).assert_invariants()


def test_one_silent_target_among_others_is_down(fleet: Fleet) -> None:
    """Fails when `Health._proved` lets go only after an alarm: its silence is stored as `error`."""
    fleet.subscribe(10, interval_s=10)
    (hanging,) = fleet.subscribe(1, interval_s=10, path="/hang")
    fleet.start_beat()
    fleet.start_worker("w1")
    fleet.wait_for(
        "the downtime",
        lambda: (
            fleet.query(
                "SELECT verdict::text FROM subscription_state WHERE subscription_id = %s", hanging
            )
            == [("down",)]
        ),
        60,
    )
    assert fleet.query("SELECT alert_type::text FROM alert_history") == [("downtime",)]


@pytest.mark.parametrize("reference", [False, True])
def test_a_refused_connection_in_a_small_fleet_is_down(tmp_path: Path, reference: bool) -> None:
    """Fails when `Pauses.spare` lets nothing be near: each refusal is stored as `error`."""
    with Fleet(tmp_path) as fleet:
        fleet.subscribe(1, interval_s=20)
        closed = f"http://127.0.0.1:{servers.free_port()}/"
        (refused,) = fleet.subscribe(1, interval_s=10, path="closed", urls=(closed,))
        if reference:
            fleet.environment["LIGHTHOUSE_REFERENCE_TARGETS"] = fleet.url("/ok")
        fleet.start_beat()
        fleet.start_worker("w1")
        fleet.wait_for(
            "three results of it",
            lambda: (
                fleet.scalar(
                    f"SELECT count(*) FROM check_history WHERE subscription_id = '{refused}'"
                )
                >= 3
            ),
            40,
        )
        assert fleet.query(
            "SELECT DISTINCT status::text, error_code FROM check_history"
            " WHERE subscription_id = %s",
            refused,
        ) == [("failure", "connection_refused")]
        assert fleet.query("SELECT alert_type::text FROM alert_history") == [("downtime",)]
