"""The fleet's tasks: decode, call the engine, return. Each says why running it twice is safe."""

from celery import shared_task

from lighthouse.fleet.engine import engine


@shared_task(name="lighthouse.run_batch", ignore_result=True)  # type: ignore[untyped-decorator]
def run_batch(batch: str, attempt: int) -> None:
    """Run the checks of a batch; returns when the engine has taken it, not when it is done.

    Twice is safe: a batch runs only under its lease's attempt, and a slot has one row.
    """
    engine().run_batch(batch, attempt)


@shared_task(name="lighthouse.deliver", ignore_result=True)  # type: ignore[untyped-decorator]
def deliver() -> None:
    """Send what is due in the outbox. Twice is safe: each delivery is claimed under a lease."""
    engine().deliver()


@shared_task(name="lighthouse.sweep", ignore_result=True)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Account for every due slot. Twice is safe: a second sweeper finds the lock taken."""
    engine().sweep()


@shared_task(name="lighthouse.rollup", ignore_result=True)  # type: ignore[untyped-decorator]
def rollup() -> None:
    """Roll closed buckets up. Twice is safe: a bucket is recomputed whole, under a lock."""
    engine().rollup()


@shared_task(name="lighthouse.upkeep", ignore_result=True)  # type: ignore[untyped-decorator]
def upkeep() -> None:
    """Make partitions, drop what is too old. Twice is safe: both only do what is left to do."""
    engine().upkeep()


@shared_task(name="lighthouse.tend", ignore_result=True)  # type: ignore[untyped-decorator]
def tend() -> None:
    """What alerts need from time to time. Twice is safe: each part holds what it works on."""
    engine().tend()


@shared_task(name="lighthouse.expire", ignore_result=True)  # type: ignore[untyped-decorator]
def expire() -> None:
    """End subscriptions whose time is over. Twice is safe: only active ones are ended."""
    engine().expire()
