"""A canary's `chain` step: one `eth_call`, what it must return and what is taken from it.

A call that the contract reverts is the target's failure; an RPC that does not answer is `error`,
for it tells nothing of the contract.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import orjson
from pydantic import Field, ValidationError, field_validator, model_validator

from lighthouse import urls, variables
from lighthouse.configs import Secret
from lighthouse.model import CheckStatus, Finding, Outcome, Reason
from lighthouse.probes import abi
from lighthouse.probes.assertions import Comparison, JsonExpectation, compiled_path, parse_json
from lighthouse.probes.equipment import Equipment
from lighthouse.probes.extraction import Missing, extracted_from
from lighthouse.probes.http_config import HttpConfig
from lighthouse.probes.steps import (
    Flow,
    StepConfig,
    StepFault,
    StepResult,
    VariableName,
    at,
    failed,
)
from lighthouse.probes.transport import TransportError

#: Bytes of an RPC's answer: the call's own, in hexadecimal digits, and what surrounds them.
_ANSWER_BYTES = 4 * abi.MOST_ANSWER_BYTES

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")

#: What nodes say of a call that the contract refused: code 3 is the standard's, the rest is usage.
_REVERT_CODE = 3
_REVERTED = re.compile(r"revert|invalid opcode|out of gas", re.IGNORECASE)


class ChainStep(StepConfig):
    """Calls a contract and judges what it returns. Nothing is signed or sent."""

    action: Literal["chain"] = Field(description="Call a contract with eth_call.")
    rpc_url: Secret = Field(
        min_length=1,
        max_length=urls.MOST_URL_CHARS,
        description="The chain's JSON-RPC; ${NAME} from secrets only.",
    )
    chain_id: int | None = Field(
        default=None, gt=0, description="What eth_chainId must answer; not asked without it."
    )
    to: str = Field(min_length=1, max_length=200, description="The contract's address.")
    function: str | None = Field(
        default=None,
        max_length=1000,
        description="Such as balanceOf(address) returns (uint256); types of ABI, names allowed.",
    )
    args: list[Any] = Field(
        default_factory=list,
        max_length=40,
        description='Its arguments; numbers may be texts, bytes are "0x…", tuples are arrays.',
    )
    data: str | None = Field(
        default=None, max_length=20_000, description="Ready call data, instead of a function."
    )
    sender: str | None = Field(
        default=None, max_length=200, description="The address that the call comes from."
    )
    block: int | Literal["latest", "safe", "finalized"] = Field(
        default="latest", description="At which block, a number or a tag."
    )
    expect: dict[str, Comparison] = Field(
        default_factory=dict,
        max_length=20,
        description="JSONPath into {value, values, raw} to what it must be: the first value that "
        "the function returns, all of them, and the answer's bytes.",
    )
    extract: dict[VariableName, str] = Field(
        default_factory=dict, max_length=20, description="Variables by such a JSONPath."
    )

    @field_validator("function")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            abi.function(value)
        return value

    @field_validator("expect", "extract")
    @classmethod
    def _paths(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        for path in value if info.field_name == "expect" else value.values():
            compiled_path(path)
        return value

    @field_validator("block")
    @classmethod
    def _number(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("is no block")
        return value

    @model_validator(mode="after")
    def _fits(self) -> "ChainStep":
        if (self.function is None) == (self.data is None):
            raise ValueError("give one of function and data")
        if self.args and self.function is None:
            raise at(("args",), "go with a function")
        if self.function is not None and len(self.args) != len(abi.function(self.function).takes):
            raise at(("args",), f"are not as many as {self.function[:80]} takes")
        for key in ("to", "sender"):
            value = getattr(self, key)
            if value is not None and "${" not in value and not _ADDRESS.fullmatch(value):
                raise at((key,), "is no address; it has 40 hexadecimal digits after 0x")
        if "${" not in self.rpc_url:
            try:
                urls.normalize(self.rpc_url)
            except ValueError as exc:
                raise at(("rpc_url",), str(exc)) from None
        return self

    def templates(self) -> Iterable[tuple[str, Any]]:
        yield "rpc_url", self.rpc_url
        yield "to", self.to
        yield "args", self.args
        for key in ("data", "sender"):
            value = getattr(self, key)
            if value is not None:
                yield key, value

    def from_secrets(self) -> Iterable[tuple[str, str]]:
        yield "rpc_url", self.rpc_url

    def sets(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.extract, True)

    def call(self, flow: Flow) -> dict[str, str]:
        """The call's parameters with the flow's values. Raises StepFault and UnsetVariable."""
        call = {}
        for key, template in (("to", self.to), ("from", self.sender)):
            if template is not None:
                address = variables.substitute(template, flow.values)
                if not _ADDRESS.fullmatch(address):
                    raise StepFault(_blame(self, flow), f"{key}: is no address")
                call[key] = address
        try:
            if self.function is not None:
                args = variables.substitute_json(self.args, flow.values)
                data = abi.call_data(abi.function(self.function), args)
            else:
                data = abi.hex_bytes(variables.substitute(self.data or "", flow.values))
        except variables.UnsetVariable:
            raise
        except ValueError as exc:
            raise StepFault(_blame(self, flow), f"args: {exc}") from None
        return {**call, "data": "0x" + data.hex()}


def _blame(step: ChainStep, flow: Flow) -> Reason:
    """Whose values a call cannot be made with."""
    used = frozenset(name for _, value in step.templates() for name in variables.names(value))
    return Reason.BODY if used & flow.tainted else Reason.PROBER_CONFIG


async def run_step(
    equipment: Equipment, step: ChainStep, flow: Flow, timeout_s: float
) -> StepResult:
    """Ask the chain's id where that is wanted and make the call, in one batch."""
    block = step.block if isinstance(step.block, str) else hex(step.block)
    calls: list[tuple[str, list[Any]]] = [("eth_call", [step.call(flow), block])]
    if step.chain_id is not None:
        calls.append(("eth_chainId", []))
    url = variables.substitute(step.rpc_url, flow.values)
    flow.redactor.add(url)
    begun = asyncio.get_running_loop().time()
    answers = await _asked(equipment, url, calls, timeout_s)
    took_ms = (asyncio.get_running_loop().time() - begun) * 1000
    if isinstance(answers, Outcome):
        return StepResult(outcome=answers)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, _judged, step, answers, took_ms, equipment.explain)


