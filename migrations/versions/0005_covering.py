"""A rollup's primary key holds its whole row: a month by the hour lies on ten pages, not on 720.

The hours of one subscription are written an hour apart, so each of its rows is on a page of its
own. Building the keys takes some seconds for each ten million rows, in which rollups wait. Pages
are read from the key alone once they were vacuumed, which is to be after hours and not days.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROLLUPS = (("hourly_rollups", "hour"), ("daily_rollups", "day"))

KEY = """
    ALTER TABLE {name} DROP CONSTRAINT {name}_pkey,
        ADD CONSTRAINT {name}_pkey PRIMARY KEY (subscription_id, {bucket}) {include}
"""

INCLUDE = """
    INCLUDE (total_checks, successful_checks, failures, timeouts, errors, missed, alerts_triggered,
        latency_count, latency_sum, p50_latency_ms, p95_latency_ms, p99_latency_ms,
        min_latency_ms, max_latency_ms)
"""


def upgrade() -> None:
    for name, bucket in ROLLUPS:
        op.execute(KEY.format(name=name, bucket=bucket, include=INCLUDE))
        op.execute(f"ALTER TABLE {name} SET (autovacuum_vacuum_insert_scale_factor = 0.01)")


def downgrade() -> None:
    for name, bucket in ROLLUPS:
        op.execute(f"ALTER TABLE {name} RESET (autovacuum_vacuum_insert_scale_factor)")
        op.execute(KEY.format(name=name, bucket=bucket, include=""))
