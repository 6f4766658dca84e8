"""What an answer must be: comparisons, JSONPath (RFC 9535) and JSON Schema, shared by all monitors.

All of it is pure, bounded in time and memory whatever the target sends, and never backtracks.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator

from lighthouse.configs import DEEPEST
from lighthouse.model import Finding
from lighthouse.probes.judging.comparisons import Comparison, JsonType, shown
from lighthouse.probes.judging.jsonpath import compiled_path, find, is_singular
from lighthouse.probes.judging.jsonschemas import checked_schema, schema_fault
from lighthouse.probes.judging.work import WorkLimitError, budget, in_turn

__all__ = ["SHORT_BYTES", "Comparison", "Headers", "JsonExpectation", "JsonType"]
__all__ += ["accepted_codes", "code_range", "compiled_path", "find", "headers_fault"]
__all__ += ["parse_json", "shown"]

Headers = Mapping[str, tuple[str, ...]]

#: Values of one JSON document: each costs up to 200 bytes once it is parsed.
MOST_VALUES = 100_000

#: Bytes of a document that are judged on the event loop; longer ones go to a thread.
SHORT_BYTES = 4096

_CODES = re.compile(r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?", re.IGNORECASE)
_STRINGS = re.compile(rb'"[^"]*+"')
_LONG_INTEGER = re.compile(rb"\d{19}")


# -- documents --------------------------------------------------------------------------------


def parse_json(body: bytes | str) -> Any:
    """A JSON document of bounded depth and size; integers of any length stay exact.

    Raises ValueError with one line.
    """
    raw = body.encode("utf-8", "replace") if isinstance(body, str) else body
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        raise ValueError("is empty, not JSON")
    containers, values = _extent(raw)
    if values > MOST_VALUES and _extent(_bare(raw))[1] > MOST_VALUES:
        raise ValueError(f"holds more than {MOST_VALUES} JSON values")
    try:
        document = _loads(raw)
    except RecursionError:
        raise ValueError(f"is nested more than {DEEPEST} levels deep") from None
    except ValueError as exc:
        if "recursion" in str(exc).lower() or "depth" in str(exc):  # orjson's own limit is 1024
            raise ValueError(f"is nested more than {DEEPEST} levels deep") from None
        raise ValueError(f"is not JSON: {' '.join(str(exc).split())[:120]}") from None
    if containers > DEEPEST and _deeper_than(DEEPEST, document):
        raise ValueError(f"is nested more than {DEEPEST} levels deep")
    return document


def _extent(raw: bytes) -> tuple[int, int]:
    """How many containers and values a text can hold at the most."""
    containers = raw.count(b"[") + raw.count(b"{")
    return containers, raw.count(b",") + raw.count(b":") + containers + 1


def _bare(raw: bytes) -> bytes:
    """A text without its strings, or as it is where it has more strings than it may have values.

    In a few passes that each take milliseconds, for the interpreter stands still meanwhile.
    """
    if raw.count(b'"') - raw.count(b'\\"') > 2 * MOST_VALUES:
        return raw
    return _STRINGS.sub(b"", raw.replace(b"\\\\", b"").replace(b'\\"', b""))


def _loads(raw: bytes) -> Any:
    if _LONG_INTEGER.search(raw):  # orjson would make a float of an amount in wei
        return json.loads(raw.decode("utf-8"), parse_constant=_no_number)
    return orjson.loads(raw)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _deeper_than(levels: int, document: Any) -> bool:
    layer = [document]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not layer:
            return False
    return True


class JsonExpectation(BaseModel):
    """Assertions on a JSON document: JSONPath to Comparison, and a JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    json_path: dict[str, Comparison] = Field(
        default_factory=dict,
        max_length=50,
        description="JSONPath (RFC 9535) to what every value that it selects must be.",
    )
    json_schema: dict[str, Any] | bool | None = Field(
        default=None,
        description="A JSON Schema, draft 4 to 2020-12, without references outside itself.",
    )

    @field_validator("json_path")
    @classmethod
    def _paths(cls, value: dict[str, Comparison]) -> dict[str, Comparison]:
        for path in value:
            compiled_path(path)
        return value

    @field_validator("json_schema")
    @classmethod
    def _schema(cls, value: dict[str, Any] | bool | None) -> dict[str, Any] | bool | None:
        if value is not None:
            checked_schema(value)
        return value

    @property
    def given(self) -> bool:
        """Whether anything is asserted at all."""
        return bool(self.json_path) or self.json_schema is not None

    def fault(self, document: Any) -> str | None:
        """What is wrong with a document, in one line, or None."""
        with budget():
            faults = (f"{name} {wrong}" for name, wrong, _ in self._found(document) if wrong)
            return next(faults, None)

    def findings(self, document: Any) -> tuple[Finding, ...]:
        """Each assertion and what was found: for people who look at a single check."""
        with budget():
            found = tuple(self._found(document))
        return tuple(
            Finding(
                name=f"body {name}"[:200], ok=wrong is None, found=(wrong or _told(values))[:200]
            )
            for name, wrong, values in found
        )

    def _found(self, document: Any) -> Iterator[tuple[str, str | None, list[Any]]]:
        """Each assertion in turn: its name, its fault or None, and the values that it is about."""
        for path, comparison in self.json_path.items():
            values: list[Any] = []
            try:
                values = find(path, document)
                wrong = comparison.selection_fault(values, singular=is_singular(path))
            except WorkLimitError as exc:
                wrong = str(exc)
            yield path, wrong, values
        if self._schema_text is not None:
            try:
                wrong = schema_fault(self._schema_text, document)
            except WorkLimitError as exc:
                wrong = str(exc)
            yield "json_schema", wrong, [document]

    async def fault_in(self, body: bytes) -> str | None:
        """What is wrong with a body in UTF-8, in one line, or None; in a thread if it is long."""
        if len(body) <= SHORT_BYTES and not self.expensive:
            return self.body_fault(body)
        return await in_turn(self.body_fault, body)

    def body_fault(self, body: bytes) -> str | None:
        """What is wrong with a body in UTF-8, in one line, or None."""
        try:
            document = parse_json(body)
        except ValueError as exc:
            return f"the body {exc}"
        return self.fault(document)

    def body_findings(self, body: bytes) -> tuple[Finding, ...]:
        """Each assertion on a body in UTF-8 and what was found."""
        try:
            document = parse_json(body)
        except ValueError as exc:
            return (Finding(name="body", ok=False, found=f"the body {exc}"[:200]),)
        return self.findings(document)

    @cached_property
    def expensive(self) -> bool:
        """Whether even a short document may take milliseconds."""
        return self.json_schema is not None or any(
            "?" in path or ".." in path for path in self.json_path
        )

    @cached_property
    def _schema_text(self) -> bytes | None:
        return None if self.json_schema is None else checked_schema(self.json_schema)


