"""`lighthouse subscriptions`: what is watched, how often and for whom."""

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from lighthouse.cli.support import (
    age,
    as_json,
    json_config,
    keyring,
    moment,
    print_facts,
    print_json,
    print_table,
    run,
)
from lighthouse.errors import UsageError
from lighthouse.model import MonitorType, SubscriptionStatus, Tier

if TYPE_CHECKING:
    from lighthouse.model import Channel, Subscription
    from lighthouse.sealing import Keyring
    from lighthouse.store.history import Overview
    from lighthouse.store.pool import Pool

#: The guide's default, and the shortest interval of the cheapest plans, in seconds.
DEFAULT_INTERVAL_S = 900


@click.group()
def subscriptions() -> None:
    """What is watched, how often and for whom."""


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


@subscriptions.command("list")
@click.option("--wallet", help="Only this owner's.")
@click.option(
    "--status",
    type=click.Choice([s.value for s in SubscriptionStatus]),
    help="Only those in this status.",
)
@as_json
def list_(wallet: str | None, status: str | None, as_json: bool) -> None:
    """All subscriptions, and how each stands."""
    from lighthouse.store import catalog, history

    async def read(pool: "Pool") -> "tuple[list[Subscription], dict[UUID, Overview]]":
        found = await catalog.list_subscriptions(
            pool, wallet, None if status is None else SubscriptionStatus(status)
        )
        if as_json or not found:
            return found, {}
        states = await history.overview(pool, [each.id for each in found], limit=len(found))
        return found, {state.id: state for state in states}

    found, states = run(read)
    if as_json:
        keys = keyring()
        print_json([_fields(each, keys) for each in found])
        return
    now = datetime.now(UTC)
    print_table(
        ("id", "name", "type", "target", "every>", "tier", "status", "verdict", "for>"),
        [
            (
                each.id,
                each.name,
                each.target_type.value,
                states[each.id].target if each.id in states else None,
                f"{each.check_interval_seconds} s",
                each.tier.value,
                each.status.value,
                states[each.id].verdict.value if each.id in states else None,
                age(states[each.id].since, now) if each.id in states else None,
            )
            for each in found
        ],
        empty="no subscriptions; `lighthouse subscriptions add --help` tells how to make one",
    )


@subscriptions.command()
@click.argument("id", type=click.UUID)
@as_json
def show(id: UUID, as_json: bool) -> None:  # noqa: A002 - the argument's name in the help
    """One subscription with its state and channels."""
    from lighthouse.store import catalog, history

    async def read(pool: "Pool") -> "tuple[Subscription, Overview, list[Channel]]":
        found = await catalog.get(pool, id)
        [state] = await history.overview(pool, [id])
        return found, state, await catalog.list_channels(pool, id)

    found, state, channels = run(read)
    if as_json:
        print_json(_shown(found, state, channels))
        return
    amount = found.payment_amount_usdc
    print_facts(
        [
            ("id", found.id),
            ("name", found.name),
            ("wallet", found.wallet_address),
            ("type", found.target_type.value),
            ("target", state.target),
            ("interval", f"{found.check_interval_seconds} s"),
            ("tier", found.tier.value),
            ("status", found.status.value),
            ("verdict", f"{state.verdict.value} since {_time(state.since)}"),
            ("last check", _last_check(state)),
            ("next check", _time(state.next_due)),
            ("payment", found.payment_tx_hash),
            ("paid on", found.payment_chain),
            ("paid", None if amount is None else f"{Decimal(amount) / 1_000_000:f} USDC"),
            ("created", _time(found.created_at)),
            ("activated", _time(found.activated_at)),
            ("expires", _time(found.expires_at)),
            ("cancelled", _time(found.cancelled_at)),
            *(
                (
                    "channel",
                    f"{each.channel_type.value} {each.id} from {each.min_severity.value},"
                    f" {each.language}{'' if each.enabled else ', disabled'}",
                )
                for each in channels
            ),
        ]
    )


def _shown(found: "Subscription", state: "Overview", channels: "list[Channel]") -> dict[str, Any]:
    return {
        **_fields(found, keyring()),
        "verdict": state.verdict,
        "since": state.since,
        "last_time": state.last_time,
        "last_status": state.last_status,
        "next_due": state.next_due,
        # Without their configurations, which hold secrets.
        "channels": [
            {
                "id": each.id,
                "channel_type": each.channel_type,
                "enabled": each.enabled,
                "min_severity": each.min_severity,
                "metadata": each.metadata,
            }
            for each in channels
        ],
    }


def _fields(found: "Subscription", keys: "Keyring") -> dict[str, Any]:
    """Its fields, with stars for secrets."""
    from dataclasses import asdict

    from lighthouse import probes

    config = probes.shown_config(found.target_type, found.target_config, keys)
    return {**asdict(found), "target_config": config}


def _time(value: datetime | None) -> str | None:
    return None if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _last_check(state: "Overview") -> str | None:
    if state.last_time is None or state.last_status is None:
        return None
    latency = "" if state.last_latency_ms is None else f" in {state.last_latency_ms:.1f} ms"
    reason = f": {state.last_error}" if state.last_error else ""
    return f"{state.last_status.value}{latency} at {_time(state.last_time)}{reason}"


@subscriptions.command()
@click.argument("id", type=click.UUID)
@click.option("--interval", type=int, help="Seconds between checks from now on.")
@click.option("--config", help="JSON, or @FILE: the whole new configuration.")
def change(id: UUID, interval: int | None, config: str | None) -> None:  # noqa: A002
    """Change the interval, the configuration or both."""
    from lighthouse import configs, probes
    from lighthouse.store import catalog

    if interval is None and config is None:
        raise UsageError("nothing to change; give --interval, --config or both")
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
