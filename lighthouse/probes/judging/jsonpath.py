"""JSONPath (RFC 9535) whose work is counted and whose patterns run in RE2.

The library parses and knows the standard; the parts of its tree that can multiply work are put in
a counting form: descent, filters, comparisons, and the functions that take patterns.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import jsonpath_rfc9535 as rfc9535
from iregexp_check import check
from jsonpath_rfc9535 import filter_expressions as expressions
from jsonpath_rfc9535.function_extensions import ExpressionType, FilterFunction
from jsonpath_rfc9535.node import JSONPathNode, JSONPathNodeList
from jsonpath_rfc9535.query import JSONPathQuery
from jsonpath_rfc9535.segments import (
    JSONPathChildSegment,
    JSONPathRecursiveDescentSegment,
    JSONPathSegment,
)
from jsonpath_rfc9535.selectors import FilterSelector, JSONPathSelector

from lighthouse.probes.judging.matching import compile_pattern
from lighthouse.probes.judging.work import WorkLimitError, budget, same, spend

#: Characters of a path, and of parentheses inside each other in it: its parser is recursive.
MOST_PATH_CHARS = 1000
_MOST_NESTING = 20

#: Segments of a path, those of its filters included.
_MOST_SEGMENTS = 50

#: Characters that RE2 reads in about one step's time.
_CHARS_A_STEP = 512

#: What a pattern that comes from the document costs to compile, in steps.
_COMPILE_STEPS = 200


@lru_cache(maxsize=1024)
def compiled_path(path: str) -> JSONPathQuery:
    """Check a JSONPath. Raises ValueError with one line."""
    if len(path) > MOST_PATH_CHARS:
        raise ValueError(f"is longer than {MOST_PATH_CHARS} characters")
    if max(path.count("("), path.count("["), path.count("!")) > _MOST_SEGMENTS:
        raise ValueError("has too many parts")
    if _nesting(path) > _MOST_NESTING:
        raise ValueError(f"is nested more than {_MOST_NESTING} levels deep")
    try:
        query = _ENVIRONMENT.compile(path)
    except (rfc9535.JSONPathError, RecursionError, OverflowError) as exc:
        detail = " ".join(str(exc).split())[:200]
        raise ValueError(f"is no JSONPath: {detail}") from None
    return _counted_query(query)


def is_singular(path: str) -> bool:
    """Whether a path can select one value at the most."""
    return bool(compiled_path(path).singular_query())


def find(path: str, document: Any) -> list[Any]:
    """The values that a JSONPath selects, in the document's order.

    Raises WorkLimitError (a ValueError) where the path needs too much work on the document, and
    ValueError for what is no path.
    """
    query = compiled_path(path)
    with budget():
        try:
            found = []
            for node in query.finditer(document):
                spend()
                found.append(node.value)
            return found
        except RecursionError:
            raise WorkLimitError from None


def _nesting(path: str) -> int:
    deepest = depth = 0
    for char in path:
        if char in "([":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]":
            depth -= 1
    return deepest


class _Descent(JSONPathRecursiveDescentSegment):
    """`..`, where every container visited is a step."""

    def resolve(self, nodes: Iterable[JSONPathNode]) -> Iterable[JSONPathNode]:
        for node in nodes:
            waiting = [node]
            while waiting:
                here = waiting.pop()
                spend()
                for selector in self.selectors:
                    yield from selector.resolve(here)
                inner = [child for child in _children(here) if _is_container(child.value)]
                waiting.extend(reversed(inner))


class _Child(JSONPathChildSegment):
    """`[…]`, where every value selected is a step."""

    def resolve(self, nodes: Iterable[JSONPathNode]) -> Iterable[JSONPathNode]:
        for node in nodes:
            for selector in self.selectors:
                for found in selector.resolve(node):
                    spend()
                    yield found


class _Filter(FilterSelector):
    """`?…`, where every value looked at is a step."""

    def resolve(self, node: JSONPathNode) -> Iterable[JSONPathNode]:
        for child in _children(node):
            context = expressions.FilterContext(env=self.env, current=child.value, root=node.root)
            if self.expression.evaluate(context):
                yield child


class _Comparison(expressions.ComparisonExpression):
    """`==` and its like, where a comparison costs what it reads."""

    def evaluate(self, context: expressions.FilterContext) -> bool:
        left = _operand(self.left.evaluate(context))
        right = _operand(self.right.evaluate(context))
        spend()
        match self.operator:
            case "==":
                return _equal(left, right)
            case "!=":
                return not _equal(left, right)
            case "<":
                return _less(left, right)
            case ">":
                return _less(right, left)
            case "<=":
                return _less(left, right) or _equal(left, right)
            case _:
                return _less(right, left) or _equal(left, right)


class _Both(expressions.LogicalExpression):
    """`&&` and `||`, whose right side is left alone where the left one decides."""

    def evaluate(self, context: expressions.FilterContext) -> bool:
        left = _holds(self.left.evaluate(context))
        if left == (self.operator == "||"):
            return left
        return _holds(self.right.evaluate(context))


def _children(node: JSONPathNode) -> Iterable[JSONPathNode]:
    value = node.value
    if isinstance(value, dict):
        pairs: Iterable[tuple[int | str, object]] = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    else:
        return
    for key, inner in pairs:
        spend()
        yield node.new_child(inner, key, node)


def _is_container(value: object) -> bool:
    return isinstance(value, list | dict)


def _operand(value: object) -> object:
    """A comparison's side: a value or Nothing. Queries there are singular."""
    if isinstance(value, JSONPathNodeList):
        return value[0].value if value else expressions.NOTHING
    return value


