"""`lighthouse channels`: where a subscription's alerts go."""

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

import click

from lighthouse.cli.support import (
    as_json,
    json_config,
    keyring,
    length,
    print_json,
    print_table,
    run,
    seconds,
)
from lighthouse.errors import LighthouseError
from lighthouse.model import ChannelType, Severity

if TYPE_CHECKING:
    from lighthouse.model import Channel
    from lighthouse.store.pool import Pool

_ESCALATE = (
    "Tell only of what has lasted so long and nobody has acknowledged: 15m, 2h, at most 3d; 0: all."
)


@click.group()
def channels() -> None:
    """Where a subscription's alerts go."""


@channels.command()
@click.argument("subscription", type=click.UUID)
@click.option(
    "--type",
    "kind",
    required=True,
    type=click.Choice([t.value for t in ChannelType]),
    help="What kind of channel.",
)
@click.option("--config", required=True, help="JSON, or @FILE; `lighthouse schema TYPE` tells.")
@click.option("--language", default="en", show_default=True, help="Of the alerts: en or es.")
@click.option(
    "--timezone", default="UTC", show_default=True, help="Of the times in them, as Europe/Madrid."
)
@click.option(
    "--min-severity",
    type=click.Choice([s.value for s in Severity]),
    default=Severity.WARNING.value,
    show_default=True,
    help="The least severe alert that goes there.",
)
@click.option("--escalate-after", default="0", show_default=True, help=_ESCALATE)
def add(
    subscription: UUID,
    kind: str,
    config: str,
    language: str,
    timezone: str,
    min_severity: str,
    escalate_after: str,
) -> None:
    """Send a subscription's alerts there too; prints the new channel's id."""
    from lighthouse import channels as edge
    from lighthouse import configs, settings
    from lighthouse.store import catalog

    type_, given = ChannelType(kind), json_config(config)
    edge.check_timezone(timezone)
    escalate_after_s = _escalation(escalate_after)
    sealed = configs.seal(edge.parse_config(type_, given), keyring())
    edge.require_settings(type_, settings.current())

    async def create(pool: "Pool") -> UUID:
        return await catalog.add_channel(
            pool,
            subscription,
            type_,
            sealed,
            language=language,
            timezone=timezone,
            min_severity=Severity(min_severity),
            escalate_after_s=escalate_after_s,
            enforce_plans=settings.current().plans == "on",
        )

    click.echo(run(create))


def _escalation(value: str) -> int:
    """Seconds of `--escalate-after`. Raises UsageError."""
    from lighthouse.store.alert_channels import check_escalation

    found = seconds(value, "escalate_after")
    check_escalation(found)
    return found


@channels.command("list")
@click.argument("subscription", type=click.UUID, required=False)
@as_json
def list_(subscription: UUID | None, as_json: bool) -> None:
    """The channels of a subscription, or all."""
    from dataclasses import asdict

    from lighthouse import channels as edge
    from lighthouse.store import catalog

    async def read(pool: "Pool") -> "list[Channel]":
        if subscription is not None:
            await catalog.get(pool, subscription)
        return await catalog.list_channels(pool, subscription)

    found = run(read)
    if as_json:
        print_json(
            [
                {
                    **asdict(each),
                    "channel_config": edge.shown_config(
                        each.channel_type, each.channel_config, keyring()
                    ),
                }
                for each in found
            ]
        )
        return
    print_table(
        ("id", "subscription", "type", "from", "after>", "language", "time zone", "enabled"),
        [
            (
                each.id,
                each.subscription_id,
                each.channel_type.value,
                each.min_severity.value,
                length(each.escalate_after_s) if each.escalate_after_s else "at once",
                each.language,
                each.timezone,
                each.enabled,
            )
            for each in found
        ],
        empty="no channels; `lighthouse channels add --help` tells how to make one",
    )


@channels.command()
@click.argument("id", type=click.UUID)
def test(id: UUID) -> None:  # noqa: A002 - the argument's name in the help
    """Send a test alert now; the exit status is 1 when the service does not take it."""
    from lighthouse import channels as edge
    from lighthouse import settings
    from lighthouse.store import catalog

    channel = run(lambda pool: catalog.get_channel(pool, id))
    answer = asyncio.run(edge.send_test(channel, settings.current()))
    if not answer.ok:
        raise LighthouseError(f"the test alert was not taken: {answer.detail}")
    click.echo(f"sent: {answer.detail}", err=True)


@channels.command()
@click.argument("id", type=click.UUID)
@click.option("--language", help="Of the alerts: en or es.")
@click.option("--timezone", help="Of the times in them, as Europe/Madrid.")
@click.option(
    "--min-severity",
    type=click.Choice([s.value for s in Severity]),
    help="The least severe alert that goes there.",
)
@click.option("--escalate-after", help=_ESCALATE)
def edit(
    id: UUID,  # noqa: A002
    language: str | None,
    timezone: str | None,
    min_severity: str | None,
    escalate_after: str | None,
) -> None:
    """Change how a channel's alerts are told, or which ones go there."""
    from lighthouse import channels as edge
    from lighthouse.store import catalog

    if timezone is not None:
        edge.check_timezone(timezone)
    severity = None if min_severity is None else Severity(min_severity)
    escalate_after_s = None if escalate_after is None else _escalation(escalate_after)
    run(
        lambda pool: catalog.change_channel(
            pool,
            id,
            language=language,
            timezone=timezone,
            min_severity=severity,
            escalate_after_s=escalate_after_s,
        )
    )
    click.echo(f"changed {id}", err=True)


@channels.command()
@click.argument("id", type=click.UUID)
def enable(id: UUID) -> None:  # noqa: A002
    """Send alerts there again."""
    from lighthouse.store import catalog

    run(lambda pool: catalog.change_channel(pool, id, enabled=True))
    click.echo(f"enabled {id}", err=True)


@channels.command()
@click.argument("id", type=click.UUID)
def disable(id: UUID) -> None:  # noqa: A002
    """Send no alert there until it is switched on again."""
    from lighthouse.store import catalog

    run(lambda pool: catalog.change_channel(pool, id, enabled=False))
    click.echo(f"disabled {id}", err=True)


@channels.command()
@click.argument("id", type=click.UUID)
def remove(id: UUID) -> None:  # noqa: A002
    """Send no alert there any more."""
    from lighthouse.store import catalog

    run(lambda pool: catalog.remove_channel(pool, id))
    click.echo(f"removed {id}", err=True)
