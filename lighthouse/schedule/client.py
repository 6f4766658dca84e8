"""Connections to Redis that cannot hang, and what must be true of the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from lighthouse.errors import (
    ScheduleError,
    ScheduleMisconfigured,
    ScheduleUnavailable,
    SettingsError,
)

#: A server that answers no command in this time is away (redis-py's own default is forever).
SOCKET_TIMEOUT_S = 5.0
#: Idle connections are asked for a PING before use after this time.
HEALTH_CHECK_S = 15

#: What every part of Lighthouse passes to redis-py and kombu.
SOCKET_OPTIONS: dict[str, Any] = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "socket_keepalive": True,
    "health_check_interval": HEALTH_CHECK_S,
}


def connect(url: str) -> "redis.Redis":
    """A blocking client; each command fails within seconds. Raises SettingsError for a bad URL."""
    try:
        return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 1), **SOCKET_OPTIONS)
    except ValueError as exc:
        raise SettingsError(f"REDIS_URL cannot be read: {exc}") from None


def connect_async(url: str) -> "redis.asyncio.Redis":
    """The same for an event loop."""
    try:
        return redis.asyncio.Redis.from_url(
            url, retry=redis.asyncio.retry.Retry(NoBackoff(), 1), **SOCKET_OPTIONS
        )
    except ValueError as exc:
        raise SettingsError(f"REDIS_URL cannot be read: {exc}") from None


def check_server(url: str) -> None:
    """Make sure that Redis answers and never evicts.

    Raises ScheduleUnavailable or ScheduleMisconfigured with what to do.
    """
    client = connect(url)
    try:
        memory: Any = client.info("memory")
    except redis.exceptions.AuthenticationError as exc:
        raise ScheduleMisconfigured(f"Redis refuses the password of REDIS_URL: {exc}") from exc
    except redis.exceptions.RedisError as exc:
        where = client.connection_pool.connection_kwargs
        place = where.get("path") or f"{where.get('host')}:{where.get('port')}"
        raise ScheduleUnavailable(
            f"Redis at {place} cannot be reached: {exc}; start it or correct REDIS_URL"
        ) from exc
    finally:
        client.close()
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and int(memory.get("maxmemory", 0)) > 0:
        raise ScheduleMisconfigured(
            f"Redis evicts keys (maxmemory-policy {policy}) and would lose checks;"
            " set maxmemory-policy noeviction"
        )


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Redis' errors as ScheduleUnavailable or ScheduleError."""
    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as exc:
        raise ScheduleUnavailable(f"Redis is not available: {exc}") from exc
    except redis.exceptions.RedisError as exc:
        raise ScheduleError(f"Redis: {exc}") from exc
