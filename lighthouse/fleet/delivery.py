"""The courier: takes due deliveries from the outbox, sends them and marks what became of each.

One lane per channel: what goes to one channel goes in order, and a channel that hangs delays no
other. Lanes are counted by bulkhead, so that no service and no host that hangs delays another one.
Between claim and mark a delivery is protected by its lease alone, so a courier that dies costs time
and, if it had sent already, one repetition with the same key.
"""

import asyncio
import random
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import structlog

from lighthouse import telling
from lighthouse.channels import Sender
from lighthouse.errors import StoreError, StoreUnavailable
from lighthouse.fleet.bulkheads import MOST_WAITING, NO_CHANNEL, Bulkheads
from lighthouse.model import OPERATOR, AlertType, Answer, Channel, Delivery, DeliveryState
from lighthouse.retries import next_delay_s
from lighthouse.store import outbox
from lighthouse.store.outbox import Overtaken
from lighthouse.store.pool import Pool, translated

log = structlog.get_logger(__name__)

#: Connections that marking takes of the pool, which the recorder needs too.
MARKS_AT_ONCE = 2
#: Seconds that a lease outlasts the longest sending: time for the mark, and for what is queued.
LEASE_MARGIN_S = 20.0
#: Seconds of that which the mark alone may need.
MARK_S = 5.0
#: Seconds that the end of an incident waits for the news of its beginning, which is on its way.
OVERTAKE_S = 0.5
#: Seconds in which lanes that end are cleared together: a claim costs as much as a delivery.
TOGETHER_S = 0.05
#: Ends that somebody would want to know of.
_LOST = (DeliveryState.GAVE_UP, DeliveryState.CHANNEL_REMOVED)
#: Seconds between tries to mark while PostgreSQL is away.
MARK_PAUSE_S = 0.5

#: Seconds that cutting off may take: a few turns of the loop.
CUT_OFF_S = 1.0


