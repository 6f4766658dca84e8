"""HTTPS probes: certificates good and bad, each refusal with its reason and its expiry."""

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lighthouse.errors import SettingsError
from lighthouse.model import CheckStatus, MonitorType, Outcome, Reason
from lighthouse.probes import Prober, parse_config
from lighthouse.settings import load
from tests.support.certificates import Authority, Certificate
from tests.support.raw_target import HOST, answering, raw_target


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def prober(authority: Authority) -> AsyncIterator[Prober]:
    settings = load({}, egress_allow="127.0.0.0/8,::1/128", ca_file=authority.ca_file)
    async with Prober(settings) as running:
        yield running


async def probed(prober: Prober, url: str, **keys: Any) -> Outcome:
    config = parse_config(MonitorType.HTTP, {"url": url, "retries": 0, "timeout": 5, **keys})
    return await prober.probe(MonitorType.HTTP, config, 60)


async def refused(prober: Prober, certificate: Certificate, **keys: Any) -> Outcome:
    async with raw_target(answering(), certificate) as target:
        found = await probed(prober, target.url(**keys))
        assert target.requests == []  # nothing is sent to whom is not trusted
    assert found.status is CheckStatus.FAILURE
    assert found.cert_expires_at == certificate.ends
    return found


async def test_a_valid_certificate_is_a_success_with_its_expiry(
    prober: Prober, authority: Authority
) -> None:
    certificate = authority.issue(HOST, "localhost")
    async with raw_target(answering(), certificate) as target:
        for host in (HOST, "localhost"):
            found = await probed(prober, target.url(host=host))
            assert found.status is CheckStatus.SUCCESS
            assert found.cert_expires_at == certificate.ends
            assert found.timings.tls_ms is not None
            assert found.latency_ms is not None
            assert 0 < found.timings.tls_ms < found.latency_ms


async def test_a_strange_name_in_the_certificate_does_no_harm(
    prober: Prober, authority: Authority
) -> None:
    certificate = authority.issue(HOST, common_name="ünï\x00cödé\nExpire date:x")
    async with raw_target(answering(), certificate) as target:
        found = await probed(prober, target.url())
    assert found.status is CheckStatus.SUCCESS
    assert found.cert_expires_at == certificate.ends


async def test_every_check_makes_a_full_handshake(prober: Prober, authority: Authority) -> None:
    certificate = authority.issue(HOST)
    async with raw_target(answering(), certificate) as target:
        for _ in range(3):
            found = await probed(prober, target.url())
            assert found.cert_expires_at == certificate.ends  # a resumed session shows none
        assert target.connections == 3


async def test_an_expired_certificate(prober: Prober, authority: Authority) -> None:
    certificate = authority.issue(HOST, starts=timedelta(days=-9), lasts=timedelta(days=8))
    found = await refused(prober, certificate)
    assert (found.reason, found.message) == (Reason.TLS_EXPIRED, "the certificate has expired")


async def test_a_certificate_of_the_future(prober: Prober, authority: Authority) -> None:
    certificate = authority.issue(HOST, starts=timedelta(days=1))
    found = await refused(prober, certificate)
    assert found.reason is Reason.TLS_EXPIRED
    assert found.message == "the certificate is not valid yet"


async def test_a_certificate_for_another_host(prober: Prober, authority: Authority) -> None:
    found = await refused(prober, authority.issue("other.example"), host="localhost")
    assert found.reason is Reason.TLS_WRONG_HOST
    assert found.message == "the certificate is not for localhost"


async def test_a_certificate_for_another_address(prober: Prober, authority: Authority) -> None:
    found = await refused(prober, authority.issue("127.0.0.2"))
    assert found.reason is Reason.TLS_WRONG_HOST


async def test_a_self_signed_certificate(prober: Prober, authority: Authority) -> None:
    found = await refused(prober, authority.issue(HOST, self_signed=True))
    assert found.reason is Reason.TLS_SELF_SIGNED


async def test_a_certificate_of_an_unknown_authority(prober: Prober, tmp_path: Path) -> None:
    found = await refused(prober, Authority(tmp_path, "Stranger").issue(HOST))
    assert found.reason is Reason.TLS_UNTRUSTED


@pytest.mark.option("HttpConfig.verify_tls")
async def test_an_unverified_target_is_a_success_whatever_its_certificate(
    prober: Prober, authority: Authority
) -> None:
    certificate = authority.issue("other.example", self_signed=True)
    async with raw_target(answering(), certificate) as target:
        found = await probed(prober, target.url(), verify_tls=False)
        assert found.status is CheckStatus.SUCCESS
        assert found.cert_expires_at == certificate.ends
        again = await probed(prober, target.url())  # the same handle verifies again
        assert again.status is CheckStatus.FAILURE


async def test_a_target_that_speaks_no_tls(prober: Prober) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        url = f"https://{HOST}:{server.sockets[0].getsockname()[1]}/"
        found = await probed(prober, url)
    assert (found.status, found.reason) == (CheckStatus.FAILURE, Reason.TLS_HANDSHAKE)
    assert found.message == "the TLS handshake failed: wrong version number"


async def test_a_handshake_that_hangs_is_a_timeout_of_the_handshake(prober: Prober) -> None:
    with socket.create_server((HOST, 0)) as server:
        url = f"https://{HOST}:{server.getsockname()[1]}/"
        found = await probed(prober, url, timeout=0.3)
    assert (found.status, found.reason) == (CheckStatus.TIMEOUT, Reason.TIMEOUT)
    assert found.message == "the TLS handshake was not over within 0.3 s"


def test_a_missing_ca_file_is_told_at_the_start(tmp_path: Path) -> None:
    async def start() -> None:
        async with Prober(load({}, ca_file=tmp_path / "none.pem")):
            pass

    with pytest.raises(SettingsError, match="LIGHTHOUSE_CA_FILE"):
        asyncio.run(start())
