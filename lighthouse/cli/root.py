"""The root command. Subcommands are imported when they are called, so that `--help` is quick."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

import click

from lighthouse import __version__


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is imported on use."""

    where: str  #: module:attribute
    help: str


COMMANDS: Mapping[str, Lazy] = MappingProxyType(
    {
        "db": Lazy("lighthouse.cli.db:db", "The database: upgrade, downgrade, status, url."),
        "subscriptions": Lazy(
            "lighthouse.cli.subscriptions:subscriptions", "What is watched: add, list, pause …"
        ),
        "channels": Lazy("lighthouse.cli.channels:channels", "Where alerts go: add, list, test …"),
        "secrets": Lazy("lighthouse.cli.secrets:secrets", "The keys that seal secrets: rotate …"),
        "check": Lazy("lighthouse.cli.checks:check", "Probe a target once, now; store nothing."),
        "schema": Lazy(
            "lighthouse.cli.checks:schema", "The JSON Schema of a configuration or policy."
        ),
        "history": Lazy("lighthouse.cli.reading:history", "The latest checks of a subscription."),
        "metrics": Lazy("lighthouse.cli.reading:metrics", "Its hourly or daily metrics."),
        "uptime": Lazy("lighthouse.cli.reading:uptime", "Its uptime and coverage over some days."),
        "status": Lazy("lighthouse.cli.standing:status", "How the whole fleet stands."),
        "incidents": Lazy(
            "lighthouse.cli.incidents:incidents", "What is wrong, and why: list, show, ack."
        ),
        "alerts": Lazy("lighthouse.cli.deliveries:alerts", "Alerts and what became of them."),
        "maintenance": Lazy(
            "lighthouse.cli.maintenance:maintenance", "When alerts are held: add, list, remove."
        ),
    }
)


class Root(click.Group):
    """A group whose commands are known by name and help before they are imported."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy: dict[str, Lazy] = dict(COMMANDS)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self.lazy.get(cmd_name)
        if lazy is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = lazy.where.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self.lazy.items()])


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lighthouse")
def cli() -> None:
    """Lighthouse watches services, keeps exact history and wakes the right people.

    DATABASE_URL names the PostgreSQL server, REDIS_URL the Redis server; the README lists every
    setting. Data goes to standard output, everything else to standard error.
    """
