"""A canary's `sign` step: EIP-712 typed data under a secret key, as x402 payments need it.

Where an answer has a say in what is signed, the step states what it may be (`require`): a hostile
target would otherwise ask for a signature over all that the key owns.
"""

import asyncio
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lighthouse import variables
from lighthouse.configs import Secret
from lighthouse.model import CheckStatus, Outcome, Reason
from lighthouse.probes.canary.extraction import Missing, extracted_from
from lighthouse.probes.canary.steps import (
    Flow,
    StepConfig,
    StepFault,
    StepResult,
    VariableName,
    failed,
)
from lighthouse.probes.judging.assertions import Comparison, JsonExpectation, compiled_path
from lighthouse.probes.wire.equipment import Equipment

_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,99}")
_TYPE = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,99}((?:\[\d{0,3}\]){0,2})")
_INTEGER = re.compile(r"u?int\d*")
_NUMBER = re.compile(r"-?\d{1,80}|0[xX][0-9a-fA-F]{1,64}")
_KEY = re.compile(r"(?:0[xX])?([0-9a-fA-F]{64})")

#: The fields of a domain, in the order in which EIP-712 lists them.
_DOMAIN = {
    "name": "string",
    "version": "string",
    "chainId": "uint256",
    "verifyingContract": "address",
    "salt": "bytes32",
}


class TypedField(BaseModel):
    """One member of a struct of EIP-712."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str = Field(pattern=rf"^{_IDENTIFIER.pattern}$", description="The member's name.")
    type: str = Field(pattern=rf"^{_TYPE.pattern}$", description="Such as uint256 or Person[].")


class TypedData(BaseModel):
    """What is signed, as `eth_signTypedData_v4` takes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    domain: dict[str, Any] = Field(
        max_length=5, description="name, version, chainId, verifyingContract and salt."
    )
    types: dict[str, tuple[TypedField, ...]] = Field(
        min_length=1, max_length=20, description="Structs; EIP712Domain may be left out."
    )
    primaryType: str = Field(description="The struct that `message` is.")  # noqa: N815 - EIP-712's
    message: dict[str, Any] | str = Field(
        description="Values may hold ${NAME}, ${SIGNER} for the key's address among them."
    )

    @field_validator("domain")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key not in _DOMAIN:
                raise ValueError(f"knows only {', '.join(_DOMAIN)}")
        return value

    @model_validator(mode="after")
    def _has_primary(self) -> "TypedData":
        if self.primaryType not in self.types:
            raise ValueError("primaryType names none of the types")
        return self


class SignStep(StepConfig):
    """Signs typed data and hands the signature to later steps."""

    action: Literal["sign"] = Field(description="Sign `typed_data` with `key`.")
    key: Secret = Field(
        min_length=1, max_length=200, description="A private key in hex, such as ${PRIVATE_KEY}."
    )
    typed_data: TypedData = Field(description="EIP-712 typed data; values may hold ${NAME}.")
    require: dict[str, Comparison] = Field(
        default_factory=dict,
        max_length=20,
        description="JSONPath into {domain, message} to what must hold before anything is signed; "
        "needed where an answer decides any of it.",
    )
    extract: dict[VariableName, str] = Field(
        default_factory=dict,
        max_length=20,
        description="Variables by JSONPath from {signature, address, r, s, v}.",
    )

    @field_validator("require", "extract")
    @classmethod
    def _paths(cls, value: dict[str, Any], info: Any) -> dict[str, Any]:
        for path in value if info.field_name == "require" else value.values():
            compiled_path(path)
        return value

    @field_validator("key")
    @classmethod
    def _form(cls, value: str) -> str:
        if "${" not in value:
            key_bytes(value)
        return value

    def templates(self) -> Iterable[tuple[str, Any]]:
        yield "key", self.key
        yield "typed_data.domain", self.typed_data.domain
        yield "typed_data.message", self.typed_data.message

    def sets(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.extract, False)

    def from_secrets(self) -> Iterable[tuple[str, str]]:
        yield "key", self.key

    def own_names(self) -> frozenset[str]:
        return frozenset({"SIGNER"})

    def needs_require(self, tainted: frozenset[str]) -> bool:
        """Whether an answer decides any of what is signed, and nothing is required of it."""
        data = self.typed_data
        used = variables.names(data.domain) | variables.names(data.message)
        return bool(used & tainted) and not self.require


