"""Reading what people configure: a model in, one line that names the field out.

No refusal repeats a value: it may be a secret.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError

from lighthouse.errors import ConfigError

C = TypeVar("C", bound=BaseModel)

#: Text that nobody but the engine may read: encrypted where it is stored and where it travels.
Secret = Annotated[str, "secret"]

#: What writes or reads JSON by recursion meets its limit far beyond this, on any stack.
DEEPEST = 64


def validated(model: type[C], config: Mapping[str, Any]) -> C:
    """Read a configuration. Raises ConfigError for its first fault."""
    if not isinstance(config, Mapping):
        raise ConfigError("the configuration must be a JSON object")
    if _deeper_than(DEEPEST, config):
        raise ConfigError(f"the configuration is nested more than {DEEPEST} levels deep")
    try:
        return model.model_validate(dict(config))
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_input=False)[0]
    raise ConfigError(_told(fault), _path(fault["loc"]))


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
