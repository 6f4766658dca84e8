"""Contract calls by their signature: JSON values to call data, and an answer back to JSON values.

eth_abi is imported where it is used: it takes a fifth of a second, and most workers call nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

#: Bytes of an answer that are decoded, and values that its types may make of them.
MOST_ANSWER_BYTES = 8192
_MOST_VALUES = 8192
_TEXT_VALUES = 8

_SIGNATURE = re.compile(r"\s*([A-Za-z_$][A-Za-z0-9_$]{0,99})\s*(\(.*\))\s*", re.DOTALL)
_RETURNS = re.compile(r"\)\s*(?:view\s*|pure\s*|external\s*|public\s*)*(?:returns\s*)?\(")
_SUFFIX = re.compile(r"(?:\[\d{0,3}\])*")
_PARSERS = ("eth_abi", "parsimonious")
_NUMBER = re.compile(r"-?\d{1,80}|0[xX][0-9a-fA-F]{1,64}")
_HEX = re.compile(r"0[xX]((?:[0-9a-fA-F]{2})*)")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_MOST_TYPES = 40
_MOST_DEPTH = 8  #: tuples in tuples; eth_abi's parser takes many frames for each


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of a contract, its types in their canonical form."""

    name: str
    takes: tuple[str, ...]
    returns: tuple[str, ...]


@lru_cache(maxsize=1024)
def function(signature: str) -> Function:
    """Read ``balanceOf(address)(uint256)`` or ``balanceOf(address) returns (uint256)``.

    Raises ValueError with one line.
    """
    from eth_abi.grammar import parse

    found = _SIGNATURE.fullmatch(signature)
    if found is None or len(signature) > 1000:
        raise ValueError("is no function; write it like balanceOf(address) returns (uint256)")
    name, rest = found.groups()
    if _depth(rest) > _MOST_DEPTH:
        raise ValueError(f"has brackets more than {_MOST_DEPTH} levels deep")
    end = _closing(rest)
    tail = rest[end:].strip()
    returns: tuple[str, ...] = ()
    if tail != ")":
        opening = _RETURNS.match(tail)
        if opening is None:
            raise ValueError("is no function; write it like balanceOf(address) returns (uint256)")
        inner = tail[opening.end() - 1 :]
        if _closing(inner) != len(inner) - 1:
            raise ValueError("has brackets that do not match")
        returns = types(inner[1:-1])
    if sum(_values(parse(kind)) for kind in returns) > _MOST_VALUES:
        raise ValueError("returns more than an answer may hold, such as arrays of arrays")
    return Function(name=name, takes=types(rest[1:end]), returns=returns)


def types(listed: str) -> tuple[str, ...]:
    """The types in a list that is separated by commas, in their canonical form.

    Parameters' names may stand beside them. Raises ValueError with one line.
    """
    if not listed.strip():
        return ()
    kinds = tuple(_type(part.strip()) for part in _split(listed))
    if len(kinds) > _MOST_TYPES:
        raise ValueError(f"has more than {_MOST_TYPES} types")
    return kinds


def _type(part: str) -> str:
    from eth_abi.grammar import normalize, parse

    if part[:1] == "(":
        end = _closing(part)
        suffix = _SUFFIX.match(part, end + 1)
        inner = types(part[1:end])
        text = f"({','.join(inner)}){suffix[0] if suffix and inner else ''}"
    else:
        text = part.partition(" ")[0]
    try:
        kind = str(normalize(text))  # type: ignore[no-untyped-call]
        parse(kind).validate()
        _supported(kind)
    except Exception as exc:
        # eth_abi's parsers have no error of their own in common
        if isinstance(exc, ValueError | LookupError) or type(exc).__module__.startswith(_PARSERS):
            raise ValueError(f"has a type that is none: {part[:40]}") from None
        raise
    return kind


def _supported(kind: str) -> None:
    from eth_abi.registry import registry

    registry.get_encoder(kind)
    registry.get_decoder(kind)


