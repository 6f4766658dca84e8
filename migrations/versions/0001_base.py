"""The ordinary tables: users, subscriptions, schedules, channels, rollups and the fleet's state."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TYPES = {
    "subscription_tier": ("free", "basic", "standard", "pro", "enterprise"),
    "monitor_type": ("http", "websocket", "balance", "canary", "graphql"),
    "subscription_status": ("pending", "active", "paused", "expired", "cancelled"),
    "alert_channel_type": ("discord", "telegram", "email", "slack", "webhook", "sms"),
    "check_status": ("success", "failure", "timeout", "error", "missed"),
    "alert_type": (
        "downtime",
        "recovery",
        "high_latency",
        "low_balance",
        "certificate_expiry",
        "operator",
    ),
    "alert_severity": ("info", "warning", "critical"),
    "delivery_state": ("pending", "sent", "gave_up", "merged", "suppressed", "channel_removed"),
    "verdict": ("unknown", "up", "down"),
}

TABLES = (
    """
    CREATE TABLE users (
        id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
        wallet_address varchar(42) NOT NULL UNIQUE,
        created_at timestamptz NOT NULL DEFAULT now(),
        last_seen_at timestamptz NOT NULL DEFAULT now(),
        settings jsonb NOT NULL DEFAULT '{}',
        CONSTRAINT wallet_address_format CHECK (wallet_address ~ '^0x[0-9a-f]{40}$')
    )
    """,
    """
    CREATE TABLE subscriptions (
        id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
        name text NOT NULL,
        target_type monitor_type NOT NULL,
        target_config jsonb NOT NULL,
        tier subscription_tier NOT NULL DEFAULT 'free',
        check_interval_seconds integer NOT NULL DEFAULT '900',
        status subscription_status NOT NULL DEFAULT 'pending',
        payment_tx_hash varchar(66),
        payment_chain varchar(20),
        payment_amount_usdc bigint,
        created_at timestamptz NOT NULL DEFAULT now(),
        activated_at timestamptz,
        expires_at timestamptz,
        cancelled_at timestamptz,
        metadata jsonb NOT NULL DEFAULT '{}',
        changed_xid bigint NOT NULL DEFAULT (pg_current_xact_id()::text)::bigint,
        CONSTRAINT check_interval_valid CHECK (check_interval_seconds BETWEEN 10 AND 86400),
        CONSTRAINT payment_tx_format
            CHECK (payment_tx_hash IS NULL OR payment_tx_hash ~ '^0x[a-fA-F0-9]{64}$'),
        CONSTRAINT payment_amount_valid CHECK (payment_amount_usdc >= 0),
        UNIQUE (user_id, name)
    )
    """,
    "CREATE INDEX idx_subscriptions_status ON subscriptions (status) WHERE status = 'active'",
    """
    CREATE INDEX idx_subscriptions_expires_at ON subscriptions (expires_at)
        WHERE status = 'active'
    """,
    "CREATE INDEX idx_subscriptions_changed_xid ON subscriptions (changed_xid)",
    """
    CREATE UNIQUE INDEX idx_subscriptions_payment ON subscriptions (payment_chain, payment_tx_hash)
        WHERE payment_tx_hash IS NOT NULL
    """,
    """
    CREATE TABLE schedule_epochs (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        subscription_id uuid NOT NULL REFERENCES subscriptions ON DELETE CASCADE,
        interval_ms integer NOT NULL,
        phase_ms integer NOT NULL,
        first_slot bigint NOT NULL,
        end_slot bigint,
        CONSTRAINT schedule_epochs_order CHECK (end_slot >= first_slot),
        CONSTRAINT schedule_epochs_phase
            CHECK (interval_ms > 0 AND phase_ms >= 0 AND phase_ms < interval_ms)
    )
    """,
    """
    CREATE UNIQUE INDEX idx_schedule_epochs_open ON schedule_epochs (subscription_id)
        WHERE end_slot IS NULL
    """,
    """
    CREATE INDEX idx_schedule_epochs_subscription
        ON schedule_epochs (subscription_id, first_slot)
    """,
    "CREATE INDEX idx_schedule_epochs_end ON schedule_epochs (end_slot) WHERE end_slot IS NOT NULL",
    """
    CREATE TABLE subscription_state (
        subscription_id uuid PRIMARY KEY REFERENCES subscriptions ON DELETE CASCADE,
        verdict verdict NOT NULL DEFAULT 'unknown',
        since timestamptz,
        judged_until timestamptz
    )
    """,
    """
    CREATE TABLE alert_channels (
        id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
        subscription_id uuid NOT NULL REFERENCES subscriptions ON DELETE CASCADE,
        channel_type alert_channel_type NOT NULL,
        channel_config jsonb NOT NULL,
        enabled boolean NOT NULL DEFAULT true,
        min_severity alert_severity NOT NULL DEFAULT 'warning',
        created_at timestamptz NOT NULL DEFAULT now(),
        last_used_at timestamptz,
        metadata jsonb NOT NULL DEFAULT '{}'
    )
    """,
    "CREATE INDEX idx_alert_channels_subscription ON alert_channels (subscription_id)",
    """
    CREATE TABLE history_gaps (
        subscription_id uuid NOT NULL,
        first_slot bigint NOT NULL,
        last_slot bigint NOT NULL,
        interval_ms integer NOT NULL,
        slots bigint NOT NULL,
        PRIMARY KEY (subscription_id, first_slot),
        CONSTRAINT history_gaps_grid
            CHECK (slots > 0 AND last_slot = first_slot + (slots - 1) * interval_ms)
    )
    """,
    """
    CREATE TABLE rollup_state (
        rollup varchar(10) PRIMARY KEY,
        open_from timestamptz NOT NULL,
        rolled_to timestamptz NOT NULL,
        CONSTRAINT rollup_state_order CHECK (rolled_to <= open_from)
    )
    """,
    """
    CREATE TABLE rollup_dirty (
        hour timestamptz NOT NULL,
        subscription_id uuid NOT NULL,
        PRIMARY KEY (hour, subscription_id)
    )
    """,
    """
    CREATE TABLE fleet_state (
        key varchar(40) PRIMARY KEY,
        value jsonb NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
)

