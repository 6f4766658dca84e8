"""A canary's `chain` step: one `eth_call`, what it must return and what is taken from it.

A call that the contract reverts is the target's failure; an RPC that does not answer is `error`,
for it tells nothing of the contract.
"""

import re
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from lighthouse import chains, settings, urls, variables
from lighthouse.configs import Secret
from lighthouse.model import CheckStatus, Finding, Outcome, Reason
from lighthouse.probes import rpc
from lighthouse.probes.canary import abi
from lighthouse.probes.canary.extraction import Missing, extracted_from
from lighthouse.probes.canary.steps import (
    Flow,
    StepConfig,
    StepFault,
    StepResult,
    VariableName,
    at,
    failed,
)
from lighthouse.probes.judging.assertions import Comparison, JsonExpectation, compiled_path
from lighthouse.probes.judging.work import in_turn
from lighthouse.probes.wire.equipment import Equipment

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")


RpcUrl = Annotated[Secret, Field(min_length=1, max_length=urls.MOST_URL_CHARS)]


class ChainStep(StepConfig):
    """Calls a contract and judges what it returns. Nothing is signed or sent."""

    action: Literal["chain"] = Field(description="Call a contract with eth_call.")
    chain: str | None = Field(
        default=None,
        min_length=1,
        max_length=50,
        description="A known chain, or one of the operator's LIGHTHOUSE_CHAINS.",
    )
    chain_id: Annotated[int, Field(gt=0, lt=2**63)] | None = Field(
        default=None, description="The id of a chain that has no name here; needs rpc_urls."
    )
    rpc_urls: tuple[RpcUrl, ...] = Field(
        default=(),
        max_length=chains.MOST_URLS,
        description="JSON-RPCs that are tried in turn, instead of the chain's own; ${NAME} from "
        "secrets only.",
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

    @field_validator("chain")
    @classmethod
    def _is_chain(cls, value: str | None) -> str | None:
        if value is not None and value not in chains.registry(
            settings.current().chains.get_secret_value()
        ):
            raise ValueError(
                f"is no known chain; known are {', '.join(sorted(chains.KNOWN))}"
                " and those of LIGHTHOUSE_CHAINS"
            )
        return value

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
        if (self.chain is None) == (self.chain_id is None):
            raise ValueError("give one of chain and chain_id")
        if self.chain_id is not None and not self.rpc_urls:
            raise at(("rpc_urls",), "are needed beside a chain_id")
        for index, url in enumerate(self.rpc_urls):
            if "${" not in url:
                try:
                    urls.normalize(url)
                except ValueError as exc:
                    raise at(("rpc_urls", index), str(exc)) from None
        return self

    def templates(self) -> Iterable[tuple[str, Any]]:
        yield from self.from_secrets()
        yield "to", self.to
        yield "args", self.args
        for key in ("data", "sender"):
            value = getattr(self, key)
            if value is not None:
                yield key, value

    def from_secrets(self) -> Iterable[tuple[str, str]]:
        for index, url in enumerate(self.rpc_urls):
            yield f"rpc_urls.{index}", url

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
    """One call, which may share its request with other checks of the chain."""
    block = step.block if isinstance(step.block, str) else hex(step.block)
    call = rpc.Call.of("eth_call", step.call(flow), block)
    chain_id, rpc_urls = _where(equipment, step, flow)
    begun = time.monotonic()
    (answer,) = await equipment.own(rpc.Reader, rpc.Reader).ask(
        chain_id, rpc_urls, [call], timeout_s
    )
    took_ms = (time.monotonic() - begun) * 1000
    if isinstance(answer, rpc.RpcFault):
        return StepResult(outcome=failed(answer.reason, answer.message, took_ms))
    if isinstance(answer, rpc.Refused):
        told = f"the call was reverted: {answer.message}"
        return StepResult(outcome=failed(Reason.BODY, told, took_ms))
    return await in_turn(_judged, step, answer, took_ms, equipment.explain)


def _where(equipment: Equipment, step: ChainStep, flow: Flow) -> tuple[int, tuple[str, ...]]:
    """The chain's id and its RPCs. Raises StepFault."""
    chain_id = step.chain_id
    rpc_urls: tuple[str, ...] = ()
    if step.chain is not None:
        configured = equipment.settings.chains.get_secret_value()
        chain = chains.registry(configured).get(step.chain)
        if chain is None:
            raise StepFault(Reason.PROBER_CONFIG, f"chain: no chain has the name {step.chain}")
        chain_id, rpc_urls = chain.chain_id, chain.rpc_urls
    if step.rpc_urls:
        given = [variables.substitute(url, flow.values) for url in step.rpc_urls]
        for url in given:
            flow.redactor.add(url)
        try:
            rpc_urls = chains.checked_urls(given)
        except ValueError as exc:
            raise StepFault(Reason.PROBER_CONFIG, str(exc)) from None
    assert chain_id is not None  # noqa: S101 - the model's rule
    return chain_id, rpc_urls


def _judged(step: ChainStep, raw: str, took_ms: float, explain: bool) -> StepResult:
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
