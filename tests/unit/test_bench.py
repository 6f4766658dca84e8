"""What the benchmark computes from its figures: budgets, scale, tables."""

import json
import math
from typing import Any

from tests.bench import report, scale
from tests.bench.figures import Figure, recorded, table

COSTS = scale.Costs(
    beat_s=3e-6,
    claim_s=10e-6,
    redis_s=20e-6,
    worker_s=140e-6,
    https_worker_s=900e-6,
    postgres_s=35e-6,
    redis_bytes=400,
    row_bytes=200,
    compressed_bytes=20,
    compressed_measured=True,
    rollup_bytes=50,
)


def document(*keys: str) -> dict[str, Any]:
    figures = [Figure(key=key, figure=key, value=10.0, unit="µs", at_most=20) for key in keys]
    return {
        "date": "2026-11-25T10:00:00+00:00",
        "quick": False,
        "machine": {
            "processor": "a processor",
            "cores": 2,
            "memory_gb": 8,
            "system": "Linux",
            "python": "3.11",
        },
        "figures": [recorded(figure, "python -m tests.bench.load") for figure in figures],
    }


def test_a_budget_is_met_at_its_bound_and_unknown_without_a_value() -> None:
    at_least = Figure(key="k", figure="rate", value=2.5, unit="×", at_least=2.5)
    at_most = Figure(key="k", figure="delay", value=0.6, unit="s", at_most=0.5)
    unknown = Figure(key="k", figure="delay", value=None, unit="s", at_most=0.5, note="no tool")
    assert (at_least.met, at_most.met, unknown.met) == (True, False, None)
    assert (at_least.budget, at_most.budget) == ("≥ 2.5", "≤ 0.5")
    assert table([at_most, unknown]).splitlines()[1].split() == [
        "delay",
        "0.6",
        "s",
        *["≤", "0.5", "NO"],
    ]
    assert "no tool" in table([unknown])


def test_a_figure_stands_in_the_json_with_budget_and_command() -> None:
    figure = Figure(key="k", figure="rate", value=1 / 3, unit="×", at_least=0.3)
    assert json.loads(json.dumps(recorded(figure, "make bench"))) == {
        "key": "k",
        "figure": "rate",
        "value": 0.333333,
        "unit": "×",
        "at_least": 0.3,
        "at_most": None,
        "note": "",
        "budget": "≥ 0.3",
        "met": True,
        "command": "make bench",
    }


def test_a_million_a_minute_needs_rate_times_cost() -> None:
    needed = scale.need(COSTS, 1_000_000)
    assert round(needed.rate) == 16_667
    assert (needed.beats, needed.redis_servers, needed.worker_cores) == (1, 1, 4)
    assert (needed.database_cores, needed.database_servers) == (1, 1)
    assert needed.redis_gb == 0.4
    assert needed.https_worker_cores == 22
    assert needed.rollups_tb == 0.438
    assert round(needed.raw_gb_a_day) == 288


def test_the_lowest_limit_comes_first() -> None:
    found = scale.limits(COSTS)
    assert [limit.part.split()[1] for limit in found] == ["worker", "Redis", "beat", "database"]
    assert round(found[1].a_minute) == 2_100_000


def test_a_redis_beyond_its_core_is_late_and_never_catches_up() -> None:
    easy, hard, beyond = (scale.simulate(COSTS, share) for share in (0.5, 0.9, 1.1))
    assert easy.delay_p99_s < 0.2
    assert 5 < easy.recovered_s < 20
    assert easy.recovered_s < hard.recovered_s
    assert beyond.delay_p99_s > 1
    assert math.isinf(beyond.recovered_s)


def test_scale_reads_a_run_and_says_what_was_not_measured() -> None:
    keys = (
        *("claim_beat_us", "claim_redis_us", "http_redis_us", "http_worker_us", "http_postgres_us"),
        *("redis_subscription_bytes", "row_bytes_plain"),
    )
    told = scale.told(document(*keys))
    assert "| checks a second | 16,667 | 166,667 | 1,666,667 |" in told
    assert "20 compressed (the budget: not measured)" in told
    assert "| hourly rollups of a year | not measured | not measured | not measured |" in told


def test_the_readme_table_has_date_machine_and_command() -> None:
    lines = report.markdown(document("one")).splitlines()
    assert lines[0] == "2026-11-25, 2 cores of a processor, 8 GB, Linux, Python 3.11; `make bench`."
    assert lines[-1] == "| one | 10 µs | ≤ 20 | yes |  |"
