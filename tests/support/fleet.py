"""A whole fleet of real processes on embedded servers, for tests that kill parts of it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

import psutil
import psycopg

from lighthouse.local import servers
from lighthouse.local.processes import Program, start, stop
from lighthouse.model import ChannelType, MonitorType, Tier
from lighthouse.store import migrate
from lighthouse.store.alert_channels import add_channel
from lighthouse.store.creation import NewSubscription, create_subscriptions
from lighthouse.store.pool import open_pool

#: A Fernet key that only tests use.
SECRET_KEY = "bGlnaHRob3VzZS1mbGVldC0wMDAwMDAwMDAwMDAwMDA="
#: No test waits longer than this for anything.
PATIENCE_S = 60.0


class Fleet:
    """Servers, target, beat and workers as child processes, each to be killed and started again."""

    def __init__(
        self, directory: Path, *, durable: bool = False, **environment: str | None
    ) -> None:
        self.directory = directory
        self._logs = directory / "logs"
        self._programs: dict[str, Program] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._postgres = servers.prepare_postgres(
            directory, logs=self._logs, max_connections=100, durable=durable
        )
        self._redis = servers.prepare_redis(directory, logs=self._logs)
        self.database_url, self.redis_url = self._postgres.url, self._redis.url
        self.target_port = servers.free_port()
        self.environment = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "LIGHTHOUSE_EGRESS_ALLOW": "127.0.0.0/8",
            "LIGHTHOUSE_PLANS": "off",
            "LIGHTHOUSE_SECRET_KEYS": SECRET_KEY,
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
            ),
            **{name: value for name, value in environment.items() if value is not None},
        }

    def __enter__(self) -> "Fleet":
        self.start_server("postgres")
        self.start_server("redis")
        migrate.upgrade(self.database_url)
        self.run("target", sys.executable, "-m", "tests.support.target", str(self.target_port))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in sorted(self._running, key=lambda n: n in ("postgres", "redis")):
            self.stop(name)

    def start_server(self, name: str) -> None:
        server = self._postgres if name == "postgres" else self._redis
        self._programs[name] = server.program
        self._running[name] = start(server.program, self.log(name))
        servers.await_ready(server, self._running[name])

    def run(self, name: str, *argv: str, **environment: str) -> None:
        program = Program(
            name=name, argv=argv, environment={**self.environment, **environment}, stop_s=30.0
        )
        self._programs[name] = program
        self._running[name] = start(program, self.log(name))

    def start_beat(self, name: str = "beat", *, scheduler: str = "", **environment: str) -> None:
        """`scheduler`: another class than ours, as module:Class."""
        self.run(
            name,
            *(sys.executable, "-m", "celery", "-A", "lighthouse.fleet", "beat"),
            *(("-S", scheduler) if scheduler else ()),
            **environment,
        )

    def start_worker(
        self,
        name: str = "w1",
        queues: str = "",
        *,
        within: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """`within`: a command that runs the worker, as in a network namespace."""
        self.run(
            name,
            *within,
            *(sys.executable, "-m", "celery", "-A", "lighthouse.fleet", "worker"),
            *("-n", f"{name}@%h", "--without-gossip", "--without-mingle"),
            *(("-Q", queues) if queues else ()),
            **environment,
        )

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the process and, for a server, its children: a killed machine kills them all."""
        os.killpg(self._running[name].pid, number)

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)
        self._running.pop(name).wait()

    def stop(self, name: str) -> None:
        process = self._running.pop(name)
        stop(process, self._programs[name])

    def ended(self, name: str) -> bool:
        """Whether a program has ended by itself."""
        return self._running[name].poll() is not None

    def wait_until_ended(self, name: str) -> None:
        """Wait for a program that ends by itself."""
        self._running.pop(name).wait(PATIENCE_S)

    def again(self, name: str) -> None:
        """Start a program that was killed or stopped, just as it was."""
        if name in ("postgres", "redis"):
            self.start_server(name)
        else:
            self._running[name] = start(self._programs[name], self.log(name))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.target_port}{path}"

    def subscribe(
        self,
        number: int,
        *,
        interval_s: int = 10,
        path: str = "/ok",
        webhook: str | Mapping[str, Any] | None = None,
        urls: Sequence[str] = (),
        **config: Any,
    ) -> list[UUID]:
        """Make subscriptions of one wallet, as fast as the database takes them.

        `urls`: where they point in turn, instead of our own target.
        """
        at = urls or (self.url(path),)
        return asyncio.run(self._subscribe(number, interval_s, at, path, webhook, config))

    async def _subscribe(
        self,
        number: int,
        interval_s: int,
        urls: Sequence[str],
        path: str,
        webhook: str | Mapping[str, Any] | None,
        config: dict[str, Any],
    ) -> list[UUID]:
        made: list[UUID] = []
        async with open_pool(self.database_url, maximum=2) as pool:
            for first in range(0, number, 1000):
                news = [
                    NewSubscription(
                        wallet="0x" + "a" * 40,
                        type=MonitorType.HTTP,
                        config={"url": urls[(first + n) % len(urls)], "timeout": 3.0, **config},
                        tier=Tier.ENTERPRISE,
                        interval_s=interval_s,
                        name=f"{path} {interval_s} {first + n}",
                        worst_case_s=6.0,
                    )
                    for n in range(min(1000, number - first))
                ]
                made += await create_subscriptions(pool, news, enforce_plans=False)
            if webhook is not None:
                for subscription_id in made:
                    await add_channel(
                        pool,
                        subscription_id,
                        ChannelType.WEBHOOK,
                        {"url": webhook} if isinstance(webhook, str) else webhook,
                        enforce_plans=False,
                    )
        return made

    def connection(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.database_url, connect_timeout=5, autocommit=True)

    def query(self, sql: str, *args: Any) -> Sequence[tuple[Any, ...]]:
        with self.connection() as connection:
            return connection.execute(sql, args).fetchall()

    def scalar(self, sql: str, *args: Any) -> Any:
        return self.query(sql, *args)[0][0]

    def wait_for(
        self, what: str, condition: Callable[[], Any], timeout_s: float = PATIENCE_S
    ) -> Any:
        """The condition's first true value. Fails with the tails of the logs."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            ended = [name for name, process in self._running.items() if process.poll() is not None]
            if ended:
                what = f"{what}: {', '.join(ended)} ended by itself"
                break
            time.sleep(0.1)
        tails = "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self._logs.glob("*.log"))
        )
        raise AssertionError(f"waited {timeout_s:g} s in vain for {what}\n{tails}")

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time of each program so far, its children included."""
        used: dict[str, float] = {}
        for name, process in self._running.items():
            total = 0.0
            try:
                parent = psutil.Process(process.pid)
                for one in [parent, *parent.children(recursive=True)]:
                    times = one.cpu_times()
                    total += times.user + times.system
                    total += times.children_user + times.children_system
            except psutil.NoSuchProcess:
                pass
            used[name] = total
        return used

    def memory_mb(self) -> dict[str, float]:
        """Resident memory of each program."""
        return {
            name: psutil.Process(process.pid).memory_info().rss / 2**20
            for name, process in self._running.items()
        }
