"""The broker's transport on real servers: what is lost, what is refused, what is encrypted."""

import contextlib
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kombu
import pytest
import redis

from lighthouse.fleet import broker
from lighthouse.local import processes, servers
from tests.support.certificates import Authority
from tests.support.tls_front import tls_front

CHECKS = kombu.Queue("checks", kombu.Exchange("checks", type="direct"), routing_key="checks")


@pytest.fixture
def redis_process(tmp_path: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """URL and process of a Redis that the test may kill."""
    server = servers.prepare_redis(tmp_path, logs=tmp_path / "logs")
    process = processes.start(server.program, tmp_path / "logs" / "redis.log")
    servers.await_ready(server, process)
    yield server.url, process
    processes.stop(process, server.program)


def taken(connection: kombu.Connection) -> None:
    """Take a message, leave it unacked and wait for the next one, as a worker does."""
    got: list[Any] = []
    consumer = kombu.Consumer(
        connection.default_channel, [CHECKS], callbacks=[lambda body, _: got.append(body)]
    )
    connection.Producer().publish(
        {"n": 1}, exchange="checks", routing_key="checks", declare=[CHECKS]
    )
    consumer.consume()
    # A second channel, as a worker has for its remote control.
    kombu.Consumer(connection.channel(), [kombu.Queue("alerts")]).consume()
    while not got:
        connection.drain_events(timeout=10)
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.1)
    assert got == [{"n": 1}]


def test_a_connection_that_was_lost_with_a_message_in_hand_is_closed_without_an_error(
    redis_process: tuple[str, "subprocess.Popen[bytes]"],
) -> None:
    """Fails with kombu's own QoS; Celery closes so, and what is raised there ends the worker."""
    url, process = redis_process
    broker.register()
    connection = kombu.Connection(url)
    taken(connection)
    process.send_signal(signal.SIGKILL)
    process.wait()
    connection.collect(socket_timeout=1.0)
    connection.close()


def test_a_connection_that_is_closed_puts_back_the_message_in_hand(redis_url: str) -> None:
    broker.register()
    with kombu.Connection(redis_url) as connection:
        taken(connection)
    with kombu.Connection(redis_url) as connection:
        again = CHECKS(connection.default_channel).get(no_ack=True)
        assert again is not None
        assert again.payload == {"n": 1}


def test_rediss_alone_asks_for_a_certificate_that_a_known_authority_signed(
    tmp_path: Path, redis_url: str
) -> None:
    """Fails when Celery is given no `broker_use_ssl`: kombu then trusts whoever answers."""
    broker.register()
    authority = Authority(tmp_path)
    plain = urlsplit(redis_url)
    assert plain.hostname is not None
    assert plain.port is not None
    with tls_front(authority, (plain.hostname, plain.port)) as port:
        url = f"rediss://:{plain.password or ''}@127.0.0.1:{port}{plain.path}"
        known = f"{url}?ssl_ca_certs={authority.ca_file}"
        with kombu.Connection(known, ssl=broker.tls(known) or False) as connection:
            taken(connection)
        with (
            kombu.Connection(url, ssl=broker.tls(url) or False) as connection,
            pytest.raises(redis.exceptions.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            connection.connect()


def test_flower_is_told_the_authority_that_the_url_names() -> None:
    assert broker.tls("redis://:word@localhost/0") is None
    assert broker.tls("rediss://:word@localhost/0?ssl_ca_certs=/ca.pem") == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certs": "/ca.pem",
    }
