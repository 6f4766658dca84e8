"""JSON Schema (drafts 4 to 2020-12) whose work is counted, whose patterns run in RE2, and whose
references stay inside the schema.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson
from jsonschema import FormatChecker, exceptions, validators
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import specification_with

from lighthouse.probes.judging.matching import compile_pattern
from lighthouse.probes.judging.work import WorkLimitError, budget, deeper, same, spend

#: Bytes of one schema, and of a text in its messages.
MOST_SCHEMA_BYTES = 65_536
_SHOWN_CHARS = 120

#: What asks a keyword: about ten steps of the budget's size.
_KEYWORD_STEPS = 5

_CHARS_A_STEP = 512

_Errors = Iterator[exceptions.ValidationError]
_Keyword = Callable[[Any, Any, Any, Any], Any]


def checked_schema(schema: object) -> bytes:
    """The schema's text, which `schema_fault` takes.

    Raises ValueError with one line for what is no schema or could not be evaluated.
    """
    if not isinstance(schema, dict | bool):
        raise ValueError("is no JSON Schema: it must be an object, true or false")  # noqa: TRY004
    try:
        text = orjson.dumps(schema)
    except TypeError:
        raise ValueError("is no JSON Schema: it holds what JSON cannot") from None
    if len(text) > MOST_SCHEMA_BYTES:
        raise ValueError(f"is longer than {MOST_SCHEMA_BYTES} bytes")
    _validator(text)
    return text


def schema_fault(schema: bytes, document: Any) -> str | None:
    """What is wrong with a document, in one line, or None. Raises WorkLimitError."""
    validator = _validator(schema)
    with budget():
        try:
            error = next(validator.iter_errors(_quiet(document)), None)
        except RecursionError:
            raise WorkLimitError from None
    if error is None:
        return None
    nearest = exceptions.best_match(iter([error])) or error
    message = " ".join(nearest.message.split())
    if len(message) > 2 * _SHOWN_CHARS:
        message = message[: 2 * _SHOWN_CHARS] + "…"
    return f"{nearest.json_path[:_SHOWN_CHARS]}: {message}"


@lru_cache(maxsize=1024)
def _validator(text: bytes) -> Any:
    schema = orjson.loads(text)
    kind = validators.validator_for(schema, default=None)
    if kind is None:
        if isinstance(schema, dict) and "$schema" in schema:
            raise ValueError("names a $schema that is not known; leave it out for 2020-12")
        kind = validators.Draft202012Validator
    if kind is validators.Draft3Validator:
        raise ValueError("is written in draft 3; the drafts 4 to 2020-12 are known")
    try:
        kind.check_schema(schema, format_checker=FormatChecker(formats=()))
    except exceptions.SchemaError as exc:
        message = " ".join(exc.message.split())[:_SHOWN_CHARS]
        raise ValueError(f"is no JSON Schema: at {exc.json_path}: {message}") from None
    except RecursionError:
        raise ValueError("is no JSON Schema: it is nested too deep") from None
    resource: Any = _specification(kind).create_resource(schema)
    registry: Any = Registry().with_resource("", resource)
    _check(schema, registry.resolver())
    return _counting(kind)(schema, registry=registry)


def _specification(kind: Any) -> Any:
    return specification_with(kind.META_SCHEMA.get("$schema", kind.META_SCHEMA.get("$id")))


def _check(schema: object, resolver: Any) -> None:
    """What the metaschema does not ask: patterns in RE2, references that lead somewhere within."""
    waiting = [schema]
    names: set[str] = set()
    while waiting:
        here = waiting.pop()
        if isinstance(here, list):
            waiting.extend(here)
        if not isinstance(here, dict):
            continue
        names.update(here)
        waiting.extend(here.values())
        pattern = here.get("pattern")
        if isinstance(pattern, str):
            _check_pattern(pattern)
        patterns = here.get("patternProperties")
        for pattern in patterns if isinstance(patterns, dict) else ():
            _check_pattern(pattern)
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = here.get(key)
            if isinstance(reference, str):
                _check_reference(reference, resolver)
        if isinstance(here.get("$id"), str) and here is not schema:
            raise ValueError("holds a $id inside; only the whole schema may have one")
    if "patternProperties" in names and "unevaluatedProperties" in names:
        raise ValueError("cannot use patternProperties and unevaluatedProperties together")


def _check_pattern(pattern: str) -> None:
    if len(pattern) > 1000:
        raise ValueError("holds a pattern longer than 1000 characters")
    compile_pattern(pattern)


def _check_reference(reference: str, resolver: Any) -> None:
    if not reference.startswith("#"):
        raise ValueError("holds a reference that leaves the schema; only #… is followed")
    try:
        resolver.lookup(reference)
    except (Unresolvable, ValueError, LookupError, TypeError):
        raise ValueError(f"holds a reference to nothing: {reference[:_SHOWN_CHARS]}") from None


@lru_cache(maxsize=8)
def _counting(kind: Any) -> Any:
    """A draft's validator that spends from the budget and matches in RE2."""
    keywords: dict[str, _Keyword] = {**kind.VALIDATORS}
    for name, keyword in _OURS.items():
        if name in keywords:
            keywords[name] = keyword
    return validators.extend(kind, {name: _counted(keyword) for name, keyword in keywords.items()})


