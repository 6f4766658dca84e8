"""Keeps programs running: starts them, starts them again when they end, ends them in order."""

import asyncio
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lighthouse.errors import LocalError
from lighthouse.local.processes import Program, start, tail

#: Pauses before a program that ended is started again, in seconds; the last one repeats.
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: A program that has run this long was well: its next end starts the pauses anew.
WELL_S = 60.0


def pause_s(ends: int) -> float:
    """How long to wait after this many ends in a row, from 1."""
    return BACKOFF_S[min(ends, len(BACKOFF_S)) - 1]


@dataclass(slots=True)
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None
    started: float  #: monotonic
    ends: int = 0  #: in a row, without running well
    again_at: float = 0.0  #: monotonic; when it is started again
    trouble: str = ""  #: one line for a person; empty while all is well


class Supervisor:
    """Programs in the order of their starts. Use it from the main thread alone."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[_Child] = []
        self._hurry = False

    def log(self, program: Program) -> Path:
        return self._logs / f"{program.name}.log"

    def add(self, program: Program) -> subprocess.Popen[bytes]:
        """Start a program and keep it running. Raises LocalError when it cannot be started."""
        process = start(program, self.log(program))
        self._children.append(_Child(program, process, time.monotonic()))
        return process

    def check(self) -> None:
        """Notice what has ended and start again what is due. Call it often; never raises."""
        now = time.monotonic()
        for child in self._children:
            if child.process is not None:
                status = child.process.poll()
                if status is None:
                    if child.trouble and now - child.started > WELL_S:
                        child.ends, child.trouble = 0, ""
                    continue
                child.ends = 1 if now - child.started > WELL_S else child.ends + 1
                child.process, child.again_at = None, now + pause_s(child.ends)
                child.trouble = (
                    f"{child.program.name} {_ended(status)}: "
                    f"{tail(self.log(child.program))[:200] or 'no word in its log'}"
                )
            if now >= child.again_at:
                try:
                    child.process = start(child.program, self.log(child.program))
                    child.started = now
                except LocalError as exc:
                    child.trouble = str(exc)
                    child.again_at = now + BACKOFF_S[-1]

    def troubles(self) -> list[str]:
        """One line for each program that is not, or not yet again, well."""
        return [child.trouble for child in self._children if child.trouble]

    def pids(self) -> dict[str, int]:
        """The running programs' process ids, by name."""
        return {c.program.name: c.process.pid for c in self._children if c.process is not None}

    def hurry(self) -> None:
        """Let `stop` end by force what may be killed, from now on; servers keep their time."""
        self._hurry = True

    async def stop(self, names: frozenset[str] | None = None) -> None:
        """End these programs (all that are left when None) together, then forget them."""
        leaving = [c for c in self._children if names is None or c.program.name in names]
        self._children = [child for child in self._children if child not in leaving]
        begun = time.monotonic()
        left = [(child.program, child.process) for child in leaving if child.process is not None]
        for program, process in left:
            if process.poll() is None:
                process.send_signal(program.stop_signal)
        while left:
            left = [(program, process) for program, process in left if process.poll() is None]
            for program, process in left:
                hurry = self._hurry and program.orphan_signal is signal.SIGKILL
                if hurry or time.monotonic() - begun > program.stop_s:
                    # Its group, which the launcher made: a server's own children go with it.
                    os.killpg(process.pid, signal.SIGKILL)
            await asyncio.sleep(0.02)


def _ended(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
