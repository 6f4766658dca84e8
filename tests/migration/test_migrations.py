"""The schema that migrations lay: equal to tables.py, on every edition, up and down."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from lighthouse.errors import NotMigrated, SettingsError, StoreError, StoreUnavailable, UsageError
from lighthouse.model import Bounds, CheckStatus, Result, to_slot
from lighthouse.store import migrate
from lighthouse.store.edition import Edition, best, detect
from lighthouse.store.pool import Pool, open_pool
from lighthouse.store.record import record
from lighthouse.store.tables import METRIC_COLUMNS, metadata

ROOT = Path(__file__).resolve().parents[2]

COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
       pg_get_expr(d.adbin, d.adrelid)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relname = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum
"""
# NOT NULL is compared as a column's property; PostgreSQL 18 lists it here as well.
CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = ANY(%s::regclass[]) AND contype <> 'n' ORDER BY 1, 2
"""
INDEXES = """
SELECT tablename, indexname, replace(indexdef, ' ON ONLY ', ' ON ') FROM pg_indexes
WHERE tablename = ANY(%s) ORDER BY 1, 2
"""
TYPES = """
SELECT t.typname, array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
FROM pg_type AS t JOIN pg_enum AS e ON e.enumtypid = t.oid
WHERE t.typnamespace = 'public'::regnamespace GROUP BY 1 ORDER BY 1
"""
COMMENTS = """
SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE relname = ANY(%s) ORDER BY 1
"""
# Everything of ours in the schema; what belongs to an extension is not, nor Alembic's own table.
OBJECTS = """
SELECT 'relation', c.oid::regclass::text, c.relkind::text FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relname NOT LIKE 'alembic_version%'
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT 'type', t.typname, t.typtype::text FROM pg_type AS t
WHERE t.typnamespace = 'public'::regnamespace AND t.typtype IN ('e', 'd')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = t.oid AND d.deptype = 'e')
UNION ALL
SELECT 'function', p.oid::regprocedure::text, p.prokind::text FROM pg_proc AS p
WHERE p.pronamespace = 'public'::regnamespace
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""


def rows(url: str, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query, arguments or None).fetchall()


def edition(url: str) -> Edition:
    with psycopg.connect(url) as connection:
        found, _ = best(connection)
        connection.rollback()
    return found


@pytest.mark.parametrize(
    "query",
    [COLUMNS, CONSTRAINTS, INDEXES, COMMENTS],
    ids=("columns", "checks", "indexes", "notes"),
)
def test_migrating_up_makes_what_the_tables_say(
    database_url: str, migrated_url: str, query: str
) -> None:
    engine = create_engine(database_url.replace("postgresql:", "postgresql+psycopg:", 1))
    metadata.create_all(engine)
    engine.dispose()
    names = sorted(metadata.tables)
    said, made = rows(database_url, query, names), rows(migrated_url, query, names)
    assert len(said) >= len(names) - 1
    assert made == said
    assert rows(migrated_url, TYPES) == rows(database_url, TYPES)


def test_up_down_up_ends_where_it_began_and_down_leaves_nothing(database_url: str) -> None:
    empty = rows(database_url, OBJECTS)
    migrate.upgrade(database_url)
    first = rows(database_url, OBJECTS)
    for _ in range(2):
        assert migrate.downgrade(database_url, "base") == migrate.Migrated(
            before=migrate.head(), after=None
        )
        assert rows(database_url, OBJECTS) == empty
        assert migrate.upgrade(database_url) == migrate.Migrated(before=None, after=migrate.head())
        assert rows(database_url, OBJECTS) == first


def test_each_revision_can_be_left_and_taken_by_itself(database_url: str) -> None:
    migrate.upgrade(database_url, revision="0001")
    assert migrate.current_and_head(database_url).current == "0001"
    base = rows(database_url, OBJECTS)
    assert ("relation", "check_history", "r") not in base
    migrate.upgrade(database_url)
    migrate.downgrade(database_url, "0001")
    assert rows(database_url, OBJECTS) == base


