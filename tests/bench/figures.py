"""What a measurement tells: figures with their budgets, for people or as JSON."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value; a value that is None could not be measured, and the note tells why."""

    key: str  #: its name in the JSON: `scale` and the README's table find it by this
    figure: str
    value: float | None
    unit: str
    at_least: float | None = None  #: the budget, in the same unit
    at_most: float | None = None
    note: str = ""

    @property
    def budget(self) -> str:
        """The budget as people write it; empty where there is none."""
        if self.at_least is not None:
            return f"≥ {self.at_least:,g}"
        return "" if self.at_most is None else f"≤ {self.at_most:,g}"

    @property
    def met(self) -> bool | None:
        """Whether the budget is met; None where there is no budget or no value."""
        if self.value is None or not self.budget:
            return None
        if self.at_least is not None:
            return self.value >= self.at_least
        return self.at_most is not None and self.value <= self.at_most


def recorded(figure: Figure, command: str, *, judged: bool = True) -> dict[str, Any]:
    """A figure as it stands in the suite's JSON; not `judged`: its value measured nothing."""
    value = None if figure.value is None else float(f"{figure.value:.6g}")
    met = figure.met if judged else None
    told = {**asdict(figure), "value": value, "budget": figure.budget, "met": met}
    return {**told, "command": command}


def run(doc: str | None, measure: Callable[..., Sequence[Figure]], **defaults: Any) -> None:
    """A module's command line: one option for each keyword of `measure`, and --json."""
    parser = argparse.ArgumentParser(description=doc)
    for name, default in defaults.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(default, bool):
            parser.add_argument(option, action="store_true")
        else:
            parser.add_argument(option, type=type(default), default=default)
    parser.add_argument("--json", action="store_true", help="a list of figures, for the suite")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    figures = measure(**options)
    print(json.dumps([asdict(figure) for figure in figures]) if as_json else table(figures))


def table(figures: Sequence[Figure], *, judged: bool = True) -> str:
    """Figure, value, budget, whether it is met, and what is to be said of it."""
    rows = [("figure", "value", "budget", "met", "")]
    rows += [
        (
            f.figure,
            f"{number(f.value)} {f.unit}".strip(),
            f.budget,
            verdict(f.met if judged else None),
            f.note,
        )
        for f in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    )


def number(value: float | None) -> str:
    """A value with about three digits that mean something."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def verdict(met: bool | None) -> str:
    """Whether a budget is met, as a word."""
    return {True: "yes", False: "NO", None: ""}[met]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
