"""`lighthouse maintenance`: windows in which alerts are held."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from lighthouse.cli.support import (
    age,
    as_json,
    length,
    print_json,
    print_table,
    run,
    seconds,
)
from lighthouse.errors import UsageError

if TYPE_CHECKING:
    from lighthouse.store.maintenance import Maintenance
    from lighthouse.store.pool import Pool


@click.group()
def maintenance() -> None:
    """When alerts are held: once, or again and again."""


@maintenance.command()
@click.option("--wallet", help="Hold alerts of all subscriptions of this owner.")
@click.option("--subscription", type=click.UUID, help="Hold those of one subscription.")
@click.option("--start", help='Local time of the time zone, such as "2026-11-28 02:00".')
@click.option("--now", is_flag=True, help="Begin now, once.")
@click.option("--duration", required=True, help="Such as 90s, 15m or 2h; at most 7d.")
@click.option("--timezone", help="Whose clock the start goes by, as Europe/Madrid; else UTC.")
@click.option("--repeat", help="RRULE of days, such as FREQ=WEEKLY;BYDAY=SA.")
@click.option("--name", default="maintenance", show_default=True, help="What it is for.")
def add(
    wallet: str | None,
    subscription: UUID | None,
    start: str | None,
    now: bool,
    duration: str,
    timezone: str | None,
    repeat: str | None,
    name: str,
) -> None:
    """Hold alerts while the window lasts; prints the new id.

    What is still wrong at its end is told then; what began and ended within it is not told.
    """
    from lighthouse.store import maintenance as store
    from lighthouse.store.creation import wallet_address
    from lighthouse.windows import Window, check_window

    if (wallet is None) == (subscription is None):
        raise UsageError("give either --wallet or --subscription")
    if (start is None) != now:
        raise UsageError("give either --start or --now")
    if now and (timezone is not None or repeat is not None):
        raise UsageError("--now is for once, by no clock: without --timezone and --repeat")
    if wallet is not None:
        wallet_address(wallet)

    def window(local_start: datetime) -> Window:
        found = Window(
            local_start=local_start,
            duration_s=seconds(duration, "duration"),
            timezone=timezone or "UTC",
            repeat=repeat,
        )
        check_window(found)
        return found

    # What is wrong with it is told before any server is asked.
    checked = window(datetime.now(UTC).replace(tzinfo=None) if start is None else local(start))

    async def create(pool: "Pool") -> UUID:
        begins = checked
        if now:
            begins = window((await store.clock(pool)).astimezone(UTC).replace(tzinfo=None))
        return await store.add_window(
            pool, begins, wallet=wallet, subscription_id=subscription, name=name
        )

    click.echo(run(create))


def local(value: str) -> datetime:
    """A local time, without a zone. Raises UsageError."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        raise UsageError(
            f"start: {value[:40]!r} is no local time, such as 2026-11-28 02:00"
        ) from None
    return found.replace(microsecond=0)


@maintenance.command("list")
@click.option("--wallet", help="Only this owner's.")
@click.option("--subscription", type=click.UUID, help="Those that hold this one's alerts.")
@as_json
def list_(wallet: str | None, subscription: UUID | None, as_json: bool) -> None:
    """The windows that run or will come, the first one first."""
    from lighthouse.store import catalog
    from lighthouse.store import maintenance as store
    from lighthouse.store.creation import wallet_address

    if wallet is not None:
        wallet_address(wallet)

    async def read(pool: "Pool") -> "list[Maintenance]":
        if subscription is not None:
            await catalog.get(pool, subscription)
        return await store.list_windows(pool, wallet=wallet, subscription_id=subscription)

    found = run(read)
    if as_json:
        print_json([as_data(each) for each in found])
        return
    print_table(
        (
            "id",
            "name",
            "of",
            "begins (UTC)",
            "ends (UTC)",
            "in>",
            "local start",
            "length",
            "repeats",
        ),
        [
            (
                each.id,
                each.name,
                each.subscription_name or each.wallet_address,
                each.starts_at,
                each.ends_at,
                _when(each),
                f"{each.window.local_start:%Y-%m-%d %H:%M:%S} {each.window.timezone}",
                length(each.window.duration_s),
                each.window.repeat,
            )
            for each in found
        ],
        empty="no maintenance windows; `lighthouse maintenance add --help` tells how to make one",
    )


def as_data(found: "Maintenance") -> dict[str, Any]:
    """A window as JSON has it, its fields named like the columns."""
    return {
        "id": found.id,
        "wallet_address": found.wallet_address,
        "subscription_id": found.subscription_id,
        "subscription_name": found.subscription_name,
        "name": found.name,
        "local_start": found.window.local_start,
        "duration_s": found.window.duration_s,
        "timezone": found.window.timezone,
        "repeat": found.window.repeat,
        "starts_at": found.starts_at,
        "ends_at": found.ends_at,
    }


def _when(found: "Maintenance") -> str:
    now = datetime.now(UTC)
    return "runs now" if found.starts_at <= now else age(now, found.starts_at)


@maintenance.command()
@click.argument("id", type=click.UUID)
def remove(id: UUID) -> None:  # noqa: A002 - the argument's name in the help
    """Remove a window; what it holds is told within minutes if it is still true."""
    from lighthouse.store import maintenance as store

    run(lambda pool: store.remove_window(pool, id))
    click.echo(f"removed {id}", err=True)
