"""What a file of subscriptions asks for: read, checked against models and plans, fault by place."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from lighthouse import channels, configs, plans, probes, settings
from lighthouse.alerting import as_stored, parse_alerting
from lighthouse.cli.maintenance import local
from lighthouse.cli.manifest import Document
from lighthouse.cli.support import seconds
from lighthouse.errors import ConfigError, SettingsError, UsageError
from lighthouse.model import ChannelType, MonitorType, Severity, Tier
from lighthouse.store.alert_channels import check_escalation
from lighthouse.store.creation import check_name, wallet_address
from lighthouse.store.maintenance import NAME as WINDOW_NAME
from lighthouse.store.maintenance import check_name as check_window_name
from lighthouse.store.parents import MOST_PARENTS
from lighthouse.windows import Window, check_window

M = TypeVar("M", bound=BaseModel)
Path = tuple[str | int, ...]

#: The guide's default, in seconds.
DEFAULT_INTERVAL_S = 900
#: Faults that are told at a time.
MOST_FAULTS = 20


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


#: Such as 15m, or a number of seconds.
Length = Annotated[int, Field(strict=True)] | str


class ChannelEntry(_Model):
    """A channel in the file."""

    type: ChannelType = Field(description="Such as webhook.")
    config: dict[str, Any] = Field(description="As `lighthouse schema TYPE` tells.")
    language: str = Field(default="en", description="Of the alerts: en or es.")
    min_severity: Severity = Field(
        default=Severity.WARNING, description="The least severe alert that goes there."
    )
    timezone: str = Field(default="UTC", description="Of the times in them.")
    escalate_after: Length = Field(
        default=0, description="Tell only of what has lasted so long: 15m, 2h; 0: all."
    )
    enabled: bool | None = Field(
        default=None, description="Whether alerts go there; left as it is when not given."
    )

    @property
    def escalate_after_s(self) -> int:
        """Raises UsageError."""
        return seconds(str(self.escalate_after), "escalate_after")


class WindowEntry(_Model):
    """A maintenance window in the file."""

    start: str = Field(description="Local time of the first one, such as 2026-11-28 02:00.")
    duration: Length = Field(description="Such as 2h.")
    timezone: str = Field(default="UTC", description="Whose clock it goes by.")
    repeat: str | None = Field(default=None, description="RRULE, such as FREQ=WEEKLY;BYDAY=SA.")
    name: str = Field(default=WINDOW_NAME, description="What it is for.")

    def window(self) -> Window:
        """Raises UsageError."""
        check_window_name(self.name)
        found = Window(
            local_start=local(self.start),
            duration_s=seconds(str(self.duration), "duration"),
            timezone=self.timezone,
            repeat=self.repeat,
        )
        check_window(found)
        return found


class SubscriptionEntry(_Model):
    """A subscription in the file."""

    name: str = Field(description="What it is known by; unique for the wallet.")
    type: MonitorType = Field(description="Such as http.")
    config: dict[str, Any] = Field(description="As `lighthouse schema TYPE` tells.")
    interval: int = Field(
        default=DEFAULT_INTERVAL_S, strict=True, description="Seconds between checks."
    )
    tier: Tier = Field(default=Tier.FREE, description="The plan that it is sold under.")
    paused: bool | None = Field(
        default=None, strict=True, description="Left as it is when not given."
    )
    channels: list[ChannelEntry] | None = Field(
        default=None, description="All of its channels; left as they are when not given."
    )
    alerting: dict[str, Any] | None = Field(
        default=None, description="When to tell; left as it is when not given, {}: the defaults."
    )
    parents: list[str] | None = Field(
        default=None, description="Names; while one is down its alerts are held. As channels."
    )
    maintenance: list[WindowEntry] | None = Field(
        default=None, description="All windows of its own; left as they are when not given."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An entry with its configurations read."""

    path: Path  #: in the file
    wallet: str  #: lower case
    entry: SubscriptionEntry
    model: probes.MonitorConfig
    channels: Sequence[tuple[ChannelEntry, channels.ChannelConfig]] | None
    alerting: Mapping[str, Any] | None  #: as it is stored
    windows: Sequence[tuple[str, Window]] | None  #: with their names

    @property
    def key(self) -> tuple[str, str]:
        return self.wallet, self.entry.name


