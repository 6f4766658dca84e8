"""The embedded servers: started, answering, ended; leftovers of killed runs; who may use them."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psycopg
import pytest
import redis

from lighthouse.errors import LocalError
from lighthouse.local import processes, servers


def _ended(pid: int, within_s: float = 15.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists() or _state(pid) == "Z":
            return True
        time.sleep(0.05)
    return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return "Z"


def _postgres(directory: Path) -> servers.Server:
    return servers.prepare_postgres(directory, logs=directory / "logs", durable=False)


def test_postgres_keeps_its_data_from_one_run_to_the_next(tmp_path: Path) -> None:
    with servers.running(_postgres(tmp_path)) as url, psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('Grüße, 世界')")
    with servers.running(_postgres(tmp_path)) as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT word, length(word) FROM kept").fetchall() == [
            ("Grüße, 世界", 9)
        ]


def test_postgres_is_closed_to_the_network_and_to_other_users(tmp_path: Path) -> None:
    with servers.running(_postgres(tmp_path)) as url, psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        ).fetchone()
        assert row is not None
        assert row[0] == ""
        assert Path(row[1]).stat().st_mode & 0o077 == 0


def test_postgres_starts_after_a_run_that_was_killed_with_its_pid_file_left(tmp_path: Path) -> None:
    with servers.running(_postgres(tmp_path)) as url, psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    # Pids are reused: this one is alive and no server.
    (tmp_path / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with servers.running(_postgres(tmp_path)) as url, psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_the_data_of_another_major_version_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(LocalError, match=r"made by PostgreSQL 16 and this is 18") as caught:
        _postgres(tmp_path)
    assert "\n" not in str(caught.value)


def test_redis_wants_its_password_keeps_its_keys_and_never_evicts(tmp_path: Path) -> None:
    with servers.running(servers.prepare_redis(tmp_path, logs=tmp_path)) as url:
        with redis.Redis.from_url(url) as client:
            client.set("kept", "1")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            port = client.connection_pool.connection_kwargs["port"]
        with (
            redis.Redis(host="127.0.0.1", port=port) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.get("kept")
    assert (tmp_path / "redis" / "redis.conf").stat().st_mode & 0o077 == 0
    with (
        servers.running(servers.prepare_redis(tmp_path, logs=tmp_path)) as url,
        redis.Redis.from_url(url) as client,
    ):
        assert client.get("kept") == b"1"


def test_a_server_that_does_not_start_says_why_in_one_line(tmp_path: Path) -> None:
    server = _postgres(tmp_path)
    (tmp_path / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(LocalError, match="contains errors") as caught, servers.running(server):
        pass
    assert "\n" not in str(caught.value)


def test_the_servers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import pathlib, sys, time
        from lighthouse.local import servers
        base = pathlib.Path(sys.argv[1])
        with servers.running(servers.prepare_postgres(base, logs=base, durable=False)):
            with servers.running(servers.prepare_redis(base, logs=base)) as url:
                print(url, flush=True)
                time.sleep(60)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        with redis.Redis.from_url(url) as client:
            pids = [int(client.info("server")["process_id"])]
        pids.append(int((tmp_path / "postgres" / "postmaster.pid").read_text().split()[0]))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        assert all(_ended(pid) for pid in pids)
    # And nothing of them stands in the way of the next run.
    with servers.running(_postgres(tmp_path)) as url:
        assert servers.answers(url)


def test_a_program_that_ignores_its_stop_signal_is_killed(tmp_path: Path) -> None:
    program = processes.Program(
        name="deaf",
        argv=(
            sys.executable,
            "-c",
            "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', "
            "flush=True); time.sleep(60)",
        ),
        stop_s=0.3,
    )
    log = tmp_path / "deaf.log"
    process = processes.start(program, log)
    while "up" not in log.read_text():
        time.sleep(0.02)
    processes.stop(process, program)
    assert process.returncode == -signal.SIGKILL


def test_a_second_owner_of_a_data_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    with (
        servers.locked(tmp_path),
        pytest.raises(LocalError, match="in use by another") as caught,
        servers.locked(tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)
    with servers.locked(tmp_path) as again:
        assert again == tmp_path.resolve()


def test_a_nearly_full_disk_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(LocalError, match="the disk is full"),
        servers.locked(tmp_path, min_free_bytes=1 << 60),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_a_server_reaches_its_files_below_a_directory_that_is_closed_to_others(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    tool = closed / "tool"
    tool.write_text("#!/bin/sh\nid -u\n")
    tool.chmod(0o700)
    program = processes.Program(
        name="tool",
        # `test` asks as access(2) does, which initdb does too.
        argv=("/bin/sh", "-c", 'test -x "$0" && exec "$0"', str(tool)),
        user="nobody" if os.geteuid() == 0 else None,
    )
    assert processes.start(program, tmp_path / "tool.log").wait() == 0
    ran_as = int((tmp_path / "tool.log").read_text())
    assert ran_as != 0
