"""`lighthouse status`: how the whole fleet stands, on one screen."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from lighthouse.cli.incidents import acknowledged, reason
from lighthouse.cli.maintenance import as_data
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
    from lighthouse.store.standing import Standing

#: What else may go on, in words.
_TROUBLES: Mapping[str, str] = {
    "high_latency": "slow",
    "low_balance": "low balance",
    "flapping": "flapping",
    "coverage": "uncovered",
}


@click.command()
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Lines a list."
)
@as_json
def status(limit: int, as_json: bool) -> None:
    """What is down and why, what else is wrong, what is held, and whether every check was made."""
    from lighthouse.store import standing

    found = run(lambda pool: standing.standing(pool, limit))
    if as_json:
        print_json(
            {
                **asdict(found),
                "maintenance": [as_data(each) for each in found.maintenance],
                "coverage_ratio": found.coverage_ratio,
                "accounting_lag_s": found.accounting_lag_s,
            }
        )
        return
    _print_figures(found)
    _print_wrong(found)
    _print_quiet(found)


def _print_figures(found: "Standing") -> None:
    lag = found.accounting_lag_s
    troubles = {_TROUBLES[kind]: number for kind, number in found.trouble_counts.items()}
    held = ", ".join(f"{number} held: {why}" for why, number in sorted(found.alerts_held.items()))
    print_facts(
        [
            ("subscriptions", _counts(found.subscriptions)),
            ("verdicts", _counts(found.verdicts)),
            ("warnings", _counts(troubles)),
            (
                "coverage",
                f"{percent(found.coverage_ratio)} ({found.judged} of {found.due} due checks in the"
                f" hour to {text(found.accounted_to)})"
                if found.accounted_to
                else "unknown: nothing is accounted for yet; does a worker take `maintenance`?",
            ),
            ("accounted to", None if lag is None else f"{lag:.0f} s ago"),
            ("alerts", f"{found.alerts_pending} pending{f' ({held})' if held else ''}"),
            ("given up", f"{found.alerts_gave_up} alerts in the last 24 h"),
        ]
    )


def _print_wrong(found: "Standing") -> None:
    if found.down:
        click.echo(f"\ndown: {found.verdicts.get('down', len(found.down))}")
        print_table(
            ("incident", "subscription", "target", "since (UTC)", "for>", "why", "acknowledged"),
            [
                (
                    each.incident_id,
                    each.name,
                    each.target,
                    each.since,
                    age(each.since, found.now),
                    each.error_message or each.error_code,
                    acknowledged(each.acknowledged_at, each.acknowledged_by),
                )
                for each in found.down
            ],
        )
    if found.troubles:
        click.echo(f"\nwarnings: {sum(found.trouble_counts.values())}")
        print_table(
            ("what", "incident", "subscription", "target", "for>", "why", "acknowledged"),
            [
                (
                    _TROUBLES[each.kind.value],
                    each.incident_id,
                    each.name,
                    each.target,
                    age(each.since, found.now),
                    reason(each.evidence),
                    acknowledged(each.acknowledged_at, each.acknowledged_by),
                )
                for each in found.troubles
            ],
        )
    if found.unknown:
        click.echo(f"\nunknown: {found.unknown_count}")
        print_table(
            ("id", "subscription", "target", "for>"),
            [
                (each.subscription_id, each.name, each.target, age(each.since, found.now))
                for each in found.unknown
            ],
        )


def _print_quiet(found: "Standing") -> None:
    """What keeps alerts from being told."""
    if found.maintenance:
        click.echo(f"\nmaintenance runs: {found.maintenance_count}")
        print_table(
            ("id", "name", "of", "until (UTC)", "ends in>"),
            [
                (
                    each.id,
                    each.name,
                    each.subscription_name or each.wallet_address,
                    each.ends_at,
                    age(found.now, each.ends_at),
                )
                for each in found.maintenance
            ],
        )
    if found.holding:
        click.echo(f"\ndown parents that hold their children's alerts: {found.holding_count}")
        print_table(
            ("id", "subscription", "children>"),
            [(each.subscription_id, each.name, each.children) for each in found.holding],
        )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "none"
