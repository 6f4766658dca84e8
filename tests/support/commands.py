"""The `lighthouse` command in tests: what it printed, and subscriptions to be watched."""

import json
from typing import Any
from uuid import UUID

import psycopg

from tests.conftest import Command

WALLET = "0x" + "aB" * 20


def good(command: Command, *arguments: object) -> str:
    status, out, err = command(*arguments)
    assert status == 0, err
    return out


def as_json(command: Command, *arguments: object) -> Any:
    return json.loads(good(command, *arguments, "--json"))


def add(command: Command, *more: object, **config: Any) -> UUID:
    given = {"url": "https://example.com/health", **config}
    out = good(
        command,
        *("subscriptions", "add", "--wallet", WALLET, "--type", "http"),
        *("--config", json.dumps(given), "--interval", 60, "--tier", "pro"),
        *more,
    )
    return UUID(out.strip())


def run(url: str, query: str, *arguments: Any) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(query.encode(), arguments)


def refused(command: Command, *arguments: object) -> str:
    """The one line of a user's mistake, without the program's name."""
    status, out, err = command(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    return err.removeprefix("lighthouse: ").strip()
