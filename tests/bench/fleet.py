"""The whole fleet for as long as wanted, killed part by part or not: what became of each due slot.

    python -m tests.bench.fleet --subscriptions 10000 --interval 60 --seconds 600
    python -m tests.bench.fleet --subscriptions 10000 --interval 60 --seconds 300 --workers 2 --kill

`--kill` kills a worker, beat, Redis and PostgreSQL with SIGKILL one after another during the load.
At the end the history checker says whether the invariants held. Not part of `make bench`: it waits
until every slot has been accounted for.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import spans, transport
from tests.support.checker import check
from tests.support.fleet import Fleet

#: Seconds before the measured span: everything is scheduled, pools and caches are warm.
WARM_UP_S = 15.0
GRACE_S = 30
#: Seconds between two kills, and from a kill to the new start.
KILL_EVERY_S, DEAD_S = 45.0, 5.0

_WATERMARK = "SELECT max((value->>'slot')::bigint) FROM fleet_state WHERE key = 'accounted_to'"
_CHECKS_SINCE = """
SELECT count(*) FROM check_history
 WHERE time > to_timestamp(%s / 1000.0) AND status <> 'missed'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscriptions", type=int, default=10_000)
    parser.add_argument("--interval", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with transport.target(Path(name)) as (urls, _):
            told = _measure(options, Path(name) / "fleet", urls["http"])
    print(json.dumps(told, indent=2))
    if not told["invariants"]:
        sys.exit(1)


def _measure(options: argparse.Namespace, directory: Path, url: str) -> dict[str, Any]:
    with Fleet(directory, durable=True, LIGHTHOUSE_MISSED_GRACE_S=str(GRACE_S)) as fleet:
        fleet.stop("target")
        fleet.start_beat()
        for n in range(options.workers):
            fleet.start_worker(f"w{n + 1}")
        fleet.subscribe(options.subscriptions, interval_s=options.interval, url=url)
        time.sleep(WARM_UP_S + (options.interval if options.interval <= 15 else 0))
        before, first, began = fleet.cpu_seconds(), spans.now(), time.monotonic()
        kills = _kill(fleet, options.seconds) if options.kill else []
        time.sleep(max(0.0, options.seconds - (time.monotonic() - began)))
        span = spans.close(fleet, before, first, began)
        fleet.wait_for(
            "the watermark",
            lambda: fleet.scalar(_WATERMARK) >= span.until,
            GRACE_S + 120,
        )
        found = check(fleet.database_url, until=span.until)
        try:
            found.assert_invariants(delivered=False)
            held, why = True, ""
        except AssertionError as exc:
            held, why = False, str(exc)
        return {
            "subscriptions": options.subscriptions,
            "interval_s": options.interval,
            "seconds": round(span.seconds, 1),
            "checks": span.checks,
            "checks_per_s": round(span.rate),
            "cpu_s": {name: round(value, 2) for name, value in span.cpu_s.items()},
            "checks_per_cpu_s": round(span.checks_per_cpu_s) if not kills else None,
            "start_delay_ms": span.delay_ms,
            "latency_ms": span.latency_ms,
            "memory_mb": {name: round(value) for name, value in span.memory_mb.items()},
            "due": found.due,
            "statuses": dict(found.statuses),
            "coverage": round(found.coverage, 6),
            "invariants": held,
            "broken": why,
            "kills": kills,
        }


def _kill(fleet: Fleet, seconds: float) -> list[dict[str, Any]]:
    """Kill each part once; how long after its return until checks were recorded again."""
    kills: list[dict[str, Any]] = []
    ends = time.monotonic() + seconds
    for name in ("w1", "beat", "redis", "postgres"):
        if time.monotonic() + KILL_EVERY_S > ends:
            break
        time.sleep(KILL_EVERY_S / 3)
        fleet.kill(name)
        time.sleep(DEAD_S)
        fleet.again(name)
        back, at = spans.now(), time.monotonic()
        _await_checks(fleet, f"checks after {name}'s return", back)
        kills.append({"killed": name, "checks_again_after_s": round(time.monotonic() - at, 1)})
        time.sleep(KILL_EVERY_S * 2 / 3)
    return kills


def _await_checks(fleet: Fleet, what: str, since: int) -> None:
    fleet.wait_for(what, lambda: fleet.scalar(_CHECKS_SINCE, since) > 0)


if __name__ == "__main__":
    main()
