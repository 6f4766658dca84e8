"""Reading what people configure: a model in, one line that names the field out; and its secrets.

No refusal repeats a value: it may be a secret. Secrets are sealed where a configuration is stored
(`seal`), opened where it is used (`validated` with keys) and starred where it is shown (`shown`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, PlainSerializer, SerializationInfo, ValidationError
from pydantic_core import PydanticSerializationUnexpectedValue

from lighthouse.errors import ConfigError, SealedError
from lighthouse.sealing import SEALED, CannotOpen, Keyring, is_sealed

C = TypeVar("C", bound=BaseModel)

#: What stands where a secret is not shown.
STARS = "***"

#: What writes or reads JSON by recursion meets its limit far beyond this, on any stack.
DEEPEST = 64


@dataclass(slots=True)
class _Sealing:
    """Serialization context: secrets are sealed, or starred when there are no keys."""

    keys: Keyring | None
    starred: bool = False  #: whether a secret was met without keys


def _put_away(value: Any, info: SerializationInfo[Any]) -> Any:
    if value is None or not isinstance(info.context, _Sealing):
        return value
    if info.context.keys:
        return info.context.keys.seal(value)
    info.context.starred = True
    return STARS


def _put_away_text(value: Any, info: SerializationInfo[Any]) -> Any:
    if not isinstance(value, str):  # a union's other branch
        raise PydanticSerializationUnexpectedValue("not text")
    return _put_away(value, info)


#: Text that nobody but the engine may read: encrypted where it is stored and where it travels.
Secret = Annotated[str, PlainSerializer(_put_away_text)]

#: Makes a field of any JSON type such a secret: `Annotated[dict[str, Any] | None, SECRET_JSON]`.
SECRET_JSON = PlainSerializer(_put_away)


def validated(model: type[C], config: Mapping[str, Any], keys: Keyring | None = None) -> C:
    """Read a configuration. Raises ConfigError for its first fault.

    With `keys` it is a stored one, whose sealed values are opened; without, it is what somebody
    gave us, and a sealed value (stolen, to be shown to its thief's own target) is refused.
    """
    if not isinstance(config, Mapping):
        raise ConfigError("the configuration must be a JSON object")
    if _deeper_than(DEEPEST, config):
        raise ConfigError(f"the configuration is nested more than {DEEPEST} levels deep")
    opened = {key: _opened(value, keys, (key,)) for key, value in config.items()}
    try:
        return model.model_validate(opened)
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_input=False)[0]
    raise ConfigError(_told(fault), _path(fault["loc"]))


def seal(model: BaseModel, keys: Keyring) -> dict[str, Any]:
    """A configuration as it is stored: what was given, in JSON types, its secrets sealed.

    Raises SettingsError when it holds secrets and there is no key.
    """
    sealing = _Sealing(keys)
    stored = _dumped(model, sealing)
    if sealing.starred:
        keys.require()
    return stored


def resealed(model: type[C], config: Mapping[str, Any], keys: Keyring) -> dict[str, Any] | None:
    """A stored configuration under the newest key, secrets in clear sealed; None if it is so.

    Raises ConfigError when no key opens it, SettingsError without keys.
    """
    stored = seal(validated(model, config, keys), keys)
    tokens = list(_sealed_in(config))
    if len(tokens) == len(list(_sealed_in(stored))) and all(map(keys.newest, tokens)):
        return None
    return stored


def shown(model: type[C] | None, config: Mapping[str, Any], keys: Keyring) -> dict[str, Any]:
    """A stored configuration for people's eyes: stars for its secrets.

    What cannot be read here (no key, no such model) shows no text at all.
    """
    if model is not None:
        try:
            return _dumped(validated(model, config, keys), _Sealing(None))
        except ConfigError:
            pass
    return {key: _starred(value) for key, value in config.items()}


def _dumped(model: BaseModel, sealing: _Sealing) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True, context=sealing)


def _opened(value: Any, keys: Keyring | None, path: tuple[int | str, ...]) -> Any:
    if is_sealed(value):
        if keys is None:
            raise ConfigError(f"{SEALED} is no value that can be given", _path(path))
        try:
            return keys.open(value)
        except CannotOpen as exc:
            raise SealedError(str(exc), _path(path)) from None
    if isinstance(value, Mapping):
        return {key: _opened(inner, keys, (*path, key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_opened(inner, keys, (*path, index)) for index, inner in enumerate(value)]
    return value


def _sealed_in(value: Any) -> Iterable[Mapping[str, Any]]:
    if is_sealed(value):
        yield value
        return
    for inner in _inside(value):
        yield from _sealed_in(inner)


def _starred(value: Any) -> Any:
    if isinstance(value, str) or is_sealed(value):
        return STARS
    if isinstance(value, Mapping):
        return {key: _starred(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_starred(inner) for inner in value]
    return value


def _deeper_than(levels: int, config: object) -> bool:
    layer = [config]
    for _ in range(levels):
        layer = [inner for outer in layer for inner in _inside(outer)]
        if not layer:
            return False
    return True


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _told(fault: Mapping[str, Any]) -> str:
    match fault["type"]:
        case "extra_forbidden":
            return "unknown key"
        case "missing":
            return "is required"
        case "value_error":
            return str(fault["ctx"]["error"])
    message = str(fault["msg"])
    return message[:1].lower() + message[1:]


#: Names of a union's branches, which pydantic adds to its locations.
_BRANCHES = frozenset({"int", "str", "constrained-str", "dict[str,any]", "list[any]"})


def _path(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location if not _is_branch(part))


def _is_branch(part: int | str) -> bool:
    """Whether a part of a location is pydantic's, or a tag of ours in angle brackets."""
    return part in _BRANCHES or (isinstance(part, str) and part[:1] + part[-1:] == "<>")
