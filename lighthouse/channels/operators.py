"""The operator's own channels: they stand in a setting, so they need no subscription's row."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid5

import orjson

from lighthouse.channels.templates import LANGUAGES
from lighthouse.errors import ConfigError, SettingsError
from lighthouse.model import OPERATOR, Channel, ChannelType, Severity

#: Namespace of the ids of channels that have no row.
_NAMESPACE = UUID("b0f5f2a1-6a0f-5d5e-8a42-0f6a2d7f9c33")
_VARIABLE = "LIGHTHOUSE_OPERATOR_CHANNELS"
_KEYS = frozenset({"type", "config", "language"})


def read_channels(text: str) -> tuple[Channel, ...]:
    """The channels of the setting, unvalidated configurations included.

    A channel's id comes from what it says: the same in every process, another after a change.
    Raises SettingsError without repeating a value.
    """
    if not text.strip():
        return ()
    try:
        entries = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise SettingsError(f"{_VARIABLE}: is no JSON (line {exc.lineno})") from None
    if not isinstance(entries, list):
        raise SettingsError(f"{_VARIABLE}: must be a list")
    return tuple(_channel(entry, f"{_VARIABLE}[{i}]") for i, entry in enumerate(entries))


def _channel(entry: Any, place: str) -> Channel:
    if not isinstance(entry, Mapping) or not {"type", "config"} <= entry.keys() <= _KEYS:
        raise SettingsError(f'{place}: must be {{"type": …, "config": …}}, "language" if wanted')
    if entry["type"] not in list(ChannelType):
        raise SettingsError(f"{place}.type: is none of {', '.join(ChannelType)}")
    language = entry.get("language", "en")
    if language not in LANGUAGES:
        raise SettingsError(f"{place}.language: is none of {', '.join(LANGUAGES)}")
    canonical = orjson.dumps([entry["type"], entry["config"]], option=orjson.OPT_SORT_KEYS)
    return Channel(
        id=uuid5(_NAMESPACE, canonical.decode()),
        subscription_id=OPERATOR,
        channel_type=ChannelType(entry["type"]),
        channel_config=entry["config"],
        enabled=True,
        min_severity=Severity.INFO,
        metadata={"language": language},
    )


def refused(index: int, exc: ConfigError) -> SettingsError:
    """The setting's error for a configuration that its type refuses."""
    return SettingsError(f"{_VARIABLE}[{index}].config: {exc}")
