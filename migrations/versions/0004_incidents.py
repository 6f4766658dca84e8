"""Incidents, what is to be told of them and what is not: policies, parents, maintenance, limits.

The types' new values stay at a downgrade, for PostgreSQL cannot take one away; the rows that bear
them go.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

VALUES = {
    "alert_type": ("flapping", "coverage", "summary"),
    "alert_channel_type": ("apprise",),
}

STATEMENTS = (
    "ALTER TABLE subscriptions ADD COLUMN alerting jsonb NOT NULL DEFAULT '{}'",
    """
    ALTER TABLE subscription_state
        ADD COLUMN slow boolean NOT NULL DEFAULT false,
        ADD COLUMN balance_level smallint NOT NULL DEFAULT '0',
        ADD COLUMN certificates jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN flapping_since timestamptz,
        ADD COLUMN uncovered_since timestamptz,
        ADD COLUMN latency_warn_ms real,
        ADD CONSTRAINT balance_level_valid CHECK (balance_level BETWEEN 0 AND 2)
    """,
    """
    ALTER TABLE alert_channels
        ADD COLUMN escalate_after_s integer NOT NULL DEFAULT '0',
        ADD CONSTRAINT escalate_after_valid CHECK (escalate_after_s BETWEEN 0 AND 259200)
    """,
    """
    CREATE TABLE incidents (
        id uuid PRIMARY KEY,
        subscription_id uuid NOT NULL REFERENCES subscriptions ON DELETE CASCADE,
        kind alert_type NOT NULL,
        severity alert_severity NOT NULL,
        opened_at timestamptz NOT NULL,
        first_failure_at timestamptz NOT NULL,
        closed_at timestamptz,
        evidence jsonb NOT NULL DEFAULT '{}',
        acknowledged_at timestamptz,
        acknowledged_by text,
        note text,
        CONSTRAINT incidents_order
            CHECK (first_failure_at <= opened_at AND closed_at > opened_at)
    )
    """,
    """
    CREATE UNIQUE INDEX idx_incidents_open ON incidents (subscription_id, kind)
        WHERE closed_at IS NULL
    """,
    "CREATE INDEX idx_incidents_subscription ON incidents (subscription_id, opened_at)",
    "CREATE INDEX idx_incidents_opened_at ON incidents (opened_at)",
    """
    CREATE TABLE subscription_parents (
        subscription_id uuid NOT NULL REFERENCES subscriptions ON DELETE CASCADE,
        parent_id uuid NOT NULL REFERENCES subscriptions ON DELETE CASCADE,
        PRIMARY KEY (subscription_id, parent_id),
        CONSTRAINT no_parent_of_itself CHECK (subscription_id <> parent_id)
    )
    """,
    "CREATE INDEX idx_subscription_parents_parent_id ON subscription_parents (parent_id)",
    """
    CREATE TABLE maintenance_windows (
        id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
        subscription_id uuid REFERENCES subscriptions ON DELETE CASCADE,
        name text NOT NULL,
        local_start timestamp NOT NULL,
        duration_s integer NOT NULL,
        timezone text NOT NULL,
        repeat text,
        starts_at timestamptz NOT NULL,
        ends_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT maintenance_duration_valid CHECK (duration_s BETWEEN 60 AND 604800),
        CONSTRAINT maintenance_order CHECK (ends_at > starts_at)
    )
    """,
    "CREATE INDEX idx_maintenance_windows_user ON maintenance_windows (user_id, ends_at)",
    """
    CREATE TABLE alert_budgets (
        owner_id uuid NOT NULL,
        hour timestamptz NOT NULL,
        used integer NOT NULL DEFAULT '0',
        withheld integer NOT NULL DEFAULT '0',
        summarised boolean NOT NULL DEFAULT false,
        PRIMARY KEY (owner_id, hour)
    )
    """,
    """
    CREATE INDEX idx_alert_budgets_withheld ON alert_budgets (hour)
        WHERE withheld > 0 AND NOT summarised
    """,
    # Without defaults: a table with compressed chunks takes no others in every version.
    "ALTER TABLE alert_history ADD COLUMN incident_id uuid",
    "ALTER TABLE alert_history ADD COLUMN held text",
    "ALTER TABLE alert_history ADD COLUMN tries jsonb",
    """
    CREATE INDEX idx_alert_history_incident ON alert_history (incident_id, time)
        WHERE incident_id IS NOT NULL
    """,
    "CREATE INDEX idx_alert_history_gave_up ON alert_history (time) WHERE state = 'gave_up'",
    """
    CREATE INDEX idx_subscription_state_latency ON subscription_state (subscription_id)
        WHERE latency_warn_ms IS NOT NULL
    """,
)

# What is down now has begun: who was told of it is to hear of its end. A balance that was told to
# be down is critically low, and only as such will it end.
BEGUN = (
    """
    INSERT INTO incidents (id, subscription_id, kind, severity, opened_at, first_failure_at)
    SELECT DISTINCT ON (s.subscription_id)
           a.event_id, s.subscription_id,
           CASE WHEN b.target_type = 'balance' THEN 'low_balance' ELSE a.alert_type END,
           a.severity, s.since, s.since
      FROM subscription_state s JOIN subscriptions b ON b.id = s.subscription_id
      JOIN alert_history a
        ON a.subscription_id = s.subscription_id AND a.time = s.since
       AND a.alert_type = 'downtime'
     WHERE s.verdict = 'down'
    """,
    """
    UPDATE subscription_state s SET balance_level = 2
      FROM incidents i WHERE i.subscription_id = s.subscription_id AND i.kind = 'low_balance'
    """,
    # One at a time, by constants: a join would decompress the whole history.
    """
    DO $$
    DECLARE
        one record;
    BEGIN
        FOR one IN SELECT id, subscription_id, opened_at FROM incidents LOOP
            EXECUTE format(
                'UPDATE alert_history SET incident_id = %1$L'
                ' WHERE event_id = %1$L AND subscription_id = %2$L AND time = %3$L',
                one.id, one.subscription_id, one.opened_at);
        END LOOP;
    END $$
    """,
)

COMMENTS = {
    "incidents": "What began and ended: one row for each time that something was wrong",
    "subscription_parents": "While a parent is down its children's alerts are held",
    "maintenance_windows": "When alerts are held; starts_at and ends_at are of the next occurrence",
    "alert_budgets": "How many alerts an owner was told in an hour, and how many not",
}


def upgrade() -> None:
    for name, values in VALUES.items():
        for value in values:
            op.execute(f"ALTER TYPE {name} ADD VALUE IF NOT EXISTS '{value}'")
    for statement in (*STATEMENTS, *BEGUN):
        op.execute(statement)
    for table, comment in COMMENTS.items():
        op.execute(f"COMMENT ON TABLE {table} IS $text${comment}$text$")


def downgrade() -> None:
    # Rows may be in any chunk, compressed ones too, where there are such.
    op.execute(
        "SELECT set_config(name, '0', true) FROM pg_settings"
        " WHERE name = 'timescaledb.max_tuples_decompressed_per_dml_transaction'"
    )
    op.execute(
        "DELETE FROM alert_history WHERE alert_type::text = ANY('{flapping,coverage,summary}')"
    )
    op.execute("DELETE FROM alert_channels WHERE channel_type::text = 'apprise'")
    # What waited to be let go where it is over or acknowledged would now be sent whatever is so.
    op.execute(
        "UPDATE alert_history SET state = 'suppressed', next_attempt_at = NULL,"
        " lease_until = NULL, lease_token = NULL, failed_reason = 'the schema was taken back'"
        " WHERE time > now() - interval '16 days' AND state = 'pending'"
        " AND (held = 'escalation' OR context ? 'reminder')"
    )
    op.execute("DROP INDEX idx_alert_history_incident")
    op.execute("DROP INDEX idx_alert_history_gave_up")
    for column in ("incident_id", "held", "tries"):
        op.execute(f"ALTER TABLE alert_history DROP COLUMN {column}")
    for table in ("alert_budgets", "maintenance_windows", "subscription_parents", "incidents"):
        op.execute(f"DROP TABLE {table}")
    op.execute("ALTER TABLE alert_channels DROP COLUMN escalate_after_s")
    op.execute(
        "ALTER TABLE subscription_state DROP COLUMN slow, DROP COLUMN balance_level,"
        " DROP COLUMN certificates, DROP COLUMN flapping_since, DROP COLUMN uncovered_since,"
        " DROP COLUMN latency_warn_ms"
    )
    op.execute("ALTER TABLE subscriptions DROP COLUMN alerting")
