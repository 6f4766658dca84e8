"""A canary's steps that reach nothing: `wait` passes time, `set` composes variables of others."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from lighthouse import variables
from lighthouse.model import CheckStatus, Outcome, Reason
from lighthouse.probes.canary.steps import (
    LONGEST_PAUSE_S,
    MOST_VALUE_CHARS,
    Flow,
    StepConfig,
    StepFault,
    StepResult,
    VariableName,
    failed,
)
from lighthouse.probes.wire.equipment import Equipment


class WaitStep(StepConfig):
    """Gives the target time, for example to settle an order."""

    action: Literal["wait"] = Field(description="Wait for `seconds`.")
    seconds: float = Field(gt=0, le=LONGEST_PAUSE_S, description="How long.")


async def wait(_: Equipment, step: WaitStep, _flow: Flow, timeout_s: float) -> StepResult:
    """Sleep, and no longer than the flow has."""
    begun = time.monotonic()
    await asyncio.sleep(min(step.seconds, timeout_s))
    took_ms = (time.monotonic() - begun) * 1000
    if step.seconds > timeout_s:
        told = f"a wait of {step.seconds:g} s does not end in the {timeout_s:.3g} s that are left"
        return StepResult(outcome=failed(Reason.TIMEOUT, told, took_ms))
    return StepResult(outcome=Outcome(status=CheckStatus.SUCCESS, latency_ms=took_ms))


class SetStep(StepConfig):
    """Composes new variables, for example a JSON document that a later step sends encoded."""

    action: Literal["set"] = Field(description="Set `values`.")
    values: dict[VariableName, Any] = Field(
        min_length=1,
        max_length=20,
        description='JSON values with ${NAME} in their texts; "${NAME}" alone keeps the type.',
    )

    def templates(self) -> Iterable[tuple[str, Any]]:
        for name, value in self.values.items():
            yield f"values.{name}", value

    def sets(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.values, False)


async def set_values(_: Equipment, step: SetStep, flow: Flow, _timeout_s: float) -> StepResult:
    """All values at once, from what was known before the step."""
    values: dict[str, Any] = {}
    for name, template in step.values.items():
        value = variables.substitute_json(template, flow.values)
        if len(variables.text_of(value)) > MOST_VALUE_CHARS:
            raise StepFault(Reason.BODY, f"{name} is longer than {MOST_VALUE_CHARS} characters")
        values[name] = value
    return StepResult(outcome=Outcome(status=CheckStatus.SUCCESS), values=values)
