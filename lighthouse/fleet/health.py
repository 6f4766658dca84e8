"""No target is called down for the prober's own fault: silence needs proof that the prober hears.

A target that answered wrongly has proved the way to it. One that was silent is held back until
something unrelated answers afterwards: another check, a reference target, or a target that
answered lately and is asked again. Where nothing had answered during the attempt either, or for
unusually long since, that proof may only mean that the network is back, so the silent target is
checked once more. A refusal is doubted in the same way, for it may come from a device in between.
What nothing proves in time becomes `error`, and the operator hears of it once.

Meanwhile another worker looks at what is newly down. What it reaches and this one does not, at a
second look either, is no fault of the target.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from uuid import UUID

import structlog

from lighthouse.fleet.answers import PAUSE_SHARE, Answers
from lighthouse.fleet.targets import ASK_S, Target
from lighthouse.model import (
    ERROR_MESSAGE_CHARS,
    CheckStatus,
    Confirmation,
    Outcome,
    Reason,
    Result,
    storable,
)
from lighthouse.probes import Prober

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Seconds that a silent target waits for proof: within them a lost network has cost a second look
#: at every reference, and the shortest interval is not over.
PROOF_S = 5.0
#: Seconds between two rounds of asking; of those beside a second look, whose own silence would
#: else look like an outage of ours, at least and at most.
ROUND_S = 0.5
LEAST_ROUND_S, MOST_ROUND_S = 0.1, 2.0
#: A refusal takes no time in which something else could answer. At a second look, which begins with
#: an answer and beside which more are asked for, answers this close around it are enough.
NEAR_S = ASK_S + ROUND_S
#: Seconds in which a busy fleet has its next answer anyway.
BUSY_S = 0.2
#: Silent targets that are checked once more at the same time.
MOST_AGAIN = 64
#: Subscriptions that this worker saw down last, each about 100 bytes.
MOST_DOWN = 10_000
#: Places that answered last and may be asked again, and targets of each.
REMEMBERED = 4

#: Nothing came back: only something else can prove that it would have.
_SILENT = frozenset({Reason.TIMEOUT, Reason.UNREACHABLE})
#: Something came back, though perhaps from a device in between. Proof is wanted where there is
#: anybody to ask, and else the answer stands.
_DOUBTFUL = frozenset(
    {
        Reason.DNS_NOT_FOUND,
        Reason.CONNECTION_REFUSED,
        Reason.CONNECTION_RESET,
    }
)
_OWN = frozenset({Reason.PROBER_NETWORK, Reason.PROBER_RESOLVER})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A failure that waits: for proof if the target was silent, and for what another worker saw."""

    target: Target
    outcome: Outcome
    result: Result
    interval_s: float
    began_at: float  #: its last attempt; monotonic, s
    ended_at: float
    again: bool  #: it was checked once more already
    confirming: "asyncio.Task[Confirmation | None] | None"  #: None: nobody is asked


