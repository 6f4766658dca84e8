"""When targets answered: whether the network was there while another one was silent."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from statistics import median

#: A pause in all answers may be an outage if it lasted so many times the usual one, and may have
#: cost an attempt its answer if it was such a share of it: TCP sends again at doubling distances,
#: so that something is sent outside of any shorter one.
UNUSUAL, PAUSE_SHARE = 8.0, 0.25
#: Seconds in which a pause is none: whoever asks for proof asks no faster.
SHORT_S = 0.5
#: Seconds: answers closer together than this count as one.
CLOSE_S = 0.05
#: Answers whose times are kept: those of the busiest worker's last fifty seconds.
MOST_ANSWERS = 1000


class Answers:
    """The times of the last answers, whosever they were; monotonic, in s."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MOST_ANSWERS)

    def note(self, now: float) -> None:
        """Something answered."""
        if not self._times or now - self._times[-1] >= CLOSE_S:
            self._times.append(now)

    def pauses(self) -> "Pauses":
        """What lay between them, up to now."""
        return Pauses(self._times)


class Pauses:
    """The pauses between answers. Nothing is known of the time before the first one."""

    def __init__(self, times: Iterable[float]) -> None:
        self._times = [-math.inf, *times]
        lengths = [after - before for before, after in pairwise(self._times)]
        self._latest = list(zip(reversed(self._times[1:]), reversed(lengths), strict=True))
        self._usual = median(lengths[1:]) if lengths[1:] else 0.0

    def spare(self, began_at: float, ended_at: float, near_s: float = 0.0) -> bool:
        """Whether an attempt failed for no outage of ours, from its begin until now.

        Something answered during it; or, where it was too short for that, before and after it
        within `near_s`.
        """
        bearable = max(UNUSUAL * self._usual, PAUSE_SHARE * (ended_at - began_at), SHORT_S)
        for resumed_at, lasted in self._latest:
            if resumed_at <= began_at:
                break
            if lasted > bearable:
                return False
        place = bisect_right(self._times, ended_at)
        last_before_end = self._times[place - 1]
        if last_before_end >= began_at - CLOSE_S:
            return True
        return place < len(self._times) and self._times[place] - last_before_end <= near_s
