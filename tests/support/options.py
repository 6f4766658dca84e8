"""Every option of every monitor, walked from the models, and a way to take one away.

An option is named by the class that defines it, such as `OAuth2.scope`, so that one which several
monitors share is one. A test marked with `option("OAuth2.scope")` runs a second time without that
option, and must fail then: see tests/conftest.py.
"""

import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from lighthouse.probes import MONITORS


def every_option() -> dict[str, type[BaseModel]]:
    """The names of all options, with the class that defines each."""
    found: dict[str, type[BaseModel]] = {}
    seen: set[type[BaseModel]] = set()
    waiting: list[type[BaseModel]] = [monitor.config for monitor in MONITORS.values()]
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        for name, field in model.model_fields.items():
            owner = _owner(model, name)
            found[f"{owner.__name__}.{name}"] = owner
            waiting += _models(field.annotation)
    return found


def required(option: str) -> bool:
    """Whether a configuration without the option is refused anyway."""
    owner, _, name = option.partition(".")
    return every_option()[option].model_fields[name].is_required() and bool(owner)


def without(option: str, model: type[BaseModel], config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration less one option, wherever it stands; what is empty then goes with it."""
    left: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        for key in {name, field.alias or name}:
            if key not in config:
                continue
            if f"{_owner(model, name).__name__}.{name}" == option:
                continue
            value, inner = config[key], _models(field.annotation)
            less = _within(option, inner, value) if inner else value
            if not _emptied(value, less):
                left[key] = less
    left.update({key: config[key] for key in config if key not in _keys(model)})
    return left


def _within(option: str, inner: list[type[BaseModel]], value: Any) -> Any:
    if isinstance(value, list | tuple):
        pairs = [(each, _within(option, inner, each)) for each in value]
        return [less for each, less in pairs if not _emptied(each, less)]
    if not isinstance(value, Mapping):
        return value
    fitting = [model for model in inner if _fits(model, value)]
    if fitting:
        return without(option, fitting[0], value)
    entries = {key: _within(option, inner, each) for key, each in value.items()}
    return {key: less for key, less in entries.items() if not _emptied(value[key], less)}


def _emptied(value: Any, less: Any) -> bool:
    return less in ({}, []) and value not in ({}, [])


def _fits(model: type[BaseModel], value: Mapping[str, Any]) -> bool:
    if not value or not set(value) <= _keys(model):
        return False
    try:
        model.model_validate(dict(value))
    except ValueError:
        return False
    return True


def _keys(model: type[BaseModel]) -> set[str]:
    return {key for name, field in model.model_fields.items() for key in (name, field.alias or "")}


def _owner(model: type[BaseModel], name: str) -> type[BaseModel]:
    """The class of the line of descent that says what the field is."""
    owners = [c for c in model.__mro__ if name in inspect.get_annotations(c)]
    return owners[0]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold."""
    return list(dict.fromkeys(_walk(annotation)))


def _walk(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not get_origin(annotation):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    elif get_origin(annotation) not in (Union, types.UnionType, list, tuple, dict, set, frozenset):
        arguments = ()
    for argument in arguments:
        yield from _walk(argument)
