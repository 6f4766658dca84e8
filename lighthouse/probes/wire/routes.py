"""Where an exchange that is no plain one may go: through a proxy, over one version of IP.

The guard in `Handle.open_socket` judges what this host connects to, the proxy included. What a
proxy connects to is judged here, as far as this host can know it.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from lighthouse.model import Reason, Timings
from lighthouse.probes.wire import evidence
from lighthouse.probes.wire.resolver import Answer, Resolved, Resolver, Unresolved
from lighthouse.probes.wire.transport import HttpRequest, Special, TransportError

#: Proxies that are told the target's name and look it up themselves.
_RESOLVING = frozenset({"http", "https", "socks5h"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What libcurl is told of names, as "host:port:addresses", and how long they took in ms."""

    names: tuple[str, ...]
    dns_ms: float | None
    addresses: tuple[str, ...] = ()  #: the target's; empty where the proxy looks it up


async def find_route(
    request: HttpRequest,
    special: Special,
    resolver: Resolver,
    guard: Callable[[str], str | None],
    timeout_s: float,
) -> Route | TransportError:
    """The way of an exchange, or why it has none."""
    if special.proxy is None:
        if request.numeric:
            if not _fits(request.host, special.ip_version):
                return _error(_no_address(request.host, special), None, (request.host,))
            return Route(names=(), dns_ms=None)
        answer = await resolver.lookup(request.host, timeout_s)
        return _direct(request, special, answer)
    return await _proxied(request, special, resolver, guard, timeout_s)


def _direct(request: HttpRequest, special: Special, answer: Answer) -> Route | TransportError:
    if isinstance(answer, Unresolved):
        return _error((answer.reason, answer.message), answer.took_ms)
    fitting = tuple(each for each in answer.addresses if _fits(each, special.ip_version))
    if not fitting:
        return _error(_no_address(request.host, special), answer.took_ms, answer.addresses)
    names = (_entry(request.host, request.port, fitting),)
    return Route(names=names, dns_ms=answer.took_ms, addresses=fitting)


async def _proxied(
    request: HttpRequest,
    special: Special,
    resolver: Resolver,
    guard: Callable[[str], str | None],
    timeout_s: float,
) -> Route | TransportError:
    proxy = special.proxy
    assert proxy is not None  # noqa: S101 - the caller's condition
    target, way = await asyncio.gather(
        _addresses(request.host, request.numeric, resolver, timeout_s),
        _addresses(proxy.host, proxy.numeric, resolver, timeout_s),
    )
    names = []
    if isinstance(way, Unresolved):
        own = way.reason is not Reason.DNS_NOT_FOUND
        reason = way.reason if own else Reason.PROBER_PROXY
        return _error((reason, f"the proxy: {way.message}"), way.took_ms)
    if not proxy.numeric:
        names.append(_entry(proxy.host, proxy.port, way.addresses))
    resolves = proxy.kind in _RESOLVING
    if isinstance(target, Unresolved):
        if not resolves:
            return _error((target.reason, target.message), target.took_ms)
        # A name that only the proxy knows: whoever let the proxy be used trusts its own guard.
        return Route(names=tuple(names), dns_ms=way.took_ms)
    refused = [(each, why) for each in target.addresses if (why := guard(each)) is not None]
    if refused and (resolves or len(refused) == len(target.addresses)):
        address, kind = refused[0]
        message = f"{address} may not be probed ({kind} address)"
        fault = (Reason.FORBIDDEN_ADDRESS, message)
        return _error(fault, target.took_ms, target.addresses)
    allowed = tuple(each for each in target.addresses if guard(each) is None)
    if not request.numeric:
        names.append(_entry(request.host, request.port, allowed))
    return Route(
        names=tuple(names),
        dns_ms=max(way.took_ms, target.took_ms),
        addresses=() if resolves else allowed,
    )


async def _addresses(host: str, numeric: bool, resolver: Resolver, timeout_s: float) -> Answer:
    if numeric:
        return Resolved(addresses=(host,), took_ms=0.0)
    return await resolver.lookup(host, timeout_s)


def _entry(host: str, port: int, addresses: tuple[str, ...]) -> str:
    return f"{host}:{port}:{','.join(addresses)}"


def _fits(address: str, version: int | None) -> bool:
    return version is None or (":" in address) == (version == 6)


def _no_address(host: str, special: Special) -> tuple[Reason, str]:
    return Reason.DNS_NOT_FOUND, f"{host} has no IPv{special.ip_version} address"


def _error(
    fault: tuple[Reason, str], took_ms: float | None, addresses: tuple[str, ...] = ()
) -> TransportError:
    reason, message = fault
    return TransportError(
        reason=reason,
        message=message,
        total_ms=took_ms,
        timings=Timings(dns_ms=took_ms),
        addresses=addresses[: evidence.MOST_ADDRESSES],
    )


def has_route(address: str) -> bool:
    """Whether this host's routing table leads to an address. UDP's connect sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 53))
    except OSError:
        return False
    return True
