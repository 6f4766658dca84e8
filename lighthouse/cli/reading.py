"""`lighthouse history`, `metrics` and `uptime`: what was found of one subscription."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from lighthouse.cli.support import as_json, percent, print_facts, print_json, print_table, run, text

if TYPE_CHECKING:
    from lighthouse.cli.balances import Purse
    from lighthouse.model import Subscription
    from lighthouse.store.history import CheckRow, GapRow
    from lighthouse.store.metrics import Metric, Uptime
    from lighthouse.store.pool import Pool


@click.command()
@click.argument("id", type=click.UUID)
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Entries."
)
@as_json
def history(id: UUID, limit: int, as_json: bool) -> None:  # noqa: A002 - the argument's name
    """The latest checks of a subscription, newest first.

    A long run of missed slots is one entry; `slots` tells how many they were. A balance tells how
    long it lasts, as it fell in the last week.
    """
    from lighthouse.cli.balances import purse
    from lighthouse.model import MonitorType
    from lighthouse.store import catalog
    from lighthouse.store import history as store

    async def read(pool: "Pool") -> "tuple[list[CheckRow | GapRow], Purse | None]":
        found = await catalog.get(pool, id)
        since = _readable_since(found)
        entries = await store.recent(pool, id, limit, since)
        if found.target_type is not MonitorType.BALANCE:
            return entries, None
        return entries, purse(found, await store.balances(pool, id, since))

    entries, held = run(read)
    if as_json:
        print_json([_entry(entry, held) for entry in entries])
        return
    if held is not None:
        print_table(
            ("time (UTC)", "status", "balance>", "latency ms>", "why"),
            [_balance_line(entry, held) for entry in entries],
            empty="no checks yet",
        )
        outlook = held.outlook()
        if outlook is not None:
            click.echo(outlook)
        return
    print_table(
        ("time (UTC)", "status", "http>", "latency ms>", "dns>", "tcp>", "tls>", "ttfb>", "why"),
        [_line(entry) for entry in entries],
        empty="no checks yet",
    )


def _readable_since(found: "Subscription") -> datetime | None:
    """How far back the tier may read; None where plans are set aside."""
    from lighthouse import plans, settings

    if settings.current().plans == "off":
        return None
    return datetime.now(UTC) - timedelta(days=plans.PLANS[found.tier].raw_history_days)


def _entry(entry: "CheckRow | GapRow", held: "Purse | None") -> dict[str, Any]:
    from dataclasses import asdict

    from lighthouse.store.history import CheckRow

    if isinstance(entry, CheckRow):
        told = asdict(entry)
        if held is not None:
            value = entry.value
            told["balance"] = None if value is None else held.as_data(entry.time, int(value))
        return told
    return {
        "time": entry.time,
        "subscription_id": entry.subscription_id,
        "status": "missed",
        "slots": entry.slots,
        "until": entry.until,
        "interval_seconds": entry.interval.total_seconds(),
    }


def _line(entry: "CheckRow | GapRow") -> tuple[object, ...]:
    from lighthouse.store.history import CheckRow

    if not isinstance(entry, CheckRow):
        return (text(entry.time), "missed", None, None, None, None, None, None, _gap(entry))
    phases = [entry.timings.get(name) for name in ("dns_ms", "tcp_ms", "tls_ms", "ttfb_ms")]
    return (
        _moment(entry.time),
        entry.status.value,
        entry.http_status,
        entry.latency_ms,
        *phases,
        _why(entry),
    )


def _balance_line(entry: "CheckRow | GapRow", held: "Purse") -> tuple[object, ...]:
    from lighthouse.store.history import CheckRow

    if not isinstance(entry, CheckRow):
        return (text(entry.time), "missed", None, None, _gap(entry))
    value = None if entry.value is None else held.shown(int(entry.value))
    return (_moment(entry.time), entry.status.value, value, entry.latency_ms, _why(entry))


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03d}"


def _why(entry: "CheckRow") -> str:
    return ": ".join(filter(None, (entry.error_code, entry.error_message)))


def _gap(entry: "GapRow") -> str:
    return f"{entry.slots} slots without a check, until {text(entry.until)}"


_METRIC_COLUMNS = (
    "checks>",
    "uptime>",
    "coverage>",
    "avg ms>",
    "p50>",
    "p95>",
    "p99>",
    "max>",
    "failures>",
    "timeouts>",
    "errors>",
    "missed>",
)


@click.command()
@click.argument("id", type=click.UUID)
@click.option("--hourly", "rollup", flag_value="hourly", default="hourly", help="By hours (UTC).")
@click.option("--daily", "rollup", flag_value="daily", help="By days (UTC).")
@click.option("--last", type=click.IntRange(1, 3660), help="Hours or days; 24 and 30 if left out.")
@as_json
def metrics(id: UUID, rollup: str, last: int | None, as_json: bool) -> None:  # noqa: A002
    """Checks, uptime, coverage and latencies of a subscription, newest first."""
    from lighthouse.store import catalog, metrics

    async def read(pool: "Pool") -> "list[Metric]":
        await catalog.get(pool, id)
        if rollup == "daily":
            return await metrics.daily_metrics(pool, id, last or 30)
        return await metrics.hourly_metrics(pool, id, last or 24)

    found = run(read)
    column = "day" if rollup == "daily" else "hour"
    if as_json:
        print_json([_metric(each, column) for each in found])
        return
    print_table(
        (f"{column} (UTC)", *_METRIC_COLUMNS),
        [
            (
                f"{each.bucket:%Y-%m-%d}" if column == "day" else f"{each.bucket:%Y-%m-%d %H:%M}",
                each.total_checks,
                percent(each.uptime_ratio),
                percent(each.coverage_ratio),
                each.avg_latency_ms,
                each.p50_latency_ms,
                each.p95_latency_ms,
                each.p99_latency_ms,
                each.max_latency_ms,
                each.failures,
                each.timeouts,
                each.errors,
                each.missed,
            )
            for each in found
        ],
        empty="nothing was due in that time",
    )


def _metric(metric: "Metric", column: str) -> dict[str, Any]:
    row = metric._asdict()
    return {column: row.pop("bucket"), **row}


@click.command()
@click.argument("id", type=click.UUID)
@click.option("--days", type=click.IntRange(1, 3660), default=30, show_default=True)
@as_json
def uptime(id: UUID, days: int, as_json: bool) -> None:  # noqa: A002
    """Uptime (up ÷ judged) and coverage (judged ÷ due) of a subscription."""
    from lighthouse.store import catalog, metrics

    async def read(pool: "Pool") -> "Uptime":
        await catalog.get(pool, id)
        return await metrics.uptime(pool, id, days)

    found = run(read)
    if as_json:
        print_json(
            {
                "subscription_id": id,
                "days": days,
                "uptime_ratio": found.uptime_ratio,
                "coverage_ratio": found.coverage_ratio,
                "due": found.due,
                "judged": found.judged,
                "success": found.success,
            }
        )
        return
    print_facts(
        [
            ("days", days),
            ("uptime", f"{percent(found.uptime_ratio)} ({found.success} up of {found.judged})"),
            ("coverage", f"{percent(found.coverage_ratio)} ({found.judged} of {found.due} due)"),
        ]
    )
