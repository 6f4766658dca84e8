"""Secrets through the whole product: stored, shown, rotated, delivered; a fleet leaks none."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import redis
from pydantic import SecretStr

from lighthouse import channels, configs, probes, sealing
from lighthouse.channels import Sender
from lighthouse.fleet.delivery import Courier
from lighthouse.model import AlertType, ChannelType, CheckStatus, MonitorType, Severity, to_slot
from lighthouse.settings import load
from lighthouse.store import creation, outbox, sealed
from lighthouse.store.alert_channels import add_channel
from lighthouse.store.pool import Pool
from tests.conftest import SECRET_KEY, Command
from tests.support.fleet import Fleet

WALLET = "0x" + "ab" * 20
CONFIG = {"url": "https://example.com/", "headers": {"Authorization": "Bearer s3cr3t"}}
HOOK = {"url": "https://hooks.example/s3cr3t", "secret": "s3cr3t"}


def add(lighthouse: Command) -> tuple[str, str]:
    status, id_, err = lighthouse(
        *("subscriptions", "add", "--wallet", WALLET, "--type", "http", "--tier", "pro"),
        *("--config", json.dumps(CONFIG)),
    )
    assert status == 0, err
    status, channel, err = lighthouse(
        *("channels", "add", id_.strip(), "--type", "webhook", "--config", json.dumps(HOOK))
    )
    assert status == 0, err
    return id_.strip(), channel.strip()


def stored(url: str) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The first subscription's and channel's configuration, and the spec's version."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT target_config, channel_config, changed_xid FROM subscriptions s"
            " JOIN alert_channels c ON c.subscription_id = s.id"
        ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


def dump(url: str) -> str:
    """All that stands in all tables, as text."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT quote_ident(table_schema) || '.' || quote_ident(table_name)"
            " FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
            " AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        return "\n".join(
            str(row)
            for (table,) in tables
            for row in connection.execute(f"SELECT t::text FROM {table} t".encode()).fetchall()
        )


def test_no_command_prints_what_is_secret_and_no_table_holds_it(
    lighthouse: Command, migrated_url: str
) -> None:
    id_, _ = add(lighthouse)
    assert "s3cr3t" not in dump(migrated_url)
    for arguments in (
        ("subscriptions", "list"),
        ("subscriptions", "show", id_),
        ("channels", "list"),
        ("channels", "list", id_),
        ("status",),
    ):
        for more in ((), ("--json",)):
            status, out, err = lighthouse(*arguments, *more)
            assert status == 0, err
            assert "s3cr3t" not in out
            assert "$sealed" not in out
    shown = json.loads(lighthouse("subscriptions", "show", id_, "--json")[1])
    assert shown["target_config"] == {
        "url": "https://example.com/",
        "headers": {"Authorization": "***"},
    }


def test_changing_the_interval_alone_keeps_the_secrets(
    lighthouse: Command, migrated_url: str
) -> None:
    id_, _ = add(lighthouse)
    before, _, _ = stored(migrated_url)
    assert lighthouse("subscriptions", "change", id_, "--interval", 1200)[0] == 0
    assert stored(migrated_url)[0] == before


def test_without_keys_secrets_are_refused_in_one_line_and_all_else_is_taken(
    lighthouse: Command, monkeypatch: pytest.MonkeyPatch, migrated_url: str
) -> None:
    monkeypatch.delenv("LIGHTHOUSE_SECRET_KEYS")
    base = ("subscriptions", "add", "--wallet", WALLET, "--type", "http")
    status, out, err = lighthouse(*base, "--config", json.dumps(CONFIG))
    assert (status, out) == (1, "")
    assert err == (
        "lighthouse: LIGHTHOUSE_SECRET_KEYS is not set, and secrets are stored encrypted only;"
        " `lighthouse secrets new-key` makes a key, the same for the whole fleet\n"
    )
    assert lighthouse(*base, "--config", '{"url": "https://example.com"}')[0] == 0


def test_a_sealed_value_that_somebody_found_cannot_be_sent_anywhere(
    lighthouse: Command, migrated_url: str
) -> None:
    add(lighthouse)
    token = stored(migrated_url)[0]["headers"]["Authorization"]
    config = json.dumps({"url": "https://thief.example", "headers": {"X": token}})
    status, _, err = lighthouse(
        *("subscriptions", "add", "--wallet", WALLET, "--type", "http", "--config", config)
    )
    assert (status, err) == (2, "lighthouse: headers.X: $sealed is no value that can be given\n")


