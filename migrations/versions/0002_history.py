"""The histories and their rollups, in the form that the server has for them.

| edition   | check_history    | alert_history | hourly_checks, daily_checks        |
|-----------|------------------|---------------|------------------------------------|
| community | hypertable       | hypertable    | real-time continuous aggregates    |
| apache    | hypertable       | hypertable    | views: rollup tables, then raw rows|
| plain     | daily partitions | table         | views: rollup tables, then raw rows|

`hourly_metrics` and `daily_metrics` stand on those two and are the same text everywhere: they add
the slots inside `history_gaps` and divide the sums.
"""

import logging

from alembic import op

from lighthouse.store.edition import DETECT, Edition, best, judge

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

log = logging.getLogger("lighthouse.migrations")

# Days and hours are UTC's whatever the session's time zone; `date_trunc` would follow that.
ORIGIN = "TIMESTAMPTZ '2000-01-01 00:00:00+00'"

CHECK_HISTORY = """
    CREATE TABLE check_history (
        time timestamptz NOT NULL,
        subscription_id uuid NOT NULL,
        status check_status NOT NULL,
        latency_ms real,
        dns_ms real,
        tcp_ms real,
        tls_ms real,
        ttfb_ms real,
        delay_ms integer,
        http_status smallint,
        http_version smallint,
        attempts smallint NOT NULL DEFAULT '1',
        alert_triggered boolean NOT NULL DEFAULT false,
        alert_sent_at timestamptz,
        cert_expires_at timestamptz,
        error_code varchar(50),
        error_message text,
        region text,
        value numeric,
        timings jsonb,
        response_snippet text,
        PRIMARY KEY (subscription_id, time)
    )
"""

ALERT_HISTORY = """
    CREATE TABLE alert_history (
        time timestamptz NOT NULL,
        event_id uuid NOT NULL,
        channel_id uuid NOT NULL,
        subscription_id uuid NOT NULL,
        alert_type alert_type NOT NULL,
        severity alert_severity NOT NULL,
        title text NOT NULL,
        message text NOT NULL,
        context jsonb NOT NULL DEFAULT '{}',
        state delivery_state NOT NULL DEFAULT 'pending',
        sent boolean NOT NULL DEFAULT false,
        sent_at timestamptz,
        failed_reason text,
        related_check_time timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        attempt smallint NOT NULL DEFAULT '0',
        next_attempt_at timestamptz,
        lease_until timestamptz,
        lease_token uuid,
        last_answer text,
        PRIMARY KEY (event_id, channel_id, time)
    )
"""

INDEXES = (
    """
    CREATE INDEX idx_check_history_time ON check_history
        USING brin (time) WITH (autosummarize = on, pages_per_range = 32)
    """,
    """
    CREATE INDEX idx_check_history_failed ON check_history (subscription_id, time DESC)
        WHERE status IN ('failure', 'timeout')
    """,
    "CREATE INDEX idx_alert_history_subscription ON alert_history (subscription_id, time DESC)",
    """
    CREATE INDEX idx_alert_history_pending ON alert_history (next_attempt_at)
        WHERE state = 'pending'
    """,
)

COMMENTS = {
    "check_history": "One row for each due slot; time is the slot",
    "alert_history": "Outbox and delivery record: one row for each event and channel",
}

# A partition is made aside and attached: CREATE TABLE … PARTITION OF would wait for every reader
# of the history and make every writer wait behind it.
ENSURE_PARTITIONS = """
    CREATE FUNCTION lighthouse_ensure_partitions(first_day date, last_day date)
    RETURNS integer LANGUAGE plpgsql AS $$
    DECLARE
        d date;
        partition_name text;
        made integer := 0;
    BEGIN
        -- Two makers of one partition would both find it missing.
        PERFORM pg_advisory_xact_lock(7246002);
        FOR d IN SELECT generate_series(first_day, last_day, '1 day')::date LOOP
            partition_name := 'check_history_' || to_char(d, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(partition_name) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE check_history INCLUDING ALL)', partition_name);
            EXECUTE format(
                'ALTER TABLE check_history ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                partition_name, d::text || ' 00:00:00+00', (d + 1)::text || ' 00:00:00+00');
            made := made + 1;
        END LOOP;
        RETURN made;
    END
    $$
"""

HYPERTABLE = """
    SELECT create_hypertable('{table}', by_range('time', INTERVAL '{chunk}'),
                             create_default_indexes => false)
"""

JUDGED = "status IN ('success', 'failure', 'timeout')"

