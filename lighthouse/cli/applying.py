"""`lighthouse subscriptions apply`: the plan from what a file wants and what is there; its doing.

Nothing is written before the plan was shown; what is unchanged is not touched.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click
from pydantic import BaseModel

from lighthouse import channels as edge
from lighthouse import configs, plans, probes, settings
from lighthouse.cli import manifest
from lighthouse.cli.support import keyring, print_json, run, text
from lighthouse.cli.wanted import MOST_FAULTS, ChannelEntry, Reader, Wanted
from lighthouse.errors import ConfigError, UsageError
from lighthouse.model import Channel, Subscription, SubscriptionStatus, Tier
from lighthouse.sealing import Keyring
from lighthouse.store import applying
from lighthouse.store.creation import NewSubscription

if TYPE_CHECKING:
    from lighthouse.store.pool import Pool

#: Lines of a plan on a terminal; a longer one ends with their number.
MOST_LINES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of a plan; `changes` names fields and never holds a secret."""

    action: str  #: create, change, cancel, or keep: there, not in the file, and left alone
    wallet: str
    name: str
    type: str
    id: UUID | None
    changes: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class Plan:
    """What is to be done, for people and for the store."""

    steps: list[Step] = field(default_factory=list)
    unchanged: int = 0
    changes: applying.Changes = field(default_factory=applying.Changes)


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
    plan = _Planner(wanted, seen, keys, enforce_plans=enforce_plans, prune=prune).plan()
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