def key_bytes(key: str) -> bytes:
    """A private key's 32 bytes. Raises ValueError with one line that repeats nothing of it."""
    found = _KEY.fullmatch(key.strip())
    if found is None:
        raise ValueError("is no private key of 32 bytes in hex")
    return bytes.fromhex(found[1])


async def run_step(_: Equipment, step: SignStep, flow: Flow, _timeout_s: float) -> StepResult:
    """Sign in a thread: the arithmetic takes milliseconds."""
    begun = time.monotonic()
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(None, _signed, step, flow)
    took_ms = (time.monotonic() - begun) * 1000
    if isinstance(found, Missing):
        return StepResult(outcome=failed(found.reason, found.message, took_ms))
    return StepResult(outcome=Outcome(status=CheckStatus.SUCCESS, latency_ms=took_ms), values=found)


def _signed(step: SignStep, flow: Flow) -> dict[str, Any] | Missing:
    # Imported where it is needed: most workers sign nothing, and it takes most of a second. One of
    # them raises the limit of recursion a hundredfold; a stranger's deep JSON would then end the
    # process instead of one evaluation.
    limit = sys.getrecursionlimit()
    try:
        from eth_abi.exceptions import EncodingError
        from eth_account import Account
        from eth_account.messages import encode_typed_data
        from eth_utils.exceptions import ValidationError
    finally:
        sys.setrecursionlimit(limit)

    try:
        key = variables.substitute(step.key, flow.values)
        flow.redactor.add(key.strip())
        account = Account.from_key(key_bytes(key))
    except variables.UnsetVariable:
        raise
    except (ValueError, ValidationError):  # zero, or beyond the curve's order
        raise StepFault(Reason.PROBER_CONFIG, "key is no private key of 32 bytes in hex") from None
    values = {**flow.values, "SIGNER": account.address}
    types = {
        name: [member.model_dump() for member in members]
        for name, members in step.typed_data.types.items()
    }
    domain = variables.substitute_json(step.typed_data.domain, values)
    types.setdefault(
        "EIP712Domain",
        [{"name": name, "type": kind} for name, kind in _DOMAIN.items() if name in domain],
    )
    message = variables.substitute_json(step.typed_data.message, values)
    domain = _numbers(types, "EIP712Domain", domain)
    message = _numbers(types, step.typed_data.primaryType, message)
    wrong = JsonExpectation(json_path=step.require).fault({"domain": domain, "message": message})
    if wrong is not None:
        return Missing(reason=Reason.BODY, message=f"nothing was signed: {wrong}")
    try:
        signable = encode_typed_data(
            full_message={
                "types": types,
                "primaryType": step.typed_data.primaryType,
                "domain": domain,
                "message": message,
            }
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, EncodingError) as exc:
        raise StepFault(_blame(step, flow), f"is no typed data: {_line(exc)}") from None
    signed = account.sign_message(signable)
    return extracted_from(
        {
            "signature": "0x" + signed.signature.hex().removeprefix("0x"),
            "address": account.address,
            "r": f"0x{signed.r:064x}",
            "s": f"0x{signed.s:064x}",
            "v": signed.v,
        },
        step.extract,
    )


def _blame(step: SignStep, flow: Flow) -> Reason:
    used = frozenset(name for _, value in step.templates() for name in variables.names(value))
    return Reason.BODY if used & flow.tainted else Reason.PROBER_CONFIG


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__


def _numbers(types: Mapping[str, list[dict[str, str]]], kind: str, value: Any) -> Any:
    """The value with its integers as such: answers write them as texts, which compare otherwise."""
    base, bracket, _ = kind.rpartition("[")
    if bracket:
        return [_numbers(types, base, each) for each in value] if isinstance(value, list) else value
    if kind in types and isinstance(value, dict):
        kinds = {member["name"]: member["type"] for member in types[kind]}
        return {
            name: _numbers(types, kinds[name], inner) if name in kinds else inner
            for name, inner in value.items()
        }
    if _INTEGER.fullmatch(kind) and isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value, 16 if value[:2] in ("0x", "0X") else 10)
    return value
