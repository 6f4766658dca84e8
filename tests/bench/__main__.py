"""`make bench`: every budget measured, each module in a process of its own.

    python -m tests.bench [--quick] [MODULE …]

Figures go to standard output as a table, and as JSON to the file that BENCH_JSON names. A module
that fails or is out of time is a line in both, and the exit status 1; a budget that is missed is
told and no failure, for a busy machine misses some. QUICK=1 is the same as --quick: it only shows
that everything works, several modules at a time, and what it prints measures nothing.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import machine
from tests.bench.figures import Figure, recorded, table

#: All of it ends in this time, in seconds: what would begin later is not begun.
FULL_S, QUICK_S = 900.0, 120.0
#: Modules of the quick form wait most of their time; those of a full run must not share the cores.
QUICK_AT_ONCE = 3
#: What a module that is stopped may take to end its servers, in seconds.
CLEAN_UP_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A module of this package, and its options in both forms."""

    module: str
    full: str
    quick: str
    limit_s: float  #: of the full form
    name: str = ""  #: where a module stands here twice


#: What `scale` reads stands before the longest one, which is what a slow machine may leave out.
MEASUREMENTS = (
    Measurement(
        module="load",
        full="--subscriptions 20000 --seconds 15",
        quick="--subscriptions 300 --seconds 2 --warm-s 0",
        limit_s=180,
    ),
    Measurement(
        module="load",
        name="load-tls",
        full="--subscriptions 5000 --seconds 16 --tls",
        quick="--subscriptions 200 --seconds 2 --warm-s 0 --tls",
        limit_s=120,
    ),
    Measurement(
        module="alerts",
        full="--subscriptions 2000 --faults 300 --seconds 40",
        quick="--subscriptions 100 --faults 8 --seconds 2 --workers 1",
        limit_s=150,
    ),
    Measurement(
        module="accuracy",
        full="--share 0.7 --seconds 15",
        quick="--share 0.7 --seconds 2 --warm-s 0 --first 300 --most 400",
        limit_s=150,
    ),
    Measurement(
        module="claiming",
        full="--subscriptions 500000 --due 50000 --rounds 3",
        quick="--subscriptions 10000 --due 5000 --rounds 1",
        limit_s=90,
    ),
    Measurement(
        module="recording",
        full="--rows 200000 --singles 2000",
        quick="--rows 5000 --singles 50",
        limit_s=120,
    ),
    Measurement(
        module="metrics",
        full="--subscriptions 10000 --queries 1000",
        quick="--subscriptions 50 --queries 50",
        limit_s=240,
    ),
    Measurement(
        module="restart",
        full="--subscriptions 10000 --times 3",
        quick="--subscriptions 300 --times 1",
        limit_s=90,
    ),
    Measurement(
        module="memory",
        full="--subscriptions 4000 --seconds 30",
        quick="--subscriptions 400 --seconds 8",
        limit_s=75,
    ),
    Measurement(
        module="growth",
        full="--levels 1000,10000,50000 --interval 60 --seconds 40",
        quick="--levels 100,300 --interval 10 --seconds 2 --warm-s 0",
        limit_s=270,
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK") == "1")
    parser.add_argument("modules", nargs="*", help="these alone", metavar="MODULE")
    options = parser.parse_args()
    chosen = [m for m in MEASUREMENTS if not options.modules or m.module in options.modules]
    begun = datetime.now(UTC)
    ends = time.monotonic() + (QUICK_S if options.quick else FULL_S)
    at_once = QUICK_AT_ONCE if options.quick else 1
    lines, failed = [], False
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        running = [pool.submit(_measured, m, options.quick, ends) for m in chosen]
        for future in running:
            command, figures, well = future.result()
            lines += [(figure, command) for figure in figures]
            failed = failed or not well
    judged = not options.quick
    document = {
        "date": begun.isoformat(timespec="seconds"),
        "quick": options.quick,
        "machine": machine.described(),
        "figures": [recorded(figure, command, judged=judged) for figure, command in lines],
    }
    path = Path(os.environ.get("BENCH_JSON") or "build/bench.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    print(table([figure for figure, _ in lines], judged=judged))
    print(f"\n{document['date']}, {machine.in_words(document['machine'])}; written to {path}")
    if options.quick:
        print("quick form: everything was tried, nothing was measured")
    sys.exit(failed)


def _measured(measurement: Measurement, quick: bool, ends: float) -> tuple[str, list[Figure], bool]:
    """The command, what it found, and whether it ran well."""
    arguments = measurement.quick if quick else measurement.full
    command = f"python -m tests.bench.{measurement.module} {arguments}"
    began = time.monotonic()
    left_s = min(ends - began, measurement.limit_s)
    try:
        figures = _run(command, left_s) if left_s > 0 else []
        why = "" if figures else "not begun: out of time"
    except subprocess.TimeoutExpired:
        figures, why = [], f"stopped after {left_s:.0f} s"
    except (subprocess.CalledProcessError, ValueError) as exc:
        figures, why = [], f"failed: {exc}"
    print(
        f"{measurement.name or measurement.module}: {why or 'done'}"
        f" ({time.monotonic() - began:.0f} s)",
        file=sys.stderr,
        flush=True,
    )
    if why:
        name = measurement.name or measurement.module
        figures = [Figure(key=name, figure=name, value=None, unit="", note=why)]
    return command, figures, not why


def _run(command: str, limit_s: float) -> list[Figure]:
    _, *arguments = shlex.split(command)
    process = subprocess.Popen(
        [sys.executable, *arguments, "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        out, _ = process.communicate(timeout=limit_s)
    except BaseException:
        process.send_signal(signal.SIGINT)  # it ends what it started
        try:
            process.wait(CLEAN_UP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return [Figure(**row) for row in json.loads(out.splitlines()[-1])]


if __name__ == "__main__":
    main()