async def _asked(
    equipment: Equipment, url: str, calls: list[tuple[str, list[Any]]], timeout_s: float
) -> list[dict[str, Any]] | Outcome:
    """The answers to a batch in its order, or why there are none."""
    batch = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(calls)
    ]
    try:
        config = HttpConfig(
            url=url,
            method="POST",
            headers={"Content-Type": "application/json"},
            body=orjson.dumps(batch).decode(),
            max_body_bytes=_ANSWER_BYTES,
        )
    except ValidationError:
        raise StepFault(Reason.PROBER_CONFIG, "rpc_url is no URL") from None
    request = replace(config.request, keep_body_bytes=config.max_body_bytes)
    found = await equipment.transport.exchange(request, timeout_s)
    if isinstance(found, TransportError):
        if found.reason is Reason.FORBIDDEN_ADDRESS or found.reason.value.startswith("prober_"):
            return failed(found.reason, f"the RPC: {found.message}", found.total_ms)
        return _no_answer(found.message, found.total_ms)
    if found.truncated:
        return _no_answer(f"answered more than {_ANSWER_BYTES} bytes", found.total_ms)
    try:
        document = parse_json(found.body)
    except ValueError as exc:
        return _no_answer(f"status {found.status}, its answer {exc}", found.total_ms)
    return _in_order(document, len(calls)) or _no_answer(
        f"status {found.status}, no answer to each of its calls", found.total_ms
    )


def _in_order(document: Any, count: int) -> list[dict[str, Any]] | None:
    answers = {
        each.get("id"): each
        for each in (document if isinstance(document, list) else [document])
        if isinstance(each, dict) and isinstance(each.get("id"), int)
    }
    if any(number not in answers for number in range(count)):
        return None
    return [answers[number] for number in range(count)]


def _no_answer(message: str, took_ms: float | None) -> Outcome:
    return failed(Reason.PROBER_NETWORK, f"the RPC: {message}", took_ms)


def _judged(
    step: ChainStep, answers: list[dict[str, Any]], took_ms: float, explain: bool
) -> StepResult:
    fault = _fault_of(step, answers)
    if fault is not None:
        return StepResult(outcome=failed(*fault, took_ms))
    raw = answers[0]["result"]
    document: dict[str, Any] = {"raw": raw, "value": raw, "values": []}
    try:
        data = abi.hex_bytes(raw)
        if step.function is not None and abi.function(step.function).returns:
            values = abi.decoded(abi.function(step.function), data)
            document |= {"value": values[0], "values": values}
    except ValueError as exc:
        # Nothing at all is what an address without code answers.
        told = f"no such function answers: the result {exc}" if raw != "0x" else "no contract there"
        return StepResult(outcome=failed(Reason.BODY, told, took_ms))
    expectation = JsonExpectation(json_path=step.expect)
    findings: tuple[Finding, ...] = expectation.findings(document) if explain else ()
    wrong = expectation.fault(document)
    extracted = extracted_from(document, step.extract)
    if wrong is None and isinstance(extracted, Missing):
        wrong = extracted.message
    if wrong is not None or isinstance(extracted, Missing):
        outcome = Outcome(
            status=CheckStatus.FAILURE,
            reason=Reason.BODY,
            message=wrong,
            latency_ms=took_ms,
            findings=findings,
        )
        return StepResult(outcome=outcome)
    outcome = Outcome(status=CheckStatus.SUCCESS, latency_ms=took_ms, findings=findings)
    return StepResult(outcome=outcome, values=extracted)


def _fault_of(step: ChainStep, answers: list[dict[str, Any]]) -> tuple[Reason, str] | None:
    """Why the answers cannot be read as results."""
    if step.chain_id is not None:
        chain = answers[1].get("result")
        if not isinstance(chain, str) or not re.fullmatch(r"0x[0-9a-fA-F]{1,16}", chain):
            return Reason.PROBER_NETWORK, "the RPC: no answer to eth_chainId"
        if int(chain, 16) != step.chain_id:
            return Reason.PROBER_CONFIG, f"the RPC is of chain {int(chain, 16)}"
    error = answers[0].get("error")
    if isinstance(error, dict):
        text = " ".join(str(error.get("message", ""))[:500].split())[:200]
        if error.get("code") == _REVERT_CODE or _REVERTED.search(text):
            return Reason.BODY, f"the call was reverted: {text}"
        return Reason.PROBER_NETWORK, f"the RPC: {text or 'an error without a message'}"
    if not isinstance(answers[0].get("result"), str):
        return Reason.PROBER_NETWORK, "the RPC: neither result nor error"
    return None