class Courier:
    """Delivers on the event loop of its caller. Not thread-safe."""

    def __init__(self, pool: Pool, sender: Sender) -> None:
        self._pool = pool
        self._sender = sender
        self._lease_s = sender.longest_send_s + LEASE_MARGIN_S
        self._lanes: dict[asyncio.Task[int], str] = {}  #: with their bulkheads
        self._bulkheads = Bulkheads()
        self._names: dict[UUID, str] = {}  #: bulkhead of each channel with a lane or in wait
        #: By bulkhead: deliveries of one channel each, and until when they are leased.
        self._waiting: dict[str, deque[tuple[list[Delivery], float]]] = {}
        self._marks = asyncio.Semaphore(MARKS_AT_ONCE)
        self._again = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False

    async def deliver_due(self, limit: int = 50) -> int:
        """Send what is due, claiming up to `limit` at a time; returns how many were sent.

        Ends when nothing is due any more. A call while another runs makes that one look again and
        returns 0 at once. Raises StoreError when nothing more can be claimed.
        """
        self._again.set()
        if not self._idle.is_set() or self._closing:
            return 0
        self._idle.clear()
        try:
            return await self._deliver(limit)
        finally:
            self._idle.set()

    async def close(self, timeout_s: float) -> None:
        """Begin nothing more and let what is being sent end, for `timeout_s` at the most.

        What had to be cut off is sent again by another courier when its lease ends.
        """
        self._closing = True
        self._again.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
            return
        for lane in self._lanes:
            lane.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(CUT_OFF_S):
                await self._idle.wait()

    async def _deliver(self, limit: int) -> int:
        sent = 0
        try:
            while not self._closing and (self._lanes or self._again.is_set()):
                self._again.clear()
                if await self._claim(limit):
                    self._again.set()
                elif self._lanes:
                    await self._landing()
                sent += self._landed()
        finally:
            self._fill()
            while self._lanes:  # closing, or nothing more can be claimed: these are under way
                await asyncio.wait(self._lanes, return_when=asyncio.FIRST_COMPLETED)
                sent += self._landed()
        return sent

    async def _claim(self, limit: int) -> bool:
        until = time.monotonic() + self._lease_s
        claimed = await outbox.claim(
            self._pool,
            limit,
            self._lease_s,
            busy=[*self._names, *self._bulkheads.full_channels()],
            full=self._bulkheads.full_services(),
        )
        by_channel: dict[UUID, list[Delivery]] = {}
        for delivery in claimed:
            by_channel.setdefault(delivery.channel_id, []).append(delivery)
        surplus: list[Delivery] = []
        for channel_id, deliveries in by_channel.items():
            name = self._bulkhead(deliveries[0])
            self._bulkheads.remember(channel_id, name)
            waiting = self._waiting.setdefault(name, deque())
            if len(waiting) < MOST_WAITING:
                self._names[channel_id] = name
                waiting.append((deliveries, until))
                self._fill()
            else:
                surplus += deliveries
        if surplus:
            async with self._marks:
                await outbox.give_back(self._pool, surplus)
        return bool(claimed)

    def _bulkhead(self, delivery: Delivery) -> str:
        channel = self._channel(delivery)
        return NO_CHANNEL if channel is None else self._sender.bulkhead(channel)

    def _channel(self, delivery: Delivery) -> Channel | None:
        if delivery.subscription_id == OPERATOR:
            return self._sender.operator_channels.get(delivery.channel_id)
        return delivery.channel

    def _fill(self) -> None:
        """Give a lane to whoever waits for one and may have it; all may who are only put back."""
        for name, waiting in list(self._waiting.items()):
            while waiting and (self._closing or self._bulkheads.has_room(name)):
                self._bulkheads.began(name)
                self._lanes[asyncio.create_task(self._lane(name, *waiting.popleft()))] = name
            if not waiting:
                del self._waiting[name]

    async def _landing(self) -> None:
        """Wait until a lane is done, and those that follow at once, or a new call came."""
        hint = asyncio.create_task(self._again.wait())
        try:
            await asyncio.wait({hint, *self._lanes}, return_when=asyncio.FIRST_COMPLETED)
            if not hint.done():
                await asyncio.wait({hint, *self._lanes}, timeout=TOGETHER_S)
        finally:
            hint.cancel()

    def _landed(self) -> int:
        """Clear the lanes that are done; returns how many deliveries they sent."""
        done = [lane for lane in self._lanes if lane.done()]
        for lane in done:
            self._bulkheads.ended(self._lanes.pop(lane))
        if done:
            self._fill()
            self._again.set()  # more may be due for a channel that was busy
        return sum(lane.result() for lane in done if not lane.cancelled())

    async def _lane(self, name: str, deliveries: Sequence[Delivery], until: float) -> int:
        """Send to one channel, then at once to the next one that waits for this bulkhead."""
        sent = await self._channels(deliveries, until)
        while not self._closing and self._waiting.get(name) and self._may_go_on(name):
            sent += await self._channels(*self._waiting[name].popleft())
        return sent

    def _may_go_on(self, name: str) -> bool:
        """Whether a lane may be had now by whoever holds one: the bulkhead may have become less."""
        self._bulkheads.ended(name)
        room = self._bulkheads.has_room(name)
        self._bulkheads.began(name)
        return room

    async def _channels(self, deliveries: Sequence[Delivery], until: float) -> int:
        """Send one channel's deliveries one after the other; one's failure loses no other."""
        try:
            return await self._each(deliveries, until)
        finally:
            self._names.pop(deliveries[0].channel_id, None)

    async def _each(self, deliveries: Sequence[Delivery], until: float) -> int:
        sent = 0
        for delivery in deliveries:
            try:
                sent += await self._one(delivery, until)
            except StoreError as exc:
                _log(delivery).warning("not marked, its lease will free it", why=str(exc))
            except Exception as exc:  # noqa: BLE001 - a bug must not lose what comes behind it
                await self._tell_bug(delivery, exc, until)
        return sent

    async def _one(self, delivery: Delivery, until: float) -> bool:
        """Send one delivery and mark it. True when it was sent."""
        channel = self._channel(delivery)
        if channel is None:
            await self._end(
                delivery, DeliveryState.CHANNEL_REMOVED, "the channel was removed", until
            )
            return False
        if not channel.enabled:
            await self._end(
                delivery, DeliveryState.SUPPRESSED, "the channel is switched off", until
            )
            return False
        told = await self._may_be_told(delivery, until)
        if told is None:
            return False
        # Never begin what another courier could take over before it is marked.
        late = time.monotonic() + self._sender.longest_send_s + MARK_S > until
        if late or self._closing:
            await self._mark(delivery, until, lambda: outbox.put_back(self._pool, delivery))
            return False
        answer = await self._sender.send(replace(told, channel=channel))
        if answer.tried:
            self._bulkheads.heard(self._names[delivery.channel_id], silent=answer.silent)
        return await self._judge(delivery, answer, until)

    async def _may_be_told(self, delivery: Delivery, until: float) -> Delivery | None:
        """The delivery as it is to be told now; None when it was held or let go."""
        match telling.decide(delivery.circumstances):
            case telling.Hold(why=why, seconds=seconds):
                await self._mark(
                    delivery, until, lambda: outbox.hold(self._pool, delivery, why, seconds)
                )
                return None
            case telling.LetGo(state=state, reason=reason):
                await self._end(delivery, state, reason, until)
                return None
        if delivery.alert_type is not AlertType.RECOVERY or delivery.incident_id is None:
            return delivery
        match await outbox.overtake(self._pool, delivery):
            case Overtaken.WAIT:
                await self._mark(
                    delivery, until, lambda: outbox.put_back(self._pool, delivery, OVERTAKE_S)
                )
                return None
            case Overtaken.WITHHELD if not delivery.context.get("flapping"):
                reason = "its beginning was not told"
                await self._end(delivery, DeliveryState.SUPPRESSED, reason, until)
                return None
            case Overtaken.TOLD:
                return delivery
            case _:
                return replace(delivery, whole=True)

    async def _judge(self, delivery: Delivery, answer: Answer, until: float) -> bool:
        if answer.ok:
            await self._mark(
                delivery, until, lambda: outbox.mark_sent(self._pool, delivery, answer.detail)
            )
            _log(delivery).info("alert sent", answer=answer.detail)
            return True
        if answer.unreadable:
            await self._tell_operator(delivery, answer.detail)
        if answer.permanent:
            await self._end(
                delivery,
                DeliveryState.GAVE_UP,
                answer.detail,
                until,
                answer=answer.detail,
                gone=answer.gone,
            )
            return False
        delay = next_delay_s(
            attempt=delivery.attempt,
            age_s=delivery.age_s,
            chance=random.random(),  # noqa: S311 - spreads retries, guards nothing
            retry_after_s=answer.retry_after_s,
        )
        if delay is None:
            why = f"no success in 24 hours: {answer.detail}"
            await self._end(delivery, DeliveryState.GAVE_UP, why, until, answer=answer.detail)
        elif not answer.tried:
            wait_s = answer.retry_after_s or delay
            await self._mark(delivery, until, lambda: outbox.put_back(self._pool, delivery, wait_s))
        else:
            await self._mark(
                delivery,
                until,
                lambda: outbox.mark_retry(self._pool, delivery, answer.detail, delay),
            )
            _log(delivery).warning("alert not taken", answer=answer.detail, again_in_s=delay)
        return False

    async def _end(
        self,
        delivery: Delivery,
        state: DeliveryState,
        reason: str,
        until: float,
        *,
        answer: str | None = None,
        gone: bool = False,
    ) -> None:
        await self._mark(
            delivery,
            until,
            lambda: outbox.mark_end(
                self._pool, delivery, state, reason, answer=answer, disable_channel=gone
            ),
        )
        tell = _log(delivery).warning if state in _LOST else _log(delivery).info
        tell("alert not delivered", state=state.value, reason=reason)

    async def _tell_operator(self, delivery: Delivery, why: str) -> None:
        """One alert a channel and day: its owner did nothing wrong, and hears nothing."""
        key = f"unreadable_channel:{delivery.channel_id}:{datetime.now(UTC):%Y-%m-%d}"
        title = f"Alerts for channel {delivery.channel_id} are lost"
        try:
            with translated():
                async with self._marks, self._pool.connection() as connection:
                    await outbox.enqueue_operator(
                        connection, list(self._sender.operator_channels), key, title, why
                    )
        except StoreError as exc:
            _log(delivery).warning("operator not told", why=str(exc))
        self._again.set()

    async def _mark(
        self, delivery: Delivery, until: float, mark: Callable[[], Awaitable[bool]]
    ) -> None:
        """Mark while the lease lasts, so that PostgreSQL's short absence repeats no message."""
        while True:
            try:
                async with self._marks:
                    marked = await mark()
                if not marked:
                    _log(delivery).warning("already marked, or taken over by another process")
                return
            except StoreUnavailable:
                if time.monotonic() + MARK_PAUSE_S > until:
                    raise
                await asyncio.sleep(MARK_PAUSE_S)

    async def _tell_bug(self, delivery: Delivery, exc: Exception, until: float) -> None:
        # The frames without the exception's text, which may quote the channel's address.
        frames = "".join(traceback.format_tb(exc.__traceback__))
        name = type(exc).__name__
        _log(delivery).error("a bug kept an alert back", error=name, frames=frames)
        try:
            await self._judge(delivery, Answer(ok=False, detail=f"internal error: {name}"), until)
        except StoreError as store:
            _log(delivery).warning("not marked, its lease will free it", why=str(store))


def _log(delivery: Delivery) -> structlog.stdlib.BoundLogger:
    bound: structlog.stdlib.BoundLogger = log.bind(
        event_id=str(delivery.event_id),
        channel_id=str(delivery.channel_id),
        alert_type=delivery.alert_type.value,
        attempt=delivery.attempt,
    )
    return bound
