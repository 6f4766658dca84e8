"""Bulkheads: lanes counted by service and by host, and what silence costs."""

from uuid import UUID

import pytest

from lighthouse.channels import Sender
from lighthouse.channels.apprise import AppriseConfig
from lighthouse.fleet import bulkheads as module
from lighthouse.fleet.bulkheads import (
    APPRISE_LANES,
    HOST_LANES,
    HOSTS_LANES,
    OPERATOR_LANES,
    SERVICE_LANES,
    SILENT_HOSTS_LANES,
    TRIPS_AFTER,
    Bulkheads,
)
from lighthouse.model import Channel, ChannelType, Severity
from lighthouse.settings import load

A, B = UUID(int=1), UUID(int=2)


@pytest.fixture
def bulkheads() -> Bulkheads:
    return Bulkheads()


def filled(bulkheads: Bulkheads, name: str) -> int:
    """Take lanes until there is no room; how many."""
    lanes = 0
    while bulkheads.has_room(name):
        bulkheads.began(name)
        lanes += 1
    return lanes


def trip(bulkheads: Bulkheads, name: str) -> None:
    for _ in range(TRIPS_AFTER):
        bulkheads.heard(name, silent=True)


def test_a_full_service_takes_no_lane_of_another(bulkheads: Bulkheads) -> None:
    assert filled(bulkheads, "discord") == SERVICE_LANES
    assert bulkheads.full_services() == ["discord"]
    assert filled(bulkheads, "slack") == SERVICE_LANES
    assert filled(bulkheads, "webhook:a.example") == HOST_LANES
    assert filled(bulkheads, "webhook:b.example") == HOST_LANES
    assert filled(bulkheads, "apprise:0123456789abcdef") == APPRISE_LANES
    assert filled(bulkheads, "operator:discord") == OPERATOR_LANES
    bulkheads.ended("discord")
    assert bulkheads.full_services() == ["slack"]


def test_all_hosts_together_are_bounded_and_then_no_webhook_is_claimed(
    bulkheads: Bulkheads,
) -> None:
    lanes = sum(filled(bulkheads, f"webhook:{number}.example") for number in range(100))
    assert lanes == HOSTS_LANES
    assert bulkheads.full_services() == ["webhook", "apprise"]
    assert bulkheads.has_room("discord")
    assert bulkheads.has_room("operator:webhook:0.example")
    bulkheads.ended("webhook:0.example")
    assert bulkheads.full_services() == []
    assert bulkheads.has_room("webhook:new.example")


def test_hosts_that_do_not_answer_leave_room_for_those_that_do(bulkheads: Bulkheads) -> None:
    for number in range(100):
        trip(bulkheads, f"webhook:{number}.example")
    lanes = sum(filled(bulkheads, f"webhook:{number}.example") for number in range(100))
    assert lanes == SILENT_HOSTS_LANES
    assert filled(bulkheads, "webhook:alive.example") == HOST_LANES


def test_what_stays_silent_has_one_lane_until_it_answers(bulkheads: Bulkheads) -> None:
    for _ in range(TRIPS_AFTER - 1):
        bulkheads.heard("discord", silent=True)
    bulkheads.heard("discord", silent=False)  # they must come in a row
    trip(bulkheads, "discord")
    assert filled(bulkheads, "discord") == 1
    assert bulkheads.full_services() == ["discord"]
    bulkheads.heard("discord", silent=False)
    assert filled(bulkheads, "discord") == SERVICE_LANES - 1


def test_a_host_that_trips_under_way_is_counted_right(bulkheads: Bulkheads) -> None:
    name = "webhook:a.example"
    assert filled(bulkheads, name) == HOST_LANES
    trip(bulkheads, name)
    for _ in range(HOST_LANES):
        assert not bulkheads.has_room(name)
        bulkheads.ended(name)
    bulkheads.heard(name, silent=False)
    assert (bulkheads._hosts_running, bulkheads._silent_running) == (0, 0)
    assert bulkheads._bulkheads == {}