# Counted once here for all editions; the casts make it read as the rollup tables do.
AGGREGATES = f"""
    count(*)::integer AS total_checks,
    (count(*) FILTER (WHERE status = 'success'))::integer AS successful_checks,
    (count(*) FILTER (WHERE status = 'failure'))::integer AS failures,
    (count(*) FILTER (WHERE status = 'timeout'))::integer AS timeouts,
    (count(*) FILTER (WHERE status = 'error'))::integer AS errors,
    (count(*) FILTER (WHERE status = 'missed'))::integer AS missed,
    (count(*) FILTER (WHERE alert_triggered))::integer AS alerts_triggered,
    (count(latency_ms) FILTER (WHERE {JUDGED}))::integer AS latency_count,
    sum(latency_ms::double precision) FILTER (WHERE {JUDGED}) AS latency_sum,
    (percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE {JUDGED}))::real
        AS p50_latency_ms,
    (percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE {JUDGED}))::real
        AS p95_latency_ms,
    (percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms) FILTER (WHERE {JUDGED}))::real
        AS p99_latency_ms,
    min(latency_ms) FILTER (WHERE {JUDGED}) AS min_latency_ms,
    max(latency_ms) FILTER (WHERE {JUDGED}) AS max_latency_ms
"""

COLUMNS = """total_checks, successful_checks, failures, timeouts, errors, missed, alerts_triggered,
    latency_count, latency_sum, p50_latency_ms, p95_latency_ms, p99_latency_ms, min_latency_ms,
    max_latency_ms"""

CONTINUOUS_AGGREGATE = f"""
    CREATE MATERIALIZED VIEW {{checks}}
    WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
    SELECT time_bucket('{{width}}', time) AS {{bucket}}, subscription_id, {AGGREGATES}
    FROM check_history GROUP BY 1, 2
    WITH NO DATA
"""  # noqa: S608 - constants of this file

# Not SQL, so that it stays a call: the executor then asks once and leaves out the partitions and
# chunks that lie before the answer. One statement sees one snapshot, so rollups and raw rows meet.
ROLLED_TO = """
    CREATE FUNCTION lighthouse_rolled_to(which text) RETURNS timestamptz
    LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
    BEGIN
        RETURN (SELECT rolled_to FROM rollup_state WHERE rollup = which);
    END
    $$
"""

# Makes the view of what is rolled up and what is not. `since` is any earlier answer of
# lighthouse_rolled_to: it changes no row, but as a constant it spares the planner the partitions
# before it (90 of them cost 20 ms a query). The rollup task gives a newer one once a day.
READ_LIVE_FROM = f"""
    CREATE FUNCTION lighthouse_read_live_from(which text, since timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
    DECLARE
        width interval := CASE which WHEN 'hourly' THEN '1 hour' ELSE '1 day' END;
        bucket text := CASE which WHEN 'hourly' THEN 'hour' ELSE 'day' END;
    BEGIN
        EXECUTE format($view$
            CREATE OR REPLACE VIEW %1$I AS
            SELECT %2$I, subscription_id, {COLUMNS} FROM %3$I
            UNION ALL
            SELECT date_bin(%4$L, time, {ORIGIN}) AS %2$I, subscription_id, {AGGREGATES}
            FROM check_history
            WHERE time >= %5$L::timestamptz AND time >= lighthouse_rolled_to(%6$L)
            GROUP BY 1, 2
            $view$, which || '_checks', bucket, which || '_rollups', width,
            least(since, lighthouse_rolled_to(which)), which);
    END
    $$
"""  # noqa: S608

# At most one row of {checks} meets the gaps of its bucket, so max() of a percentile is that row's.
# Conditions on the bucket and the subscription reach both halves.
METRICS_VIEW = """
    CREATE VIEW {metrics} AS
    SELECT {bucket},
        subscription_id,
        sum(total_checks)::bigint AS total_checks,
        sum(successful_checks)::bigint AS successful_checks,
        sum(successful_checks)::double precision
            / nullif(sum(successful_checks + failures + timeouts), 0) AS uptime_ratio,
        sum(successful_checks + failures + timeouts)::double precision
            / nullif(sum(total_checks), 0) AS coverage_ratio,
        sum(latency_sum) / nullif(sum(latency_count), 0) AS avg_latency_ms,
        max(p50_latency_ms) AS p50_latency_ms,
        max(p95_latency_ms) AS p95_latency_ms,
        max(p99_latency_ms) AS p99_latency_ms,
        min(min_latency_ms) AS min_latency_ms,
        max(max_latency_ms) AS max_latency_ms,
        sum(failures)::bigint AS failures,
        sum(timeouts)::bigint AS timeouts,
        sum(errors)::bigint AS errors,
        sum(missed)::bigint AS missed,
        sum(alerts_triggered)::bigint AS alerts_triggered
    FROM (
        SELECT {bucket}, subscription_id, {columns} FROM {checks}
        UNION ALL
        SELECT to_timestamp(b.low / 1000), g.subscription_id, n.slots, 0, 0, 0, 0, n.slots, 0,
            0, NULL::double precision, NULL::real, NULL::real, NULL::real, NULL::real, NULL::real
        FROM history_gaps AS g
        CROSS JOIN LATERAL generate_series(
            g.first_slot - g.first_slot % {width_ms}, g.last_slot, {width_ms}) AS b(low)
        CROSS JOIN LATERAL (
            SELECT (least(g.slots - 1, (b.low + {width_ms} - 1 - g.first_slot) / g.interval_ms)
                - greatest(0, (b.low - g.first_slot + g.interval_ms - 1) / g.interval_ms)
                + 1)::integer AS slots) AS n
        WHERE n.slots > 0
    ) AS checks_and_gaps
    GROUP BY 1, 2
"""

