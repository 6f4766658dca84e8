"""What is checked, as far as its relations to others go, and the operator's reference targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from lighthouse.errors import ConfigError, SettingsError
from lighthouse.model import MonitorType
from lighthouse.probes import MonitorConfig, parse_config

#: Seconds that a reference may take.
ASK_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was checked, as far as relations between targets go."""

    type: MonitorType
    config: MonitorConfig
    place: str  #: host and port: of targets that share it one is enough to ask
    who: UUID | None = None  #: the subscription; an answer proves nothing for its own
    version: int = 0  #: of its spec

    @property
    def askable(self) -> bool:
        """Whether one check more does nothing there that its owner did not ask for."""
        return self.config.repeatable


def place_of(config: MonitorConfig) -> str:
    """Where a target is, for telling related ones apart."""
    shown = config.target()
    return urlsplit(shown).netloc.lower() or shown


def references(urls: Sequence[str]) -> list[Target]:
    """The operator's reference targets; any answer of theirs is proof. Raises SettingsError."""
    found = []
    for url in urls:
        config: dict[str, Any] = {
            "url": url,
            "timeout": ASK_S,
            "retries": 0,
            "valid_status_codes": ["100-599"],
            "follow_redirects": False,
        }
        try:
            parsed = parse_config(MonitorType.HTTP, config)
        except ConfigError as exc:
            raise SettingsError(f"LIGHTHOUSE_REFERENCE_TARGETS: {exc}") from None
        found.append(Target(type=MonitorType.HTTP, config=parsed, place=place_of(parsed)))
    return found
