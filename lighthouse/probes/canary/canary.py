"""The `canary` monitor: steps in order, as a user's program would take them, and how they ended.

One attempt shares variables, cookies and one deadline, and nothing with the next attempt. A new
kind of step is a file and a line in `RUNNERS` and in `AnyStep`.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from lighthouse import urls, variables
from lighthouse.configs import Secret
from lighthouse.model import NO_TIMINGS, CheckStatus, Finding, Outcome, Reason, Step
from lighthouse.probes.canary import browser_step, chain_step, http_step, plain_steps, signing
from lighthouse.probes.canary.browser_actions import BrowserStep
from lighthouse.probes.canary.chain_step import ChainStep
from lighthouse.probes.canary.http_step import HttpStep
from lighthouse.probes.canary.plain_steps import SetStep, WaitStep
from lighthouse.probes.canary.redaction import SHORTEST, Redactor
from lighthouse.probes.canary.signing import SignStep
from lighthouse.probes.canary.steps import (
    MOST_VARIABLES,
    Condition,
    Flow,
    Runner,
    StepConfig,
    StepFault,
    StepResult,
    VariableName,
    at,
    failed,
)
from lighthouse.probes.config import DEFAULT_TIMEOUT_S, MonitorConfig
from lighthouse.probes.wire.equipment import Equipment

MOST_STEPS = 20

#: What of the flow's time is kept for steps that run `always`, so that a target which hangs does
#: not keep its visitors' orders: a share, and at most so many seconds.
_CLEANUP_SHARE, _CLEANUP_S = 0.2, 5.0

#: What a step may take beyond its own deadline to judge what has come, in seconds.
_JUDGING_S = 0.5

#: A step with less time than this is not begun, in seconds.
_LEAST_S = 0.005

#: Shorter cookies are counters and flags, and stand in any text by chance.
_COOKIE_CHARS = 8

RUNNERS: Mapping[type[StepConfig], Runner] = {
    BrowserStep: browser_step.run_step,
    ChainStep: chain_step.run_step,
    HttpStep: http_step.run_step,
    SetStep: plain_steps.set_values,
    SignStep: signing.run_step,
    WaitStep: plain_steps.wait,
}


def _kind(step: Any) -> str | None:
    """The branch of `AnyStep` that a step's action belongs to."""
    action = step.get("action") if isinstance(step, Mapping) else getattr(step, "action", None)
    if not isinstance(action, str):
        return None
    return "<http>" if action.upper() in http_step.METHODS else f"<{action}>"


# In angle brackets, which no key of a configuration is: the tags are no part of a field's path.
AnyStep = Annotated[
    Annotated[HttpStep, Tag("<http>")]
    | Annotated[BrowserStep, Tag("<browser>")]
    | Annotated[ChainStep, Tag("<chain>")]
    | Annotated[SetStep, Tag("<set>")]
    | Annotated[SignStep, Tag("<sign>")]
    | Annotated[WaitStep, Tag("<wait>")],
    Discriminator(
        _kind,
        custom_error_type="action",
        custom_error_message="needs an action: an HTTP method, http, chain, sign, browser, set "
        "or wait",
    ),
]


