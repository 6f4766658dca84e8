"""A worker's memory with 1,000 probes in flight at targets that mean harm.

    python -m tests.bench.memory --subscriptions 4000 --seconds 30
    python -m tests.bench.memory serve PORT          (the targets)

More is due than a worker runs at once, so it is full all the time. A quarter of the targets sends
900 KB of the megabyte that a check may read and then falls silent; a quarter never stops sending; a
quarter sends headers without end, a few at a time; a quarter answers a gzip bomb and keeps the
connection open.
"""

import asyncio
import gzip
import sys
import tempfile
import time
from pathlib import Path
from typing import ClassVar, cast
from urllib.error import URLError
from urllib.request import urlopen

import uvloop

from tests.bench import figures
from tests.bench.figures import Figure
from tests.support.fleet import Fleet

INTERVAL_S = 10
TIMEOUT_S = 5.0
BUDGET_MB = 250
#: Probes of a worker at most, as is its default.
IN_FLIGHT = 1000
KINDS = ("hold", "flood", "headers", "bomb")

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
_HELD = _HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 900_000
_BOMB = gzip.compress(bytes(50_000_000))
_CHUNK = b"x" * 65_536
#: Pauses between two headers of the target that sends them without end.
DRIP_S = 0.1


def measure(*, subscriptions: int, seconds: float) -> list[Figure]:
    """The worker's peak, and how many probes it had in flight meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Fleet(
            directory, LIGHTHOUSE_MAX_IN_FLIGHT=str(IN_FLIGHT), LIGHTHOUSE_ALERTS_PER_USER="0"
        ) as fleet:
            fleet.stop("target")
            arguments = (sys.executable, "-m", "tests.bench.memory", "serve")
            fleet.run("target", *arguments, str(fleet.target_port))
            fleet.wait_for("the targets", lambda: _open_now(fleet) is not None)
            fleet.start_beat()
            fleet.start_worker()
            for kind in KINDS:
                fleet.subscribe(
                    subscriptions // len(KINDS),
                    interval_s=INTERVAL_S,
                    path=f"/{kind}",
                    timeout=TIMEOUT_S,
                    retries=0,
                    body_validation={"contains": "what never comes"},
                )
            ends, most = time.monotonic() + seconds, 0
            while time.monotonic() < ends:
                most = max(most, _open_now(fleet) or 0)
                time.sleep(0.5)
            peak = _peak_mb(fleet.pid("w1"))
    return [
        Figure(
            key="memory_hostile_mb",
            figure="peak memory of a worker at 1,000 probes in flight, hostile bodies",
            value=peak,
            unit="MiB",
            at_most=BUDGET_MB,
            note=f"most connections at once {most}",
        )
    ]


def _open_now(fleet: Fleet) -> int | None:
    """Connections that the targets hold; None while they do not answer."""
    try:
        with urlopen(fleet.url("/open"), timeout=30) as answer:
            return int(answer.read())
    except URLError:
        return None


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise LookupError("the kernel tells no peak")


class Target(asyncio.Protocol):
    """One connection, one way to do harm."""

    open_now: ClassVar[int] = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flooding = self._counted = False

    def connection_lost(self, exc: Exception | None) -> None:
        self._flooding = False
        Target.open_now -= self._counted

    def data_received(self, data: bytes) -> None:
        kind = data.split(b" ", 2)[1].decode().strip("/")
        if kind == "open":
            self._transport.write(b"HTTP/1.0 200 OK\r\n\r\n%d" % Target.open_now)
            self._transport.close()
            return
        Target.open_now += 1
        self._counted = True
        if kind == "hold":
            self._transport.write(_HELD)
        elif kind == "bomb":
            self._transport.write(_HEAD + b"Content-Encoding: gzip\r\n\r\n" + _BOMB)
        elif kind == "flood":
            self._transport.write(_HEAD + b"\r\n")
            self._flooding = True
            self.resume_writing()
        else:
            self._transport.write(_HEAD)
            self._drip()

    def _drip(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"X-More: and more\r\n" * 5)
            asyncio.get_running_loop().call_later(DRIP_S, self._drip)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        while self._flooding and not self._full and not self._transport.is_closing():
            self._transport.write(_CHUNK)


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Target, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(int(sys.argv[2])))
    else:
        figures.run(__doc__, measure, subscriptions=4000, seconds=30.0)
