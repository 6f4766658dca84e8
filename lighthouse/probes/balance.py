"""The `balance` monitor: what an address holds of a chain's coin or of a token, by its thresholds.

Only an answer of the right chain judges anything: whatever goes wrong on the way to it is
`error`, never a low balance.
"""

import time
from collections import OrderedDict
from decimal import Decimal
from functools import cached_property
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from lighthouse import chains, settings
from lighthouse.chains import Chain, Level
from lighthouse.configs import Secret
from lighthouse.model import Bounds, CheckStatus, Finding, Outcome, Reason
from lighthouse.probes import rpc
from lighthouse.probes.config import MonitorConfig
from lighthouse.probes.wire.equipment import Equipment

#: Tokens whose decimals are kept; the least used goes first.
_MOST_TOKENS = 65_536

#: balanceOf(address) and decimals() of ERC-20: the beginnings of their hashed signatures.
_BALANCE_OF, _DECIMALS = "0x70a08231", "0x313ce567"

_LATEST = "latest"

#: Decimal units as they are stored: a text, whatever they were given as.
Amount = Annotated[
    str,
    BeforeValidator(lambda value: f"{chains.amount(value):f}"),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]}),
]


class BalanceConfig(MonitorConfig):
    """Configuration of a `balance` monitor."""

    chain: str = Field(
        max_length=50, description="A known chain, or one of the operator's LIGHTHOUSE_CHAINS."
    )
    address: str = Field(description="Whose balance; letters of both cases must be a checksum.")
    token: str = Field(
        default=chains.NATIVE,
        max_length=100,
        description="native for the chain's coin, or the address of an ERC-20 token.",
    )
    alert_threshold: Amount | None = Field(
        default=None, description="Below it the check warns; in decimal units, exact."
    )
    critical_threshold: Amount | None = Field(
        default=None, description="Below it the check is a failure; in decimal units, exact."
    )
    hysteresis_percent: int = Field(
        default=5,
        ge=0,
        le=50,
        description="How far above a threshold the balance must rise before its alert ends.",
    )
    decimals: int | None = Field(
        default=None,
        ge=0,
        le=chains.MOST_DECIMALS,
        description="Of the token; its contract is asked without it.",
    )
    rpc_urls: tuple[Secret, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=chains.MOST_URLS,
        description="RPCs to ask instead of the chain's usual ones, in turn.",
    )

    @field_validator("chain")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in chains.registry(settings.current().chains.get_secret_value()):
            raise ValueError(
                f"is no known chain; known are {', '.join(sorted(chains.KNOWN))}"
                " and those of LIGHTHOUSE_CHAINS"
            )
        return value

    @field_validator("address")
    @classmethod
    def _address(cls, value: str) -> str:
        return chains.checked_address(value)

    @field_validator("token")
    @classmethod
    def _token(cls, value: str) -> str:
        if value.lower() == chains.NATIVE:
            return chains.NATIVE
        try:
            return chains.checked_address(value)
        except ValueError as exc:
            raise ValueError(f"is not native, and {exc}") from None

    @field_validator("rpc_urls")
    @classmethod
    def _urls(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if value is None else chains.checked_urls(value)

    @model_validator(mode="after")
    def _fits(self) -> "BalanceConfig":
        if self.alert is not None and self.critical is not None and self.critical > self.alert:
            raise ValueError("critical_threshold must not be above alert_threshold")
        if self.decimals is not None and self.token == chains.NATIVE:
            raise ValueError("decimals go with a token; the chain's coin has its own")
        return self

    @cached_property
    def alert(self) -> Decimal | None:
        """Below it the check warns, in decimal units."""
        return None if self.alert_threshold is None else Decimal(self.alert_threshold)

    @cached_property
    def critical(self) -> Decimal | None:
        """Below it the check is a failure, in decimal units."""
        return None if self.critical_threshold is None else Decimal(self.critical_threshold)

    def bounds(self, decimals: int) -> Bounds:
        """The thresholds in the smallest unit of a coin with so many decimals."""
        more = self.hysteresis_percent
        return Bounds(
            alert_at=_bound(self.alert, decimals),
            critical_at=_bound(self.critical, decimals),
            alert_clear_at=_bound(self.alert, decimals, more),
            critical_clear_at=_bound(self.critical, decimals, more),
        )

    def target(self) -> str:
        what = "" if self.token == chains.NATIVE else f" {self.token}"
        return f"{self.chain} {self.address}{what}"


def _bound(threshold: Decimal | None, decimals: int, percent_above: int = 0) -> int | None:
    """The least balance that is so much above a threshold, in the smallest unit."""
    return None if threshold is None else chains.base_units(threshold, decimals, percent_above)


class Tokens:
    """The decimals of tokens, asked once: no ERC-20 changes them. Ask `Equipment.own` for it.

    Kept by those RPCs that told them: one user's RPCs say nothing to another's checks.
    """

    def __init__(self, _: Equipment) -> None:
        self._decimals: OrderedDict[object, int] = OrderedDict()

    async def close(self) -> None:
        """Forget all."""
        self._decimals.clear()

    def get(self, key: object) -> int | None:
        return self._decimals.get(key)

    def put(self, key: object, decimals: int) -> None:
        self._decimals[key] = decimals
        if len(self._decimals) > _MOST_TOKENS:
            self._decimals.popitem(last=False)


async def probe(equipment: Equipment, config: BalanceConfig, timeout_s: float) -> Outcome:
    """One reading, over within `timeout_s`."""
    chain = chains.registry(equipment.settings.chains.get_secret_value()).get(config.chain)
    if chain is None:
        return _error(Reason.PROBER_CHAIN, "the chain is not among this worker's LIGHTHOUSE_CHAINS")
    rpc_urls = config.rpc_urls or chain.rpc_urls
    tokens = equipment.own(Tokens, Tokens)
    key = (chain.chain_id, rpc_urls, config.token)
    decimals = chains.coin(chain, config.token, config.decimals).decimals
    if decimals is None:
        decimals = tokens.get(key)
    begun = time.monotonic()
    answers = await equipment.own(rpc.Reader, rpc.Reader).ask(
        chain.chain_id, rpc_urls, calls(config, decimals), timeout_s
    )
    took_ms = (time.monotonic() - begun) * 1000
    for answer in answers:
        if isinstance(answer, rpc.RpcFault):
            return _error(answer.reason, answer.message, took_ms)
        if isinstance(answer, rpc.Refused):
            return _error(
                Reason.PROBER_CHAIN, f"the token refuses to tell: {answer.message}", took_ms
            )
    texts = [answer for answer in answers if isinstance(answer, str)]
    native = config.token == chains.NATIVE
    value = rpc.quantity(texts[0]) if native else rpc.word(texts[0])
    if decimals is None:
        decimals = rpc.word(texts[1])
    if not native and texts[0] == "0x":
        return _error(Reason.PROBER_CHAIN, "there is no such token on this chain", took_ms)
    if value is None:
        return _error(Reason.PROBER_RPC, "the RPC's answer is no balance", took_ms)
    if decimals is None or decimals > chains.MOST_DECIMALS:
        return _error(
            Reason.PROBER_CHAIN, "the token does not tell its decimals; give decimals", took_ms
        )
    if len(texts) == 2:
        tokens.put(key, decimals)
    return judge(config, chain, value, decimals, took_ms, explain=equipment.explain)


def calls(config: BalanceConfig, decimals: int | None) -> list[rpc.Call]:
    """What is asked: the balance, and the token's decimals where they are not known."""
    if config.token == chains.NATIVE:
        return [rpc.Call.of("eth_getBalance", config.address, _LATEST)]
    data = f"{_BALANCE_OF}{config.address[2:].lower():0>64}"
    asked = [rpc.Call.of("eth_call", {"to": config.token, "data": data}, _LATEST)]
    if decimals is None:
        asked.append(rpc.Call.of("eth_call", {"to": config.token, "data": _DECIMALS}, _LATEST))
    return asked


def judge(
    config: BalanceConfig,
    chain: Chain,
    value: int,
    decimals: int,
    took_ms: float,
    *,
    explain: bool = False,
) -> Outcome:
    """What a balance means: below critical a failure, below alert a success that warns."""
    symbol = chains.coin(chain, config.token).symbol
    found = chains.level(value, decimals, alert=config.alert, critical=config.critical)
    shown = f"{chains.units(value, decimals)} {symbol}"
    status, reason, message = CheckStatus.SUCCESS, None, None
    if found is Level.CRITICAL:
        status, reason = CheckStatus.FAILURE, Reason.BALANCE_CRITICAL
        message = f"{shown} is below the critical threshold of {config.critical_threshold}"
    elif found is Level.WARNING:
        reason = Reason.BALANCE_LOW
        message = f"{shown} is below the threshold of {config.alert_threshold}"
    findings: tuple[Finding, ...] = ()
    if explain:
        findings = (Finding(name="balance", ok=found is Level.OK, found=(message or shown)[:200]),)
    return Outcome(
        status=status,
        reason=reason,
        message=message,
        latency_ms=took_ms,
        value=value,
        bounds=config.bounds(decimals),
        findings=findings,
    )


def _error(reason: Reason, message: str, took_ms: float | None = None) -> Outcome:
    return Outcome(status=CheckStatus.ERROR, reason=reason, message=message, latency_ms=took_ms)
