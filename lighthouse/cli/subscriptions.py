"""`lighthouse subscriptions`: what is watched, how often and for whom."""

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from lighthouse.cli import listing
from lighthouse.cli.support import as_json, json_config, keyring, moment, run
from lighthouse.errors import UsageError
from lighthouse.model import MonitorType, Tier

if TYPE_CHECKING:
    from lighthouse.store.pool import Pool

#: The guide's default, and the shortest interval of the cheapest plans, in seconds.
DEFAULT_INTERVAL_S = 900


@click.group()
def subscriptions() -> None:
    """What is watched, how often and for whom."""


subscriptions.add_command(listing.list_)
subscriptions.add_command(listing.show)

_alerting = click.option(
    "--alerting", help="When to tell, JSON or @FILE; `lighthouse schema alerting` tells."
)
_parents = click.option(
    "--parent",
    "parents",
    type=click.UUID,
    multiple=True,
    help="While this one is down its alerts are held; may be given again.",
)


def _policy(given: str | None) -> dict[str, Any] | None:
    """What `--alerting` gives, as it is stored. Raises ConfigError."""
    from lighthouse.alerting import as_stored, parse_alerting

    if given is None:
        return None
    return as_stored(parse_alerting(json_config(given, "alerting")))


@subscriptions.command()
@click.option("--wallet", required=True, help="The owner's address: 0x and 40 hex digits.")
@click.option(
    "--type",
    "monitor",
    required=True,
    type=click.Choice([t.value for t in MonitorType]),
    help="What kind of check.",
)
@click.option("--config", required=True, help="JSON, or @FILE; `lighthouse schema TYPE` tells.")
@click.option(
    "--interval",
    type=int,
    default=DEFAULT_INTERVAL_S,
    show_default=True,
    help="Seconds between checks.",
)
@click.option(
    "--tier",
    type=click.Choice([t.value for t in Tier]),
    default=Tier.FREE.value,
    show_default=True,
)
@click.option("--name", help="Unique for the wallet; made from the target when left out.")
@click.option("--payment-tx", help="Hash of the transaction that paid for it.")
@click.option("--payment-chain", help="Chain of that transaction, such as base.")
@click.option("--payment-usdc", help="Its amount in USDC, such as 1.00.")
@click.option("--expires-at", help="When it ends, such as 2026-12-31T00:00:00Z.")
@_alerting
@_parents
def add(
    wallet: str,
    monitor: str,
    config: str,
    interval: int,
    tier: str,
    name: str | None,
    payment_tx: str | None,
    payment_chain: str | None,
    payment_usdc: str | None,
    expires_at: str | None,
    alerting: str | None,
    parents: tuple[UUID, ...],
) -> None:
    """Watch a target from now on; prints the new id."""
    from lighthouse import configs, plans, probes
    from lighthouse.store import catalog

    catalog.wallet_address(wallet)
    plans.check_interval(interval)
    type_, given = MonitorType(monitor), json_config(config)
    model = probes.parse_config(type_, given)
    new = catalog.NewSubscription(
        wallet=wallet,
        type=type_,
        config=configs.seal(model, keyring()),
        interval_s=interval,
        worst_case_s=model.worst_case_s(interval),
        tier=Tier(tier),
        name=name,
        payment_tx_hash=payment_tx,
        payment_chain=payment_chain,
        payment_amount_usdc=None if payment_usdc is None else _millionths(payment_usdc),
        expires_at=None if expires_at is None else moment(expires_at),
        alerting=_policy(alerting) or {},
        parents=parents,
    )

    async def create(pool: "Pool") -> UUID:
        return await catalog.create_subscription(pool, new, enforce_plans=_plans_hold())

    click.echo(run(create))


def _plans_hold() -> bool:
    from lighthouse import settings

    return settings.current().plans == "on"


def _millionths(amount: str) -> int:
    """USDC as the chain counts it. Raises UsageError."""
    try:
        exact = Decimal(amount) * 1_000_000
        if not 0 <= exact < 2**63:
            raise InvalidOperation
    except ArithmeticError:
        raise UsageError(f"payment_usdc: {amount[:40]!r} is no amount, such as 1.00") from None
    if exact != int(exact):
        raise UsageError(f"payment_usdc: {amount[:40]!r} has more than six decimals")
    return int(exact)


@subscriptions.command()
@click.argument("id", type=click.UUID)
@click.option("--interval", type=int, help="Seconds between checks from now on.")
@click.option("--config", help="JSON, or @FILE: the whole new configuration.")
@_alerting
@_parents
@click.option("--no-parents", is_flag=True, help="None is its parent any more.")
def change(
    id: UUID,  # noqa: A002
    interval: int | None,
    config: str | None,
    alerting: str | None,
    parents: tuple[UUID, ...],
    no_parents: bool,
) -> None:
    """Change what is given; a policy of alerts and the parents take the place of the old ones."""
    from lighthouse import configs, probes
    from lighthouse.store import catalog

    if parents and no_parents:
        raise UsageError("give either --parent or --no-parents")
    wanted = parents if parents or no_parents else None
    if interval is None and config is None and alerting is None and wanted is None:
        raise UsageError(
            "nothing to change; give --interval, --config, --alerting, --parent or --no-parents"
        )
    policy = _policy(alerting)
    given = None if config is None else json_config(config)

    async def apply(pool: "Pool") -> None:
        found = await catalog.get(pool, id)
        seconds = found.check_interval_seconds if interval is None else interval
        model = (
            probes.parse_config(found.target_type, found.target_config, keyring())
            if given is None
            else probes.parse_config(found.target_type, given)
        )
        await catalog.change(
            pool,
            id,
            interval_s=interval,
            config=None if given is None else configs.seal(model, keyring()),
            alerting=policy,
            parents=wanted,
            worst_case_s=model.worst_case_s(seconds),
            enforce_plans=_plans_hold(),
        )

    run(apply)
    click.echo(f"changed {id}", err=True)


@subscriptions.command("apply")
@click.argument("file")
@click.option("--yes", is_flag=True, help="Apply the plan without asking.")
@click.option(
    "--prune", is_flag=True, help="Cancel what the file's wallets have and the file has not."
)
@as_json
def apply_(file: str, yes: bool, prune: bool, as_json: bool) -> None:
    """Make subscriptions and channels as a YAML FILE says (- is standard input).

    Shows the plan first, and asks on a terminal; elsewhere nothing is done without --yes.
    """
    from lighthouse.cli.applying import apply_file

    apply_file(file, yes=yes, prune=prune, as_json=as_json)


@subscriptions.command()
@click.argument("id", type=click.UUID)
def pause(id: UUID) -> None:  # noqa: A002
    """Stop its checks until it is resumed; nothing counts as missed meanwhile."""
    from lighthouse.store import catalog

    run(lambda pool: catalog.pause(pool, id))
    click.echo(f"paused {id}", err=True)


@subscriptions.command()
@click.argument("id", type=click.UUID)
def resume(id: UUID) -> None:  # noqa: A002
    """Check it again, at once and then by its interval."""
    from lighthouse.store import catalog

    run(lambda pool: catalog.resume(pool, id))
    click.echo(f"resumed {id}", err=True)


@subscriptions.command()
@click.argument("id", type=click.UUID)
def cancel(id: UUID) -> None:  # noqa: A002
    """End it for good; its history stays."""
    from lighthouse.store import catalog

    run(lambda pool: catalog.cancel(pool, id))
    click.echo(f"cancelled {id}", err=True)