def _counted(keyword: _Keyword) -> _Keyword:
    def run(validator: Any, value: Any, instance: Any, schema: Any) -> _Errors:
        spend(_KEYWORD_STEPS)
        with deeper():
            for error in keyword(validator, value, instance, schema) or ():
                spend(1 + len(error.message) // 256)
                yield error

    return run


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> _Errors:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield exceptions.ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, _schema: Any
) -> _Errors:
    if not isinstance(instance, dict):
        return
    for pattern, subschema in patterns.items():
        for key, value in instance.items():
            if _found(pattern, key):
                yield from validator.descend(value, subschema, path=key, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, instance: Any, schema: Any) -> _Errors:
    if not isinstance(instance, dict):
        return
    known = schema.get("properties", {})
    patterns = tuple(schema.get("patternProperties", ()))
    for key, value in instance.items():
        spend()
        if key in known or any(_found(pattern, key) for pattern in patterns):
            continue
        if wanted is False:
            yield exceptions.ValidationError(f"the property {_Text(key)!r} is not allowed")
            return
        yield from validator.descend(value, wanted, path=key)


def _unique_items(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> _Errors:
    if wanted and isinstance(instance, list):
        seen = set()
        for item in instance:
            key = _hashable(item)
            if key in seen:
                yield exceptions.ValidationError("has items that are equal")
                return
            seen.add(key)


def _enum(_validator: Any, choices: Any, instance: Any, _schema: Any) -> _Errors:
    if not any(same(instance, choice) for choice in choices):
        yield exceptions.ValidationError(f"{instance!r} is none of {_quiet(choices)!r}")


def _const(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> _Errors:
    if not same(instance, wanted):
        yield exceptions.ValidationError(f"{instance!r} is not {_quiet(wanted)!r}")


_OURS: Mapping[str, _Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
    "enum": _enum,
    "const": _const,
}


def _found(pattern: str, text: str) -> bool:
    spend(1 + len(text) // _CHARS_A_STEP)
    return bool(compile_pattern(pattern).search(text))


def _hashable(value: Any) -> object:
    """A key that two values share exactly when JSON Schema calls them equal."""
    spend()
    match value:
        case bool() | None:
            return (value,)
        case str():
            return str(value)
        case int() if abs(value) >= 2**63:  # integers of a hundred digits can be made to collide
            return ("integer", str(value))
        case list():
            return ("array", *map(_hashable, value))
        case dict():
            return ("object", frozenset((key, _hashable(inner)) for key, inner in value.items()))
    return ("number", value)


class _Text(str):
    """A text that messages show the beginning of."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = self[:_SHOWN_CHARS] + "…" if len(self) > _SHOWN_CHARS else str(self)
        return '"' + "".join(char if char.isprintable() else "�" for char in shown) + '"'


class _Array(list[Any]):
    """The library writes each value that fails into its message: a mebibyte for every branch."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"the array of {len(self)}"


class _Object(dict[str, Any]):
    __slots__ = ()

    def __repr__(self) -> str:
        return f"the object of {len(self)}"


def _quiet(value: Any) -> Any:
    """The same value with short forms for messages."""
    if isinstance(value, str):
        return _Text(value)
    if isinstance(value, list | dict):
        spend()
        if isinstance(value, list):
            return _Array(map(_quiet, value))
        return _Object((key, _quiet(inner)) for key, inner in value.items())
    return value