#: What each edition lays under the same names.
FORMS = {
    Edition.COMMUNITY: {
        "check_history": "hypertable",
        "alert_history": "hypertable",
        "hourly_checks": "continuous aggregate",
        "daily_checks": "continuous aggregate",
    },
    Edition.APACHE: {
        "check_history": "hypertable",
        "alert_history": "hypertable",
        "hourly_checks": "view",
        "daily_checks": "view",
    },
    Edition.PLAIN: {
        "check_history": "partitioned",
        "alert_history": "table",
        "hourly_checks": "view",
        "daily_checks": "view",
    },
}


def form(url: str, name: str, timescale: bool) -> str:
    if timescale:
        if rows(
            url,
            "SELECT 1 FROM timescaledb_information.continuous_aggregates"
            " WHERE view_name = %s AND NOT materialized_only",
            name,
        ):
            return "continuous aggregate"
        if rows(
            url,
            "SELECT 1 FROM timescaledb_information.hypertables WHERE hypertable_name = %s",
            name,
        ):
            return "hypertable"
    ((kind,),) = rows(url, "SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%s)", name)
    return {"p": "partitioned", "r": "table", "v": "view"}[kind]


async def test_the_edition_is_laid_as_the_server_offers_it_and_known_again(
    migrated_url: str, pool: Pool
) -> None:
    offered = edition(migrated_url)
    async with pool.connection() as connection:
        assert await detect(connection) is offered
    assert {
        name: form(migrated_url, name, offered is not Edition.PLAIN) for name in FORMS[offered]
    } == FORMS[offered]


#: Policy, table, and what is asked of it in its configuration.
POLICIES = {
    Edition.COMMUNITY: [
        ("policy_compression", "alert_history", {"compress_after": "30 days"}),
        ("policy_compression", "check_history", {"compress_after": "7 days"}),
        ("policy_compression", "daily_checks", {"compress_after": "9 days"}),
        ("policy_compression", "hourly_checks", {"compress_after": "8 days"}),
        (
            "policy_refresh_continuous_aggregate",
            "daily_checks",
            {"start_offset": "8 days 06:00:00", "end_offset": "01:00:00"},
        ),
        (
            "policy_refresh_continuous_aggregate",
            "hourly_checks",
            {"start_offset": "7 days 06:00:00", "end_offset": "01:00:00"},
        ),
        ("policy_retention", "alert_history", {"drop_after": "1 year"}),
        ("policy_retention", "check_history", {"drop_after": "400 days"}),
        ("policy_retention", "hourly_checks", {"drop_after": "400 days"}),
    ],
    Edition.APACHE: [],
    Edition.PLAIN: [],
}


def policies(url: str) -> list[tuple[str, str, dict[str, str]]]:
    if not rows(url, "SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'"):
        return []
    return [
        (name, table, {key: value for key, value in config.items() if "hypertable" not in key})
        for name, table, config in rows(
            url,
            "SELECT proc_name, hypertable_name, config FROM timescaledb_information.jobs"
            " WHERE hypertable_name IS NOT NULL ORDER BY 1, 2",
        )
    ]


def test_policies_follow_the_setting_at_every_upgrade(database_url: str) -> None:
    offered = edition(database_url)
    migrate.upgrade(database_url, 90)
    kept = {name: value for _, name, value in policies(database_url) if "drop_after" in value}
    assert kept.get("check_history", {"drop_after": "90 days"}) == {"drop_after": "90 days"}
    assert kept.get("hourly_checks", {"drop_after": "365 days"}) == {"drop_after": "365 days"}
    migrate.upgrade(database_url, 400)
    assert policies(database_url) == POLICIES[offered]


@pytest.mark.parametrize("asked", [8, 9, 10, 90])
def test_raw_rows_outlive_the_reach_of_the_refresh(asked: int) -> None:
    raw, hourly = migrate.kept_days(asked)
    # The day's refresh reaches back 8 days and 6 hours; a chunk is a day.
    assert raw >= 8.25 + 1
    assert raw >= asked
    assert hourly >= 365