def test_the_known_channels_of_a_full_host_are_named_and_a_service_s_are_not(
    bulkheads: Bulkheads,
) -> None:
    bulkheads.remember(A, "webhook:a.example")
    bulkheads.remember(B, "discord")
    filled(bulkheads, "webhook:a.example")
    filled(bulkheads, "discord")
    assert bulkheads.full_channels() == [A]
    bulkheads.remember(A, "webhook:b.example")  # its owner named another host
    assert bulkheads.full_channels() == []


def test_while_all_hosts_lanes_are_taken_the_channels_of_every_host_are_named(
    bulkheads: Bulkheads,
) -> None:
    bulkheads.remember(A, "discord:idle.example")
    bulkheads.remember(B, "operator:webhook:a.example")
    for number in range(HOSTS_LANES):
        filled(bulkheads, f"webhook:{number}.example")
    assert bulkheads.full_channels() == [A]


def test_only_the_last_seen_channels_are_remembered(
    bulkheads: Bulkheads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SEEN", 10)
    for number in range(30):
        bulkheads.remember(UUID(int=number), "webhook:a.example")
    filled(bulkheads, "webhook:a.example")
    assert bulkheads.full_channels() == [UUID(int=number) for number in range(20, 30)]


def test_silence_is_remembered_of_the_last_hosts_only_and_never_lost_of_busy_ones(
    bulkheads: Bulkheads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BULKHEADS", 10)
    trip(bulkheads, "webhook:busy.example")
    bulkheads.began("webhook:busy.example")
    for number in range(30):
        bulkheads.heard(f"webhook:{number}.example", silent=True)
    assert len(bulkheads._bulkheads) == 10
    assert not bulkheads.has_room("webhook:busy.example")


@pytest.mark.parametrize(
    ("kind", "config", "name"),
    [
        ("discord", {"webhook_url": "https://discord.com/api/webhooks/1/t"}, "discord"),
        ("discord", {"webhook_url": "https://DISCORDAPP.com/api/webhooks/1/t"}, "discord"),
        ("discord", {"webhook_url": "https://a.example/hooks"}, "discord:a.example"),
        ("slack", {"webhook_url": "https://hooks.slack.com/services/T/B/x"}, "slack"),
        ("slack", {"webhook_url": "https://chat.a.example/hooks/x"}, "slack:chat.a.example"),
        ("webhook", {"url": "https://user:pass@A.Example:8443/x?t=1"}, "webhook:a.example"),
        ("webhook", {"url": "https://[2001:db8::1]/x"}, "webhook:2001:db8::1"),
        ("webhook", {"url": {"$sealed": "x"}}, "webhook"),
        ("email", {"to": "ops@example.com"}, "email"),
        ("sms", {"to": "+34600000001"}, "sms"),
        ("telegram", {"bot_token": f"123456789:{'A' * 30}", "chat_id": "1"}, "telegram"),
    ],
)
def test_a_channel_s_bulkhead_is_its_service_or_the_host_that_its_owner_named(
    kind: str, config: dict[str, str], name: str
) -> None:
    channel = Channel(
        id=A,
        subscription_id=B,
        channel_type=ChannelType(kind),
        channel_config=config,
        enabled=True,
        min_severity=Severity.INFO,
    )
    assert Sender(load({})).bulkhead(channel) == name


def test_hosts_that_apprise_reaches_are_told_apart_without_being_named() -> None:
    first, same, other = (
        AppriseConfig(url=url).foreign_host
        for url in ("ntfy://s3cr3t.example/a", "ntfy://u:p@s3cr3t.example/b", "ntfy://b.example/a")
    )
    assert first == same != other
    assert "s3cr3t" not in first


def test_the_operator_s_channels_have_bulkheads_of_their_own() -> None:
    config = '[{"type": "webhook", "config": {"url": "https://a.example/x"}}]'
    sender = Sender(load({"LIGHTHOUSE_OPERATOR_CHANNELS": config}))
    (channel,) = sender.operator_channels.values()
    assert sender.bulkhead(channel) == "operator:webhook:a.example"
