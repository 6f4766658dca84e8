"""What a person wants to know of the database before trusting it: `lighthouse db status`.

Reads catalogs only, never the history. What a server does not have, or this user may not see, is
left out; it never fails the rest.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg

from lighthouse.model import from_slot
from lighthouse.store.edition import Edition, detect
from lighthouse.store.migrate import head
from lighthouse.store.pool import Connection, conninfo, translated

#: How many slow queries are told.
SLOW_QUERIES = 10
QUERY_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """One table with its indexes; a history is the sum of its parts."""

    name: str
    bytes: int
    parts: int | None = None  #: partitions or chunks
    compressed_parts: int | None = None
    compression_ratio: float | None = None  #: bytes before ÷ bytes after, of the compressed parts


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupLag:
    """How far a rollup goes; what is later is read from the raw rows."""

    name: str
    rolled_to: datetime | None  #: None: nothing is rolled up yet
    lag_s: float | None
    dirty: int  #: (hour, subscription) that wait to be computed again


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A policy of TimescaleDB, or a task of ours."""

    name: str
    table: str | None
    last_run_at: datetime | None
    last_result: str | None
    next_run_at: datetime | None
    settings: str | None  #: such as drop_after=90 days


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowQuery:
    query: str
    calls: int
    mean_exec_ms: float
    max_exec_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseStatus:
    edition: Edition | None  #: None: not migrated
    server_version: str
    timescaledb_version: str | None
    revision: str | None
    head: str
    database_bytes: int
    accounted_to: datetime | None  #: every due slot up to it has a row or a gap record
    tables: tuple[TableSize, ...]
    rollups: tuple[RollupLag, ...]
    tasks: tuple[Task, ...]
    slow_queries: tuple[SlowQuery, ...] | None  #: None: pg_stat_statements is not there


async def status(url: str) -> DatabaseStatus:
    """Everything, over one connection. Raises StoreUnavailable; works before the migration too."""
    with translated():
        conn: Connection = await psycopg.AsyncConnection.connect(
            conninfo(url, application="lighthouse-status"), autocommit=True
        )
        async with conn:
            await conn.execute("SET timezone TO 'UTC'")
            return await _status(conn)


async def _status(conn: Connection) -> DatabaseStatus:
    edition = await detect(conn)
    facts = await _rows(
        conn,
        "SELECT current_setting('server_version'), pg_database_size(current_database()),"
        " (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),"
        " to_regclass('alembic_version') IS NOT NULL, to_regclass('fleet_state') IS NOT NULL",
    )
    server, size, timescaledb, has_version, has_state = facts[0]
    revision = await _rows(conn, "SELECT version_num FROM alembic_version") if has_version else []
    return DatabaseStatus(
        edition=edition,
        server_version=server,
        timescaledb_version=timescaledb,
        revision=revision[0][0] if revision else None,
        head=head(),
        database_bytes=size,
        accounted_to=await _accounted_to(conn) if has_state else None,
        tables=tuple(await _tables(conn, edition)),
        rollups=tuple(await _rollups(conn, edition)),
        tasks=tuple(await _tasks(conn, edition) if has_state else []),
        slow_queries=await _slow_queries(conn),
    )


async def _accounted_to(conn: Connection) -> datetime | None:
    rows = await _rows(
        conn, "SELECT (value->>'slot')::bigint FROM fleet_state WHERE key = 'accounted_to'"
    )
    return from_slot(rows[0][0]) if rows and rows[0][0] is not None else None


#: Our tables, and a partitioned one as the sum of its leaves.
_ORDINARY = """
SELECT c.relname,
       CASE c.relkind WHEN 'p' THEN
           (SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint
            FROM pg_partition_tree(c.oid))
       ELSE pg_total_relation_size(c.oid) END,
       CASE c.relkind WHEN 'p' THEN
           (SELECT count(*) FROM pg_partition_tree(c.oid) WHERE isleaf) END
FROM pg_class AS c
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> ALL(%s)
  AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('fleet_state'))
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
"""


async def _tables(conn: Connection, edition: Edition | None) -> list[TableSize]:
    if edition is None:
        return []
    hypertables: dict[str, TableSize] = {}
    if edition is not Edition.PLAIN:
        names = ["check_history", "alert_history"]
        if edition is Edition.COMMUNITY:
            names += ["hourly_checks", "daily_checks"]
        hypertables = {name: await _hypertable(conn, edition, name) for name in names}
    rows = await _rows(conn, _ORDINARY, (list(hypertables),))
    ordinary = [TableSize(name=name, bytes=size, parts=parts) for name, size, parts in rows]
    return sorted([*hypertables.values(), *ordinary], key=lambda table: -table.bytes)


