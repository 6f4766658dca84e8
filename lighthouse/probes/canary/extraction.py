"""What a canary's step takes out of an answer for the steps after it.

Pure, and linear in the body's length; the values are bounded in number and size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import re2
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lighthouse import variables
from lighthouse.model import Reason
from lighthouse.probes.canary.steps import MOST_VALUE_CHARS
from lighthouse.probes.judging import assertions, matching

#: Memory of one compiled pattern, in bytes; a pattern that needs more is refused.
_PATTERN_BYTES = 512 * 1024


class Extraction(BaseModel):
    """Where a variable's value stands in an answer. A plain text is a JSONPath."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    json_path: str | None = Field(
        default=None, max_length=1000, description="RFC 9535; the first value that it selects."
    )
    header: str | None = Field(
        default=None, min_length=1, max_length=100, description="The first header of this name."
    )
    cookie: str | None = Field(
        default=None, min_length=1, max_length=256, description="A cookie of the flow, by its name."
    )
    regex: str | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="RE2, found anywhere in the body, or in the header or cookie: its first group, "
        "or the whole match.",
    )
    default: Any = Field(
        default=None, description="The value where nothing is found; without it that is a failure."
    )
    secret: bool = Field(default=False, description="Keep the value out of messages and snippets.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"json_path": value} if isinstance(value, str) else value

    @field_validator("json_path")
    @classmethod
    def _path(cls, value: str | None) -> str | None:
        if value is not None:
            assertions.compiled_path(value)
        return value

    @field_validator("regex")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        if value is not None:
            capturing(value)
        return value

    @model_validator(mode="after")
    def _one_source(self) -> "Extraction":
        places = sum(place is not None for place in (self.json_path, self.header, self.cookie))
        if places > 1 or (places == 0 and self.regex is None):
            raise ValueError("give one of json_path, header, cookie and regex")
        if self.json_path is not None and self.regex is not None:
            raise ValueError("regex goes with header, cookie or the body, not with json_path")
        return self

    @property
    def expensive(self) -> bool:
        """Whether even a short document may take milliseconds."""
        return self.json_path is not None and ("?" in self.json_path or ".." in self.json_path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What there is to extract from."""

    body: bytes = b""
    content_type: str | None = None
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  #: names in lower case
    cookies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What could not be extracted, and why the target is to blame."""

    reason: Reason
    message: str


@lru_cache(maxsize=1024)
def capturing(pattern: str) -> Any:
    """An RE2 pattern with its groups. Raises ValueError with one line."""
    matching.compile_pattern(pattern)
    options = re2.Options()
    options.max_mem = _PATTERN_BYTES
    options.log_errors = False
    return re2.compile(pattern, options)


def extract(wanted: Mapping[str, Extraction], answer: Answer) -> dict[str, Any] | Missing:
    """The variables' values, or the first that is not there."""
    values: dict[str, Any] = {}
    document: list[Any] = []  # parsed at most once
    for name, extraction in wanted.items():
        try:
            found, value = _found(extraction, answer, document)
        except ValueError as exc:
            if "default" not in extraction.model_fields_set:
                return _missing(name, extraction, str(exc))
            found, value = False, None
        if not found:
            if "default" not in extraction.model_fields_set:
                return _missing(name, extraction, "nothing found")
            value = extraction.default
        if _too_large(value):
            return _missing(name, extraction, f"longer than {MOST_VALUE_CHARS} characters")
        values[name] = value
    return values


def extracted_from(document: Any, wanted: Mapping[str, str]) -> dict[str, Any] | Missing:
    """Variables by JSONPath from a document of our own making."""
    values: dict[str, Any] = {}
    for name, path in wanted.items():
        found = assertions.find(path, document)
        if not found:
            return Missing(reason=Reason.BODY, message=f"{name} at {path}: nothing found")
        values[name] = found[0]
    return values


def _found(extraction: Extraction, answer: Answer, document: list[Any]) -> tuple[bool, Any]:
    if extraction.json_path is not None:
        if not document:
            body = matching.utf8(answer.body, answer.content_type)
            document.append(assertions.parse_json(body))
        selected = assertions.find(extraction.json_path, document[0])
        return bool(selected), selected[0] if selected else None
    text: str | bytes | None
    if extraction.header is not None:
        text = next(iter(answer.headers.get(extraction.header.lower(), ())), None)
    elif extraction.cookie is not None:
        text = answer.cookies.get(extraction.cookie)
    else:
        text = matching.utf8(answer.body, answer.content_type)
    if text is None or extraction.regex is None:
        return text is not None, text
    match = capturing(extraction.regex).search(text)
    if match is None:
        return False, None
    value = match.group(1 if match.re.groups else 0)
    return value is not None, value.decode("utf-8", "replace") if isinstance(
        value, bytes
    ) else value


def _too_large(value: Any) -> bool:
    try:
        return len(variables.text_of(value)) > MOST_VALUE_CHARS
    except (ValueError, RecursionError):
        return True


def _missing(name: str, extraction: Extraction, why: str) -> Missing:
    if extraction.header is not None:
        return Missing(reason=Reason.HEADER, message=f"{name} in header {extraction.header}: {why}")
    if extraction.cookie is not None:
        return Missing(reason=Reason.HEADER, message=f"{name} in cookie {extraction.cookie}: {why}")
    place = extraction.json_path or "the pattern"
    return Missing(reason=Reason.BODY, message=f"{name} at {place}: {why}")
