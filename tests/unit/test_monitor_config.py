"""What all configurations of monitors share: what may be repeated, and a check in one look."""

from typing import Any

import pytest

from lighthouse.model import MonitorType
from lighthouse.probes import parse_config

WALLET = "0x" + "ab" * 20


@pytest.mark.parametrize(
    ("monitor", "config", "repeatable"),
    [
        ("http", {"url": "http://a/"}, True),
        ("http", {"url": "http://a/", "method": "HEAD"}, True),
        ("http", {"url": "http://a/", "method": "POST"}, False),
        ("http", {"url": "http://a/", "method": "DELETE"}, False),
        ("websocket", {"url": "ws://a/", "ping": True, "expect": {}}, True),
        ("websocket", {"url": "ws://a/", "send": "buy"}, False),
        ("websocket", {"url": "ws://a/", "send": ""}, False),
        ("graphql", {"url": "http://a/", "query": "{ mutations }"}, True),
        ("graphql", {"url": "http://a/", "query": "query q { a }", "method": "GET"}, True),
        ("graphql", {"url": "http://a/", "query": "mutation { a }"}, False),
        ("graphql", {"url": "http://a/", "query": "query q { a } mutation m { b }"}, False),
        ("graphql", {"url": "http://a/", "query": "#\nmutation{a}"}, False),
        ("balance", {"chain": "base", "address": WALLET}, False),
        ("canary", {"steps": [{"name": "a", "action": "http", "url": "http://a/"}]}, False),
    ],
)
def test_only_a_check_that_changes_nothing_may_be_repeated(
    monitor: str, config: dict[str, Any], repeatable: bool
) -> None:
    assert parse_config(MonitorType(monitor), config).repeatable is repeatable


@pytest.mark.parametrize(
    ("timeout", "limit_s", "taken"),
    [(10, 1.2, 1.2), (0.5, 1.2, 0.5), (None, 1.2, 1.2), (3, None, 3)],
)
def test_a_check_in_one_look_keeps_its_limit_and_tries_once(
    timeout: float | None, limit_s: float | None, taken: float
) -> None:
    config = parse_config(MonitorType.HTTP, {"url": "http://a/", "timeout": timeout, "retries": 3})
    once = config.once(limit_s)
    assert (once.retries, once.timeout, once.target()) == (0, taken, "http://a/")
    assert config.retries == 3
