"""Connections to PostgreSQL, and the one place where psycopg's errors become ours."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from lighthouse.errors import NotMigrated, RejectedData, SettingsError, StoreError, StoreUnavailable

Connection = psycopg.AsyncConnection[Any]
Pool = AsyncConnectionPool[Connection]

#: A server that does not answer a new connection in this time is away.
CONNECT_TIMEOUT_S = 5
#: How long a caller waits for a free connection before PostgreSQL counts as away.
POOL_TIMEOUT_S = 10.0
#: A session that stands still inside a transaction is ended by the server after this: its process
#: was stopped or its host has vanished, and whoever wants its locks waits for it, which in the end
#: are all flushes of the fleet. Nothing of ours waits for anything else inside a transaction.
IDLE_IN_TRANSACTION_MS = 15_000
#: The kernel gives up on a silent peer after this, so that a vanished host frees its connection.
TCP_USER_TIMEOUT_MS = 20_000


def conninfo(url: str, *, application: str = "lighthouse") -> str:
    """libpq's connection string for a URL; TLS options in the URL are kept.

    Accepts SQLAlchemy's postgresql+psycopg:// too. Raises SettingsError for anything else.
    """
    plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
    if not plain.startswith(("postgresql://", "postgres://")):
        raise SettingsError(
            "DATABASE_URL is no PostgreSQL URL; give it as postgresql://user:password@host:5432/name"
        )
    try:
        given = conninfo_to_dict(plain)
        defaults: dict[str, Any] = {
            "application_name": application,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": TCP_USER_TIMEOUT_MS,
        }
        return make_conninfo(**{**defaults, **given})
    except psycopg.Error as exc:
        raise SettingsError(f"DATABASE_URL cannot be read: {_line(exc)}") from None


@asynccontextmanager
async def open_pool(
    url: str, *, minimum: int = 1, maximum: int = 8, application: str = "lighthouse"
) -> AsyncIterator[Pool]:
    """A pool of connections in autocommit mode; transactions are always written out.

    Opening does not wait for the server, so that a fleet starts in any order. The session's time
    zone is UTC, and prepared statements are off: behind a PgBouncer older than 1.21 they break.
    """
    pool: Pool = AsyncConnectionPool(
        conninfo(url, application=application),
        min_size=minimum,
        max_size=maximum,
        timeout=POOL_TIMEOUT_S,
        max_idle=600.0,
        check=AsyncConnectionPool.check_connection,
        kwargs={"autocommit": True, "prepare_threshold": None},
        configure=_configure,
        open=False,
    )
    await pool.open(wait=False)
    try:
        yield pool
    finally:
        await pool.close(timeout=5.0)


async def _configure(connection: Connection) -> None:
    await connection.execute(
        "SET timezone TO 'UTC';"
        f" SET idle_in_transaction_session_timeout TO {IDLE_IN_TRANSACTION_MS}"
    )


#: A name that the server does not know: its schema is missing, older or newer than ours.
_MISSING = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedObject,
    psycopg.errors.UndefinedFunction,
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into StoreUnavailable, RejectedData, NotMigrated or StoreError."""
    try:
        yield
    except (PoolTimeout, psycopg.OperationalError, psycopg.InterfaceError) as exc:
        raise StoreUnavailable(f"PostgreSQL is not available: {_line(exc)}") from exc
    except (psycopg.DataError, psycopg.IntegrityError, psycopg.NotSupportedError) as exc:
        raise RejectedData(f"PostgreSQL refuses the data: {_line(exc)}") from exc
    except _MISSING as exc:
        raise NotMigrated(
            f"the database is not this version's ({_line(exc)}); run `lighthouse db upgrade`"
        ) from exc
    except psycopg.Error as exc:
        raise StoreError(f"PostgreSQL: {_line(exc)}") from exc


async def reach(url: str) -> None:
    """Connect once, before anything is begun.

    Raises StoreUnavailable with one line that names the server and the reason, never a password.
    """
    given = conninfo(url)
    try:
        connection = await psycopg.AsyncConnection.connect(given, autocommit=True)
        await connection.close()
    except psycopg.OperationalError as exc:
        facts = conninfo_to_dict(given)
        where = f"{facts.get('host', 'localhost')}:{facts.get('port', 5432)}"
        raise StoreUnavailable(
            f"cannot reach PostgreSQL at {where} ({_reason(exc)});"
            " is it running, and is DATABASE_URL right?"
        ) from exc


def _reason(exc: psycopg.Error) -> str:
    """libpq's own reason, without the address and the hints that it puts around."""
    lines = str(exc).strip().splitlines()
    return (
        lines[0].rpartition("failed: ")[2].removeprefix("FATAL:").strip() if lines else "no answer"
    )


async def health(pool: Pool) -> None:
    """One round trip. Raises StoreUnavailable when there is no answer."""
    with translated():
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__
