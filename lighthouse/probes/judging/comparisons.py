"""Comparisons: what one value must be, wherever a configuration expects a value.

They read the values of strangers: patterns run in RE2, and what a comparison reads is counted.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from lighthouse.probes.judging import matching
from lighthouse.probes.judging.work import WorkLimitError, budget, same, spend

#: Characters that a pattern reads in about a step of the budget.
_CHARS_A_STEP = 512

#: Characters of a found value that people are shown.
_SHOWN_CHARS = 80

_QUANTITY = re.compile(r"0[xX][0-9a-fA-F]{1,64}")
_DECIMAL = re.compile(r"[+-]?\d{1,400}(?:\.\d{1,400})?(?:[eE][+-]?\d{1,3})?")

JsonType = Literal["string", "number", "integer", "boolean", "object", "array", "null"]

#: The orderings: field, how people are told, and what a comparison's sign must be to zero.
_ORDERINGS: Mapping[str, tuple[str, Callable[[int, int], bool]]] = {
    "less": ("less than", operator.lt),
    "more": ("more than", operator.gt),
    "at_most": ("at most", operator.le),
    "at_least": ("at least", operator.ge),
}


def _operators(value: object) -> object:
    """A plain value means `equal`."""
    return value if isinstance(value, dict | Comparison) else {"equal": value}


def _not_a_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number or a text")  # noqa: TRY004 - pydantic's contract
    return value


#: What a value can be ordered by: a number, or a text in the order of its characters.
_Bound = Annotated[
    int | float | Annotated[str, Field(max_length=1000)], BeforeValidator(_not_a_flag)
]


class Comparison(BaseModel):
    """What one value must be; every key that is given must hold.

    Written in a configuration as an object with operators (`{"<": 10, "not": 3}`), or as a plain
    JSON value, which means `equal`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    equal: Any = Field(default=None, description="The value itself; 1 equals 1.0.")
    not_: "Comparison | None" = Field(
        default=None, alias="not", description="What must not hold: a value or operators."
    )
    less: _Bound | None = Field(default=None, alias="<", description="Less than a number or text.")
    more: _Bound | None = Field(default=None, alias=">", description="More than a number or text.")
    at_most: _Bound | None = Field(default=None, alias="<=", description="At most that.")
    at_least: _Bound | None = Field(default=None, alias=">=", description="At least that.")
    matches: str | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="A pattern in RE2 syntax, found anywhere in a text or number.",
    )
    contains: Any = Field(
        default=None, description="A part of a text, an element of an array, a key of an object."
    )
    type: JsonType | None = Field(default=None, description="The value's JSON type.")
    length: "Comparison | None" = Field(
        default=None, description="Characters of a text, elements of an array, keys of an object."
    )
    count: "Comparison | None" = Field(
        default=None, description="How many values a JSONPath selects; 0 for none."
    )

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: object) -> object:
        value = _operators(value)
        if isinstance(value, dict):
            if not value:
                raise ValueError("names no operator")
            unknown = [key for key in value if key not in _OPERATORS]
            if unknown:
                raise ValueError(
                    f"knows no operator {str(unknown[0])[:40]!r}; those are "
                    + ", ".join(_SHOWN_OPERATORS)
                    + '; an object to be equal to is written {"equal": {…}}'
                )
        return value

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            matching.compile_pattern(value)
        return value

    @model_serializer(mode="wrap")
    def _as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        """A plain value stays one where a configuration is stored and shown."""
        if self.model_fields_set == {"equal"} and not isinstance(self.equal, dict):
            return self.equal
        return handler(self)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        operators = handler(core_schema)
        target = handler.resolve_ref_schema(operators)
        if "anyOf" not in target and target.get("type") == "object":
            inner = dict(target)
            target.clear()
            target["description"] = inner.pop("description", "")
            target["anyOf"] = [
                {"type": ["string", "number", "boolean", "array", "null"]},
                inner,
            ]
        return dict(operators)

    def fault(self, value: Any, *, text: bool = False) -> str | None:
        """What is wrong with a value, in one line, or None.

        `text`: the value came as text (a header), so that a number is compared with what the
        text says. An ordering with a number always reads a text that is a decimal number or a
        0x… quantity as such, for APIs of chains write their numbers so.
        """
        with budget():
            try:
                return self._fault(value, text)
            except WorkLimitError as exc:
                return str(exc)

    def _fault(self, value: Any, text: bool) -> str | None:
        given = self.model_fields_set
        if "equal" in given and not _equal(self.equal, value, text):
            return f"is {shown(value)}, expected {shown(self.equal)}"
        if self.not_ is not None and self.not_._fault(value, text) is None:
            return f"is {shown(value)}, which it must not be"
        for field, (sign, holds) in _ORDERINGS.items():
            bound = getattr(self, field)
            if bound is not None:
                order = _order(value, bound)
                if order is None or not holds(order, 0):
                    return f"is {shown(value)}, expected {sign} {shown(bound)}"
        if self.matches is not None and not _matches(self.matches, value):
            return f"is {shown(value)}, which does not match the pattern"
        if "contains" in given and not _contains(value, self.contains):
            return f"is {shown(value)}, which lacks {shown(self.contains)}"
        if self.type is not None and not _is_type(value, self.type):
            return f"is {shown(value)}, expected the type {self.type}"
        if self.length is not None:
            if not isinstance(value, str | list | dict):
                return f"is {shown(value)}, which has no length"
            wrong = self.length._fault(len(value), False)
            if wrong is not None:
                return f"has a length that {wrong}"
        return None

    def selection_fault(self, values: list[Any], *, singular: bool = False) -> str | None:
        """What is wrong with what a path selected, in one line, or None.

        Every value must be as told, and at least one must be there unless `count` says otherwise.
        """
        if self.count is not None:
            wrong = self.count.fault(len(values))
            if wrong is not None:
                return f"selects a number of values that {wrong}"
            if self.model_fields_set == {"count"}:
                return None
        elif not values:
            return "is missing" if singular else "selects nothing"
        for value in values:
            wrong = self.fault(value)
            if wrong is not None:
                return wrong
        return None


