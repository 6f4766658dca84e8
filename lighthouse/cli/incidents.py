"""`lighthouse incidents`: what is or was wrong, why, who was told, and who is at work on it."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from lighthouse.cli import deliveries
from lighthouse.cli.support import (
    age,
    as_json,
    print_facts,
    print_json,
    print_table,
    run,
    text,
)
from lighthouse.errors import UsageError

if TYPE_CHECKING:
    from lighthouse.store.alerts import Alert
    from lighthouse.store.incidents import Incident
    from lighthouse.store.pool import Pool

#: Deliveries of one incident that are shown: an incident of a week with reminders has fewer.
_MOST_DELIVERIES = 1000


@click.group(invoke_without_command=True)
@click.option("--all", "every", is_flag=True, help="Those of the last 30 days, over or not.")
@click.option("--subscription", type=click.UUID, help="Only those of one subscription.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@as_json
@click.pass_context
def incidents(
    ctx: click.Context, every: bool, subscription: UUID | None, limit: int, as_json: bool
) -> None:
    """What is wrong now, and why; the worst and longest first.

    `show ID` tells everything of one, `ack ID` that somebody is at work on it.
    """
    if ctx.invoked_subcommand is not None:
        if every or subscription is not None or as_json:
            raise UsageError(f"give options after `{ctx.invoked_subcommand}`")
        return
    from lighthouse.store import catalog
    from lighthouse.store import incidents as store

    async def read(pool: "Pool") -> "list[Incident]":
        if subscription is not None:
            await catalog.get(pool, subscription)
        listed = store.latest_incidents if every else store.open_incidents
        return await listed(pool, limit, subscription_id=subscription)

    found = run(read)
    if as_json:
        print_json(found)
        return
    now = datetime.now(UTC)
    over = ("over (UTC)",) if every else ()
    print_table(
        (
            *("id", "subscription", "target", "kind", "severity", "since (UTC)", *over, "for>"),
            *("why", "acknowledged", "told"),
        ),
        [
            (
                each.id,
                each.name,
                each.target,
                each.kind.value,
                each.severity.value,
                each.first_failure_at,
                *((each.closed_at,) if every else ()),
                age(each.first_failure_at, each.closed_at or now),
                reason(each.evidence),
                acknowledged(each.acknowledged_at, each.acknowledged_by),
                _told(each),
            )
            for each in found
        ],
        empty="no incidents in the last 30 days" if every else "nothing is wrong",
    )


def reason(evidence: Mapping[str, Any]) -> str | None:
    """Why, in a line."""
    if "median_ms" in evidence:
        return (
            f"median of {evidence.get('checks')} checks {evidence['median_ms']:g} ms,"
            f" warned of at {evidence.get('warn_ms'):g} ms"
        )
    found = evidence.get("message") or evidence.get("reason")
    if found is None and "level" in evidence:
        found = f"the balance is {evidence['level']}"
    return None if found is None else str(found)


def acknowledged(at: datetime | None, by: str | None) -> str | None:
    """Who has acknowledged it, and when."""
    if at is None:
        return None
    return f"{by or 'yes'}, {text(at)}"


def _told(incident: "Incident") -> str:
    """Whether somebody was told; if not, why."""
    held = None if incident.held is None else f"held: {incident.held}"
    if incident.told:
        told = "yes, 1 delivery" if incident.told == 1 else f"yes, {incident.told} deliveries"
        return told if held is None else f"{told}; {held}"
    if held is not None:
        return held
    if incident.failed_reason is not None:
        return f"no: {incident.failed_reason}"
    return "not yet" if incident.closed_at is None else "no"


@incidents.command()
@click.argument("id", type=click.UUID)
@as_json
def show(id: UUID, as_json: bool) -> None:  # noqa: A002 - the argument's name in the help
    """One incident: what was seen, by whom it was confirmed, and who was told when."""
    from lighthouse.store import alerts
    from lighthouse.store import incidents as store

    async def read(pool: "Pool") -> "tuple[Incident, list[Alert]]":
        found = await store.get_incident(pool, id)
        told = await alerts.alerts(pool, incident_id=id, limit=_MOST_DELIVERIES)
        return found, told[::-1]

    found, told = run(read)
    if as_json:
        print_json({**asdict(found), "deliveries": told})
        return
    print_facts(
        [
            ("id", found.id),
            ("subscription", f"{found.name} {found.subscription_id}"),
            ("target", found.target),
            ("kind", found.kind.value),
            ("severity", found.severity.value),
            ("first failure", f"{text(found.first_failure_at)} UTC"),
            ("opened", f"{text(found.opened_at)} UTC"),
            ("closed", _closed(found)),
            ("why", reason(found.evidence)),
            ("acknowledged", acknowledged(found.acknowledged_at, found.acknowledged_by)),
            ("note", found.note),
            ("told", _told(found)),
        ]
    )
    if found.evidence:
        click.echo("\nevidence")
        _show_evidence(found.evidence)
    click.echo("\ndeliveries")
    if told:
        deliveries.show(told)
    else:
        click.echo("none")


def _closed(incident: "Incident") -> str:
    if incident.closed_at is None:
        return f"no, it has lasted {age(incident.first_failure_at)}"
    lasted = age(incident.first_failure_at, incident.closed_at)
    return f"{text(incident.closed_at)} UTC, after {lasted}"


#: What a person reads first of the evidence.
_FIRST = ("status", "reason", "message", "http_status", "latency_ms", "snippet", "addresses")


def _place(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _show_evidence(evidence: Mapping[str, Any]) -> None:
    """What the first failing check saw, line by line, and its phases as bars."""
    from lighthouse.cli.looking import bars, phases
    from lighthouse.model import Timings

    # PostgreSQL keeps keys in an order of its own.
    for name, value in sorted(evidence.items(), key=lambda fact: _place(fact[0])):
        if name == "timings":
            continue
        if isinstance(value, Mapping):
            facts = (f"{key} {inner}" for key, inner in value.items() if inner not in (None, ""))
            click.echo(f"  {name:<14} {text(', '.join(facts))}")
        elif isinstance(value, list):
            click.echo(f"  {name:<14} {text(', '.join(map(str, value)))}")
        else:
            click.echo(f"  {name:<14} {text(value)}")
    known = {name: evidence.get("timings", {}).get(name) for name in Timings.__slots__}
    for line in bars(phases(Timings(**known), evidence.get("latency_ms"))):
        click.echo(line)


@incidents.command()
@click.argument("id", type=click.UUID)
@click.option("--by", help="Who is at work on it.")
@click.option("--note", help="What is known.")
def ack(id: UUID, by: str | None, note: str | None) -> None:  # noqa: A002
    """Tell that somebody is at work on it: no reminder and no escalation follows."""
    from lighthouse.store import incidents as store

    run(lambda pool: store.acknowledge(pool, id, by=by, note=note))
    click.echo(f"acknowledged {id}", err=True)
