"""`lighthouse status`, `incidents` and `alerts`: how the whole fleet stands."""

from dataclasses import asdict
from typing import TYPE_CHECKING
from uuid import UUID

import click

from lighthouse.cli.support import (
    age,
    as_json,
    percent,
    print_facts,
    print_json,
    print_table,
    run,
    text,
)

if TYPE_CHECKING:
    from lighthouse.store.outbox import Alert
    from lighthouse.store.pool import Pool


@click.command()
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Targets a list."
)
@as_json
def status(limit: int, as_json: bool) -> None:
    """What is down, what is unknown, and whether every due check is accounted for."""
    from lighthouse.store import standing

    found = run(lambda pool: standing.standing(pool, limit))
    if as_json:
        print_json(
            {
                **asdict(found),
                "coverage_ratio": found.coverage_ratio,
                "accounting_lag_s": found.accounting_lag_s,
            }
        )
        return
    lag = found.accounting_lag_s
    print_facts(
        [
            ("subscriptions", _counts(found.subscriptions)),
            ("verdicts", _counts(found.verdicts)),
            (
                "coverage",
                f"{percent(found.coverage_ratio)} ({found.judged} of {found.due} due checks in the"
                f" hour to {text(found.accounted_to)})"
                if found.accounted_to
                else "unknown: nothing is accounted for yet; does a worker take `maintenance`?",
            ),
            ("accounted to", None if lag is None else f"{lag:.0f} s ago"),
            ("alerts waiting", found.alerts_pending),
        ]
    )
    if found.down:
        click.echo(f"\ndown: {found.verdicts.get('down', len(found.down))}")
        print_table(
            ("id", "name", "target", "for>", "why"),
            [
                (
                    each.subscription_id,
                    each.name,
                    each.target,
                    age(each.since, found.now),
                    each.error_message or each.error_code,
                )
                for each in found.down
            ],
        )
    if found.unknown:
        click.echo(f"\nunknown: {found.unknown_count}")
        print_table(
            ("id", "name", "target", "for>"),
            [
                (each.subscription_id, each.name, each.target, age(each.since, found.now))
                for each in found.unknown
            ],
        )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "none"


@click.command()
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@as_json
def incidents(limit: int, as_json: bool) -> None:
    """What is down now, and why; the longest first."""
    from lighthouse.store import standing

    found = run(lambda pool: standing.incidents(pool, limit))
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "name", "target", "since (UTC)", "for>", "why"),
        [
            (
                each.subscription_id,
                each.name,
                each.target,
                each.since,
                age(each.since),
                each.error_message or each.error_code,
            )
            for each in found
        ],
        empty="nothing is down",
    )


@click.command()
@click.argument("id", type=click.UUID, required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@as_json
def alerts(id: UUID | None, limit: int, as_json: bool) -> None:  # noqa: A002 - the argument's name
    """The latest alerts, of one subscription or of all, and what became of each."""
    from lighthouse.store import catalog, outbox

    async def read(pool: "Pool") -> "list[Alert]":
        if id is not None:
            await catalog.get(pool, id)
        return await outbox.alerts(pool, id, limit)

    found = run(read)
    if as_json:
        print_json(found)
        return
    print_table(
        ("time (UTC)", "subscription", "alert", "severity", "channel", "state", "tries>", "answer"),
        [
            (
                each.time,
                each.subscription_name,
                each.alert_type.value,
                each.severity.value,
                each.channel_type.value if each.channel_type else None,
                each.state.value,
                each.attempt,
                each.last_answer,
            )
            for each in found
        ],
        empty="no alerts",
    )