def _told(values: list[Any]) -> str:
    if not values:
        return "nothing selected"
    return shown(values[0]) + (f" and {len(values) - 1} more" if len(values) > 1 else "")


# -- status codes and headers -----------------------------------------------------------------


@lru_cache(maxsize=1024)
def accepted_codes(entries: tuple[int | str, ...]) -> frozenset[int]:
    """One set of codes for all that ask for the same: a set of their own took 10 KB each."""
    return frozenset(code for entry in entries for code in code_range(entry))


def code_range(entry: int | str) -> range:
    """The codes that one entry of valid_status_codes stands for. Raises ValueError."""
    found = _CODES.fullmatch(str(entry).strip())
    if found is None:
        raise ValueError(f'{str(entry)[:20]!r} is no status code; write 204, "2xx" or "200-299"')
    family, first, last = found.groups()
    if family:
        return range(int(family) * 100, int(family) * 100 + 100)
    return range(int(first), int(last or first) + 1)


def headers_fault(name: str, comparison: Comparison | None, headers: Headers) -> str | None:
    """What is wrong with one header, in one line, or None.

    Of a header that came several times one value must be as told, and none may be what it must
    not be. None asks for presence only; a text matches with its case and parameters ignored.
    """
    values = headers.get(name.lower(), ())
    if comparison is not None and comparison.count is not None:
        wrong = comparison.count.fault(len(values))
        if wrong is not None:
            return f"header {name} came a number of times that {wrong}"
        if comparison.model_fields_set == {"count"}:
            return None
    if not values:
        return f"header {name} is missing"
    if comparison is None:
        return None
    faults = [comparison.fault(value, text=True) for value in values]
    broken = [wrong for wrong in faults if wrong is not None]
    if broken and (comparison.not_ is not None or len(broken) == len(values)):
        return f"header {name} {broken[0]}"
    return None
