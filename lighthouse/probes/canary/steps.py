"""What a canary's step is: its common configuration, what it runs in, and what it hands back.

A kind of step is one file with a configuration (a subclass of `StepConfig` whose `action` is its
own literal) and `async def run_step(equipment, step, flow, timeout_s) -> StepResult`; canary.py
holds the map. A step's target cannot make `run_step` raise; `UnsetVariable` and `StepFault` may be
raised and are told as the step's outcome.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from lighthouse import variables
from lighthouse.model import Outcome, Reason
from lighthouse.probes.canary.cookies import Jar
from lighthouse.probes.canary.redaction import Redactor
from lighthouse.probes.http import blame
from lighthouse.probes.judging.assertions import Comparison
from lighthouse.probes.wire.equipment import Equipment

#: Extracted values and their variables are held while a flow runs, and thousands of flows may run.
MOST_VARIABLES = 50
MOST_VALUE_CHARS = 16_384
LONGEST_PAUSE_S = 30.0

VariableName = Annotated[str, Field(pattern=rf"^{variables.NAME.pattern}$")]


class StepFault(Exception):  # noqa: N818 - a judgement, not an error of ours
    """A step that cannot be run as configured with the values that the flow has now."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Condition(BaseModel):
    """When a step runs: everything that is given must hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    variables: dict[VariableName, Comparison] = Field(
        default_factory=dict,
        max_length=20,
        description="What variables must be; one that has no value fails.",
    )
    steps: dict[str, Literal["success", "failure", "skipped"]] = Field(
        default_factory=dict,
        max_length=20,
        description="How earlier steps must have ended, by their names; failure is any bad end.",
    )


class StepConfig(BaseModel):
    """What all steps have in common."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        str_max_length=65_536,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    name: str = Field(min_length=1, max_length=100, description="For people; unique in the canary.")
    when: Condition | None = Field(default=None, description="The step is skipped unless it holds.")
    always: bool = Field(
        default=False, description="Runs after a failure too, to clean up what steps have made."
    )
    optional: bool = Field(
        default=False, description="Its failure neither ends the canary nor fails it."
    )
    retries: int = Field(
        default=0, ge=0, le=10, description="Further tries of this step before its failure counts."
    )
    retry_pause: float = Field(
        default=0.25, ge=0.0, le=LONGEST_PAUSE_S, description="Seconds before each further try."
    )
    timeout: Annotated[float, Field(ge=0.1, le=120.0)] | None = Field(
        default=None, description="Seconds that one try may take; else what is left of the flow's."
    )

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable() or "${" in value:
            raise ValueError("holds a line break or a variable")
        return value

    def templates(self) -> Iterable[tuple[str, Any]]:
        """(key, value) of what is substituted: text, or a JSON value with texts inside."""
        return ()

    def from_secrets(self) -> Iterable[tuple[str, str]]:
        """(key, text) of templates whose variables may come from `secrets` only."""
        return ()

    def opens(self) -> Iterable[str]:
        """The URLs that the step itself names, as templates."""
        return ()

    def sets(self) -> Mapping[str, bool]:
        """The variables that the step sets; True for what its target decides."""
        return {}

    def own_names(self) -> frozenset[str]:
        """Variables that the step itself gives to its templates."""
        return frozenset()


@dataclass(slots=True, kw_only=True)
class Flow:
    """One attempt of a canary: what its steps share. Only canary.py changes it."""

    values: dict[str, Any]  #: of variables: secrets, built-in ones, what steps have set
    redactor: Redactor  #: takes secrets out of every text that leaves the flow
    origins: frozenset[tuple[str, str, int]] = frozenset()  #: that the configuration itself names
    tainted: frozenset[str] = frozenset()  #: names of variables that a target decides
    jar: Jar = field(default_factory=Jar)
    ended: dict[str, str] = field(default_factory=dict)  #: step: "success", "failure", "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one try of a step found, and the variables that it sets on success."""

    outcome: Outcome
    values: Mapping[str, Any] = field(default_factory=dict)
    secret: frozenset[str] = frozenset()  #: names among them that no text may show


Runner = Callable[[Equipment, Any, Flow, float], Awaitable[StepResult]]


def at(place: tuple[str | int, ...], message: str) -> ValidationError:
    """A fault of a configuration at a place of the model that is being validated."""
    error = PydanticCustomError("value_error", "{error}", {"error": message})
    line = InitErrorDetails(type=error, loc=place, input=None)
    return ValidationError.from_exception_data("", [line], hide_input=True)


def failed(reason: Reason, message: str, latency_ms: float | None = None) -> Outcome:
    """An outcome that is no success; the reason tells whom it blames."""
    return Outcome(status=blame(reason), reason=reason, message=message, latency_ms=latency_ms)
