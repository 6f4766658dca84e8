"""A container's health check: exit status 0 while its role does its work.

Usage: health.py worker|beat|flower. It reads what the fleet itself keeps in Redis;
`celery inspect ping` would start a second Celery for every question.
"""

import socket
import sys
import urllib.request

from redis.exceptions import RedisError

from lighthouse.errors import LighthouseError
from lighthouse.schedule.client import connect
from lighthouse.schedule.keys import CLOCK, WORKERS
from lighthouse.settings import current

#: Beat claims many times a second; after a failure it waits 5 s at the most.
BEAT_MS = 15_000


def main(role: str) -> str:
    """What is wrong, or ''."""
    if role == "flower":
        with urllib.request.urlopen("http://127.0.0.1:5555/healthcheck", timeout=5):
            return ""
    with connect(current().require_redis()) as client:
        seconds, micros = client.time()
        now = seconds * 1000 + micros // 1000
        if role == "worker":
            name = f"celery@{socket.gethostname()}"
            until = client.zscore(WORKERS, name)
            return "" if until and until >= now else f"{name} has stopped renewing its leases"
        claimed = int(client.get(CLOCK) or 0)
        return "" if now - claimed < BEAT_MS else "beat has stopped claiming checks"


if __name__ == "__main__":
    try:
        problem = main(sys.argv[1])
    except (LighthouseError, RedisError, OSError) as exc:
        problem = str(exc)
    sys.exit(problem or 0)