class _Planner:
    """The plan from a document and what is there."""

    def __init__(
        self,
        wanted: Reader,
        seen: applying.Present,
        keys: Keyring,
        *,
        enforce_plans: bool,
        prune: bool,
    ) -> None:
        self._wanted, self._seen, self._keys = wanted, seen, keys
        self._enforce_plans, self._prune = enforce_plans, prune
        self._plan = Plan()
        self._channels: dict[UUID, list[Channel]] = defaultdict(list)
        for channel in seen.channels:
            self._channels[channel.subscription_id].append(channel)

    def plan(self) -> Plan:
        there = {(each.wallet_address, each.name): each for each in self._seen.subscriptions}
        named = {(each.wallet, each.entry.name) for each in self._wanted.wanted}
        live = Counter(
            each.wallet_address for key, each in there.items() if key in named or not self._prune
        )
        for wanted in self._wanted.wanted:
            with self._wanted.faults_of(wanted.path):
                found = there.get((wanted.wallet, wanted.entry.name))
                if found is None:
                    self._create(wanted, live)
                else:
                    self._change(wanted, found)
        for key, each in there.items():
            if key not in named:
                self._note("cancel" if self._prune else "keep", each)
                if self._prune:
                    self._plan.changes.cancel.append(each.id)
        return self._plan

    def _note(self, action: str, found: Subscription, changes: Sequence[str] = ()) -> None:
        self._plan.steps.append(
            Step(
                action=action,
                wallet=found.wallet_address,
                name=found.name,
                type=found.target_type.value,
                id=found.id,
                changes=changes,
            )
        )

    def _create(self, wanted: Wanted, live: Counter[str]) -> None:
        entry = wanted.entry
        if self._enforce_plans:
            plans.check_subscription(entry.tier, entry.type, entry.interval, live[wanted.wallet])
        live[wanted.wallet] += 1
        new = NewSubscription(
            wallet=wanted.wallet,
            type=entry.type,
            config=configs.seal(wanted.model, self._keys),
            interval_s=entry.interval,
            worst_case_s=wanted.model.worst_case_s(entry.interval),
            tier=entry.tier,
            name=entry.name,
        )
        added = [self._channel(item, config) for item, config in wanted.channels or ()]
        self._plan.changes.create.append((new, added, entry.paused is True))
        facts = [f"every {entry.interval} s", f"{entry.tier.value} plan"]
        if entry.paused:
            facts.append("paused")
        if added:
            facts.append(f"{len(added)} channel{'s' if len(added) > 1 else ''}")
        self._plan.steps.append(
            Step(
                action="create",
                wallet=wanted.wallet,
                name=entry.name,
                type=entry.type.value,
                id=None,
                changes=facts,
            )
        )

    def _channel(
        self,
        entry: ChannelEntry,
        config: edge.ChannelConfig | None,
        *,
        enabled: bool = True,
    ) -> applying.WantedChannel:
        return applying.WantedChannel(
            type=entry.type,
            config=None if config is None else configs.seal(config, self._keys),
            language=entry.language,
            min_severity=entry.min_severity,
            enabled=enabled if entry.enabled is None else entry.enabled,
        )

    def _change(self, wanted: Wanted, found: Subscription) -> None:
        entry = wanted.entry
        if entry.type is not found.target_type:
            raise ConfigError(
                f"{found.name!r} is a {found.target_type.value} monitor, and its history stays one;"
                " cancel it first, or give another name",
                "type",
            )
        facts = []
        if entry.interval != found.check_interval_seconds:
            facts.append(f"interval {found.check_interval_seconds} s → {entry.interval} s")
        if entry.tier is not found.tier:
            facts.append(f"tier {found.tier.value} → {entry.tier.value}")
        status = _status(entry.paused, found.status)
        if status is not found.status:
            facts.append("paused" if entry.paused else "resumed")
        config = None
        differing = self._differing(wanted, found)
        if differing:
            config = configs.seal(wanted.model, self._keys)
            facts.append(f"config: {', '.join(differing)}")
        if facts:
            self._plan.changes.change.append(
                applying.Changed(
                    id=found.id,
                    type=found.target_type,
                    tier=entry.tier,
                    interval_s=entry.interval,
                    worst_case_s=wanted.model.worst_case_s(entry.interval),
                    config=config,
                    status=status,
                )
            )
        if wanted.channels is not None:
            facts += self._change_channels(found.id, wanted.channels)
        elif self._enforce_plans and entry.tier is not found.tier:
            self._check_channels(entry.tier, found.id)
        if facts:
            self._note("change", found, facts)
        else:
            self._plan.unchanged += 1

    def _differing(self, wanted: Wanted, found: Subscription) -> list[str]:
        try:
            model = probes.parse_config(found.target_type, found.target_config, self._keys)
        except ConfigError:  # no key of ours has sealed it, or an older Lighthouse took it
            return ["all of it"]
        return _differing(model, wanted.model)

    def _check_channels(self, tier: Tier, id_: UUID) -> None:
        for channel in self._channels[id_]:
            plans.check_channel(tier, channel.channel_type)

    def _change_channels(
        self, id_: UUID, wanted: Sequence[tuple[ChannelEntry, edge.ChannelConfig]]
    ) -> list[str]:
        """Those that say the same are the same; others of a type take each other's place."""
        changes, facts = self._plan.changes, []
        there = [(channel, self._read(channel)) for channel in self._channels[id_]]
        rest = []
        for entry, config in wanted:
            same = next((pair for pair in there if pair[1] == config), None)
            if same is None:
                rest.append((entry, config))
                continue
            there.remove(same)
            now = self._channel(entry, None, enabled=same[0].enabled)
            if differences := _channel_facts(same[0], now):
                changes.change_channels.append((same[0].id, now))
                facts.append(f"{entry.type.value} channel: {', '.join(differences)}")
        for entry, config in rest:
            other = next((pair for pair in there if pair[0].channel_type is entry.type), None)
            if other is None:
                changes.add_channels.append((id_, self._channel(entry, config)))
                facts.append(f"another {entry.type.value} channel")
                continue
            there.remove(other)
            # One that was switched off because it had gone is another one now.
            changes.change_channels.append((other[0].id, self._channel(entry, config)))
            names = ["all of it"] if other[1] is None else _differing(other[1], config)
            facts.append(f"{entry.type.value} channel: {', '.join(names)}")
        for channel, _ in there:
            changes.remove_channels.append(channel.id)
            facts.append(f"without a {channel.channel_type.value} channel")
        return facts

    def _read(self, channel: Channel) -> edge.ChannelConfig | None:
        try:
            return edge.parse_config(channel.channel_type, channel.channel_config, self._keys)
        except ConfigError:
            return None


def _status(paused: bool | None, now: SubscriptionStatus) -> SubscriptionStatus:
    if paused is None:
        return now
    return SubscriptionStatus.PAUSED if paused else SubscriptionStatus.ACTIVE


def _differing(before: BaseModel, after: BaseModel) -> list[str]:
    """Names of the fields that differ: no values, they may be secrets."""
    return [
        name for name in type(after).model_fields if getattr(before, name) != getattr(after, name)
    ]


def _channel_facts(before: Channel, after: applying.WantedChannel) -> list[str]:
    facts = []
    if before.language != after.language:
        facts.append(f"language {after.language}")
    if before.min_severity is not after.min_severity:
        facts.append(f"from {after.min_severity.value}")
    if before.enabled is not after.enabled:
        facts.append("enabled" if after.enabled else "disabled")
    return facts


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
