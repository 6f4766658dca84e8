"""A beat that kills itself with its first claim in its hands: the leases stand in Redis, and the
workers were told of half of the batches, rounded down."""

import os
import signal

from lighthouse.fleet.beat import Scheduler
from lighthouse.schedule import Published

#: For `celery beat -S`. Production code knows nothing of it.
DYING = f"{__name__}:DyingScheduler"


class DyingScheduler(Scheduler):
    """What such a beat runs."""

    def _publish(self, batches: list[Published]) -> None:
        if batches:
            super()._publish(batches[: len(batches) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