def _equal(left: object, right: object) -> bool:
    if left is expressions.NOTHING or right is expressions.NOTHING:
        return left is right
    return same(left, right)


def _less(left: object, right: object) -> bool:
    if isinstance(left, str) and isinstance(right, str):
        spend(min(len(left), len(right)) // 4096)
        return left < right
    return _is_number(left) and _is_number(right) and left < right  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _holds(value: object) -> bool:
    """A test: a query that selects anything, or what a function said."""
    if isinstance(value, JSONPathNodeList):
        return len(value) > 0
    return value is True


class _Length(FilterFunction):
    arg_types = [ExpressionType.VALUE]  # noqa: RUF012 - the library's own form
    return_type = ExpressionType.VALUE

    def __call__(self, value: object) -> object:
        return len(value) if isinstance(value, str | list | dict) else expressions.NOTHING


class _Search(FilterFunction):
    arg_types = [ExpressionType.VALUE, ExpressionType.VALUE]  # noqa: RUF012
    return_type = ExpressionType.LOGICAL
    whole = False

    def __call__(self, value: object, pattern: object) -> bool:
        if not isinstance(value, str) or not isinstance(pattern, str) or len(pattern) > 1000:
            return False
        spend(1 + len(value) // _CHARS_A_STEP)
        compiled = _iregexp(pattern, self.whole)
        return compiled is not None and bool(compiled.search(value))


class _Match(_Search):
    whole = True


@lru_cache(maxsize=32)
def _iregexp(pattern: str, whole: bool) -> Any:
    """An I-Regexp (RFC 9485) in RE2, or None where it is none.

    A pattern may come from the document: it stays out of the memory that users' patterns share.
    """
    spend(_COMPILE_STEPS)
    if not check(pattern):
        return None
    try:
        dotted = _dots(pattern)
        return compile_pattern.__wrapped__(rf"\A(?:{dotted})\z" if whole else dotted)
    except ValueError:
        return None


def _dots(pattern: str) -> str:
    """RE2's dot stops at a line feed alone; I-Regexp's at a carriage return too."""
    parts: list[str] = []
    escaped = in_class = False
    for char in pattern:
        if char == "." and not escaped and not in_class:
            parts.append(r"[^\n\r]")
            continue
        if not escaped and char in "[]":
            in_class = char == "["
        escaped = char == "\\" and not escaped
        parts.append(char)
    return "".join(parts)


class _Environment(rfc9535.JSONPathEnvironment):
    def setup_function_extensions(self) -> None:
        super().setup_function_extensions()
        self.function_extensions["length"] = _Length()
        self.function_extensions["match"] = _Match()
        self.function_extensions["search"] = _Search()


_ENVIRONMENT = _Environment()


def _counted_query(query: JSONPathQuery) -> JSONPathQuery:
    return JSONPathQuery(env=query.env, segments=tuple(map(_counted_segment, query.segments)))


def _counted_segment(segment: JSONPathSegment) -> JSONPathSegment:
    kind = _Descent if isinstance(segment, JSONPathRecursiveDescentSegment) else _Child
    selectors = tuple(map(_counted_selector, segment.selectors))
    return kind(env=segment.env, token=segment.token, selectors=selectors)


def _counted_selector(selector: JSONPathSelector) -> JSONPathSelector:
    if not isinstance(selector, FilterSelector):
        return selector
    inner = selector.expression
    expression = expressions.FilterExpression(inner.token, _counted(inner.expression))
    return _Filter(env=selector.env, token=selector.token, expression=expression)


def _counted(expression: expressions.Expression) -> expressions.Expression:
    match expression:
        case expressions.ComparisonExpression():
            return _Comparison(
                expression.token,
                _counted(expression.left),
                expression.operator,
                _counted(expression.right),
            )
        case expressions.LogicalExpression():
            return _Both(
                expression.token,
                _counted(expression.left),
                expression.operator,
                _counted(expression.right),
            )
        case expressions.PrefixExpression():
            return expressions.PrefixExpression(
                expression.token, expression.operator, _counted(expression.right)
            )
        case expressions.FilterQuery():
            return type(expression)(expression.token, _counted_query(expression.query))
        case expressions.FunctionExtension():
            return expressions.FunctionExtension(
                expression.token, expression.name, [_counted(arg) for arg in expression.args]
            )
    return expression
