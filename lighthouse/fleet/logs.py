"""How the fleet's processes log: one line an event, through structlog and the standard library."""

import logging
import sys
from typing import Any

import structlog

from lighthouse.settings import Settings

#: Libraries that tell at `info` what is none of an operator's concern.
_QUIET = ("aiohttp.access", "alembic", "amqp", "kombu", "web3")


def configure(settings: Settings) -> None:
    """Send every log line of this process to standard error in the format of the settings."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=30,
                # The default one prints local variables, and with them channels' addresses.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    # It repeats with every try what the caller logs once.
    logging.getLogger("psycopg.pool").setLevel(max(logging.ERROR, root.level))
    # One line a batch says nothing that the history does not.
    logging.getLogger("celery.app.trace").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("celery.worker.strategy").setLevel(max(logging.WARNING, root.level))
