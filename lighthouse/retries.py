"""When a delivery that failed is tried again: pure arithmetic, so a test needs no clock."""

#: A delivery that has failed for so long is given up: the news is stale, and the service is gone.
GIVE_UP_AFTER_S = 24 * 3600.0
#: The first wait; each further one doubles.
FIRST_DELAY_S = 2.0
#: The longest wait: a service that comes back is noticed within a quarter of an hour.
LONGEST_DELAY_S = 900.0
#: The share of a wait that chance may add, so that what failed together does not return together.
JITTER = 0.25


def next_delay_s(
    *, attempt: int, age_s: float, chance: float, retry_after_s: float | None = None
) -> float | None:
    """Seconds until the next try, or None to give up.

    `attempt` counts the tries so far, from 1; `age_s` is the time since the event was written;
    `chance` is a random number in [0, 1). A service's own wish (`retry_after_s`) is never
    undercut, nor does it shorten the wait: "at once" from a failing service would be a tight loop.
    The last try falls on the end of the 24 hours.
    """
    left_s = GIVE_UP_AFTER_S - age_s
    if left_s <= 0 or (retry_after_s is not None and retry_after_s > left_s):
        return None
    doublings = min(max(attempt, 1) - 1, 30)  # more would only overflow the cap
    own = min(FIRST_DELAY_S * 2.0**doublings, LONGEST_DELAY_S)
    delay = max(own, retry_after_s or 0.0) * (1.0 + JITTER * chance)
    return min(delay, left_s)
