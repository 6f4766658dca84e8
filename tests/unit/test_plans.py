"""What each tier may do, at the edges of its limits."""

import pytest

from lighthouse import plans
from lighthouse.errors import PlanError, UsageError
from lighthouse.model import ChannelType, MonitorType, Tier


@pytest.mark.parametrize(
    ("tier", "shortest"),
    [("free", 900), ("basic", 900), ("standard", 300), ("pro", 60), ("enterprise", 10)],
)
def test_a_tier_checks_as_often_as_it_sells_and_no_more_often(tier: str, shortest: int) -> None:
    plans.check_subscription(Tier(tier), MonitorType.HTTP, shortest, 0)
    with pytest.raises(PlanError, match=rf"interval: the {tier} plan .* every {shortest} s"):
        plans.check_subscription(Tier(tier), MonitorType.HTTP, shortest - 1, 0)


@pytest.mark.parametrize(
    ("tier", "limit"), [("free", 1), ("basic", 3), ("standard", 10), ("pro", 50)]
)
def test_a_wallet_holds_as_many_subscriptions_as_its_tier(tier: str, limit: int) -> None:
    plans.check_subscription(Tier(tier), MonitorType.HTTP, 900, limit - 1)
    with pytest.raises(PlanError, match=f"holds {limit} subscriptions a wallet"):
        plans.check_subscription(Tier(tier), MonitorType.HTTP, 900, limit)


def test_the_enterprise_tier_has_no_limit_of_subscriptions() -> None:
    plans.check_subscription(Tier.ENTERPRISE, MonitorType.CANARY, 10, 1_000_000)


@pytest.mark.parametrize(
    ("tier", "types"),
    [
        ("free", {"http"}),
        ("basic", {"http"}),
        ("standard", {"http", "canary", "balance"}),
        ("pro", {"http", "canary", "balance", "websocket", "graphql"}),
        ("enterprise", {"http", "canary", "balance", "websocket", "graphql"}),
    ],
)
def test_a_tier_has_the_monitor_types_of_the_price_list(tier: str, types: set[str]) -> None:
    allowed = set()
    for monitor in MonitorType:
        try:
            plans.check_subscription(Tier(tier), monitor, 3600, 0)
        except PlanError as exc:
            assert str(exc) == f"type: the {tier} plan has no {monitor.value} checks"  # noqa: PT017
        else:
            allowed.add(monitor.value)
    assert allowed == types


@pytest.mark.parametrize(
    ("tier", "channel", "sold"),
    [
        ("free", "discord", True),
        ("free", "telegram", False),
        ("basic", "telegram", True),
        ("basic", "webhook", False),
        ("standard", "email", True),
        ("standard", "slack", True),
        ("standard", "webhook", True),
        ("standard", "sms", False),
        ("standard", "apprise", False),
        ("pro", "sms", True),
        ("pro", "apprise", True),
        ("enterprise", "apprise", True),
    ],
)
def test_a_tier_has_the_channels_of_the_price_list(tier: str, channel: str, sold: bool) -> None:
    if sold:
        plans.check_channel(Tier(tier), ChannelType(channel))
    else:
        with pytest.raises(PlanError, match=f"the {tier} plan has no {channel} channel"):
            plans.check_channel(Tier(tier), ChannelType(channel))


@pytest.mark.parametrize("interval", [9, 86_401, 0, -60])
def test_an_interval_that_no_plan_sells_is_refused(interval: int) -> None:
    with pytest.raises(UsageError, match=f"interval: {interval} s is outside 10 to 86400 s"):
        plans.check_interval(interval)


@pytest.mark.parametrize("interval", [10, 60, 86_400])
def test_an_interval_in_the_range_is_taken(interval: int) -> None:
    plans.check_interval(interval)


def test_a_probe_must_end_before_the_next_one_begins() -> None:
    plans.check_fits(59.9, 60)
    with pytest.raises(UsageError, match=r"timeout: .* 60 s, which does not fit .* of 60 s"):
        plans.check_fits(60.0, 60)
