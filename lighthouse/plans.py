"""What each tier may do. Limits are checked where a subscription or channel is created.

Prices and limits come from the product's owners; a self-hosting operator sets them all aside with
LIGHTHOUSE_PLANS=off.
"""

from dataclasses import dataclass
from decimal import Decimal

from lighthouse.errors import PlanError, UsageError
from lighthouse.model import ChannelType, MonitorType, Tier

#: The shortest interval of any plan, and the database's own CHECK, in seconds.
SHORTEST_INTERVAL_S = 10
#: Slots are the history's key and a day is its partition; longer makes no sense of "uptime".
LONGEST_INTERVAL_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One tier's limits."""

    usdc_a_month: Decimal
    shortest_interval_s: int
    subscriptions: int | None  #: per wallet; None is no limit
    types: frozenset[MonitorType]
    channels: frozenset[ChannelType]
    raw_history_days: int


_HTTP = frozenset({MonitorType.HTTP})
_STANDARD = _HTTP | {MonitorType.CANARY, MonitorType.BALANCE}
_STANDARD_CHANNELS = frozenset(ChannelType) - {ChannelType.SMS, ChannelType.APPRISE}

PLANS: dict[Tier, Plan] = {
    Tier.FREE: Plan(
        usdc_a_month=Decimal(0),
        shortest_interval_s=900,
        subscriptions=1,
        types=_HTTP,
        channels=frozenset({ChannelType.DISCORD}),
        raw_history_days=7,
    ),
    Tier.BASIC: Plan(
        usdc_a_month=Decimal("0.20"),
        shortest_interval_s=900,
        subscriptions=3,
        types=_HTTP,
        channels=frozenset({ChannelType.DISCORD, ChannelType.TELEGRAM}),
        raw_history_days=7,
    ),
    Tier.STANDARD: Plan(
        usdc_a_month=Decimal("1.00"),
        shortest_interval_s=300,
        subscriptions=10,
        types=_STANDARD,
        channels=_STANDARD_CHANNELS,
        raw_history_days=30,
    ),
    Tier.PRO: Plan(
        usdc_a_month=Decimal("5.00"),
        shortest_interval_s=60,
        subscriptions=50,
        types=frozenset(MonitorType),
        channels=frozenset(ChannelType),
        raw_history_days=90,
    ),
    Tier.ENTERPRISE: Plan(
        usdc_a_month=Decimal("20.00"),
        shortest_interval_s=SHORTEST_INTERVAL_S,
        subscriptions=None,
        types=frozenset(MonitorType),
        channels=frozenset(ChannelType),
        raw_history_days=365,
    ),
}


def check_interval(interval_s: int) -> None:
    """Refuse an interval that no plan and no database accepts.

    Raises UsageError.
    """
    if not SHORTEST_INTERVAL_S <= interval_s <= LONGEST_INTERVAL_S:
        raise UsageError(
            f"interval: {interval_s} s is outside {SHORTEST_INTERVAL_S} to {LONGEST_INTERVAL_S} s"
        )


def check_fits(worst_case_s: float, interval_s: int) -> None:
    """Refuse a probe whose attempts together may outlast its interval.

    `worst_case_s` is timeout × attempts. Raises UsageError.
    """
    if worst_case_s >= interval_s:
        raise UsageError(
            f"timeout: all attempts together may take {worst_case_s:g} s, which does not fit the"
            f" interval of {interval_s} s; lower timeout or retries, or raise the interval"
        )


def check_subscription(
    tier: Tier, monitor: MonitorType, interval_s: int, already_there: int
) -> None:
    """Refuse what a tier does not sell. `already_there` counts the wallet's live subscriptions.

    Raises PlanError.
    """
    plan = PLANS[tier]
    if interval_s < plan.shortest_interval_s:
        raise PlanError(
            f"interval: the {tier.value} plan checks every {plan.shortest_interval_s} s at most,"
            f" not every {interval_s} s; raise the interval or the tier"
        )
    if monitor not in plan.types:
        raise PlanError(f"type: the {tier.value} plan has no {monitor.value} checks")
    if plan.subscriptions is not None and already_there >= plan.subscriptions:
        raise PlanError(
            f"tier: the {tier.value} plan holds {plan.subscriptions} subscriptions a wallet, and"
            f" this one has {already_there}"
        )


def check_channel(tier: Tier, channel: ChannelType) -> None:
    """Refuse a channel that a tier does not sell. Raises PlanError."""
    if channel not in PLANS[tier].channels:
        raise PlanError(f"type: the {tier.value} plan has no {channel.value} channel")
