"""`lighthouse check` and `lighthouse schema`: what needs no database."""

import asyncio

import click

from lighthouse.cli import looking
from lighthouse.cli.support import as_json, json_config, print_json, quiet_logs
from lighthouse.model import ChannelType, CheckStatus, MonitorType

#: What `lighthouse schema` calls the policy of alerts.
_ALERTING = "alerting"


@click.command()
@click.option(
    "--type",
    "monitor",
    required=True,
    type=click.Choice([t.value for t in MonitorType]),
    help="What kind of check.",
)
@click.option("--config", required=True, help="JSON, or @FILE; `lighthouse schema TYPE` tells.")
@as_json
@click.pass_context
def check(ctx: click.Context, monitor: str, config: str, as_json: bool) -> None:
    """Probe a target once, now, and store nothing.

    The exit status is 0 for success and 1 for every other outcome.
    """
    from lighthouse import probes, settings

    type_ = MonitorType(monitor)
    model = probes.parse_config(type_, json_config(config))
    quiet_logs()
    outcome = asyncio.run(probes.check_once(type_, model, settings.current()))
    if as_json:
        print_json(looking.as_data(outcome))
    else:
        looking.show(model.target(), outcome)
    if outcome.status is not CheckStatus.SUCCESS:
        ctx.exit(1)


@click.command()
@click.argument(
    "type",
    metavar="TYPE",
    type=click.Choice(
        [*(t.value for t in MonitorType), *(t.value for t in ChannelType), _ALERTING]
    ),
)
@click.option("--json", "as_json", is_flag=True, help="As ever: a schema is always JSON.")
def schema(type: str, as_json: bool) -> None:  # noqa: A002, ARG001
    """The JSON Schema of a monitor's or channel's configuration, or of `alerting`."""
    from lighthouse import channels, probes
    from lighthouse.alerting import Alerting

    if type == _ALERTING:
        print_json(Alerting.model_json_schema())
    elif type in set(MonitorType):
        print_json(probes.json_schema(MonitorType(type)))
    else:
        print_json(channels.json_schema(ChannelType(type)))
