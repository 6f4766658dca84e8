"""Bulkheads: how many channels of a service, or of a host, are sent to at the same time.

One dead service never delays the others, for each has lanes of its own. A name is a service
("discord"), a host that a channel's owner named ("webhook:host.example"), or either of these for
the operator's channels ("operator:discord"). Pure: no clock and no task is in here.
"""

from collections import OrderedDict
from dataclasses import dataclass
from uuid import UUID

#: Lanes of one service: what 100 ms a message turn into 320 messages a second.
SERVICE_LANES = 32
#: Lanes of one host that a channel's owner named.
HOST_LANES = 4
#: The same through apprise, of whose child processes a worker has four.
APPRISE_LANES = 2
#: Lanes of all such hosts together, so that no number of them takes all sockets and time.
HOSTS_LANES = 64
#: The share of these that hosts which do not answer may have together: the others find room.
SILENT_HOSTS_LANES = 32
#: Lanes of the operator's channels, each service's and host's.
OPERATOR_LANES = 4
#: Sendings in a row without an answer after which a bulkhead has one lane only, until one of them
#: gets an answer: what costs its whole timeout is not tried by many at once.
TRIPS_AFTER = 3
#: Channels of a bulkhead that wait here for a lane; more are given back to the outbox.
MOST_WAITING = 32
#: Channels whose host is remembered, the last ones seen; about 10 MB.
MOST_SEEN = 50_000
#: Bulkheads that are kept, for their silence; the idle ones go first.
MOST_BULKHEADS = 10_000

_OPERATOR = "operator:"
#: Channel types of which each channel has a host of its owner's.
_HOSTED = ("webhook", "apprise")
#: The bulkhead of deliveries whose channel has gone: nothing is sent for them.
NO_CHANNEL = ""


def is_host(name: str) -> bool:
    """Whether a bulkhead is that of a host which a channel's owner named."""
    return not name.startswith(_OPERATOR) and ":" in name


@dataclass(slots=True)
class _Bulkhead:
    running: int = 0
    silences: int = 0  #: sendings without an answer since the last answer

    @property
    def tripped(self) -> bool:
        return self.silences >= TRIPS_AFTER


class Bulkheads:
    """The lanes of one courier, and which channel belongs where."""

    def __init__(self) -> None:
        self._bulkheads: OrderedDict[str, _Bulkhead] = OrderedDict()
        self._seen: dict[UUID, str] = {}
        self._members: dict[str, set[UUID]] = {}  #: the same the other way round
        self._hosts_running = 0
        self._silent_running = 0  #: of these, in hosts that have tripped

    def remember(self, channel_id: UUID, name: str) -> None:
        """A channel belongs to a bulkhead, which may be another one than before."""
        self._forget(channel_id)
        if ":" in name:  # a service's channels are known by their type
            self._seen[channel_id] = name
            self._members.setdefault(name, set()).add(channel_id)
        if len(self._seen) > MOST_SEEN:
            self._forget(next(iter(self._seen)))

    def _forget(self, channel_id: UUID) -> None:
        name = self._seen.pop(channel_id, None)
        if name is not None:
            self._members[name].discard(channel_id)
            if not self._members[name]:
                del self._members[name]

    def has_room(self, name: str) -> bool:
        """Whether one more channel may be sent to."""
        bulkhead = self._bulkheads.get(name, _Bulkhead())
        if name.startswith(_OPERATOR):
            lanes = OPERATOR_LANES
        elif not is_host(name):
            lanes = SERVICE_LANES
        elif self._hosts_running >= HOSTS_LANES or (
            bulkhead.tripped and self._silent_running >= SILENT_HOSTS_LANES
        ):
            return False
        else:
            lanes = APPRISE_LANES if name.startswith("apprise:") else HOST_LANES
        return bulkhead.running < (1 if bulkhead.tripped else lanes)

    def began(self, name: str) -> None:
        """A lane was taken."""
        self._change(name, running=1)

    def ended(self, name: str) -> None:
        """A lane is free again."""
        self._change(name, running=-1)

    def heard(self, name: str, *, silent: bool) -> None:
        """What was sent got an answer, whatever it said, or none."""
        self._change(name, silent=silent)

    def full_services(self) -> list[str]:
        """The channel types of which nothing more is to be claimed now.

        Those of a full service's type that lead to another host wait with it.
        """
        full = [name for name in self._bulkheads if ":" not in name and not self.has_room(name)]
        if self._hosts_running >= HOSTS_LANES:
            full += [name for name in _HOSTED if name not in full]
        return full

    def full_channels(self) -> list[UUID]:
        """The known channels of full hosts and of the operator's full bulkheads."""
        # While all hosts' lanes are taken, also those are full that have none of them.
        names = self._members if self._hosts_running >= HOSTS_LANES else self._bulkheads
        full = [name for name in names if ":" in name and not self.has_room(name)]
        return [channel_id for name in full for channel_id in self._members.get(name, ())]

    def _change(self, name: str, *, running: int = 0, silent: bool | None = None) -> None:
        bulkhead = self._bulkheads.setdefault(name, _Bulkhead())
        self._bulkheads.move_to_end(name)
        self._count(name, bulkhead, -1)
        bulkhead.running += running
        if silent is not None:
            bulkhead.silences = bulkhead.silences + 1 if silent else 0
        self._count(name, bulkhead, 1)
        if not bulkhead.running and not bulkhead.silences:
            del self._bulkheads[name]
        elif len(self._bulkheads) > MOST_BULKHEADS:
            idle = (n for n, b in self._bulkheads.items() if not b.running and n != name)
            if (oldest := next(idle, None)) is not None:
                del self._bulkheads[oldest]

    def _count(self, name: str, bulkhead: _Bulkhead, sign: int) -> None:
        if is_host(name):
            self._hosts_running += sign * bulkhead.running
            self._silent_running += sign * bulkhead.running * bulkhead.tripped
