"""The sender against services on loopback: what goes out and what it makes of their faults."""

import asyncio
import json
import socket
import ssl
import time
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest

from lighthouse.channels import Sender, send_test
from lighthouse.model import Answer, Channel, ChannelType, Severity
from lighthouse.settings import Settings, load
from tests.support.certificates import Authority, Certificate
from tests.support.services import Discord, Receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOKEN = "t0ken-of-the-address"


def settings(allow: str = "127.0.0.0/8,::1/128", **more: str) -> Settings:
    return load({"LIGHTHOUSE_EGRESS_ALLOW": allow, "LIGHTHOUSE_ALERT_TIMEOUT_S": "0.5", **more})


def channel(kind: str, language: str = "en", **config: str) -> Channel:
    return Channel(
        id=uuid4(),
        subscription_id=uuid4(),
        channel_type=ChannelType(kind),
        channel_config=config,
        enabled=True,
        min_severity=Severity.INFO,
        metadata={"language": language},
    )


async def answer(url: str, **more: Any) -> Answer:
    found = await send_test(channel("webhook", url=f"{url}?key={TOKEN}"), settings(**more))
    assert TOKEN not in found.detail
    assert "127.0.0.1" not in found.detail
    assert "\n" not in found.detail
    return found


async def test_a_webhook_gets_a_signed_document_that_its_receiver_verifies() -> None:
    async with Receiver(SECRET) as receiver:
        found = await send_test(
            channel("webhook", "es", url=f"{receiver.base}/ok", secret=SECRET), settings()
        )
    assert (found.ok, found.detail) == (True, "HTTP 204")
    assert receiver.verified == [True]
    document = json.loads(receiver.bodies[0])
    assert document["type"] == "test"
    assert document["data"]["title"] == "Mensaje de prueba de Lighthouse"
    assert document["data"]["event_id"] in receiver.ids[0]
    (headers,) = receiver.headers
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("Lighthouse/")
    assert "cookie" not in headers


async def test_without_a_secret_nothing_is_signed() -> None:
    async with Receiver() as receiver:
        assert (await answer(f"{receiver.base}/ok")).ok
    assert "webhook-signature" not in receiver.headers[0]
    assert receiver.headers[0]["webhook-id"]


async def test_discord_stores_the_message_before_it_counts_as_sent() -> None:
    async with Discord() as discord:
        url = f"{discord.url()}?thread_id=5"
        found = await send_test(channel("discord", webhook_url=url), settings())
    assert (found.ok, found.detail) == (True, "HTTP 200")  # 204 would mean without wait=true
    assert discord.titles() == ["Test message from Lighthouse"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:7f00:1]", "0.0.0.0"])
async def test_a_forbidden_address_is_never_connected_to_however_it_is_written(host: str) -> None:
    async with Receiver() as receiver:
        port = receiver.base.rpartition(":")[2]
        found = await answer(f"http://{host}:{port}/ok", allow="192.0.2.0/24")
    assert not found.ok
    assert found.detail.startswith("the address may not be connected to (")
    assert receiver.paths == []


async def test_a_redirect_is_not_followed() -> None:
    async with Receiver() as receiver:
        found = await answer(f"{receiver.base}/redirect")
    assert (found.permanent, found.detail) == (True, "HTTP 307: redirects are not followed")
    assert receiver.paths == ["/redirect"]


async def test_one_deadline_holds_for_a_service_that_hangs() -> None:
    async with Receiver() as receiver:
        began = time.monotonic()
        found = await answer(f"{receiver.base}/hang")
    assert (found.ok, found.permanent, found.detail) == (False, False, "no answer within 0.5 s")
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(("status", "ok"), [(200, True), (503, False)])
async def test_a_body_without_end_delays_nothing(status: int, ok: bool) -> None:
    async with Receiver() as receiver:
        found = await answer(f"{receiver.base}/endless/{status}")
    assert (found.ok, found.detail) == (ok, f"HTTP {status}")


async def test_a_large_refusal_is_read_in_part_only() -> None:
    async with Receiver() as receiver:
        assert (await answer(f"{receiver.base}/status/500")).detail == "HTTP 500"


async def test_the_receiver_s_retry_after_is_heard() -> None:
    async with Receiver() as receiver:
        assert (await answer(f"{receiver.base}/later/120")).retry_after_s == 120


async def test_faults_of_the_connection_are_told_without_the_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_such_name(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with Receiver() as receiver:
        cut = await answer(f"{receiver.base}/cut")
        base = receiver.base
    assert cut.detail == "the connection broke (ServerDisconnectedError)"
    refused = await answer(f"{base}/ok")
    assert refused.detail == "the connection was refused"
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    unresolved = await answer("http://no.such.host/ok")
    assert unresolved.detail == "the host's name cannot be resolved"
    for found in (cut, refused, unresolved):
        assert (found.ok, found.permanent, found.tried) == (False, False, True)


async def test_a_configuration_that_is_no_longer_valid_is_an_answer_not_an_error() -> None:
    found = await send_test(channel("webhook", url="nonsense", secret=TOKEN), settings())
    assert (found.ok, found.permanent) == (False, True)
    assert found.detail == "its configuration: url: must start with http:// or https://"


def server_side(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert_file, certificate.key_file)
    return context


async def test_certificates_are_verified_and_the_operator_s_authority_is_trusted(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    ours = {"LIGHTHOUSE_CA_FILE": str(authority.ca_file)}
    async with Receiver(tls=server_side(authority.issue("127.0.0.1"))) as receiver:
        stranger = await answer(f"{receiver.base}/ok")
        known = await answer(f"{receiver.base}/ok", **ours)
    assert known.ok
    assert not stranger.ok
    assert stranger.detail.startswith("TLS: the certificate is not valid (")
    async with Receiver(tls=server_side(authority.issue("other.example"))) as receiver:
        wrong = await answer(f"{receiver.base}/ok", **ours)
    assert wrong.detail == "TLS: the certificate is for another host"


async def test_no_429_is_ever_caused_by_many_channels_that_share_one_discord_webhook() -> None:
    async with Discord(per_window=5, window_s=0.4) as discord, Sender(settings()) as sender:
        shared = [channel("discord", webhook_url=discord.url()) for _ in range(12)]
        first = await asyncio.gather(*(sender.send_test(c) for c in shared))
        held = [a for a in first if not a.ok]
        assert len(discord.posted) == 5
        assert [(a.tried, a.detail) for a in held] == [
            (False, "held back by the service's rate limit")
        ] * 7
        # Five may come in the next window, two in the one after it.
        waits = sorted(a.retry_after_s or 0.0 for a in held)
        assert waits[4] <= 0.4 < waits[5] <= 0.8
        await asyncio.sleep(waits[4])
        second = await asyncio.gather(*(sender.send_test(c) for c in shared[5:10]))
        assert [a.ok for a in second] == [True] * 5
    assert (discord.refused, discord.most_at_once) == (0, 1)


async def test_a_429_of_another_sender_s_making_closes_the_address_for_its_time() -> None:
    async with Discord(per_window=1, window_s=0.4) as discord:
        mine = channel("discord", webhook_url=discord.url())
        assert (await send_test(mine, settings())).ok
        async with Sender(settings()) as sender:
            found = await sender.send_test(mine)
            assert (found.detail, found.tried) == ("HTTP 429", True)
            assert found.retry_after_s is not None
            assert 0 < found.retry_after_s <= 0.4
            assert (await sender.send_test(mine)).tried is False
            await asyncio.sleep(found.retry_after_s)
            assert (await sender.send_test(mine)).ok
    assert discord.refused == 1
