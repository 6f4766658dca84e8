"""What 1, 10 and 100 million subscriptions a minute need, from the unit costs that a run measured.

    python -m tests.bench.scale build/bench.json

Two parts. On paper: each part's measured cost of a check, times the rate, is the cores that it
needs; where one instance of a part cannot grow past a core, that is a limit, and the table says
what moves it. By simulation: claims against a Redis of the measured speed show what start delay it
gives at which load, and how soon it has caught up after an outage, for paper knows no queues.
"""

import argparse
import heapq
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MINUTE_S, DAY_S, YEAR_HOURS = 60, 86_400, 8_760
#: Subscriptions that are each checked once a minute.
SIZES = (1_000_000, 10_000_000, 100_000_000)
#: No part is planned to be busier than this: above it queues grow faster than work.
BUSY = 0.7
#: Cores of one database server; PostgreSQL uses as many as there are connections at work.
DATABASE_CORES = 32
#: Days of raw history: one week as it is written, the rest of the 90 compressed.
RAW_DAYS, COMPRESSED_DAYS = 7, 83
#: What a design budget promises, where the run's edition could not measure it.
BUDGET_COMPRESSED_BYTES = 20.0
#: Checks of one claim: Redis serves nobody else meanwhile.
CLAIM = 1000
#: How often a beat claims, in seconds.
TICK_S = 0.1
#: What is simulated: shares of Redis' core, and how long it is away.
SHARES, OUTAGE_S = (0.3, 0.5, 0.7, 0.9, 0.98, 1.1), 10.0
#: Parts of a claim whose delays are told apart.
SLICES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Unit costs, CPU times in seconds of one check."""

    beat_s: float
    claim_s: float  #: Redis' part of a claim
    redis_s: float  #: that, leases, queue and hand-over: what the whole fleet asks of it
    worker_s: float
    https_worker_s: float | None
    postgres_s: float
    redis_bytes: float  #: of a scheduled subscription
    row_bytes: float
    compressed_bytes: float
    compressed_measured: bool
    rollup_bytes: float | None  #: of an hour of a subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a size needs."""

    subscriptions: int
    rate: float  #: checks a second
    beats: int
    redis_servers: int
    redis_gb: float  #: of all servers together
    worker_cores: int
    https_worker_cores: int | None  #: the same when every check is HTTPS
    database_cores: int
    database_servers: int
    written_mb_s: float
    raw_gb_a_day: float
    disk_tb: float
    rollups_tb: float | None  #: hours of a year


def costs_of(document: Mapping[str, Any]) -> Costs:
    """Unit costs out of a run's JSON. Raises KeyError for a figure that the run does not have."""
    values = {f["key"]: f["value"] for f in document["figures"] if f["value"] is not None}
    row = values.get("row_bytes_community") or values.get("row_bytes_apache")
    compressed = values.get("row_bytes_compressed")
    https = values.get("https_worker_us")
    rollup = next(
        (v for e in ("community", "apache", "plain") if (v := values.get(f"hour_bytes_{e}"))), None
    )
    return Costs(
        beat_s=values["claim_beat_us"] / 1e6,
        claim_s=values["claim_redis_us"] / 1e6,
        redis_s=max(values["http_redis_us"], values["claim_redis_us"]) / 1e6,
        worker_s=values["http_worker_us"] / 1e6,
        https_worker_s=https / 1e6 if https else None,
        postgres_s=values["http_postgres_us"] / 1e6,
        redis_bytes=values["redis_subscription_bytes"],
        row_bytes=row or values["row_bytes_plain"],
        compressed_bytes=compressed or BUDGET_COMPRESSED_BYTES,
        compressed_measured=compressed is not None,
        rollup_bytes=rollup,
    )


