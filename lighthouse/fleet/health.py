"""No target is called down for the prober's own fault: silence needs proof that the prober hears.

A target that answered wrongly has proved the way to it. One that was silent is held back until
something unrelated answers afterwards: another check, a reference target, or a target that
answered lately and is asked again. Where nothing unrelated had answered during the attempt either,
that proof may only mean that the network is back, so the silent target is checked once more. What
nothing proves in time becomes `error`, and the operator hears of it once.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import structlog

from lighthouse.errors import ConfigError, SettingsError
from lighthouse.model import (
    ERROR_MESSAGE_CHARS,
    CheckStatus,
    MonitorType,
    Outcome,
    Reason,
    Result,
    storable,
)
from lighthouse.probes import MonitorConfig, Prober, parse_config

log = structlog.get_logger(__name__)

#: Seconds that a silent target waits for proof: within them a lost network has cost a second look
#: at every reference, and the shortest interval is not over.
PROOF_S = 5.0
#: Seconds that a reference may take, and between two rounds of asking.
ASK_S, ROUND_S = 2.0, 0.5
#: Seconds in which a busy fleet has its next answer anyway.
BUSY_S = 0.2
#: Silent targets that are checked once more at the same time.
MOST_AGAIN = 64
#: Places that answered last and may be asked again.
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
class Target:
    """What was checked, as far as relations between targets go."""

    type: MonitorType
    config: MonitorConfig
    place: str  #: host and port: of targets that share it one is enough to ask
    who: UUID | None = None  #: the subscription; an answer proves nothing for its own

    @property
    def askable(self) -> bool:
        """Whether one check more does nothing there that its owner did not ask for."""
        return getattr(self.config, "method", "") in ("GET", "HEAD")


def place_of(config: MonitorConfig) -> str:
    """Where a target is, for telling related ones apart."""
    shown = config.target()
    return urlsplit(shown).netloc.lower() or shown


def references(urls: Sequence[str]) -> list[Target]:
    """The operator's reference targets; any answer of theirs is proof. Raises SettingsError."""
    found = []
    for url in urls:
        config: dict[str, Any] = {
            "url": url,
            "timeout": ASK_S,
            "retries": 0,
            "valid_status_codes": ["100-599"],
            "follow_redirects": False,
        }
        try:
            parsed = parse_config(MonitorType.HTTP, config)
        except ConfigError as exc:
            raise SettingsError(f"LIGHTHOUSE_REFERENCE_TARGETS: {exc}") from None
        found.append(Target(type=MonitorType.HTTP, config=parsed, place=place_of(parsed)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A silent target's result that waits for proof."""

    target: Target
    outcome: Outcome
    result: Result
    interval_s: float
    ended_at: float  #: monotonic, s
    sure: bool  #: something unrelated answered during its last attempt
    again: bool  #: it was checked once more already


class Health:
    """Stands between the probes and the recorder, on the engine's loop."""

    def __init__(
        self,
        *,
        prober: Prober,
        references: Sequence[Target],
        add: Callable[[Result], None],
        alarm: Callable[[str], None],
    ) -> None:
        """`add` takes what may be recorded; `alarm` hears once when an outage of ours begins."""
        self._prober = prober
        self._references = references
        self._add = add
        self._alarm = alarm
        self._answered: OrderedDict[str, Target] = OrderedDict()  #: newest last
        self._held: list[_Held] = []
        #: When something answered last, and when something of another subscription did.
        self._last: tuple[float, UUID | None] = (-math.inf, None)
        self._other: tuple[float, UUID | None] = (-math.inf, None)
        self._again = asyncio.Semaphore(MOST_AGAIN)
        self._checking: set[asyncio.Task[None]] = set()
        self._in_doubt_since: float | None = None
        self._alarmed = False
        self._seeker: asyncio.Task[None] | None = None

    @property
    def held(self) -> int:
        """Results that wait for proof."""
        return len(self._held)

    def take(
        self,
        target: Target,
        outcome: Outcome,
        result: Result,
        interval_s: float,
        *,
        again: bool = False,
    ) -> None:
        """Record a result, at once or when it is proved."""
        if outcome.status is CheckStatus.SUCCESS:
            self._proved(target)
            self._add(result)
            return
        reason = outcome.reason
        if outcome.status.down and not _heard(outcome) and self._needs_proof(reason, target):
            now = time.monotonic()
            latest = self._last if self._last[1] != target.who else self._other
            self._held.append(
                _Held(
                    target=target,
                    outcome=outcome,
                    result=result,
                    interval_s=interval_s,
                    ended_at=now,
                    sure=latest[0] >= now - (outcome.latency_ms or 0.0) / 1000,
                    again=again,
                )
            )
            self._seek()
            return
        self._add(result)
        if reason in _OWN:
            self._seek()

    def _needs_proof(self, reason: Reason | None, target: Target) -> bool:
        if reason in _SILENT:
            return True
        return reason in _DOUBTFUL and bool(self._references or self._whom_to_ask({target.place}))

    def _whom_to_ask(self, doubted: set[str]) -> list[Target]:
        """Two that answered last, none of them where something is silent."""
        return [t for t in reversed(self._answered.values()) if t.place not in doubted][:2]

    def _proved(self, target: Target) -> None:
        place = target.place
        if self._last[1] != target.who:
            self._other = self._last
        self._last = (time.monotonic(), target.who)
        if target.askable:
            self._answered[place] = target
            self._answered.move_to_end(place)
            if len(self._answered) > REMEMBERED:
                self._answered.popitem(last=False)
        if self._in_doubt_since is None and not self._alarmed:
            return
        waiting, self._held = self._held, []
        for held in waiting:
            if held.target.who == target.who:
                self._held.append(held)
            elif held.sure:
                self._add(held.result)
            elif held.again:
                self._add(_unproved(held.result))
            else:
                task = asyncio.create_task(self._check_again(held))
                self._checking.add(task)
                task.add_done_callback(self._checking.discard)
        if not self._held:
            self._in_doubt_since = None
        if self._alarmed:
            self._alarmed = False
            log.warning("the prober's network is back")

    def _seek(self) -> None:
        if self._in_doubt_since is None:
            self._in_doubt_since = time.monotonic()
        if self._seeker is None or self._seeker.done():
            self._seeker = asyncio.create_task(self._look_for_proof())

    async def _look_for_proof(self) -> None:
        """Ask until nothing is in doubt; let what waited too long go as `error`."""
        await asyncio.sleep(BUSY_S)
        while self._in_doubt_since is not None:
            round_ends = time.monotonic() + ROUND_S
            silent = {held.target.place for held in self._held}
            whom = self._references or self._whom_to_ask(silent)
            asking = [asyncio.create_task(self._ask(target)) for target in whom]
            if asking:
                await asyncio.wait(asking, timeout=ASK_S)
            for task in asking:
                task.cancel()
            await asyncio.sleep(max(0.0, round_ends - time.monotonic()))
            self._give_up()

    async def _ask(self, target: Target) -> None:
        try:
            outcome = await self._prober.probe(target.type, target.config, ASK_S)
        except Exception:
            log.exception("a reference could not be asked", place=target.place)
            return
        if outcome.status is CheckStatus.SUCCESS:
            self._proved(target)

    async def _check_again(self, held: _Held) -> None:
        async with self._again:
            try:
                found = await self._prober.probe(
                    held.target.type, held.target.config, held.interval_s
                )
            except Exception:
                log.exception("a target could not be checked again")
                self._add(_unproved(held.result))
                return
        outcome = replace(found, attempts=found.attempts + held.outcome.attempts)
        result = Result.of(
            held.result.subscription_id,
            held.result.slot,
            outcome,
            delay_ms=held.result.delay_ms,
            region=held.result.region,
        )
        self.take(held.target, outcome, result, held.interval_s, again=True)

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
        """Let go; what waits for proof is not recorded, and another worker checks it again."""
        self._held.clear()
        self._in_doubt_since = None
        running = [*self._checking, *([self._seeker] if self._seeker else [])]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _heard(outcome: Outcome) -> bool:
    """Whether the target itself was heard before it fell silent: it is its own proof."""
    timings = outcome.timings
    return (
        outcome.http_status is not None or timings.tls_ms is not None or timings.ttfb_ms is not None
    )


def _unproved(result: Result) -> Result:
    return replace(
        result,
        status=CheckStatus.ERROR,
        error_code=Reason.PROBER_UNPROVED.value,
        error_message=storable(
            "not judged, for nothing proved the prober's own health: "
            f"{result.error_message or 'no answer'}",
            ERROR_MESSAGE_CHARS,
        ),
    )
