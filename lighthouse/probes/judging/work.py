"""A budget of steps for what evaluates strangers' documents, so that none of it can stall the rest.

JSONPath and JSON Schema can ask for exponential work on a small document. Their evaluators spend
from the budget of the evaluation that runs in their thread, and are stopped where it ends.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

#: Steps of one evaluation, each 2 to 3 µs of Python: about a quarter of a second, and many
#: times what an honest answer of a mebibyte needs.
MOST_STEPS = 100_000

#: Levels of recursion of one evaluation: a document of 64 levels asks for three at each.
MOST_LEVELS = 200

#: Steps after which a thread lets the event loop have the interpreter: otherwise the loop would
#: wait 5 ms (Python's switch interval) each time it wakes up.
_BREATH = 128


P = ParamSpec("P")
R = TypeVar("R")

#: Few: each that runs takes its turns with the event loop, and together they hold no more memory
#: than as many documents.
_judges = ThreadPoolExecutor(max_workers=2, thread_name_prefix="judge")


async def in_turn(judge: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run what may take long in one of a few threads, without holding the event loop up."""
    return await asyncio.get_running_loop().run_in_executor(_judges, lambda: judge(*args, **kwargs))


class WorkLimitError(ValueError):
    """The evaluation needs more steps than it may take. Its text is one line."""

    def __init__(self) -> None:
        super().__init__("needs too much work on this document")


class _Budget(threading.local):
    left: int | None = None  #: None: nobody counts
    depth: int = 0


_budget = _Budget()


@contextmanager
def budget(steps: int = MOST_STEPS) -> Iterator[None]:
    """Allow the block so many steps; inside another budget, that one goes on counting."""
    if _budget.left is not None:
        yield
        return
    _budget.left, _budget.depth = steps, 0
    try:
        yield
    finally:
        _budget.left = None


@contextmanager
def deeper() -> Iterator[None]:
    """One level of a recursion that a stranger may have made endless. Raises WorkLimitError.

    Python's own limit is no guard: whoever raises it meets the end of C's stack, and the process
    is gone.
    """
    if _budget.depth >= MOST_LEVELS:
        raise WorkLimitError
    _budget.depth += 1
    try:
        yield
    finally:
        _budget.depth -= 1


def spend(steps: int = 1) -> None:
    """Account for work that is about to be done. Raises WorkLimitError."""
    left = _budget.left
    if left is None:
        return
    left -= steps
    if left < 0:
        _budget.left = 0
        raise WorkLimitError
    if left // _BREATH != _budget.left // _BREATH and not _on_main_thread():  # type: ignore[operator]
        time.sleep(0)
    _budget.left = left


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def same(one: object, other: object) -> bool:
    """Whether two JSON values are equal: 1 is 1.0 but never true. Spends what it compares."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, str) and isinstance(other, str):
        spend(1 + len(one) // 4096)
        return one == other
    spend()
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one == other