def test_an_unchanged_setting_leaves_the_policies_as_they_are(database_url: str) -> None:
    migrate.upgrade(database_url, 90)
    jobs = (
        "SELECT job_id FROM timescaledb_information.jobs ORDER BY 1"
        if edition(database_url) is not Edition.PLAIN
        else "SELECT 0"
    )
    before = rows(database_url, jobs)
    migrate.upgrade(database_url, 90)
    assert rows(database_url, jobs) == before


def test_the_metrics_read_the_same_on_every_edition(migrated_url: str) -> None:
    for name, bucket in (("hourly_metrics", "hour"), ("daily_metrics", "day")):
        found = rows(
            migrated_url,
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
            name,
        )
        assert tuple(column for column, _ in found) == (bucket, *METRIC_COLUMNS)
        types = dict(found)
        assert {types[c] for c in ("total_checks", "missed", "alerts_triggered")} == {"bigint"}
        assert {types[c] for c in ("uptime_ratio", "coverage_ratio", "avg_latency_ms")} == {
            "double precision"
        }
        assert {types[c] for c in ("p50_latency_ms", "min_latency_ms")} == {"real"}


def test_several_upgrades_at_once_make_one_schema(database_url: str) -> None:
    command = [sys.executable, "-m", "lighthouse", "db", "upgrade"]
    environment = {**os.environ, "DATABASE_URL": database_url}
    running = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(3)
    ]
    told = sorted(process.communicate(timeout=120)[0].strip() for process in running)
    assert [process.returncode for process in running] == [0, 0, 0], told
    assert told == [f"schema: {migrate.head()}"] * 2 + [f"schema: none -> {migrate.head()}"]


def test_alembics_own_command_works_from_a_checkout(database_url: str) -> None:
    def alembic(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    alembic("upgrade", "head")
    assert migrate.current_and_head(database_url) == migrate.Versions(
        current=migrate.head(), head=migrate.head()
    )
    assert alembic("current").split()[0] == migrate.head()
    alembic("downgrade", "base")
    assert migrate.current_and_head(database_url).current is None


def test_there_is_one_head_and_it_is_known_without_alembic() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.scripts()))
    assert ScriptDirectory.from_config(config).get_heads() == [migrate.head()]


async def test_a_database_that_is_not_ours_yet_is_refused_by_name(database_url: str) -> None:
    async with open_pool(database_url) as pool:
        with pytest.raises(NotMigrated, match="run `lighthouse db upgrade`"):
            await migrate.require_migrated(pool)
        migrate.upgrade(database_url, revision="0001")
        with pytest.raises(NotMigrated, match=r"has schema 0001.*run `lighthouse db upgrade`"):
            await migrate.require_migrated(pool)
        migrate.upgrade(database_url)
        await migrate.require_migrated(pool)


async def test_a_newer_database_is_left_alone(migrated_url: str, pool: Pool) -> None:
    rows(migrated_url, "UPDATE alembic_version SET version_num = '9999' RETURNING 1")
    with pytest.raises(NotMigrated, match="9999, newer"):
        await migrate.require_migrated(pool)
    with pytest.raises(StoreError, match="9999, newer"):
        migrate.upgrade(migrated_url)
    with pytest.raises(StoreError, match="9999, newer"):
        migrate.downgrade(migrated_url, "base")


def test_an_unknown_revision_is_the_callers_mistake(database_url: str) -> None:
    with pytest.raises(UsageError, match="7777"):
        migrate.upgrade(database_url, revision="7777")
    with pytest.raises(UsageError, match="7777"):
        migrate.downgrade(database_url, "7777")


def test_a_server_that_is_away_or_a_url_that_is_none_is_one_line() -> None:
    with pytest.raises(StoreUnavailable) as away:
        migrate.upgrade("postgresql://nobody@127.0.0.1:1/none")
    assert "\n" not in str(away.value)
    with pytest.raises(SettingsError, match="no PostgreSQL URL"):
        migrate.upgrade("mysql://somewhere")


def test_a_failing_revision_leaves_the_schema_at_the_one_before(database_url: str) -> None:
    migrate.upgrade(database_url, revision="0001")
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE TABLE alert_history (mine int)")
    before = rows(database_url, OBJECTS)
    with pytest.raises(StoreError, match="alert_history"):
        migrate.upgrade(database_url)
    assert migrate.current_and_head(database_url).current == "0001"
    assert rows(database_url, OBJECTS) == before


