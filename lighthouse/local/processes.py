"""Child processes that end with us, whatever happens to us: how one is described, started, ended.

Start them from the main thread only: the kernel ties a child to the thread that made it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lighthouse.errors import LocalError
from lighthouse.settings import child_environment

_LAUNCHER = str(Path(__file__).with_name("launch.py"))

#: A log that is longer than this when its program starts makes room: one older file is kept.
MAX_LOG_BYTES = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, and how it likes to be ended."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)  #: changes to our own
    user: str | None = None  #: whom to run as when we are root
    stop_signal: signal.Signals = signal.SIGTERM
    stop_s: float = 20.0  #: seconds until it is killed
    orphan_signal: signal.Signals = signal.SIGKILL  #: what it gets when we die


def start(program: Program, log: Path) -> subprocess.Popen[bytes]:
    """Start a program with its output appended to a log. Raises LocalError."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    _LAUNCHER,
                    str(os.getpid()),
                    str(program.orphan_signal.value),
                    program.user or "-",
                    *program.argv,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(**program.environment),
            )
    except OSError as exc:
        raise LocalError(f"{program.name} cannot be started: {exc.strerror or exc}") from exc


def stop(process: subprocess.Popen[bytes], program: Program) -> None:
    """End a program, by force once its time is over. Does nothing when it has ended."""
    if process.poll() is not None:
        return
    process.send_signal(program.stop_signal)
    try:
        process.wait(program.stop_s)
    except subprocess.TimeoutExpired:
        # Its group, which the launcher made: a server's own children go with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(log: Path, lines: int = 1) -> str:
    """The last lines of a log that say something, as one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    told = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(told[-lines:])
