"""Chains and amounts: which chain is which, and decimal units against integers, always exactly.

A balance is an integer in the coin's smallest unit; people write and read decimal units. No float
stands between the two.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from statistics import median
from types import MappingProxyType
from typing import Any

from lighthouse import urls
from lighthouse.errors import SettingsError

#: The largest number of the EVM.
MOST = 2**256 - 1

#: The decimals of a coin: 10**77 is the largest power of ten below `MOST`.
MOST_DECIMALS = 77

#: RPC URLs of one chain: each gets its share of a check's timeout.
MOST_URLS = 10

#: What `token` says for a chain's own coin.
NATIVE = "native"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")
_SYMBOL = re.compile(r"[A-Za-z0-9.$₮-]{1,20}")
_AMOUNT = re.compile(r"[0-9]{1,78}(?:\.[0-9]{1,77})?")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")

#: A JSON number of more digits than this may have lost some on its way here.
_EXACT_DIGITS = 15

#: A balance that lasts longer than this is not said to run out.
_FOREVER = timedelta(days=3650)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain of the EVM."""

    name: str
    chain_id: int
    symbol: str
    decimals: int = 18
    rpc_urls: tuple[str, ...] = field(default=(), repr=False)  #: may hold keys
    usdc: str | None = None  #: the address of USDC, which has 6 decimals


