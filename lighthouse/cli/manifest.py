"""Reading a file of subscriptions: YAML with the place of every value, so that errors can name it.

Of YAML only what JSON has, plus `!env NAME`: no aliases (a few bytes could become gigabytes), no
tags, and `yes`, `0x1f` or `12:30` are text, as people mean them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from lighthouse import settings
from lighthouse.errors import UsageError

#: Of a file; ten thousand subscriptions take about 3 MB.
LARGEST_BYTES = 16 * 1024 * 1024
#: Of collections in one another: more than any configuration has. libyaml composes by recursion.
DEEPEST = 80

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq", "merge", "value")
)
_ENV = "!env"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})(\.[0-9]{1,99})?([eE][-+]?[0-9]{1,3})?")
_WORDS: Mapping[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands, counted from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """A file's value, and the places of its parts by their paths."""

    name: str
    value: Any = None
    places: dict[tuple[str | int, ...], Place] = field(default_factory=dict)

    def fault(self, path: tuple[str | int, ...], message: str) -> UsageError:
        """An error at a path, or at the closest thing around it that has a place."""
        known = path
        while known and known not in self.places:
            known = known[:-1]
        place = self.places.get(known, Place(1, 1))
        return _fault(self.name, place, message)

    def inside(self, path: tuple[str | int, ...], dotted: str) -> tuple[str | int, ...]:
        """The path of a configuration's field that is known by its dotted name."""
        rest = dotted
        while rest:
            for end in (*_dots(rest), len(rest)):
                part = rest[:end]
                key = self._child(path, part)
                if key is not None:
                    path, rest = (*path, key), rest[end + 1 :]
                    break
            else:
                break
        return path

    def _child(self, path: tuple[str | int, ...], part: str) -> str | int | None:
        if (*path, part) in self.places:
            return part
        if part.isdecimal() and (*path, int(part)) in self.places:
            return int(part)
        return None


def read(name: str, data: bytes) -> Document:
    """The one document of a file. Raises UsageError that names line and column, never a value."""
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"{name}: is larger than {LARGEST_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(f"{name}: is not UTF-8 at byte {exc.start}") from None
    try:
        _check(name, text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise _fault(name, _place(mark), f"not YAML: {exc.problem or exc.context}") from None
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise UsageError(f"{name}:{line}: holds a control character") from None
    document = Document(name)
    if node is not None:
        document.value = _value(document, node, ())
    return document


def _check(name: str, text: str) -> None:
    """What must not come before the composer, which builds whatever it is given."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise _fault(name, _place(event.start_mark), f"nested more than {DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            raise _fault(name, _place(event.start_mark), "aliases (*name) are not taken")


def _value(document: Document, node: yaml.Node, path: tuple[str | int, ...]) -> Any:
    document.places.setdefault(path, _place(node.start_mark))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(document, node)
    if node.tag not in _TAGS:
        _refuse(document, node, "this tag is not taken")
    if isinstance(node, yaml.SequenceNode):
        return [_value(document, inner, (*path, i)) for i, inner in enumerate(node.value)]
    found: dict[str, Any] = {}
    for key, inner in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag not in _TAGS:
            _refuse(document, key, "a key must be plain text")
        if key.value in found:
            _refuse(document, key, f"{_dotted((*path, key.value))}: the key is there twice")
        document.places[(*path, key.value)] = _place(key.start_mark)
        found[key.value] = _value(document, inner, (*path, key.value))
    return found


def _scalar(document: Document, node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.tag == _ENV:
        if not _NAME.fullmatch(text):
            _refuse(document, node, "!env needs the name of a variable")
        value = settings.from_environment(text)
        if value is None:
            _refuse(document, node, f"the environment has no {text}")
        return value
    if node.tag not in _TAGS:
        _refuse(document, node, "this tag is not taken")
    if node.style:  # quoted, or a block
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _refuse(document: Document, node: yaml.Node, message: str) -> NoReturn:
    raise _fault(document.name, _place(node.start_mark), message)


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _fault(name: str, place: Place, message: str) -> UsageError:
    return UsageError(f"{name}:{place.line}:{place.column}: {message}")


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


def _dots(text: str) -> Iterator[int]:
    return (match.start() for match in re.finditer(r"\.", text))
