"""Start delay, coverage and cost as subscriptions grow in number, all of one fleet.

python -m tests.bench.growth --levels 1000,10000,50000 --interval 60 --seconds 40
"""

import tempfile
import time
from pathlib import Path

from tests.bench import figures, spans, transport
from tests.bench.figures import Figure
from tests.support.fleet import Fleet

#: The level whose start delay has a budget, and the budgets.
BUDGET_LEVEL = 10_000
DELAY_S, COVERAGE_PERCENT = 0.5, 100.0


def measure(*, levels: str, interval: int, seconds: float, warm_s: float) -> list[Figure]:
    """Figures of each level, and of memory at the last one."""
    told: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        with (
            transport.target(directory) as (urls, _),
            Fleet(directory / "fleet", durable=True) as fleet,
        ):
            fleet.start_beat()
            fleet.start_worker()
            there = 0
            for level in map(int, levels.split(",")):
                # Named by their number: a second lot must not meet the names of the first.
                fleet.subscribe(
                    level - there, interval_s=interval, path=f"/{level}", url=urls["http"]
                )
                there = level
                spans.await_calm(fleet, level)
                time.sleep(warm_s)
                told += _told(level, spans.measure(fleet, seconds))
    return told


def _told(level: int, span: spans.Span) -> list[Figure]:
    strict = level == BUDGET_LEVEL
    return [
        Figure(
            key=f"start_delay_p99_{level}",
            figure=f"start delay at {level:,} subscriptions, p99",
            value=span.delay_ms["p99"] / 1000,
            unit="s",
            at_most=DELAY_S if strict else None,
            note=f"p50 {span.delay_ms['p50'] / 1000:g} s, max {span.delay_ms['max'] / 1000:g} s,"
            f" {span.rate:,.0f} checks/s",
        ),
        Figure(
            key=f"coverage_{level}",
            figure=f"coverage at {level:,} subscriptions",
            value=span.coverage * 100,
            unit="%",
            at_least=COVERAGE_PERCENT if strict else None,
            note=f"{span.judged:,} of {span.due:,} due",
        ),
        Figure(
            key=f"cost_{level}_us",
            figure=f"CPU time of a check at {level:,} subscriptions",
            value=span.us_per_check(),
            unit="µs",
            note=f"{sum(span.cpu_s.values()) / span.seconds:.2f} cores in all: "
            + ", ".join(f"{name} {span.us_per_check(name):.0f} µs" for name in span.cpu_s),
        ),
    ]


if __name__ == "__main__":
    figures.run(__doc__, measure, levels="1000,10000,50000", interval=60, seconds=40.0, warm_s=10.0)
