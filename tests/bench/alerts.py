"""From a fault at the target to the alert in the channel's hands, on the whole fleet.

    python -m tests.bench.alerts --subscriptions 2000 --faults 300 --seconds 60

Real beat, worker, Redis and PostgreSQL. Targets that were up begin to answer 500, or fall silent,
one after another; the time from the end of the probe that saw it (the answer to its last attempt,
or the moment when it gave up and hung up) to the webhook's arrival is told, all by one clock. The
look of the confirming worker comes after the attempts and hangs up sooner; it moves no probe's end.
"""

import asyncio
import random
import tempfile
import threading
import time
from pathlib import Path

from aiohttp import web

from lighthouse.fleet.confirm import LOOK_S
from lighthouse.local.servers import free_port
from lighthouse.model import ChannelType, MonitorType, Tier
from lighthouse.store.alert_channels import add_channel
from lighthouse.store.creation import NewSubscription, create_subscriptions
from lighthouse.store.pool import open_pool
from tests.bench import figures
from tests.bench.figures import Figure, percentile
from tests.support.fleet import Fleet

TIMEOUT_S = 2.0
#: Attempts of a failing check, and the seconds within which a further request is no other check's
#: but a look for another worker.
ATTEMPTS, CHECK_S = 2, 5.0
#: Seconds after which a prober that hangs up was the check's own, and no look for another worker.
OWN_S = (LOOK_S + TIMEOUT_S) / 2
WRONG, SILENT = "wrong", "silent"
BUDGET_S = 2.0


class Board:
    """Targets by number, and the hook that takes their alerts; in a thread of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.faults: dict[int, str] = {}
        self._attempts: dict[int, list[float]] = {}  #: when those of the current check began
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
            handler_cancellation=True,
        )

    async def _target(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])
        fault = self.faults.get(number)
        if fault is None:
            return web.Response(text="ok")
        if fault == WRONG:
            if self._attempt(number) == ATTEMPTS:
                self._probed(number)
            return web.Response(status=500, text="broken")
        begun = time.monotonic()
        try:
            await asyncio.sleep(30)
        finally:
            if time.monotonic() - begun > OWN_S:
                self._probed(number)
        return web.Response()

    def _attempt(self, number: int) -> int:
        """Which of its check's requests this one is, from 1."""
        now = time.monotonic()
        attempts = self._attempts.setdefault(number, [])
        if attempts and now - attempts[0] > CHECK_S:
            attempts.clear()
        attempts.append(now)
        return len(attempts)

    def _probed(self, number: int) -> None:
        if number not in self.heard:
            self.ended[number] = time.monotonic()

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
                    config={"url": f"{base}/t/{n}", "timeout": TIMEOUT_S, "retries": ATTEMPTS - 1},
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


def measure(
    *, subscriptions: int, interval: int, faults: int, seconds: float, workers: int
) -> list[Figure]:
    """One figure for each kind of fault."""
    board = Board()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        with Fleet(Path(name) / "fleet", durable=True, LIGHTHOUSE_ALERTS_PER_USER="0") as fleet:
            fleet.stop("target")
            fleet.start_beat()
            for n in range(workers):
                fleet.start_worker(f"w{n + 1}")
            asyncio.run(_subscribe(fleet, board, subscriptions, interval))
            fleet.wait_for(
                "every target up",
                lambda: (
                    fleet.scalar("SELECT count(*) FROM subscription_state WHERE verdict = 'up'")
                    == subscriptions
                ),
                120,
            )
            chosen = chance.sample(range(subscriptions), faults)
            for n, number in enumerate(chosen):
                board.faults[number] = SILENT if n % 4 == 0 else WRONG
                time.sleep(seconds / faults)
            end = time.monotonic() + interval + 30
            while len(board.heard) < faults and time.monotonic() < end:
                time.sleep(0.5)
    return [_told(board, kind) for kind in (WRONG, SILENT)]


def _told(board: Board, kind: str) -> Figure:
    numbers = [number for number, fault in board.faults.items() if fault == kind]
    delays = [board.heard[n] - board.ended[n] for n in numbers if n in board.heard]
    whole = len(delays) == len(numbers) > 0
    return Figure(
        key=f"alert_{kind}_p99_s",
        figure=f"a fault ({kind}) → alert handed to the channel, p99",
        value=percentile(delays, 0.99) if whole else None,
        unit="s",
        at_most=BUDGET_S,
        note=f"p50 {percentile(delays, 0.5):.2f} s, max {max(delays):.2f} s; all {len(delays)} told"
        if whole
        else f"only {len(delays)} of {len(numbers)} were told",
    )


if __name__ == "__main__":
    figures.run(
        __doc__, measure, subscriptions=2000, interval=10, faults=300, seconds=40.0, workers=2
    )
