"""The broker's transport: kombu's for Redis, except for two things that would end a worker.

A message that nobody can read, which somebody pushed into a queue by hand, is dropped; and a
connection that is lost while a message is in hand is closed without an error.
"""

from queue import Empty
from ssl import CERT_REQUIRED
from typing import Any

import redis.exceptions
import structlog
from kombu.exceptions import InconsistencyError
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from kombu.utils.url import parse_url

log = structlog.get_logger(__name__)

#: The connection's own faults, after which Celery connects anew; `Empty` is kombu's "nothing yet".
#: kombu's list has KeyError too, which here says that an envelope lacks something.
_NOT_THE_MESSAGES = (
    Empty,
    OSError,
    InconsistencyError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ResponseError,
    redis.exceptions.InvalidResponse,
)


def register() -> None:
    """Serve the schemes of REDIS_URL.

    Celery's `broker_transport` would do it too, but shows as the scheme wherever a URL is printed.
    """
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))


def tls(url: str) -> dict[str, Any] | None:
    """Celery's `broker_use_ssl` for a URL; None where it asks for no TLS.

    kombu alone would accept any certificate; the URL's `ssl_…` options are repeated for Flower,
    which looks nowhere else.
    """
    if not url.startswith("rediss://"):
        return None
    return {"ssl_cert_reqs": CERT_REQUIRED, **parse_url(url).get("ssl", {})}


class QoS(kombu_redis.QoS):
    """Knows which messages were taken and not acked yet."""

    def restore_unacked(self, client: Any = None) -> None:
        """Put them back into their queues, unless the connection has gone.

        kombu tries it then too, at the close of what was lost, and the error ends the worker. What
        stays behind is a batch whose lease brings it back, or a hint that a sweep repeats.
        """
        try:
            if self.channel.connection.client is not None:
                super().restore_unacked(client)  # type: ignore[no-untyped-call]
        except _NOT_THE_MESSAGES as exc:
            log.warning("messages not put back", messages=len(self._delivered), why=str(exc))
        self._delivered.clear()


class Channel(kombu_redis.Channel):
    """Reads what was pushed into the queues."""

    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except _NOT_THE_MESSAGES:
            raise
        except Exception as exc:  # noqa: BLE001 - told by its type alone, see _tell
            # The message's edge. It has left the queue and has no envelope to answer to.
            _tell(exc)
            return True


class Transport(kombu_redis.Transport):
    """Hands each message to its consumer."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        except _NOT_THE_MESSAGES:
            raise
        except Exception as exc:  # noqa: BLE001
            # The message's edge again: an envelope that lacks what kombu or Celery needs of it.
            _tell(exc, queue=queue)
            self._forget(message)

    def _forget(self, message: Any) -> None:
        """Give up a message that was taken: it would use up the consumer's room for ever."""
        try:
            tag = message["properties"]["delivery_tag"]
            holders = [channel for channel in self.channels if tag in channel.qos._delivered]
        except (LookupError, TypeError):
            return  # without a tag it was never taken
        for channel in holders:
            channel.basic_reject(tag, requeue=False)


def _tell(exc: Exception, **more: Any) -> None:
    # Its text stays out: it may be anything of any size, and hold what is secret.
    log.warning("message dropped: it makes no sense", why=type(exc).__name__, **more)