ROLLUP_TABLE = """
    CREATE TABLE {name} (
        subscription_id uuid NOT NULL,
        {bucket} timestamptz NOT NULL,
        total_checks integer NOT NULL,
        successful_checks integer NOT NULL,
        failures integer NOT NULL,
        timeouts integer NOT NULL,
        errors integer NOT NULL,
        missed integer NOT NULL,
        alerts_triggered integer NOT NULL,
        latency_count integer NOT NULL,
        latency_sum double precision,
        p50_latency_ms real,
        p95_latency_ms real,
        p99_latency_ms real,
        min_latency_ms real,
        max_latency_ms real,
        PRIMARY KEY (subscription_id, {bucket})
    )
"""

# The number of the transaction that changed a row last, whoever changes it and however.
CHANGED = (
    """
    CREATE FUNCTION lighthouse_subscription_changed() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.changed_xid := (pg_current_xact_id()::text)::bigint;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER subscription_changed BEFORE UPDATE ON subscriptions
        FOR EACH ROW EXECUTE FUNCTION lighthouse_subscription_changed()
    """,
)

COMMENTS = {
    "users": "Owners of subscriptions, known by their wallet",
    "subscriptions": "What is watched, how often, for whom; the schedule is made from it",
    "schedule_epochs": "Spans in which a schedule was in force",
    "history_gaps": "Runs of missed slots too long for a row each",
}


def upgrade() -> None:
    for name, values in TYPES.items():
        listed = ", ".join(f"'{value}'" for value in values)
        op.execute(f"CREATE TYPE {name} AS ENUM ({listed})")
    for statement in TABLES:
        op.execute(statement)
    for name, bucket in (("hourly_rollups", "hour"), ("daily_rollups", "day")):
        op.execute(ROLLUP_TABLE.format(name=name, bucket=bucket))
    op.execute(
        "CREATE INDEX idx_hourly_rollups_hour ON hourly_rollups"
        " USING brin (hour) WITH (autosummarize = on, pages_per_range = 32)"
    )
    # Nothing is rolled up, nothing closed: on `community` it stays so for good.
    op.execute(
        "INSERT INTO rollup_state (rollup, open_from, rolled_to)"
        " SELECT rollup, 'epoch', 'epoch' FROM unnest(ARRAY['hourly', 'daily']) AS rollup"
    )
    for statement in CHANGED:
        op.execute(statement)
    for table, comment in COMMENTS.items():
        op.execute(f"COMMENT ON TABLE {table} IS '{comment}'")


def downgrade() -> None:
    op.execute(
        "DROP TABLE fleet_state, rollup_dirty, rollup_state, daily_rollups, hourly_rollups,"
        " history_gaps, alert_channels, subscription_state, schedule_epochs, subscriptions, users"
    )
    op.execute("DROP FUNCTION lighthouse_subscription_changed()")
    op.execute("DROP TYPE " + ", ".join(TYPES))
