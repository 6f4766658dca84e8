"""Couriers and recorders in processes of their own that kill themselves at a given step.

The steps are laid around the libraries' and the program's own calls from outside: production code
knows nothing of them. One process imports everything and forks for each run, which costs
milliseconds where an interpreter takes seconds.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from psycopg import AsyncCursor, AsyncTransaction

from lighthouse.channels import Sender
from lighthouse.fleet.delivery import Courier
from lighthouse.fleet.recorder import Recorder
from lighthouse.model import CheckStatus
from lighthouse.store.pool import open_pool
from tests.support.couriers import settings
from tests.support.targets import seen

#: What tells the statements of interest from others.
_KINDS = {"claim": "FOR UPDATE SKIP LOCKED", "mark": "SET lease_until = NULL", "commit": "COMMIT"}


class Killer:
    """Starts runs that kill themselves: by a step's name or its number, counted from 1."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killed"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    async def deliver(self, url: str, at: str | int) -> bool:
        """Whether a courier was killed at the step, or passed it never and ended by itself."""
        return await self._run(do="deliver", url=url, at=at)

    async def record(
        self, url: str, at: str | int, results: Sequence[tuple[UUID, int, CheckStatus]]
    ) -> bool:
        """The same of a recorder that is given results."""
        given = [(str(id_), slot, status.value) for id_, slot, status in results]
        return await self._run(do="record", url=url, at=at, results=given)

    async def _run(self, **command: Any) -> bool:
        answer = await asyncio.to_thread(self._ask, json.dumps(command))
        assert answer in ("killed", "ended"), answer
        return answer == "killed"

    def _ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(command, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()


class _Steps:
    def __init__(self, at: str | int) -> None:
        self._at = at
        self._passed = 0

    def passes(self, name: str) -> None:
        # By number, what comes after one statement is what comes before the next.
        self._passed += not name.startswith("after") or name == "after send"
        if self._at in (name, self._passed):
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: type, method: str, name: Callable[..., str]) -> None:
        real = getattr(owner, method)

        async def stepping(this: Any, *args: Any, **more: Any) -> Any:
            what = name(*args)
            self.passes(f"before {what}")
            done = await real(this, *args, **more)
            self.passes(f"after {what}")
            return done

        setattr(owner, method, stepping)

    def install(self) -> None:
        self.around(AsyncCursor, "execute", _kind)
        self.around(AsyncTransaction, "__aexit__", lambda *_: "commit")
        self.around(Sender, "send", lambda *_: "send")


def _kind(query: Any, *_: Any) -> str:
    text = query.decode() if isinstance(query, bytes) else str(query)
    return next((kind for kind, mark in _KINDS.items() if mark in text), "statement")


async def _deliver(url: str) -> None:
    async with open_pool(url) as pool, Sender(settings()) as sender:
        await Courier(pool, sender).deliver_due()


async def _record(url: str, results: Sequence[tuple[str, int, str]], steps: _Steps) -> None:
    async with open_pool(url) as pool:
        recorder = Recorder(
            pool,
            flush_s=0.01,
            flush_rows=1000,
            max_buffered=10_000,
            committed=lambda _: steps.passes("committed"),
            alerted=lambda: steps.passes("hinted"),
        )
        for id_, slot, status in results:
            recorder.add(seen(UUID(id_), slot, CheckStatus(status)))
        recorder.close()
        await recorder.run()


def _child(command: dict[str, Any]) -> None:
    steps = _Steps(command["at"])
    steps.install()
    if command["do"] == "deliver":
        asyncio.run(_deliver(command["url"]))
    else:
        asyncio.run(_record(command["url"], command["results"], steps))


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # logs of the runs are no answers
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _child(json.loads(line))
            except BaseException:  # noqa: BLE001 - a child's end, whatever it is
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        answer = "killed" if killed else "ended" if status == 0 else f"failed ({status})"
        os.write(out, f"{answer}\n".encode())


if __name__ == "__main__":
    main()
