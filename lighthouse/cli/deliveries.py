"""`lighthouse alerts`, and how a delivery looks: where it went, why it waits, each try's answer."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import click

from lighthouse.cli.support import as_json, print_json, print_table, run, text

if TYPE_CHECKING:
    from lighthouse.store.alerts import Alert
    from lighthouse.store.pool import Pool


@click.command()
@click.argument("id", type=click.UUID, required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--tries", is_flag=True, help="Each delivery with its tries and their answers.")
@as_json
def alerts(id: UUID | None, limit: int, tries: bool, as_json: bool) -> None:  # noqa: A002
    """The latest alerts, of one subscription or of all, and what became of each.

    A pending one tells why it is held; one that was not told, why not.
    """
    from lighthouse.store import alerts as store
    from lighthouse.store import catalog

    async def read(pool: "Pool") -> "list[Alert]":
        if id is not None:
            await catalog.get(pool, id)
        return await store.alerts(pool, id, limit)

    found = run(read)
    if as_json:
        print_json(found)
    elif tries and found:
        show(found)
    else:
        table(found)


def table(found: "Sequence[Alert]") -> None:
    """Deliveries, a line each."""
    print_table(
        (
            *("time (UTC)", "subscription", "alert", "severity", "channel", "state", "why"),
            *("next try (UTC)", "tries>", "answer"),
        ),
        [
            (
                each.time,
                each.subscription_name or None,
                kind(each),
                each.severity.value,
                each.channel_type.value if each.channel_type else None,
                each.state.value,
                why(each),
                each.next_attempt_at,
                each.attempt,
                each.last_answer,
            )
            for each in found
        ],
        empty="no alerts",
    )


def show(found: "Iterable[Alert]") -> None:
    """Deliveries with everything that was tried, a few lines each."""
    for number, each in enumerate(found):
        if number:
            click.echo()
        channel = (
            f"{each.channel_type.value} {each.channel_id}" if each.channel_type else "no channel"
        )
        of = f" of {each.subscription_name}" if each.subscription_name else ""
        click.echo(
            text(f"{text(each.time)}  {each.severity.value} {kind(each)}{of} → {channel}")
            + f"  {_state(each)}"
        )
        click.echo(f"  {text(each.title)}")
        for one in each.tries:
            mark = click.style("✓", fg="green") if one.ok else click.style("✗", fg="red")
            click.echo(f"  {text(one.at)}  {mark} {text(one.answer)}")
        if each.attempt > len(each.tries) > 0:
            click.echo(f"  {each.attempt} tries in all; the first ones and the latest are kept")


def kind(alert: "Alert") -> str:
    """What it tells, with the number of a reminder."""
    number = alert.context.get("reminder")
    return alert.alert_type.value + ("" if number is None else f", reminder {number}")


def why(alert: "Alert") -> str | None:
    """Why it waits, or why it was not told."""
    if alert.next_attempt_at is not None:
        if alert.held is not None:
            return f"held: {alert.held}"
        return None if alert.attempt or "reminder" not in alert.context else "not due yet"
    return alert.failed_reason


def _state(alert: "Alert") -> str:
    colour = {"sent": "green", "gave_up": "red", "pending": "yellow"}.get(alert.state.value)
    told = click.style(alert.state.value, fg=colour)
    reason = why(alert)
    if reason is not None:
        told += f" ({text(reason)})"
    if alert.next_attempt_at is not None:
        told += f", next try {text(alert.next_attempt_at)}"
    return told