def test_a_rotation_seals_every_row_anew_and_may_be_repeated(
    lighthouse: Command, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(lighthouse)
    newer = lighthouse("secrets", "new-key")[1].strip()
    _, _, version = stored(migrated_url)
    monkeypatch.setenv("LIGHTHOUSE_SECRET_KEYS", f"{newer},{SECRET_KEY}")
    status = json.loads(lighthouse("secrets", "status", "--json")[1])
    assert status == {
        "subscriptions": {"rows": 1, "changed": 1, "unread": 0},
        "alert_channels": {"rows": 1, "changed": 1, "unread": 0},
    }
    assert lighthouse("secrets", "rotate") == (
        0,
        "",
        "subscriptions: 1 of 1 sealed anew\nalert_channels: 1 of 1 sealed anew\n",
    )
    monitor, channel, rotated = stored(migrated_url)
    assert rotated > version  # so the schedule in Redis follows
    alone = sealing.Keyring([SecretStr(newer)])
    assert probes.parse_config(MonitorType.HTTP, monitor, alone) == probes.parse_config(
        MonitorType.HTTP, CONFIG
    )
    assert channels.parse_config(ChannelType.WEBHOOK, channel, alone) == channels.parse_config(
        ChannelType.WEBHOOK, HOOK
    )
    assert lighthouse("secrets", "rotate")[2] == (
        "subscriptions: 0 of 1 sealed anew\nalert_channels: 0 of 1 sealed anew\n"
    )
    assert stored(migrated_url)[2] == rotated


def test_a_rotation_takes_many_rows_in_small_transactions(
    lighthouse: Command, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(lighthouse)
    with psycopg.connect(migrated_url) as connection:
        connection.execute(
            "INSERT INTO subscriptions (user_id, name, target_type, target_config)"
            " SELECT user_id, 'n' || n, target_type, target_config"
            " FROM subscriptions, generate_series(1, 24) AS n"
        )
    monkeypatch.setattr(sealed, "ROWS_AT_ONCE", 10)
    newer = lighthouse("secrets", "new-key")[1].strip()
    monkeypatch.setenv("LIGHTHOUSE_SECRET_KEYS", f"{newer},{SECRET_KEY}")
    assert lighthouse("secrets", "rotate")[2].startswith("subscriptions: 25 of 25 sealed anew\n")
    with psycopg.connect(migrated_url) as connection:
        query = "SELECT count(DISTINCT xmin::text), count(*) FROM subscriptions"
        assert connection.execute(query).fetchone() == (3, 25)
    monkeypatch.setenv("LIGHTHOUSE_SECRET_KEYS", newer)
    assert json.loads(lighthouse("secrets", "status", "--json")[1])["subscriptions"] == {
        "rows": 25,
        "changed": 0,
        "unread": 0,
    }


def test_rows_stored_in_clear_before_are_sealed_by_a_rotation(
    lighthouse: Command, migrated_url: str
) -> None:
    add(lighthouse)
    with psycopg.connect(migrated_url) as connection:
        connection.execute("UPDATE subscriptions SET target_config = %s", (json.dumps(CONFIG),))
        connection.execute("UPDATE alert_channels SET channel_config = %s", (json.dumps(HOOK),))
    assert "s3cr3t" in dump(migrated_url)
    assert lighthouse("secrets", "rotate")[0] == 0
    assert "s3cr3t" not in dump(migrated_url)


def test_a_rotation_without_the_former_key_says_so_and_leaves_the_rows(
    lighthouse: Command, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(lighthouse)
    before = stored(migrated_url)
    monkeypatch.setenv("LIGHTHOUSE_SECRET_KEYS", lighthouse("secrets", "new-key")[1].strip())
    for command in ("rotate", "status"):
        status, _, err = lighthouse("secrets", command)
        assert status == 1
        assert err.endswith(
            "lighthouse: 2 configurations cannot be read with these LIGHTHOUSE_SECRET_KEYS;"
            " they stay as they are\n"
        )
    assert stored(migrated_url) == before


async def test_a_channel_that_no_key_opens_is_tried_again_and_the_operator_hears_of_it(
    pool: Pool, migrated_url: str
) -> None:
    keys = sealing.Keyring([SecretStr(sealing.new_key())])
    [id_] = await creation.create_subscriptions(
        pool,
        [
            creation.NewSubscription(
                wallet=WALLET,
                type=MonitorType.HTTP,
                config={"url": "https://example.com/"},
                interval_s=900,
                worst_case_s=20,
            )
        ],
        enforce_plans=False,
    )
    hook = configs.seal(channels.parse_config(ChannelType.WEBHOOK, HOOK), keys)
    await add_channel(pool, id_, ChannelType.WEBHOOK, hook, enforce_plans=False)
    await happen(pool, id_)
    operator = [{"type": "webhook", "config": {"url": "http://127.0.0.1:9/operators"}}]
    settings = load(
        {
            "LIGHTHOUSE_SECRET_KEYS": SECRET_KEY,
            "LIGHTHOUSE_OPERATOR_CHANNELS": json.dumps(operator),
            "LIGHTHOUSE_EGRESS_ALLOW": "127.0.0.0/8",
        }
    )
    async with Sender(settings) as sender:
        await Courier(pool, sender).deliver_due()
    found = {alert.alert_type: alert for alert in await outbox.alerts(pool)}
    assert found[AlertType.DOWNTIME].state == "pending"
    detail = "its configuration: url: no key of LIGHTHOUSE_SECRET_KEYS opens this secret"
    assert [one.answer for one in found[AlertType.DOWNTIME].tries] == [detail]
    assert detail in str(found[AlertType.OPERATOR].message)
    assert "gAAAA" not in str(found)


async def happen(pool: Pool, subscription_id: UUID) -> None:
    async with pool.connection() as connection, connection.transaction():
        cursor = await connection.execute("SELECT now()")
        row = await cursor.fetchone()
        assert row is not None
        await outbox.enqueue(
            connection,
            outbox.Event(
                subscription_id=subscription_id,
                slot=to_slot(row[0]) - 1000,
                alert_type=AlertType.DOWNTIME,
                severity=Severity.CRITICAL,
                title="down",
                message="status 503",
                context={"name": "x"},
            ),
        )


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A target and inbox in one: what came, as (path, Authorization or body). /down answers 503."""
    came: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            came.append((self.path, self.headers.get("Authorization", "")))
            self.answer()

        def do_POST(self) -> None:
            came.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.answer()

        def answer(self) -> None:
            self.send_response(503 if "down" in self.path else 200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_fleet_at_work_keeps_every_secret_to_its_engine(
    tmp_path: Path, receiver: tuple[str, list[tuple[str, str]]]
) -> None:
    """I7: Redis with its queues, every table, the messages and all logs are searched."""
    base, came = receiver
    messages: list[bytes] = []
    with Fleet(tmp_path, LIGHTHOUSE_LOG_LEVEL="debug") as fleet:
        keys = sealing.Keyring([SecretStr(fleet.environment["LIGHTHOUSE_SECRET_KEYS"])])
        header = {"headers": {"Authorization": "Bearer s3cr3t"}}
        posts = {"method": "POST", "body": {"password": "s3cr3t"}}
        for config in ({"url": f"{base}/down", **header}, {"url": f"{base}/posted", **posts}):
            stored_ = configs.seal(probes.parse_config(MonitorType.HTTP, config), keys)
            hook = {"url": f"{base}/hook/s3cr3t", "secret": "s3cr3t"}
            fleet.subscribe(
                1,
                path=config["url"],
                webhook=configs.seal(channels.parse_config(ChannelType.WEBHOOK, hook), keys),
                **stored_,
            )
        unopened = sealing.Keyring([SecretStr(sealing.new_key())])
        lost = configs.seal(
            probes.parse_config(MonitorType.HTTP, {"url": f"{base}/lost", **header}), unopened
        )
        fleet.subscribe(1, path="/lost", **lost)
        client = redis.Redis.from_url(fleet.redis_url)
        events = client.pubsub(ignore_subscribe_messages=True)
        events.psubscribe("*")  # what Flower hears
        events.get_message(timeout=5)
        fleet.start_beat()
        # Nobody takes them yet: the messages wait in their queue.
        fleet.wait_for("messages", lambda: client.llen("checks"))
        messages += everything(client)
        fleet.start_worker("w1")
        fleet.wait_for("the target's requests", lambda: ("/down", "Bearer s3cr3t") in came)
        fleet.wait_for("the body", lambda: ("/posted", '{"password":"s3cr3t"}') in came)
        fleet.wait_for("the alert", lambda: any(path == "/hook/s3cr3t" for path, _ in came))
        fleet.wait_for(
            "the alert's mark",
            lambda: fleet.scalar("SELECT count(*) FROM alert_history WHERE state = 'sent'"),
        )
        fleet.wait_for(
            "the row of what no key opens",
            lambda: fleet.query(
                "SELECT error_code, error_message FROM check_history WHERE status = %s",
                CheckStatus.ERROR.value,
            ),
        )
        [(code, message)] = fleet.query(
            "SELECT DISTINCT error_code, error_message FROM check_history WHERE status = 'error'"
        )
        assert code == "prober_config"
        assert message == (
            "configuration refused: headers.Authorization:"
            " no key of LIGHTHOUSE_SECRET_KEYS opens this secret"
        )
        messages += everything(client)
        while event := events.get_message(timeout=0.1):
            messages += readable(event["data"])
        events.close()
        client.close()
        assert "s3cr3t" not in dump(fleet.database_url)
        logs = b"".join(path.read_bytes() for path in (tmp_path / "logs").glob("*.log"))
    assert any(b"$sealed" in message for message in messages)  # the specs were there
    assert any(b"task-received" in message for message in messages)
    for text in (*messages, logs):
        assert b"s3cr3t" not in text
        assert b"Traceback" not in text
    assert b"gAAAA" not in logs


def everything(client: Any) -> list[bytes]:
    """Every key of Redis with what it holds, in a readable form."""
    found: list[bytes] = []
    for key in client.scan_iter():
        kind = client.type(key).decode()
        read = {
            "string": lambda k: client.get(k),
            "hash": lambda k: client.hgetall(k),
            "list": lambda k: client.lrange(k, 0, -1),
            "set": lambda k: client.smembers(k),
            "zset": lambda k: client.zrange(k, 0, -1),
        }[kind]
        value = read(key)
        found.append(key + b" " + repr(value).encode())
        for item in value if isinstance(value, list) else ():
            found += readable(item)
    return found


def readable(message: bytes) -> list[bytes]:
    """A message as it stands, and its body, which Celery writes in base64."""
    try:
        body = base64.b64decode(json.loads(message)["body"])
    except (ValueError, KeyError, TypeError):
        return [message]
    return [message, body]
