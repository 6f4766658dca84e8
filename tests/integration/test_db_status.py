"""`lighthouse db`: what it tells of the database, to people and to programs."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from lighthouse import settings as lighthouse_settings
from lighthouse.__main__ import main
from lighthouse.model import to_slot
from lighthouse.store import metrics, migrate, upkeep
from lighthouse.store.edition import Edition
from lighthouse.store.pool import Pool
from lighthouse.store.status import status
from tests.support.history import DAY, HOUR, UP, edition_of, insert_raw, now, settle_all

#: (name, table) of the tasks that are told after upkeep and the rollup task have run.
TASKS = {
    Edition.COMMUNITY: [
        ("upkeep", None),
        ("compression", "alert_history"),
        ("retention", "alert_history"),
        ("compression", "check_history"),
        ("retention", "check_history"),
        ("compression", "daily_checks"),
        ("refresh_continuous_aggregate", "daily_checks"),
        ("compression", "hourly_checks"),
        ("refresh_continuous_aggregate", "hourly_checks"),
        ("retention", "hourly_checks"),
    ],
    Edition.APACHE: [("rollup", None), ("upkeep", None)],
    Edition.PLAIN: [("rollup", None), ("upkeep", None)],
}
HISTORIES = {
    Edition.COMMUNITY: {"check_history", "alert_history", "hourly_checks", "daily_checks"},
    Edition.APACHE: {"check_history", "alert_history"},
    Edition.PLAIN: {"check_history"},
}


@pytest.fixture
def lighthouse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line against a database; (status, standard output, standard error)."""

    def run(url: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("DATABASE_URL", url)
        lighthouse_settings.current.cache_clear()
        try:
            code = main(arguments)
        finally:
            lighthouse_settings.current.cache_clear()
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


async def test_everything_is_told_of_a_database_in_use(pool: Pool, migrated_url: str) -> None:
    edition = await edition_of(pool)
    slot = to_slot(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    hour = metrics.hour_of(now())
    async with pool.connection() as connection:
        await insert_raw(connection, ((uuid4(), hour - n * HOUR, UP, 1.0) for n in range(30)))
        await connection.execute(
            "INSERT INTO fleet_state (key, value) VALUES ('accounted_to', %s)",
            (json.dumps({"slot": slot}),),
        )
    await upkeep.run(pool, 90)
    await settle_all(pool)
    found = await status(migrated_url)
    assert (found.edition, found.revision, found.head) == (
        edition,
        migrate.head(),
        migrate.head(),
    )
    assert (found.timescaledb_version is None) is (edition is Edition.PLAIN)
    assert found.database_bytes > 1_000_000
    assert found.accounted_to == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    sizes = {table.name: table for table in found.tables}
    assert {name for name, table in sizes.items() if table.parts is not None} == HISTORIES[edition]
    assert sizes["check_history"].bytes >= 8192
    assert {"users", "subscriptions", "history_gaps"} < sizes.keys()
    assert [(rollup.name, rollup.dirty) for rollup in found.rollups] == [
        ("hourly", 0),
        ("daily", 0),
    ]
    for rollup in found.rollups:
        assert rollup.rolled_to is not None
        assert rollup.lag_s is not None
        assert 0 <= rollup.lag_s < 2 * 86_400
    assert [(task.name, task.table) for task in found.tasks] == TASKS[edition]
    (kept,) = (task for task in found.tasks if task.name == "upkeep")
    assert kept.last_run_at is not None
    assert abs(kept.last_run_at - now()).total_seconds() < 60


async def test_partitions_are_summed_under_their_table(pool: Pool, migrated_url: str) -> None:
    async def size() -> int:
        found = await status(migrated_url)
        assert not any("_2026" in table.name or "_chunk" in table.name for table in found.tables)
        return next(table.bytes for table in found.tables if table.name == "check_history")

    before = await size()
    target, today = uuid4(), metrics.day_of(now())
    async with pool.connection() as connection:
        await insert_raw(
            connection, ((target, today - DAY + n * HOUR / 60, UP, 1.0) for n in range(2000))
        )
    assert await size() > before + 100_000


async def test_compression_is_told_where_there_is_some(pool: Pool, migrated_url: str) -> None:
    edition = await edition_of(pool)
    target, today = uuid4(), metrics.day_of(now())
    async with pool.connection() as connection:
        await insert_raw(
            connection, ((target, today - 2 * DAY + n * HOUR / 60, UP, 1.0) for n in range(1400))
        )
        if edition is Edition.COMMUNITY:
            await connection.execute("SELECT compress_chunk(show_chunks('check_history'))")
    found = await status(migrated_url)
    table = next(table for table in found.tables if table.name == "check_history")
    if edition is Edition.COMMUNITY:
        assert table.compressed_parts == 1
        assert table.compression_ratio is not None
        assert table.compression_ratio > 3
    else:
        assert (table.compressed_parts, table.compression_ratio) == (None, None)


async def test_a_database_that_is_not_migrated_is_told_as_that(database_url: str) -> None:
    found = await status(database_url)
    assert (found.edition, found.revision, found.tables, found.tasks) == (None, None, (), ())
    migrate.upgrade(database_url, revision="0001")
    found = await status(database_url)
    assert (found.edition, found.revision) == (None, "0001")


async def test_slow_queries_are_told_where_the_server_keeps_them(
    migrated_url: str, pool: Pool
) -> None:
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT current_setting('pg_stat_statements.max', true) IS NOT NULL"
        )
        loaded = await cursor.fetchone()
        await connection.execute("SELECT pg_sleep(0.2), count(*) FROM check_history")
    found = await status(migrated_url)
    if loaded == (True,):
        assert found.slow_queries is not None
        slowest = next(q for q in found.slow_queries if "pg_sleep" in q.query)
        assert slowest.mean_exec_ms > 150
    else:
        assert found.slow_queries is None


async def test_an_extension_whose_library_is_not_loaded_fails_nothing(
    migrated_url: str, pool: Pool
) -> None:
    async with pool.connection() as connection:
        # As PostgreSQL itself says it, wherever the library is or is not.
        await connection.execute("DROP EXTENSION IF EXISTS pg_stat_statements")
        await connection.execute(
            "CREATE FUNCTION not_loaded() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE"
            " 'pg_stat_statements must be loaded' USING ERRCODE = '55000'; END $$"
        )
        await connection.execute(
            "CREATE VIEW pg_stat_statements AS SELECT not_loaded() AS query, oid AS dbid,"
            " 1 AS calls, 1.0 AS mean_exec_time, 1.0 AS max_exec_time"
            " FROM pg_database WHERE datname = current_database()"
        )
    assert (await status(migrated_url)).slow_queries is None


def test_upgrade_and_downgrade_tell_what_they_did(database_url: str, lighthouse: Any) -> None:
    head = migrate.head()
    assert lighthouse(database_url, "db", "upgrade") == (0, f"schema: none -> {head}\n", "")
    assert lighthouse(database_url, "db", "upgrade") == (0, f"schema: {head}\n", "")
    assert lighthouse(database_url, "db", "downgrade", "0001")[1] == f"schema: {head} -> 0001\n"
    assert lighthouse(database_url, "db", "downgrade", "base")[1] == "schema: 0001 -> none\n"
    code, out, err = lighthouse(database_url, "db", "downgrade", "0815")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "0815" in err


def test_the_setting_of_the_environment_reaches_the_policies(
    database_url: str, lighthouse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTHOUSE_RAW_HISTORY_DAYS", "45")
    assert lighthouse(database_url, "db", "upgrade")[0] == 0
    code, out, _ = lighthouse(database_url, "db", "status", "--json")
    assert code == 0
    kept = [
        task["settings"]
        for task in json.loads(out)["tasks"]
        if (task["name"], task["table"]) == ("retention", "check_history")
    ]
    assert kept in ([], ["drop_after=45 days"])
    assert bool(kept) is (json.loads(out)["edition"] == "community")


def test_status_is_a_table_for_people_and_json_for_programs(
    migrated_url: str, lighthouse: Any
) -> None:
    code, out, err = lighthouse(migrated_url, "db", "status", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["revision"] == facts["head"] == migrate.head()
    assert facts["edition"] in {"community", "apache", "plain"}
    assert {"tables", "rollups", "tasks", "slow_queries", "accounted_to"} < facts.keys()
    code, out, err = lighthouse(migrated_url, "db", "status")
    assert code == 0
    assert facts["edition"] in out
    assert "check_history" in out
    assert "hourly" in out


def test_status_says_when_an_upgrade_is_due(database_url: str, lighthouse: Any) -> None:
    code, out, _ = lighthouse(database_url, "db", "status")
    assert code == 0
    assert "not migrated" in out
    assert "run db upgrade" in out


def test_url_is_as_psql_takes_it(database_url: str, lighthouse: Any) -> None:
    code, out, _ = lighthouse(database_url, "db", "url")
    assert code == 0
    with psycopg.connect(out.strip()) as connection:
        assert connection.info.dbname in database_url
    alchemy = database_url.replace("postgresql:", "postgresql+psycopg:", 1)
    assert lighthouse(alchemy, "db", "url") == (0, out, "")


@pytest.mark.parametrize("command", ["upgrade", "status"])
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "cannot reach PostgreSQL at 127.0.0.1:1"),
        ("mysql://127.0.0.1/none", "no PostgreSQL URL"),
        ("", "DATABASE_URL is not set"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(
    lighthouse: Any, command: str, url: str, why: str
) -> None:
    code, out, err = lighthouse(url, "db", command)
    assert code != 0
    assert out == ""
    assert why in err
    assert err.count("\n") == 1
