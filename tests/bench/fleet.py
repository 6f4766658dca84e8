"""The whole fleet under a steady load: what a check costs, how late it starts, what was covered.

    python -m tests.bench.fleet --subscriptions 10000 --interval 60 --seconds 600
    python -m tests.bench.fleet --subscriptions 30000 --interval 10 --seconds 30 --compare
    python -m tests.bench.fleet --subscriptions 10000 --interval 60 --seconds 300 --kill

Beat, workers, Redis and PostgreSQL (with fsync) are real processes; their CPU time is summed over
the measured span, children and the checks' own writes included; the target's is not. `--compare`
measures blackbox_exporter and OpenSSL on the same target in the same run. `--kill` kills a worker,
beat, Redis and PostgreSQL with SIGKILL one after another during the load. At the end the history
checker says whether the invariants held.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lighthouse.model import to_slot
from tests.bench import transport
from tests.support.checker import check
from tests.support.fleet import Fleet

#: Seconds before the measured span: everything is scheduled, pools and caches are warm.
WARM_UP_S = 15.0
GRACE_S = 30
#: Seconds between two kills, and from a kill to the new start.
KILL_EVERY_S, DEAD_S = 45.0, 5.0

_WATERMARK = "SELECT max((value->>'slot')::bigint) FROM fleet_state WHERE key = 'accounted_to'"

_DELAYS = """
SELECT count(*), percentile_disc(ARRAY[0.5, 0.95, 0.99, 1.0]) WITHIN GROUP (ORDER BY delay_ms),
       percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY latency_ms)
  FROM check_history
 WHERE time > to_timestamp(%s / 1000.0) AND time <= to_timestamp(%s / 1000.0)
   AND status <> 'missed'
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscriptions", type=int, default=10_000)
    parser.add_argument("--interval", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with transport._target(Path(name)) as (urls, ca_file):
            url = urls["https" if options.tls else "http"]
            figures = _measure(options, Path(name) / "fleet", url, ca_file)
            print(json.dumps(figures, indent=2), flush=True)
            if options.compare:
                peers = _peers(options, Path(name), url, ca_file, figures)
                print(json.dumps(peers, indent=2))
    if not figures["invariants"]:
        sys.exit(1)


def _measure(
    options: argparse.Namespace, directory: Path, url: str, ca_file: Path
) -> dict[str, Any]:
    environment = {"LIGHTHOUSE_MISSED_GRACE_S": str(GRACE_S), "LIGHTHOUSE_CA_FILE": str(ca_file)}
    with Fleet(directory, durable=True, **environment) as fleet:
        fleet.stop("target")
        fleet.start_beat()
        workers = [f"w{n + 1}" for n in range(options.workers)]
        for worker in workers:
            fleet.start_worker(worker)
        fleet.subscribe(options.subscriptions, interval_s=options.interval, url=url)
        time.sleep(WARM_UP_S + (options.interval if options.interval <= 15 else 0))
        first, before, began = _now(), fleet.cpu_seconds(), time.monotonic()
        kills = _kill(fleet, options.seconds) if options.kill else []
        time.sleep(max(0.0, options.seconds - (time.monotonic() - began)))
        after, until = fleet.cpu_seconds(), _now()
        span, memory = time.monotonic() - began, fleet.memory_mb()
        time.sleep(min(options.interval, 10) + 2)  # what was due in the span has ended
        number, delays, latencies = fleet.query(_DELAYS, first, until)[0]
        spent = {name: after[name] - before.get(name, 0.0) for name in after}
        fleet.wait_for(
            "the watermark",
            lambda: fleet.scalar(_WATERMARK) >= until,
            GRACE_S + 120,
        )
        found = check(fleet.database_url, until=until)
        try:
            found.assert_invariants(delivered=False)
            held, why = True, ""
        except AssertionError as exc:
            held, why = False, str(exc)
        size = fleet.scalar(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits"
            " WHERE inhparent = 'check_history'::regclass"
        )
        rows = fleet.scalar("SELECT count(*) FROM check_history")
        return {
            "subscriptions": options.subscriptions,
            "interval_s": options.interval,
            "seconds": round(span, 1),
            "checks": number,
            "checks_per_s": round(number / span),
            "cpu_s": {name: round(value, 2) for name, value in spent.items()},
            "checks_per_cpu_s": round(number / sum(spent.values())) if not kills else None,
            "start_delay_ms": dict(zip(("p50", "p95", "p99", "max"), delays, strict=True)),
            "latency_ms": dict(zip(("p50", "p99"), latencies, strict=True)),
            "memory_mb": {name: round(value) for name, value in memory.items()},
            "bytes_per_row": round(float(size) / rows),
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
        back, at = _now(), time.monotonic()
        fleet.wait_for(
            f"checks after {name}'s return",
            lambda since=back: (
                fleet.scalar(
                    "SELECT count(*) FROM check_history WHERE time > to_timestamp(%s / 1000.0)"
                    " AND status <> 'missed'",
                    since,
                )
                > 0
            ),
        )
        kills.append({"killed": name, "checks_again_after_s": round(time.monotonic() - at, 1)})
        time.sleep(KILL_EVERY_S * 2 / 3)
    return kills


def _peers(
    options: argparse.Namespace, directory: Path, url: str, ca_file: Path, figures: dict[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    ours = figures["checks_per_cpu_s"]
    if shutil.which("prometheus-blackbox-exporter"):
        for name, load in (("", figures["checks_per_s"]), ("_at_full_load", None)):
            rate = transport._blackbox(url, ca_file, 10.0, directory, load)
            found[f"blackbox_exporter{name}_per_cpu_s"] = round(rate)
            found[f"times_blackbox_exporter{name}"] = round(ours / rate, 2) if ours else None
    if options.tls and shutil.which("openssl"):
        rate = transport._openssl(url, 10.0)
        found["openssl_handshakes_per_cpu_s"] = round(rate)
        found["share_of_openssl"] = round(ours / rate, 2) if ours else None
    return found


def _now() -> int:
    return to_slot(datetime.now(UTC))


if __name__ == "__main__":
    main()
