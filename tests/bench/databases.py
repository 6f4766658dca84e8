"""The databases that a measurement is repeated on: the embedded one, and a named server's."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from lighthouse.local import servers
from lighthouse.store import migrate


def each() -> Iterator[str]:
    """URLs of fresh, migrated databases; each lasts until the next one is asked for.

    The embedded PostgreSQL (edition `plain`, with fsync), and the server of
    LIGHTHOUSE_TEST_DATABASE_URL where that is set.
    """
    with embedded() as url:
        yield url
    named = os.environ.get("LIGHTHOUSE_TEST_DATABASE_URL")
    if named:
        with _of(named) as url:
            yield url


@contextmanager
def embedded() -> Iterator[str]:
    """A migrated database of an embedded PostgreSQL that ends with the block."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # the server runs as another user where we are root
        server = servers.prepare_postgres(directory, logs=directory / "logs")
        with servers.running(server) as url:
            migrate.upgrade(url)
            yield url


@contextmanager
def _of(server: str) -> Iterator[str]:
    name = f"lighthouse_bench_{secrets.token_hex(6)}"
    url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            migrate.upgrade(url)
            yield url
        finally:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )
