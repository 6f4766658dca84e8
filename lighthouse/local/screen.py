"""The table that `lighthouse up` shows: pure functions from what was read to what is seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lighthouse.local.targets import Received
from lighthouse.model import CheckStatus, SubscriptionStatus, Verdict
from lighthouse.store.history import Overview
from lighthouse.store.metrics import Uptime

#: Alerts that are shown below the table, newest first.
ALERTS_SHOWN = 5
#: Lines around the table's rows: title, borders, alerts, troubles.
FRAME_LINES = 15

_COLOURS = {Verdict.UP: "green", Verdict.DOWN: "red", Verdict.UNKNOWN: "yellow"}
_SEVERITIES = {"critical": "red", "warning": "yellow", "info": "green"}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is known when the screen is drawn."""

    title: str
    rows: Sequence[Overview] = ()
    uptimes: Mapping[UUID, Uptime] = field(default_factory=dict)
    alerts: Sequence[Received] | None = None  #: oldest first; None where there is no inbox
    mails: str = ""  #: the directory that keeps the mails, where there is one
    troubles: Sequence[str] = ()


def render(view: View, now: datetime) -> RenderableType:
    """The whole screen."""
    parts: list[RenderableType] = [_table(view, now)]
    if not view.rows:
        parts.append(Text("Nothing is watched yet: lighthouse subscriptions add --help", "dim"))
    if view.alerts is not None:
        parts.append(Text("Alerts received", "bold"))
        newest = _by_event(view.alerts)[: -ALERTS_SHOWN - 1 : -1]
        parts += [_alert(ways) for ways in newest] or [Text("  none yet", "dim")]
        if view.mails:
            parts.append(Text(f"  Mails are kept in {view.mails}", "dim", overflow="fold"))
    parts += [
        Text(trouble, "yellow", no_wrap=True, overflow="ellipsis") for trouble in view.troubles
    ]
    return Group(*parts)


def _table(view: View, now: datetime) -> Table:
    table = Table(title=view.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    # On a narrow terminal the texts give way, the figures never.
    for name in ("Name", "Target", "Status"):
        table.add_column(name, overflow="ellipsis")
    for name in ("Latency", "Uptime", "Coverage", "Next"):
        table.add_column(name, no_wrap=True, justify="right")
    for row in view.rows:
        uptime = view.uptimes.get(row.id)
        table.add_row(
            Text(row.name, no_wrap=True),
            Text(row.target, no_wrap=True),
            status(row, now),
            latency(row),
            percent(uptime.uptime_ratio if uptime else None),
            percent(uptime.coverage_ratio if uptime else None),
            until(row.next_due, now),
        )
    return table


def status(row: Overview, now: datetime) -> Text:
    """The verdict, for how long, and why the last check is no success."""
    if row.status is not SubscriptionStatus.ACTIVE:
        return Text(row.status.value, "dim")
    text = Text(row.verdict.value, _COLOURS[row.verdict], no_wrap=True)
    if row.verdict is not Verdict.UNKNOWN and row.since is not None:
        text.append(f" {span((now - row.since).total_seconds())}", "default")
    if row.last_status not in (None, CheckStatus.SUCCESS):
        text.append(f" {row.last_error_code or row.last_status}", "dim")
    return text


def latency(row: Overview) -> str:
    """Of the last check, where it had one."""
    if row.last_latency_ms is None:
        return "–"
    return f"{row.last_latency_ms:.{1 if row.last_latency_ms < 10 else 0}f} ms"


def percent(ratio: float | None) -> str:
    """A ratio in per cent, never rounded up to a whole: 99.999 % is not 100 %."""
    if ratio is None:
        return "–"
    if ratio >= 1.0:
        return "100 %"
    return f"{min(ratio * 100, 99.99):.{2 if ratio > 0.99 else 1}f} %"


def until(due: datetime | None, now: datetime) -> str:
    """The time to the next check."""
    if due is None:
        return "–"
    seconds = (due - now).total_seconds()
    return span(seconds) if seconds >= 1 else "now"


def span(seconds: float) -> str:
    """A length of time in its one or two largest units."""
    whole = max(0, int(seconds))
    for size, unit, small, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // small}{smaller}"
    return f"{whole // 60}m {whole % 60}s" if whole >= 60 else f"{whole}s"


def _by_event(alerts: Sequence[Received]) -> list[list[Received]]:
    """Alerts of one event together, in the order in which events were first heard of."""
    found: dict[object, list[Received]] = {}
    for index, alert in enumerate(alerts):
        found.setdefault(alert.event_id or index, []).append(alert)
    return list(found.values())


def _alert(ways: Sequence[Received]) -> Text:
    """One line: when, by which ways and, where their languages differ, each one's words."""
    at, hows = ways[0].at.astimezone(), ", ".join(dict.fromkeys(alert.how for alert in ways))
    line = Text(f"  {at:%H:%M:%S} {hows:<13} ", "dim", no_wrap=True, overflow="ellipsis")
    severity = next((alert.severity for alert in ways if alert.severity), "")
    titles = " · ".join(dict.fromkeys(alert.title for alert in ways))
    return line.append(titles, _SEVERITIES.get(severity, "default"))
