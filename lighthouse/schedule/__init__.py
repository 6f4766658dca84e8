"""Redis: when each subscription is due next, and who holds which batch of checks.

`claims` is beat's side (claim, reap, reconcile), `leases` the workers' (start, renew, release),
`pace` what the workers that send alerts share, `confirm` what workers ask of each other.
Nothing here is the truth: all of it can be rebuilt from PostgreSQL after a FLUSHALL.
"""

from lighthouse.schedule.claims import Claimed, Claims, Entry, Published
from lighthouse.schedule.client import check_server, connect, connect_async
from lighthouse.schedule.confirm import Answered, Confirmations, Request
from lighthouse.schedule.leases import Leases, Start, StartedCheck
from lighthouse.schedule.pace import Pace

__all__ = [
    "Answered",
    "Claimed",
    "Claims",
    "Confirmations",
    "Entry",
    "Leases",
    "Pace",
    "Published",
    "Request",
    "Start",
    "StartedCheck",
    "check_server",
    "connect",
    "connect_async",
]
