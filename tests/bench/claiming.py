"""Claim and publish: what beat and Redis spend on a check, and what a subscription takes in Redis.

    python -m tests.bench.claiming --subscriptions 500000 --due 50000 --rounds 3

The real beat scheduler's rounds against a real Redis (append-only file on), without PostgreSQL and
workers. In each round `--due` checks are due at once (the queue's bound lets 125,000 in). The
schedule holds all subscriptions meanwhile, so it is as slow as it gets at that size.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import redis

from lighthouse.local import servers
from lighthouse.local.processes import start, stop
from lighthouse.schedule import Claims, Entry, connect
from lighthouse.schedule.keys import LEASE_PREFIX, LEASES
from tests.bench import figures
from tests.bench.figures import Figure

#: The first checks are due now; the others' turn never comes while this runs.
DAY_MS = 86_400_000
BUDGET_PER_CORE = 20_000

_SPEC = '{"type": "http", "config": {"url": "http://127.0.0.1:8080/health", "timeout": 3.0}}'


def measure(*, subscriptions: int, due: int, rounds: int) -> list[Figure]:
    """Costs of beat, of Redis and of both, and Redis' memory."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = servers.prepare_redis(directory, logs=directory / "logs")
        process = start(server.program, server.log)
        try:
            servers.await_ready(server, process)
            return _measure(server.url, process.pid, subscriptions, due, rounds)
        finally:
            stop(process, server.program)


def _measure(url: str, pid: int, subscriptions: int, due: int, rounds: int) -> list[Figure]:
    os.environ.update({"REDIS_URL": url, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"})
    from lighthouse.fleet.application import app  # reads the environment
    from lighthouse.fleet.beat import Scheduler

    client = connect(url)
    empty = _memory(client)
    claims = Claims(client)
    ids = [uuid4() for _ in range(subscriptions)]
    claims.upsert(_entries(ids, due=0))
    bytes_each = (_memory(client) - empty) / subscriptions
    beat = Scheduler(app, lazy=True)
    claimed, ours, theirs, wall = 0, 0.0, 0.0, 0.0
    for turn in range(rounds):
        claims.upsert(_entries(ids[:due], due=due, epoch=turn + 2))
        before, redis_before, began = time.process_time(), _cpu_s(pid), time.monotonic()
        while beat.tick() == 0.0:  # more is due
            pass
        ours += time.process_time() - before
        theirs += _cpu_s(pid) - redis_before
        wall += time.monotonic() - began
        claimed += _drain(client)
    beat.close()
    return [
        Figure(
            key="claim_publish_per_core",
            figure="claim + publish, beat and Redis together on one core",
            value=claimed / (ours + theirs),
            unit="checks/s",
            at_least=BUDGET_PER_CORE,
            note=f"{claimed / wall:,.0f}/s by the clock, {subscriptions:,} scheduled",
        ),
        Figure(
            key="claim_beat_us",
            figure="claim + publish: beat's CPU time of a check",
            value=ours * 1e6 / claimed,
            unit="µs",
        ),
        Figure(
            key="claim_redis_us",
            figure="claim + publish: Redis' CPU time of a check",
            value=theirs * 1e6 / claimed,
            unit="µs",
        ),
        Figure(
            key="redis_subscription_bytes",
            figure="Redis' memory of a scheduled subscription",
            value=bytes_each,
            unit="bytes",
        ),
    ]


def _entries(ids: list[UUID], *, due: int, epoch: int = 1) -> Iterator[Entry]:
    """The first `due` ones are due now; a new epoch re-seats what was claimed before."""
    now = int(time.time() * 1000)
    for number, subscription_id in enumerate(ids):
        yield Entry(
            subscription_id=subscription_id,
            version=epoch,
            interval_ms=DAY_MS,
            phase_ms=subscription_id.int % DAY_MS,
            first_slot=now - 1000 if number < due else now + DAY_MS,
            epoch=epoch,
            queue="checks",
            spec=_SPEC,
        )


def _drain(client: "redis.Redis") -> int:
    """Take away batches and leases as workers would; how many checks they held."""
    checks = 0
    for key in client.scan_iter(LEASE_PREFIX + "*", count=1000):
        checks += len(client.hget(key, "b") or b"") // 24
        client.delete(key)
    client.delete(LEASES, "checks", "alerts", "maintenance")
    return checks


def _memory(client: "redis.Redis") -> int:
    found = client.info("memory")
    return int(found["used_memory"])


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    figures.run(__doc__, measure, subscriptions=500_000, due=50_000, rounds=3)
