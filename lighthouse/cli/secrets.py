"""`lighthouse secrets`: the keys that seal configurations' secrets."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lighthouse.cli.support import as_json, keyring, print_json, print_table, run
from lighthouse.errors import ConfigError, LighthouseError
from lighthouse.model import ChannelType, MonitorType

if TYPE_CHECKING:
    from lighthouse.store.pool import Pool
    from lighthouse.store.sealed import Walked


@click.group()
def secrets() -> None:
    """The keys that seal configurations' secrets: LIGHTHOUSE_SECRET_KEYS."""


@secrets.command("new-key")
def new_key() -> None:
    """Print a fresh key."""
    from lighthouse import sealing

    click.echo(sealing.new_key())


@secrets.command()
def rotate() -> None:
    """Seal everything with the first key; then the others are needed no more.

    Safe beside a running fleet, and to repeat.
    """
    found = _walk(write=True)
    for table, walked in found.items():
        click.echo(f"{table}: {walked.changed} of {walked.rows} sealed anew", err=True)
    _tell_unread(found)


@secrets.command()
@as_json
def status(as_json: bool) -> None:
    """How many configurations `rotate` would seal anew; exit status 1 if some cannot be read."""
    found = _walk(write=False)
    if as_json:
        print_json({table: asdict(walked) for table, walked in found.items()})
    else:
        print_table(
            ("table", "rows>", "to rotate>", "cannot be read>"),
            [(t, w.rows, w.changed, w.unread) for t, w in found.items()],
        )
    _tell_unread(found)


def _tell_unread(found: "Mapping[str, Walked]") -> None:
    unread = sum(walked.unread for walked in found.values())
    if unread:
        raise LighthouseError(
            f"{unread} configurations cannot be read with these LIGHTHOUSE_SECRET_KEYS;"
            " they stay as they are"
        )


def _walk(*, write: bool) -> "dict[str, Walked]":
    from lighthouse import channels, configs, probes
    from lighthouse.store import sealed

    keys = keyring()
    keys.require()

    def monitors(type_: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
        if (known := probes.MONITORS.get(MonitorType(type_))) is None:
            raise ConfigError("is not built", "type")
        return configs.resealed(known.config, config, keys)

    def channel_kinds(type_: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
        if (known := channels.CHANNELS.get(ChannelType(type_))) is None:
            raise ConfigError("is not built", "type")
        return configs.resealed(known.config, config, keys)

    async def walk(pool: "Pool") -> "dict[str, Walked]":
        return {
            "subscriptions": await sealed.walk(pool, "subscriptions", monitors, write=write),
            "alert_channels": await sealed.walk(pool, "alert_channels", channel_kinds, write=write),
        }

    return run(walk)
