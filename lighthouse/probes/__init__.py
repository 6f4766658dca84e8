"""Probes: one file per monitor type, one map, and the `Prober` that a worker's engine owns.

A new monitor type is a file with a configuration and an async function, and a line in `MONITORS`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from lighthouse.configs import shown, validated
from lighthouse.errors import ConfigError
from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import balance, graphql, http, websocket
from lighthouse.probes.canary import canary
from lighthouse.probes.config import RETRY_PAUSE_S, MonitorConfig
from lighthouse.probes.websocket_config import WebsocketConfig
from lighthouse.probes.wire.equipment import Equipment
from lighthouse.sealing import Keyring
from lighthouse.settings import Settings

__all__ = ["MONITORS", "Monitor", "MonitorConfig", "Prober", "check_once", "json_schema"]
__all__ += ["parse_config", "shown_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """A monitor type: what configures it and what runs one attempt of it."""

    config: type[MonitorConfig]
    probe: Callable[[Equipment, Any, float], Awaitable[Outcome]]


MONITORS: Mapping[MonitorType, Monitor] = {
    MonitorType.HTTP: Monitor(config=http.HttpConfig, probe=http.probe),
    MonitorType.WEBSOCKET: Monitor(config=WebsocketConfig, probe=websocket.probe),
    MonitorType.GRAPHQL: Monitor(config=graphql.GraphqlConfig, probe=graphql.probe),
    MonitorType.BALANCE: Monitor(config=balance.BalanceConfig, probe=balance.probe),
    MonitorType.CANARY: Monitor(config=canary.CanaryConfig, probe=canary.probe),
}

#: What a second look a moment later would find again.
_FINAL = frozenset(
    {
        Reason.FORBIDDEN_ADDRESS,
        Reason.TLS_EXPIRED,
        Reason.CERTIFICATE_EXPIRY,
        Reason.PROBER_CONFIG,
        Reason.PROBER_CHAIN,
    }
)


def parse_config(
    type: MonitorType,  # noqa: A002
    config: Mapping[str, Any],
    keys: Keyring | None = None,
) -> MonitorConfig:
    """Read and check a monitor's configuration; a stored one needs the keys that open its secrets.

    Raises ConfigError with one line that names the field and repeats no value of it.
    """
    return validated(_monitor(type).config, config, keys)


def shown_config(type: MonitorType, config: Mapping[str, Any], keys: Keyring) -> dict[str, Any]:  # noqa: A002
    """A stored configuration with stars for its secrets."""
    return shown(MONITORS[type].config if type in MONITORS else None, config, keys)


def json_schema(type: MonitorType) -> dict[str, Any]:  # noqa: A002
    """The JSON Schema of a monitor type's configuration. Raises ConfigError for an unbuilt type."""
    return _monitor(type).config.model_json_schema()


def _monitor(type_: MonitorType) -> Monitor:
    monitor = MONITORS.get(type_)
    if monitor is None:
        raise ConfigError(f"{type_.value} checks are not built yet", "type")
    return monitor


class Prober:
    """Runs probes on the event loop that it was started on. Not thread-safe."""

    def __init__(self, settings: Settings, *, explain: bool = False) -> None:
        """`explain`: outcomes tell each assertion; for people who look at single checks."""
        self._settings = settings
        self._explain = explain
        self._equipment: Equipment | None = None

    async def start(self) -> None:
        """Open the equipment on the running loop. Raises SettingsError without a CA bundle."""
        if self._equipment is None:
            self._equipment = Equipment(self._settings, explain=self._explain)

    async def close(self) -> None:
        """End every running probe, whose callers are cancelled."""
        if self._equipment is not None:
            await self._equipment.close()
            self._equipment = None

    async def __aenter__(self) -> "Prober":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def probe(
        self,
        type: MonitorType,  # noqa: A002
        config: MonitorConfig,
        interval_s: float,
    ) -> Outcome:
        """Check a target once, with the retries that its configuration allows inside the slot.

        Takes `config.worst_case_s(interval_s)` at the most. The target cannot make it raise.
        """
        equipment = self._equipment
        if equipment is None:
            raise RuntimeError("the prober is not started")
        run = _monitor(type).probe
        timeout_s = config.timeout_s(interval_s)
        outcome = await run(equipment, config, timeout_s)
        attempts = 1
        while (
            outcome.status is not CheckStatus.SUCCESS
            and attempts <= config.retries
            and outcome.reason not in _FINAL
        ):
            await asyncio.sleep(RETRY_PAUSE_S)
            outcome = await run(equipment, config, timeout_s)
            attempts += 1
        return outcome if attempts == 1 else replace(outcome, attempts=attempts)


async def check_once(
    type: MonitorType,  # noqa: A002
    config: MonitorConfig,
    settings: Settings,
    interval_s: float = 60.0,
) -> Outcome:
    """One probe, now, with a prober of its own: for the command line."""
    async with Prober(settings, explain=True) as prober:
        return await prober.probe(type, config, interval_s)