class CanaryConfig(MonitorConfig):
    """Configuration of a `canary` monitor. `timeout` is one attempt's, with all its steps."""

    steps: tuple[AnyStep, ...] = Field(
        min_length=1, max_length=MOST_STEPS, description="In order; the first failure ends them."
    )
    secrets: dict[VariableName, Secret] = Field(
        default_factory=dict,
        max_length=20,
        description="Variables that no message, finding or snippet shows.",
    )
    allow_origins: tuple[str, ...] = Field(
        default=(),
        max_length=20,
        description="Where a step may go by an answer's word, such as https://cdn.example: besides "
        "the origins that the steps' URLs name.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "CanaryConfig":
        self._check_secrets()
        known = variables.BUILT_IN | frozenset(self.secrets)
        before: set[str] = set()
        for index, step in enumerate(self.steps):
            self._check_names(index, step, known, before)
            known |= frozenset(step.sets())
            before.add(step.name)
        if len(known) > MOST_VARIABLES:
            raise at(("steps",), f"set more than {MOST_VARIABLES} variables")
        if all(step.always or isinstance(step, WaitStep | SetStep) for step in self.steps):
            raise at(("steps",), "check nothing: none of them asks a target")
        waits_s = sum(step.seconds for step in self.steps if isinstance(step, WaitStep))
        if waits_s >= (self.timeout or DEFAULT_TIMEOUT_S):
            raise at(("steps",), "wait longer than the canary's timeout")
        for index, origin in enumerate(self.allow_origins):
            try:
                urls.normalize(origin)
            except ValueError as exc:
                raise at(("allow_origins", index), str(exc)) from None
        return self

    def _check_secrets(self) -> None:
        for name, value in self.secrets.items():
            if name in variables.BUILT_IN:
                raise at(("secrets", name), "is a variable that every canary has")
            if not SHORTEST <= len(value) <= 8192:
                raise at(("secrets", name), f"has less than {SHORTEST} or over 8192 characters")

    def _check_names(
        self, index: int, step: StepConfig, known: frozenset[str], before: set[str]
    ) -> None:
        if step.name in before:
            raise at(("steps", index, "name"), "is the name of an earlier step too")
        for key, value in step.templates():
            missing = variables.names(value) - known - step.own_names()
            if missing:
                raise at(("steps", index, *key.split(".")), _unknown(missing))
        for key, text in step.from_secrets():
            if variables.names(text) - frozenset(self.secrets):
                raise at(("steps", index, key), "may hold variables of `secrets` only")
        if isinstance(step, SignStep) and step.needs_require(self.tainted):
            raise at(
                ("steps", index, "require"), "is needed: an answer decides what would be signed"
            )
        if step.when is not None:
            missing = frozenset(step.when.variables) - known
            if missing:
                raise at(("steps", index, "when", "variables"), _unknown(missing))
            if frozenset(step.when.steps) - before:
                raise at(("steps", index, "when", "steps"), "names a step that is not earlier")
        for name in step.sets():
            if name in self.secrets or name in variables.BUILT_IN:
                raise at(("steps", index), f"sets {name}, which is a secret or built in")

    def target(self) -> str:
        first = next((url for step in self.steps for url in step.opens()), None)
        count = "1 step" if len(self.steps) == 1 else f"{len(self.steps)} steps"
        return count if first is None else f"{urls.shown(first)} ({count})"

    @cached_property
    def tainted(self) -> frozenset[str]:
        """Variables that an answer decides, directly or through others."""
        found: set[str] = set()
        for step in self.steps:
            used = frozenset(n for _, value in step.templates() for n in variables.names(value))
            found |= {name for name, its in step.sets().items() if its or used & found}
        return frozenset(found)

    def flow(self) -> Flow:
        """What one attempt begins with."""
        now = time.time()
        values: dict[str, Any] = {
            "NOW": int(now),
            "NOW_MS": int(now * 1000),
            "RUN_ID": str(uuid.uuid4()),
            "NONCE": "0x" + os.urandom(32).hex(),
            **self.secrets,
        }
        origins = {urls.parts(urls.normalize(origin)) for origin in self.allow_origins}
        for step in self.steps:
            for url in step.opens():
                head, _ = urls.cut_origin(url)
                if variables.names(head) & self.tainted:
                    continue
                try:
                    origins.add(urls.parts(urls.normalize(variables.substitute(head, values))))
                except ValueError:
                    continue  # told when the step runs
        return Flow(
            values=values,
            redactor=Redactor(self.secrets.values()),
            origins=frozenset(origins),
            tainted=self.tainted,
        )


def _unknown(names: frozenset[str]) -> str:
    return f"uses ${{{min(names)}}}, which no secret and no earlier step sets"


async def probe(equipment: Equipment, config: CanaryConfig, timeout_s: float) -> Outcome:
    """One attempt: the steps in order, and after a failure those that clean up."""
    flow = config.flow()
    begun = time.monotonic()
    end = begun + timeout_s
    cleans = any(step.always for step in config.steps)
    usual_end = end - (min(_CLEANUP_SHARE * timeout_s, _CLEANUP_S) if cleans else 0.0)
    told: list[Step] = []
    failure: Outcome | None = None
    expires = []
    certificates = []
    for step in config.steps:
        skipped = _skipped(step, flow, failure)
        if skipped is not None:
            flow.ended[step.name] = "skipped"
            told.append(Step(name=step.name, status=None, latency_ms=0.0, message=skipped))
            continue
        step_begun = time.monotonic()
        outcome = await _tried(equipment, step, flow, end if step.always else usual_end)
        took_ms = (time.monotonic() - step_begun) * 1000
        good = outcome.status is CheckStatus.SUCCESS
        flow.ended[step.name] = "success" if good else "failure"
        if outcome.cert_expires_at is not None:
            expires.append(outcome.cert_expires_at)
        if outcome.certificate is not None:
            certificates.append(outcome.certificate)
        told.append(_told(step, outcome, took_ms, flow))
        if not good and not step.optional and failure is None:
            failure = replace(outcome, message=f"step {step.name}: {outcome.message}")
    last = failure or outcome
    return Outcome(
        status=CheckStatus.SUCCESS if failure is None else failure.status,
        reason=None if failure is None else failure.reason,
        message=None if failure is None else flow.redactor.text(failure.message),
        latency_ms=(time.monotonic() - begun) * 1000,
        http_status=last.http_status,
        http_version=last.http_version,
        timings=NO_TIMINGS,  # of several exchanges there are no phases of one
        cert_expires_at=min(expires, default=None),
        certificate=min(certificates, key=lambda each: each.expires_at, default=None),
        addresses=() if failure is None else failure.addresses,
        snippet=None if failure is None else flow.redactor.text(failure.snippet),
        steps=tuple(told),
    )


def _skipped(step: StepConfig, flow: Flow, failure: Outcome | None) -> str | None:
    """Why a step does not run, or None."""
    if failure is not None:
        if not step.always:
            return "an earlier step failed"
        used = frozenset(n for _, value in step.templates() for n in variables.names(value))
        unset = used - flow.values.keys() - step.own_names()
        if unset:  # what it would clean up was never made
            return f"${{{min(unset)}}} has no value"
    return None if step.when is None else _unmet(step.when, flow)


def _unmet(when: Condition, flow: Flow) -> str | None:
    for name, wanted in when.variables.items():
        if name not in flow.values:
            return f"${{{name}}} has no value"
        fault = wanted.fault(flow.values[name])
        if fault is not None:
            return flow.redactor.text(f"${{{name}}}: {fault}")
    for name, ending in when.steps.items():
        if flow.ended.get(name) != ending:
            return f"step {name}: {flow.ended.get(name)}"
    return None


async def _tried(equipment: Equipment, step: StepConfig, flow: Flow, end: float) -> Outcome:
    """A step with its retries, over at `end` by the monotonic clock; sets its variables."""
    result: StepResult | None = None
    for attempt in range(step.retries + 1):
        if attempt:
            if end - time.monotonic() < step.retry_pause + _LEAST_S:
                break
            await asyncio.sleep(step.retry_pause)
        result = await _run(equipment, step, flow, end - time.monotonic())
        if result.outcome.status is CheckStatus.SUCCESS:
            break
        if result.outcome.reason in (Reason.PROBER_CONFIG, Reason.FORBIDDEN_ADDRESS):
            break
    assert result is not None  # noqa: S101 - the range is never empty
    _keep(result, flow)
    return result.outcome


async def _run(equipment: Equipment, step: StepConfig, flow: Flow, left_s: float) -> StepResult:
    """One try of a step."""
    if left_s < _LEAST_S:
        return StepResult(outcome=failed(Reason.TIMEOUT, "the canary's time is over"))
    limit_s = left_s if step.timeout is None else min(step.timeout, left_s)
    try:
        async with asyncio.timeout(limit_s + _JUDGING_S):
            return await RUNNERS[type(step)](equipment, step, flow, limit_s)
    except TimeoutError:
        outcome = failed(Reason.TIMEOUT, f"not over within {limit_s:.3g} s", limit_s * 1000)
    except StepFault as exc:
        outcome = failed(exc.reason, str(exc))
    except variables.UnsetVariable as exc:
        outcome = failed(Reason.PROBER_CONFIG, f"{exc}: the step that sets it was skipped")
    except ValueError as exc:  # of substitution: too long
        outcome = failed(Reason.BODY, f"with its variables it {exc}")
    return StepResult(outcome=outcome)


def _keep(result: StepResult, flow: Flow) -> None:
    if result.outcome.status is CheckStatus.SUCCESS:
        flow.values.update(result.values)
    for name in result.secret & result.values.keys():
        _hide(result.values[name], flow)
    for cookie in flow.jar.by_name().values():
        if len(cookie) >= _COOKIE_CHARS:
            flow.redactor.add(cookie)


def _hide(value: Any, flow: Flow) -> None:
    if isinstance(value, Mapping):
        for inner in value.values():
            _hide(inner, flow)
    elif isinstance(value, list):
        for inner in value:
            _hide(inner, flow)
    elif value is not None and not isinstance(value, bool):
        flow.redactor.add(variables.text_of(value))


def _told(step: StepConfig, outcome: Outcome, took_ms: float, flow: Flow) -> Step:
    hide = flow.redactor.text
    return Step(
        name=step.name,
        status=outcome.status,
        latency_ms=took_ms,
        message=hide(outcome.message),
        findings=tuple(
            Finding(name=hide(each.name) or "", ok=each.ok, found=hide(each.found) or "")
            for each in outcome.findings
        ),
    )
