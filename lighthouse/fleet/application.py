"""The Celery application: queues, transport options and what runs in a worker beside its pool."""

import sys
from typing import Any

from celery import Celery, bootsteps
from celery.signals import setup_logging
from kombu.entity import Exchange, Queue

from lighthouse.errors import LighthouseError
from lighthouse.fleet import broker
from lighthouse.fleet.logs import configure
from lighthouse.schedule.client import SOCKET_OPTIONS
from lighthouse.settings import current

#: A worker without -Q takes these; `browser` is opt-in.
DEFAULT_QUEUES = ("checks", "alerts", "maintenance")

#: Nothing relies on the broker's redelivery (leases do), so it must never double what is running.
VISIBILITY_TIMEOUT_S = 12 * 3600


def fail(error: LighthouseError) -> None:
    """End this process with one line: a start that cannot succeed is not retried in here."""
    sys.stderr.write(f"lighthouse: {error}\n")
    sys.stderr.flush()
    raise SystemExit(1)


def _make() -> Celery:
    settings = current()
    redis_url = settings.require_redis()
    broker.register()
    made = Celery("lighthouse", broker=redis_url, set_as_current=True)
    made.conf.update(
        broker_use_ssl=broker.tls(redis_url),
        include=["lighthouse.fleet.tasks"],
        task_queues=[
            Queue(name, Exchange(name, type="direct"), routing_key=name)  # type: ignore[no-untyped-call]
            for name in DEFAULT_QUEUES
        ],
        task_create_missing_queues=True,
        task_default_queue="maintenance",
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        # Acked when taken: what protects a batch is its lease.
        task_acks_late=False,
        worker_pool="threads",
        worker_concurrency=settings.worker_concurrency,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=True,
        task_send_sent_event=False,
        task_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Redis refuses writes while it or its disk is full: no reason to end, probes are running.
        broker_channel_error_retry=True,
        broker_pool_acquire_timeout=5.0,
        broker_transport_options={
            **SOCKET_OPTIONS,
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "retry_on_timeout": False,
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.2,
        },
        beat_scheduler="lighthouse.fleet.beat:Scheduler",
        beat_max_loop_interval=1.0,
        timezone="UTC",
        enable_utc=True,
    )
    return made


try:
    app = _make()
except LighthouseError as error:
    fail(error)


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the engine beside the pool: started before the first message, ended before the join."""

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        from lighthouse.fleet.engine import Engine, engine_started

        try:
            engine_started(Engine.open(current(), name=str(parent.hostname), notify=_hint_alerts))
        except LighthouseError as error:
            fail(error)

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        from lighthouse.fleet.engine import engine_stopped

        engine_stopped()

    terminate = stop


def _hint_alerts() -> None:
    app.send_task("lighthouse.deliver", queue="alerts", ignore_result=True, retry=False)


app.steps["worker"].add(EngineStep)


@setup_logging.connect  # type: ignore[untyped-decorator]
def _logging(**_: Any) -> None:
    configure(current())