_OPERATORS = frozenset(
    name for key, field in Comparison.model_fields.items() for name in (key, field.alias) if name
)
_SHOWN_OPERATORS = tuple(field.alias or key for key, field in Comparison.model_fields.items())


def _equal(wanted: Any, value: Any, text: bool) -> bool:
    if text and isinstance(value, str) and isinstance(wanted, str):
        return matching.same_header(wanted, value)
    if text and isinstance(value, str) and _is_number(wanted):
        number = _number(value)
        return number is not None and number == _number(wanted)
    return same(wanted, value)


def _order(value: Any, bound: float | str) -> int | None:
    """Below, at or above zero as the value is below, at or above the bound; None: no order."""
    if isinstance(bound, str):
        return (value > bound) - (value < bound) if isinstance(value, str) else None
    number, limit = _number(value), _number(bound)
    if number is None or limit is None:
        return None
    return (number > limit) - (number < limit)


def _number(value: Any) -> int | Decimal | None:
    """A number exactly: integers of any size, decimals as they are written."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, str):
        value = value.strip() if len(value) < 1000 else value
        if _QUANTITY.fullmatch(value):
            return int(value, 16)
        if _DECIMAL.fullmatch(value):
            try:
                return Decimal(value)
            except InvalidOperation:
                return None
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _matches(pattern: str, value: Any) -> bool:
    if isinstance(value, list | dict):
        return False
    text = value if isinstance(value, str) else json.dumps(value)
    spend(1 + len(text) // _CHARS_A_STEP)
    return bool(matching.compile_pattern(pattern).search(text.encode("utf-8", "replace")))


def _contains(value: Any, part: Any) -> bool:
    if isinstance(value, str):
        spend(len(value) // _CHARS_A_STEP)
        return isinstance(part, str) and part in value
    if isinstance(value, list):
        return any(same(part, element) for element in value)
    return isinstance(value, dict) and isinstance(part, str) and part in value


def _is_type(value: Any, wanted: str) -> bool:
    match wanted:
        case "string":
            return isinstance(value, str)
        case "number":
            return _is_number(value)
        case "integer":
            return _is_number(value) and (isinstance(value, int) or value.is_integer())
        case "boolean":
            return isinstance(value, bool)
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
    return value is None


def shown(value: Any) -> str:
    """A JSON value for people, in one short line."""
    if isinstance(value, list):
        return f"an array of {len(value)}" if value else "[]"
    if isinstance(value, dict):
        return f"an object of {len(value)}" if value else "{}"
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN_CHARS else value[: _SHOWN_CHARS - 1] + "…"
        return '"' + "".join(char if char.isprintable() else "�" for char in cut) + '"'
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**_SHOWN_CHARS:
        return "a number of more than 80 digits"
    return json.dumps(value)