async def _hypertable(conn: Connection, edition: Edition, name: str) -> TableSize:
    size = await _rows(
        conn, "SELECT total_bytes FROM hypertable_detailed_size(%s::regclass)", (name,)
    )
    parts = await _rows(conn, "SELECT count(*) FROM show_chunks(%s::regclass)", (name,))
    compressed, ratio = None, None
    if edition is Edition.COMMUNITY:
        stats = await _rows(
            conn,
            "SELECT number_compressed_chunks, before_compression_total_bytes::float8"
            " / nullif(after_compression_total_bytes, 0)"
            " FROM hypertable_columnstore_stats(coalesce("
            "  (SELECT format('%%I.%%I', materialization_hypertable_schema,"
            "       materialization_hypertable_name)::regclass"
            "     FROM timescaledb_information.continuous_aggregates WHERE view_name = %s),"
            "  %s::regclass))",
            (name, name),
        )
        compressed, ratio = stats[0] if stats else (0, None)
    return TableSize(
        name=name,
        bytes=(size[0][0] or 0) if size else 0,
        parts=parts[0][0],
        compressed_parts=compressed,
        compression_ratio=ratio,
    )


_WATERMARKS = """
SELECT j.hypertable_name, CASE WHEN w.mark > 'epoch' THEN w.mark END, now(), 0
FROM timescaledb_information.jobs AS j
CROSS JOIN LATERAL (
    SELECT _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(
        (j.config->>'mat_hypertable_id')::integer)) AS mark) AS w
WHERE j.proc_name = 'policy_refresh_continuous_aggregate' ORDER BY 1 DESC
"""

_MARKS = """
SELECT rollup, CASE WHEN rolled_to > 'epoch' THEN rolled_to END, now(),
       CASE rollup WHEN 'hourly' THEN (SELECT count(*) FROM rollup_dirty) ELSE 0 END
FROM rollup_state ORDER BY 1 DESC
"""


async def _rollups(conn: Connection, edition: Edition | None) -> list[RollupLag]:
    if edition is None:
        return []
    rows = await _rows(conn, _WATERMARKS if edition is Edition.COMMUNITY else _MARKS)
    return [_lag(*row) for row in rows]


def _lag(name: str, rolled_to: datetime | None, now: datetime, dirty: int) -> RollupLag:
    return RollupLag(
        name=name.removesuffix("_checks"),
        rolled_to=rolled_to,
        lag_s=None if rolled_to is None else (now - rolled_to) / timedelta(seconds=1),
        dirty=dirty,
    )


_POLICIES = """
SELECT replace(j.proc_name, 'policy_', ''), j.hypertable_name,
       nullif(s.last_run_started_at, '-infinity'), s.last_run_status,
       nullif(j.next_start, '-infinity'),
       (SELECT string_agg(key || '=' || value, ', ' ORDER BY key)
        FROM jsonb_each_text(j.config) WHERE key NOT LIKE '%hypertable_id')
FROM timescaledb_information.jobs AS j
LEFT JOIN timescaledb_information.job_stats AS s USING (job_id)
WHERE j.hypertable_name IS NOT NULL ORDER BY 2, 1
"""

_TASKS = """
SELECT replace(key, 'task:', ''), NULL, updated_at, NULL, NULL,
       (SELECT string_agg(key || '=' || value, ', ' ORDER BY key) FROM jsonb_each_text(value))
FROM fleet_state WHERE key LIKE 'task:%' ORDER BY 1
"""


async def _tasks(conn: Connection, edition: Edition | None) -> list[Task]:
    rows = await _rows(conn, _TASKS)
    if edition is Edition.COMMUNITY:
        rows += await _rows(conn, _POLICIES)
    return [
        Task(
            name=name,
            table=table,
            last_run_at=last,
            last_result=result,
            next_run_at=following,
            settings=settings,
        )
        for name, table, last, result, following, settings in rows
    ]


_SLOW = """
SELECT left(regexp_replace(query, '\\s+', ' ', 'g'), %s), calls, mean_exec_time, max_exec_time
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND query ~* '^\\s*(with|select|insert|update|delete|copy)\\M'
ORDER BY mean_exec_time DESC LIMIT %s
"""


async def _slow_queries(conn: Connection) -> tuple[SlowQuery, ...] | None:
    try:
        rows = await _rows(conn, _SLOW, (QUERY_CHARS, SLOW_QUERIES))
    except (
        psycopg.errors.UndefinedTable,  # not created here
        psycopg.errors.ObjectNotInPrerequisiteState,  # created, but not preloaded
        psycopg.errors.InsufficientPrivilege,
    ):
        return None
    return tuple(
        SlowQuery(query=query, calls=calls, mean_exec_ms=mean, max_exec_ms=longest)
        for query, calls, mean, longest in rows
    )


async def _rows(
    conn: Connection, query: LiteralString, arguments: tuple[Any, ...] | None = None
) -> list[tuple[Any, ...]]:
    cursor = await conn.execute(query, arguments)
    return await cursor.fetchall()
