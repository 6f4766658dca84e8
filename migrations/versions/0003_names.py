"""A name is free again when its subscription has ended: (wallet, name) is unique among the live."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE subscriptions DROP CONSTRAINT subscriptions_user_id_name_key")
    op.execute(
        """
        CREATE UNIQUE INDEX idx_subscriptions_name ON subscriptions (user_id, name)
            WHERE status IN ('pending', 'active', 'paused')
        """
    )
    # Owners' ended subscriptions are listed too.
    op.execute("CREATE INDEX idx_subscriptions_user ON subscriptions (user_id)")


def downgrade() -> None:
    # Ended ones give way: their ids make their names unique again.
    op.execute(
        """
        UPDATE subscriptions AS s SET name = left(s.name, 60) || ' ' || s.id
        WHERE s.status NOT IN ('pending', 'active', 'paused') AND EXISTS (
            SELECT FROM subscriptions AS o
            WHERE o.user_id = s.user_id AND o.name = s.name AND o.id <> s.id)
        """
    )
    op.execute("DROP INDEX idx_subscriptions_user")
    op.execute("DROP INDEX idx_subscriptions_name")
    op.execute(
        "ALTER TABLE subscriptions"
        " ADD CONSTRAINT subscriptions_user_id_name_key UNIQUE (user_id, name)"
    )
