"""Everything killed, Redis empty: how soon all subscriptions are scheduled again.

    python -m tests.bench.restart --subscriptions 10000 --times 3

The time runs from the start of the first program (PostgreSQL, which recovers, then Redis, beat and
a worker) until the schedule is whole.
"""

import tempfile
import time
from pathlib import Path

from lighthouse.errors import LighthouseError
from lighthouse.schedule import Claims, connect
from tests.bench import figures
from tests.bench.figures import Figure
from tests.support.fleet import Fleet

INTERVAL_S = 60
BUDGET_S = 5.0
#: Time in which the checks before a kill leave dirty pages and a log to recover from.
RUNNING_S = 3.0


def measure(*, subscriptions: int, times: int) -> list[Figure]:
    """The slowest of some restarts."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Fleet(directory, durable=True) as fleet:
            fleet.start_beat()
            fleet.start_worker()
            fleet.subscribe(subscriptions, interval_s=INTERVAL_S)
            _await_whole(fleet, subscriptions)
            took = [_again(fleet, subscriptions) for _ in range(times)]
    return [
        Figure(
            key="restart_s",
            figure=f"restart of everything with {subscriptions:,} subscriptions: all scheduled",
            value=max(took),
            unit="s",
            at_most=BUDGET_S,
            note=f"{times} times: {', '.join(f'{seconds:.1f}' for seconds in took)} s",
        )
    ]


def _again(fleet: Fleet, subscriptions: int) -> float:
    time.sleep(RUNNING_S)
    for name in ("beat", "w1", "redis", "postgres"):
        fleet.kill(name)
    for kept in (fleet.directory / "redis").glob("*.aof"):
        kept.unlink()
    began = time.monotonic()
    for name in ("postgres", "redis", "beat", "w1"):
        fleet.again(name)
    _await_whole(fleet, subscriptions)
    return time.monotonic() - began


def _await_whole(fleet: Fleet, subscriptions: int) -> None:
    claims = Claims(connect(fleet.redis_url))

    def whole() -> bool:
        try:
            return claims.size() == subscriptions
        except LighthouseError:
            return False

    fleet.wait_for("a whole schedule", whole)


if __name__ == "__main__":
    figures.run(__doc__, measure, subscriptions=10_000, times=3)
