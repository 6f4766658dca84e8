"""PostgreSQL as the simulator has it: the transactions of store/, each at once, by the real rules.

What is due, how silence is told, what is believed and what an event is called come from the
product's own functions (looked up by module, so that a test can break them). What the SQL adds is
modelled: the primary key, `missed` that a result replaces, gap records, the watermark, and changes
of schedules that are open for a while before they are committed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from lighthouse import gaps, slots, verdict
from lighthouse.alerting import Alerting
from lighthouse.gaps import Run, Told
from lighthouse.model import (
    CheckStatus,
    MonitorType,
    Result,
    SubscriptionStatus,
    Verdict,
    event_id,
)
from lighthouse.slots import Epoch
from lighthouse.store import record
from lighthouse.store.changes import SpecRow
from lighthouse.verdict import Belief, Found, Judged
from tests.support.checker import History

#: One change tips a verdict, and every change is told: what the checker reckons with.
ALERTING = Alerting(flapping=None)


@dataclass(slots=True, kw_only=True)
class Watched:
    """A subscription's row."""

    id: UUID
    interval_s: int
    browser: bool
    xid: int
    active: bool = True


@dataclass(slots=True, kw_only=True)
class Change:
    """A transaction that changes a schedule and has read the clock, but is not committed."""

    xid: int
    watched: Watched
    now: int
    interval_s: int | None  #: None: pause or resume


