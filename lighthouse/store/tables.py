"""The schema's one source: what migrations must produce is what stands here.

Two kinds of object differ by edition and are not tables here: how `check_history` and
`alert_history` are partitioned, and whether `hourly_metrics` and `daily_metrics` are continuous
aggregates or views over the rollup tables. See migrations/ for both.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB, REAL, UUID

from lighthouse import model

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "idx_%(table_name)s_%(column_0_N_name)s",
        "ck": "%(constraint_name)s",
    }
)


def _enum(name: str, values: type[Any]) -> Enum:
    return Enum(*[member.value for member in values], name=name, metadata=metadata)


SUBSCRIPTION_TIER = _enum("subscription_tier", model.Tier)
MONITOR_TYPE = _enum("monitor_type", model.MonitorType)
SUBSCRIPTION_STATUS = _enum("subscription_status", model.SubscriptionStatus)
ALERT_CHANNEL_TYPE = _enum("alert_channel_type", model.ChannelType)
CHECK_STATUS = _enum("check_status", model.CheckStatus)
ALERT_TYPE = _enum("alert_type", model.AlertType)
ALERT_SEVERITY = _enum("alert_severity", model.Severity)
DELIVERY_STATE = _enum("delivery_state", model.DeliveryState)
VERDICT = _enum("verdict", model.Verdict)

_NOW = text("now()")
_EMPTY = text("'{}'::jsonb")
_NEW_ID = text("gen_random_uuid()")


def _time(name: str, *, null: bool = False, now: bool = False) -> Column[Any]:
    return Column(
        name, DateTime(timezone=True), nullable=null, server_default=_NOW if now else None
    )


users = Table(
    "users",
    metadata,
    Column("id", UUID, primary_key=True, server_default=_NEW_ID),
    # Lower case only, so that one address is one user.
    Column("wallet_address", String(42), nullable=False, unique=True),
    _time("created_at", now=True),
    _time("last_seen_at", now=True),
    Column("settings", JSONB, nullable=False, server_default=_EMPTY),
    CheckConstraint("wallet_address ~ '^0x[0-9a-f]{40}$'", name="wallet_address_format"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", UUID, primary_key=True, server_default=_NEW_ID),
    Column("user_id", UUID, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("target_type", MONITOR_TYPE, nullable=False),
    Column("target_config", JSONB, nullable=False),
    Column("tier", SUBSCRIPTION_TIER, nullable=False, server_default="free"),
    Column("check_interval_seconds", Integer, nullable=False, server_default="900"),
    Column("status", SUBSCRIPTION_STATUS, nullable=False, server_default="pending"),
    Column("payment_tx_hash", String(66)),
    Column("payment_chain", String(20)),
    Column("payment_amount_usdc", BigInteger),
    _time("created_at", now=True),
    _time("activated_at", null=True),
    _time("expires_at", null=True),
    _time("cancelled_at", null=True),
    Column("metadata", JSONB, nullable=False, server_default=_EMPTY),
    # The transaction that changed the row last, kept by a trigger: beat reads what is new since
    # its last snapshot, and workers take it as the version of the spec.
    Column(
        "changed_xid",
        BigInteger,
        nullable=False,
        server_default=text("(pg_current_xact_id()::text)::bigint"),
    ),
    Column("alerting", JSONB, nullable=False, server_default=_EMPTY),  # alerting.Alerting
    CheckConstraint("check_interval_seconds BETWEEN 10 AND 86400", name="check_interval_valid"),
    CheckConstraint(
        "payment_tx_hash IS NULL OR payment_tx_hash ~ '^0x[a-fA-F0-9]{64}$'",
        name="payment_tx_format",
    ),
    CheckConstraint("payment_amount_usdc >= 0", name="payment_amount_valid"),
    # A name is free again when its subscription has ended.
    Index(
        "idx_subscriptions_name",
        "user_id",
        "name",
        unique=True,
        postgresql_where=text("status IN ('pending', 'active', 'paused')"),
    ),
    Index("idx_subscriptions_user", "user_id"),
    Index("idx_subscriptions_status", "status", postgresql_where=text("status = 'active'")),
    Index("idx_subscriptions_expires_at", "expires_at", postgresql_where=text("status = 'active'")),
    Index("idx_subscriptions_changed_xid", "changed_xid"),
)

# One payment buys one subscription.
Index(
    "idx_subscriptions_payment",
    subscriptions.c.payment_chain,
    subscriptions.c.payment_tx_hash,
    unique=True,
    postgresql_where=text("payment_tx_hash IS NOT NULL"),
)

# The spans in which a schedule was in force; `missed` is computed from these alone.
schedule_epochs = Table(
    "schedule_epochs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column(
        "subscription_id",
        UUID,
        ForeignKey("subscriptions.id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("interval_ms", Integer, nullable=False),
    Column("phase_ms", Integer, nullable=False),
    Column("first_slot", BigInteger, nullable=False),  # ms since the epoch
    Column("end_slot", BigInteger),  # exclusive; NULL while in force
    CheckConstraint("end_slot >= first_slot", name="schedule_epochs_order"),
    CheckConstraint(
        "interval_ms > 0 AND phase_ms >= 0 AND phase_ms < interval_ms",
        name="schedule_epochs_phase",
    ),
    Index(
        "idx_schedule_epochs_open",
        "subscription_id",
        unique=True,
        postgresql_where=text("end_slot IS NULL"),
    ),
    Index("idx_schedule_epochs_subscription", "subscription_id", "first_slot"),
    Index(
        "idx_schedule_epochs_end",
        "end_slot",
        postgresql_where=text("end_slot IS NOT NULL"),
    ),
)

# What is believed of each target. Made with its subscription; a steady result writes nothing here.
subscription_state = Table(
    "subscription_state",
    metadata,
    Column(
        "subscription_id",
        UUID,
        ForeignKey("subscriptions.id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("verdict", VERDICT, nullable=False, server_default="unknown"),
    _time("since", null=True),  # the slot of the transition
    _time("judged_until", null=True),  # the newest slot that a transition was decided from
    Column("slow", Boolean, nullable=False, server_default=text("false")),
    Column("balance_level", SmallInteger, nullable=False, server_default="0"),  # 1 low, 2 critical
    # Fingerprint of each certificate told of -> [days of the threshold told last, expiry].
    Column("certificates", JSONB, nullable=False, server_default=_EMPTY),
    _time("flapping_since", null=True),
    _time("uncovered_since", null=True),  # the hour from which coverage was told to be low
    # From subscriptions.alerting: whether a success may be slow is asked for each one.
    Column("latency_warn_ms", REAL),
    Index(
        "idx_subscription_state_latency",
        "subscription_id",
        postgresql_where=text("latency_warn_ms IS NOT NULL"),
    ),
    CheckConstraint("balance_level BETWEEN 0 AND 2", name="balance_level_valid"),
)

alert_channels = Table(
    "alert_channels",
    metadata,
    Column("id", UUID, primary_key=True, server_default=_NEW_ID),
    Column(
        "subscription_id",
        UUID,
        ForeignKey("subscriptions.id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("channel_type", ALERT_CHANNEL_TYPE, nullable=False),
    Column("channel_config", JSONB, nullable=False),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("min_severity", ALERT_SEVERITY, nullable=False, server_default="warning"),
    _time("created_at", now=True),
    _time("last_used_at", null=True),
    Column("metadata", JSONB, nullable=False, server_default=_EMPTY),
    # Told only of what has lasted so long and nobody has acknowledged.
    Column("escalate_after_s", Integer, nullable=False, server_default="0"),
    CheckConstraint("escalate_after_s BETWEEN 0 AND 259200", name="escalate_after_valid"),
    Index("idx_alert_channels_subscription", "subscription_id"),
)

# Opened and closed in the transaction of the results that did it. The id is that of the event which
# told of its beginning, so the rows of that event are found by it.
incidents = Table(
    "incidents",
    metadata,
    Column("id", UUID, primary_key=True),
    Column(
        "subscription_id",
        UUID,
        ForeignKey("subscriptions.id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("kind", ALERT_TYPE, nullable=False),  # downtime, high_latency or low_balance
    Column("severity", ALERT_SEVERITY, nullable=False),  # the worst that it was
    _time("opened_at"),  # the slot that tipped the verdict
    _time("first_failure_at"),  # the first slot of the run that did
    _time("closed_at", null=True),  # the slot that ended it
    Column("evidence", JSONB, nullable=False, server_default=_EMPTY),
    _time("acknowledged_at", null=True),
    Column("acknowledged_by", Text),
    Column("note", Text),
    CheckConstraint(
        "first_failure_at <= opened_at AND closed_at > opened_at", name="incidents_order"
    ),
    Index(
        "idx_incidents_open",
        "subscription_id",
        "kind",
        unique=True,
        postgresql_where=text("closed_at IS NULL"),
    ),
    Index("idx_incidents_subscription", "subscription_id", "opened_at"),
    Index("idx_incidents_opened_at", "opened_at"),
)

subscription_parents = Table(
    "subscription_parents",
    metadata,
    Column(
        "subscription_id",
        UUID,
        ForeignKey("subscriptions.id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("parent_id", UUID, ForeignKey("subscriptions.id", ondelete="CASCADE"), nullable=False),
    PrimaryKeyConstraint("subscription_id", "parent_id"),
    CheckConstraint("subscription_id <> parent_id", name="no_parent_of_itself"),
    Index("idx_subscription_parents_parent_id", "parent_id"),
)

maintenance_windows = Table(
    "maintenance_windows",
    metadata,
    Column("id", UUID, primary_key=True, server_default=_NEW_ID),
    Column("user_id", UUID, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    # NULL: all subscriptions of the user.
    Column("subscription_id", UUID, ForeignKey("subscriptions.id", ondelete="CASCADE")),
    Column("name", Text, nullable=False),
    Column("local_start", DateTime(timezone=False), nullable=False),  # by the clock of its zone
    Column("duration_s", Integer, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("repeat", Text),  # an RRULE of RFC 5545; NULL: once
    _time("starts_at"),  # of the occurrence that is running or comes next
    _time("ends_at"),
    _time("created_at", now=True),
    CheckConstraint("duration_s BETWEEN 60 AND 604800", name="maintenance_duration_valid"),
    CheckConstraint("ends_at > starts_at", name="maintenance_order"),
    Index("idx_maintenance_windows_user", "user_id", "ends_at"),
)

# Owners are subscriptions and users. Locked in the order of their ids, after all states.
alert_budgets = Table(
    "alert_budgets",
    metadata,
    Column("owner_id", UUID, nullable=False),
    _time("hour"),
    Column("used", Integer, nullable=False, server_default="0"),
    Column("withheld", Integer, nullable=False, server_default="0"),
    Column("summarised", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("owner_id", "hour"),
    Index(
        "idx_alert_budgets_withheld",
        "hour",
        postgresql_where=text("withheld > 0 AND NOT summarised"),
    ),
)

# No foreign key: creating a chunk would lock the referenced table (timescaledb #7429).
check_history = Table(
    "check_history",
    metadata,
    _time("time"),  # the slot
    Column("subscription_id", UUID, nullable=False),
    Column("status", CHECK_STATUS, nullable=False),
    Column("latency_ms", REAL),
    # The phases of HTTP as typed columns: JSONB took 88 bytes more for each row.
    Column("dns_ms", REAL),
    Column("tcp_ms", REAL),
    Column("tls_ms", REAL),
    Column("ttfb_ms", REAL),
    Column("delay_ms", Integer),  # slot to start of its batch
    Column("http_status", SmallInteger),
    Column("http_version", SmallInteger),  # 10, 11, 20, 30
    Column("attempts", SmallInteger, nullable=False, server_default="1"),
    Column("alert_triggered", Boolean, nullable=False, server_default=text("false")),
    _time("alert_sent_at", null=True),
    _time("cert_expires_at", null=True),
    Column("error_code", String(50)),
    Column("error_message", Text),
    Column("region", Text),
    Column("value", Numeric),
    Column("timings", JSONB),  # phases of other monitor types
    Column("response_snippet", Text),  # kept unless success
    # Led by the subscription: the latest rows of a target are one short index scan.
    PrimaryKeyConstraint("subscription_id", "time"),
    # Rows come nearly in time order, so BRIN finds an hour at a thousandth of a B-tree's size.
    Index(
        "idx_check_history_time",
        "time",
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on", "pages_per_range": 32},
    ),
    # Four values of status would cost every write and serve nothing; failures are rare.
    Index(
        "idx_check_history_failed",
        "subscription_id",
        text("time DESC"),
        postgresql_where=text("status IN ('failure', 'timeout')"),
    ),
)

# Long silences, told once instead of by a row a slot. All slots of a record belong to one epoch's
# grid: first_slot, first_slot + interval_ms, … `slots` of them.
history_gaps = Table(
    "history_gaps",
    metadata,
    Column("subscription_id", UUID, nullable=False),
    Column("first_slot", BigInteger, nullable=False),  # ms since the epoch
    Column("last_slot", BigInteger, nullable=False),
    Column("interval_ms", Integer, nullable=False),
    Column("slots", BigInteger, nullable=False),
    PrimaryKeyConstraint("subscription_id", "first_slot"),
    CheckConstraint(
        "slots > 0 AND last_slot = first_slot + (slots - 1) * interval_ms",
        name="history_gaps_grid",
    ),
)

# The outbox and the delivery record: one row for each event and channel. `time` is the slot that
# made the event, so the key is the same in every process that sees the transition.
alert_history = Table(
    "alert_history",
    metadata,
    _time("time"),
    Column("event_id", UUID, nullable=False),
    Column("channel_id", UUID, nullable=False),  # all zeros: the event had no channel
    Column("subscription_id", UUID, nullable=False),  # all zeros: about the fleet itself
    Column("alert_type", ALERT_TYPE, nullable=False),
    Column("severity", ALERT_SEVERITY, nullable=False),
    Column("title", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("context", JSONB, nullable=False, server_default=_EMPTY),
    Column("state", DELIVERY_STATE, nullable=False, server_default="pending"),
    Column("sent", Boolean, nullable=False, server_default=text("false")),
    _time("sent_at", null=True),
    Column("failed_reason", Text),
    _time("related_check_time", null=True),
    _time("created_at", now=True),
    Column("attempt", SmallInteger, nullable=False, server_default="0"),
    _time("next_attempt_at", null=True),  # NULL in every end state
    _time("lease_until", null=True),
    Column("lease_token", UUID),
    Column("last_answer", Text),
    Column("incident_id", UUID),  # NULL: of no incident
    Column("held", Text),  # why a pending row is not to be told yet
    Column("tries", JSONB),  # of each try its time, what was answered and whether it was taken
    PrimaryKeyConstraint("event_id", "channel_id", "time"),
    Index("idx_alert_history_subscription", "subscription_id", text("time DESC")),
    Index(
        "idx_alert_history_pending",
        "next_attempt_at",
        postgresql_where=text("state = 'pending'"),
    ),
    Index(
        "idx_alert_history_incident",
        "incident_id",
        "time",
        postgresql_where=text("incident_id IS NOT NULL"),
    ),
    Index("idx_alert_history_gave_up", "time", postgresql_where=text("state = 'gave_up'")),
)


def _rollup(name: str, bucket: str, percentiles: tuple[str, ...]) -> Table:
    """A rollup table of the `apache` and `plain` editions, kept by the maintenance task.

    Its key holds the whole row: those of one subscription lie on a page each of the table itself.
    """
    counts = (
        "total_checks",
        "successful_checks",
        "failures",
        "timeouts",
        "errors",
        "missed",
        "alerts_triggered",
        "latency_count",
    )
    latencies = tuple(f"{name}_latency_ms" for name in (*percentiles, "min", "max"))
    return Table(
        name,
        metadata,
        Column("subscription_id", UUID, nullable=False),
        _time(bucket),
        *(Column(column, Integer, nullable=False) for column in counts),
        Column("latency_sum", DOUBLE_PRECISION),
        *(Column(column, REAL) for column in latencies),
        PrimaryKeyConstraint(
            "subscription_id",
            bucket,
            postgresql_include=[*counts, "latency_sum", *latencies],
        ),
    )


hourly_rollups = _rollup("hourly_rollups", "hour", ("p50", "p95", "p99"))
daily_rollups = _rollup("daily_rollups", "day", ("p50", "p95", "p99"))

# Hours come in order, so this finds the ones to drop after a year without a B-tree's writes.
Index(
    "idx_hourly_rollups_hour",
    hourly_rollups.c.hour,
    postgresql_using="brin",
    postgresql_with={"autosummarize": "on", "pages_per_range": 32},
)

# One row each for `hourly` and `daily`. Rows of check_history older than `open_from` mark their
# bucket dirty; buckets before `rolled_to` are read from the rollup table, later ones live.
rollup_state = Table(
    "rollup_state",
    metadata,
    Column("rollup", String(10), primary_key=True),
    _time("open_from"),
    _time("rolled_to"),
    CheckConstraint("rolled_to <= open_from", name="rollup_state_order"),
)

# Closed buckets that a late row fell into; the rollup task redoes and removes them.
rollup_dirty = Table(
    "rollup_dirty",
    metadata,
    _time("hour"),
    Column("subscription_id", UUID, nullable=False),
    PrimaryKeyConstraint("hour", "subscription_id"),
)

# What the fleet as a whole has reached: `accounted_to` (every due slot up to it has a row or a
# gap), and the last run of each upkeep task for `lighthouse db status`.
fleet_state = Table(
    "fleet_state",
    metadata,
    Column("key", String(40), primary_key=True),
    Column("value", JSONB, nullable=False),
    _time("updated_at", now=True),
)

# How the guide's rollups are named and what they read as, on every edition.
METRIC_COLUMNS = (
    "subscription_id",
    "total_checks",
    "successful_checks",
    "uptime_ratio",
    "coverage_ratio",
    "avg_latency_ms",
    "p50_latency_ms",
    "p95_latency_ms",
    "p99_latency_ms",
    "min_latency_ms",
    "max_latency_ms",
    "failures",
    "timeouts",
    "errors",
    "missed",
    "alerts_triggered",
)

COMMENTS: dict[str, str] = {
    "users": "Owners of subscriptions, known by their wallet",
    "subscriptions": "What is watched, how often, for whom; the schedule is made from it",
    "check_history": "One row for each due slot; time is the slot",
    "alert_history": "Outbox and delivery record: one row for each event and channel",
    "schedule_epochs": "Spans in which a schedule was in force",
    "history_gaps": "Runs of missed slots too long for a row each",
    "incidents": "What began and ended: one row for each time that something was wrong",
    "subscription_parents": "While a parent is down its children's alerts are held",
    "maintenance_windows": "When alerts are held; starts_at and ends_at are of the next occurrence",
    "alert_budgets": "How many alerts an owner was told in an hour, and how many not",
}
for _name, _comment in COMMENTS.items():
    metadata.tables[_name].comment = _comment
