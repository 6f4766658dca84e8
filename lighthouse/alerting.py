"""What a subscription's owner wants to hear, and when: `subscriptions.alerting`.

Only what was given is stored, so that a later Lighthouse's better default reaches everybody.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lighthouse.configs import validated
from lighthouse.errors import ConfigError

#: The most rows that a decision may want: those that `check_history` gives in one short index scan.
MOST_CHECKS = 60
#: Certificates further from their end are not looked at: those of 90 days always have fewer left.
MOST_CERTIFICATE_DAYS = 30


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LatencyWarning(_Part):
    """Warn while the median of the latest successful checks is too slow."""

    warn_ms: float = Field(
        ge=1, le=3_600_000, description="Milliseconds at which the median is too slow."
    )
    checks: int = Field(
        default=5, ge=3, le=MOST_CHECKS, description="How many successful checks the median is of."
    )


class Flapping(_Part):
    """Tell once that a target keeps changing, then nothing until it holds still."""

    changes: int = Field(default=6, ge=3, le=50, description="Changes that make it flapping.")
    within_s: int = Field(
        default=3600,
        ge=60,
        le=86_400,
        description="Seconds within which they happen, 12 intervals at least; holding still for"
        " half of them ends it.",
    )


class Alerting(_Part):
    """When to tell of what is found."""

    failures_to_down: int = Field(
        default=1, ge=1, le=10, description="Failed checks in a row that make it down."
    )
    successes_to_up: int = Field(
        default=1, ge=1, le=10, description="Successful checks in a row that make it up again."
    )
    latency: LatencyWarning | None = Field(
        default=None, description="Warn of slowness over several checks."
    )
    certificate_days: tuple[Annotated[int, Field(ge=1, le=MOST_CERTIFICATE_DAYS)], ...] = Field(
        default=(30, 14, 7, 1),
        max_length=10,
        description="Days before a certificate's end at which to tell of it, once each.",
    )
    flapping: Flapping | None = Field(
        default=Flapping(), description="When it counts as flapping; null: never."
    )
    min_coverage: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Share of the due checks of an hour that must be judged; 0: do not tell.",
    )
    remind_every_s: int | None = Field(
        default=None,
        ge=300,
        le=604_800,
        description="Tell again, so often, what lasts and nobody has acknowledged.",
    )

    @field_validator("certificate_days")
    @classmethod
    def _distinct(cls, days: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(days)) != len(days):
            raise ValueError("holds a number twice")
        return tuple(sorted(days, reverse=True))

    @property
    def rows_needed(self) -> int:
        """How many of the latest judged rows decide."""
        run = max(self.failures_to_down, self.successes_to_up)
        # Failures stand between the successes that the median is of.
        return run if self.latency is None else max(run, 2 * self.latency.checks)


DEFAULT = Alerting()


def parse_alerting(given: Mapping[str, Any]) -> Alerting:
    """Read what somebody gave. Raises ConfigError with one line that names the field."""
    try:
        return validated(Alerting, given)
    except ConfigError as exc:
        message = str(exc).removeprefix(f"{exc.field}: ")
        raise ConfigError(message, f"alerting.{exc.field}".rstrip(".")) from None


def stored_alerting(stored: Mapping[str, Any]) -> Alerting:
    """What is stored; the default where this version cannot read it: silence would be worse."""
    if not stored:
        return DEFAULT
    try:
        return validated(Alerting, stored)
    except ConfigError:
        return DEFAULT


def as_stored(alerting: Alerting) -> dict[str, Any]:
    """What was given, in JSON types."""
    return alerting.model_dump(mode="json", exclude_unset=True)