class Store:
    """Tables and transactions. `clock` is PostgreSQL's, in ms since the epoch."""

    def __init__(self, clock: Callable[[], int], grace_ms: int) -> None:
        self._clock = clock
        self._grace_ms = grace_ms
        self._xid = 1
        self._flush = 0
        self.watched: dict[UUID, Watched] = {}
        self.epochs: dict[UUID, list[tuple[int, Epoch]]] = {}  #: with their ids, the newest last
        self.open: list[Change] = []
        self.rows: dict[UUID, dict[int, CheckStatus]] = {}
        self.judged: dict[tuple[UUID, int], tuple[int, int]] = {}
        #: Rows that were due by what was committed when they were recorded.
        self.asked_for: set[tuple[UUID, int]] = set()
        self.gaps: dict[UUID, list[Run]] = {}
        self.beliefs: dict[UUID, Belief] = {}
        self.told: dict[UUID, str] = {}
        self.watermark: int | None = None

    def subscribe(self, id_: UUID, interval_s: int, *, browser: bool, first_slot: int) -> None:
        self.watched[id_] = Watched(
            id=id_, interval_s=interval_s, browser=browser, xid=self._next_xid()
        )
        self.rows[id_] = {}
        self.gaps[id_] = []
        self.beliefs[id_] = Belief(verdict=Verdict.UNKNOWN, since=None)
        self.epochs[id_] = []
        self._open_epoch(id_, interval_s, first_slot)

    def _next_xid(self) -> int:
        self._xid += 1
        return self._xid

    def _open_epoch(self, id_: UUID, interval_s: int, first_slot: int) -> None:
        interval = interval_s * 1000
        epoch = Epoch(
            interval_ms=interval, phase_ms=slots.phase(id_, interval), first_slot=first_slot
        )
        self.epochs[id_].append((self._next_xid(), epoch))

    def begin_change(self, id_: UUID, interval_s: int | None) -> None:
        """Pause an active subscription or resume a paused one, or give it another interval."""
        if all(change.watched.id != id_ for change in self.open):  # its row is locked
            self.open.append(
                Change(
                    xid=self._next_xid(),
                    watched=self.watched[id_],
                    now=self._clock(),
                    interval_s=interval_s,
                )
            )

    def commit_change(self, change: Change) -> None:
        self.open.remove(change)
        watched = change.watched
        watched.xid = change.xid
        if change.interval_s is None:
            watched.active = not watched.active
            if watched.active:
                self._open_epoch(watched.id, watched.interval_s, self._start(change))
            else:
                self._close_epoch(change)
            return
        moved = change.interval_s != watched.interval_s
        watched.interval_s = change.interval_s
        if moved and watched.active:
            self._close_epoch(change)
            interval = change.interval_s * 1000
            phase = slots.phase(watched.id, interval)
            first = slots.next_slot(self._start(change) - 1, interval, phase)
            self._open_epoch(watched.id, change.interval_s, first)

    def _close_epoch(self, change: Change) -> None:
        identity, epoch = self.epochs[change.watched.id][-1]
        self.epochs[change.watched.id][-1] = (
            identity,
            replace(epoch, to=max(epoch.first_slot, change.now)),
        )

    def _start(self, change: Change) -> int:
        ends = [e.to for _, e in self.epochs[change.watched.id] if e.to and e.to > e.first_slot]
        return max([change.now, *ends])

    def snapshot(self, since: int) -> tuple[list[SpecRow], int, int]:
        """What `changes` gives: the rows, the next call's number, how many are active."""
        end = self._xid + 1
        oldest = min((change.xid for change in self.open), default=end)
        rows = [
            self._spec(watched)
            for watched in self.watched.values()
            if watched.xid >= since and (since == 0 or watched.xid < end)
        ]
        return rows, oldest, sum(watched.active for watched in self.watched.values())

    def _spec(self, watched: Watched) -> SpecRow:
        identity, epoch = self.epochs[watched.id][-1]
        return SpecRow(
            id=watched.id,
            changed_xid=watched.xid,
            target_type=MonitorType.HTTP,
            target_config="{}",
            status=SubscriptionStatus.ACTIVE if watched.active else SubscriptionStatus.PAUSED,
            epoch_id=identity if watched.active else None,
            interval_ms=epoch.interval_ms if watched.active else None,
            phase_ms=epoch.phase_ms if watched.active else None,
            first_slot=epoch.first_slot if watched.active else None,
            browser=watched.browser,
        )

    def record(self, results: Sequence[Result]) -> None:
        """THE transaction."""
        self._flush += 1
        now = self._clock()
        recent = [r for r in results if r.slot > now - record.LATE_HORIZON_MS]
        stored: list[Result] = []
        for r in recent if not self._changed(results) else filter(self._due, recent):
            rows = self.rows[r.subscription_id]
            if rows.get(r.slot, CheckStatus.MISSED) is CheckStatus.MISSED:
                rows[r.slot] = r.status
                stored.append(r)
        for r in stored:
            if any(e.count(r.slot - 1, r.slot) for _, e in self.epochs[r.subscription_id]):
                self.asked_for.add((r.subscription_id, r.slot))
            if r.status.judged:
                self.judged[r.subscription_id, r.slot] = (self._flush, self._flush)
            if self.watermark is not None and r.slot <= self.watermark:
                self._leave_gap(r.subscription_id, r.slot)
        self._believe(stored)

    def _changed(self, results: Sequence[Result]) -> bool:
        since = min(r.slot for r in results) - record.CHANGES_KNOWN_MS
        until = max(r.slot for r in results)
        return any(
            epoch.to is not None and since <= epoch.to <= until
            for epochs in self.epochs.values()
            for _, epoch in epochs
        )

    def _due(self, result: Result) -> bool:
        epochs = [epoch for _, epoch in self.epochs[result.subscription_id]]
        ended = any(epoch.to is not None and epoch.to <= result.slot for epoch in epochs)
        return not ended or any(epoch.count(result.slot - 1, result.slot) for epoch in epochs)

    def _leave_gap(self, id_: UUID, slot: int) -> None:
        kept: list[Run] = []
        for gap in self.gaps[id_]:
            kept += gaps.without(gap, slot)
        self.gaps[id_] = kept

    def _believe(self, stored: Sequence[Result]) -> None:
        for id_ in dict.fromkeys(r.subscription_id for r in stored):
            belief = self.beliefs[id_]
            mine = [r for r in stored if r.subscription_id == id_]
            if all(verdict.is_steady(belief.verdict, r.status) for r in mine):
                continue
            latest = [
                Judged(slot=slot, status=status)
                for slot, status in sorted(self.rows[id_].items(), reverse=True)
                if status.judged
            ][: ALERTING.rows_needed]
            judgement = verdict.judge(
                belief,
                latest,
                Found(slot=latest[0].slot),
                alerting=ALERTING,
                monitor=MonitorType.HTTP,
                interval_ms=self.watched[id_].interval_s * 1000,
            )
            self.beliefs[id_] = judgement.belief
            for event in judgement.events:
                self.told[event_id(id_, event.slot, event.alert, event.about)] = "sent"

    def sweep(self, share: float = 1.0) -> None:
        """Account for what is due, or for a `share` of the way there."""
        if self.open:
            return  # the real one waits for these changes, and in the end gives up
        now = self._clock()
        after, until = self.watermark, now - self._grace_ms
        if after is None:
            firsts = [epoch.first_slot for epochs in self.epochs.values() for _, epoch in epochs]
            after = min([until, *(first - 1 for first in firsts)])
        end = after + max(1, int((until - after) * share))
        if end > until:
            return
        for id_, epochs in self.epochs.items():
            for _, epoch in epochs:
                for run in self._missing(id_, epoch, after, end):
                    self._tell(run, now - record.LATE_HORIZON_MS)
        self.watermark = end

    def _missing(self, id_: UUID, epoch: Epoch, after: int, until: int) -> Iterable[Run]:
        for whole in gaps.due_runs(id_, epoch, after, until):
            island: list[int] = []
            for n in range(whole.count):
                slot = whole.first + n * whole.interval_ms
                if slot in self.rows[id_] or any(_holds(gap, slot) for gap in self.gaps[id_]):
                    yield from self._run(whole, island)
                    island = []
                else:
                    island.append(slot)
            yield from self._run(whole, island)

    def _run(self, whole: Run, island: list[int]) -> Iterable[Run]:
        if island:
            yield replace(whole, first=island[0], count=len(island))

    def _tell(self, run: Run, horizon: int) -> None:
        rows, step = self.rows[run.subscription_id], run.interval_ms
        mine = self.gaps[run.subscription_id]
        before = next(
            (gap for gap in mine if gap.interval_ms == step and gap.last == run.first - step), None
        )
        follows = all(
            rows.get(run.first - n * step) is CheckStatus.MISSED
            for n in range(1, gaps.LONGEST_IN_ROWS + 1)
        )
        how = gaps.tell(run, continues=before is not None, follows_rows=follows, horizon=horizon)
        if how is Told.ROWS:
            for n in range(run.count):
                rows[run.first + n * step] = CheckStatus.MISSED
        elif how is Told.GAP:
            mine.append(run)
        else:
            assert before is not None
            mine.remove(before)
            mine.append(replace(before, count=before.count + run.count))

    def history(self) -> History:
        """Everything, for the checker."""
        return History(
            epochs={id_: [epoch for _, epoch in epochs] for id_, epochs in self.epochs.items()},
            rows={
                id_: {slot: status.value for slot, status in rows.items()}
                for id_, rows in self.rows.items()
            },
            gaps={
                id_: {gap.first + n * gap.interval_ms for gap in mine for n in range(gap.count)}
                for id_, mine in self.gaps.items()
            },
            judged=self.judged,
            told=self.told,
            believed={id_: belief.verdict.value for id_, belief in self.beliefs.items()},
        )


def _holds(gap: Run, slot: int) -> bool:
    position, off = divmod(slot - gap.first, gap.interval_ms)
    return off == 0 and 0 <= position < gap.count