class Health:
    """Stands between the probes and the recorder, on the engine's loop."""

    def __init__(
        self,
        *,
        prober: Prober,
        references: Sequence[Target],
        add: Callable[[Result], None],
        alarm: Callable[[str], None],
        confirm: Callable[[Target], Coroutine[Any, Any, Confirmation | None]] | None = None,
    ) -> None:
        """`add` takes what may be recorded; `alarm` hears once when an outage of ours begins.

        `confirm` asks another worker, and ends by itself.
        """
        self._prober = prober
        self._references = references
        self._add = add
        self._alarm = alarm
        self._confirm = confirm
        self._down: OrderedDict[UUID | None, None] = OrderedDict()  #: newest last
        self._answered: OrderedDict[str, list[Target]] = OrderedDict()  #: by place, newest last
        self._held: list[_Held] = []
        self._answers = Answers()
        self._again = asyncio.Semaphore(MOST_AGAIN)
        self._again_beside: list[_Held] = []  #: those that are being checked once more
        self._tasks: set[asyncio.Task[Any]] = set()
        self._in_doubt_since: float | None = None
        self._alarmed = False
        self._seeker: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        """Results that wait for proof."""
        return len(self._held)

    @property
    def cut_off(self) -> bool:
        """Whether nothing has answered for so long that the fault is ours."""
        return self._alarmed

    def take(
        self,
        target: Target,
        outcome: Outcome,
        result: Result,
        interval_s: float,
        *,
        before: _Held | None = None,
    ) -> None:
        """Record a result, at once or when it is proved. `before`: its check's earlier look."""
        if outcome.status is CheckStatus.SUCCESS:
            self._proved(target)
            self._store(target, result)
            return
        if not outcome.status.down:
            self._add(result)
            if outcome.reason in _OWN:
                self._seek()
            return
        now = time.monotonic()
        held = _Held(
            target=target,
            outcome=outcome,
            result=result,
            interval_s=interval_s,
            began_at=now - (outcome.latency_ms or 0.0) / 1000,
            ended_at=now,
            again=before is not None,
            confirming=before.confirming if before and before.confirming else self._ask_for(target),
        )
        if self._needs_proof(held):
            self._held.append(held)
            self._seek()
        else:
            self._let_through(held)

    def _needs_proof(self, held: _Held) -> bool:
        if not _unheard(held.outcome):
            return False
        if held.outcome.reason in _SILENT:
            return True
        return bool(self._references or self._whom_to_ask({held.target.place}))

    def _store(self, target: Target, result: Result) -> None:
        """Record what is believed of a target, and remember whether it is down."""
        if result.status.down:
            self._down[target.who] = None
            self._down.move_to_end(target.who)
            if len(self._down) > MOST_DOWN:
                self._down.popitem(last=False)
        else:
            self._down.pop(target.who, None)
        self._add(result)

    def _ask_for(self, target: Target) -> "asyncio.Task[Confirmation | None] | None":
        """Let another worker look at what is newly down, unless we know that the fault is ours."""
        known = target.who in self._down or self.cut_off
        if self._confirm is None or known or not target.askable:
            return None
        return self._spawn(self._confirm(target))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _let_through(self, held: _Held) -> None:
        if held.confirming is None:
            self._store(held.target, held.result)
        else:
            self._spawn(self._weigh(held, held.confirming))

    async def _weigh(self, held: _Held, confirming: "asyncio.Task[Confirmation | None]") -> None:
        """Record a failure with what another worker saw, as far as that leaves it one."""
        try:
            found = await confirming
        except Exception:
            log.exception("another worker could not be asked")
            found = None
        result = replace(held.result, confirmation=found)
        if found is None or found.status.down or not _unheard(held.outcome):
            self._store(held.target, result)
        elif self._again.locked():  # that many at once: it is us
            self._add(_unconfirmed(result))
        else:
            await self._look_once_more(held, result)

    async def _look_once_more(self, held: _Held, result: Result) -> None:
        async with self._again:
            try:
                found = await self._prober.probe(
                    held.target.type, held.target.config.once(), held.interval_s
                )
            except Exception:
                log.exception("a target could not be checked again")
                self._add(_unconfirmed(result))
                return
        outcome, seen = _together(held, found)
        if outcome.status is CheckStatus.SUCCESS:
            self._proved(held.target)
            self._store(held.target, seen)
        else:
            self._add(_unconfirmed(replace(result, attempts=seen.attempts)))

    def _whom_to_ask(self, doubted: set[str]) -> list[Target]:
        """Two that answered last, at two places if there are, none where something is silent."""
        places = [
            known for place, known in reversed(self._answered.items()) if place not in doubted
        ]
        others = [target for known in places for target in reversed(known[:-1])]
        return [*(known[-1] for known in places), *others][:2]

    def _proved(self, target: Target) -> None:
        self._answers.note(time.monotonic())
        if target.askable:
            known = [t for t in self._answered.get(target.place, ()) if t.who != target.who]
            self._answered[target.place] = [*known[1 - REMEMBERED :], target]
            self._answered.move_to_end(target.place)
            if len(self._answered) > REMEMBERED:
                self._answered.popitem(last=False)
        if self._in_doubt_since is None and not self._alarmed:
            return
        if self._held:
            self._release(target.who)
        if not self._held:
            self._in_doubt_since = None
        if self._alarmed:
            self._alarmed = False
            log.warning("the prober's network is back")

    def _release(self, who: UUID | None) -> None:
        """Something of `who` answered: let go of what waited for that."""
        waiting, self._held = self._held, []
        pauses = self._answers.pauses()
        unproved = 0
        for held in waiting:
            if held.target.who == who:
                self._held.append(held)
            elif pauses.spare(held.began_at, held.ended_at, NEAR_S if held.again else 0.0):
                self._let_through(held)
            elif held.again:
                self._add(_unproved(held.result))
                unproved += 1
            else:
                self._spawn(self._check_again(held))
        if unproved:
            log.warning("not judged, for little else answered at a second look", checks=unproved)

    def _seek(self) -> None:
        if self._in_doubt_since is None:
            self._in_doubt_since = time.monotonic()
        if self._seeker is None or self._seeker.done():
            self._seeker = asyncio.create_task(self._look_for_proof())

    async def _look_for_proof(self) -> None:
        """Ask until nothing is in doubt; let what waited too long go as `error`."""
        await asyncio.sleep(BUSY_S)
        asking: dict[tuple[str, UUID | None], asyncio.Task[None]] = {}
        try:
            while self._in_doubt_since is not None or self._again_beside:
                silent = {held.target.place for held in (*self._held, *self._again_beside)}
                for target in self._references or self._whom_to_ask(silent):
                    under_way = asking.get((target.place, target.who))
                    if under_way is None or under_way.done():
                        asking[target.place, target.who] = asyncio.create_task(self._ask(target))
                await asyncio.sleep(self._round_s())
                self._give_up()
        finally:
            for task in asking.values():
                task.cancel()

    def _round_s(self) -> float:
        if self._in_doubt_since is not None or not self._again_beside:
            return ROUND_S
        shortest = min(held.ended_at - held.began_at for held in self._again_beside)
        return min(max(PAUSE_SHARE / 2 * shortest, LEAST_ROUND_S), MOST_ROUND_S)

    async def _ask(self, target: Target) -> None:
        try:
            async with asyncio.timeout(ASK_S):
                outcome = await self._prober.probe(target.type, target.config, ASK_S)
        except TimeoutError:
            return
        except Exception:
            log.exception("a reference could not be asked", place=target.place)
            return
        if outcome.status is CheckStatus.SUCCESS:
            self._proved(target)
        elif not _unheard(outcome):  # it is down itself: the next round asks another one
            known = [t for t in self._answered.get(target.place, ()) if t.who != target.who]
            if known:
                self._answered[target.place] = known
            else:
                self._answered.pop(target.place, None)

    async def _check_again(self, held: _Held) -> None:
        async with self._again:
            self._again_beside.append(held)
            try:
                found = await self._prober.probe(
                    held.target.type, held.target.config, held.interval_s
                )
            except Exception:
                log.exception("a target could not be checked again")
                self._add(_unproved(held.result))
                return
            finally:
                self._again_beside.remove(held)
        outcome, result = _together(held, found)
        self.take(held.target, outcome, result, held.interval_s, before=held)

    def _give_up(self) -> None:
        since = self._in_doubt_since
        now = time.monotonic()
        if since is None or now - since < PROOF_S:
            return
        waiting, self._held = self._held, []
        given_up = 0
        for held in waiting:
            if now - held.ended_at < PROOF_S:
                self._held.append(held)
                continue
            given_up += 1
            self._add(_unproved(held.result))
        if not self._alarmed:
            self._alarmed = True
            log.error("no proof of the prober's own health", held_back=given_up)
            self._alarm(
                "nothing unrelated answered either; failures are stored as error until it does"
                if self._references or self._answered
                else "there is nothing else to ask: name some in LIGHTHOUSE_REFERENCE_TARGETS"
            )
        # Doubt ends with proof, or when nothing waits: the next silence starts it again.
        self._in_doubt_since = self._held[0].ended_at if self._held else None

    async def close(self) -> None:
        """Let go; what waits is not recorded, and another worker checks it again."""
        self._held.clear()
        self._in_doubt_since = None
        running = [*self._tasks, *([self._seeker] if self._seeker else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _heard(outcome: Outcome) -> bool:
    """Whether the target itself was heard before it fell silent: it is its own proof."""
    timings = outcome.timings
    return (
        outcome.http_status is not None or timings.tls_ms is not None or timings.ttfb_ms is not None
    )


def _unheard(outcome: Outcome) -> bool:
    """Whether the way to the target may be what failed."""
    return outcome.reason in _SILENT | _DOUBTFUL and not _heard(outcome)


def _together(held: _Held, found: Outcome) -> tuple[Outcome, Result]:
    """A further look at a target, as part of the same check."""
    outcome = replace(found, attempts=found.attempts + held.outcome.attempts)
    was = held.result
    result = Result.of(
        was.subscription_id, was.slot, outcome, delay_ms=was.delay_ms, region=was.region
    )
    return outcome, result


def _unproved(result: Result) -> Result:
    why = "nothing proved the prober's own health"
    return _not_judged(result, Reason.PROBER_UNPROVED, why)


def _unconfirmed(result: Result) -> Result:
    return _not_judged(result, Reason.PROBER_UNCONFIRMED, "another worker reached it")


def _not_judged(result: Result, reason: Reason, why: str) -> Result:
    told = f"not judged, for {why}: {result.error_message or 'no answer'}"
    return replace(
        result,
        status=CheckStatus.ERROR,
        error_code=reason.value,
        error_message=storable(told, ERROR_MESSAGE_CHARS),
    )
