"""What a worker knows of subscriptions: their specs, read from Redis and parsed once a version."""

import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from lighthouse import probes
from lighthouse.errors import ConfigError
from lighthouse.fleet.targets import Target, place_of
from lighthouse.model import MonitorType
from lighthouse.schedule import Leases
from lighthouse.sealing import Keyring

#: Parsed configurations kept; one is about 2 KB.
MAX_CONFIGS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A parsed spec; `config` is None when it cannot be parsed, and `problem` tells why."""

    version: int
    type: MonitorType
    config: Any
    problem: str = ""
    target: Target | None = None


class Specs:
    """Everything here runs on the engine's loop."""

    def __init__(self, leases: Leases, keys: Keyring) -> None:
        self._leases = leases
        self._keys = keys
        self._known: OrderedDict[UUID, Known] = OrderedDict()

    def get(self, subscription_id: UUID) -> Known | None:
        """What was learnt last. None: it is no longer scheduled."""
        return self._known.get(subscription_id)

    async def learn(self, versions: Iterable[tuple[UUID, int]]) -> None:
        """Make sure that each subscription is known in its newest version. Raises ScheduleError."""
        wanted = []
        for subscription_id, version in versions:
            known = self._known.get(subscription_id)
            if known is None or known.version != version:
                wanted.append(subscription_id)
            else:  # so that making room for the others never costs a check of this batch
                self._known.move_to_end(subscription_id)
        if not wanted:
            return
        for subscription_id, (version, spec) in (await self._leases.specs(wanted)).items():
            self._known[subscription_id] = _parse(self._keys, subscription_id, version, spec)
            self._known.move_to_end(subscription_id)
        while len(self._known) > MAX_CONFIGS:
            self._known.popitem(last=False)


def _parse(keys: Keyring, subscription_id: UUID, version: int, raw: bytes) -> Known:
    monitor = MonitorType.HTTP
    try:
        # Not orjson: its integers end at 64 bits, and amounts of tokens do not.
        spec = json.loads(raw)
        monitor = MonitorType(spec["type"])
        config = probes.parse_config(monitor, spec["config"], keys)
    except ConfigError as exc:
        problem = f"configuration refused: {exc}"
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        problem = f"this worker cannot read the configuration: {exc}"
    else:
        target = Target(
            type=monitor,
            config=config,
            place=place_of(config),
            who=subscription_id,
            version=version,
        )
        return Known(version=version, type=monitor, config=config, target=target)
    return Known(version=version, type=monitor, config=None, problem=problem)