def test_every_change_of_a_subscription_bears_its_transaction(migrated_url: str) -> None:
    with psycopg.connect(migrated_url) as connection:

        def one(query: str) -> Any:
            row = connection.execute(query).fetchone()
            assert row is not None
            return row[0]

        current = "SELECT (pg_current_xact_id()::text)::bigint"
        user = one(
            "INSERT INTO users (wallet_address) VALUES ('0x' || repeat('a', 40)) RETURNING id"
        )
        made = one(
            "INSERT INTO subscriptions (user_id, name, target_type, target_config)"
            f" VALUES ('{user}', 'api', 'http', '{{}}') RETURNING changed_xid"
        )
        assert made == one(current)
        connection.commit()
        changed = one("UPDATE subscriptions SET name = 'api 2' RETURNING changed_xid")
        assert changed == one(current)
        assert changed > made
        connection.commit()
        forged = one("UPDATE subscriptions SET changed_xid = 1 RETURNING changed_xid")
        assert forged == one(current)


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (
            "INSERT INTO users (wallet_address) VALUES ('0x' || repeat('A', 40))",
            "wallet_address_format",
        ),
        ("UPDATE subscriptions SET check_interval_seconds = 9", "check_interval_valid"),
        ("UPDATE subscriptions SET check_interval_seconds = 86401", "check_interval_valid"),
        ("UPDATE subscriptions SET payment_tx_hash = '0x12'", "payment_tx_format"),
        ("UPDATE subscriptions SET payment_amount_usdc = -1", "payment_amount_valid"),
        (
            "INSERT INTO history_gaps VALUES (gen_random_uuid(), 0, 5, 10, 2)",
            "history_gaps_grid",
        ),
        (
            "UPDATE rollup_state SET rolled_to = now(), open_from = 'epoch'",
            "rollup_state_order",
        ),
    ],
)
def test_the_database_itself_refuses(migrated_url: str, statement: str, constraint: str) -> None:
    with psycopg.connect(migrated_url) as connection:
        connection.execute(
            "WITH u AS (INSERT INTO users (wallet_address)"
            " VALUES ('0x' || repeat('a', 40)) RETURNING id)"
            " INSERT INTO subscriptions (user_id, name, target_type, target_config,"
            " check_interval_seconds) SELECT id, 'api', 'http', '{}', 10 FROM u"
        )
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            connection.execute(statement)
        assert refused.value.diag.constraint_name == constraint


def test_a_timescaledb_that_is_not_loaded_is_not_used(database_url: str) -> None:
    class NotLoaded:
        """A server that lists the extension without its library; asked nothing else."""

        def execute(self, query: bytes) -> "NotLoaded":
            assert b"pg_available_extensions" in query
            return self

        def fetchone(self) -> tuple[bool, bool, bool]:
            return (False, True, False)

    found, why = best(NotLoaded())  # type: ignore[arg-type]
    assert found is Edition.PLAIN
    assert why is not None
    assert "shared_preload_libraries" in why


def test_a_downgrade_gives_each_ended_subscription_a_name_of_its_own(migrated_url: str) -> None:
    rows(
        migrated_url,
        "WITH u AS (INSERT INTO users (wallet_address) VALUES ('0x' || repeat('ab', 20))"
        " RETURNING id)"
        " INSERT INTO subscriptions (user_id, name, target_type, target_config, status)"
        " SELECT u.id, 'API', 'http', '{}', s::subscription_status FROM u,"
        " unnest('{cancelled,expired,active}'::text[]) AS s RETURNING 1",
    )
    migrate.downgrade(migrated_url, "0002")
    found = dict(rows(migrated_url, "SELECT status::text, name FROM subscriptions"))
    assert found.pop("active") == "API"
    assert all(name.startswith("API ") for name in found.values())
    assert len(set(found.values())) == 2
    migrate.upgrade(migrated_url)