def need(costs: Costs, subscriptions: int) -> Need:
    """On paper: rates times costs, no part busier than BUSY."""
    rate = subscriptions / MINUTE_S
    database_cores = math.ceil(rate * costs.postgres_s / BUSY)
    day = rate * DAY_S
    return Need(
        subscriptions=subscriptions,
        rate=rate,
        beats=math.ceil(rate * costs.beat_s / BUSY),
        redis_servers=math.ceil(rate * costs.redis_s / BUSY),
        redis_gb=subscriptions * costs.redis_bytes / 1e9,
        worker_cores=math.ceil(rate * costs.worker_s / BUSY),
        https_worker_cores=math.ceil(rate * costs.https_worker_s / BUSY)
        if costs.https_worker_s
        else None,
        database_cores=database_cores,
        database_servers=math.ceil(database_cores / DATABASE_CORES),
        written_mb_s=rate * costs.row_bytes * 2 / 1e6,  # the row, and the log that it is first in
        raw_gb_a_day=day * costs.row_bytes / 1e9,
        disk_tb=day
        * (RAW_DAYS * costs.row_bytes + COMPRESSED_DAYS * costs.compressed_bytes)
        / 1e12,
        rollups_tb=subscriptions * YEAR_HOURS * costs.rollup_bytes / 1e12
        if costs.rollup_bytes
        else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Where one instance of a part ends, and what moves it."""

    part: str
    a_minute: float  #: subscriptions
    moved_by: str


def limits(costs: Costs) -> list[Limit]:
    """The lowest first."""
    found = [
        Limit(
            part="one worker (a core)",
            a_minute=BUSY / costs.worker_s * MINUTE_S,
            moved_by="more workers",
        ),
        Limit(
            part="one Redis (a core)",
            a_minute=BUSY / costs.redis_s * MINUTE_S,
            moved_by="the schedule split by subscription over several, each with its beat and"
            " workers",
        ),
        Limit(
            part="one beat (a core)",
            a_minute=BUSY / costs.beat_s * MINUTE_S,
            moved_by="more beats, for claims are atomic",
        ),
        Limit(
            part=f"one database ({DATABASE_CORES} cores)",
            a_minute=BUSY * DATABASE_CORES / costs.postgres_s * MINUTE_S,
            moved_by="several databases, each with its own part of the subscriptions",
        ),
    ]
    return sorted(found, key=lambda limit: limit.a_minute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """Two minutes of one Redis server and its beats."""

    delay_p99_s: float  #: slot to claim, in the minute before the outage
    recovered_s: float  #: from the outage's end until claims are on time; infinite if never


def simulate(costs: Costs, share: float) -> Simulated:
    """A server that is asked for `share` of its core, and is away for OUTAGE_S after a minute.

    Each beat claims every TICK_S what is due, up to CLAIM checks, and at once again when there is
    more; a claim and what workers ask because of it hold the server, the claim and its publishing
    hold the beat. Slots come evenly, for phases are spread by the ids.
    """
    rate = share / costs.redis_s
    beats = math.ceil(rate * costs.beat_s / BUSY)
    turns = [(n * TICK_S / beats, n) for n in range(beats)]  # when each beat claims next
    heapq.heapify(turns)
    back = MINUTE_S + OUTAGE_S
    claimed, free_at, recovered = 0, 0.0, math.inf
    delays: list[tuple[float, int]] = []
    while turns[0][0] < 2 * MINUTE_S + OUTAGE_S:
        at, beat = heapq.heappop(turns)
        begin = max(at, free_at)
        if MINUTE_S <= begin < back:
            begin = back
        number = min(CLAIM, int(begin * rate) - claimed)
        oldest = begin - claimed / rate
        for part in range(SLICES if number > 0 and begin < MINUTE_S else 0):
            delays.append((begin - (claimed + number * part / SLICES) / rate, number))
        if begin >= back and oldest <= 2 * TICK_S:
            recovered = min(recovered, begin - back)
        claimed += max(0, number)
        free_at = begin + number * costs.redis_s
        done = begin + number * (costs.claim_s + costs.beat_s)
        heapq.heappush(turns, (done if number == CLAIM else max(done, at + TICK_S), beat))
    return Simulated(delay_p99_s=_weighted(delays, 0.99), recovered_s=recovered)


def _weighted(delays: Sequence[tuple[float, int]], share: float) -> float:
    left = share * sum(number for _, number in delays)
    for delay, number in sorted(delays):
        left -= number
        if left <= 0:
            return delay
    return math.inf


def _table(costs: Costs) -> Iterator[str]:
    needs = [need(costs, size) for size in SIZES]
    yield "| subscriptions a minute | " + " | ".join(f"{n.subscriptions:,}" for n in needs) + " |"
    yield "|---|" + "---|" * len(needs)
    rows: tuple[tuple[str, list[str]], ...] = (
        ("checks a second", [f"{n.rate:,.0f}" for n in needs]),
        ("beats (a core each)", [f"{n.beats:,}" for n in needs]),
        ("Redis servers (a core each)", [f"{n.redis_servers:,}" for n in needs]),
        ("Redis memory, all together", [f"{n.redis_gb:,.1f} GB" for n in needs]),
        ("worker cores", [f"{n.worker_cores:,}" for n in needs]),
        ("worker cores, all of it HTTPS", [_count(n.https_worker_cores) for n in needs]),
        ("database cores", [f"{n.database_cores:,}" for n in needs]),
        (f"databases of {DATABASE_CORES} cores", [f"{n.database_servers:,}" for n in needs]),
        ("written, log included", [f"{n.written_mb_s:,.0f} MB/s" for n in needs]),
        ("raw rows of a day", [f"{n.raw_gb_a_day:,.0f} GB" for n in needs]),
        (
            f"disk for {RAW_DAYS + COMPRESSED_DAYS} days, {COMPRESSED_DAYS} of them compressed",
            [f"{n.disk_tb:,.1f} TB" for n in needs],
        ),
        ("hourly rollups of a year", [_terabytes(n.rollups_tb) for n in needs]),
    )
    for name, cells in rows:
        yield f"| {name} | {' | '.join(cells)} |"


def _count(cores: int | None) -> str:
    return "not measured" if cores is None else f"{cores:,}"


def _terabytes(size: float | None) -> str:
    return "not measured" if size is None else f"{size:,.1f} TB"


def _simulation(costs: Costs) -> Iterator[str]:
    yield "| one Redis asked for | subscriptions a minute | slot → claim, p99 | on time again |"
    yield "|---|---|---|---|"
    for share in SHARES:
        found = simulate(costs, share)
        again = "not within a minute" if math.isinf(found.recovered_s) else _seconds(found)
        yield (
            f"| {share:.0%} of its core | {share / costs.redis_s * MINUTE_S:,.0f}"
            f" | {found.delay_p99_s * 1000:,.0f} ms | {again} |"
        )


def _seconds(found: Simulated) -> str:
    return f"{found.recovered_s:.1f} s"


def told(document: Mapping[str, Any]) -> str:
    """Costs, needs and limits as Markdown."""
    costs = costs_of(document)
    compressed = f"{costs.compressed_bytes:.0f} compressed"
    https = f" (HTTPS {costs.https_worker_s * 1e6:.0f} µs)" if costs.https_worker_s else ""
    rollup = f", {costs.rollup_bytes:.0f} an hour's rollup" if costs.rollup_bytes else ""
    lines = [
        "Measured costs of a check: "
        f"worker {costs.worker_s * 1e6:.0f} µs{https}, PostgreSQL {costs.postgres_s * 1e6:.0f} µs, "
        f"Redis {costs.redis_s * 1e6:.1f} µs, beat {costs.beat_s * 1e6:.1f} µs; "
        f"{costs.row_bytes:.0f} bytes raw, {compressed}"
        f"{'' if costs.compressed_measured else ' (the budget: not measured)'}{rollup}; "
        f"{costs.redis_bytes:.0f} bytes of Redis a subscription. "
        f"No part is planned to be busier than {BUSY:.0%}.",
        "",
        *_table(costs),
        "",
        "| one instance of | ends at, subscriptions a minute | moved by |",
        "|---|---|---|",
        *(f"| {li.part} | {li.a_minute:,.0f} | {li.moved_by} |" for li in limits(costs)),
        "",
        f"Simulated, with an outage of {OUTAGE_S:.0f} s after a minute:",
        "",
        *_simulation(costs),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    print(told(json.loads(options.file.read_text())))


if __name__ == "__main__":
    main()
