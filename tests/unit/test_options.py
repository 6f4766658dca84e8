"""Each option of each monitor has a test that fails without it (see tests/support/options.py)."""

import re
from pathlib import Path

from lighthouse.probes.http_config import HttpConfig
from tests.support import options

_MARK = re.compile(r"pytest\.mark\.option\(([^)]*)\)")
_NAME = re.compile(r'"([A-Za-z0-9_]+\.[A-Za-z0-9_]+)"')


def marked() -> set[str]:
    found: set[str] = set()
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        for mark in _MARK.findall(path.read_text()):
            found.update(_NAME.findall(mark))
    return found


def test_every_option_has_a_test_that_fails_without_it() -> None:
    wanted = {name for name in options.every_option() if not options.required(name)}
    assert sorted(wanted - marked()) == []


def test_no_test_is_marked_with_an_option_that_is_none() -> None:
    assert sorted(marked() - options.every_option().keys()) == []


def test_taking_an_option_away_leaves_the_others_and_nothing_empty() -> None:
    config = {
        "url": "http://a/",
        "body_validation": {"json_path": {"$.a": {"<": 5}}},
        "expected_headers": {"x": {"<": 5, ">": 1}, "y": "z"},
    }
    assert options.without("Comparison.less", HttpConfig, config) == {
        "url": "http://a/",
        "expected_headers": {"x": {">": 1}, "y": "z"},
    }
    assert options.without("BodyValidation.regex", HttpConfig, config) == config
