"""`lighthouse subscriptions list` and `show`: what is watched, and how it stands."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from lighthouse.cli.support import (
    age,
    as_json,
    keyring,
    length,
    print_facts,
    print_json,
    print_table,
    run,
)
from lighthouse.model import SubscriptionStatus

if TYPE_CHECKING:
    from lighthouse.model import Channel, Subscription
    from lighthouse.sealing import Keyring
    from lighthouse.store.history import Overview
    from lighthouse.store.pool import Pool


@click.command("list")
@click.option("--wallet", help="Only this owner's.")
@click.option(
    "--status",
    type=click.Choice([s.value for s in SubscriptionStatus]),
    help="Only those in this status.",
)
@as_json
def list_(wallet: str | None, status: str | None, as_json: bool) -> None:
    """All subscriptions, and how each stands."""
    from lighthouse.store import catalog, history, parents

    async def read(
        pool: "Pool",
    ) -> "tuple[list[Subscription], dict[UUID, Overview], dict[UUID, list[UUID]]]":
        found = await catalog.list_subscriptions(
            pool, wallet, None if status is None else SubscriptionStatus(status)
        )
        ids = [each.id for each in found]
        if as_json or not found:
            return found, {}, await parents.parents_of(pool, ids)
        states = await history.overview(pool, ids, limit=len(found))
        return found, {state.id: state for state in states}, {}

    found, states, above = run(read)
    if as_json:
        keys = keyring()
        print_json([_fields(each, keys, above.get(each.id, ())) for each in found])
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


@click.command()
@click.argument("id", type=click.UUID)
@as_json
def show(id: UUID, as_json: bool) -> None:  # noqa: A002 - the argument's name in the help
    """One subscription with its state and channels."""
    from lighthouse.store import catalog, history, parents

    async def read(
        pool: "Pool",
    ) -> "tuple[Subscription, Overview, list[Channel], list[Subscription]]":
        found = await catalog.get(pool, id)
        [state] = await history.overview(pool, [id])
        above = (await parents.parents_of(pool, [id])).get(id, [])
        named = [await catalog.get(pool, parent) for parent in above]
        return found, state, await catalog.list_channels(pool, id), named

    found, state, channels, above = run(read)
    if as_json:
        print_json(_shown(found, state, channels, above))
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
            ("alerting", _policy(found.alerting)),
            *(("parent", f"{each.name} {each.id}") for each in above),
            *(("channel", _channel(each)) for each in channels),
        ]
    )


def _policy(alerting: Mapping[str, Any]) -> str | None:
    """What was given; all else is as `lighthouse schema alerting` tells."""
    return json.dumps(dict(alerting), ensure_ascii=False) if alerting else None


def _channel(each: "Channel") -> str:
    after = f", after {length(each.escalate_after_s)}" if each.escalate_after_s else ""
    return (
        f"{each.channel_type.value} {each.id} from {each.min_severity.value}{after},"
        f" {each.language}{'' if each.enabled else ', disabled'}"
    )


def _shown(
    found: "Subscription",
    state: "Overview",
    channels: "list[Channel]",
    above: "list[Subscription]",
) -> dict[str, Any]:
    return {
        **_fields(found, keyring(), [each.id for each in above]),
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
                "escalate_after_s": each.escalate_after_s,
                "metadata": each.metadata,
            }
            for each in channels
        ],
    }


def _fields(found: "Subscription", keys: "Keyring", above: Sequence[UUID]) -> dict[str, Any]:
    """Its fields, with stars for secrets."""
    from dataclasses import asdict

    from lighthouse import probes

    config = probes.shown_config(found.target_type, found.target_config, keys)
    return {**asdict(found), "target_config": config, "parents": list(above)}


def _time(value: datetime | None) -> str | None:
    return None if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _last_check(state: "Overview") -> str | None:
    if state.last_time is None or state.last_status is None:
        return None
    latency = "" if state.last_latency_ms is None else f" in {state.last_latency_ms:.1f} ms"
    reason = f": {state.last_error}" if state.last_error else ""
    return f"{state.last_status.value}{latency} at {_time(state.last_time)}{reason}"
