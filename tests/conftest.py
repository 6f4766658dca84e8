"""Servers for every test: one PostgreSQL and one Redis a session, a fresh database a test.

LIGHTHOUSE_TEST_DATABASE_URL (a superuser's) and LIGHTHOUSE_TEST_REDIS_URL name other servers;
LIGHTHOUSE_TEST_CONTAINERS=1 starts them in Docker; otherwise they are the embedded ones. A server
that is needed and missing fails the test, it never skips.
"""

import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
import structlog
from psycopg import sql

from lighthouse import probes
from lighthouse import settings as settings_
from lighthouse.__main__ import main
from lighthouse.local import servers
from lighthouse.settings import Settings, load
from lighthouse.store import migrate
from lighthouse.store.pool import Pool, open_pool
from tests.support import options

#: The images of docker-compose.yml.
POSTGRES_IMAGE = "timescale/timescaledb:2.29.2-pg17"
REDIS_IMAGE = "redis:7.4.11-alpine"

#: A Fernet key for settings that need one.
SECRET_KEY = "bGlnaHRob3VzZS10ZXN0cy0wMDAwMDAwMDAwMDAwMDA="

#: The `lighthouse` command in this process: its status, standard output and standard error.
Command = Callable[..., tuple[int, str, str]]

#: Redis has 16 databases; taking turns keeps a straggler of one test out of the next one.
_redis_numbers = count()


@pytest.fixture(autouse=True)
def _logging() -> None:
    """Log through the standard library, which pytest captures, whatever the last test set up.

    A printing logger, such as the command line's, keeps the file that was standard error when it
    was made, and would write into it after its test has closed it.
    """
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


@pytest.fixture(autouse=True)
def _localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name means this machine, also where no /etc/hosts says so, as in a bare chroot."""
    real = socket.getaddrinfo

    def answer(host: bytes | str | None, *rest: Any, **more: Any) -> Any:
        return real("127.0.0.1" if host in ("localhost", b"localhost") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.fixture(autouse=True)
def _recursion() -> None:
    """As in a worker: libraries that tests import raise the limit, and C's stack ends first."""
    sys.setrecursionlimit(1000)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs PostgreSQL and no Redis is run on every edition: no test can be forgotten."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "postgres_server" in fixtures and "redis_server" not in fixtures:
            item.add_marker("database")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of an option runs again without each option that it is marked with, and must fail."""
    named = [name for mark in metafunc.definition.iter_markers("option") for name in mark.args]
    if named:
        fails = pytest.mark.xfail(strict=True, reason="the option is what makes it pass")
        metafunc.parametrize(
            "without_option",
            [None, *(pytest.param(name, marks=fails) for name in named)],
            ids=["", *(f"without-{name}" for name in named)],
            indirect=True,
        )


@pytest.fixture(autouse=True)
def without_option(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Monitors' configurations are read as if they did not hold an option."""
    option = getattr(request, "param", None)
    if option is not None:
        whole = probes.validated

        def less(model: type[Any], config: Any, *rest: Any) -> Any:
            return whole(model, options.without(option, model, config), *rest)

        monkeypatch.setattr(probes, "validated", less)


def _in_containers() -> bool:
    return os.environ.get("LIGHTHOUSE_TEST_CONTAINERS") == "1"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a superuser on the session's PostgreSQL."""
    given = os.environ.get("LIGHTHOUSE_TEST_DATABASE_URL")
    if given:
        yield given
    elif _in_containers():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer(POSTGRES_IMAGE, driver=None) as container:
            yield container.get_connection_url()
    else:
        directory = tmp_path_factory.mktemp("postgres")
        server = servers.prepare_postgres(
            directory, logs=directory / "logs", max_connections=200, durable=False
        )
        with servers.running(server) as url:
            yield url


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the session's Redis, its database number included."""
    given = os.environ.get("LIGHTHOUSE_TEST_REDIS_URL")
    if given:
        yield given
    elif _in_containers():
        from testcontainers.redis import RedisContainer

        with RedisContainer(REDIS_IMAGE) as container:
            host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
            yield f"redis://{host}:{port}/0"
    else:
        directory = tmp_path_factory.mktemp("redis")
        with servers.running(servers.prepare_redis(directory, logs=directory / "logs")) as url:
            yield url


def _with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _create(server: str, *, template: str = "template0") -> str:
    name = f"lighthouse_test_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8'").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
    return name


def _drop(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


@pytest.fixture
def database_url(postgres_server: str) -> Iterator[str]:
    """A fresh, empty database."""
    name = _create(postgres_server)
    yield _with_database(postgres_server, name)
    _drop(postgres_server, name)


@pytest.fixture(scope="session")
def _migrated_template(postgres_server: str) -> Iterator[str]:
    """The name of a migrated database that nobody connects to, so that it can be copied."""
    name = _create(postgres_server)
    migrate.upgrade(_with_database(postgres_server, name))
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        # TimescaleDB's scheduler would reconnect, and a database in use is no template.
        connection.execute(
            sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(sql.Identifier(name))
        )
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s",
            (name,),
        )
    yield name
    _drop(postgres_server, name)


@pytest.fixture
def migrated_url(postgres_server: str, _migrated_template: str) -> Iterator[str]:
    """A fresh database at the newest schema."""
    name = _create(postgres_server, template=_migrated_template)
    yield _with_database(postgres_server, name)
    _drop(postgres_server, name)


@pytest.fixture
async def pool(migrated_url: str) -> AsyncIterator[Pool]:
    """A pool of connections to a fresh, migrated database."""
    async with open_pool(migrated_url, application="lighthouse-test") as opened:
        yield opened


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """An empty Redis database; the one that LIGHTHOUSE_TEST_REDIS_URL names is flushed."""
    if os.environ.get("LIGHTHOUSE_TEST_REDIS_URL"):
        url = redis_server
    else:
        url = _with_database(redis_server, str(next(_redis_numbers) % 16))
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def settings(migrated_url: str, redis_url: str) -> Settings:
    """The settings of a fleet on fresh servers that may probe this machine."""
    return load(
        {
            "DATABASE_URL": migrated_url,
            "REDIS_URL": redis_url,
            "LIGHTHOUSE_SECRET_KEYS": SECRET_KEY,
            "LIGHTHOUSE_EGRESS_ALLOW": "127.0.0.0/8,::1/128",
            "LIGHTHOUSE_PLANS": "off",
        }
    )


@pytest.fixture
def lighthouse(
    migrated_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """The command on a fresh database. It reads the environment anew each time."""
    monkeypatch.setenv("DATABASE_URL", migrated_url)
    monkeypatch.setenv("LIGHTHOUSE_EGRESS_ALLOW", "127.0.0.0/8")
    monkeypatch.setenv("LIGHTHOUSE_SECRET_KEYS", SECRET_KEY)

    def command(*arguments: object) -> tuple[int, str, str]:
        settings_.current.cache_clear()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    yield command
    settings_.current.cache_clear()
