"""How far a measured latency lies from the target's own clock, with a worker at 70 % of a core.

    python -m tests.bench.accuracy --share 0.7 --seconds 15
    python -m tests.bench.accuracy serve PORT          (the target)

The target waits a random time before each answer and notes its own monotonic clock from the
connection to the answer. Each subscription has a path of its own, so a note and a row meet by the
number in the path and the slot. A worker's capacity is one core, for its engine is one thread:
subscriptions are added until it is at the share asked for. What the machine's other programs take
from it is in the error, as in life.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, cast
from urllib.request import urlopen
from uuid import UUID

import uvloop

from tests.bench import figures, spans
from tests.bench.figures import Figure, percentile
from tests.support.fleet import Fleet

INTERVAL_S = 10
TIMEOUT_S = 5.0
#: The target's delay, in seconds: from a quick API to a slow one.
DELAY_S = (0.005, 0.1)
BUDGET_MS = 5.0
#: A check costs less at a higher rate, so the first guess falls short; so many more are made.
GUESSES = 3
#: Seconds of the span that a guess is made from.
GUESS_S = 4.0

_ROWS = """
SELECT subscription_id, (extract(epoch FROM time) * 1000)::bigint, latency_ms
  FROM check_history
 WHERE time > to_timestamp(%s / 1000.0) AND time <= to_timestamp(%s / 1000.0)
   AND status = 'success' AND attempts = 1
"""


def measure(*, share: float, seconds: float, warm_s: float, first: int, most: int) -> list[Figure]:
    """The error, and the share of a core that the worker really took."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Fleet(directory, durable=True) as fleet:
            fleet.stop("target")
            arguments = (sys.executable, "-m", "tests.bench.accuracy", "serve")
            fleet.run("target", *arguments, str(fleet.target_port))
            fleet.start_beat()
            fleet.start_worker()
            paths = _subscribe(fleet, first, warm_s, "first")
            for guess in range(GUESSES):
                seen = spans.measure(fleet, min(GUESS_S, seconds))
                wanted = min(most, int(len(paths) * share * seen.seconds / seen.cpu_s["w1"]))
                if wanted > len(paths):
                    paths |= _subscribe(fleet, wanted - len(paths), warm_s, f"more{guess}")
            span = spans.measure(fleet, seconds)
            errors = list(_errors(fleet, span, paths))
    if not errors:
        raise SystemExit("no check met the target's note of it")
    busy = span.cpu_s["w1"] / span.seconds
    return [
        Figure(
            key="latency_error_p95_ms",
            figure="error of the measured latency, p95",
            value=percentile(errors, 0.95),
            unit="ms",
            at_most=BUDGET_MS,
            note=f"p50 {percentile(errors, 0.5):.2f} ms, p99 {percentile(errors, 0.99):.2f} ms;"
            f" worker at {busy:.0%} of a core, {span.rate:,.0f} checks/s,"
            f" {len(errors):,} compared",
        )
    ]


def _subscribe(fleet: Fleet, number: int, warm_s: float, lot: str) -> dict[UUID, str]:
    """Subscriptions by the path that the target knows them by."""
    urls = [fleet.url(f"/{lot}/{n}") for n in range(number)]
    ids = fleet.subscribe(
        number, interval_s=INTERVAL_S, path=f"/{lot}", urls=urls, timeout=TIMEOUT_S, retries=0
    )
    time.sleep(warm_s + INTERVAL_S / 2)
    return {subscription_id: f"/{lot}/{n}" for n, subscription_id in enumerate(ids)}


def _errors(fleet: Fleet, span: spans.Span, paths: dict[UUID, str]) -> Iterator[float]:
    """Distances in ms between each row's latency and the target's note of the same check."""
    notes: dict[str, list[tuple[float, float]]] = {}
    with urlopen(fleet.url("/notes"), timeout=60) as answer:
        for line in answer.read().decode().splitlines():
            path, came_ms, took_ms = line.split()
            notes.setdefault(path, []).append((float(came_ms), float(took_ms)))
    for subscription_id, slot, latency in fleet.query(_ROWS, span.first, span.until):
        for came_ms, took_ms in notes.get(paths[subscription_id], ()):
            if slot <= came_ms < slot + INTERVAL_S * 1000:
                yield abs(latency - took_ms)
                break


class Target(asyncio.Protocol):
    """One connection, one answer, one note."""

    notes: ClassVar[list[str]] = []
    chance: ClassVar[random.Random] = random.Random(1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._came_ms, self._began = time.time() * 1000, time.perf_counter()

    def data_received(self, data: bytes) -> None:
        self._path = data.split(b" ", 2)[1].decode()
        if self._path == "/notes":
            self._send("\n".join(Target.notes).encode())
        else:
            delay = Target.chance.uniform(*DELAY_S)
            asyncio.get_running_loop().call_later(delay, self._answer)

    def _answer(self) -> None:
        took_ms = (time.perf_counter() - self._began) * 1000
        Target.notes.append(f"{self._path} {self._came_ms:.3f} {took_ms:.3f}")
        self._send(b"ok")

    def _send(self, body: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self._transport.close()


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Target, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(int(sys.argv[2])))
    else:
        figures.run(
            __doc__, measure, share=0.7, seconds=15.0, warm_s=6.0, first=10_000, most=100_000
        )