class Reader:
    """Collects what a document wants, and its faults."""

    def __init__(self, document: Document, *, enforce_plans: bool) -> None:
        self._document = document
        self._enforce_plans = enforce_plans
        self.faults: list[UsageError] = []
        self.wallets: list[str] = []  #: lower case, those without any entry too
        self.wanted: list[Wanted] = []
        with self.faults_of(()):
            self._read(document.value)

    def _read(self, value: Any) -> None:
        if not isinstance(value, Mapping) or not isinstance(value.get("wallets"), Mapping):
            raise ConfigError("must be `wallets:` with a list of subscriptions for each address")
        for key in value:
            if key != "wallets":
                raise ConfigError("unknown key", key)
        for given, entries in value["wallets"].items():
            path: Path = ("wallets", given)
            with self.faults_of(path):
                wallet = wallet_address(given)
                if wallet in self.wallets:
                    raise ConfigError("the wallet is there twice")
                self.wallets.append(wallet)
                if not isinstance(entries, list):
                    raise ConfigError("must be a list of subscriptions")
                self._read_wallet(wallet, path, entries)

    def _read_wallet(self, wallet: str, path: Path, entries: list[Any]) -> None:
        names: set[str] = set()
        for index, given in enumerate(entries):
            here = (*path, index)
            with self.faults_of(here):
                wanted = self._entry(wallet, here, given)
                if wanted is None:
                    continue
                if wanted.entry.name in names:
                    raise ConfigError("the wallet has two subscriptions of that name", "name")
                names.add(wanted.entry.name)
                self.wanted.append(wanted)

    def _entry(self, wallet: str, path: Path, given: Any) -> Wanted | None:
        before = len(self.faults)
        entry = _validated(SubscriptionEntry, given)
        check_name(entry.name)
        plans.check_interval(entry.interval)
        model = None
        with self.faults_of((*path, "config")):
            model = probes.parse_config(entry.type, entry.config)
        if model is not None:
            plans.check_fits(model.worst_case_s(entry.interval), entry.interval)
        if self._enforce_plans:
            plans.check_subscription(entry.tier, entry.type, entry.interval, 0)
        read: list[tuple[ChannelEntry, channels.ChannelConfig]] = []
        for index, channel in enumerate(entry.channels or ()):
            here = (*path, "channels", index)
            with self.faults_of(here):
                if channel.language not in channels.LANGUAGES:
                    raise ConfigError(f"is none of {', '.join(channels.LANGUAGES)}", "language")
                channels.check_timezone(channel.timezone)
                check_escalation(channel.escalate_after_s)
                if self._enforce_plans:
                    plans.check_channel(entry.tier, channel.type)
                try:
                    channels.require_settings(channel.type, settings.current())
                except SettingsError as exc:
                    raise ConfigError(str(exc), "type") from None
                with self.faults_of((*here, "config")):
                    read.append((channel, channels.parse_config(channel.type, channel.config)))
        alerting = None
        if entry.alerting is not None:
            with self.faults_of(path):
                alerting = as_stored(parse_alerting(entry.alerting))
        if len(entry.parents or ()) > MOST_PARENTS:
            raise ConfigError(f"at most {MOST_PARENTS}", "parents")
        windows: list[tuple[str, Window]] = []
        for index, window in enumerate(entry.maintenance or ()):
            with self.faults_of((*path, "maintenance", index)):
                windows.append((window.name, window.window()))
        if model is None or len(self.faults) > before:
            return None
        return Wanted(
            path=path,
            wallet=wallet,
            entry=entry,
            model=model,
            channels=None if entry.channels is None else read,
            alerting=alerting,
            windows=None if entry.maintenance is None else windows,
        )

    @contextmanager
    def faults_of(self, path: Path) -> Iterator[None]:
        """Note a fault instead of raising it, at its field's place under a path."""
        try:
            yield
        except UsageError as exc:
            self.faults.append(self.at(path, exc))

    def at(self, path: Path, exc: UsageError) -> UsageError:
        """A fault with its place."""
        field, message = _split(exc)
        where = self._document.inside(path, field) if field else path
        dotted = _shown(path, field)
        return self._document.fault(where, f"{dotted}: {message}" if dotted else message)


def _split(exc: UsageError) -> tuple[str, str]:
    """(field, message) of an error that begins with its field."""
    if isinstance(exc, ConfigError):
        return exc.field, str(exc)[len(exc.field) + 2 :] if exc.field else str(exc)
    field, separator, message = str(exc).partition(": ")
    return (field, message) if separator and field.isidentifier() else ("", str(exc))


def _shown(path: Path, field: str) -> str:
    """A path for people: what the line does not tell anyhow."""
    parts = [str(part) for part in path[3:]]
    return ".".join([*parts, *([field] if field else [])])


def _validated(model: type[M], given: Any) -> M:
    if not isinstance(given, Mapping):
        raise ConfigError("must have keys: name, type, config …")
    return configs.validated(model, given)