#: The chains that are known without being configured; public RPCs serve few balances.
KNOWN: Mapping[str, Chain] = MappingProxyType(
    {
        chain.name: chain
        for chain in (
            Chain(
                name="avalanche",
                chain_id=43114,
                symbol="AVAX",
                rpc_urls=("https://api.avax.network/ext/bc/C/rpc",),
                usdc="0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E",
            ),
            Chain(
                name="avalanche_fuji",
                chain_id=43113,
                symbol="AVAX",
                rpc_urls=("https://api.avax-test.network/ext/bc/C/rpc",),
                usdc="0x5425890298aed601595a70AB815c96711a31Bc65",
            ),
            Chain(
                name="base",
                chain_id=8453,
                symbol="ETH",
                rpc_urls=("https://mainnet.base.org",),
                usdc="0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
            ),
            Chain(
                name="base_sepolia",
                chain_id=84532,
                symbol="ETH",
                rpc_urls=("https://sepolia.base.org",),
                usdc="0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            ),
            Chain(
                name="polygon",
                chain_id=137,
                symbol="POL",
                rpc_urls=("https://polygon-rpc.com",),
                usdc="0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359",
            ),
            Chain(
                name="polygon_amoy",
                chain_id=80002,
                symbol="POL",
                rpc_urls=("https://rpc-amoy.polygon.technology",),
            ),
        )
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coin:
    """What a balance is counted in."""

    symbol: str
    decimals: int | None  #: None: only the token's contract knows


def coin(chain: Chain, token: str, decimals: int | None = None) -> Coin:
    """The chain's own coin, USDC, or a token whose decimals may have been told."""
    if token == NATIVE:
        return Coin(symbol=chain.symbol, decimals=chain.decimals)
    if chain.usdc is not None and token.lower() == chain.usdc.lower():
        return Coin(symbol="USDC", decimals=6)
    return Coin(symbol=f"{token[:6]}…{token[-4:]}", decimals=decimals)


class Level(StrEnum):
    """Where a balance stands to its thresholds."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


def level(
    value: int, decimals: int, *, alert: Decimal | None = None, critical: Decimal | None = None
) -> Level:
    """Judge a balance in the smallest unit by thresholds in decimal units.

    Below means below: a balance that equals its threshold is not under it.
    """
    if critical is not None and value < base_units(critical, decimals):
        return Level.CRITICAL
    if alert is not None and value < base_units(alert, decimals):
        return Level.WARNING
    return Level.OK


def amount(value: object) -> Decimal:
    """Read decimal units from a text or a JSON number. Raises ValueError with one line.

    A number with more digits than a float keeps for certain is refused: it must be a text.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError("must be a decimal number, best as a text")  # noqa: TRY004 - pydantic takes ValueError
    if isinstance(value, float):
        try:
            read = Decimal(repr(value)).normalize()
        except InvalidOperation:  # pragma: no cover - repr of a float is a number
            raise ValueError("is no number") from None
        if not read.is_finite() or len(read.as_tuple().digits) > _EXACT_DIGITS:
            raise ValueError("has too many digits for a JSON number; write it as a text")
        text = f"{read:f}"
    else:
        text = f"{value:f}" if isinstance(value, Decimal) else str(value)[:200].strip()
    if not _AMOUNT.fullmatch(text):
        raise ValueError("must be a decimal number that is not negative, such as 0.1")
    return Decimal(text)


def base_units(threshold: Decimal, decimals: int, percent_above: int = 0) -> int:
    """The least balance that reaches a threshold, or so much above it, in the smallest unit.

    Exact also where the threshold has more digits than the coin: an integer is below it exactly
    when it is below the next integer.
    """
    sign, digits, exponent = threshold.as_tuple()
    assert isinstance(exponent, int) and not sign  # noqa: S101,PT018 - `amount` has read it
    number, power = int("".join(map(str, digits))), exponent + decimals
    if percent_above:
        number, power = number * (100 + percent_above), power - 2
    return number * int(10**power) if power >= 0 else -(-number // int(10**-power))


def units(value: int, decimals: int) -> str:
    """A balance in decimal units, exactly, without trailing zeros."""
    whole, rest = divmod(abs(value), 10**decimals)
    fraction = f"{rest:0{decimals}d}".rstrip("0") if rest else ""
    return f"{'-' if value < 0 else ''}{whole}{'.' if fraction else ''}{fraction}"


def checked_address(text: str) -> str:
    """An address in its checksummed form (EIP-55). Raises ValueError with one line.

    Letters of one case carry no checksum; of both, they must be the right one.
    """
    from eth_utils.address import to_checksum_address

    if not _ADDRESS.fullmatch(text):
        raise ValueError("is no address; it has 40 hexadecimal digits after 0x")
    right = str(to_checksum_address(text))
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper(), right[2:]):
        raise ValueError("has a wrong checksum: a digit may be mistyped")
    return right


@lru_cache(maxsize=8)
def registry(configured: str = "") -> Mapping[str, Chain]:
    """The known chains with those that an operator configures, by name.

    `configured` is the JSON of the setting. Raises SettingsError, which repeats no value of it.
    """
    if not configured.strip():
        return KNOWN
    try:
        given = json.loads(configured)
    except (ValueError, RecursionError):
        raise SettingsError("LIGHTHOUSE_CHAINS: is not JSON") from None
    if not isinstance(given, dict):
        raise SettingsError("LIGHTHOUSE_CHAINS: must be a JSON object of chains by name")
    chains = dict(KNOWN)
    for name, entry in given.items():
        if not _NAME.fullmatch(name):
            raise SettingsError("LIGHTHOUSE_CHAINS: a name has other than a-z, 0-9, _ and -")
        chains[name] = _configured(name, entry)
    return MappingProxyType(chains)


def _configured(name: str, entry: Any) -> Chain:
    known = KNOWN.get(name)
    try:
        if not isinstance(entry, dict):
            raise ValueError("must be a JSON object")  # noqa: TRY004 - translated below
        unknown = entry.keys() - {"chain_id", "symbol", "decimals", "rpc_urls"}
        if unknown:
            raise ValueError("has a key other than chain_id, symbol, decimals and rpc_urls")
        chain_id = entry.get("chain_id", known and known.chain_id)
        symbol = entry.get("symbol", known and known.symbol)
        decimals = entry.get("decimals", known.decimals if known else 18)
        given = entry.get("rpc_urls", list(known.rpc_urls) if known else None)
        if type(chain_id) is not int or not 0 < chain_id < 2**63:
            raise ValueError("needs chain_id, a positive integer")
        if known is not None and chain_id != known.chain_id:
            raise ValueError(f"has the chain_id {known.chain_id}; name another chain otherwise")
        if not isinstance(symbol, str) or not _SYMBOL.fullmatch(symbol):
            raise ValueError("needs symbol, a short text")
        if type(decimals) is not int or not 0 <= decimals <= MOST_DECIMALS:
            raise ValueError(f"has decimals that are not 0 to {MOST_DECIMALS}")
        if not isinstance(given, list) or not all(isinstance(url, str) for url in given):
            raise ValueError("needs rpc_urls, a list of URLs")
        rpc_urls = checked_urls(given)
    except ValueError as exc:
        raise SettingsError(f"LIGHTHOUSE_CHAINS: {name}: {exc}") from None
    return Chain(
        name=name,
        chain_id=chain_id,
        symbol=symbol,
        decimals=decimals,
        rpc_urls=rpc_urls,
        usdc=known.usdc if known else None,
    )


def checked_urls(given: Sequence[str]) -> tuple[str, ...]:
    """RPC URLs as they are asked. Raises ValueError with one line, without the URL."""
    if not 1 <= len(given) <= MOST_URLS:
        raise ValueError(f"rpc_urls must be 1 to {MOST_URLS}")
    try:
        return tuple(dict.fromkeys(urls.normalize(url) for url in given))
    except ValueError as exc:
        raise ValueError(f"an RPC's URL {exc}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """How a balance falls."""

    per_day: int  #: in the smallest unit
    lasts: timedelta | None  #: from the newest reading on; None for longer than ten years


def burn(readings: Sequence[tuple[datetime, int]]) -> Burn | None:
    """How fast a balance falls, by its readings in any order; None where it does not.

    What comes in is set aside: top-ups are taken out of the series, and the slope of what is
    left is the median of all slopes (Theil and Sen), which one large payment does not bend.
    Where payments are so rare that the median is level, it is the mean.
    """
    ordered = sorted(readings)
    if len(ordered) < 3:
        return None
    spent, moments, total = [0], [0.0], 0
    for (_, old), (after, new) in pairwise(ordered):
        total += max(old - new, 0)
        spent.append(total)
        moments.append((after - ordered[0][0]).total_seconds() or moments[-1])
    if total == 0 or moments[-1] <= 0:
        return None
    slopes = [
        (spent[late] - spent[early]) / (moments[late] - moments[early])
        for early in range(len(spent))
        for late in range(early + 1, len(spent))
        if moments[late] > moments[early]
    ]
    per_s = median(slopes) or total / moments[-1]
    left_s = ordered[-1][1] / per_s
    lasts = timedelta(seconds=left_s) if left_s < _FOREVER.total_seconds() else None
    return Burn(per_day=round(per_s * 86_400), lasts=lasts)