DOWN_BEFORE = """
WITH u AS (
    INSERT INTO users (wallet_address) VALUES ('0x' || repeat('ab', 20)) RETURNING id
), s AS (
    INSERT INTO subscriptions (user_id, name, target_type, target_config, status)
    SELECT u.id, kind, kind::monitor_type, '{}', 'active'
      FROM u, unnest('{http,balance}'::text[]) AS kind
    RETURNING id
), st AS (
    INSERT INTO subscription_state (subscription_id, verdict, since)
    SELECT id, 'down', date_trunc('milliseconds', now() - interval '1 hour') FROM s RETURNING *
)
INSERT INTO alert_history (
       time, event_id, channel_id, subscription_id, alert_type, severity, title, message, state)
SELECT since, gen_random_uuid(), gen_random_uuid(), subscription_id, 'downtime', 'critical', 't',
       'm', 'sent' FROM st RETURNING 1
"""


async def test_what_was_down_before_incidents_were_kept_is_told_to_be_over(
    database_url: str,
) -> None:
    """Also after a way back and forth with rows in all that is new."""
    migrate.upgrade(database_url, revision="0003")
    rows(database_url, DOWN_BEFORE)
    migrate.upgrade(database_url)
    migrate.downgrade(database_url, "0003")
    migrate.upgrade(database_url)
    async with open_pool(database_url, application="lighthouse-test") as pool:
        for id_, kind in rows(database_url, "SELECT id, target_type::text FROM subscriptions"):
            more: dict[str, Any] = (
                {"value": 100, "bounds": Bounds(critical_at=10, critical_clear_at=11)}
                if kind == "balance"
                else {}
            )
            slot = to_slot(datetime.now(UTC))
            found = Result(subscription_id=id_, slot=slot, status=CheckStatus.SUCCESS, **more)
            await record(pool, [found])
    assert rows(
        database_url,
        "SELECT s.target_type::text, i.kind::text, i.closed_at IS NOT NULL, h.state::text"
        " FROM incidents i JOIN subscriptions s ON s.id = i.subscription_id"
        " LEFT JOIN alert_history h ON h.incident_id = i.id AND h.alert_type = 'recovery'"
        " ORDER BY 1",
    ) == [("balance", "low_balance", True, "pending"), ("http", "downtime", True, "pending")]


def test_what_waits_for_nobody_to_see_it_is_not_sent_by_what_knows_no_acknowledgement(
    migrated_url: str,
) -> None:
    rows(
        migrated_url,
        "INSERT INTO alert_history (time, event_id, channel_id, subscription_id, alert_type,"
        " severity, title, message, context, held, next_attempt_at)"
        " SELECT now(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'downtime',"
        " 'critical', 't', 'm', context, held, now()"
        " FROM (VALUES ('{}'::jsonb, 'escalation'), ('{\"reminder\": 1}', NULL), ('{}', NULL))"
        " AS v (context, held) RETURNING 1",
    )
    migrate.downgrade(migrated_url, "0003")
    states = rows(migrated_url, "SELECT state::text FROM alert_history ORDER BY 1")
    assert states == [("pending",), ("suppressed",), ("suppressed",)]


def test_a_history_that_is_compressed_stops_no_way_up_or_down(database_url: str) -> None:
    """TimescaleDB unpacks 100,000 rows for one transaction's changes and no more."""
    migrate.upgrade(database_url, revision="0003")
    rows(
        database_url,
        "WITH added AS (INSERT INTO alert_history (time, event_id, channel_id, subscription_id,"
        " alert_type, severity, title, message, state) SELECT now() - interval '40 days'"
        " - g * interval '10 s', gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),"
        " 'downtime', 'critical', 't', 'm', 'sent' FROM generate_series(1, 100001) g"
        " RETURNING 1) SELECT count(*) FROM added",
    )
    rows(database_url, DOWN_BEFORE)
    if edition(database_url) is Edition.COMMUNITY:
        rows(
            database_url,
            "SELECT compress_chunk(c) FROM show_chunks('alert_history',"
            " older_than => interval '30 days') AS c",
        )
    migrate.upgrade(database_url)
    told = rows(database_url, "SELECT count(*) FROM alert_history WHERE incident_id IS NOT NULL")
    assert told == [(2,)]
    assert migrate.downgrade(database_url, "0003").after == "0003"
