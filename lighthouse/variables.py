"""`${NAME}` in what people configure: which names a text needs, and the text with their values.

`${NAME|filter}` passes the value through filters, `${NOW+60}` adds to a clock, and `$${` stands for
`${` itself. A value is put in as it is and never read again, so what a target sends cannot name a
variable.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

#: Characters that one text may have after substitution: an answer's values are bounded each, and a
#: text may name them many times.
MOST_CHARS = 262_144

#: Variables that every flow has; one flow sees the same values in all its steps.
CLOCKS = frozenset({"NOW", "NOW_MS"})  #: Unix time in seconds, in milliseconds
BUILT_IN = CLOCKS | {"RUN_ID", "NONCE"}  #: a UUID; 32 random bytes as 0x and 64 hex digits

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_REFERENCE = re.compile(
    r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]{0,63})([+-][0-9]{1,9})?((?:\|[a-z0-9]{1,16})*)\}"
)
_OPENING = re.compile(r"\$\{")


class UnsetVariable(ValueError):  # noqa: N818 - the field's own word
    """A variable that has no value at this moment: the step that sets it did not run."""

    def __init__(self, name: str) -> None:
        super().__init__(f"${{{name}}} has no value")
        self.name = name


def text_of(value: Any) -> str:
    """A value inside a text: text as it is, everything else as compact JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _bytes(value: Any) -> bytes:
    return text_of(value).encode("utf-8", "replace")


FILTERS: Mapping[str, Callable[[Any], str]] = {
    "base64": lambda value: base64.b64encode(_bytes(value)).decode(),
    "base64url": lambda value: base64.urlsafe_b64encode(_bytes(value)).decode().rstrip("="),
    "json": lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    "raw": text_of,
    "url": lambda value: quote(_bytes(value), safe=""),
}


def names(value: Any) -> frozenset[str]:
    """The variables that a text, or any text inside a JSON value, refers to.

    Raises ValueError with one line for a reference that is none.
    """
    return frozenset(name for text in _texts(value) for name in _names(text))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _names(text: str) -> Iterator[str]:
    end = 0
    for found in _REFERENCE.finditer(text):
        _refuse_stray(text, end, found.start())
        end = found.end()
        name, offset, filters = found.groups()
        if name is None:
            continue
        if offset and name not in CLOCKS:
            raise ValueError(f"{found[0]} adds to something that is no clock")
        for filter_ in filters.split("|")[1:]:
            if filter_ not in FILTERS:
                raise ValueError(f"{found[0]} has an unknown filter; use {', '.join(FILTERS)}")
        yield name
    _refuse_stray(text, end, len(text))


def _refuse_stray(text: str, start: int, end: int) -> None:
    if _OPENING.search(text, start, end):
        raise ValueError("holds ${ without a name and }; write $${ for the characters themselves")


def substitute(text: str, values: Mapping[str, Any], quoted: bool = False) -> str:
    """The text with every reference replaced once; `quoted` percent-encodes values without filter.

    What is no reference stays as it is. Raises UnsetVariable, and ValueError past MOST_CHARS.
    """
    if "${" not in text:
        return text
    parts: list[str] = []
    end = size = 0
    for found in _REFERENCE.finditer(text):
        before = text[end : found.start()]
        end = found.end()
        replaced = "${" if found[1] is None else _replaced(found, values, quoted)
        parts += (before, replaced)
        size += len(before) + len(replaced)
        if size > MOST_CHARS:
            raise ValueError(f"would be longer than {MOST_CHARS} characters")
    parts.append(text[end:])
    return "".join(parts)


def _replaced(found: "re.Match[str]", values: Mapping[str, Any], quoted: bool) -> str:
    value = _value(found, values)
    filters = found[3].split("|")[1:]
    for filter_ in filters or (("url",) if quoted else ()):
        value = FILTERS[filter_](value) if filter_ in FILTERS else value
    return text_of(value)


def _value(found: "re.Match[str]", values: Mapping[str, Any]) -> Any:
    name, offset = found[1], found[2]
    if name not in values:
        raise UnsetVariable(name)
    value = values[name]
    return value + int(offset) if offset and name in CLOCKS else value


def substitute_json(value: Any, values: Mapping[str, Any]) -> Any:
    """A JSON value with its texts substituted; a text that is one reference keeps the value's type.

    Keys stay as they are. Raises UnsetVariable, and ValueError past MOST_CHARS for one text.
    """
    if isinstance(value, str):
        whole = _REFERENCE.fullmatch(value)
        if whole is not None and whole[1] is not None and not whole[3]:
            return _value(whole, values)
        return substitute(value, values)
    if isinstance(value, Mapping):
        return {key: substitute_json(inner, values) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [substitute_json(inner, values) for inner in value]
    return value


def escape(text: str) -> str:
    """A text that substitution turns back into this one."""
    return text.replace("${", "$${")
