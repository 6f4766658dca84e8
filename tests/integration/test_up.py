"""`lighthouse up` as a person runs it: one command, one Ctrl-C, and nothing left behind."""

import contextlib
import json
import mailbox
import os
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from lighthouse.local import targets
from tests.support.certificates import Authority
from tests.support.tls_front import tls_front

#: The first results of a demo are promised within this time, in seconds.
FIRST_RESULTS_S = 30.0

#: How many subscriptions the demo makes.
WATCHED = len(targets.Targets(http_port=1, https_port=2).subscriptions())


class Up:
    """A running `lighthouse up` in a directory of its own."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.data = directory / "data"
        self.out, self.err = directory / "out", directory / "err"
        ours = ("DATABASE_URL", "REDIS_URL")
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ours and not name.startswith("LIGHTHOUSE_")
        }
        self.begun = time.monotonic()
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lighthouse", "up", "--data-dir", str(self.data), *options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**inherited, **environment},
            )

    def wait_for(self, what: str, condition: Callable[[], Any], timeout_s: float = 45.0) -> Any:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            assert self.process.poll() is None, f"ended early: {self.err.read_text()}"
            time.sleep(0.1)
        logs = "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}"
            for log in sorted((self.data / "logs").glob("*.log"))
        )
        raise AssertionError(f"waited in vain for {what}\n{self.err.read_text()}\n{logs}")

    def environment(self) -> dict[str, str]:
        """What it leaves for other terminals, once the fleet is being started."""
        path = self.data / "env"
        text = self.wait_for("its env file", lambda: path.exists() and path.read_text())
        return dict(re.findall(r"^export (\w+)='?(.*?)'?$", text, re.MULTILINE))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.environment()["DATABASE_URL"], autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()

    def statuses(self) -> dict[str, set[str]]:
        rows = self.query(
            "SELECT name, h.status::text FROM check_history h"
            " JOIN subscriptions s ON s.id = h.subscription_id"
        )
        found: dict[str, set[str]] = {}
        for name, status in rows:
            found.setdefault(name, set()).add(status)
        return found

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def ended() -> Iterator[list[Up]]:
    """Whatever a failing test leaves running is ended."""
    started: list[Up] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.stop(signal.SIGKILL)


def _none_of(processes: list[psutil.Process], within_s: float = 30.0) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_the_demo_judges_its_targets_within_30_s_and_ctrl_c_leaves_no_process(
    tmp_path: Path, ended: list[Up]
) -> None:
    demo = Up(tmp_path, "--demo")
    ended.append(demo)
    demo.environment()
    demo.wait_for("a result of every target", lambda: len(demo.statuses()) == WATCHED)
    assert time.monotonic() - demo.begun < FIRST_RESULTS_S
    found = demo.statuses()
    assert found["healthy"] == found["healthy, HTTPS"] == {"success"}
    assert found["slow"] == found["slow, HTTPS"] == {"success"}
    assert found["failing"] == found["too slow"] == {"failure"}
    assert found["hanging"] == {"timeout"}
    assert found["shopping"] == {"success"}
    assert found["feed, WebSocket"] == found["catalogue, GraphQL"] == {"success"}
    assert found["errors, GraphQL"] == {"failure"}
    # Its balance is critical for 50 s of each half-hour; it is read all the same.
    assert found["wallet, balance"] <= {"success", "failure"}
    values = "SELECT min(value), max(value) FROM check_history WHERE value IS NOT NULL"
    [(least, most)] = demo.query(values)
    assert 4 * 10**16 <= least <= most <= 4 * 10**17
    demo.wait_for("an alert in the inbox", lambda: "failing is down" in demo.out.read_text())

    everything = demo.processes()
    assert len(everything) >= 6  # PostgreSQL, Redis, beat, two workers, Flower
    assert demo.stop() == 0
    assert _none_of(everything, within_s=1.0) == []
    shown = demo.out.read_text()
    for column in ("Name", "Target", "Status", "Latency", "Uptime", "Coverage", "Next"):
        assert column in shown
    assert "Traceback" not in demo.err.read_text()
    assert not (demo.data / "env").exists()


def test_a_second_demo_in_the_same_directory_goes_on_where_the_first_one_ended(
    tmp_path: Path, ended: list[Up]
) -> None:
    first = Up(tmp_path, "--demo", "--workers", "1")
    ended.append(first)
    first.environment()
    first.wait_for("results", first.statuses)
    before = first.query("SELECT id, name FROM subscriptions ORDER BY id")
    hooks = "SELECT id FROM alert_channels WHERE channel_type = 'webhook'"
    mailboxes = "SELECT id FROM alert_channels WHERE channel_type = 'email' ORDER BY id"
    inboxes, mailed = first.query(hooks), first.query(mailboxes)
    assert first.stop(signal.SIGTERM) == 0

    # Its ports are taken this time, so every target and inbox has moved.
    with _taken(targets.HTTP_PORT), _taken(targets.HTTPS_PORT):
        second = Up(tmp_path, "--demo", "--workers", "1")
        ended.append(second)
        second.environment()
        rows = second.query("SELECT count(*) FROM check_history")[0][0]
        second.wait_for(
            "new results", lambda: second.query("SELECT count(*) FROM check_history")[0][0] > rows
        )
    assert second.query("SELECT id, name FROM subscriptions ORDER BY id") == before
    configs = second.query("SELECT target_config::text FROM subscriptions")
    assert len(configs) == WATCHED
    assert not [config for (config,) in configs if f":{targets.HTTP_PORT}/" in config]
    # Where an inbox is stands sealed in its channel, so a moved one is known by its new id.
    moved = second.query(hooks)
    assert len(moved) == WATCHED
    assert not set(moved) & set(inboxes)
    # A mailbox has the same address wherever its server listens.
    assert second.query(mailboxes) == mailed
    assert len(mailed) == WATCHED
    # Nothing was due while the demo was off.
    assert second.query("SELECT count(*) FROM history_gaps") == [(0,)]
    assert second.stop() == 0


def test_the_demo_s_mails_of_a_fall_and_a_recovery_are_kept_in_its_maildir(
    tmp_path: Path, ended: list[Up]
) -> None:
    demo = Up(tmp_path, "--demo", "--workers", "1")
    ended.append(demo)
    url = urlsplit(demo.environment()["LIGHTHOUSE_SMTP_URL"])
    ids = "SELECT c.id FROM alert_channels c JOIN subscriptions s ON s.id = c.subscription_id"
    theirs = f"{ids} WHERE s.name = 'flapping' AND channel_type = 'email'"
    [(channel,)] = demo.wait_for("its channel", lambda: demo.query(theirs))

    def mails(*subjects: str) -> list[EmailMessage]:
        found = [_mail(path) for path in (demo.data / "mails" / "new").glob("*.eml")]
        return [mail for mail in found if mail["Subject"] in subjects]

    def both() -> list[EmailMessage]:
        fall, rise = mails("flapping is down"), mails("flapping is up again")
        return [fall[0], rise[0]] if fall and rise else []

    demo.wait_for("a mail in Spanish", lambda: mails("failing está caído"))
    # Two phases at the most, and what its checks and the fleet's start take.
    demo.wait_for("the fall and the recovery", both, timeout_s=2 * targets.FLAP_S + 45)
    line = re.compile("(webhook, mail|mail, webhook) +flapping is up again")
    demo.wait_for("the screen's line", lambda: line.search(demo.out.read_text()))
    everything = demo.processes()
    assert demo.stop() == 0
    assert _none_of(everything, within_s=1.0) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((str(url.hostname), int(url.port or 0)), timeout=2)

    fall, rise = both()  # they outlast the demo
    keys = [
        re.fullmatch(r"<([\w-]+)\.([\w-]+)@lighthouse\.example>", m["Message-ID"]) for m in both()
    ]
    assert [key and key[2] for key in keys] == [str(channel)] * 2
    assert len({key and key[1] for key in keys}) == 2  # an event of its own each
    for mail in (fall, rise):
        assert mail["To"] == "inbox@lighthouse.example"
        body = mail.get_body(("plain",))
        assert body is not None
        assert "The check of " in body.get_content()
    every = [_mail(path)["Message-ID"] for path in (demo.data / "mails" / "new").glob("*.eml")]
    assert len(every) == len(set(every))
    with contextlib.closing(mailbox.Maildir(demo.data / "mails", create=False)) as kept:
        assert len(kept) == len(every)
    assert f"Mails are kept in {demo.data / 'mails'}" in demo.out.read_text()


def _mail(path: Path) -> EmailMessage:
    found = message_from_bytes(path.read_bytes(), policy=default)
    assert isinstance(found, EmailMessage)
    return found


def test_a_demo_with_a_mail_server_of_the_user_s_mails_nothing_of_its_own(
    tmp_path: Path, ended: list[Up]
) -> None:
    demo = Up(
        *(tmp_path, "--demo", "--workers", "1"),
        LIGHTHOUSE_SMTP_URL="smtp://127.0.0.1:1",
        LIGHTHOUSE_SMTP_FROM="me@example.org",
    )
    ended.append(demo)
    demo.environment()
    demo.wait_for("results", demo.statuses)
    found = demo.query("SELECT DISTINCT channel_type::text FROM alert_channels")
    assert found == [("webhook",)]
    assert not (demo.data / "mails").exists()
    assert demo.stop() == 0


@contextlib.contextmanager
def _taken(port: int) -> Iterator[None]:
    """Somebody listens on the port, ourselves if nobody else does."""
    with socket.socket() as taker:
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            taker.bind((targets.HOST, port))
            taker.listen()
        yield


def test_whatever_is_killed_comes_back_and_a_killed_supervisor_takes_all_with_it(
    tmp_path: Path, ended: list[Up]
) -> None:
    up = Up(tmp_path, "--workers", "1")
    ended.append(up)
    environment = up.environment()
    victims = {"postgres", "redis-server", "beat", "worker"}

    def running() -> dict[str, psutil.Process]:
        found = {}
        for process in psutil.Process(up.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, not yet noticed
                line = process.cmdline()
                for name in victims:
                    if any(part == name or re.search(rf"/{name}( |$)", part) for part in line):
                        found[name] = process
        return found

    before = up.wait_for("the fleet", lambda: len(running()) == 4 and running())
    for process in before.values():
        process.kill()

    def all_new() -> bool:
        now = running()
        return len(now) == 4 and all(now[name].pid != before[name].pid for name in victims)

    up.wait_for("their return", all_new)
    up.wait_for("PostgreSQL", lambda: _selects(environment["DATABASE_URL"]))
    everything = up.processes()
    up.stop(signal.SIGKILL)
    assert _none_of(everything) == []
    assert "Traceback" not in up.err.read_text()


def _selects(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def test_servers_that_are_given_are_used_in_the_place_of_the_embedded_ones(
    tmp_path: Path, ended: list[Up], database_url: str, redis_url: str
) -> None:
    up = Up(tmp_path, "--workers", "1", DATABASE_URL=database_url, REDIS_URL=redis_url)
    ended.append(up)
    assert up.environment()["DATABASE_URL"] == database_url
    assert up.query("SELECT count(*) FROM subscriptions") == [(0,)]
    assert up.stop() == 0
    assert not (up.data / "postgres").exists()
    assert not (up.data / "redis").exists()


def test_servers_that_ask_for_tls_and_a_password_are_reached_by_every_process(
    tmp_path: Path, ended: list[Up], database_url: str, redis_url: str
) -> None:
    authority = Authority(tmp_path)
    database, redis = conninfo_to_dict(database_url), urlsplit(redis_url)
    host, port = str(database["host"]), int(database.get("port") or 5432)
    with (
        tls_front(
            authority,
            f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port),
            postgres=True,
        ) as postgres_port,
        tls_front(authority, (str(redis.hostname), redis.port or 6379)) as redis_port,
    ):
        up = Up(
            *(tmp_path, "--demo", "--workers", "1"),
            DATABASE_URL=f"postgresql://{database['user']}:{database.get('password', 'word')}"
            f"@127.0.0.1:{postgres_port}/{database['dbname']}"
            f"?sslmode=verify-full&sslrootcert={authority.ca_file}",
            REDIS_URL=f"rediss://:{redis.password or ''}@127.0.0.1:{redis_port}{redis.path}"
            f"?ssl_ca_certs={authority.ca_file}",
        )
        ended.append(up)
        up.environment()
        up.wait_for("a result", up.statuses)
        assert up.stop() == 0


def test_a_second_up_on_the_same_data_directory_is_refused_in_one_line(
    tmp_path: Path, ended: list[Up]
) -> None:
    (tmp_path / "other").mkdir()
    up = Up(tmp_path, "--workers", "1")
    ended.append(up)
    up.environment()
    refused = subprocess.run(
        [sys.executable, "-m", "lighthouse", "up", "--data-dir", str(up.data)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert "in use by another" in refused.stderr
    assert up.stop() == 0


def test_an_unreachable_server_is_told_in_one_line_and_nothing_is_started(tmp_path: Path) -> None:
    for name, url in (
        ("DATABASE_URL", "postgresql://someone:word@127.0.0.1:1/x"),
        ("REDIS_URL", "redis://:word@127.0.0.1:1/0"),
    ):
        up = Up(tmp_path, **{name: url})
        assert up.process.wait(60) == 1
        told = up.err.read_text().splitlines()
        assert len(told) == 1
        assert "127.0.0.1:1" in told[0]
        assert "word" not in told[0]


def test_the_status_command_of_another_terminal_works_with_the_env_file(
    tmp_path: Path, ended: list[Up]
) -> None:
    up = Up(tmp_path, "--workers", "1")
    ended.append(up)
    assert json.loads(elsewhere(up, "status", "--json").stdout)["subscriptions"] == {}
    assert (up.data / "env").stat().st_mode & 0o077 == 0
    env = (up.data / "env").read_text()
    assert up.stop() == 0
    # That terminal still has the servers of a fleet that has ended.
    again = subprocess.run(
        ["/bin/sh", "-c", f'{env}exec "$0" -m lighthouse up --data-dir {up.data}', sys.executable],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert again.returncode == 1
    (line,) = again.stderr.splitlines()
    assert "an earlier fleet" in line
    assert "open a new terminal" in line


def elsewhere(up: Up, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as another terminal does, which has read the env file and no more."""
    up.environment()
    return subprocess.run(
        [
            *("/bin/sh", "-c", '. "$0" && exec "$@"', str(up.data / "env")),
            *(sys.executable, "-m", "lighthouse", *command),
        ],
        env={name: value for name, value in os.environ.items() if "LIGHTHOUSE" not in name},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_command_of_another_terminal_judges_by_the_settings_that_up_was_given(
    tmp_path: Path, ended: list[Up]
) -> None:
    up = Up(
        *(tmp_path, "--workers", "1"),
        LIGHTHOUSE_EGRESS_ALLOW="127.0.0.0/8,::1",
        LIGHTHOUSE_RAW_HISTORY_DAYS="30",
        LIGHTHOUSE_PLANS="on",
        LIGHTHOUSE_SMTP_URL="smtp://user:word@127.0.0.1:1",
    )
    ended.append(up)
    config = json.dumps({"url": "http://127.0.0.1:1/"})
    told = elsewhere(up, "check", "--type", "http", "--config", config, "--json")
    assert json.loads(told.stdout)["error_code"] == "connection_refused"
    left = up.environment()
    assert left["LIGHTHOUSE_EGRESS_ALLOW"] == "127.0.0.0/8,::1/128"
    assert left["LIGHTHOUSE_RAW_HISTORY_DAYS"] == "30"
    assert left["LIGHTHOUSE_PLANS"] == "on"
    assert "word" not in (up.data / "env").read_text()
    assert up.stop() == 0


def test_in_a_terminal_ctrl_c_ends_the_live_table_and_gives_the_terminal_back(
    tmp_path: Path,
) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-m", "lighthouse", "up", "--workers", "1", "--data-dir", str(tmp_path)],
        env={
            **{n: v for n, v in os.environ.items() if not n.startswith("LIGHTHOUSE_")},
            "TERM": "xterm",
            "DATABASE_URL": "",
            "REDIS_URL": "",
        },
        preexec_fn=lambda: os.login_tty(theirs),  # Ctrl-C needs a controlling terminal
    )
    try:
        seen = b""
        end = time.monotonic() + 60
        while b"Nothing is watched yet" not in seen and time.monotonic() < end:
            if select.select([ours], [], [], 1.0)[0]:
                seen += os.read(ours, 65536)
        assert b"Coverage" in seen
        assert b"\x1b[?25l" in seen  # the cursor is hidden while the table lives
        os.write(ours, b"\x03")
        while process.poll() is None and time.monotonic() < end:
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 65536)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
    while select.select([ours], [], [], 0.2)[0]:
        seen += os.read(ours, 65536)
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l")
    assert seen.rstrip().endswith("Ending …".encode())
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)