ROLLUPS = (
    {
        "rollup": "hourly",
        "bucket": "hour",
        "width": "1 hour",
        "width_ms": 3_600_000,
        "checks": "hourly_checks",
        "metrics": "hourly_metrics",
        "columns": COLUMNS,
    },
    {
        "rollup": "daily",
        "bucket": "day",
        "width": "1 day",
        "width_ms": 86_400_000,
        "checks": "daily_checks",
        "metrics": "daily_metrics",
        "columns": COLUMNS,
    },
)

# Late rows come up to 7 days late and open no compressed chunk. The refresh windows hold the
# bucket of the latest of them and lie inside what retention leaves: a refresh over dropped chunks
# would erase rollups. Retention of raw and hourly rows is set after each upgrade, by
# store.migrate, from the setting.
POLICIES = (
    """
    ALTER TABLE check_history SET (timescaledb.enable_columnstore,
        timescaledb.segmentby = 'subscription_id', timescaledb.orderby = 'time DESC')
    """,
    "CALL add_columnstore_policy('check_history', after => INTERVAL '7 days')",
    """
    ALTER TABLE alert_history SET (timescaledb.enable_columnstore,
        timescaledb.segmentby = 'subscription_id',
        timescaledb.orderby = 'time DESC, event_id, channel_id')
    """,
    "CALL add_columnstore_policy('alert_history', after => INTERVAL '30 days')",
    "SELECT add_retention_policy('alert_history', drop_after => INTERVAL '1 year')",
    """
    SELECT add_continuous_aggregate_policy('hourly_checks',
        start_offset => INTERVAL '7 days 6 hours', end_offset => INTERVAL '1 hour',
        schedule_interval => INTERVAL '30 minutes')
    """,
    """
    SELECT add_continuous_aggregate_policy('daily_checks',
        start_offset => INTERVAL '8 days 6 hours', end_offset => INTERVAL '1 hour',
        schedule_interval => INTERVAL '1 hour')
    """,
)


def upgrade() -> None:
    driver = op.get_bind().connection.driver_connection
    edition, notice = best(driver)
    if notice:
        log.warning("%s", notice)
    timescale = edition is not Edition.PLAIN
    op.execute(CHECK_HISTORY + ("" if timescale else "PARTITION BY RANGE (time)"))
    op.execute(ALERT_HISTORY)
    if timescale:
        op.execute(HYPERTABLE.format(table="check_history", chunk="1 day"))
        op.execute(HYPERTABLE.format(table="alert_history", chunk="7 days"))
    for statement in INDEXES:
        op.execute(statement)
    for table, comment in COMMENTS.items():
        op.execute(f"COMMENT ON TABLE {table} IS '{comment}'")
    if not timescale:
        op.execute(ENSURE_PARTITIONS)
        op.execute(
            "SELECT lighthouse_ensure_partitions(today - 8, today + 7)"
            " FROM CAST(now() AT TIME ZONE 'UTC' AS date) AS today"
        )
    if edition is not Edition.COMMUNITY:
        op.execute(ROLLED_TO)
        op.execute(READ_LIVE_FROM)
    for rollup in ROLLUPS:
        if edition is Edition.COMMUNITY:
            op.execute(CONTINUOUS_AGGREGATE.format(**rollup))
        else:
            op.execute(f"SELECT lighthouse_read_live_from('{rollup['rollup']}', 'epoch')")
        op.execute(METRICS_VIEW.format(**rollup))
    if edition is Edition.COMMUNITY:
        for statement in POLICIES:
            op.execute(statement)


def downgrade() -> None:
    # The extension stays: it may serve others, and dropping it would end their sessions.
    edition = judge(op.get_bind().exec_driver_sql(DETECT).one())
    kind = "MATERIALIZED VIEW" if edition is Edition.COMMUNITY else "VIEW"
    for rollup in ROLLUPS:
        op.execute(f"DROP VIEW {rollup['metrics']}")
        op.execute(f"DROP {kind} {rollup['checks']}")
    op.execute("DROP FUNCTION IF EXISTS lighthouse_read_live_from(text, timestamptz)")
    op.execute("DROP FUNCTION IF EXISTS lighthouse_rolled_to(text)")
    op.execute("DROP TABLE check_history")
    op.execute("DROP TABLE alert_history")
    op.execute("DROP FUNCTION IF EXISTS lighthouse_ensure_partitions(date, date)")
