"""Channels of the type `apprise`."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TYPE alert_channel_type ADD VALUE IF NOT EXISTS 'apprise'")


def downgrade() -> None:
    # PostgreSQL cannot take a value out of an enum: it stays, without rows.
    op.execute("DELETE FROM alert_channels WHERE channel_type::text = 'apprise'")
