"""From a fault at the target to the alert in the channel's hands, on the whole fleet.

    python -m tests.bench.alerts --subscriptions 2000 --faults 300 --seconds 60

Real beat, worker, Redis and PostgreSQL. Targets that were up begin to answer 500, or fall silent,
one after another; the time from the end of the probe that saw it (the target's last answer, or its
last request and the check's timeout) to the webhook's arrival is told, all by one clock.
"""

import argparse
import asyncio
import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from lighthouse.local.servers import free_port
from lighthouse.model import ChannelType, MonitorType, Tier
from lighthouse.store.alert_channels import add_channel
from lighthouse.store.creation import NewSubscription, create_subscriptions
from lighthouse.store.pool import open_pool
from tests.support.fleet import Fleet

TIMEOUT_S = 2.0
WRONG, SILENT = "wrong", "silent"


class Board:
    """Targets by number, and the hook that takes their alerts; in a thread of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.faults: dict[int, str] = {}
        self.ended: dict[int, float] = {}  #: when the last failing probe ended
        self.heard: dict[int, float] = {}  #: when the downtime arrived
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        application = web.Application()
        application.router.add_get("/t/{number}", self._target)
        application.router.add_post("/hook/{number}", self._hook)
        web.run_app(
            application,
            host="127.0.0.1",
            port=self.port,
            print=None,
            handle_signals=False,
            access_log=None,
        )

    async def _target(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        fault = self.faults.get(number)
        if fault is None:
            return web.Response(text="ok")
        if number in self.heard:
            pass
        elif fault == WRONG:
            self.ended[number] = time.monotonic()
        else:
            self.ended[number] = time.monotonic() + TIMEOUT_S
        if fault == SILENT:
            await asyncio.sleep(30)
        return web.Response(status=500, text="broken")

    async def _hook(self, request: web.Request) -> web.Response:
        document = await request.json()
        if document["type"] == "downtime":
            self.heard.setdefault(int(request.match_info["number"]), time.monotonic())
        return web.Response(status=204)


async def _subscribe(fleet: Fleet, board: Board, number: int, interval_s: int) -> None:
    base = f"http://127.0.0.1:{board.port}"
    async with open_pool(fleet.database_url, maximum=4) as pool:
        made = await create_subscriptions(
            pool,
            [
                NewSubscription(
                    wallet="0x" + "a" * 40,
                    type=MonitorType.HTTP,
                    config={"url": f"{base}/t/{n}", "timeout": TIMEOUT_S, "retries": 1},
                    tier=Tier.ENTERPRISE,
                    interval_s=interval_s,
                    name=f"target {n}",
                    worst_case_s=6.0,
                )
                for n in range(number)
            ],
            enforce_plans=False,
        )
        for n, subscription_id in enumerate(made):
            await add_channel(
                pool,
                subscription_id,
                ChannelType.WEBHOOK,
                {"url": f"{base}/hook/{n}"},
                enforce_plans=False,
            )


def _percentiles(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    if not ordered:
        return {"count": 0}
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    told = {
        k: round(ordered[min(len(ordered) - 1, int(s * len(ordered)))], 3)
        for k, s in shares.items()
    }
    return {"count": len(ordered), **told, "max": round(ordered[-1], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscriptions", type=int, default=2000)
    parser.add_argument("--interval", type=int, default=10)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    board = Board()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with Fleet(Path(name) / "fleet", durable=True, LIGHTHOUSE_ALERTS_PER_USER="0") as fleet:
            fleet.stop("target")
            fleet.start_beat()
            for n in range(options.workers):
                fleet.start_worker(f"w{n + 1}")
            asyncio.run(_subscribe(fleet, board, options.subscriptions, options.interval))
            fleet.wait_for(
                "every target up",
                lambda: (
                    fleet.scalar("SELECT count(*) FROM subscription_state WHERE verdict = 'up'")
                    == options.subscriptions
                ),
                120,
            )
            chosen = chance.sample(range(options.subscriptions), options.faults)
            for n, number in enumerate(chosen):
                board.faults[number] = SILENT if n % 4 == 0 else WRONG
                time.sleep(options.seconds / options.faults)
            end = time.monotonic() + options.interval + 30
            while len(board.heard) < options.faults and time.monotonic() < end:
                time.sleep(0.5)
            kinds = {
                kind: _percentiles(
                    [
                        board.heard[n] - board.ended[n]
                        for n, fault in board.faults.items()
                        if fault == kind and n in board.heard
                    ]
                )
                for kind in (WRONG, SILENT)
            }
            print(
                json.dumps(
                    {
                        "subscriptions": options.subscriptions,
                        "interval_s": options.interval,
                        "faults": options.faults,
                        "alerts": len(board.heard),
                        "delay_s": kinds,
                    },
                    indent=2,
                )
            )


if __name__ == "__main__":
    main()
