"""The plan of `lighthouse subscriptions apply`: from what a file wants and what is there.

What is unchanged is not touched; a plan names fields and never holds a secret.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from lighthouse import channels as edge
from lighthouse import configs, plans, probes
from lighthouse.cli.relations import Relations
from lighthouse.cli.support import length
from lighthouse.cli.wanted import ChannelEntry, Reader, Wanted
from lighthouse.errors import ConfigError
from lighthouse.model import Channel, Subscription, SubscriptionStatus, Tier
from lighthouse.sealing import Keyring
from lighthouse.store import applying
from lighthouse.store.creation import NewSubscription


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


class Planner:
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
        self._there = {(each.wallet_address, each.name): each for each in seen.subscriptions}

    def plan(self) -> Plan:
        there = self._there
        named = {each.key for each in self._wanted.wanted}
        relations = Relations(self._wanted, self._seen, cancelled=self._prune)
        live = Counter(
            each.wallet_address for key, each in there.items() if key in named or not self._prune
        )
        for wanted in self._wanted.wanted:
            with self._wanted.faults_of(wanted.path):
                found = there.get(wanted.key)
                facts = relations.change(wanted, found, self._plan.changes)
                if found is None:
                    self._create(wanted, live, facts)
                else:
                    self._change(wanted, found, facts)
        relations.check_circles()
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

    def _create(self, wanted: Wanted, live: Counter[str], more: Sequence[str]) -> None:
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
            alerting=wanted.alerting or {},
        )
        added = [self._channel(item, config) for item, config in wanted.channels or ()]
        self._plan.changes.create.append((new, added, entry.paused is True))
        facts = [f"every {entry.interval} s", f"{entry.tier.value} plan"]
        if entry.paused:
            facts.append("paused")
        if added:
            facts.append(f"{len(added)} channel{'s' if len(added) > 1 else ''}")
        if wanted.alerting:
            facts.append(f"alerting: {', '.join(wanted.alerting)}")
        facts += more
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
            timezone=entry.timezone,
            escalate_after_s=entry.escalate_after_s,
        )

    def _change(self, wanted: Wanted, found: Subscription, more: Sequence[str]) -> None:
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
        alerting = None
        if wanted.alerting is not None and wanted.alerting != found.alerting:
            alerting = wanted.alerting
            facts.append(f"alerting: {', '.join(_unequal(found.alerting, alerting))}")
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
                    alerting=alerting,
                )
            )
        if wanted.channels is not None:
            facts += self._change_channels(found.id, wanted.channels)
        elif self._enforce_plans and entry.tier is not found.tier:
            self._check_channels(entry.tier, found.id)
        facts += more
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


def _unequal(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Keys that differ, or are there in one of them only."""
    keys = dict.fromkeys((*after, *before))
    return [key for key in keys if before.get(key, keys) != after.get(key, keys)]


def _channel_facts(before: Channel, after: applying.WantedChannel) -> list[str]:
    facts = []
    if before.language != after.language:
        facts.append(f"language {after.language}")
    if before.timezone != after.timezone:
        facts.append(f"timezone {after.timezone}")
    if before.escalate_after_s != after.escalate_after_s:
        facts.append(f"after {length(after.escalate_after_s)}")
    if before.min_severity is not after.min_severity:
        facts.append(f"from {after.min_severity.value}")
    if before.enabled is not after.enabled:
        facts.append("enabled" if after.enabled else "disabled")
    return facts
