"""How programs are kept running, and how they are ended."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lighthouse.local import supervisor as supervising
from lighthouse.local.processes import Program
from lighthouse.local.supervisor import BACKOFF_S, Supervisor, pause_s

DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    " print('deaf', flush=True); time.sleep(60)"
)


def _python(name: str, code: str, **how: object) -> Program:
    return Program(name=name, argv=(sys.executable, "-c", code), **how)  # type: ignore[arg-type]


def _until(condition: Callable[[], object], within_s: float = 15.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_pauses_grow_to_a_bound() -> None:
    assert [pause_s(n) for n in range(1, 9)] == [*BACKOFF_S, BACKOFF_S[-1], BACKOFF_S[-1]]
    assert list(BACKOFF_S) == sorted(BACKOFF_S)


async def test_a_program_that_ends_is_told_with_its_last_words_and_started_again(
    tmp_path: Path,
) -> None:
    supervisor = Supervisor(tmp_path)
    supervisor.add(_python("short", "import sys; print('out of luck'); sys.exit(3)"))

    def told() -> bool:
        supervisor.check()
        return bool(supervisor.troubles())

    _until(told)
    assert supervisor.troubles() == ["short ended with status 3: out of luck"]
    log = tmp_path / "short.log"

    def again() -> bool:
        supervisor.check()
        return log.read_text().count("out of luck") >= 2

    begun = time.monotonic()
    _until(again)
    assert time.monotonic() - begun >= BACKOFF_S[0] * 0.8
    await supervisor.stop()


async def test_a_killed_program_comes_back_and_the_others_are_left_alone(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    for name in ("one", "two"):
        supervisor.add(_python(name, "import time; time.sleep(60)"))
    before = supervisor.pids()
    psutil.Process(before["one"]).kill()

    def back() -> bool:
        supervisor.check()
        now = supervisor.pids()
        return len(now) == 2 and now["one"] != before["one"]

    _until(back)
    assert supervisor.pids()["two"] == before["two"]
    assert supervisor.troubles() == ["one was ended by SIGKILL: no word in its log"]
    await supervisor.stop()
    assert supervisor.pids() == {}


async def test_trouble_is_forgotten_once_a_program_has_run_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "WELL_S", 0.3)
    supervisor = Supervisor(tmp_path)
    supervisor.add(_python("one", "import time; time.sleep(60)"))
    psutil.Process(supervisor.pids()["one"]).kill()

    def state(wanted: bool) -> bool:
        supervisor.check()
        return bool(supervisor.troubles()) is wanted

    _until(lambda: state(True))
    _until(lambda: state(False))
    assert set(supervisor.pids()) == {"one"}
    await supervisor.stop()


async def test_stopping_ends_all_at_the_same_time_and_the_deaf_by_force(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    processes = [supervisor.add(_python(f"deaf-{n}", DEAF, stop_s=0.5)) for n in range(3)]
    _until(lambda: all("deaf" in (tmp_path / f"deaf-{n}.log").read_text() for n in range(3)))
    begun = time.monotonic()
    await supervisor.stop()
    assert 0.5 <= time.monotonic() - begun < 1.5  # one after another: 1.5 s
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 3


async def test_in_a_hurry_only_servers_keep_their_time(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    worker = supervisor.add(_python("worker", DEAF, stop_s=30.0))
    server = supervisor.add(
        _python(
            "server",
            "import signal, sys, time\n"
            "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.5), sys.exit(0)))\n"
            "print('up', flush=True)\n"
            "time.sleep(60)\n",
            stop_s=30.0,
            stop_signal=signal.SIGINT,
            orphan_signal=signal.SIGINT,
        )
    )
    _until(lambda: "deaf" in (tmp_path / "worker.log").read_text())
    _until(lambda: "up" in (tmp_path / "server.log").read_text())
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0.1)
    assert worker.poll() is None
    supervisor.hurry()
    await asyncio.wait_for(stopping, 10)
    assert (worker.returncode, server.returncode) == (-signal.SIGKILL, 0)


async def test_a_long_log_makes_room_for_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lighthouse.local.processes.MAX_LOG_BYTES", 100)
    (tmp_path / "one.log").write_text("old\n" * 100)
    supervisor = Supervisor(tmp_path)
    supervisor.add(_python("one", "print('new', flush=True); import time; time.sleep(60)"))
    _until(lambda: (tmp_path / "one.log").read_text() == "new\n")
    assert (tmp_path / "one.log.1").read_text().startswith("old")
    await supervisor.stop()
