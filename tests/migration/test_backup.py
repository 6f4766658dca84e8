"""A backup that is restored by the manual's steps is whole, and beat follows it."""

import asyncio
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import psycopg

from lighthouse.local.servers import postgres_binary
from lighthouse.model import CheckStatus, MonitorType, Tier
from lighthouse.store import catalog, creation, migrate
from lighthouse.store.changes import changes_since
from lighthouse.store.edition import Edition
from lighthouse.store.pool import Pool, open_pool
from tests.support import history

#: What must be the same in the copy, as text.
FACTS = (
    "SELECT version_num FROM alembic_version",
    "SELECT id, name, status, changed_xid > 0 FROM subscriptions ORDER BY name",
    "SELECT time, subscription_id, status, latency_ms FROM check_history ORDER BY 2, 1",
    "SELECT h::text FROM hourly_metrics AS h ORDER BY h.subscription_id, h.hour",
    "SELECT d::text FROM daily_metrics AS d ORDER BY d.subscription_id, d.day",
)


def facts(url: str) -> list[list[tuple[object, ...]]]:
    with psycopg.connect(url) as connection:
        return [connection.execute(query).fetchall() for query in FACTS]


def policies(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT proc_name, hypertable_name, config FROM timescaledb_information.jobs"
            " WHERE hypertable_name IS NOT NULL ORDER BY job_id"
        ).fetchall()


def client(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [str(postgres_binary(program)), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def sql(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


async def subscribe(pool: Pool, name: str) -> UUID:
    return await creation.create_subscription(
        pool,
        creation.NewSubscription(
            wallet=f"0x{1:040x}",
            type=MonitorType.HTTP,
            config={"url": "https://example.com/"},
            interval_s=60,
            worst_case_s=20.0,
            tier=Tier.ENTERPRISE,
            name=name,
        ),
        enforce_plans=True,
    )


async def test_a_restored_backup_holds_every_row_rollup_and_policy(
    pool: Pool, migrated_url: str, database_url: str, tmp_path: Path
) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    ids = [await subscribe(pool, name) for name in ("api", "site")]
    async with pool.connection() as conn:
        await history.insert_raw(
            conn,
            [
                (
                    i,
                    now - timedelta(minutes=m),
                    CheckStatus.FAILURE if m % 9 == 0 else history.UP,
                    m,
                )
                for i in ids
                for m in range(200)
            ],
        )
    await history.settle(pool)
    edition = await history.edition_of(pool)
    dump = str(tmp_path / "lighthouse.dump")

    await asyncio.to_thread(client, "pg_dump", "-Fc", "-f", dump, migrated_url)
    if edition is not Edition.PLAIN:
        sql(database_url, "CREATE EXTENSION IF NOT EXISTS timescaledb")
        sql(database_url, "SELECT timescaledb_pre_restore()")
    await asyncio.to_thread(client, "pg_restore", "-d", database_url, dump)
    if edition is not Edition.PLAIN:
        sql(database_url, "SELECT timescaledb_post_restore()")
    await asyncio.to_thread(migrate.upgrade, database_url)

    assert facts(database_url) == facts(migrated_url)
    if edition is Edition.COMMUNITY:
        assert policies(database_url) == policies(migrated_url)
    async with open_pool(database_url, application="lighthouse-test") as restored:
        await catalog.pause(restored, ids[0])
        await subscribe(restored, "new")


async def test_beat_sees_changes_after_a_restore_into_a_younger_server(
    pool: Pool, migrated_url: str
) -> None:
    subscription = await subscribe(pool, "api")
    for statement in (
        "ALTER TABLE subscriptions DISABLE TRIGGER USER",
        "UPDATE subscriptions SET changed_xid = 10000000000",
        "ALTER TABLE subscriptions ENABLE TRIGGER USER",
    ):
        sql(migrated_url, statement)

    await asyncio.to_thread(migrate.upgrade, migrated_url)

    async with pool.connection() as conn:
        (before,), since, _ = await changes_since(conn, 0)
    await catalog.pause(pool, subscription)
    async with pool.connection() as conn:
        (after,), _, active = await changes_since(conn, since)
    assert after.id == subscription
    assert after.changed_xid > before.changed_xid
    assert active == 0
