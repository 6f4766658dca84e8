"""`lighthouse subscriptions apply`: the plan of a file is shown, agreed to and done.

Nothing is written before the plan was shown; what is unchanged is not touched.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lighthouse import settings
from lighthouse.cli import manifest
from lighthouse.cli.planning import Plan, Planner, Step
from lighthouse.cli.support import keyring, print_json, run, text
from lighthouse.cli.wanted import MOST_FAULTS, Reader
from lighthouse.errors import UsageError
from lighthouse.store import applying

if TYPE_CHECKING:
    from lighthouse.store.pool import Pool

#: Lines of a plan on a terminal; a longer one ends with their number.
MOST_LINES = 200


def apply_file(name: str, *, yes: bool, prune: bool, as_json: bool) -> None:
    """The command. Raises UsageError with the place of each fault."""
    document = manifest.read(*_data(name))
    enforce_plans = settings.current().plans == "on"
    wanted = Reader(document, enforce_plans=enforce_plans)
    _refuse(wanted)
    keys = keyring()

    async def look(pool: "Pool") -> applying.Present:
        return await applying.present(pool, wanted.wallets)

    seen = run(look)
    plan = Planner(wanted, seen, keys, enforce_plans=enforce_plans, prune=prune).plan()
    _refuse(wanted)

    async def do(pool: "Pool") -> None:
        await applying.apply(pool, wanted.wallets, seen, plan.changes, enforce_plans=enforce_plans)

    if not as_json:
        _show(plan)
    agreed = bool(plan.changes) and (yes or (not as_json and _asked()))
    if agreed:
        run(do)
    if as_json:
        steps = [_facts(step) for step in plan.steps]
        print_json({"steps": steps, "unchanged": plan.unchanged, "applied": agreed})
    elif plan.changes:
        click.echo("applied" if agreed else "nothing was done; --yes applies the plan", err=True)


def _data(name: str) -> tuple[str, bytes]:
    try:
        if name == "-":
            return "standard input", sys.stdin.buffer.read(manifest.LARGEST_BYTES + 1)
        with Path(name).open("rb") as file:
            return name, file.read(manifest.LARGEST_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"cannot read {name}: {exc.strerror}") from None


def _refuse(wanted: Reader) -> None:
    if not wanted.faults:
        return
    *others, last = wanted.faults[:MOST_FAULTS]
    for fault in others:
        click.echo(f"lighthouse: {fault}", err=True)
    more = len(wanted.faults) - MOST_FAULTS
    raise UsageError(f"{last}{f' (and {more} more)' if more > 0 else ''}")


def _asked() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return click.confirm("Apply this plan?", default=False, err=True)


_SIGNS: Mapping[str, tuple[str, str]] = {
    "create": ("+", "green"),
    "change": ("~", "yellow"),
    "cancel": ("-", "red"),
    "keep": ("?", "white"),
}


def _show(plan: Plan) -> None:
    counts = Counter(step.action for step in plan.steps)
    told = [step for step in plan.steps if step.action != "keep"]
    for step in told[:MOST_LINES]:
        sign, colour = _SIGNS[step.action]
        facts = f": {', '.join(step.changes)}" if step.changes else ""
        line = f"{sign} {step.action} {step.type} {step.name!r} of {step.wallet}{facts}"
        click.echo(click.style(text(line), fg=colour))
    if len(told) > MOST_LINES:
        click.echo(f"… and {len(told) - MOST_LINES} more")
    kept = f", {counts['keep']} not in the file (--prune cancels them)" if counts["keep"] else ""
    click.echo(
        f"{counts['create']} to create, {counts['change']} to change,"
        f" {counts['cancel']} to cancel, {plan.unchanged} unchanged{kept}"
    )


def _facts(step: Step) -> dict[str, Any]:
    return {
        "action": step.action,
        "wallet": step.wallet,
        "name": step.name,
        "type": step.type,
        "id": step.id,
        "changes": list(step.changes),
    }
