"""Apprise channels on the command line: what is stored, and what is told in one line."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conftest import Command

WALLET = "0x" + "ab" * 20


@pytest.fixture
def service() -> Iterator[tuple[str, list[Any]]]:
    """Where it is, and the documents that it was posted."""
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", posted
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def subscription(lighthouse: Command) -> str:
    status, out, err = lighthouse(
        *("subscriptions", "add", "--wallet", WALLET, "--type", "http", "--tier", "pro"),
        *("--config", json.dumps({"url": "https://example.com/"}), "--interval", 60),
    )
    assert status == 0, err
    return out.strip()


def add(lighthouse: Command, subscription: str, url: str) -> tuple[int, str, str]:
    config = json.dumps({"url": url})
    return lighthouse("channels", "add", subscription, "--type", "apprise", "--config", config)


def test_a_channel_is_stored_sealed_and_its_test_message_arrives(
    lighthouse: Command,
    subscription: str,
    service: tuple[str, list[Any]],
    migrated_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIGHTHOUSE_APPRISE", "on")
    at, posted = service
    status, channel, err = add(lighthouse, subscription, f"json://user:s3cr3t@{at}")
    assert status == 0, err
    with psycopg.connect(migrated_url) as connection:
        [(kind, config)] = connection.execute(
            "SELECT channel_type::text, channel_config::text FROM alert_channels"
        ).fetchall()
    assert kind == "apprise"
    assert "s3cr3t" not in config
    status, _, err = lighthouse("channels", "test", channel.strip())
    assert (status, err.strip()) == (0, "sent: taken")
    assert [document["title"] for document in posted] == ["Test message from Lighthouse"]


@pytest.mark.parametrize(
    ("switch", "url", "told"),
    [
        ("off", "json://h.example/s3cr3t", "LIGHTHOUSE_APPRISE is not on; apprise channels need"),
        ("on", "tgram://s3cr3t", "url: the URL is not complete for its service"),
        ("on", "syslog://s3cr3t", "url: syslog:// would work on this machine"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_stored(
    lighthouse: Command,
    subscription: str,
    monkeypatch: pytest.MonkeyPatch,
    switch: str,
    url: str,
    told: str,
) -> None:
    monkeypatch.setenv("LIGHTHOUSE_APPRISE", switch)
    status, out, err = add(lighthouse, subscription, url)
    assert status == 2 if switch == "on" else status != 0
    assert out == ""
    assert len(err.splitlines()) == 1
    assert told in err
    assert "s3cr3t" not in err
    assert lighthouse("channels", "list", "--json")[1].strip() == "[]"


def test_a_file_of_subscriptions_names_the_line_of_a_type_that_is_switched_off(
    lighthouse: Command, tmp_path: Path
) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        f"wallets:\n  '{WALLET}':\n"
        "  - {name: a, type: http, tier: pro, config: {url: 'https://a.example'},\n"
        "     channels: [{type: apprise, config: {url: 'ntfy://h.example/s3cr3t'}}]}\n"
    )
    status, _, err = lighthouse("subscriptions", "apply", path, "--yes")
    assert status == 2
    assert ":4:18: " in err
    assert "channels.0.type: LIGHTHOUSE_APPRISE is not on" in err
    assert "s3cr3t" not in err
