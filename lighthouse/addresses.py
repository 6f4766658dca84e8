"""Which addresses may be connected to: the rule behind every socket that a user's input can open.

Names prove nothing (a public name may resolve to 127.0.0.1, differently each time), so the rule
judges the address itself, at the moment before its socket is opened.
"""

from bisect import bisect_right
from collections.abc import Collection
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network

Network = IPv4Network | IPv6Network

#: IPv4 that is not the public Internet's (IANA's special-purpose registry, and what clouds add).
_FORBIDDEN_V4 = {
    "0.0.0.0/8": "unspecified",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "168.63.129.16/32": "cloud metadata",  # Azure's, public by its number only
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "documentation",
    "192.88.99.0/24": "6to4",
    "192.168.0.0/16": "private",
    "198.18.0.0/15": "benchmarking",
    "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}

#: IPv6 inside 2000::/3 that is not public; outside of it nothing is, whatever its name.
_FORBIDDEN_V6 = {
    "2001::/32": "Teredo",
    "2001::/23": "reserved",
    "2001:db8::/32": "documentation",
    "2002::/16": "6to4",
    "3fff::/20": "documentation",
}
_OUTSIDE_V6 = {
    "::/128": "unspecified",
    "::1/128": "loopback",
    "::ffff:0:0/96": "IPv4-mapped",
    "64:ff9b::/96": "NAT64",
    "64:ff9b:1::/48": "NAT64",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "ff00::/8": "multicast",
}
_GLOBAL_V6 = IPv6Network("2000::/3")

_V4_TABLE = sorted(
    (int(net.network_address), int(net.broadcast_address), kind)
    for net, kind in ((IPv4Network(text), kind) for text, kind in _FORBIDDEN_V4.items())
)
_V4_STARTS = [row[0] for row in _V4_TABLE]
_V6_INSIDE = [(IPv6Network(text), kind) for text, kind in _FORBIDDEN_V6.items()]
_V6_OUTSIDE = [(IPv6Network(text), kind) for text, kind in _OUTSIDE_V6.items()]


def forbidden(address: str, allow: Collection[Network] = ()) -> str | None:
    """Why an address may not be connected to ("loopback", "private", …), or None when it may.

    `address` is numeric; what cannot be read as one is forbidden too. `allow` holds the
    operator's exceptions. An IPv6 exception that carries IPv4 addresses inside (IPv4-mapped,
    NAT64, 6to4) does not allow those that are forbidden on their own.
    """
    try:
        if ":" not in address:
            return _forbidden_v4(IPv4Address(address), allow)
        ip = IPv6Address(address.partition("%")[0])
    except AddressValueError:
        return "unreadable"
    kind = _kind_v6(ip)
    if kind is None or not any(ip in net for net in allow if net.version == 6):
        return kind
    inner = _embedded(ip)
    return None if inner is None else _forbidden_v4(inner, allow)


def _forbidden_v4(ip: IPv4Address, allow: Collection[Network]) -> str | None:
    number = int(ip)
    _, end, kind = _V4_TABLE[bisect_right(_V4_STARTS, number) - 1]
    if number > end or any(ip in net for net in allow if net.version == 4):
        return None
    return kind


def _kind_v6(ip: IPv6Address) -> str | None:
    table, otherwise = (_V6_INSIDE, None) if ip in _GLOBAL_V6 else (_V6_OUTSIDE, "reserved")
    return next((kind for net, kind in table if ip in net), otherwise)


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to."""
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if any(ip in net for net, kind in _V6_OUTSIDE if kind == "NAT64"):
        return IPv4Address(int(ip) & 0xFFFF_FFFF)
    return None
