"""Which addresses a probe may connect to."""

from ipaddress import ip_network

import pytest

from lighthouse.addresses import forbidden


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "11.0.0.0",
        "100.128.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001::1",
    ],
)
def test_public_addresses_may_be_probed(address: str) -> None:
    assert forbidden(address) is None


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.255", "loopback"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("169.254.169.254", "link-local"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.100.100.200", "carrier-grade NAT"),
        ("168.63.129.16", "cloud metadata"),
        ("192.0.0.192", "reserved"),
        ("198.18.0.1", "benchmarking"),
        ("203.0.113.7", "documentation"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "IPv4-mapped"),
        ("::ffff:8.8.8.8", "IPv4-mapped"),
        ("::127.0.0.1", "reserved"),
        ("64:ff9b::7f00:1", "NAT64"),
        ("64:ff9b:1::1", "NAT64"),
        ("2001::1", "Teredo"),
        ("2001:20::1", "reserved"),
        ("2001:db8::1", "documentation"),
        ("2002:7f00:1::1", "6to4"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fec0::1", "reserved"),
        ("ff02::1", "multicast"),
        ("4000::1", "reserved"),
    ],
)
def test_addresses_that_are_not_the_public_internet_are_forbidden(address: str, kind: str) -> None:
    assert forbidden(address) == kind


@pytest.mark.parametrize("address", ["", "localhost", "127.1", "0177.0.0.1", "1.2.3.4.5", ":::1"])
def test_what_is_no_address_is_forbidden(address: str) -> None:
    assert forbidden(address) == "unreadable"


def test_the_operator_allows_networks_and_nothing_beside_them() -> None:
    allow = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert forbidden("10.9.9.9", allow) is None
    assert forbidden("fd00::1", allow) is None
    assert forbidden("192.168.0.1", allow) == "private"
    assert forbidden("fe80::1", allow) == "link-local"


def test_an_allowed_tunnel_does_not_lead_to_a_forbidden_address() -> None:
    allow = (ip_network("64:ff9b::/96"), ip_network("2002::/16"), ip_network("::ffff:0:0/96"))
    assert forbidden("64:ff9b::808:808", allow) is None
    assert forbidden("64:ff9b::7f00:1", allow) == "loopback"
    assert forbidden("2002:0808:0808::1", allow) is None
    assert forbidden("2002:0a00:0001::1", allow) == "private"
    assert forbidden("::ffff:169.254.169.254", allow) == "link-local"
