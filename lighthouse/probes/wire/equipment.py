"""What probes work with on one event loop: the transport, the resolver, the guard, the settings.

A monitor type that needs more (a pool of readers, a browser) keeps it in a class of its own file
and asks for it with `own`; it is made at the first use and closed with the rest.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Protocol, TypeVar

from lighthouse.addresses import forbidden
from lighthouse.probes.wire.curl import CurlTransport
from lighthouse.probes.wire.resolver import Resolver
from lighthouse.probes.wire.transport import Transport
from lighthouse.settings import Settings


class Closable(Protocol):
    """Something that lives as long as the prober."""

    async def close(self) -> None:
        """Let go of all sockets and processes; running callers are cancelled."""


C = TypeVar("C", bound=Closable)

#: Addresses whose judgement is remembered: the same ones come again every interval.
_REMEMBERED = 65_536


class Equipment:
    """Made on the loop that it is for; not thread-safe."""

    def __init__(
        self, settings: Settings, transport: Transport | None = None, *, explain: bool = False
    ) -> None:
        """`transport` replaces libcurl's. Raises SettingsError without a CA bundle."""
        self.settings = settings
        #: Somebody looks at this one check: fill in `Outcome.findings`.
        self.explain = explain
        self.resolver = Resolver()
        #: Why an address may not be connected to, or None. Ask for every socket, before it opens.
        self.guard: Callable[[str], str | None] = lru_cache(maxsize=_REMEMBERED)(
            partial(forbidden, allow=settings.egress_allow)
        )
        self.transport: Transport = transport or CurlTransport(
            allow=settings.egress_allow, ca_file=settings.ca_file, resolver=self.resolver
        )
        self._owned: dict[type[Closable], Closable] = {}

    def own(self, kind: type[C], make: Callable[["Equipment"], C]) -> C:
        """The one object of a kind, made at the first call."""
        found = self._owned.get(kind)
        if found is None:
            found = self._owned[kind] = make(self)
        assert isinstance(found, kind)  # noqa: S101 - the key is its type
        return found

    async def close(self) -> None:
        """End everything that runs."""
        for owned in reversed(self._owned.values()):
            await owned.close()
        self._owned.clear()
        await self.transport.close()
        self.resolver.close()
