"""What every monitor's configuration shares: its deadline, its retries, its name for people."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

#: The longest timeout that is taken when none is configured, in seconds.
DEFAULT_TIMEOUT_S = 10.0

#: The share of an interval that all attempts of an unset timeout may take together: even the
#: shortest interval (10 s) keeps room for the pauses between them.
INTERVAL_SHARE = 0.8

#: Seconds before an attempt is repeated: long enough for a dropped packet or a restarting
#: process's next worker, short enough to be over within the slot.
RETRY_PAUSE_S = 0.25

MOST_RETRIES = 5
LONGEST_TIMEOUT_S = 120.0


class MonitorConfig(BaseModel):
    """Configuration of one monitor: immutable, complete, without unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        str_max_length=65_536,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    timeout: Annotated[float, Field(ge=0.1, le=LONGEST_TIMEOUT_S)] | None = Field(
        default=None,
        description="Seconds that one attempt may take; 10 where the interval has room for that.",
    )
    retries: int = Field(
        default=1,
        ge=0,
        le=MOST_RETRIES,
        description="Further attempts inside the slot before a failure is believed.",
    )

    def timeout_s(self, interval_s: float) -> float:
        """Seconds that one attempt may take."""
        if self.timeout is not None:
            return self.timeout
        return min(DEFAULT_TIMEOUT_S, INTERVAL_SHARE * interval_s / (self.retries + 1))

    def worst_case_s(self, interval_s: float) -> float:
        """Seconds that all attempts and the pauses between them may take."""
        attempts = self.retries + 1
        return self.timeout_s(interval_s) * attempts + RETRY_PAUSE_S * self.retries

    def once(self, limit_s: float | None = None) -> Self:
        """The same check in one attempt, which takes no longer than `limit_s`."""
        changes: dict[str, Any] = {"retries": 0}
        if limit_s is not None:
            changes["timeout"] = min(limit_s, self.timeout or limit_s)
        return self.model_copy(update=changes)

    @property
    def repeatable(self) -> bool:
        """Whether one check more does nothing at the target that its owner did not ask for."""
        return False

    def target(self) -> str:
        """What is checked, for people: without credentials."""
        raise NotImplementedError
