"""Each operator of a comparison, in a check of a real answer."""

import json
from typing import Any

import pytest

from lighthouse.model import MonitorType, Reason
from lighthouse.probes import Prober, parse_config
from lighthouse.settings import load
from tests.support.raw_target import answering, raw_target

BODY = json.dumps({"n": 7, "text": "seven", "list": [1, 2, 3]}).encode()

#: A path, what does not hold of it, and what does.
CASES: list[tuple[str, Any, Any]] = [
    ("$.n", 8, 7),
    ("$.n", {"equal": 8}, {"equal": 7}),
    ("$.n", {"not": 7}, {"not": 8}),
    ("$.n", {"<": 7}, {"<": 8}),
    ("$.n", {">": 7}, {">": 6}),
    ("$.n", {"<=": 6}, {"<=": 7}),
    ("$.n", {">=": 8}, {">=": 7}),
    ("$.text", {"matches": "^e"}, {"matches": "^s"}),
    ("$.text", {"contains": "eight"}, {"contains": "eve"}),
    ("$.text", {"type": "number"}, {"type": "string"}),
    ("$.text", {"length": {">": 5}}, {"length": 5}),
    ("$.list[*]", {"count": 2}, {"count": {">": 2}}),
]


@pytest.mark.option(
    "Comparison.equal",
    "Comparison.not_",
    "Comparison.less",
    "Comparison.more",
    "Comparison.at_most",
    "Comparison.at_least",
    "Comparison.matches",
    "Comparison.contains",
    "Comparison.type",
    "Comparison.length",
    "Comparison.count",
    "BodyValidation.regex",
)
async def test_each_operator_fails_what_it_does_not_hold_of() -> None:
    wrong = [{"json_path": {path: no}} for path, no, _ in CASES] + [{"regex": "eigh+t"}]
    right = [{"json_path": {path: yes}} for path, _, yes in CASES] + [{"regex": "seve+n"}]
    async with (
        raw_target(answering(200, BODY)) as target,
        Prober(load({}, egress_allow="127.0.0.0/8")) as prober,
    ):
        for wanted in wrong + right:
            config = parse_config(
                MonitorType.HTTP, {"url": target.url(), "retries": 0, "body_validation": wanted}
            )
            found = await prober.probe(MonitorType.HTTP, config, 60)
            assert found.reason is (Reason.BODY if wanted in wrong else None), wanted
