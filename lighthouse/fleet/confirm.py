"""A second opinion: another worker looks at once at what this one found down, and this one at what
the others did. A look makes no row; without an answer in time everything goes on as without us.
"""

import asyncio
import secrets
import time
from collections.abc import Callable

import structlog

from lighthouse.errors import ScheduleError
from lighthouse.fleet.specs import Specs
from lighthouse.fleet.targets import Target
from lighthouse.model import (
    ERROR_MESSAGE_CHARS,
    CheckStatus,
    Confirmation,
    Outcome,
    Reason,
    storable,
)
from lighthouse.probes import Prober
from lighthouse.schedule.confirm import BLOCK_S, Answered, Confirmations, Request

log = structlog.get_logger(__name__)

#: Seconds that a result waits for an answer: its alert is to be with its channel 2 s after the
#: probe, and flush and delivery want their share.
WAIT_S = 1.5
#: Seconds that a look may take, so that its answer is still waited for.
LOOK_S = 1.2
#: Own requests that are out at the same time; further ones wait for a place, within WAIT_S.
MOST_ASKED = 64
#: Looks for others at the same time: few, for they come on top of the checks that are due.
MOST_LOOKS = 32
#: Seconds in which only answers are taken, after a request of our own came back or while too many
#: looks are under way: Redis serves first whoever waits longest, and that would be us again.
PAUSE_S = 0.05
#: Seconds between two tries while Redis is away.
BACKOFF_S = 1.0


class Confirmer:
    """Everything here runs on the engine's loop."""

    def __init__(
        self,
        requests: Confirmations,
        *,
        specs: Specs,
        prober: Prober,
        worker: str,
        region: str | None,
        cut_off: Callable[[], bool],
    ) -> None:
        """`worker` is the name that others know this one by; when it is `cut_off`, it is no
        witness."""
        self._requests = requests
        self._specs = specs
        self._prober = prober
        self._worker = worker
        self._region = region
        self._cut_off = cut_off
        self._places = asyncio.Semaphore(MOST_ASKED)
        self._asked: dict[str, asyncio.Future[Confirmation]] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self._paused_until = 0.0  #: monotonic, s

    async def ask(self, target: Target) -> Confirmation | None:
        """What another worker finds there now; None: nobody could tell in time."""
        if target.who is None:
            return None
        request = Request(
            id=secrets.token_hex(8),
            originator=self._worker,
            subscription_id=target.who,
            version=target.version,
        )
        try:
            async with asyncio.timeout(WAIT_S), self._places:
                answer = self._asked[request.id] = asyncio.get_running_loop().create_future()
                found = await answer if await self._requests.ask(request) else None
        except (TimeoutError, ScheduleError):
            return None
        finally:
            self._asked.pop(request.id, None)
        return found if found is not None and _tells(found) else None

    async def run(self) -> None:
        """Take answers, and requests of others, until cancelled."""
        try:
            while True:
                try:
                    await self._take()
                except ScheduleError:  # whoever keeps the leases tells of it
                    await asyncio.sleep(BACKOFF_S)
        finally:
            for look in self._looking:
                look.cancel()
            await asyncio.gather(*self._looking, return_exceptions=True)

    async def _take(self) -> None:
        free = len(self._looking) < MOST_LOOKS and time.monotonic() >= self._paused_until
        came = await self._requests.next(requests=free, timeout_s=BLOCK_S if free else PAUSE_S)
        if isinstance(came, Answered):
            answer = self._asked.get(came.id)
            if answer is not None and not answer.done():  # else it came too late
                answer.set_result(came.confirmation)
        elif came is not None and came.originator == self._worker:
            self._paused_until = time.monotonic() + PAUSE_S
            await self._requests.put_back(came)
        elif came is not None:
            look = asyncio.create_task(self._answer(came))
            self._looking.add(look)
            look.add_done_callback(self._looking.discard)

    async def _answer(self, request: Request) -> None:
        try:
            if await self._requests.take(request):
                outcome = await self._look(request)
                await self._requests.answer(request, self._told(outcome))
        except ScheduleError as exc:  # whoever asked goes on without us
            log.warning("a confirmation was not given", why=str(exc))

    async def _look(self, request: Request) -> Outcome:
        if self._cut_off():
            return _untold(Reason.PROBER_UNPROVED, "nothing answers this worker")
        await self._specs.learn([(request.subscription_id, request.version)])
        known = self._specs.get(request.subscription_id)
        if known is None or known.version != request.version or known.target is None:
            return _untold(Reason.PROBER_CONFIG, "the configuration that was checked is gone")
        if not known.target.askable:
            return _untold(Reason.PROBER_CONFIG, "such a check may not be repeated")
        try:
            return await self._prober.probe(known.type, known.config.once(LOOK_S), LOOK_S)
        except Exception:
            # As at a batch's edge: our own bug is no fault of the target.
            log.exception("a look failed", subscription_id=str(request.subscription_id))
            return _untold(Reason.PROBER_BUG, "the prober failed; its log has the reason")

    def _told(self, outcome: Outcome) -> Confirmation:
        return Confirmation(
            worker=self._worker,
            region=self._region,
            status=outcome.status,
            reason=outcome.reason,
            message=storable(outcome.message, ERROR_MESSAGE_CHARS),
            latency_ms=outcome.latency_ms,
            http_status=outcome.http_status,
        )


def _untold(reason: Reason, message: str) -> Outcome:
    return Outcome(status=CheckStatus.ERROR, reason=reason, message=message)


def _tells(found: Confirmation) -> bool:
    """Whether a look says anything of the target; what may be probed is each worker's own."""
    return found.status.judged and found.reason is not Reason.FORBIDDEN_ADDRESS
