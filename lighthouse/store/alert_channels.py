"""Where a subscription's alerts go: rows of `alert_channels`."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from lighthouse import plans
from lighthouse.errors import NotFoundError, UsageError
from lighthouse.model import Channel, ChannelType, Severity, SubscriptionStatus, Tier
from lighthouse.store.pool import Pool, translated

#: The languages that the templates speak.
LANGUAGES = ("en", "es")

#: Escalations come while an incident is young enough to be found among what is pending.
LONGEST_ESCALATION_S = 3 * 86_400

CHANNEL_COLUMNS = (
    "id, subscription_id, channel_type, channel_config, enabled, min_severity, metadata,"
    " escalate_after_s"
)


async def add_channel(
    pool: Pool,
    subscription_id: UUID,
    channel_type: ChannelType,
    config: Mapping[str, Any],
    *,
    language: str = "en",
    timezone: str = "UTC",
    min_severity: Severity = Severity.WARNING,
    escalate_after_s: int = 0,
    enforce_plans: bool,
) -> UUID:
    """Add a channel whose configuration and time zone have been validated; its id.

    Raises NotFoundError, UsageError, PlanError when the tier has no such channel.
    """
    _check_language(language)
    check_escalation(escalate_after_s)
    with translated():
        async with pool.connection() as conn, conn.transaction():
            cursor = await conn.execute(
                "SELECT tier::text, status::text FROM subscriptions WHERE id = %s FOR SHARE",
                (subscription_id,),
            )
            row = await cursor.fetchone()
            if row is None:
                raise NotFoundError(f"no subscription {subscription_id}")
            tier, status = Tier(row[0]), SubscriptionStatus(row[1])
            if status is SubscriptionStatus.CANCELLED:
                raise UsageError(f"subscription {subscription_id} is cancelled")
            if enforce_plans:
                plans.check_channel(tier, channel_type)
            try:
                cursor = await conn.execute(
                    "INSERT INTO alert_channels"
                    " (subscription_id, channel_type, channel_config, min_severity, metadata,"
                    " escalate_after_s) VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
                    (
                        subscription_id,
                        channel_type.value,
                        Jsonb(dict(config)),
                        min_severity.value,
                        Jsonb({"language": language, "timezone": timezone}),
                        escalate_after_s,
                    ),
                )
            except psycopg.DataError as exc:  # NUL and lone surrogates
                raise UsageError(f"config: cannot be stored: {exc.diag.message_primary}") from exc
            added = await cursor.fetchone()
            assert added is not None  # noqa: S101 - RETURNING of one row
            return UUID(str(added[0]))


async def list_channels(pool: Pool, subscription_id: UUID | None = None) -> list[Channel]:
    """The channels of one subscription, or of all, in the order of their making."""
    with translated():
        async with pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                f"SELECT {CHANNEL_COLUMNS} FROM alert_channels"  # noqa: S608 - a constant
                " WHERE %(id)s::uuid IS NULL OR subscription_id = %(id)s"
                " ORDER BY created_at, id",
                {"id": subscription_id},
            )
            return channels_of(await cursor.fetchall())


async def get_channel(pool: Pool, channel_id: UUID) -> Channel:
    """One channel. Raises NotFoundError."""
    with translated():
        async with pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(
                f"SELECT {CHANNEL_COLUMNS} FROM alert_channels WHERE id = %s",  # noqa: S608 - a constant
                (channel_id,),
            )
            found = channels_of(await cursor.fetchall())
    if not found:
        raise NotFoundError(f"no channel {channel_id}")
    return found[0]


async def change_channel(
    pool: Pool,
    channel_id: UUID,
    *,
    enabled: bool | None = None,
    language: str | None = None,
    timezone: str | None = None,
    min_severity: Severity | None = None,
    escalate_after_s: int | None = None,
) -> None:
    """Change what is given; the time zone has been validated. Raises NotFoundError, UsageError.

    Switching a channel on forgets why it was off.
    """
    if language is not None:
        _check_language(language)
    if escalate_after_s is not None:
        check_escalation(escalate_after_s)
    given = {"language": language, "timezone": timezone}
    with translated():
        async with pool.connection() as conn:
            cursor = await conn.execute(
                "UPDATE alert_channels SET enabled = coalesce(%(enabled)s, enabled),"
                " min_severity = coalesce(%(severity)s::alert_severity, min_severity),"
                " escalate_after_s = coalesce(%(escalate)s, escalate_after_s),"
                " metadata = CASE WHEN %(enabled)s THEN metadata - 'disabled_reason'"
                " ELSE metadata END || %(metadata)s WHERE id = %(id)s",
                {
                    "id": channel_id,
                    "enabled": enabled,
                    "escalate": escalate_after_s,
                    "severity": None if min_severity is None else min_severity.value,
                    "metadata": Jsonb({k: v for k, v in given.items() if v is not None}),
                },
            )
            if cursor.rowcount != 1:
                raise NotFoundError(f"no channel {channel_id}")


def _check_language(language: str) -> None:
    if language not in LANGUAGES:
        raise UsageError(f"language: {language[:20]!r} is none of {', '.join(LANGUAGES)}")


def check_escalation(seconds: int) -> None:
    """Refuse a time that no escalation may have. Raises UsageError."""
    if not 0 <= seconds <= LONGEST_ESCALATION_S:
        raise UsageError("escalate_after: from 0 to 259200 seconds (3 days)")


async def remove_channel(pool: Pool, channel_id: UUID) -> None:
    """Remove a channel; what was on its way there ends as `channel_removed` when its turn comes.

    Raises NotFoundError.
    """
    with translated():
        async with pool.connection() as conn:
            cursor = await conn.execute("DELETE FROM alert_channels WHERE id = %s", (channel_id,))
            if cursor.rowcount != 1:
                raise NotFoundError(f"no channel {channel_id}")


def channels_of(rows: Sequence[Mapping[str, Any]]) -> list[Channel]:
    return [
        Channel(
            id=row["id"],
            subscription_id=row["subscription_id"],
            channel_type=ChannelType(row["channel_type"]),
            channel_config=row["channel_config"],
            enabled=row["enabled"],
            min_severity=Severity(row["min_severity"]),
            metadata=row["metadata"],
            escalate_after_s=row["escalate_after_s"],
        )
        for row in rows
    ]
