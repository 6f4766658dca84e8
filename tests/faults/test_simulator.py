"""The simulator over many seeds, and proof that it sees what is broken."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from lighthouse import gaps, verdict
from lighthouse.fleet.beat import Scheduler
from lighthouse.fleet.reconcile import Reconciler
from lighthouse.schedule import claims, leases
from lighthouse.schedule.keys import LEASES
from lighthouse.schedule.leases import LEASE_MS
from lighthouse.slots import Epoch
from lighthouse.store import record
from tests.support.simulator import connected, explore, hunt
from tests.support.wire import Wire

#: Each seed is about 30 ms of one core.
SEEDS, MANY_SEEDS = range(1_500), range(1_500, 12_000)
#: In so many seeds each of the mutations below is found, most of them in the first few.
FEW_SEEDS = range(500)


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with connected() as made:
        yield made


def explore_on_all_cores(seeds: range) -> None:
    cores = 2
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(explore, [seeds[n::cores] for n in range(cores)]):
            assert not found, found


def test_fifteen_hundred_histories_of_a_fleet_keep_every_invariant() -> None:
    """Fails with each of the mutations below."""
    explore_on_all_cores(SEEDS)


@pytest.mark.parametrize(
    "seed",
    [
        2114,  # a schedule made anew by a clock that was ahead, which no claim had seen
    ],
)
def test_a_history_that_once_broke_an_invariant_does_so_no_more(seed: int, wire: Wire) -> None:
    """Fails when `clock` in schedule/keys.py notes the time of claims alone."""
    assert not hunt(wire, [seed])


@pytest.mark.long
def test_ten_thousand_histories_of_a_fleet_keep_every_invariant() -> None:
    """Fails as the short form does."""
    explore_on_all_cores(MANY_SEEDS)


def lua(module: Any, name: str, old: str, new: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A mutation of a script."""

    def mutate(patch: pytest.MonkeyPatch) -> None:
        text = getattr(module, name)
        assert old in text
        patch.setattr(module, name, text.replace(old, new))

    return mutate


def python(module: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """A mutation of a rule."""
    return lambda patch: patch.setattr(module, name, value)


def forgetful(epoch: Epoch) -> Epoch:
    return replace(epoch, to=None)


async def content(self: Reconciler, *args: Any) -> tuple[int, bool]:
    next_xid, _ = await real_round(self, *args)
    return next_xid, True


real_due_runs, real_round = gaps.due_runs, Reconciler._round

MUTATIONS = {
    "a batch starts under any attempt": lua(
        leases, "_START", "if lease[1] ~= 'q' or lease[2] ~= attempt then", "if not lease[1] then"
    ),
    "running leases are reaped although they are renewed": lua(
        claims, "_REAP", "local lost, losses = lease[2] == 'r'", "local lost, losses = true"
    ),
    "what is reaped keeps its attempt": lua(claims, "_REAP", "attempt + 1", "attempt"),
    "batches of workers that died are not reaped": lua(
        claims, "_REAP", "if not lost and now", "lost = false\nif lease[2] == 'q' and now"
    ),
    "batches whose message was lost are not reaped": lua(
        claims, "_REAP", "if not lost and now", "if false and now"
    ),
    "a renewal does not renew": lua(
        leases, "_RENEW", f"redis.call('ZADD', '{LEASES}', now + {LEASE_MS}, batch)", ""
    ),
    "a claim leaves the seats where they were": lua(
        claims, "_CLAIM", "redis.call('ZADD', schedule, unpack(seats))", "tostring(0)"
    ),
    "an older entry overwrites a newer one": lua(
        claims, "_UPSERT", "if old_version <= version then", "if true then"
    ),
    "nobody notices that Redis was flushed": python(Reconciler, "_round", content),
    "nobody notices that Redis' clock was stepped": python(
        Scheduler, "_watch_clock", lambda *_: None
    ),
    "schedules that ended minutes ago are not asked for": python(
        record, "CHANGES_KNOWN_MS", 120_000
    ),
    "the sweep goes on after an epoch's end": python(
        gaps, "due_runs", lambda i, epoch, a, u: real_due_runs(i, forgetful(epoch), a, u)
    ),
    "a result leaves the gap record as it is": python(gaps, "without", lambda gap, slot: [gap]),
    "a success changes nothing": python(
        verdict, "is_steady", lambda believed, status: not status.down
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_simulator_finds(name: str, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the simulator's own `_check_schedule` looks at nothing: three are not found."""
    MUTATIONS[name](monkeypatch)
    assert "replay: python -m tests.support.simulator" in hunt(wire, FEW_SEEDS)
