"""Markdown of a run's JSON: the headline figures for the README, or all of them.

python -m tests.bench.report build/bench.json
python -m tests.bench.report build/bench.json --all
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.bench import machine
from tests.bench.figures import number, verdict


def markdown(document: Mapping[str, Any], *, everything: bool = False) -> str:
    """The figures that have a budget (or all), with date, machine and command."""
    figures = [f for f in document["figures"] if everything or f["budget"]]
    lines = [
        f"{document['date'][:10]}, {machine.in_words(document['machine'])}; `make bench`.",
        "",
        "| figure | measured | budget | met | |",
        "|---|---|---|---|---|",
        *(_row(figure) for figure in figures),
    ]
    if document["quick"]:
        lines.insert(0, "**Quick form: nothing here was measured.**")
    return "\n".join(lines)


def _row(figure: Mapping[str, Any]) -> str:
    value = f"{number(figure['value'])} {figure['unit']}".strip()
    cells: Iterable[str] = (
        figure["figure"],
        value,
        figure["budget"],
        verdict(figure["met"]),
        figure["note"],
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--all", action="store_true", dest="everything")
    options = parser.parse_args()
    print(markdown(json.loads(options.file.read_text()), everything=options.everything))


if __name__ == "__main__":
    main()
