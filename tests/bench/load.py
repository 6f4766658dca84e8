"""The whole fleet at a steady load: what a check costs, beside blackbox_exporter and OpenSSL.

    python -m tests.bench.load --subscriptions 20000 --seconds 15
    python -m tests.bench.load --subscriptions 5000 --seconds 20 --tls

Beat, worker, Redis and PostgreSQL (with fsync) are real processes, and their CPU time is summed;
the target's is not. Over plain HTTP a second worker then joins, and after that targets that hang,
one in ten, so that it can be seen what each of them adds to the cost of a check.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import figures, spans, transport
from tests.bench.figures import Figure
from tests.bench.spans import Span
from tests.support.fleet import Fleet

INTERVAL_S = 10
#: One attempt of this length: a tenth of the checks then keeps a worker's probes below their bound.
HANG_TIMEOUT_S = 3.0
#: Seconds in which a worker comes up.
WORKER_START_S = 4.0


def measure(*, subscriptions: int, seconds: float, warm_s: float, tls: bool) -> list[Figure]:
    """All figures of one scheme."""
    scheme = "https" if tls else "http"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        with transport.target(directory) as (urls, ca_file):
            url = urls[scheme]
            with Fleet(directory / "fleet", durable=True, LIGHTHOUSE_CA_FILE=str(ca_file)) as fleet:
                fleet.start_beat()
                fleet.start_worker("w1")
                fleet.subscribe(subscriptions, interval_s=INTERVAL_S, url=url)
                spans.await_calm(fleet, subscriptions)
                time.sleep(warm_s)
                span = spans.measure(fleet, seconds)
                told = list(_told(span, scheme))
                if not tls:
                    told += _memory(span)
                    told += _variants(fleet, span, subscriptions, seconds, warm_s)
            told += _peers(span, scheme, url, ca_file, seconds, directory)
    return told


def _told(span: Span, scheme: str) -> Iterator[Figure]:
    name = scheme.upper()
    yield Figure(
        key=f"{scheme}_checks_per_cpu_s",
        figure=f"{name} checks a CPU-second, whole system",
        value=span.checks_per_cpu_s,
        unit="/CPU-s",
        note=f"{span.rate:,.0f}/s, coverage {span.coverage:.2%},"
        f" start delay p99 {span.delay_ms['p99']:g} ms",
    )
    for part, prefix in (
        ("beat", "beat"),
        ("worker", "w"),
        ("redis", "redis"),
        ("postgres", "postgres"),
    ):
        yield Figure(
            key=f"{scheme}_{part}_us",
            figure=f"CPU time of a check in {part}, {name}",
            value=span.us_per_check(prefix),
            unit="µs",
        )


def _memory(span: Span) -> list[Figure]:
    return [
        Figure(
            key=f"memory_{name}_mb",
            figure=f"memory of {name} at {span.rate:,.0f} checks/s",
            value=memory,
            unit="MiB",
        )
        for name, memory in span.memory_mb.items()
    ]


def _variants(
    fleet: Fleet, alone: Span, subscriptions: int, seconds: float, warm_s: float
) -> list[Figure]:
    fleet.start_worker("w2")
    time.sleep(warm_s + WORKER_START_S)
    both = spans.measure(fleet, seconds)
    fleet.stop("w2")
    fleet.subscribe(
        subscriptions // 9,
        interval_s=INTERVAL_S,
        path="/hang",
        timeout=HANG_TIMEOUT_S,
        retries=0,
    )
    # Each is known to be down by then, and what their common start held up is made good.
    time.sleep(warm_s + 4 * HANG_TIMEOUT_S)
    hanging = spans.measure(fleet, seconds)
    return [
        Figure(
            key=key,
            figure=f"CPU time of a check with {what}",
            value=span.us_per_check(),
            unit="µs",
            note=f"alone {alone.us_per_check():.0f} µs; coverage {span.coverage:.2%},"
            f" start delay p99 {span.delay_ms['p99']:g} ms",
        )
        for key, what, span in (
            ("second_worker_us", "a second worker", both),
            ("hanging_us", "10 % hanging targets", hanging),
        )
    ]


def _peers(
    span: Span, scheme: str, url: str, ca_file: Path, seconds: float, directory: Path
) -> Iterator[Figure]:
    ours, name = span.checks_per_cpu_s, scheme.upper()
    budget = 2.5 if scheme == "http" else 1.05
    # The budget is held against the same load: whoever is woken seldom pays more for each check.
    for key, what, rate, at_least in (
        ("same", "at the same rate", span.rate, budget),
        ("full", "at its full load", None, None),
    ):
        theirs = (
            transport.blackbox(url, ca_file, seconds / 2, directory, rate)
            if shutil.which("prometheus-blackbox-exporter")
            else None
        )
        yield Figure(
            key=f"{scheme}_times_blackbox_{key}",
            figure=f"{name}: × blackbox_exporter {what}",
            value=ours / theirs if theirs else None,
            unit="×",
            at_least=at_least,
            note=f"its probes a CPU-second: {theirs:,.0f}"
            if theirs
            else "blackbox_exporter is not installed; .ci/bench installs it",
        )
    if scheme == "https":
        theirs = transport.openssl(url, seconds / 2) if shutil.which("openssl") else None
        yield Figure(
            key="https_share_of_openssl",
            figure="HTTPS: share of OpenSSL's own handshakes",
            value=ours / theirs if theirs else None,
            unit="×",
            at_least=0.6,
            note=f"its handshakes a CPU-second: {theirs:,.0f}"
            if theirs
            else "openssl is not installed",
        )


if __name__ == "__main__":
    figures.run(__doc__, measure, subscriptions=20_000, seconds=15.0, warm_s=12.0, tls=False)