def _depth(text: str) -> int:
    depth = deepest = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    return deepest


def _closing(text: str) -> int:
    """Where the bracket closes that the text begins with. Raises ValueError."""
    depth = 0
    for place, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return place
    raise ValueError("has brackets that do not match")


def _split(listed: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for place, char in enumerate(listed):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(listed[start:place])
            start = place + 1
    return [*parts, listed[start:]]


def _values(kind: Any) -> int:
    """How many values an answer may make of a type at the most, a text counted as several.

    Arrays of dynamic types hold pointers, which a hostile answer leads all to the same place.
    """
    if kind.is_array:
        size = kind.arrlist[-1]
        return (size[0] if size else MOST_ANSWER_BYTES // 32) * _values(kind.item_type)
    if hasattr(kind, "components"):
        return sum(_values(part) for part in kind.components)
    return _TEXT_VALUES if kind.is_dynamic else 1


def call_data(called: Function, values: Sequence[Any]) -> bytes:
    """The selector and the encoded arguments. Raises ValueError with one line."""
    from eth_abi.abi import encode
    from eth_abi.exceptions import EncodingError
    from eth_abi.grammar import parse
    from eth_utils.abi import function_signature_to_4byte_selector

    if len(values) != len(called.takes):
        raise ValueError(f"takes {len(called.takes)} arguments, not {len(values)}")
    given = [
        _argument(parse(kind), value) for kind, value in zip(called.takes, values, strict=True)
    ]
    try:
        encoded = encode(called.takes, given)
    except (EncodingError, ValueError, TypeError, OverflowError) as exc:
        raise ValueError(" ".join(str(exc).split())[:200]) from None
    selector = function_signature_to_4byte_selector(f"{called.name}({','.join(called.takes)})")
    return bytes(selector) + bytes(encoded)


def _argument(kind: Any, value: Any) -> Any:
    """A JSON value as eth_abi wants it: numbers may come as texts, bytes as 0x…"""
    if kind.is_array:
        if not isinstance(value, list):
            raise ValueError(f"{kind} needs an array")
        return [_argument(kind.item_type, each) for each in value]
    if hasattr(kind, "components"):
        if not isinstance(value, list) or len(value) != len(kind.components):
            raise ValueError(f"{kind} needs an array of {len(kind.components)}")
        return [_argument(part, each) for part, each in zip(kind.components, value, strict=True)]
    if isinstance(value, str):
        if kind.base in ("uint", "int") and _NUMBER.fullmatch(value):
            return int(value, 16 if value[:2].lower() == "0x" else 10)
        if kind.base == "bytes":
            found = _HEX.fullmatch(value)
            if found is None:
                raise ValueError(f"{kind} needs hexadecimal digits after 0x")
            return bytes.fromhex(found[1])
        if kind.base == "address" and not _ADDRESS.fullmatch(value):
            raise ValueError("an address has 40 hexadecimal digits after 0x")
    return value


def decoded(called: Function, answer: bytes) -> list[Any]:
    """An answer's values in JSON types. Raises ValueError with one line."""
    from eth_abi.abi import decode
    from eth_abi.exceptions import DecodingError

    if len(answer) > MOST_ANSWER_BYTES:
        raise ValueError(f"is longer than {MOST_ANSWER_BYTES} bytes")
    try:
        found = decode(called.returns, answer)
    except (DecodingError, ValueError, OverflowError, RecursionError) as exc:
        raise ValueError(" ".join(str(exc).split())[:200]) from None
    return [_json(value) for value in found]


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, bool | int | str):
        return value
    return str(value)  # a fixed-point number


def hex_bytes(text: str) -> bytes:
    """Bytes from 0x and hexadecimal digits. Raises ValueError with one line."""
    found = _HEX.fullmatch(text.strip())
    if found is None:
        raise ValueError("needs pairs of hexadecimal digits after 0x")
    return bytes.fromhex(found[1])
